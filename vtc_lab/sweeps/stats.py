"""Intervals and paired tests of a sweep's table, over whole clips, whose questions are not independent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from vtc_lab.sweeps.tidy import EVERYTHING, by_cluster, demand, differences, intervals, tidy, whole
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
    """Return means with percentile bootstrap intervals that resample whole clips.

    All groups share the same resamples, so differences between their means are paired.

    Parameters
    ----------
    table : tidy, one row a result, as `vtc.sweep` gives it.
    value : numeric column to average; true counts as 1.
    by : columns that make the groups.
    cluster : column whose values are resampled as a whole.
    level : of the interval, between 0 and 1.
    draws, seed : number of resamples, and the seed that they come from.

    Returns
    -------
    DataFrame with a row for each group:

    - the columns of `by`, mean, low, high: NaN without a result, and low and high with results of one clip only;
    - n (rows with a result), clips (that have one), missing (rows without one; the table's status says why);
    - of: rows of samples that have a result under some setting of the table. Where n is less, the mean is over other
      samples than the rest and does not compare;
    - kept, total (if the table has them): means over the n rows; and value (its name).

    Source: the cluster bootstrap of Davison and Hinkley, "Bootstrap Methods and their Application", section 3.8. With
    few clips its intervals are somewhat too short.

    Examples
    --------
    >>> table = pd.DataFrame({"method": "lftr", "ratio": 4, "clip": [*"aabb"], "right": [True, True, False, None]})
    >>> bootstrap_interval(table)[["label", "ratio", "mean", "n", "clips", "missing"]].values.tolist()
    [['lftr', 4.0, 0.666..., 3, 2, 1]]
    """
    table = tidy(table, value, [cluster])
    by = [by] if isinstance(by, str) else list(by)
    demand(table, by)
    return intervals(table, by, cluster, level, draws, seed).assign(value=value)


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
    """Return paired tests of every label at every ratio against the uncompressed run, or against another label.

    Parameters
    ----------
    table : tidy, as `vtc.sweep` gives it, with a column sample.
    reference : "everything" for the uncompressed run (the rows at ratio 1 of any label), or a label of the table, which
        is compared at the same ratio.
    value : numeric column to compare; true counts as 1.
    level, draws : of the interval of the difference, as in `bootstrap_interval`.
    permutations : random sign flips for the permutation test, or all of them if there are fewer. Its smallest p is
        2 / (permutations + 1), which Holm's correction multiplies by the number of rows.
    seed : of resamples and flips.

    Returns
    -------
    DataFrame with a row for each label and ratio above 1:

    - label, ratio, reference, n (samples that both sides answered), clips (that have one), value (its name);
    - difference, low, high: mean of label minus reference over the n samples, with the clustered interval;
    - gained, lost: samples where the label is better or worse;
    - p_mcnemar: exact and two-sided, for values that are true or false; it takes samples for independent;
    - p_permutation: two-sided, flips the signs of whole clips' differences, so samples of a clip may depend;
    - p_holm: p_permutation after Holm's correction over all rows of this table;
    - missing: samples of the table that one side did not answer; of: samples that have a difference in some row. Where
      n is less, the difference is over other samples than the rest.

    Where a sample was answered under several seeds its value is their mean; gained, lost and p_mcnemar take the first
    seed, because repeated answers are no new samples.

    Source: McNemar (1947) and Holm (1979) as in statsmodels; the permutation test is scipy's with "samples".

    Examples
    --------
    >>> table = pd.DataFrame({"label": ["lftr"] * 8, "ratio": [1, 8] * 4, "sample": [1, 1, 2, 2, 3, 3, 4, 4],
    ...                       "clip": [*"aaaabbbb"], "right": [1, 0, 1, 1, 1, 0, 1, 0]})
    >>> compare(table)[["n", "difference", "gained", "lost", "p_mcnemar", "p_permutation"]].values.tolist()
    [[4.0, -0.75, 0.0, 3.0, 0.25, 0.5]]
    """
    from statsmodels.stats.contingency_tables import mcnemar  # here, because statsmodels takes a second to import
    from statsmodels.stats.multitest import multipletests

    table = tidy(table, value, ["clip", "sample", "ratio"])
    pairs = differences(table, reference)
    pairs = pairs[pairs.ratio != 1]
    if pairs.empty:
        raise VTCError(f"the table has nothing to compare with {reference!r}; sweep a second method or a ratio above 1")
    keys = ["label", "ratio"]
    result = intervals(pairs, keys, level=level, draws=draws, seed=seed).rename(columns={"mean": "difference"})
    changes = pairs.assign(gained=pairs["first"] > 0, lost=pairs["first"] < 0)
    changes = changes.groupby(keys, sort=False, dropna=False)[["gained", "lost"]].sum()
    result[["gained", "lost"]] = changes.to_numpy()
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
    result["missing"] = table["sample"].nunique() - result.n
    result["of"] = pairs["sample"][pairs.answered].nunique()
    result = result.assign(reference=reference, value=value)
    numbers = ["n", "clips", "difference", "low", "high", "gained", "lost", "p_mcnemar", "p_permutation", "p_holm"]
    return result[[*keys, "reference", *numbers, "missing", "of", "value"]]


def _flip_signs(pairs: pd.DataFrame, keys: list[str], permutations: int, seed: int) -> np.ndarray:
    """Return the two-sided p of each group's sum of differences under sign flips of whole clips."""
    from scipy.stats import permutation_test

    groups = pairs.groupby(keys, sort=False, dropna=False)
    totals, counts = by_cluster(pairs, groups.ngroup().to_numpy(), groups.ngroups, "clip")
    if len(totals) < 2:
        raise VTCError("the pairs are all of one clip; paired tests need two or more")
    test = permutation_test(
        (totals.T, np.zeros_like(totals.T)),
        lambda x, y, axis: (x - y).sum(axis=axis),
        permutation_type="samples",  # exchanging a pair (difference, 0) flips the sign of the difference
        vectorized=True,
        n_resamples=whole("permutations", permutations, 1),
        batch=max(1, 1_000_000 // totals.size),  # a few tens of megabytes
        axis=-1,
        rng=seed,
    )
    return np.where(counts.sum(0) > 0, test.pvalue, np.nan)
