"""The registry: a decorated function is a method everywhere, and `reduce` is the one way to call it."""

import inspect
import time
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, Protocol

import pandas as pd
import torch
from torch import Tensor

from vtc_lab.reducers.ops import few_threads, wide
from vtc_lab.tokens import MinimumBudgetError, Reduction, VideoTokens, VTCError, demand_one_of, suggest

Least = Callable[[int, int, dict[str, Any]], int]  # (T, N, options) -> the least number of tokens


class Reducer(Protocol):
    """Signature of a method: the tokens, K = 1 to M (None: the options take its place), and options by name."""

    __name__: str

    def __call__(self, tokens: VideoTokens, budget: Any, *args: Any, **options: Any) -> Reduction: ...  # noqa: D102


@dataclass(frozen=True)
class Method:
    """One registered method; `options` maps each name to its (type hint, default), `ranges` some to (low, high)."""

    name: str
    run: Callable[..., Any]  # a Reducer, or what returns the cuts of a method inside
    paper: str
    year: int | None
    needs: str
    kind: str
    options: dict[str, tuple[Any, Any]]
    ranges: dict[str, tuple[float, float]]
    needs_ratio: bool
    instead: str
    minimum: str
    least: Least
    ours: str
    stage: str = "before"

    @property
    def defaults(self) -> dict[str, Any]:
        """The default of each option."""
        return {name: default for name, (_, default) in self.options.items()}


METHODS: dict[str, Method] = {}  # every registered method by its name
INSIDE: dict[str, Method] = {}  # those that work inside the language model


def method(
    function: Reducer | None = None,
    *,
    name: str | None = None,
    paper: str = "",
    year: int | None = None,
    needs: str = "features",
    kind: str = "prunes",
    minimum: tuple[str, Least] | None = None,
    instead: str = "",
    ours: str = "",
) -> Callable[..., Any]:
    """Register a reduction method under its name, so that it appears in `reduce`, the explorer and every plot.

    Registering a name again replaces the method, so that a notebook cell can be run twice. Returns the function itself.

    Parameters
    ----------
    function : called as `function(tokens, budget, **options)` with a VideoTokens and the exact number of tokens to
        return. Its keyword-only arguments, with type hints and defaults, are its options; `Annotated[float, 0, 1]`
        gives the range of a number. A default for `budget` says that the options can take its place.
    name : registered name; by default the function's own, with dashes.
    paper, year : the source.
    needs : "features"; "attention" if it also uses the encoder's saliency; "evidence" for a ceiling, which knows what
        is asked and is not listed by `methods`.
    kind : "prunes" or "merges".
    minimum : the minimum budget, in words and as a function of (T, N, options); None if every budget is possible.
    instead : the option that takes the place of a budget, such as a threshold; None or False while it is off.
    ours : the choices, in words, that the source does not settle and that are therefore this project's own.

    Examples
    --------
    >>> import vtc_lab as vtc
    >>> @vtc.method
    ... def first_tokens(tokens, budget):
    ...     return vtc.prune(tokens, torch.arange(budget))
    >>> vtc.reduce(VideoTokens(torch.randn(4, 2, 2, 8)), "first-tokens", ratio=4).ledger
    'kept 4 of 16 tokens, 4.0x, 1 of 4 frames'
    """

    def register(run: Reducer) -> Reducer:
        key = name or run.__name__.replace("_", "-")
        options, ranges = described(run)
        parameters = inspect.signature(run).parameters
        if "budget" not in parameters or any(default is inspect.Parameter.empty for _, default in options.values()):
            raise VTCError(
                f"method {key!r} is called with ({', '.join(parameters)}); "
                "it must take (tokens, budget, *, options), each option with a default"
            )
        if "stage" in options:
            raise VTCError(f"method {key!r} has an option 'stage', which `reduce_clip` and `sweep` take; rename it")
        if needs != "evidence":  # which is for ceilings, and offered to nobody
            demand_one_of(f"needs of method {key!r}", needs, ("features", "attention"))
        demand_one_of(f"kind of method {key!r}", kind, ("prunes", "merges"))
        needs_ratio = parameters["budget"].default is inspect.Parameter.empty
        words, least = minimum or ("", lambda frames, patches, options: 1)
        METHODS[key] = Method(
            key, run, paper, year, needs, kind, options, ranges, needs_ratio, instead, words, least, ours
        )
        return run

    return register(function) if function else register


def described(run: Callable[..., Any]) -> tuple[dict[str, tuple[Any, Any]], dict[str, tuple[float, float]]]:
    """Return the type hint and default of each option of a function, and the range of some."""
    hints = typing.get_type_hints(run, include_extras=True)
    ranges = {o: hint.__metadata__ for o, hint in hints.items() if typing.get_origin(hint) is typing.Annotated}
    hints = typing.get_type_hints(run)
    parameters = inspect.signature(run).parameters.values()
    options = {p.name: (hints.get(p.name, object), p.default) for p in parameters if p.kind is p.KEYWORD_ONLY}
    return options, ranges


