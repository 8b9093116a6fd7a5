"""Sweep over features alone: the fidelity of every clip under every method at every ratio."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import pandas as pd

from vtc_lab.measures import fidelity
from vtc_lab.reducers.registry import reduce
from vtc_lab.sweeps.jobs import failure
from vtc_lab.sweeps.plan import Chosen, settings_of
from vtc_lab.sweeps.progress import with_bar
from vtc_lab.tokens import VideoTokens, VTCError, demand


def fidelity_sweep(
    clips: Mapping[str, VideoTokens], methods: Sequence[Chosen], ratios: Sequence[float] = (1, 2, 4, 8, 16)
) -> pd.DataFrame:
    """Return the fidelity of clips' tokens under every method and ratio, as a table that the plots take.

    Parameters
    ----------
    clips : the tokens of each clip by its name.
    methods : registered names, or pairs of a name and its options.
    ratios : each 1 or more.

    Returns
    -------
    DataFrame with sample and clip (the clip's name), method, label, ratio, kept, total, the measures of `fidelity`,
    reduce_s, status ("ok"; "minimum" where the method cannot keep the budget; "error" where it failed) and error,
    in words. Rows that are not ok have no result.

    Examples
    --------
    >>> import torch
    >>> table = fidelity_sweep({"noise": VideoTokens(torch.randn(4, 2, 2, 8))}, ["evs", "uniform"], [4, 8])
    >>> table.status.tolist(), table.kept.tolist()
    (['ok', 'minimum', 'ok', 'ok'], [4.0, nan, 4.0, 2.0])
    """
    if not isinstance(clips, Mapping) or not clips:
        raise VTCError(f"clips are {clips!r:.60}; give a dict of names and VideoTokens")
    for tokens in clips.values():
        demand(VideoTokens, tokens)
    settings = settings_of(methods, ratios, [0])
    if stages := {setting.stage for setting in settings} - {"features"}:
        raise VTCError(f"stage={min(stages)!r} decides before there are features; leave it out, or take vtc.sweep")
    rows = []
    for (clip, tokens), setting in with_bar(list(product(clips.items(), settings))):
        row: dict[str, Any] = {"sample": clip, "clip": clip, "method": setting.method, "label": setting.label}
        row |= {"ratio": setting.ratio, "total": tokens.total}
        try:
            reduced = reduce(tokens, setting.method, ratio=setting.ratio, **setting.options)
        except Exception as error:  # whatever a user's method raises, the rest goes on
            failed = failure(error)
            rows.append(row | {"status": failed.status, "error": failed.error})
            continue
        row |= {"kept": len(reduced), "reduce_s": reduced.seconds, "status": "ok", "error": ""}
        rows.append(row | fidelity(tokens, reduced))
    return pd.DataFrame(rows)
