"""Scoring of answers by the rules of the benchmarks: pure functions of texts and probabilities."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

import pandas as pd

from vtc_lab.qa.samples import LETTERS, Question, Sample
from vtc_lab.qa.wups import wups
from vtc_lab.tokens import VTCError, demand, demand_one_of, plain

if TYPE_CHECKING:  # importing the model imports transformers, which takes seconds
    from vtc_lab.models.video_model import Answer

RULES = ("exact", "letter", "likelihood", "wups", "wups0.9")
_ARTICLES = {"a", "an", "the"}
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_LEAD = re.compile(
    r"(?:(?:so|thus|therefore|hence)\b,?\s*)?(?:(?:the|my)\s+)?(?:(?:final|best|correct|right)\s+)?"
    r"(?:answer|option|choice)\b(?:\s+is)?\s*:?\s*(?:(?:option|choice|letter)\s+)?",
    re.IGNORECASE,
)
_ALONE = re.compile(r"[(\[]?\s*([A-Za-z])[\s)\].:,;!\u3002]*")
_FIRST = re.compile(r"[(\[]?\s*([A-Za-z])\s*([)\].:,]|\s[-\u2013]\s|\n)(\s*)(.*)", re.DOTALL)
_CAPITAL = re.compile(
    r"(?<![\w'\u2019])([A-Z])(?![\w'\u2019])"
    r"(?!(?<=[AI])\s+(?!(?:or|and|but|is|because|since)\b)\w\w)"  # the words "A" and "I" are no letters
)
_SUBJECT = re.compile(r"\s+(?!(?:or|and)\b)\w")  # what follows a capital that is a word, as in "C bakes bread"
_NEGATED = re.compile(r"\bnot\b|n['\u2019]t\b|\bneither\b", re.IGNORECASE)
_QUOTES = re.compile(r"(?<!\w)['\u2018]([A-Za-z])['\u2019](?!\w)|[*_`\"\u201c\u201d\u300c-\u3011]|<[/|]?\w+\|?>")
_THOUGHT = r"[<\[\u25c1]\|?{}(?:\w{{1,20}}:)?(?:think(?:ing)?|thoughts?|reason(?:ing)?)\s?\|?[>\]\u25b7]"
_BEGINS, _ENDS = (re.compile(_THOUGHT.format(sign), re.IGNORECASE) for sign in ("(?:begin_of_)?", "(?:/|end_of_)"))


def score(sample: Question, answer: Answer | str | Mapping[str, float] | None, rule: str | None = None) -> float:
    """Return 1.0 if an answer to a sample is right, else 0.0.

    Parameters
    ----------
    sample : from `read_benchmark` or `read_samples`.
    answer : what `model.ask` gave, or its text (less `<think>...</think>`); for "likelihood" it may be the probability
        of each candidate. None where there is no answer.
    rule : by default the sample's own, "exact" if it has none:

        - "exact": the text is the answer, or one of `also`, after `normalise`, which is ours: the benchmarks' own
          scripts compare texts as they are.
        - "wups", "wups0.9": the best `wups` of the text with the answer or one of `also`, with the threshold 0 or 0.9,
          as NExT-OE is scored. These are not shares of right answers, and need WordNet (`vtc_lab[wups]`).
        - "letter": `letter_of` the text is the answer. Where there is no clear letter the answer is wrong; Video-MME's
          script leaves such answers out or takes any capital, LongVideoBench's draws one, MVBench's counts it as right.
        - "likelihood": the answer has the highest probability of all candidates, alone. Ask candidates of which one
          begins another ("1" and "10") as lettered options: `model.ask` weighs texts without their end, so that the
          shorter is always likelier.

    Returns
    -------
    1.0 for right, 0.0 for wrong (by "wups" also between them), NaN where the benchmark keeps the answer secret or
    there is none to score.

    Examples
    --------
    >>> score({"answer": "two"}, "2."), score({"answer": "B", "options": ["red", "blue"], "rule": "letter"}, "(B) blue")
    (1.0, 1.0)
    >>> score({"answer": "B", "candidates": ["A", "B"]}, {"A": 0.3, "B": 0.7}, "likelihood")
    1.0
    """
    demand(Mapping, sample)
    rule = sample.get("rule", "exact") if rule is None else rule
    demand_one_of("rule", rule, RULES)
    right = sample.get("answer")
    if right is None or answer is None:
        return math.nan
    if rule == "likelihood":
        return float(likeliest(answer, sample.get("candidates")) == right)
    text = getattr(answer, "text", answer)
    if not isinstance(text, str):
        raise VTCError(f"the answer is {text!r:.60}; rule {rule!r} needs its text")
    text = without_thoughts(text)
    known = [str(correct) for correct in (right, *sample.get("also", ()))]
    if rule == "exact":
        return float(normalise(text) in map(normalise, known))
    if rule in ("wups", "wups0.9"):
        threshold = 0.9 if rule == "wups0.9" else 0.0
        return max(wups(text, correct, threshold, str(sample.get("kind", ""))) for correct in known)
    options = sample.get("options") or sample.get("candidates") or ()
    if right not in tuple(LETTERS[: len(options)]):
        raise VTCError(f"the right answer {right!r:.60} is no letter of {len(options)} options; choose rule 'exact'")
    return float(letter_of(text, options) == right)


def accuracy(
    samples: Iterable[Sample],
    answers: Iterable[Answer | str | Mapping[str, float] | None],
    rule: str | None = None,
) -> pd.DataFrame:
    """Return the share of right answers for each kind of question, and for all; by "wups" the mean.

    Parameters
    ----------
    samples, answers : one answer for each sample, in the same order.
    rule : as for `score`.

    Returns
    -------
    DataFrame with the columns kind, n (scored answers), unscored and accuracy (of those scored, NaN if there are none);
    the last row, "all", is the mean over questions and not over kinds.

    Examples
    --------
    >>> accuracy([{"answer": "yes", "kind": "a"}, {"answer": "no", "kind": "b"}], ["Yes.", "yes"]).values.tolist()
    [['a', 1, 0, 1.0], ['b', 1, 0, 0.0], ['all', 2, 0, 0.5]]
    """
    rows = [(score(sample, answer, rule), plain(sample.get("kind", ""))) for sample, answer in paired(samples, answers)]
    table = pd.DataFrame(rows, columns=["right", "kind"]).astype({"kind": object, "right": float})
    table = pd.concat([table, table.assign(kind="all")])
    groups = table.groupby("kind", sort=False)["right"]
    result = pd.DataFrame({"n": groups.count(), "unscored": groups.size() - groups.count(), "accuracy": groups.mean()})
    return result.reset_index()


def paired(samples: Iterable, answers: Iterable) -> Iterator[tuple]:
    """Pair samples with their answers; VTCError if there are more of one than of the other."""
    nothing = object()
    for number, (sample, answer) in enumerate(zip_longest(samples, answers, fillvalue=nothing)):
        if sample is nothing or answer is nothing:
            few, many = ("samples", "answers") if sample is nothing else ("answers", "samples")
            raise VTCError(f"there are {number} {few} but more {many}; give one answer for each sample")
        yield sample, answer


def without_thoughts(text: str) -> str:
    """Return what a model says behind its thoughts, and so nothing of a thought that does not end."""
    said = _BEGINS.split(_ENDS.split(text)[-1])[0]
    return re.sub(r"</?answer>", "", said).strip()


def normalise(text: str) -> str:
    """Return a short answer without differences in case, punctuation, articles and the spelling of numbers.

    After the evaluation of VQA (Antol et al. 2015), simplified: Unicode is brought to NFKC and case folded; apostrophes
    and the commas of thousands are removed; all else that is not a letter, digit, accent or decimal point separates
    words; a, an and the are removed unless nothing else is there; zero to ten become digits.

    >>> normalise("The two dogs!"), normalise("don't"), normalise("1,000.5"), normalise("A")
    ('2 dogs', 'dont', '1000.5', 'a')
    """
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    text = re.sub(r"['\u2019]|(?<=\d),(?=\d{3})", "", text)
    text = "".join(char if unicodedata.category(char)[0] in "LNM" or char == "." else " " for char in text)
    words = re.sub(r"(?<!\d)\.|\.(?!\d)", " ", text).split()
    words = [str(_NUMBERS.index(word)) if word in _NUMBERS else word for word in words]
    return " ".join([word for word in words if word not in _ARTICLES] or words)


def letter_of(text: str, options: Sequence[str]) -> str | None:
    """Return the letter of the option that an answer in free text means, or None if it is not clear which.

    After a lead such as "The correct answer is", the first of these that applies:

    1. a letter alone: "B", "b", "(B)", "**B.**";
    2. a letter and a sign before anything else: "B. the red ball", "B) because ...". None if what follows is the text
       of another option, or has the letter of another;
    3. the text of one option, as `normalise` compares;
    4. one capital alone in a sentence: "I think it is (B)." None if there are several, or a "not", unless that stands
       in another sentence before a letter in brackets. The words "A" and "I" do not count, nor does what is a word in
       the options (EgoSchema's "C bakes bread"), before another.

    What is ambiguous is None, hence wrong: "A or B", "B. nothing" where nothing is C, "the first". The text of an
    option within a sentence does not count, because "it is not a dog" has one too. This is our definition; the
    benchmarks' own scripts guess.

    >>> options = ["a blue cube", "the red ball", "nothing"]
    >>> [letter_of(text, options) for text in ("Answer: B.", "b", "the red ball", "I think (B)", "A man", "A or B")]
    ['B', 'B', 'B', 'B', None, None]
    """
    letters, texts = LETTERS[: len(options)], [normalise(option) for option in options]
    text = _QUOTES.sub(r" \1 ", unicodedata.normalize("NFKC", without_thoughts(text))).strip()
    lead = _LEAD.match(text)
    said = text[lead.end() :] if lead else text
    if alone := _ALONE.fullmatch(said):
        return alone[1].upper() if alone[1].upper() in letters else None
    first = _FIRST.match(said)
    if first and first[1].upper() in letters:
        letter, named = first[1].upper(), normalise(first[4])
        if named == texts[letters.index(letter)]:
            return letter
        # "e.g. a dog" does not begin with option E, nor "D.C. at night" with D.
        spaced = bool(first[3]) or first[2][-1].isspace()
        if first[2] in (")", "]") or (spaced and first[1].isupper()):
            return None if named in texts or _capitals(first[4], letters, options) - {letter} else letter
    whole = (normalise(text), normalise(said))
    meant = {letter for letter, option in zip(letters, texts, strict=True) if option in whole}
    sentences = re.split(r"(?<=[.!?])\s+|\n+", text)
    last = max((n for n, sentence in enumerate(sentences) if re.search(r"[(\[][A-Z][)\]]", sentence)), default=0)
    heard = [part for n, part in enumerate(sentences) if n >= last or _capitals(part, letters, options)]
    found = meant or (set() if _NEGATED.search("\n".join(heard)) else _capitals(said, letters, options))
    return found.pop() if len(found) == 1 else None


def _capitals(text: str, letters: str, options: Sequence[str]) -> set[str]:
    """The options' letters that stand alone in a text and are not words there."""
    words = {letter for option in options for letter in _CAPITAL.findall(option)}
    found = (match for match in _CAPITAL.finditer(text) if match[1] in letters)
    return {match[1] for match in found if match[1] not in words or not _SUBJECT.match(text, match.end())}


def likeliest(answer: Answer | str | Mapping[str, float], candidates: Sequence[str] | None) -> str | None:
    """Return the candidate with the highest probability, None if two share it."""
    scores = answer if isinstance(answer, Mapping) else getattr(answer, "scores", None)
    if not candidates or not isinstance(scores, Mapping) or not set(candidates) <= set(scores):
        raise VTCError(
            f"the answer has the scores {scores!r:.80}; 'likelihood' needs one for each of {candidates!r:.80}"
        )
    best = max(scores[name] for name in candidates)
    found = [name for name in candidates if scores[name] == best]
    return found[0] if len(found) == 1 else None
