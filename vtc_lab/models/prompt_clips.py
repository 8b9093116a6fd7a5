"""Encode the clips of a processor's output with the model itself, each on its (T, h, w) grid."""

from __future__ import annotations

import inspect
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vtc_lab.models.families import Family, Grid, Inputs, Model, family_of
from vtc_lab.models.packing import packed, packs, some_frames
from vtc_lab.models.saliency import watch_saliency
from vtc_lab.tokens import VideoTokens, VTCError

_SAY_CLIPS = "say which are frames with clips=[slice(first, last + 1), ...]"
_MADE_LATER = ("mm_encoder_outputs", "inputs_embeds", "position_ids", "past_key_values")


@dataclass
class Encoded(BaseModelOutputWithPooling):
    """Hold what a language model takes of an encoder's output: features, and those of deeper layers (deepstack)."""

    pooler_output: Any = None
    deepstack_features: list | None = None


@dataclass(frozen=True, eq=False)
class EncodedPrompt:
    """Hold the clips of a prompt, encoded and not yet reduced."""

    tokens: list[VideoTokens]  # the clips, in the order of the prompts
    where: list[Tensor]  # for each clip (T, h, w) long, which of the features its patches are
    features: Tensor  # (R, D) all features of the clips' modality, in the order of their placeholders
    places: Tensor  # (B, N) bool, the placeholders
    sizes: list[int]  # number of features of each clip, or of each picture where frames are given as pictures
    outputs: dict[str, Encoded]  # what the encoders returned, by modality
    inputs: dict[str, Any]  # what the processor made, on the model's device
    seconds: float  # how long encoding took, without saliency


@torch.no_grad()
def encode_prompt(
    model: Model,
    inputs: Inputs,
    *,
    saliency: bool = False,
    clips: Sequence[slice] | None = None,
    choose: Callable[[Grid], Tensor] | None = None,
    within: Callable[[Grid], AbstractContextManager] | None = None,
) -> EncodedPrompt | None:
    """Encode the clips of a prompt, or of a padded batch of them, given as to `compress`; None if there is no clip.

    `choose` says, given the grid of the only clip, (T, h, w) bool, which of its tokens are needed. The features of the
    others are NaN, their saliency 0. `within` gives, for this grid, a context in which the encoder runs, to stand for
    `watch_saliency`.
    """
    family, core = family_of(model), model.base_model
    _check_inputs(inputs)
    if clips is not None and not family.frames_as_pictures:
        raise VTCError(f"{family.name}'s processor marks clips itself; leave out clips={clips!r:.60}")
    if inputs.get(family.pixels) is None:
        return None
    here = on_device(inputs, model)
    places = places_of(model, family.modality, here)
    if choose is None and within is None:
        output, scores, source, seconds = _encode(core, family, here, saliency)
    else:
        grids = family.grids(core, here, int(places.sum()))
        grid = (sum(t for t, *_ in grids), *grids[0][1:])
        if choose is None:
            output, scores, source, seconds = _encode(core, family, here, saliency, within and within(grid))
        else:
            wanted = choose(grid).to(core.device)
            output, scores, source, seconds = _encode_some(core, family, here, saliency, wanted)
    outputs: dict[str, Encoded] = {family.modality: output}
    if family.modality == "video" and here.get(family.stills) is not None:
        outputs["image"] = _call(core, "get_image_features", family.stills, here)
    features = rows(output.pooler_output).to(core.device)
    grids = family.grids(core, here, len(features))
    for modality, each in outputs.items():
        token = f"{modality} token {getattr(model.config, f'{modality}_token_id')}"
        _demand_as_many(family, token, len(rows(each.pooler_output)), int(places_of(model, modality, here).sum()))
    sizes = [t * (family.cls + h * w) + family.newline for t, h, w in grids]
    _demand_as_many(family, f"{grids!r:.60}", sum(sizes), len(features))
    where = [
        own[: len(own) - family.newline].view(t, -1)[:, family.cls :].reshape(t, h, w)
        for own, (t, h, w) in zip(torch.arange(len(features), device=core.device).split(sizes), grids, strict=True)
    ]
    salient = None
    if scores is not None:
        salient = torch.zeros(len(features), device=core.device)
        salient[torch.cat([index.flatten() for index in where])] = scores.to(core.device)
    if family.frames_as_pictures:
        ends = [(own[0].tolist(), own[-1].tolist()) for own in places.nonzero().cpu().split(sizes)]
        spans = [(prompt, begin, last + 1) for (prompt, begin), (_, last) in ends]
        groups = _found(model, family, here["input_ids"], spans) if clips is None else _named(clips, len(where))
        where = _joined(where, [prompt for prompt, *_ in spans], groups)
    name = str(getattr(model, "name_or_path", "")) or family.name
    tokens = [
        VideoTokens(features[index], None if salient is None else salient[index], name, saliency_source=source)
        for index in where
    ]
    return EncodedPrompt(tokens, where, features, places, sizes, outputs, here, seconds) if where else None


