"""Measure what holds for which family of models; print the table, or write it into docs/families.md with --write.

Each check runs the checkpoint's own code twice, with reduced inputs and in some plain way, and compares.
"""

from __future__ import annotations

import copy
import itertools
import string
import sys
from collections.abc import Callable
from functools import cache

import vtc_lab.models.torchvision_ops  # noqa: F401  (before transformers)

import numpy as np
import pytest
import torch
from tiny_checkpoints import SIDE, checkpoint, frames, prompt
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

import vtc_lab as vtc
from vtc_lab.clips.reading import ROOT
from vtc_lab.models.compression import CompressedInputs, compress, engaged
from vtc_lab.models.families import FAMILIES
from vtc_lab.models.prompt_clips import encode_prompt, places_of

PAGE = ROOT / "docs" / "families.md"
BEGIN, END = "<!-- families:begin -->", "<!-- families:end -->"
CLOSE = 1e-4  # largest difference of two logits, which are of the order of 1, that is rounding
STATEFUL = ["qwen3_5", "qwen3_5_moe"]  # no mask keeps a token quite out of DeltaNet's state


# For pytest: two families are tested by `make check` too; what is measured of another is of use to the tests beside it.
EVERY_FAMILY = [
    family if family in ("llava_onevision", "qwen3_vl") else pytest.param(family, marks=[pytest.mark.slow])
    for family in FAMILIES
]


class Cannot(Exception):
    """The property does not hold for this family, for the reason given."""


@cache
def load(family: str, layers: int = 2) -> tuple[torch.nn.Module, object]:
    """A family's checkpoint, written to disk and read back."""
    folder = checkpoint(family, layers)
    return AutoModelForImageTextToText.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)


@cache
def asked(family: str) -> dict:
    """The prompt of most checks."""
    return prompt(family, load(family)[1], ("what moves", frames(1), "where ?"))


@cache
def whole(family: str) -> torch.Tensor:
    """The logits of that prompt with all of its tokens."""
    return logits(load(family)[0], asked(family))


@cache
def pruned(family: str) -> tuple[CompressedInputs, object]:
    """That prompt with a quarter of its visual tokens, chosen by chance, and what is generated from it."""
    model, _ = load(family)
    reduced = compress(model, asked(family), "random", 4)
    with engaged(model, reduced):
        return reduced, generate(model, reduced)


def clips_of(family: str, *lengths: int, skip: int = 0, pictures: bool = False) -> dict:
    """The argument that names clips among pictures, where nothing in a prompt tells them."""
    if not pictures and (not FAMILIES[family].frames_as_pictures or "first" in FAMILIES[family].frame):
        return {}
    ends = [skip + sum(lengths[: n + 1]) for n in range(len(lengths))]
    return {"clips": [slice(end - length, end) for end, length in zip(ends, lengths, strict=True)]}


def takes_one(family: str) -> bool:
    """Whether a family's processor refuses a second clip in a prompt."""
    try:
        prompt(family, load(family)[1], ("what", frames(1), "then", frames(2), "?"))
    except ValueError as refusal:
        assert "one video" in str(refusal)
        return True
    return False


@torch.no_grad()
def logits(model: torch.nn.Module, inputs: dict) -> torch.Tensor:
    return model(**inputs).logits


def unsaid(model: torch.nn.Module) -> list[int]:
    """What `generate` below does not say: the end, and what stands for a clip or a picture."""
    return [2, *(getattr(model.config, f"{m}_token_id", 0) for m in ("image", "video"))]


@torch.no_grad()
def generate(model: torch.nn.Module, inputs: dict, **options: object) -> object:
    """6 new tokens, with the logits of each."""
    lengths = {"max_new_tokens": 6, "min_new_tokens": 6}
    options = {"do_sample": False, "suppress_tokens": unsaid(model), **lengths} | options
    return model.generate(**inputs, **options, return_dict_in_generate=True, output_logits=True)


