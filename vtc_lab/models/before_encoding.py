"""Reduce a clip before its vision encoder: decide on pixels, and encode what is left."""

import math
import time
from dataclasses import replace
from typing import Any, get_args

import torch
from torch import Tensor
from torch.nn import functional

from vtc_lab.models.families import Family, Grid
from vtc_lab.models.merging import merge_inside
from vtc_lab.models.packing import packs
from vtc_lab.models.video_model import VideoModel
from vtc_lab.reducers.inside import FIRST_BY, IN_TOWER, Stage
from vtc_lab.reducers.ops import add, normalise, prune, totals
from vtc_lab.reducers.registry import check_ratio, needs_saliency, reduce
from vtc_lab.tokens import Clip, Reduction, VideoTokens, VTCError, demand, demand_one_of

_SIDE = 8  # pixels of the patch that stands for a token
_STEADY = 0.25  # of white, added as a channel
_MORE = 1.5  # times the tokens that stay are encoded for "both", see docs/speed.md


def reduce_clip(
    model: VideoModel, clip: Clip, method: str, ratio: float, *, stage: Stage = "both", **options: object
) -> Reduction:
    """Reduce a clip to round(M / ratio) of a model's M tokens, without encoding all of them.

    Parameters
    ----------
    model, clip : from `load_model` and `read_clip`.
    method, ratio, options : as for `vtc.reduce`; the ratio is of all tokens.
    stage : what is decided before the vision encoder.

        - "features": nothing, as in `vtc.reduce(model.encode(clip), ...)`.
        - "both": LFTR chooses 1.5 M / ratio tokens by their pixels, as for "pixels"; they are encoded, and the method
          chooses among them by their features. It sees a whole grid, in which an encoded token also stands for those
          that LFTR merged into it and those nearest to it. Where the method keeps one of these, the encoded token
          stays; where that stays already, another one does, evenly spread over those encoded. `earlytom` has a way of
          its own: every frame enters the encoder, and frames merge between its layers as in the paper. Its option
          `layers` names those after which they do, from 0 as in the paper's code; by default that is the paper's
          example, 8, 21 and 23 of the 26 that LLaVA-OneVision uses, scaled to what this model uses (our reading).
          Where that is the same layer twice, as in a tower of two, it merges once. For CLIP, SigLIP and InternVL.
        - "pixels": everything. The method sees patches of 8x8 pixels in the place of tokens, and what it keeps is
          encoded; what it would merge into that is dropped.

        For both of these, the layers of CLIP's, SigLIP's, Qwen's and GLM's towers run on the patches of those tokens
        alone, with one in 9 of the others for all of them. Other towers encode whole frames. For "both", those are
        every second one, or T / sqrt(ratio) where that is more, and the method reduces them; so it is with methods that
        look at the encoder's attention, which is not known where patches are left out.

    Returns
    -------
    Reduction on the grid of the whole clip, in which tokens that were not encoded are dropped; with `earlytom` those of
    merged frames went into the first. A note says how many frames were encoded, or on how many each layer ran.
    `model.ask` encodes nothing else for the last one made. Families that do not encode each frame by itself
    (Video-LLaVA, Molmo2) are refused, and "pixels" with methods that look at the encoder's attention.

    Examples
    --------
    >>> import vtc_lab as vtc
    >>> model, (clip, samples) = vtc.load_model(), vtc.make_clip(7, frames=16)
    >>> reduced = vtc.reduce_clip(model, clip, "lftr", ratio=4)
    >>> len(reduced) * 4 == reduced.total, reduced.notes[-1]
    (True, 'encoded 16 of 16 frames, 1176 of 3136 tokens')
    >>> answer = model.ask(samples[0]["question"], clip, reduced)
    """
    demand(VideoModel, model)
    check_stage(model.family, method, stage, options)
    if stage == "both" and method in IN_TOWER:
        return merge_inside(model, clip, ratio, **options)
    saliency = needs_saliency(method, options)
    if stage == "features":
        return reduce(model.encode(clip, saliency=saliency), method, ratio, **options)
    decided: list[Reduction] = []
    patchwise = stage == "pixels" or (not saliency and packs(model.network.base_model, model.family))

    def choose(grid: Grid) -> Tensor:
        check_ratio("ratio", ratio, math.prod(grid))
        if not patchwise:
            stay = torch.zeros(grid, dtype=torch.bool)
            count = math.ceil(grid[0] / min(2, math.sqrt(ratio)) - 1e-9)
            stay[torch.linspace(0, grid[0] - 1, count).round().long()] = True
            return stay
        begun, pixels = time.perf_counter(), _pixels(clip, grid)
        if stage == "pixels":
            found = reduce(pixels, method, ratio, **options)
        else:
            found = reduce(pixels, FIRST_BY, max(1, ratio / _MORE))
        decided.append(replace(found, seconds=time.perf_counter() - begun))
        return found.kept

    prompt, with_saliency, without = model.prompt(clip, saliency=saliency, choose=choose)
    tokens = replace(prompt.tokens[0], seconds=with_saliency if saliency else without)
    model.part = (clip.frames, clip.times, tokens, prompt)  # for `model.ask`
    made = tokens.values[..., 0].isfinite()
    there = made.flatten(1).any(1)
    note = f"encoded {int(there.sum())} of {len(there)} frames"
    if not made[there].all():
        note += f", {int(made.sum())} of {tokens.total} tokens"
    if stage == "pixels":
        kept = {name: getattr(decided[0], name) for name in ("method", "options", "notes", "seconds")}
        reduced = replace(prune(tokens, decided[0].anchor), **kept)
    elif patchwise:
        reduced = _reduce_encoded(tokens, decided[0], method, ratio, options)
        reduced = replace(reduced, seconds=decided[0].seconds + reduced.seconds)
    else:
        reduced = _reduce_frames(tokens, there, method, ratio, options)
    return replace(reduced, options=reduced.options | {"ratio": ratio, "stage": stage}, notes=(*reduced.notes, note))