def is_ceiling(name: str) -> bool:
    """Return True for a method that knows where the answers are, so that it is drawn apart and ranked nowhere."""
    return name in METHODS and METHODS[name].needs == "evidence"


def get_method(name: str) -> Method:
    """Return the method of this name; a VTCError for an unknown one offers the nearest."""
    demand_one_of("method", name, METHODS)
    return METHODS[name]


def methods(stage: typing.Literal["before", "inside"] = "before") -> pd.DataFrame:
    """Return the registered methods as a table.

    It is indexed by name, with columns paper, year, needs ("features" or "attention"), kind ("prunes" or "merges"),
    minimum (its minimum budget in words), options with their defaults ("|" separates the choices of a menu, the default
    first) and ours (choices that its source does not settle, so that they are this project's own). `stage` is "before"
    the language model, or "inside" for those that `vtc.inside` runs.

    Examples
    --------
    >>> methods().loc["lftr", "paper"]
    'arXiv 2501.17391'
    >>> methods(stage="inside").loc["fastv", "options"]
    'keep=0.5, layer=2'
    """
    columns = ["name", "paper", "year", "needs", "kind", "minimum", "options", "ours"]
    demand_one_of("stage", stage, ("before", "inside"))
    known = [each for each in (METHODS if stage == "before" else INSIDE).values() if each.needs != "evidence"]
    table = pd.DataFrame([vars(each) for each in known])[columns].astype({"year": "Int64"})
    table["minimum"] = table["minimum"].replace("", "none")
    options = [each.options.items() for each in known]
    table["options"] = [", ".join(f"{key}={_choices(*option)}" for key, option in some) for some in options]
    return table.set_index("name")


def _choices(hint: object, default: object) -> str:
    menu = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
    return "|".join([repr(default), *(repr(choice) for choice in menu if choice != default)])


def reduce(tokens: VideoTokens, method: str, ratio: float | None = None, **options: object) -> Reduction:
    """Reduce the tokens of a clip with a registered method to exactly K = max(1, round(M / ratio)).

    Parameters
    ----------
    tokens : the source, M = T * h * w tokens, all finite.
    method : a name from `methods()`.
    ratio : total compression, 1 to M. None for a method that takes its budget from its options (lftr:
        `temporal_ratio`, `spatial_ratio`, `min_fidelity`).
    options : the method's own options.

    Returns
    -------
    Reduction, checked against the contract. A budget below the method's minimum raises a MinimumBudgetError; a method
    that writes into the tokens or returns non-finite numbers raises a VTCError.

    Examples
    --------
    >>> tokens = VideoTokens(torch.randn(16, 8, 8, 32))
    >>> len(reduce(tokens, "lftr", ratio=8)), len(reduce(tokens, "lftr", ratio=8, temporal="select"))
    (128, 128)
    """
    if not isinstance(tokens, VideoTokens):
        raise VTCError(f"reduce was given a {type(tokens).__name__}; wrap the (T, h, w, D) tensor in VideoTokens")
    chosen = get_method(method)
    options = chosen.defaults | options
    for key, value in options.items():
        check_option(chosen, key, value)
    budget = _budget(chosen, tokens, ratio, options)
    salient = needs_saliency(method, options)
    if salient and tokens.saliency is None:
        by_option = "".join(f" with {key}='attention'" for key, value in options.items() if value == "attention")
        raise VTCError(
            f"method {method!r}{by_option} needs saliency and the tokens by {tokens.encoder or 'this encoder'!r} carry "
            "none; encode with saliency=True, by a model that has a vision tower"
        )
    start = time.perf_counter()
    _check_finite(tokens)
    before = _state(tokens)
    with few_threads(tokens.values.numel()), torch.no_grad():
        seen = tokens if is_ceiling(method) else replace(tokens, evidence=None)  # no other method may peek
        result = chosen.run(seen, budget, **options)
    if _state(tokens) != before:
        raise VTCError(f"method {method!r} wrote into the tokens that it was given; let it work on a copy of them")
    if not isinstance(result, Reduction):
        raise VTCError(f"method {method!r} returned a {type(result).__name__}; it must return a Reduction")
    result = replace(result, method=method, options={"ratio": ratio, **options}).check()
    for field, numbers in (("tokens", result.tokens), ("weights", result.weight)):
        if broken := _non_finite(numbers):
            raise VTCError(f"method {method!r} returned {broken} non-finite numbers in its {field}; none may be")
    made = (result.grid, result.tokens.shape[1], result.tokens.dtype)
    source = (tokens.grid, tokens.values.shape[-1], tokens.values.dtype)
    if made != source:
        raise VTCError(f"method {method!r} returned grid, channels and dtype {made}; the source has {source}")
    if budget is not None and len(result) != budget:
        raise VTCError(f"method {method!r} returned {len(result)} tokens for a budget of {budget}; budgets are exact")
    if salient and tokens.saliency_source:
        result = replace(result, notes=(*result.notes, f"saliency: {tokens.saliency_source}"))
    return replace(result, seconds=time.perf_counter() - start)