def new_tokens(inputs: dict, output: object) -> torch.Tensor:
    return output.sequences[:, inputs["input_ids"].shape[1] :]


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    assert one.shape == other.shape
    return float((one - other).abs().max())


def same(one: torch.Tensor, other: torch.Tensor) -> None:
    assert apart(one, other) <= CLOSE, f"logits are {apart(one, other):.1e} apart"


def stays(model: torch.nn.Module, inputs: dict, reduced: CompressedInputs, where: list) -> torch.Tensor:
    """(N,) which tokens of one full prompt are in the reduced one."""
    ids, kept = inputs["input_ids"][0], torch.ones(inputs["input_ids"].shape[1], dtype=torch.bool)
    places = (ids == getattr(model.config, f"{FAMILIES[model.config.model_type].modality}_token_id")).nonzero()[:, 0]
    for index, reduction in zip(where, reduced.reductions, strict=True):
        kept[places[index.flatten()]] = False
        kept[places[index.flatten()[reduction.anchor]]] = True
    return kept


def full_positions(model: torch.nn.Module, inputs: dict) -> torch.Tensor:
    """The positions of one full prompt by the model's own rule."""
    plain = torch.arange(inputs["input_ids"].shape[1])[None]
    if not hasattr(model.model, "get_rope_index"):
        return plain
    names = ("input_ids", "mm_token_type_ids", "video_grid_thw", "image_grid_thw", "second_per_grid_ts")
    axes = model.model.get_rope_index(**{name: inputs[name] for name in names if name in inputs})[0]
    return torch.cat([plain[None], axes])


@torch.no_grad()
def masked(model: torch.nn.Module, inputs: dict, kept: torch.Tensor, said: torch.Tensor) -> tuple[torch.Tensor, list]:
    """Logits of the full prompt, its other tokens masked, and of each token then said, one at a time."""
    place, mask = full_positions(model, inputs), kept.long()[None]
    output = model(**{**inputs, "attention_mask": mask, "position_ids": place}, use_cache=True)
    prefill, steps = output.logits, [output.logits[:, -1]]
    for token in said[0, :-1]:
        place, mask = place[..., -1:] + 1, torch.cat([mask, mask.new_ones(1, 1)], 1)
        output = model(
            input_ids=token.view(1, 1),
            attention_mask=mask,
            position_ids=place,
            past_key_values=output.past_key_values,
            use_cache=True,
        )
        steps.append(output.logits[:, -1])
    return prefill[:, kept], steps


def compare_with_masked(model: torch.nn.Module, inputs: dict, ready: tuple | None = None, **clips: object) -> None:
    reduced, output = ready or (compress(model, inputs, "random", 4, **clips), None)
    kept = stays(model, inputs, reduced, encode_prompt(model, inputs, **clips).where)
    if output is None:
        with engaged(model, reduced):
            output = generate(model, reduced)
    prefill, steps = masked(model, dict(inputs), kept, new_tokens(reduced, output))
    same(logits(model, reduced), prefill)
    same(torch.stack(output.logits), torch.stack(steps))


# --- the checks --------------------------------------------------------------------------------------------------


def identity(family: str) -> None:
    """with ratio=1 every logit is the same bit for bit, and so is a greedy answer"""
    model, inputs = load(family)[0], asked(family)
    everything = compress(model, inputs, "lftr", ratio=1)
    assert torch.equal(logits(model, everything), whole(family))
    assert torch.equal(generate(model, everything).sequences, generate(model, inputs).sequences)


