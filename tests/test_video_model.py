"""A checkpoint read by from_pretrained: what enters the language model is what was kept, and nothing else changes."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

import vtc_lab as vtc
from vtc_lab.models.loading import BUNDLED


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The bundled model by the way that a user's own takes: a folder and from_pretrained."""
    bundled = vtc.load_model()
    folder = tmp_path_factory.mktemp("checkpoint")
    bundled.network.save_pretrained(folder)
    bundled.processor.save_pretrained(folder)
    return vtc.load_model(folder)


@pytest.fixture(scope="module")
def case():
    clip, samples = vtc.make_clip(11, frames=8)
    return clip, samples


def whole_prompt(model, clip, question):
    """The model's own way in: pixels and prompt through its processor."""
    content = [{"type": "video"}, {"type": "text", "text": question}]
    prompt = model.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return model.processor(text=prompt, videos=[clip.frames], return_tensors="pt")


@pytest.mark.slow
@torch.no_grad()
def test_identity_changes_no_logit(model, case):
    clip, samples = case
    question = samples[0]["question"]
    inputs = whole_prompt(model, clip, question)
    places = torch.arange(inputs["input_ids"].shape[1])[None]
    plain = model.network.generate(
        **inputs,
        position_ids=places,
        max_new_tokens=3,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
    tokens = model.encode(clip)
    for method in ("lftr", "uniform", "pool"):
        answer = model.ask(question, clip, vtc.reduce(tokens, method, ratio=1))
        assert torch.equal(answer.logits, plain.logits[0][0].float())
    assert torch.equal(model.ask(question, clip).logits, plain.logits[0][0].float())


@torch.no_grad()
@pytest.mark.parametrize("method", ["random", "lftr"])
def test_pruned_is_full_with_a_mask(model, case, method):
    clip, samples = case
    question = samples[0]["question"]
    tokens = model.encode(clip)
    options = {"temporal": "select"} if method == "lftr" else {}
    reduced = vtc.reduce(tokens, method, ratio=4, **options)
    inputs = whole_prompt(model, clip, question)
    video = (inputs["input_ids"][0] == model.network.config.video_token_id).nonzero().flatten()
    dropped = ~reduced.kept.flatten()
    inputs["attention_mask"][0, video[:-1][dropped]] = 0
    places = torch.arange(inputs["input_ids"].shape[1])[None]
    masked = model.network(**inputs, position_ids=places).logits[0, -1]
    answer = model.ask(question, clip, reduced)
    assert answer.entered == len(reduced) == tokens.total // 4
    assert torch.allclose(answer.logits, masked.float(), atol=1e-5)
    compact = model.ask(question, clip, reduced, positions="compact")
    assert not torch.allclose(compact.logits, answer.logits, atol=1e-3)


def test_a_batch_of_questions_is_the_single_ones(model, case):
    clip, samples = case
    questions = [sample["question"] for sample in samples]
    assert len({len(question.split()) for question in questions}) > 1  # of unequal length: some are padded
    candidates = [sample["candidates"] for sample in samples]
    reduced = vtc.reduce(model.encode(clip), "lftr", ratio=4)
    together = model.ask(questions, clip, reduced, candidates=candidates)
    for question, given, answer in zip(questions, candidates, together, strict=True):
        alone = model.ask(question, clip, reduced, candidates=given)
        assert torch.allclose(alone.logits, answer.logits, atol=1e-5)
        assert alone.text == answer.text
        assert sum(answer.scores.values()) == pytest.approx(1)
        assert list(answer.scores) == list(given)


def test_candidates_that_begin_alike_are_weighed_whole(model, case):
    clip, samples = case
    reduced, sample = vtc.reduce(model.encode(clip), "lftr", ratio=4), samples[0]
    answer = model.ask(sample["question"], clip, reduced)
    texts = [answer.text, f"{answer.text} {answer.text}", next(c for c in sample["candidates"] if c != answer.text)]
    whole = model.ask(sample["question"], clip, reduced, candidates=texts)
    codes = [model.processor.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (texts[0], texts[2])]
    first = answer.logits.log_softmax(0)[[code[0] for code in codes]]
    odds = whole.scores[texts[0]] / whole.scores[texts[2]]
    assert odds == pytest.approx(float((first[0] - first[1]).exp()), rel=1e-4) and all(len(code) == 1 for code in codes)
    assert list(whole.scores) == texts and max(whole.scores, key=whole.scores.get) == answer.text
    assert whole.scores[texts[1]] < whole.scores[texts[0]]  # a text never loses to one that begins with it


def test_merged_tokens_enter_as_they_are(model, case):
    """Replace the reduced tokens: the answer must follow them, or they never reached the model."""
    clip, samples = case
    reduced = vtc.reduce(model.encode(clip), "pool", ratio=4)
    other = replace(reduced, tokens=torch.zeros_like(reduced.tokens))
    question = samples[0]["question"]
    assert not torch.allclose(
        model.ask(question, clip, reduced).logits, model.ask(question, clip, other).logits, atol=1e-2
    )


def test_every_stage_is_timed_and_a_clip_is_encoded_once(model, tmp_path):
    clip = vtc.read_clip(vtc.read_samples()[0]["clip"])
    tokens = model.encode(clip)
    assert model.encode(clip) is tokens
    answer = model.ask("how many objects appear ?", clip, vtc.reduce(tokens, "lftr", ratio=2))
    assert list(answer.seconds) == ["read", "encode", "reduce", "prefill", "decode"]
    assert all(value > 0 for value in answer.seconds.values())
    assert len(answer.scores) == 5 and sum(answer.scores.values()) <= 1 + 1e-6


def test_errors_are_sentences(model, case, tmp_path):
    clip, samples = case
    tokens = model.encode(clip)
    wrong = vtc.reduce(tokens[:4], "uniform", ratio=2)
    empty = tmp_path / "empty"
    empty.mkdir()
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"model_type": "llava_next", "architectures": ["x"]}))
    pickled = tmp_path / "pickled"
    model.processor.save_pretrained(pickled)
    model.network.config.save_pretrained(pickled)
    torch.save(model.network.state_dict(), pickled / "pytorch_model.bin")
    cut = tmp_path / "cut"
    shutil.copytree(BUNDLED, cut)
    (cut / "model.safetensors").write_bytes((BUNDLED / "model.safetensors").read_bytes()[:100_000])
    foreign = vtc.reduce(vtc.load_encoder("pixels", size=224).encode(clip), "uniform", ratio=2)
    cases = [
        (lambda: model.ask(None, clip), "is no question"),
        (lambda: model.ask("what ?", clip, positions="compackt"), "did you mean 'compact'"),
        (lambda: model.ask("what ?", clip, max_new_tokens=0), "max_new_tokens is 0"),
        (lambda: model.ask("what ?", clip, foreign), "768-channel tokens by 'pixels 224x224"),
        (lambda: model.ask("what ?", clip, candidates=[""]), "do not differ or are empty"),
        (lambda: vtc.load_model(cut), "cut"),
        (lambda: vtc.load_model(device="cudda"), "device is 'cudda'"),
        (lambda: model.ask("", clip), "is no question"),
        (lambda: model.ask([], clip), "is no question"),
        (lambda: model.ask("what ?", clip, wrong), "(4, 14, 14) grid"),
        (lambda: model.ask("what is <video> ?", clip), "'<video>'"),
        (lambda: model.ask("what ?", clip, candidates=["red", "red"]), "do not differ or are empty"),
        (lambda: model.ask("what ?", clip, candidates=["red", 3]), "give a list of texts"),
        (lambda: model.ask(" ", clip, candidates=["red"]), "is no question"),
        (lambda: model.ask("what ?", clip, candidates="red"), "give a list of texts"),
        (lambda: model.ask(["a", "b"], clip, candidates=[["x"]]), "1 lists of candidates"),
        (lambda: vtc.load_model(tmp_path / "nowhere"), "nowhere"),
        (lambda: vtc.load_model(empty), "empty"),
        (lambda: vtc.load_model(other), "llava_next model"),
        (lambda: vtc.load_model(pickled), "pickled"),
    ]
    for call, words in cases:
        with pytest.raises(vtc.VTCError, match="^[^\n]+$") as error:
            call()
        assert words in str(error.value)
    # Only when the user says so are pickled weights read, and then they are the same.
    again = vtc.load_model(pickled, safetensors_only=False)
    assert torch.equal(again.ask("what ?", clip).logits, model.ask("what ?", clip).logits)
    shutil.rmtree(pickled)


