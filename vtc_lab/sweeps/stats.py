"""What a sweep's table can and cannot claim: intervals over clips, paired tests, one number for a curve.

Questions of one clip are not independent, so everything here resamples or flips whole clips. A row without a result (a
minimum, an error) is never a zero and never a silent gap: it is counted as missing beside each number that lacks it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from vtc_lab.sweeps.tidy import (
    EVERYTHING,
    NOT_RUN,
    by_cluster,
    demand_clips,
    differences,
    intervals,
    of_curves,
    quantiles,
    ratio_of,
    resamples,
    tidy,
    whole_seed,
    with_budgets,
)
from vtc_lab.tokens import VTCError


def bootstrap_interval(
    table: pd.DataFrame,
    value: str = "right",
    by: str | Sequence[str] = ("label", "ratio"),
    cluster: str = "clip",
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Means with percentile bootstrap intervals that resample whole clips.

    All groups share the same resamples of clips, so differences between their means are paired.

    Parameters
    ----------
    table : tidy, one row a result, as `vtc.sweep` gives it; any numeric column can be the value.
    value : column to average; true counts as 1.
    by : columns that make the groups.
    cluster : column whose values are resampled as a whole, two or more.
    level : of the interval, between 0 and 1.
    draws : number of resamples.
    seed : of the resamples.

    Returns
    -------
    DataFrame with the columns of `by`, mean, low, high, n (rows with a result), clips (that have one), missing (rows
    without; of these: minimum, error, and everywhere, rows of samples that have no result under any setting of the
    table), the mean of each budget that the table has (kept, total), and value (its name). All means are
    over the n rows: where missing is more than everywhere, they are over other samples than the rest and do not
    compare. A group of fewer than two clips has no interval (NaN), one without results no mean either.

    Raises
    ------
    VTCError
        For an empty table, one of several models or ways of asking, a missing or non-numeric column, or fewer than two
        clips.

    Notes
    -----
    The cluster bootstrap: Davison and Hinkley, "Bootstrap Methods and their Application", section 3.8. With few clips
    percentile intervals are somewhat too short.

    Examples
    --------
    >>> table = pd.DataFrame({"method": "lftr", "ratio": 4, "clip": [*"aabb"], "right": [True, True, False, None]})
    >>> bootstrap_interval(table)[["label", "ratio", "mean", "n", "clips", "missing"]].values.tolist()
    [['lftr', 4.0, 0.666..., 3, 2, 1]]
    """
    table = tidy(table, value, needs=(cluster,))
    demand_clips(table, cluster)
    by = [by] if isinstance(by, str) else list(by)
    result = intervals(table, by, cluster, level=level, draws=draws, seed=seed)
    return with_budgets(result, table, by).assign(value=value)


