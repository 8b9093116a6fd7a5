"""The methods that cut visual tokens inside the language model, and the baselines of that stage."""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from vtc_lab.reducers.clusters import most_alike, peak_of_each
from vtc_lab.reducers.inside import Cut, Look, inside_method
from vtc_lab.reducers.ops import group_means, top, weighted_sums
from vtc_lab.tokens import VTCError

Share = Annotated[float, 0, 1]
Some = Annotated[float | None, 0, 1]
List = Literal["192", "128", "64"]


def share(keep: float) -> Callable[[int], int]:
    """Return a function of n that gives keep * n, rounded."""
    return lambda entered: round(keep * entered)


def share_down(keep: float) -> Callable[[int], int]:
    """Return a function of n that gives keep * n, rounded down."""
    return lambda entered: int(keep * entered + 1e-6)


def at(layer: int | None, paper: int, depth: int, of: int = 28) -> int:
    """Return the layer asked for, else the paper's for models of 28 and 32 layers, scaled for others, at least 1."""
    if layer is not None:
        return layer
    return paper if depth in (28, 32) else max(1, round(paper * depth / of))


def _layers(given: str, paper: Sequence[int], depth: int) -> list[int]:
    """Return the layers named in a text such as "7 14 21", or the paper's, scaled to another depth than 28 or 32."""
    try:
        layers = [int(word) for word in given.split()]
    except ValueError:
        layers = [0]
    if layers != sorted(set(layers)) or len(layers) > len(paper) or 0 in layers:
        raise VTCError(f"layers is {given!r}; give up to {len(paper)} rising numbers, such as '7 14 21'")
    return layers or [at(None, layer, depth, of=32) for layer in paper]


def mean_row(look: Look) -> Tensor:
    """Return the attention that each visual token gets, mean over heads and rows."""
    return look.attention.mean((0, 1))