def _budget(method: Method, tokens: VideoTokens, ratio: float | None, options: dict[str, Any]) -> int | None:
    """The number of tokens for this ratio, None where the options find it."""
    in_place, total = finds_budget(method.name, options), tokens.total
    if ratio is None:
        if not in_place and (method.needs_ratio or method.instead):
            other = f", or {method.instead} in its place" if method.instead else ""
            raise VTCError(f"method {method.name!r} needs a ratio, from 1 to {total}{other}")
        return None
    if in_place:
        given = f"{method.instead}={options[method.instead]!r}"
        raise VTCError(f"method {method.name!r} was given {given} and a ratio; give one of the two")
    budget = max(1, round(total / check_ratio("ratio", ratio, total)))
    least = method.least(len(tokens), total // len(tokens), options)
    if budget < least:
        raise MinimumBudgetError(
            f"method {method.name!r} keeps {method.minimum}, here {least} of {total} tokens (ratio {total / least:g} "
            f"at most); the budget of {budget} is below that minimum"
        )
    return budget


def check_ratio(name: str, ratio: object, limit: int) -> float:
    """Return a ratio as a float; a VTCError if it is not a number from 1 to limit."""
    if not isinstance(ratio, Real) or isinstance(ratio, bool) or not _within(ratio, 1, limit):
        raise VTCError(f"{name} is {ratio!r}; it must be a number from 1 (keep all) to {limit} (keep one)")
    return float(ratio)


def needs_saliency(method: str, options: dict[str, Any]) -> bool:
    """Return whether this method with these options looks at the encoder's attention."""
    return get_method(method).needs == "attention" or any(value == "attention" for value in options.values())


def finds_budget(method: str, options: dict[str, Any]) -> bool:
    """Return True if the option that replaces a budget is set."""
    value = options.get(get_method(method).instead)
    return value is not None and value is not False  # 0.0 is a threshold


def check_option(method: Method, key: str, value: object) -> None:
    """Raise a VTCError if the method has no such option, or the option cannot have this value."""
    if key not in method.options:
        raise VTCError(f"method {method.name!r} has no option {key!r}; {suggest(key, method.options)}")
    hint = method.options[key][0]
    if typing.get_origin(hint) is typing.Literal:
        demand_one_of(key, value, typing.get_args(hint))
        return
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    kinds = tuple(k for k in kinds if isinstance(k, type))
    # An int will do for a float, and so will NumPy's numbers.
    accepted = kinds + (Real,) * (float in kinds) + (Integral,) * (int in kinds)
    mistaken_flag = isinstance(value, bool) and bool not in kinds and object not in kinds
    if kinds and (mistaken_flag or not isinstance(value, accepted)):
        names = ["None" if k is types.NoneType else k.__name__ for k in kinds]
        raise VTCError(f"{key} is {value!r}; it must be {' or '.join(names)}")
    if isinstance(value, Integral) and int(value).bit_length() > 63:
        raise VTCError(f"{key} is {value!r:.40}; it must be below 2**63")
    if key in method.ranges and isinstance(value, Real):
        low, high = method.ranges[key]
        if not _within(value, low, high):
            raise VTCError(f"{key} is {value!r}; it must be a number from {low} to {high}")


def _within(value: Any, low: float, high: float) -> bool:
    return bool(low <= value <= high)  # as it is: float(10**400) would raise


def _state(tokens: VideoTokens) -> list[Any]:
    """Return version counters and sums that change when a method writes into its input."""
    # torch counts no write to tensors made in inference mode, which are summed whole. A write through `.data` or NumPy
    # is not counted either; it shows in the sums of one token in 16, if it is not made to a few tokens alone.
    found: list[Any] = []
    for each in [tokens.values] if tokens.saliency is None else [tokens.values, tokens.saliency]:
        version, sample = (None, each) if each.is_inference() else (each._version, each[:, ::4, ::4])
        found += [version, _sums(sample).cpu().numpy().tobytes()]
    return found


def _sums(values: Tensor) -> Tensor:
    """Return float32 sums over the last axis; one is finite only if all its values are."""
    values = values.detach()
    sums = torch.empty(*values.shape[:-1], 1, device=values.device)
    for part in wide(values):  # small results between freed blocks would keep the heap from using these again
        torch.sum(values[part], -1, keepdim=True, dtype=torch.float32, out=sums[part])
    return sums


def _check_finite(tokens: VideoTokens) -> None:
    if bool(_sums(tokens.values).isfinite().all()):
        return
    broken = ~tokens.values.isfinite()
    if bool(broken.any()):
        where = tuple(int(i) for i in broken.nonzero()[0][:3])
        raise VTCError(
            f"token values hold {int(broken.sum())} non-finite numbers, the first at (t, y, x) = {where}; "
            "fix the encoder's output before reducing it"
        )


def _non_finite(numbers: Tensor) -> int:
    return 0 if bool(_sums(numbers).isfinite().all()) else int((~numbers.isfinite()).sum())
