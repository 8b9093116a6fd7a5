"""Find what shows the answer to a question about the generated world, and measure how much of it a reduction leaves."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from vtc_lab.qa.samples import Question
from vtc_lab.reducers.ops import prune
from vtc_lab.reducers.registry import method
from vtc_lab.tokens import Reduction, VideoTokens, VTCError, demand
from vtc_lab.toy.world import CELL, SIDE, Scene

_ROW = SIDE // CELL
_CLEAR = 5  # pixels of a thing that a patch must have to show it, or as many as any patch of the frame has


def evidence(scene: Scene, kind: str, thing: int) -> list[tuple[int, int]]:
    """Return the (frame, patch) pairs that show what a question of this kind asks about a thing of the scene."""
    count = len(scene.frames)
    pixels = (scene.owner == thing).reshape(count, _ROW, CELL, _ROW, CELL).sum((2, 4)).reshape(count, -1)
    shows = (pixels > 0) & (pixels >= np.minimum(_CLEAR, pixels.max(1, keepdims=True)))
    first, last = 0, count
    if kind == "order":  # its appearance
        first = scene.start[thing]
        last = first + max(2, count // 4)
    elif kind == "direction":
        first = scene.cut
    elif kind == "state":
        first = scene.middle
    elif kind == "spatial":  # where it comes to rest
        first = scene.middle + int(np.ceil(0.7 * (count - 1 - scene.middle)))
    shows[:first] = shows[last:] = False
    return [(int(t), int(patch)) for t, patch in zip(*shows.nonzero(), strict=True)]


def evidence_recall(reduction: Reduction, sample: Question) -> float:
    """Return the share of the patches that show the answer which are still in a reduction.

    Parameters
    ----------
    reduction : of the clip that the sample is about, on its grid of 14x14 patches a frame; of its frames all were read,
        or some as `read_clip` chooses them by their number.
    sample : from `make_clip`, or of the bundled test set.

    Returns
    -------
    0 to 1; 1 where the frames that were read show nothing of it. A patch counts as kept if patches of the same thing
    have at least half of the weight of the token that it went into. Of several things the lowest of their shares.

    Examples
    --------
    >>> import vtc_lab as vtc
    >>> clip, samples = vtc.make_clip(7)
    >>> tokens = vtc.VideoTokens(torch.randn(len(clip), 14, 14, 4))
    >>> evidence_recall(vtc.reduce(tokens, "uniform", ratio=1), samples[0])
    1.0
    """
    demand(Reduction, reduction)
    recalls, reduction = [], reduction.to("cpu")
    assigned = reduction.assign >= 0
    target = reduction.assign.clamp(min=0)
    whole = torch.zeros(len(reduction)).index_add_(0, target, reduction.weight)
    for needed in _masks(sample, reduction.grid):
        part = torch.zeros(len(reduction)).index_add_(0, target, reduction.weight * needed)
        stays = assigned & (part >= 0.5 * whole)[target]
        recalls.append(float((stays & needed).sum() / needed.sum()) if needed.any() else 1.0)
    return min(recalls)


def with_evidence(tokens: VideoTokens, samples: Iterable[Question]) -> VideoTokens:
    """Return the tokens of a clip with the places that show the answers to some questions about it, for `oracle`."""
    demand(VideoTokens, tokens)
    masks = [mask for sample in samples for mask in _masks(sample, tokens.grid)]
    if not masks:
        raise VTCError("there is no sample; give one or more about the clip")
    return replace(tokens, evidence=torch.stack(masks).any(0).view(tokens.grid).to(tokens.values.device))


def _masks(sample: Question, grid: tuple[int, int, int]) -> list[Tensor]:
    """Return for each thing asked about where it is needed, (M,) bool, in the frames that were read."""
    demand(Mapping, sample)
    things = sample.get("evidence")
    if not isinstance(things, list) or not things or "frames" not in sample:  # others have fields of this name, too
        raise VTCError(f"sample {str(sample)[:60]!r} has no evidence; only those of the generated world do")
    frames, height, width = grid
    if (height, width) != (_ROW, _ROW):
        raise VTCError(f"the tokens are on a grid of {height}x{width} a frame; evidence is on {_ROW}x{_ROW}")
    masks = []
    try:
        read = torch.from_numpy(np.linspace(0, sample["frames"] - 1, frames).round().astype(int))
        for pairs in things:
            whole = torch.zeros(sample["frames"], height * width, dtype=torch.bool)
            whole[tuple(torch.tensor(pairs).T)] = True
            masks.append(whole[read].flatten())
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise VTCError(f"evidence of {str(sample)[:60]!r} holds no (frame, patch) pairs: {error}") from error
    return masks


@method(needs="evidence")
def oracle(tokens: VideoTokens, budget: int) -> Reduction:
    """Keep what shows the answers and spread the rest of the budget evenly: a ceiling, not a method.

    The tokens must carry it, see `with_evidence`; sweeps of the generated world see to that.

    >>> tokens = VideoTokens(torch.randn(2, 2, 2, 4), evidence=torch.arange(8).view(2, 2, 2) > 5)
    >>> oracle(tokens, 4).anchor.tolist()
    [0, 5, 6, 7]
    """
    if tokens.evidence is None:
        raise VTCError("method 'oracle' needs to know where the answers are; give tokens from `with_evidence`")
    needed = tokens.evidence.flatten()
    groups = [needed.nonzero().flatten(), (~needed).nonzero().flatten()]
    first = groups[0][_spread(len(groups[0]), min(budget, len(groups[0])))]
    rest = groups[1][_spread(len(groups[1]), budget - len(first))]
    return prune(tokens, torch.cat([first, rest]).sort().values)


def _spread(count: int, wanted: int) -> Tensor:
    return torch.linspace(0, max(count - 1, 0), wanted).round().long()