def halved_in(values: Tensor, kept: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Merge each dropped token, in order, into the kept one of best cosine: kept = (kept + dropped) / 2."""
    home = _homes(values, kept)
    size = torch.bincount(home, minlength=int(kept.sum()))
    order = home.masked_fill(kept, -1).argsort(stable=True)  # by target, in order of position
    rank = torch.empty_like(home)
    rank[order] = torch.arange(len(home), device=home.device)
    first = (size - 1).cumsum(0) - (size - 1) + int(kept.sum())
    place = torch.where(kept, 1, rank - first[home] + 1)
    weight = 0.5 ** (size[home] - place).double()
    merged = weighted_sums(values[:, None], home, weight, int(kept.sum()))
    return values.index_put((kept,), merged.to(values.dtype)), kept


def averaged_in(values: Tensor, kept: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Replace each kept token by the mean of itself and the dropped tokens that are nearest to it by cosine."""
    merged = group_means(values, _homes(values, kept), int(kept.sum()))
    return values.index_put((kept,), merged.to(values.dtype)), kept


def _homes(values: Tensor, kept: Tensor) -> Tensor:
    """(n,) the number, among the kept tokens, of the one that each token goes into."""
    home = kept.cumsum(0) - 1
    home[~kept] = most_alike(values[~kept].float(), values[kept].float())[1]
    return home


def recycled(values: Tensor, kept: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Turn the 30 % of the dropped tokens that score highest into cluster means, each at the place of its centre."""
    dropped = int((~kept).sum())
    some = top(scores.masked_fill(kept, -torch.inf), _some(dropped)).sort().values
    size = torch.full_like(some[:1], len(some))
    centre = peak_of_each(values, some, size, torch.full_like(size, _means(dropped)), 5)
    own, group = centre.unique(return_inverse=True)
    means = group_means(values[some], group, len(own)).to(values.dtype)
    return values.index_put((own,), means), kept.index_fill(0, own, True)


def _some(dropped: int) -> int:
    return min(dropped, int(0.3 * dropped) + 1)


def _means(dropped: int) -> int:
    return min(_some(dropped), _some(dropped) // 10 + 1)


@inside_method(paper="arXiv 2403.06764", year=2024)
def fastv(depth: int, *, keep: Share = 0.5, layer: int = 2) -> list[Cut]:
    """Keep the tokens at which the last token of the prompt looks most in the layer before `layer`, mean over heads.

    Layers 0 to `layer` - 1 see all tokens, as K counts in the paper. With a cache the choice is made once; the original
    code without one prunes anew at each step.
    """
    return [Cut(layer, share(keep), mean_row)]


@inside_method()
def drop_inside(depth: int, *, layer: int = 2) -> list[Cut]:
    """Drop all visual tokens before `layer`."""
    return [Cut(layer, lambda entered: 0, lambda look: torch.zeros(len(look.visual)), rows="none")]


@inside_method()
def random_inside(depth: int, *, keep: Share = 0.5, layer: int = 2, seed: int = 0) -> list[Cut]:
    """Keep tokens by chance, the same of every prompt of one length."""

    def score(look: Look) -> Tensor:
        return torch.rand(len(look.visual), generator=torch.Generator().manual_seed(seed))

    return [Cut(layer, share(keep), score, rows="none")]


@inside_method()
def uniform_inside(depth: int, *, keep: Share = 0.5, layer: int = 2) -> list[Cut]:
    """Keep evenly spaced tokens, the first and the last among them."""

    def score(look: Look) -> Tensor:
        count = share(keep)(len(look.visual))
        marks = torch.arange(count) * (len(look.visual) - 1) // max(1, count - 1)
        return torch.zeros(len(look.visual)).index_fill(0, marks, 1.0)

    return [Cut(layer, share(keep), score, rows="none")]


@inside_method(paper="arXiv 2410.17247", year=2024)
def pyramiddrop(depth: int, *, keep: Share = 0.125, layers: str = "") -> list[Cut]:
    """Cut three times to 1/2, 1/4, 1/8 of the tokens, at a quarter, half and three quarters of the layers.

    Before a layer, its own queries and keys rate by the last token of the prompt. `keep` is the share after the last
    cut, of which those before are the roots. Positions count from 0 again, as in the official code. `layers` are the
    cuts' own, such as "7 14 21"; by default 8, 16 and 24 in models of 28 layers too, as in that code.
    """
    given = _layers(layers, (8, 16, 24), depth)
    powers = [n / len(given) for n in range(1, len(given) + 1)]
    return [
        Cut(layer, share_down(keep**power), mean_row, peek=True, renumber=True)
        for layer, power in zip(given, powers, strict=True)
    ]


@inside_method(
    paper="arXiv 2410.04417", year=2024, kind="merges", ours="the place of a mean, at the centre of its cluster"
)
def sparsevlm(depth: int, *, keep: Some = None, layers: str = "", tokens: List = "192") -> list[Cut]:
    """Cut behind layers 2, 6 and 15 by the text that is nearest to the picture, and recycle some of what goes (1.5).

    Text rows rate that are above the mean of softmax(V T') over V, before layer 0. Of the dropped tokens the best 30 %
    become n // 10 + 1 means by density peaks. `tokens` names a published list of what stays of 576, such as 300, 200
    and 110 for "192"; with `keep`, the share after the last cut, its proportions. Departs from the code in the place of
    a mean: it stands at its cluster's centre, not behind all kept tokens. Positions count from 0 again. `layers` are
    the first after each cut.
    """
    lists = {"192": (300, 200, 110), "128": (303, 110, 36), "64": (66, 30, 17)}
    how = {"merge": recycled, "recycled": _means, "renumber": True}
    return _by_chosen_text(lists[tokens], depth, keep, layers, mean_row, **how)


@inside_method(paper="arXiv 2410.04417", year=2024, ours="half of the heads where there are fewer than 28")
def sparsevlm_plus(depth: int, *, keep: Some = None, layers: str = "", tokens: List = "192") -> list[Cut]:
    """Cut as `sparsevlm` does, by attention without the pull of near positions, and recycle nothing (SparseVLM+).

    The attention to each token is divided by what rotary positions alone make of a product of equal vectors. Then the
    14 heads rate that look most at the clip. Positions are kept.
    """
    lists = {"192": (300, 200, 118), "128": (238, 108, 60), "64": (66, 34, 20)}
    return _by_chosen_text(lists[tokens], depth, keep, layers, _without_positions)


def _by_chosen_text(
    shares: tuple[int, ...], depth: int, keep: float | None, layers: str, score: Callable[[Look], Tensor], **how: Any
) -> list[Cut]:
    given = _layers(layers, (3, 7, 16), depth)
    keep = shares[-1] / 576 if keep is None else keep
    cuts = zip(given, shares[-len(given) :], strict=True)
    return [Cut(at, share(min(1.0, keep * n / shares[-1])), score, "chosen", **how) for at, n in cuts]


def _without_positions(look: Look) -> Tensor:
    seen = look.attention / look.turn
    return seen[top(seen.sum((1, 2)), min(14, -(-len(seen) // 2)))].mean((0, 1))


@inside_method(paper="arXiv 2412.16117", year=2024, ours="one group of tokens")
def prunevid_inner(depth: int, *, keep: Share = 0.4, layer: int | None = None) -> list[Cut]:
    """Keep the tokens at which any head of any text behind the clip looks most in layer 10.

    The paper cuts its segments and its static and dynamic tokens apart; here all are one group. While decoding the
    earlier layers do not see what was dropped either, as if it were gone from their caches; it is not freed.
    """
    count = at(layer, 11, depth)
    return [Cut(count, share_down(keep), lambda look: look.attention.amax((0, 1)), "text", everywhere=True)]


@inside_method(paper="arXiv 2505.21334", year=2025, kind="merges")
def holitom_inner(depth: int, *, keep: Share = 0.5, layer: int | None = None) -> list[Cut]:
    """Keep the tokens at which the last token looks most in layer 17, and merge each other into its nearest by halves.

    In order, kept = (kept + dropped) / 2 by the cosine of the states before any merge, so the last one weighs half.
    """
    return [Cut(at(layer, 18, depth), share(keep), mean_row, merge=halved_in)]


@inside_method(paper="arXiv 2602.08024", year=2026)
def flashvid_inner(depth: int, *, keep: Share = 0.3, layer: int | None = None) -> list[Cut]:
    """Keep the 30 % of the tokens at which the last token looks most in layer 19, rounded up."""
    return [Cut(at(layer, 20, depth), lambda entered: math.ceil(keep * entered - 1e-6), mean_row)]


@inside_method(paper="arXiv 2501.01986", year=2025)
def framefusion_inner(depth: int, *, keep: Share = 0.3, layer: int = 1) -> list[Cut]:
    """Keep the tokens at which the last token looks most, the pruning stage of FrameFusion.

    The paper prunes in the first layer after merging has ended, down to its `cost` as the mean of all layers, which
    `ratio=1 / cost, budget="mean"` asks for. Tokens that it drops between attention and MLP of a layer are here dropped
    before the next, which gives the same numbers.
    """
    return [Cut(layer, share(keep), mean_row)]


@inside_method(paper="arXiv 2411.15024", year=2024, ours="a choice of its own for each token")
def dycoke_dp(depth: int, *, p: Share = 0.7, layer: int = 3) -> list[Cut]:
    """While decoding, let each new token read the 1 - p of the clip at which it looks most in the layer before.

    Prefill and caches stay whole, so both budgets do, and `ratio` is none of it; it is accuracy that this shows, by a
    mask. The paper keeps a choice while the cosine of two steps' attention is 0.9 or more; its code then reads the
    whole cache. Here each token chooses anew, so that beams do not depend on each other.
    """
    return [Cut(layer, share_down(1 - p), mean_row, decoding=True)]


@inside_method(
    paper="arXiv 2603.21957",
    year=2026,
    kind="merges",
    ours="the scaling by least and greatest, text behind the clip, positions that are kept",
)
def unified_text_merge(depth: int, *, keep: Share = 0.5, layer: int | None = None) -> list[Cut]:
    """Keep tokens by 0.5 attention + 0.5 cosine, each the best over the text and scaled to 0..1; average in the rest.

    Text is what stands behind the clip, and the scaling is by least and greatest: both our reading. Positions are kept.
    """

    def score(look: Look) -> Tensor:
        seen, alike = look.attention.mean(0).amax(0), most_alike(look.visual.float(), look.text.float())[0]
        return 0.5 * _scaled(seen) + 0.5 * _scaled(alike)

    return [Cut(at(layer, 18, depth), share(keep), score, "text", merge=averaged_in)]


def _scaled(numbers: Tensor) -> Tensor:
    return (numbers - numbers.min()) / (numbers.max() - numbers.min()).clamp(min=torch.finfo(numbers.dtype).tiny)
