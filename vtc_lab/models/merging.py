"""Merge like frames between the layers of a vision tower, as EarlyTom does, and choose among the tokens of the rest."""

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from numbers import Integral
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from vtc_lab.models.families import Grid, Model
from vtc_lab.models.saliency import last_layer, watch_saliency
from vtc_lab.models.video_model import VideoModel
from vtc_lab.reducers.inside import staged
from vtc_lab.reducers.methods.earlytom import homes, merges, mixed, segments, select
from vtc_lab.reducers.ops import attention, prune
from vtc_lab.reducers.registry import check_option, check_ratio, get_method
from vtc_lab.tokens import Clip, Reduction, VTCError

_TOWERS = {  # those that run frames as a batch, and their layers
    "siglip_vision_model": "encoder.layers",
    "clip_vision_model": "encoder.layers",
    "internvl_vision": "encoder.layer",
}
_PAPER, _OF = (8, 21, 23), 26  # the layers of the paper's example, of those that LLaVA-OneVision uses of SigLIP's 27


@dataclass
class _Run:
    """Hold what was merged in a tower, and on how many frames each of its layers ran."""

    group: Tensor  # (T,) which of the T' frames that come out each frame went into
    share: Tensor  # (T,) its share of that
    start: Tensor  # (T',) the first frame of each frame's segment, once all is merged
    steps: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # group and share of each layer that merged some
    frames: list[int] = field(default_factory=list)

    def rest(self, rows: Tensor) -> Tensor:
        """Merge frames (n, N, D) which only some of the layers, or none, have merged."""
        for group, share in self.steps:
            rows = mixed(rows, group, share) if len(rows) == len(group) else rows
        return rows

    def spread(self, rows: Tensor, other: float) -> Tensor:
        """Put merged frames (T', ...) where the first of each was, of (T, ...)."""
        whole = rows.new_full((len(self.group), *rows.shape[1:]), other)
        whole[self.first()] = rows
        return whole

    def first(self) -> Tensor:
        """Return (T',) the first of the frames that went into each."""
        return self.group.diff(prepend=self.group[:1] - 1).nonzero().flatten()


