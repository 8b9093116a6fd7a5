"""The registry: a decorated function is a method everywhere, and `reduce` is the one way to call it."""

from __future__ import annotations

import inspect
import math
import time
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Integral, Real

import pandas as pd
import torch

from vtc_lab.reducers.ops import blocks, few_threads
from vtc_lab.tokens import MinimumBudgetError, Reduction, VideoTokens, VTCError, suggest


@dataclass(frozen=True)
class Method:
    """One registered method; `options` maps each name to its (type hint, default), `ranges` some to (low, high)."""

    name: str
    run: Callable[..., Reduction]
    paper: str
    year: int | None
    needs: str
    kind: str
    options: dict[str, tuple[object, object]]
    ranges: dict[str, tuple[float, float]]
    needs_ratio: bool
    instead: str
    minimum: str
    least: Callable[[int, int, dict[str, object]], int]


METHODS: dict[str, Method] = {}  # every registered method by its name


def method(
    function: Callable[..., Reduction] | None = None,
    *,
    name: str | None = None,
    paper: str = "",
    year: int | None = None,
    needs: str = "features",
    kind: str = "prunes",
    minimum: tuple[str, Callable[[int, int, dict[str, object]], int]] | None = None,
    instead: str = "",
) -> Callable:
    """Register a reduction method under its name, so that it appears in `reduce`, the explorer and every plot.

    Parameters
    ----------
    function : called as `function(tokens, budget, **options)` with a VideoTokens and the exact number of
        tokens to return. Its keyword-only arguments with their type hints and defaults are its options;
        `Annotated[float, 0, 1]` gives a number's range. A default for `budget` says that the method can find the
        budget from its options.
    name : registered name; the function's own name with dashes if left out.
    paper, year : the source.
    needs : "features", or "attention" if it also uses the encoder's saliency.
    kind : "prunes" or "merges".
    minimum : what it keeps at least, in words, and as a number of tokens by a function of (T, N, options); None if it
        reaches every budget.
    instead : the option that takes the place of a budget, such as a threshold; None or False while it is off.

    Returns
    -------
    The function, unchanged. Registering a name again replaces it, so that a notebook cell can be run twice.

    Raises
    ------
    VTCError
        If the function takes no `budget`, has an option without a default, or needs or kind is another word.

    Examples
    --------
    >>> import vtc_lab as vtc
    >>> @vtc.method
    ... def first_tokens(tokens, budget):
    ...     return vtc.prune(tokens, torch.arange(budget))
    >>> vtc.reduce(VideoTokens(torch.randn(4, 2, 2, 8)), "first-tokens", ratio=4).ledger
    'kept 4 of 16 tokens, 4.0x, 1 of 4 frames'
    """

    def register(run: Callable[..., Reduction]) -> Callable[..., Reduction]:
        key = name or run.__name__.replace("_", "-")
        hints = typing.get_type_hints(run)
        ranges = {
            option: typing.get_args(hint)[1:]
            for option, hint in typing.get_type_hints(run, include_extras=True).items()
            if typing.get_origin(hint) is typing.Annotated
        }
        parameters = inspect.signature(run).parameters
        options = {
            p.name: (hints.get(p.name, object), p.default) for p in parameters.values() if p.kind is p.KEYWORD_ONLY
        }
        if "budget" not in parameters or any(default is inspect.Parameter.empty for _, default in options.values()):
            raise VTCError(
                f"method {key!r} is called with ({', '.join(parameters)}); "
                "it must take (tokens, budget, *, options), each option with a default"
            )
        needs_ratio = parameters["budget"].default is inspect.Parameter.empty
        for what, word, known in (("needs", needs, ("features", "attention")), ("kind", kind, ("prunes", "merges"))):
            if word not in known:
                raise VTCError(f"method {key!r} has {what}={word!r}; {suggest(word, known)}")
        words, least = minimum or ("", lambda frames, patches, options: 1)
        METHODS[key] = Method(key, run, paper, year, needs, kind, options, ranges, needs_ratio, instead, words, least)
        return run

    return register(function) if function else register