def on_device(inputs: Inputs, model: Model) -> dict[str, Any]:
    """Return inputs with their tensors on a model's device."""
    return {name: value.to(model.device) if isinstance(value, Tensor) else value for name, value in inputs.items()}


def _check_inputs(inputs: Inputs) -> None:
    if not isinstance(inputs, Mapping):
        raise VTCError(f"inputs is a {type(inputs).__name__}; give what the processor made")
    ids, mask = inputs.get("input_ids"), inputs.get("attention_mask")
    ready = [name for name in _MADE_LATER if inputs.get(name) is not None]
    if ids is None or ready:
        raise VTCError(
            f"the inputs hold {', '.join(ready or inputs) or 'nothing'}; give what the processor made, unchanged"
        )
    for name, value in (("input_ids", ids), ("attention_mask", ids if mask is None else mask)):
        if not isinstance(value, Tensor):
            raise VTCError(f"{name} is a {type(value).__name__}; call the processor with return_tensors='pt'")
        if value.ndim != 2 or value.shape != ids.shape:
            raise VTCError(f"{name} has shape {tuple(value.shape)}; give what the processor made, unchanged")


def rows(features: Tensor | Sequence[Tensor]) -> Tensor:
    """Return (R, D) features from whatever container they are in."""
    features = [features] if isinstance(features, Tensor) else features
    return torch.cat([part.reshape(-1, part.shape[-1]) for part in features])


def arguments(core: Model, name: str) -> list[str]:
    """Return the names of a method's arguments; none if there is no such method."""
    return [key for key in inspect.signature(getattr(core, name, lambda: None)).parameters if key != "kwargs"]


def settle(result: Tensor) -> None:
    """Wait until a GPU has finished, so that a clock measures the work and not the request for it."""
    if result.is_cuda:
        torch.cuda.synchronize(result.device)
    elif result.is_mps:
        torch.mps.synchronize()


def _encode(
    core: Model, family: Family, inputs: Inputs, saliency: bool, watch: AbstractContextManager | None = None
) -> tuple[Encoded, Tensor | None, str, float]:
    """The encoder's output; if asked for, the saliency of every patch and its source in words; and the seconds."""
    begun, layer = time.perf_counter(), getattr(core.config, "vision_feature_layer", -1)
    if saliency and not watch:
        watch = watch_saliency(getattr(core, family.tower), feature_layer=layer)
    with watch or nullcontext() as measure:
        output = _call(core, family.encoder, family.pixels, inputs)
    seconds = time.perf_counter() - begun
    if not measure:
        return output, None, "", seconds
    scores, source = measure()
    if family.pool:
        scores, source = family.pool(core, scores[..., None]), f"{source}, then over the patches of each token"
    settle(scores)
    return output, scores.flatten(), source, seconds


def _encode_some(
    core: Model, family: Family, inputs: Inputs, saliency: bool, wanted: Tensor
) -> tuple[Encoded, Tensor | None, str, float]:
    """The same as `_encode`, of the wanted tokens, (T, h, w) bool; the others are NaN, their saliency 0."""
    there = wanted.flatten(1).any(1)
    some = some_frames(inputs, [family.pixels, *arguments(core, family.encoder)], there)
    packing = packs(core, family) and not bool(wanted[there].all())
    with packed(core, family, wanted[there]) if packing else nullcontext():
        output, scores, source, seconds = _encode(core, family, some, saliency)

    known = wanted if packing else there[:, None, None].expand_as(wanted)
    total, made = known.numel(), known[there].numel()

    def whole(part: Tensor, other: float) -> Tensor:
        found = part.new_full((total - made + len(part), *part.shape[1:]), other)
        found[total:] = part[made:]  # the newline
        found[:total][known.flatten()] = part[:made][known[there].flatten()]
        return found

    given, deeper = output.pooler_output, output.deepstack_features
    features = whole(rows(given), torch.nan)
    output = Encoded(
        pooler_output=features if isinstance(given, Tensor) else [features],
        deepstack_features=deeper and [whole(rows(layer), torch.nan) for layer in deeper],
    )
    return output, None if scores is None else whole(scores, 0), source, seconds