def compare(
    table: pd.DataFrame,
    reference: str = EVERYTHING,
    value: str = "right",
    *,
    level: float = 0.95,
    draws: int = 2000,
    permutations: int = 9999,
    seed: int = 0,
) -> pd.DataFrame:
    """Paired tests of every label at every ratio against the uncompressed run, or against another label.

    Parameters
    ----------
    table : tidy, as `vtc.sweep` gives it, with a column sample.
    reference : "everything" for the uncompressed run, which is taken from the rows with ratio 1 of whatever label; or a
        label of the table, compared at the same ratio.
    value : column to compare; true counts as 1.
    level, draws : of the interval of the difference, as in `bootstrap_interval`.
    permutations : random sign flips for the permutation test; all of them if there are no more. Its smallest p is
        2 / (permutations + 1), so take more for a table of hundreds of rows, which Holm multiplies it by.
    seed : of resamples and flips.

    Returns
    -------
    DataFrame with a row for each label and ratio above 1:

    - label, ratio, reference, n (samples that both sides answered), missing (the table's samples that one did not; of
      these, by the label's rows: minimum, error, and everywhere, without a difference in any row);
    - difference, low, high: mean of label minus reference over the n samples, with the clustered interval;
    - gained, lost: samples where the label is better or worse;
    - p_mcnemar: exact and two-sided, for values that are true or false; it takes samples for independent;
    - p_permutation: two-sided, flips the signs of whole clips' differences, so samples of a clip may depend;
    - p_holm: p_permutation after Holm's correction over all rows of this table.

    Where a sample was answered under several seeds its value is their mean; gained, lost and p_mcnemar take the first
    seed, because repeated answers are no new samples.

    Raises
    ------
    VTCError
        For an unknown reference, a table without ratio 1 where that is the reference, and as `bootstrap_interval`.

    Notes
    -----
    McNemar (1947); Holm (1979), both from statsmodels; the permutation test is scipy's with "samples".

    Examples
    --------
    >>> table = pd.DataFrame({"label": ["lftr"] * 8, "ratio": [1, 8] * 4, "sample": [1, 1, 2, 2, 3, 3, 4, 4],
    ...                       "clip": [*"aaaabbbb"], "right": [1, 0, 1, 1, 1, 0, 1, 0]})
    >>> compare(table)[["n", "difference", "gained", "lost", "p_mcnemar", "p_permutation"]].values.tolist()
    [[4.0, -0.75, 0.0, 3.0, 0.25, 0.5]]
    """
    # Imported where they are used: the two take a second, which who only looks at a clip need not wait for.
    from statsmodels.stats.contingency_tables import mcnemar
    from statsmodels.stats.multitest import multipletests

    table = tidy(table, value, needs=("clip", "sample", "ratio"))
    demand_clips(table, "clip")
    samples = table["sample"].nunique()
    pairs = differences(table, reference)
    pairs = pairs[pairs.ratio != 1]
    if pairs.empty:
        raise VTCError(f"the table has nothing to compare with {reference!r}; sweep a second method or a ratio above 1")
    keys = ["label", "ratio"]
    result = intervals(pairs, keys, level=level, draws=draws, seed=seed).drop(columns="missing")
    result = result.rename(columns={"mean": "difference"}).assign(reference=reference, missing=samples - result.n)
    first = pairs.groupby(keys, sort=False, dropna=False)["first"]
    result["gained"] = first.agg(lambda d: (d > 0).sum()).to_numpy()
    result["lost"] = first.agg(lambda d: (d < 0).sum()).to_numpy()
    binary = table.value.dropna().isin((0, 1)).all()
    result["p_mcnemar"] = [
        mcnemar([[0, gained], [lost, 0]], exact=True).pvalue if binary and n else np.nan
        for gained, lost, n in zip(result.gained, result.lost, result.n, strict=True)
    ]
    result["p_permutation"] = _flip_signs(pairs, keys, permutations, seed)
    tested = result.p_permutation.notna()
    result["p_holm"] = np.nan
    if tested.any():
        result.loc[tested, "p_holm"] = multipletests(result.p_permutation[tested], method="holm")[1]
    tests = ["gained", "lost", "p_mcnemar", "p_permutation", "p_holm", "missing", "minimum", "error", "everywhere"]
    return result[[*keys, "reference", "n", "clips", "difference", "low", "high", *tests]]