def place(family: str) -> None:
    """a change in one corner of one moment changes the token of that place most"""
    model, processor = load(family)
    before, after = frames(1), frames(1)
    after[4:, SIDE // 2 :, : SIDE // 2] = 255 - after[4:, SIDE // 2 :, : SIDE // 2]
    one, other = (
        encode_prompt(model, prompt(family, processor, ("what", clip))).tokens[0].values for clip in (before, after)
    )
    change = (one - other).norm(dim=-1)
    t, h, w = change.shape
    inside = change[4 * t // 6 :, (h + 1) // 2 :, : w // 2]
    assert inside.mean() > 1.2 * change.mean() and change.argmax() // w % h >= h // 2 and change.argmax() % w <= w // 2
    assert int(change.argmax()) // (h * w) >= 4 * t // 6


def as_masked(family: str) -> None:
    """reduced, it has the logits of the full prompt with the same tokens masked, at prefill and at 6 decoded tokens"""
    try:
        compare_with_masked(load(family)[0], asked(family), pruned(family))
    except AssertionError as difference:
        if family not in STATEFUL:
            raise
        raise Cannot("some of its layers carry a state past masked tokens, which decays there") from difference
    assert family not in STATEFUL


def window(family: str) -> str | None:
    """the same where the prompt is longer than a layer's sliding window (8 tokens here; in other checks it fits)"""
    config = AutoConfig.from_pretrained(checkpoint(family))
    if getattr(config.get_text_config(), "sliding_window", None) is None:
        return "none"
    config.get_text_config().sliding_window = 8
    narrow = AutoModelForImageTextToText.from_pretrained(checkpoint(family), config=config).eval()
    inputs = asked(family)
    assert apart(logits(narrow, inputs), whole(family)) > CLOSE
    assert torch.equal(logits(narrow, compress(narrow, inputs, "lftr", ratio=1)), logits(narrow, inputs))
    try:
        compare_with_masked(narrow, inputs)
    except AssertionError as difference:
        words = "a window counts tokens, so in a reduced prompt such a layer sees further back than in the full one"
        raise Cannot(words) from difference


def batch(family: str) -> None:
    """a left-padded batch whose prompts keep different numbers of tokens gives what they give one by one"""
    model, processor = load(family)
    more = () if takes_one(family) else ("what moves first , then ?", frames(3))
    rows = [
        ("what moves", frames(1), "where ?"),
        ("is the circle red ?", frames(2, still=6), *more, "?"),
        ("what is red ?",),
    ]
    inputs = prompt(family, processor, *rows)
    reduced = compress(model, inputs, "lftr", min_fidelity=0.9)
    assert len({len(each) for each in reduced.reductions}) > 1
    with engaged(model, reduced):
        together = generate(model, reduced)
    for n, row in enumerate(rows):
        alone = compress(model, prompt(family, processor, row), "lftr", min_fidelity=0.9)
        output = generate(model, alone)
        assert torch.equal(new_tokens(alone, output)[0], new_tokens(reduced, together)[n])
        same(torch.stack(output.logits)[:, 0], torch.stack(together.logits)[:, n])


def several(family: str) -> None:
    """several clips in one prompt are each reduced as if alone, and as in "= masked" where that holds"""
    if takes_one(family):
        raise Cannot("its processor takes one clip in a prompt")
    model, processor = load(family)
    inputs = prompt(family, processor, ("what", frames(1), "then", frames(2), "?"))
    clips = clips_of(family, 6, 6)
    reduced = compress(model, inputs, "lftr", 4, **clips)
    assert len(reduced.reductions) == 2
    for n, reduction in enumerate(reduced.reductions):
        alone = compress(model, prompt(family, processor, ("what", frames(n + 1))), "lftr", 4).reductions[0]
        assert torch.equal(alone.anchor, reduction.anchor)
        same(alone.tokens, reduction.tokens)
    if family not in STATEFUL:
        compare_with_masked(model, inputs, **clips)


def text_only(family: str) -> None:
    """a prompt without a clip comes back unchanged and runs"""
    model, processor = load(family)
    inputs = prompt(family, processor, ("what is red ?",))
    reduced = compress(model, inputs, "lftr", 4)
    assert reduced.reductions == () and reduced.keys() == inputs.keys()
    assert all(reduced[name] is inputs[name] for name in inputs)
    with engaged(model, reduced):
        assert torch.equal(generate(model, reduced).sequences, generate(model, inputs).sequences)


def picture(family: str) -> None:
    """a picture beside the clip stays whole: ratio=1 changes no bit, and reducing is as in "clips\""""
    model, processor = load(family)
    # SmolVLM's processor takes a video or pictures, not both; so there the frames are pictures.
    clip = list(frames(1)) if family == "smolvlm" else [frames(1)]
    inputs = prompt(family, processor, ("is", frames(5)[0], "in", *clip, "?"))
    clips = clips_of(family, 6, skip=1, pictures=family == "smolvlm")
    try:
        plain = logits(model, inputs)
    except ValueError as refusal:
        raise Cannot("the model itself takes clips or pictures, not both at once") from refusal
    assert torch.equal(logits(model, compress(model, inputs, "lftr", 1, **clips)), plain)
    (reduction,) = compress(model, inputs, "lftr", 4, **clips).reductions
    assert reduction.grid[0] in (3, 6)
    if family not in STATEFUL:
        compare_with_masked(model, inputs, **clips)


@torch.no_grad()
def greedy(family: str) -> None:
    """`generate` matches step-by-step argmax over the model's own forward"""
    model, (reduced, generated) = load(family)[0], pruned(family)
    said = new_tokens(reduced, generated)[0]
    output, place = model(**reduced, use_cache=True), reduced["position_ids"]
    for token in said:
        scores = output.logits[0, -1].index_fill(0, torch.tensor(unsaid(model)), -torch.inf)
        assert int(scores.argmax()) == int(token)
        place = place[..., -1:] + 1
        past = output.past_key_values
        output = model(input_ids=token.view(1, 1), position_ids=place, past_key_values=past, use_cache=True)


def sampling(family: str) -> None:
    """seeded sampling runs, and says the same again from the same inputs"""
    model, (reduced, _), said = load(family)[0], pruned(family), []
    for _ in range(2):
        torch.manual_seed(0)
        with engaged(model, reduced):
            said.append(generate(model, reduced, do_sample=True, num_return_sequences=2).sequences)
    assert torch.equal(*said) and not torch.equal(*said[0])


def beams(family: str) -> None:
    """beam search over a batch says what it says for each prompt alone, also a second time from the same inputs"""
    model, processor = load(family)
    rows = [("what moves", frames(1), "where ?"), ("is it red ?", frames(2), "?")]
    reduced = compress(model, prompt(family, processor, *rows), "random", 4)
    together = []
    for _ in range(2):
        with engaged(model, reduced):
            together.append(new_tokens(reduced, generate(model, reduced, num_beams=3)))
    for n, row in enumerate(rows):
        alone = compress(model, prompt(family, processor, row), "random", 4)
        said = new_tokens(alone, generate(model, alone, num_beams=3))[0]
        assert torch.equal(said, together[0][n]) and torch.equal(said, together[1][n])


def is_engaged(family: str) -> None:
    """`vtc.engaged` accepts a run on the reduced tokens and rejects any other"""
    model, inputs, (reduced, _) = load(family)[0], asked(family), pruned(family)
    other = compress(model, inputs, "random", 4, seed=1)
    for wrong in (inputs, other):
        try:
            with engaged(model, reduced):
                logits(model, wrong)
        except vtc.VTCError as error:
            assert "did not engage" in str(error)
        else:
            raise AssertionError("another run passed")


def merging(family: str) -> None:
    """methods that merge run (lftr, pool, tome), and the merged tokens arrive"""
    model, inputs = load(family)[0], asked(family)
    encoded = encode_prompt(model, inputs)
    for method in ("lftr", "pool", "tome"):
        reduced, reduction = compress(model, inputs, method, 3), vtc.reduce(encoded.tokens[0], method, 3)
        index = encoded.where[0].flatten()
        kept = torch.ones(len(encoded.features), dtype=torch.bool)
        kept[index] = False
        kept[index[reduction.anchor]] = True
        entering = reduced["mm_encoder_outputs"][FAMILIES[family].modality].pooler_output
        entering = torch.cat([part.reshape(-1, reduction.tokens.shape[1]) for part in entering])
        assert torch.equal(entering[(kept.cumsum(0) - 1)[index[reduction.anchor]]], reduction.tokens)
        assert torch.equal(reduced.reductions[0].tokens, reduction.tokens)
        with engaged(model, reduced):
            logits(model, reduced)


def saliency(family: str) -> None:
    """methods that need attention get that of the vision tower, each clip its own"""
    model, processor = load(family)
    inputs = prompt(family, processor, ("what", frames(1)), ("then", frames(2), "?"))
    try:
        plain, salient = (encode_prompt(model, inputs, saliency=asked) for asked in (False, True))
    except vtc.VTCError as error:
        assert "no saliency is known" in str(error)
        raise Cannot("no saliency is known for its vision tower; methods that need it say so") from error
    assert torch.equal(salient.features, plain.features)
    for n, tokens in enumerate(salient.tokens):
        alone = encode_prompt(model, prompt(family, processor, ("what", frames(n + 1))), saliency=True).tokens[0]
        torch.testing.assert_close(alone.saliency, tokens.saliency)
        assert len(tokens.saliency.unique()) > 1 and "attention" in tokens.saliency_source
    reduced = compress(model, inputs, "visionzip", 3)
    assert "saliency: " in reduced.reductions[0].notes[-1]
    with engaged(model, reduced):
        logits(model, reduced)


def deepstack(family: str) -> str | None:
    """features of deeper layers are merged by the same groups and weights"""
    model, processor = load(family)
    inputs = prompt(family, processor, ("what moves", frames(1)), ("then", frames(2), "?"))
    given = encode_prompt(model, inputs).outputs[FAMILIES[family].modality].deepstack_features
    if not given:
        return "none"
    reduced = compress(model, inputs, "lftr", 4, dropped="merge")
    kept = reduced["mm_encoder_outputs"]["video"].deepstack_features
    assert len(kept) == len(given)
    for layer, after in zip(given, kept, strict=True):
        for source, merged, reduction in zip(layer, after, reduced.reductions, strict=True):
            expected = torch.zeros(len(reduction), source.shape[1], dtype=torch.double)
            for row, home, weight in zip(source, reduction.assign, reduction.weight, strict=True):
                if home >= 0:
                    expected[home] += weight.double() * row.double()
            torch.testing.assert_close(merged.double(), expected, atol=1e-6, rtol=1e-6)


def compact(family: str) -> None:
    """positions="compact" runs, and numbers what stays without gaps"""
    model = load(family)[0]
    reduced = compress(model, asked(family), "random", 4, positions="compact")
    number = torch.arange(reduced["input_ids"].shape[1])
    assert (reduced["position_ids"] == number).all()
    with engaged(model, reduced):
        said = generate(model, reduced, use_cache=False)
    assert torch.equal(said.sequences, generate(model, reduced).sequences)


def half(family: str) -> None:
    """a model in bfloat16 takes what the processor made in float32"""
    model = copy.deepcopy(load(family)[0]).bfloat16()
    reduced = compress(model, asked(family), "lftr", 4)
    assert reduced.reductions[0].tokens.dtype == torch.bfloat16
    with engaged(model, reduced):
        assert logits(model, reduced).isfinite().all()


@cache
def deep(family: str) -> torch.nn.Module:
    """A model of 4 layers that can be cut at the third."""
    model = load(family, 4)[0]
    try:
        with vtc.inside(model, "fastv", keep=1) as stage:
            logits(model, asked(family))
    except vtc.VTCError as refusal:
        raise Cannot(f"{str(refusal).split(' has ')[1]}") from refusal
    assert len(stage.layers[0]) == 4
    return model


def inside_identity(family: str) -> None:
    """a stage inside the language model that keeps all changes no bit of the logits and of a greedy answer"""
    model, inputs = deep(family), asked(family)
    before, said = logits(model, inputs), generate(model, inputs)
    with vtc.inside(model, "fastv", keep=1):
        assert torch.equal(logits(model, inputs), before)
        assert torch.equal(torch.stack(generate(model, inputs).logits), torch.stack(said.logits))
    assert torch.equal(logits(model, inputs), before)


@torch.no_grad()
def hidden_inside(model: torch.nn.Module, inputs: dict, layer: int, dropped: torch.Tensor, said: torch.Tensor) -> tuple:
    """Logits of a prompt, some of its tokens masked from a layer on, and of each token then said, one at a time."""

    def hide(_: object, args: tuple, given: dict) -> tuple:
        new, seen = (args[0] if args else given["hidden_states"]).shape[1], len(dropped) + len(steps)
        mask = given["attention_mask"]
        mask = torch.ones(1, 1, new, seen, dtype=torch.bool).tril(seen - new) if mask is None else mask.clone()
        mask[..., : len(dropped)] &= ~dropped
        if new > 1:  # what is hidden sees itself, or it would give no numbers
            mask |= torch.eye(new, dtype=torch.bool)
        return args, given | {"attention_mask": mask}

    steps: list[torch.Tensor] = []
    handles = [each.register_forward_pre_hook(hide, with_kwargs=True) for each in model.get_decoder().layers[layer:]]
    output = model(**inputs, use_cache=True)
    prefill, steps, place = output.logits, [output.logits[:, -1]], full_positions(model, inputs)
    for token in said[0, :-1]:
        place = place[..., -1:] + 1
        output = model(
            input_ids=token.view(1, 1), position_ids=place, past_key_values=output.past_key_values, use_cache=True
        )
        steps.append(output.logits[:, -1])
    for handle in handles:
        handle.remove()
    return prefill, steps


def inside_masked(family: str) -> None:
    """what a stage inside drops is as if masked in the later layers, at prefill and at 6 decoded tokens; counts hold"""
    model, inputs = deep(family), dict(asked(family))
    visual = int(places_of(model, FAMILIES[family].modality, inputs).sum())
    for method in ("fastv", "random-inside", "drop-inside"):
        keep = {} if method == "drop-inside" else {"keep": 0.25}
        with vtc.inside(model, method, layer=2, **keep) as stage:
            short = logits(model, inputs)
            output = generate(model, inputs)
        count = round(visual * keep.get("keep", 0))
        assert stage.layers == [[visual, visual, count, count]]
        total = inputs["input_ids"].shape[1] + 5
        held = [total, total, total - visual + count, total - visual + count]
        assert [layer.get_seq_length() for layer in output.past_key_values.layers] == held
        kept = stage.kept(3)[0]
        prefill, steps = hidden_inside(model, inputs, 2, ~kept, new_tokens(inputs, output))
        same(short, prefill[:, kept])
        same(torch.stack(output.logits), torch.stack(steps))
        assert apart(short[:, -1], logits(model, inputs)[:, -1]) > CLOSE


def inside_batch(family: str) -> None:
    """a padded batch whose prompts keep different numbers inside says what each says alone, greedily and with beams"""
    model, processor = deep(family), load(family, 4)[1]
    more = () if takes_one(family) else ("what moves first , then ?", frames(3))
    rows = [("what moves", frames(1), "where ?"), ("is the circle red ?", frames(2), *more, "?"), ("what is red ?",)]
    inputs = compress(model, prompt(family, processor, *rows), "lftr", 1)
    for (method, layers), beams in itertools.product((("fastv", {}), ("sparsevlm", {"layers": "2 3"})), (1, 3)):
        with vtc.inside(model, method, keep=0.2, **layers) as stage:
            together = new_tokens(inputs, generate(model, inputs, num_beams=beams))
            held = stage.layers[::beams]
            for n, row in enumerate(rows):
                alone = compress(model, prompt(family, processor, row), "lftr", 1)
                assert torch.equal(new_tokens(alone, generate(model, alone, num_beams=beams))[0], together[n])
                assert stage.layers[0] == held[n]
        assert len({each[-1] for each in held}) == 3 - (not more)


def inside_sampling(family: str) -> None:
    """seeded sampling from reduced inputs with a stage inside runs, and says the same again"""
    model, said = deep(family), []
    reduced = compress(model, asked(family), "lftr", 2)
    for _ in range(2):
        torch.manual_seed(0)
        with vtc.inside(model, "random-inside", keep=0.25) as stage, engaged(model, reduced):
            said.append(generate(model, reduced, do_sample=True, num_return_sequences=2).sequences)
        assert stage.layers[0][0] == int(places_of(model, FAMILIES[family].modality, reduced).sum())
    assert torch.equal(*said) and not torch.equal(*said[0])


def before_encoder(family: str) -> None:
    """with tokens left out before the encoder, at both of its stages, exactly as many tokens as asked for enter"""
    model, clip = vtc.load_model(checkpoint(family)), vtc.Clip(frames(1), np.arange(6) / 2)
    if not model.family.apart:
        raise Cannot("its encoder does not see each frame by itself, so none can be left out before it")
    for method, stage, ratio in [
        ("lftr", "both", 3),
        ("lftr", "pixels", 3),
        ("random", "pixels", 2),
        ("pool", "both", 1),
    ]:
        reduced = vtc.reduce_clip(model, clip, method, ratio, stage=stage)
        assert len(reduced) == round(reduced.total / ratio) == model.ask("where ?", clip, reduced).entered


CHECKS: dict[str, Callable[[str], str | None]] = {
    "identity": identity,
    "place": place,
    "= masked": as_masked,
    "window": window,
    "batch": batch,
    "clips": several,
    "text": text_only,
    "picture": picture,
    "greedy": greedy,
    "sampling": sampling,
    "beams": beams,
    "engaged": is_engaged,
    "merging": merging,
    "saliency": saliency,
    "deepstack": deepstack,
    "compact": compact,
    "bfloat16": half,
    "before encoder": before_encoder,
    "inside": inside_identity,
    "inside = masked": inside_masked,
    "inside, batch": inside_batch,
    "inside, sampling": inside_sampling,
}


EXPLANATIONS = [f"- **{name}**: {check.__doc__}" for name, check in CHECKS.items()]


@cache
def measure(family: str, check: str) -> str:
    """ "yes", "none" where there is nothing to check, or why not; an AssertionError if what should hold does not."""
    try:
        return CHECKS[check](family) or "yes"
    except Cannot as reason:
        return str(reason)


def table() -> str:
    """The families and the checks as Markdown, with the reasons under it."""
    reasons: list[str] = []
    lines = [f"| family | kept beside patches | {' | '.join(CHECKS)} |", "|---" * (len(CHECKS) + 2) + "|"]
    for family, entry in FAMILIES.items():
        kept = ["class token of each frame"] * entry.cls + ["newline of each clip"] * entry.newline
        cells = [entry.name, ", ".join(kept) or "nothing"]
        for found in (measure(family, check) for check in CHECKS):
            if found in ("yes", "none"):
                cells.append(found)
                continue
            if found not in reasons:
                reasons.append(found)
            cells.append(f"no ({string.ascii_lowercase[reasons.index(found)]})")
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"({letter}) {reason}." for letter, reason in zip(string.ascii_lowercase, reasons, strict=False))]
    return "\n".join([*lines, "", *EXPLANATIONS])


def explained(page: str) -> dict[str, list[str]]:
    """For each family in the table of a page, by name, what `measure` gave for the checks."""
    reasons = {line[:3]: line[4:-1] for line in page.splitlines() if line[:1] == "("}
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    return {name: [reasons.get(cell[3:], cell) for cell in cells] for name, _, *cells in rows[1:]}


def inserted(page: str) -> str:
    """The page with the table as measured between its two markers."""
    head, tail = page.split(BEGIN)[0], page.split(END)[1]
    return f"{head}{BEGIN}\n\n{table()}\n\n{END}{tail}"


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.write_text(inserted(PAGE.read_text()))
    else:
        print(table())