def _call(core: Model, name: str, pixels: str, inputs: Inputs) -> Encoded:
    """Run an encoder on these pixels, with the processor's values for its other arguments."""
    given = {key: inputs[key] for key in arguments(core, name)[1:] if key in inputs and key != pixels}
    output = getattr(core, name)(inputs[pixels].to(core.dtype), **given, return_dict=True)
    settle(rows(output.pooler_output))
    # Without the hidden states, which can be many times as large.
    deeper = getattr(output, "deepstack_features", None)
    return Encoded(pooler_output=output.pooler_output, deepstack_features=deeper)


def places_of(model: Model, modality: str, inputs: Inputs) -> Tensor:
    """Return (B, N) bool, where the placeholders of clips ("video") or pictures ("image") are."""
    return inputs["input_ids"] == getattr(model.config, f"{modality}_token_id")


def _demand_as_many(family: Family, what: str, count: int, places: int) -> None:
    if count != places:
        raise VTCError(
            f"{family.name} has {places} places in the prompt for {count} features ({what}); give what its processor "
            "made, unchanged"
        )


def _found(model: Model, family: Family, ids: Tensor, spans: Sequence[tuple[int, int, int]]) -> list[list[int]]:
    """The pictures of each clip, told by what the processor writes before a frame, else all those of a prompt.

    `spans` are, for each picture, its prompt and where its placeholders begin and end.
    """
    if not family.frame:
        prompts = [prompt for prompt, *_ in spans]
        return [[n for n, one in enumerate(prompts) if one == prompt] for prompt in sorted(set(prompts))]
    pattern = re.compile(family.frame, re.DOTALL)
    tokenizer = _tokenizer(str(getattr(model, "name_or_path", "")), family.name)
    clips: list[list[int]] = []
    last, follows = (-1, 0, 0), False  # the picture before, and whether it was a frame
    for number, (prompt, begin, end) in enumerate(spans):
        same = prompt == last[0]
        found = pattern.search(tokenizer.decode(ids[prompt, last[2] if same else 0 : begin]))
        if not found and "first" not in pattern.groupindex:
            raise VTCError(
                f"{family.name}'s processor has cut up pictures; call it with do_image_splitting=False, or {_SAY_CLIPS}"
            )
        if found and same and follows and not found.groupdict().get("first"):
            clips[-1].append(number)
        elif found:
            clips.append([number])
        last, follows = (prompt, begin, end), bool(found)
    return clips


@lru_cache(maxsize=4)
def _tokenizer(name: str, family: str):
    try:
        return AutoTokenizer.from_pretrained(name, local_files_only=True)
    except Exception as error:
        raise VTCError(
            f"{family}'s frames are told by the words before them, and there is no tokenizer in {name!r}; {_SAY_CLIPS}"
        ) from error


def _joined(pictures: list[Tensor], owners: list[int], groups: list[list[int]]) -> list[Tensor]:
    """Groups of pictures, joined into clips."""
    taken = [n for group in groups for n in group]
    alike = [len({(owners[n], pictures[n].shape) for n in group}) == 1 for group in groups]
    if len(set(taken)) < len(taken) or not all(alike):
        raise VTCError(
            f"clips are {groups!r:.60} of {len(pictures)} pictures: each needs one or more, of one prompt and of one "
            f"size, and no picture can be in two; {_SAY_CLIPS}"
        )
    return [torch.cat([pictures[n] for n in group]) for group in groups]


def _named(clips: Sequence[slice], count: int) -> list[list[int]]:
    """The pictures of the clips that a caller has named."""
    if not isinstance(clips, Sequence) or not all(isinstance(clip, slice) for clip in clips):
        raise VTCError(f"clips is {clips!r:.60}; give a list of slices of the {count} pictures, such as [slice(0, 8)]")
    return [list(range(*clip.indices(count))) for clip in clips]
