"""Fidelity against compression, from features alone: every clip under every method at every ratio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from vtc_lab.measures import fidelity
from vtc_lab.reducers.registry import get_method, reduce
from vtc_lab.tokens import MinimumBudgetError, VideoTokens, VTCError


def fidelity_sweep(
    clips: Mapping[str, VideoTokens],
    methods: Sequence[str | tuple[str, Mapping[str, object]]],
    ratios: Sequence[float] = (1, 2, 4, 8, 16),
    measures: str | Sequence[str] | None = None,
) -> pd.DataFrame:
    """Fidelity of the tokens of some clips under every method and ratio, as a table that the plots take.

    Parameters
    ----------
    clips : the tokens of each clip by its name.
    methods : registered names, or pairs of a name and its options.
    ratios : each from 1 to the number of tokens of a clip.
    measures : as `fidelity` takes them.

    Returns
    -------
    DataFrame with sample and clip (the clip's name), method, label, ratio, kept, total, a column for each measure,
    reduce_s, status ("ok"; "minimum" where the method cannot go down to the budget; "error" where it failed) and error,
    in words. Rows that are not ok have no result.

    Raises
    ------
    VTCError
        If there are no clips, for an unknown method or measure, or if methods or ratios are no lists.

    Examples
    --------
    >>> import torch
    >>> table = fidelity_sweep({"noise": VideoTokens(torch.randn(4, 2, 2, 8))}, ["evs", "uniform"], [4, 8])
    >>> table.status.tolist(), table.kept.tolist()
    (['ok', 'minimum', 'ok', 'ok'], [4.0, nan, 4.0, 2.0])
    """
    if not isinstance(clips, Mapping) or not clips:
        raise VTCError(f"clips are {clips!r:.60}; give a dict of names and VideoTokens")
    for name, values in {"methods": methods, "ratios": ratios}.items():
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise VTCError(f"{name} is {values!r}; give a list")
    rows = []
    for clip, tokens in clips.items():
        for entry in methods:
            name, options = entry if isinstance(entry, tuple) else (entry, {})
            changed = ", ".join(f"{key}={value}" for key, value in options.items())
            label = f"{get_method(name).name} ({changed})" if changed else get_method(name).name
            for ratio in ratios:
                row = {"sample": clip, "clip": clip, "method": name, "label": label, "ratio": float(ratio)}
                row["total"] = tokens.total
                try:
                    reduced = reduce(tokens, name, ratio=ratio, **options)
                except Exception as error:  # whatever a user's method raises, the rest goes on
                    words = str(error) if isinstance(error, VTCError) else f"{type(error).__name__}: {error}"
                    rows.append(
                        row
                        | {"status": "minimum" if isinstance(error, MinimumBudgetError) else "error", "error": words}
                    )
                    continue
                done = {"kept": len(reduced), "reduce_s": reduced.seconds, "status": "ok", "error": ""}
                rows.append(row | done | fidelity(tokens, reduced, measures))
    return pd.DataFrame(rows)
