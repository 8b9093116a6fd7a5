"""The registry: a decorated function is a method everywhere, and `reduce` is the one way to call it."""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, replace

import pandas as pd
import torch

from vtc_lab.tokens import Reduction, VideoTokens, VTCError, suggest


@dataclass(frozen=True)
class Method:
    """One registered method; `options` maps each name to its (type hint, default)."""

    name: str
    run: Callable[..., Reduction]
    paper: str
    year: int | None
    needs: str
    kind: str
    options: dict[str, tuple[object, object]]
    needs_ratio: bool


_METHODS: dict[str, Method] = {}


def method(
    function: Callable[..., Reduction] | None = None,
    *,
    name: str | None = None,
    paper: str = "",
    year: int | None = None,
    needs: str = "features",
    kind: str = "prunes",
) -> Callable:
    """Register a reduction method under its name, so that it appears in `reduce`, the explorer and every plot.

    Parameters
    ----------
    function : called as `function(tokens, budget, **options)` with a VideoTokens and the exact number of
        tokens to return. Its keyword-only arguments with their type hints and defaults are its options.
        A default for `budget` says that the method can find the budget from its options.
    name : registered name; the function's own name with dashes if left out.
    paper, year : the source.
    needs : "features", or "attention" if it also uses the encoder's saliency.
    kind : "prunes" or "merges".

    Returns
    -------
    The function, unchanged. Registering a name again replaces it, so that a notebook cell can be run twice.

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
        parameters = inspect.signature(run).parameters.values()
        options = {p.name: (hints.get(p.name, object), p.default) for p in parameters if p.kind is p.KEYWORD_ONLY}
        needs_ratio = inspect.signature(run).parameters["budget"].default is inspect.Parameter.empty
        _METHODS[key] = Method(key, run, paper, year, needs, kind, options, needs_ratio)
        return run

    return register(function) if function else register


def get_method(name: str) -> Method:
    """The registered method of this name.

    Raises
    ------
    VTCError
        For an unknown name; it offers the nearest ones.
    """
    if name not in _METHODS:
        raise VTCError(f"no method is called {name!r}; {suggest(name, _METHODS)}")
    return _METHODS[name]


def methods() -> pd.DataFrame:
    """The registered methods: name, paper, year, what they need, prune or merge, and their options with defaults.

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
            "options": ", ".join(f"{key}={default!r}" for key, (_, default) in m.options.items()),
        }
        for m in _METHODS.values()
    ]
    return pd.DataFrame(rows).set_index("name").astype({"year": "Int64"})


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
        For an unknown method or option, an impossible ratio, values that are not finite, or a
        method that breaks the contract.

    Examples
    --------
    >>> tokens = VideoTokens(torch.randn(16, 8, 8, 32))
    >>> len(reduce(tokens, "lftr", ratio=8)), len(reduce(tokens, "lftr", ratio=8, temporal="select"))
    (128, 128)
    """
    chosen = get_method(method)
    options = {**{key: default for key, (_, default) in chosen.options.items()}, **options}
    for key, value in options.items():
        _check_option(chosen, key, value)
    if ratio is None and chosen.needs_ratio:
        raise VTCError(f"method {method!r} needs a ratio, from 1 to {tokens.total}")
    budget = None if ratio is None else max(1, round(tokens.total / check_ratio("ratio", ratio, tokens.total)))
    _check_finite(tokens)
    result = chosen.run(tokens, budget, **options).check()
    if budget is not None and len(result) != budget:
        raise VTCError(f"method {method!r} returned {len(result)} tokens for a budget of {budget}; budgets are exact")
    return replace(result, method=method, options={"ratio": ratio, **options})


def check_ratio(name: str, ratio: object, limit: int) -> float:
    """A ratio as a float, if it lies between 1 and limit; a VTCError that says so if not."""
    number = isinstance(ratio, (int, float)) and not isinstance(ratio, bool)
    if not number or not math.isfinite(ratio) or not 1 <= ratio <= limit:
        raise VTCError(f"{name} is {ratio!r}; it must be a number from 1 (keep all) to {limit} (keep one)")
    return float(ratio)


def _check_option(method: Method, key: str, value: object) -> None:
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
    accepted = tuple(kinds + [int] * (float in kinds))  # an int is a fine float
    mistaken_flag = isinstance(value, bool) and bool not in kinds and object not in kinds
    if kinds and (mistaken_flag or not isinstance(value, accepted)):
        raise VTCError(f"{key} is {value!r}; it must be {' or '.join(k.__name__ for k in kinds)}")


def _check_finite(tokens: VideoTokens) -> None:
    # A sum is finite only if every value is: one cheap pass, and the exact search only when it fails.
    if bool(tokens.values.sum(dtype=torch.float32).isfinite()):
        return
    broken = ~tokens.values.isfinite()
    if bool(broken.any()):
        where = tuple(int(i) for i in broken.nonzero()[0][:3])
        raise VTCError(
            f"token values hold {int(broken.sum())} non-finite numbers, the first at (t, y, x) = {where}; "
            "mend the encoder's output before reducing it"
        )
