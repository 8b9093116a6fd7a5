"""A sweep beside the published record: its accuracy relative to no reduction, and how far its ranking agrees."""

import numpy as np
import pandas as pd

from vtc_lab.sweeps.tidy import (
    answered,
    at_ratio,
    bounds,
    counted,
    demand,
    enough,
    resamples,
    tidy,
    uncompressed,
    uneven,
)
from vtc_lab.tokens import VTCError

COMPARISON = ["backbone", "source", "table", "frames", "benchmark"]  # published figures compare if they share these
_NEEDS = [*COMPARISON, "method", "registered", "retained", "budget", "metric", "relative"]


def comparable(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the published accuracies at a share of the tokens, each once, though some are printed in per cent too."""
    demand(rows, _NEEDS)
    known = rows.reset_index(drop=True).dropna(subset=["retained", "relative"])
    known = known.sort_values("metric", kind="stable")  # "accuracy" comes first
    if known.empty:
        raise VTCError(f"none of the {len(rows)} published rows is an accuracy at a share of the tokens; choose others")
    return known.drop_duplicates([*COMPARISON, "method", "retained"]).sort_index()


def relative_accuracy(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a sweep's accuracy in per cent of that with every token, and its resamples over clips.

    The first are cells of label and ratio, with relative, low and high (95 %) beside the columns of
    `bootstrap_interval`, the second a (draws, cells) table. Each is over the samples that have both answers.

    >>> table = pd.DataFrame({"label": "lftr", "ratio": [1, 4] * 2, "clip": [*"aabb"], "kept": [64, 16] * 2,
    ...                       "total": 64, "sample": [1, 1, 2, 2], "right": [True, True, True, False]})
    >>> relative_accuracy(table)[0].relative.tolist()
    [100.0, 50.0]
    """
    table = tidy(table, "right", ["clip", "ratio", "kept", "total"])
    full = table["sample"].map(uncompressed(table).groupby("sample").value.first())
    table["value"] = table.value.where(full.notna())
    table["answered"] = answered(table)
    by = ["label", "method", "ratio"]
    cells, ours, _ = counted(table, by)
    _, bases, _ = counted(table.assign(value=full.where(table.value.notna())), by)
    times = resamples(len(ours))
    drawn = 100 * pd.DataFrame(times @ ours) / (times @ bases)
    cells["relative"] = 100 * pd.Series(ours.sum(0)) / bases.sum(0)
    cells[["low", "high"]] = bounds(drawn, cells.clips)
    return cells, drawn


def rank_agreement(table: pd.DataFrame, rows: pd.DataFrame, ratio: float) -> pd.DataFrame:
    """Return Kendall's tau between a sweep's ranking of methods and that of each published table.

    Methods are ranked by their relative accuracy at one ratio. Those that both have count, with their options as they
    are by default, unless some of their results are missing. Papers give no answers by sample, so the interval is over
    the sweep's clips alone: it says how certain one's own ranking is, and p says what so few methods can show.

    Parameters
    ----------
    table : tidy, as `vtc.sweep` gives it, with ratio 1.
    rows : of `published`.
    ratio : one of the sweep's, such as 4; papers' figures at a share of 1/ratio, within 1 %, are compared with it.

    Returns
    -------
    DataFrame with a row for each published table that has three of the methods or more:

    - backbone, source, table, frames, benchmark, ratio;
    - n, methods: how many both have, and their names in the paper's order, best first;
    - tau, low, high: Kendall's tau-b (1: the same order, -1: the reverse), and its 95 % bootstrap interval over clips,
      NaN with one clip;
    - p: two-sided, of a tau this far from 0 or farther if the order were chance; exact where no two methods tie.

    Source: Kendall (1938), "A new measure of rank correlation".

    Examples
    --------
    >>> from vtc_lab.qa.literature import published
    >>> rows = published(backbone="LLaVA-OneVision-7B", benchmark="average", source="FlashVID (2602.08024)")
    >>> table = pd.DataFrame({"method": ["fastvid", "flashvid", "visionzip"] * 4, "ratio": [1, 1, 1, 4, 4, 4] * 2,
    ...                       "clip": [*"aaaaaabbbbbb"], "kept": [64] * 3 + [16] * 3 + [64] * 3 + [16] * 3, "total": 64,
    ...                       "right": [1, 1, 1, 0.8, 0.9, 0.7] * 2})
    >>> rank_agreement(table, rows, 4)[["methods", "tau"]].round(2).values.tolist()
    [['flashvid, visionzip, fastvid', 0.33]]
    """
    from scipy.stats import kendalltau  # here, because scipy.stats takes half a second to import

    cells, drawn = relative_accuracy(table)
    whole = cells[(cells.label == cells.method) & ~uneven(cells)]
    mine = at_ratio(whole, ratio)
    if mine.empty:
        there = ", ".join(f"{other:g}" for other in sorted(whole.ratio.dropna().unique()))
        raise VTCError(f"no method has all results at ratio {ratio!r:.60}; there are some at: {there or 'none'}")
    place = pd.Series(mine.index, mine.method)
    theirs = comparable(rows)
    theirs = theirs[np.isclose(theirs.retained * ratio, 1, rtol=0, atol=0.01) & theirs.registered.isin(place.index)]
    found = []
    for _, group in theirs.groupby(COMPARISON, sort=False, dropna=False):
        if len(group) < 3:
            continue
        group = group.sort_values("relative", ascending=False, kind="stable")
        at = place[group.registered].to_numpy()
        tau, p = kendalltau(cells.relative[at], group.relative)
        draws_of_tau = pd.Series(_tau(drawn[at].to_numpy(), group.relative.to_numpy()))
        low, high = draws_of_tau.quantile([0.025, 0.975]) if enough(cells.clips[at]).all() else (np.nan, np.nan)
        names = {"ratio": ratio, "n": len(group), "methods": ", ".join(group.registered)}
        found.append({**group[COMPARISON].iloc[0], **names, "tau": tau, "low": low, "high": high, "p": p})
    if not found:
        common = ", ".join(theirs.registered.unique()) or "none"
        raise VTCError(
            f"no published table has three of the sweep's methods at {1 / ratio:.3g} of the tokens; "
            f"of {', '.join(place.index)} the rows have {common}"
        )
    return pd.DataFrame(found)


def _tau(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Return Kendall's tau-b of each row of (draws, methods) with (methods,), NaN where all methods tie."""
    a, b = (np.sign(x[..., :, None] - x[..., None, :]) for x in (ours, theirs))
    with np.errstate(invalid="ignore"):
        return (a * b).sum((-1, -2)) / np.sqrt((a**2).sum((-1, -2)) * (b**2).sum((-1, -2)))