def get_method(name: str) -> Method:
    """The registered method of this name.

    Raises
    ------
    VTCError
        For an unknown name; it offers the nearest ones.
    """
    if not isinstance(name, str) or name not in METHODS:
        raise VTCError(f"no method is called {name!r}; {suggest(name, METHODS)}")
    return METHODS[name]


def methods() -> pd.DataFrame:
    """The registered methods, as a table.

    Returns
    -------
    DataFrame indexed by name: paper, year, what a method needs, whether it prunes or merges, what it keeps at least
    (its minimum), and its options with their defaults; "|" separates the values of a menu, the default first.

    Examples
    --------
    >>> methods().loc["lftr", "paper"]
    'arXiv 2501.17391'
    """
    rows = [
        {
            "name": m.name,
            "paper": m.paper,
            "year": m.year,
            "needs": m.needs,
            "kind": m.kind,
            "minimum": m.minimum or "none",
            "options": ", ".join(f"{key}={_choices(*option)}" for key, option in m.options.items()),
        }
        for m in METHODS.values()
    ]
    return pd.DataFrame(rows).set_index("name").astype({"year": "Int64"})


def _choices(hint: object, default: object) -> str:
    menu = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
    return "|".join([repr(default), *(repr(choice) for choice in menu if choice != default)])


def reduce(tokens: VideoTokens, method: str, ratio: float | None = None, **options: object) -> Reduction:
    """Reduce the tokens of a clip with a registered method to exactly K = max(1, round(M / ratio)).

    Parameters
    ----------
    tokens : the source, M = T * h * w tokens.
    method : a name from `methods()`.
    ratio : total compression, 1 to M. May be left out for a method that takes its budget from its
        options (lftr: `temporal_ratio`, `spatial_ratio`, `min_fidelity`).
    options : the method's own options.

    Returns
    -------
    Reduction, checked against the contract.

    Raises
    ------
    VTCError
        For an unknown method or option, an impossible ratio, saliency that is needed and absent, values that are not
        finite, or a method that breaks the contract; a MinimumBudgetError for a budget below the method's minimum.

    Examples
    --------
    >>> tokens = VideoTokens(torch.randn(16, 8, 8, 32))
    >>> len(reduce(tokens, "lftr", ratio=8)), len(reduce(tokens, "lftr", ratio=8, temporal="select"))
    (128, 128)
    """
    if not isinstance(tokens, VideoTokens):
        raise VTCError(f"reduce was given a {type(tokens).__name__}; wrap the (T, h, w, D) tensor in VideoTokens")
    chosen = get_method(method)
    options = {**{key: default for key, (_, default) in chosen.options.items()}, **options}
    for key, value in options.items():
        check_option(chosen, key, value)
    in_place = finds_budget(method, options)
    if ratio is None and not in_place and (chosen.needs_ratio or chosen.instead):
        other = f", or {chosen.instead} in its place" if chosen.instead else ""
        raise VTCError(f"method {method!r} needs a ratio, from 1 to {tokens.total}{other}")
    if ratio is not None and in_place:
        raise VTCError(
            f"method {method!r} was given {chosen.instead}={options[chosen.instead]!r} and a ratio; give one of the two"
        )
    budget = None if ratio is None else max(1, round(tokens.total / check_ratio("ratio", ratio, tokens.total)))
    if budget is not None:
        _check_minimum(chosen, tokens, budget, options)
    salient = needs_saliency(method, options)
    if salient and tokens.saliency is None:
        by_option = "".join(f" with {key}='attention'" for key, value in options.items() if value == "attention")
        raise VTCError(
            f"method {method!r}{by_option} needs saliency and the tokens by {tokens.encoder or 'this encoder'!r} carry "
            "none; encode with saliency=True, by a model that has a vision tower"
        )
    start = time.perf_counter()
    _check_finite(tokens)
    with few_threads(tokens.values.numel()), torch.no_grad():
        result = chosen.run(tokens, budget, **options)
    if not isinstance(result, Reduction):
        raise VTCError(f"method {method!r} returned a {type(result).__name__}; it must return a Reduction")
    result = replace(result, method=method, options={"ratio": ratio, **options}).check()
    _check_source(tokens, result)
    if budget is not None and len(result) != budget:
        raise VTCError(f"method {method!r} returned {len(result)} tokens for a budget of {budget}; budgets are exact")
    if salient and tokens.saliency_source:
        result = replace(result, notes=(*result.notes, f"saliency: {tokens.saliency_source}"))
    return replace(result, seconds=time.perf_counter() - start)