def merge_inside(model: VideoModel, clip: Clip, ratio: float, *, layers: Any = None, **options: Any) -> Reduction:
    """Reduce a clip to round(M / ratio) tokens with EarlyTom, whose frames merge between the layers of the tower.

    `layers` are those after which frames merge, see `reduce_clip`. The other options are those of the method. Segments
    are those of the hidden states after the last of these layers, and saliency is measured there, as in its code.
    """
    options = get_method("earlytom").defaults | options
    for key, value in options.items():
        check_option(staged("earlytom"), key, value)
    core, family = model.network.base_model, model.family
    tower = getattr(core, family.tower)
    if tower.config.model_type not in _TOWERS or not hasattr(core, "multi_modal_projector"):
        raise VTCError(
            f"{family.name}'s tower does not run the frames of a clip as a batch, so 'earlytom' cannot merge them "
            "between its layers; use stage='features'"
        )
    stack = attrgetter(_TOWERS[tower.config.model_type])(getattr(tower, "vision_model", tower))
    after = _checked(layers, last_layer(getattr(core.config, "vision_feature_layer", -1), len(stack)))
    frame = torch.arange(0, device=core.device)
    run, budget = _Run(frame, frame, frame), 0

    def within(grid: Grid) -> Any:
        nonlocal run, budget
        budget = max(1, round(math.prod(grid) / check_ratio("ratio", ratio, math.prod(grid))))
        frame = torch.arange(grid[0], device=core.device)
        run = _Run(frame, torch.ones_like(frame, dtype=torch.float32), frame)
        return _merging(core, tower, stack, after, options["tau"], -(-budget // math.prod(grid[1:])), run)

    prompt, seconds, _ = model.prompt(clip, saliency=True, within=within)
    tokens = replace(prompt.tokens[0], seconds=seconds)
    model.part = (clip.frames, clip.times, tokens, prompt)  # for `model.ask`
    begun, first = time.perf_counter(), run.first()
    if not bool(tokens.values[first].isfinite().all()):
        raise VTCError(f"{model.name} encodes this clip to numbers that are not finite; load it in another dtype")
    home = homes(select(attention(tokens)[first], run.start, budget), run.group)
    part = prune(tokens, home[home >= 0].unique())
    ran = ", ".join(f"{count} x{len([*same])}" for count, same in groupby(run.frames))
    return replace(
        part,
        assign=torch.where(home < 0, -1, part.assign[home.clamp(min=0)]),
        weight=torch.where(home < 0, 0, run.share.repeat_interleave(math.prod(tokens.grid[1:]))),
        method="earlytom",
        options={"ratio": ratio, **options, "layers": after, "stage": "both"},
        notes=(f"saliency: {tokens.saliency_source}", f"frames by layer: {ran}"),
        seconds=time.perf_counter() - begun,
    ).check()


def _checked(layers: Any, used: int) -> tuple[int, ...]:
    """The layers after which frames merge, of those used, from 0."""
    if layers is None:
        return tuple(sorted({max(1, round((layer + 1) * used / _OF)) - 1 for layer in _PAPER}))
    found = tuple(layers) if isinstance(layers, Sequence) and not isinstance(layers, str) else ()
    whole = all(isinstance(layer, Integral) and not isinstance(layer, bool) for layer in found)
    if not found or not whole or sorted({*found}) != [*found] or not 0 <= found[0] <= found[-1] < used:
        raise VTCError(f"layers is {layers!r:.60}; give one or more from 0 to {used - 1} in order, such as (8, 21, 23)")
    return tuple(int(layer) for layer in found)


@contextmanager
def _merging(
    core: Model, tower: Model, stack: Sequence[Model], after: Sequence[int], tau: float, least: int, run: _Run
) -> Iterator[Callable[[], tuple[Tensor, str]]]:
    """Let frames merge after some layers of the stack, to no fewer than `least`, and give them back as T behind it all.

    Those that went into an earlier one are NaN. The context gives what `watch_saliency` does, of the last such layer.
    """
    here, cls = threading.get_ident(), int(tower.config.model_type != "siglip_vision_model")

    def merge(_: Model, __: tuple, hidden: Tensor) -> Tensor | None:
        if threading.get_ident() != here:
            return None
        run.frames.append(len(hidden))
        layer = len(run.frames) - 1
        if layer not in after:
            return None
        group, share = merges(hidden[:, cls:], tau, len(hidden) - least)
        if int(group[-1]) + 1 < len(group):
            run.steps.append((group, share))
            run.group, run.share = group[run.group], run.share * share[run.group]
            hidden = mixed(hidden, group, share)
        if layer == after[-1]:
            run.start = segments(hidden[:, cls:], tau)
        return hidden

    def settle(_: Model, __: tuple, output: Any) -> None:
        if threading.get_ident() == here:
            states = output.hidden_states or ()  # None where they are not needed
            output.hidden_states = tuple(each if each is None else run.rest(each) for each in states)

    def spread(_: Model, __: tuple, features: Tensor) -> Tensor | None:
        return run.spread(features, torch.nan) if threading.get_ident() == here else None

    with watch_saliency(tower, feature_layer=after[-1] + 1) as measure, ExitStack() as hooks:
        for layer in stack:
            hooks.enter_context(layer.register_forward_hook(merge))
        hooks.enter_context(tower.register_forward_hook(settle))
        hooks.enter_context(core.multi_modal_projector.register_forward_hook(spread))

        def measured() -> tuple[Tensor, str]:
            scores, source = measure()
            source = source.replace(", the last that is used", "")
            return run.spread(run.rest(scores[..., None])[..., 0], 0), source

        yield measured