def test_samples_are_read_and_a_bad_line_is_named(tmp_path):
    samples = vtc.read_samples()
    assert len(samples) >= 1500 and all({"clip", "question", "answer", "kind"} <= set(sample) for sample in samples)
    bad = tmp_path / "qa.jsonl"
    bad.write_text('{"clip": "a.mp4", "question": "x", "answer": "y"}\n{"clip": "a.mp4"}\n')
    with pytest.raises(vtc.VTCError, match="line 2 of qa.jsonl"):
        vtc.read_samples(bad)


@pytest.mark.slow
def test_thinking_is_turned_off_or_its_thought_closed_before_answers_are_weighed(model, case):
    clip, samples = case
    sample, template = samples[0], model.processor.chat_template

    def asked(end):
        model.processor.chat_template = template.replace(" <answer>{% endif %}", f" <answer>{end}{{% endif %}}")
        assert model.processor.chat_template != template or not end
        return model.fresh().ask(sample["question"], clip, candidates=sample["candidates"])

    try:
        plain, closed = asked(""), asked("<think>\n\n</think>\n\n")
        switched = asked("{% if enable_thinking is not defined or enable_thinking %}<think>\n{% endif %}")
        with pytest.warns(RuntimeWarning, match="chat template opens a thought, which is closed at once"):
            opened = asked("<think>\n")
    finally:
        model.processor.chat_template = template
    assert torch.equal(switched.logits, plain.logits) and switched.scores == plain.scores
    assert torch.equal(opened.logits, closed.logits) and not torch.equal(opened.logits, plain.logits)