def area_under_curve(
    table: pd.DataFrame, value: str = "right", *, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """One number for a label: the mean height of its curve over the logarithm of the tokens kept.

    Parameters
    ----------
    table : tidy, as `vtc.sweep` gives it, with two or more ratios.
    value : column whose curve it is; for one in [0, 1], such as "right", 1.0 is perfect.
    level, draws, seed : as in `bootstrap_interval`.

    Returns
    -------
    DataFrame with label, area, low, high, n, clips, missing, minimum, error, everywhere (rows without a result, as in
    `bootstrap_interval`), absent (text: the ratios at which the label lacks results that others have, and how many
    rows, or that it was not run). Such a label has no area (NaN), because one over fewer ratios or other samples would
    not compare; leave the ratio or the samples out for all labels to get one.

    Raises
    ------
    VTCError
        For fewer than two ratios, and as `bootstrap_interval`.

    Notes
    -----
    Our definition: the trapezoidal rule over log(1 / ratio), which budgets that are exact make log(tokens kept) up to a
    constant, divided by the width of the table's range of ratios.

    Examples
    --------
    >>> table = pd.DataFrame({"label": "lftr", "ratio": [1, 2, 8] * 2, "clip": [*"aaabbb"],
    ...                       "right": [1, 1, 0, 1, 1, 0]})
    >>> area_under_curve(table)[["label", "area", "absent"]].values.tolist()
    [['lftr', 0.666..., '']]
    """
    table = tidy(table, value, needs=("clip", "ratio"))
    demand_clips(table, "clip")
    labels, ratios = table.label.unique(), of_curves(table, "ratio")
    table = table[table.ratio.isin(ratios)]
    if len(ratios) < 2:
        raise VTCError(f"the table has {len(ratios)} ratio; an area under a curve needs at least two")
    place = {key: at for at, key in enumerate((label, ratio) for label in labels for ratio in ratios)}
    group = np.array([place[key] for key in zip(table.label, table.ratio, strict=True)])
    totals, counts = by_cluster(table, group, len(place), "clip")
    x = -np.log(ratios)
    steps = np.diff(x)
    share = (np.r_[steps, 0] + np.r_[0, steps]) / (2 * (x[-1] - x[0]))  # the trapezoidal rule as weights

    def areas(weights: np.ndarray) -> np.ndarray:
        return ratio_of(weights @ totals, weights @ counts).reshape(-1, len(labels), len(ratios)) @ share

    status, value = table.status, table.value
    lost = np.bincount(group[value.isna() & (status != "everywhere")], minlength=len(place))
    run = np.bincount(group, minlength=len(place))
    lost = np.where(run > 0, np.where(counts.sum(0) > 0, lost, run), np.inf).reshape(len(labels), len(ratios))
    run = run.reshape(lost.shape)
    (area,) = np.where((lost > 0).any(1), np.nan, areas(np.ones((1, len(totals)))))
    clips = (counts.reshape(-1, len(labels), len(ratios)).sum(2) > 0).sum(0)
    low, high = quantiles(areas(resamples(len(totals), draws, seed)), level, ~np.isnan(area) & (clips > 1))
    result = pd.DataFrame({"label": labels, "area": area, "low": low, "high": high})
    result["n"] = counts.sum(0).reshape(len(labels), -1).sum(1).astype(int)
    result["clips"] = clips
    gaps = {"missing": value.isna()} | {name: status == name for name in ("minimum", "error", "everywhere")}
    for name, rows in gaps.items():
        result[name] = rows.groupby(table.label).sum().reindex(labels, fill_value=0).to_numpy()
    result["absent"] = [
        ", ".join(_lacking(*cell) for cell in zip(ratios, *rows, strict=True) if cell[1])
        for rows in zip(lost, run, strict=True)
    ]
    return result


def _lacking(ratio: float, lost: float, run: int) -> str:
    """A ratio in words, with the number of rows that it lacks unless that is all that were run."""
    if not run:
        return f"{ratio:g} ({NOT_RUN})"
    return f"{ratio:g}" if lost == run else f"{ratio:g} ({lost:g} rows)"


def _flip_signs(pairs: pd.DataFrame, keys: list[str], permutations: int, seed: int) -> np.ndarray:
    """Two-sided p of each group's sum of differences under sign flips of whole clips."""
    if type(permutations) is not int or permutations < 1:
        raise VTCError(f"permutations is {permutations!r}; it must be a whole number of sign flips, such as 9999")
    groups = pairs.groupby(keys, sort=False, dropna=False)
    totals, counts = by_cluster(pairs, groups.ngroup().to_numpy(), groups.ngroups, "clip")
    from scipy.stats import permutation_test

    test = permutation_test(
        (totals.T, np.zeros_like(totals.T)),
        lambda x, y, axis: (x - y).sum(axis=axis),
        permutation_type="samples",  # exchanging a pair (difference, 0) flips the sign of the difference
        vectorized=True,
        n_resamples=permutations,
        batch=max(1, 1_000_000 // totals.size),  # a few tens of megabytes
        axis=-1,
        rng=whole_seed(seed),
    )
    return np.where(counts.sum(0) > 0, test.pvalue, np.nan)
