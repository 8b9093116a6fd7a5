"""Methods that cut visual tokens between the layers of a language model: where they cut, and by what.

A method is a function of the model's depth that returns its cuts. Nothing here knows a model: raters are functions of
rows of attention and of hidden states. `vtc_lab.models.inside` runs them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from vtc_lab.reducers.registry import INSIDE, METHODS, Method, check_option, check_ratio, described, get_method
from vtc_lab.tokens import VTCError, demand_one_of

Rows = Literal["none", "last", "text", "chosen"]
Stage = Literal["features", "pixels", "both"]  # what a method before the language model decides on, see `reduce_clip`
FIRST_BY = "lftr"  # the method that chooses, by pixels, what "both" encodes
# Methods with a way of their own for "both", and its options. In a pair, a name that is also an option inside is that.
IN_TOWER: dict[str, dict[str, Any]] = {"earlytom": {"layers": (object, None)}}


@dataclass(frozen=True)
class Look:
    """Hold what a rater sees of one prompt before a cut: its n visual tokens and R rating rows."""

    attention: Tensor  # (H, R, n) float32: how much each head of each rating row looks at the visual tokens
    visual: Tensor  # (n, D) hidden states; none while decoding
    text: Tensor  # (R, D) hidden states of the rating rows; none while decoding
    turn: Tensor  # (R, n) float32: cosines of the angles between their rotary positions, summed over the channels


@dataclass(frozen=True)
class Cut:
    """One cut of a schedule.

    Parameters
    ----------
    layer : the first layer that sees fewer tokens, from 0; the layers before it see all.
    stays : given the number of visual tokens that entered the language model, how many stay.
    score : given a Look, the (n,) scores by which tokens stay.
    rows : whose attention rates: of the "last" token of the prompt, of all "text" behind the last visual token, of the
        text "chosen" because it is more alike to the visual embeddings than the average, or of "none".
    peek : rate with the queries and keys of `layer` on what would enter it, not with those of the layer before.
    merge : given (n, D) hidden states, (n,) bool which stay, and the scores, the hidden states after merging, and which
        stay; not called where all or none of them do.
    renumber : count positions from 0 again.
    everywhere : while decoding, the earlier layers do not see the dropped tokens either.
    decoding : cut while decoding alone: all layers hold everything, and from `layer` on each new token reads only what
        stays, by its own row in the layer before.
    """

    layer: int
    stays: Callable[[int], int]
    score: Callable[[Look], Tensor]
    rows: Rows = "last"
    peek: bool = False
    merge: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
    recycled: Callable[[int], int] = lambda dropped: 0  # how many tokens `merge` adds to those that stay
    renumber: bool = False
    everywhere: bool = False
    decoding: bool = False


def inside_method(
    *, paper: str = "", year: int | None = None, kind: str = "prunes", ours: str = ""
) -> Callable[..., Any]:
    """Register a function (depth, *, options) that returns the cuts of a model of `depth` layers, in their order.

    An option `keep` is a share of the visual tokens, and more of it must never keep fewer.
    """

    def register(plan: Callable[..., list[Cut]]) -> Callable[..., list[Cut]]:
        name = plan.__name__.replace("_", "-")
        needs = "attention in the LLM"
        INSIDE[name] = Method(
            name, plan, paper, year, needs, kind, *described(plan), False, "", "", lambda *_: 1, ours, "inside"
        )
        return plan

    return register


def get_inside(name: str) -> Method:
    """Return the method of this name that works inside the language model."""
    demand_one_of("method inside the language model", name, INSIDE)
    return INSIDE[name]


def stages_of(name: str) -> tuple[str, str]:
    """Return the stage before the language model and the one inside that a name stands for, "" where there is none.

    >>> stages_of("holitom + holitom-inner"), stages_of("fastv"), stages_of("lftr")
    (('holitom', 'holitom-inner'), ('', 'fastv'), ('lftr', ''))
    """
    before, _, after = str(name).partition(" + ")
    return ("", before) if before in INSIDE and before not in METHODS else (before, after)


def parts_of(name: str) -> list[Method]:
    """Return the methods that a name stands for: one before the language model, one inside, or both."""
    before, after = stages_of(name)
    return [*([get_method(before)] if before or not after else []), *([get_inside(after)] if after else [])]


def staged(name: str) -> Method:
    """Return what a name stands for as one method: of a pair with both options, and with `stage` before the encoder."""
    first, *second = parts_of(name)
    options, ranges = first.options, first.ranges
    for other in second:
        options, ranges = options | other.options, ranges | other.ranges
    if first.stage == "before" and first.needs != "evidence":  # pixels carry no evidence
        options = IN_TOWER.get(first.name, {}) | options | {"stage": (Stage, "features")}
    return replace(first, name=name, options=options, ranges=ranges)


def schedule(
    name: str,
    depth: int,
    /,
    *,
    ratio: float | None = None,
    budget: Literal["enters", "mean"] = "enters",
    **options: Any,
) -> list[Cut]:
    """Return the cuts of a method in a language model of `depth` layers.

    Parameters
    ----------
    name : a method of `methods(stage="inside")`.
    ratio : instead of `keep`: M / ratio of the M visual tokens are left in the last layer (budget "enters", by which
        papers name their budgets), or on average in all layers ("mean").
    budget : what `ratio` is of.
    options : of the method.

    Raises
    ------
    VTCError
        For an option that is not there, a layer that the model does not have, or a mean that the layers before the
        first cut alone exceed.

    Examples
    --------
    >>> [held(1000, 28, schedule("fastv", 28, ratio=10, budget=budget))[-1] for budget in ("enters", "mean")]
    [100, 31]
    """
    chosen = get_inside(name)
    for key, value in options.items():
        check_option(chosen, key, value)
    if options.get("keep") == 0:
        raise VTCError("keep is 0; it must be above 0, or take 'drop-inside', which keeps none")
    demand_one_of("budget", budget, ("enters", "mean"))
    for cut in chosen.run(depth, **options):
        if not 1 <= cut.layer < depth:
            raise VTCError(f"layer is {cut.layer}; this model has {depth}, so it can be 1 to {depth - 1}")
    if ratio is not None:
        options["keep"] = _keep_for(chosen, depth, check_ratio("ratio", ratio, 1 << 24), budget, options)
    return list({cut.layer: cut for cut in chosen.run(depth, **options)}.values())  # of two at one layer, the later


def held(entered: int, depth: int, cuts: Sequence[Cut]) -> list[int]:
    """Return how many of the visual tokens that entered each layer holds under some cuts.

    >>> held(576, 4, schedule("fastv", 4, keep=0.5))
    [576, 576, 288, 288]
    """
    layers = [entered] * depth
    for cut in cuts:
        if cut.decoding:
            continue
        before = layers[cut.layer]
        stays = min(before, cut.stays(entered))
        more = cut.recycled(before - stays) if stays else 0
        layers[cut.layer :] = [stays + more] * (depth - cut.layer)
    return layers


def _keep_for(method: Method, depth: int, ratio: float, budget: str, options: dict[str, Any]) -> float:
    """The `keep` whose share of the tokens, in the last layer or on average, is 1 / ratio."""
    if "keep" in options or "keep" not in method.options:
        raise VTCError(f"{method.name!r} was given a ratio beside keep, or has no keep; leave out the ratio")

    def left(keep: float) -> float:
        layers = held(1 << 24, depth, method.run(depth, **options, keep=keep))
        return (layers[-1] if budget == "enters" else sum(layers) / depth) / (1 << 24)

    low, high = 1e-7, 1.0  # with nothing kept nothing is recycled either: 0 is no limit of small shares
    if (least := left(low)) > 1 / ratio + 1e-6:
        raise VTCError(
            f"ratio is {ratio:g}, but {method.name!r} with these layers leaves from {least:.1%} to 100% of the "
            f"tokens on average, so the ratio can be 1 to {1 / max(least, 1e-6):.3g}"
        )
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if left(middle) >= 1 / ratio else (middle, high)
    return round(high, 7)