def check_ratio(name: str, ratio: object, limit: int) -> float:
    """A ratio as a float, if it lies between 1 and limit; a VTCError that says so if not."""
    number = isinstance(ratio, Real) and not isinstance(ratio, bool)
    if not number or not math.isfinite(ratio) or not 1 <= ratio <= limit:
        raise VTCError(f"{name} is {ratio!r}; it must be a number from 1 (keep all) to {limit} (keep one)")
    return float(ratio)


def needs_saliency(method: str, options: dict[str, object]) -> bool:
    """Whether this method with these options looks at the encoder's attention."""
    return get_method(method).needs == "attention" or any(value == "attention" for value in options.values())


def finds_budget(method: str, options: dict[str, object]) -> bool:
    """Whether the option that takes the place of a budget is among these and on."""
    value = options.get(get_method(method).instead)
    return value is not None and value is not False  # 0.0 is a threshold


def _check_minimum(method: Method, tokens: VideoTokens, budget: int, options: dict[str, object]) -> None:
    frames, height, width = tokens.grid
    least = method.least(frames, height * width, options)
    if budget < least:
        raise MinimumBudgetError(
            f"method {method.name!r} keeps {method.minimum}, here {least} of {tokens.total} tokens (ratio "
            f"{tokens.total / least:g} at most); the budget of {budget} is below that minimum"
        )


def check_option(method: Method, key: str, value: object) -> None:
    """Raise a VTCError if the method has no such option, or the option cannot have this value."""
    if key not in method.options:
        raise VTCError(f"method {method.name!r} has no option {key!r}; {suggest(key, method.options)}")
    hint = method.options[key][0]
    if typing.get_origin(hint) is typing.Literal:
        allowed = typing.get_args(hint)
        if value not in allowed:
            raise VTCError(f"{key} is {value!r}; {suggest(value, map(str, allowed))}")
        return
    kinds = [
        k for k in (typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)) if isinstance(k, type)
    ]
    # An int is a fine float, and so are NumPy's numbers.
    accepted = tuple(kinds + [Real] * (float in kinds) + [Integral] * (int in kinds))
    mistaken_flag = isinstance(value, bool) and bool not in kinds and object not in kinds
    if kinds and (mistaken_flag or not isinstance(value, accepted)):
        names = ["None" if k is types.NoneType else k.__name__ for k in kinds]
        raise VTCError(f"{key} is {value!r}; it must be {' or '.join(names)}")
    if key in method.ranges and value is not None:
        low, high = method.ranges[key]
        if not low <= value <= high:
            raise VTCError(f"{key} is {value!r}; it must be a number from {low} to {high}")


def _check_source(tokens: VideoTokens, result: Reduction) -> None:
    made = (result.grid, result.tokens.shape[1], result.tokens.dtype)
    source = (tokens.grid, tokens.values.shape[-1], tokens.values.dtype)
    if made != source:
        raise VTCError(
            f"method {result.method!r} returned grid, channels and dtype {made} for a source of {source}; "
            "they must be the same"
        )


def _check_finite(tokens: VideoTokens) -> None:
    # A sum is finite only if every value is: one cheap pass, and the exact search only when it fails. By blocks,
    # because torch widens all of a half-precision tensor before it sums it.
    if all(bool(tokens.values[part].sum(dtype=torch.float32).isfinite()) for part in blocks(tokens.values)):
        return
    broken = ~tokens.values.isfinite()
    if bool(broken.any()):
        where = tuple(int(i) for i in broken.nonzero()[0][:3])
        raise VTCError(
            f"token values hold {int(broken.sum())} non-finite numbers, the first at (t, y, x) = {where}; "
            "mend the encoder's output before reducing it"
        )