def _reduce_encoded(
    tokens: VideoTokens, before: Reduction, method: str, ratio: float, options: dict[str, Any]
) -> Reduction:
    """Reduce tokens of which some are NaN to others of them; `before` says which token stands for each of these."""
    begun, made = time.perf_counter(), tokens.values[..., 0].isfinite().flatten()
    before = before.to(made.device)
    source = torch.where(made, torch.arange(len(made), device=made.device), before.anchor[before.representative])
    filled = replace(tokens, values=tokens.values.flatten(0, 2)[source].view_as(tokens.values))
    part = reduce(filled, method, ratio, **options)
    anchor, place = source[part.anchor].unique(return_inverse=True)
    rest = made.clone()
    rest[anchor] = False
    spare, lacking = rest.nonzero().flatten(), len(part) - len(anchor)
    more = spare[torch.arange(lacking, device=made.device) * len(spare) // max(1, lacking)]
    number = torch.arange(len(part), device=made.device)
    group, weight = torch.where(made & (part.assign >= 0), place[part.assign.clamp(min=0)], -1), part.weight.clone()
    group[anchor], group[more] = number[: len(anchor)], number[len(anchor) :]
    weight.scatter_reduce_(0, source[part.anchor], part.weight[part.anchor], "amax", include_self=False)
    # What was not encoded cannot be summed up: the others of its output weigh as much as all did.
    total = totals(part.weight, part.assign.clamp(min=0), len(part))
    total = weight.new_ones(len(part)).scatter_reduce(0, place, total, "amax", include_self=False)
    weight = normalise(weight, group, len(part)) * total[group.clamp(min=0)]
    anchor = torch.cat([anchor, more])
    kept = {name: getattr(part, name) for name in ("method", "options", "notes")}
    return replace(add(tokens, group, weight, anchor), seconds=time.perf_counter() - begun, **kept)


def _reduce_frames(tokens: VideoTokens, there: Tensor, method: str, ratio: float, options: dict[str, Any]) -> Reduction:
    """Reduce tokens of which some frames, by (T,) bool, are there and the others NaN."""
    salient = None if tokens.saliency is None else tokens.saliency[there]
    some = replace(tokens, values=tokens.values[there], saliency=salient)
    part = reduce(some, method, some.total / max(1, round(tokens.total / ratio)), **options)
    source = there.repeat_interleave(tokens.total // len(there)).nonzero().flatten()
    assign, weight = part.assign.new_full((tokens.total,), -1), part.weight.new_zeros(tokens.total)
    assign[source], weight[source] = part.assign, part.weight
    return replace(part, anchor=source[part.anchor], assign=assign, weight=weight, grid=tokens.grid)


def check_stage(family: Family, method: str, stage: Stage, options: dict[str, Any]) -> None:
    """Raise a VTCError if a method with these options, or a family, cannot decide at this stage."""
    demand_one_of("stage", stage, get_args(Stage))
    if stage == "pixels" and needs_saliency(method, options):
        raise VTCError(f"{method!r} looks at the encoder's attention, so it cannot decide before it; use stage='both'")
    if stage != "features" and not family.apart:
        raise VTCError(f"{family.name} does not encode each frame by itself, so none can be left out before it")


def _pixels(clip: Clip, grid: Grid) -> VideoTokens:
    """The clip on a model's grid, each token a patch of pixels, of as many frames as the model takes together."""
    frames, height, width = grid
    pixels, size = torch.from_numpy(clip.frames), (height * _SIDE, width * _SIDE)
    # At least 2x2 pixels are averaged, not all of them: of large frames that took longer than the method.
    thin = pixels[:, :: max(1, pixels.shape[1] // (2 * size[0])), :: max(1, pixels.shape[2] // (2 * size[1]))]
    small = thin.permute(0, 3, 1, 2).float() / 255
    if small.shape[2:] != size:
        small = functional.interpolate(small, size, mode="area")
    together = -(-len(small) // frames)
    small = torch.cat([small, small[-1:].expand(frames * together - len(small), -1, -1, -1)])
    small = small.view(frames, together * 3, height, _SIDE, width, _SIDE).permute(0, 2, 4, 1, 3, 5)
    rows = small.reshape(*grid, -1)
    # Methods compare by cosines, to which a grey patch and a white one are alike without a channel that is the same.
    return VideoTokens(functional.pad(rows, (0, 1), value=_STEADY * math.sqrt(rows.shape[-1])), encoder="pixels")
