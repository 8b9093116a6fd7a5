"""Intervals and paired tests of a sweep's table, over whole clips, whose questions are not independent."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from vtc_lab.sweeps.tidy import EVERYTHING, by_clip, ceilings, differences, groups_of, intervals, tidy, uncompressed
from vtc_lab.tokens import VTCError


def bootstrap_interval(
    table: pd.DataFrame, value: str = "right", by: str | Sequence[str] = ("label", "ratio")
) -> pd.DataFrame:
    """Return means with 95 % percentile bootstrap intervals from 2,000 resamples of whole clips.

    All groups share the same resamples, so differences between their means are paired.

    Parameters
    ----------
    table : tidy, one row a result, as `vtc.sweep` gives it.
    value : numeric column to average; true counts as 1.
    by : columns that make the groups.

    Returns
    -------
    DataFrame with a row for each group:

    - the columns of `by`, mean, low, high: NaN without a result, and low and high with results of fewer than 6 clips,
      with which a paired sign-flip test over clips cannot reach p = 0.05 either;
    - n (rows with a result), clips (that have one), missing (rows without one; the table's status says why);
    - of: rows of samples that have a result under some setting of the table. Where n is less, the mean is over other
      samples than the rest and does not compare;
    - kept, total, per_layer (if the table has them): means over the n rows; and value (its name).

    Source: the cluster bootstrap of Davison and Hinkley, "Bootstrap Methods and their Application", section 3.8. With
    few clips its intervals are somewhat too short.

    Examples
    --------
    >>> table = pd.DataFrame({"method": "lftr", "ratio": 4, "clip": [*"aabb"], "right": [True, True, False, None]})
    >>> bootstrap_interval(table)[["label", "ratio", "mean", "n", "clips", "missing"]].values.tolist()
    [['lftr', 4.0, 0.666..., 3, 2, 1]]
    """
    table = tidy(table, value, ["clip"])
    return intervals(table, groups_of(table, by)).assign(value=value)


def compare(
    table: pd.DataFrame, reference: str = EVERYTHING, value: str = "right", *, permutations: int = 9999
) -> pd.DataFrame:
    """Return paired tests of every label at every ratio against the uncompressed run, or against another label.

    Parameters
    ----------
    table : tidy, as `vtc.sweep` gives it, with a column sample.
    reference : "everything" for the uncompressed run (the rows at ratio 1 of any label), or a label of the table, which
        is compared at the same ratio.
    value : numeric column to compare; true counts as 1.
    permutations : random sign flips for the permutation test, or all of them if there are fewer. Its smallest p is
        2 / (permutations + 1), which Holm's correction multiplies by the number of rows it is over.

    Returns
    -------
    DataFrame with a row for each label and ratio above 1:

    - label, ratio, reference, n (samples that both sides answered), clips (that have one), value (its name);
    - difference, low, high: mean of label minus reference over the n samples, with the interval over clips;
    - gained, lost: samples where the label is better or worse;
    - p_mcnemar: exact and two-sided, for values that are true or false; it takes samples for independent;
    - p_permutation: two-sided, flips the signs of whole clips' differences, so samples of a clip may depend;
    - p_holm: p_permutation after Holm's correction over all rows of this table but those of a ceiling such as `oracle`,
      which have none;
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

    if not isinstance(permutations, int) or not 1 <= permutations <= 1_000_000:
        raise VTCError(f"permutations is {permutations!r:.60}; it must be a whole number of 1 to 1,000,000")
    table = tidy(table, value, ["clip", "sample", "ratio"])
    pairs = differences(table, reference)
    pairs = pairs[pairs.ratio != 1]
    if pairs.empty:
        raise VTCError(f"the table has nothing to compare with {reference!r}; sweep a second method or a ratio above 1")
    keys = ["label", "ratio"]
    result = intervals(pairs, keys).rename(columns={"mean": "difference"})
    changes = pairs.assign(gained=pairs["first"] > 0, lost=pairs["first"] < 0)
    changes = changes.groupby(keys, sort=False, dropna=False)[["gained", "lost"]].sum()
    result[["gained", "lost"]] = changes.to_numpy()
    binary = table.value.dropna().isin((0, 1)).all()
    result["p_mcnemar"] = [
        mcnemar([[0, gained], [lost, 0]], exact=True).pvalue if binary and n else np.nan
        for gained, lost, n in zip(result.gained, result.lost, result.n, strict=True)
    ]
    result["p_permutation"] = _flip_signs(pairs, keys, permutations)
    tested = result.p_permutation.notna() & ~result.label.isin(table.label[ceilings(table)])
    result["p_holm"] = np.nan
    if tested.any():
        result.loc[tested, "p_holm"] = multipletests(result.p_permutation[tested], method="holm")[1]
    result["missing"] = table["sample"].nunique() - result.n
    result["of"] = pairs["sample"][pairs.answered].nunique()
    result = result.assign(reference=reference, value=value)
    numbers = ["n", "clips", "difference", "low", "high", "gained", "lost", "p_mcnemar", "p_permutation", "p_holm"]
    return result[[*keys, "reference", *numbers, "missing", "of", "value"]]


def split_losses(table: pd.DataFrame, by: str | Sequence[str] = ("label", "ratio", "kind")) -> pd.DataFrame:
    """Return the share of right answers that a reduction loses: the evidence was dropped, or the model failed with it.

    Parameters
    ----------
    table : tidy, as `vtc.sweep` gives it for clips of the generated world, with recall, ratio 1 and a ratio above 1.
    by : columns that make the groups, beside `loss`.

    Returns
    -------
    DataFrame with three rows for each group:

    - the columns of `by`; loss: "dropped" (less than half of the evidence stayed, see `evidence_recall`), "failed"
      (half or more stayed) or "either", which is the sum of both;
    - share, low, high: of the answers that are right with everything, those that are lost in this way, 0 to 1, with the
      interval over clips;
    - n (answers that are right with everything and have a result here), clips, missing, of, kept, total as in
      `bootstrap_interval`.

    Samples without evidence are left out.

    Examples
    --------
    >>> table = pd.DataFrame({"method": "random", "ratio": [1, 8] * 3, "sample": [1, 1, 2, 2, 3, 3], "clip": "a",
    ...                       "kind": "colour", "recall": [1, 0.2, 1, 0.7, 1, 0.8], "right": [1, 0, 1, 0, 1, 1]})
    >>> split_losses(table)[["label", "ratio", "kind", "loss", "share", "n"]].round(2).values.tolist()[:2]
    [['random', 8.0, 'colour', 'dropped', 0.33, 3], ['random', 8.0, 'colour', 'failed', 0.33, 3]]
    """
    table = tidy(table, "right", ["clip", "sample", "ratio", "recall"])
    by = groups_of(table, by)
    known = table.recall.notna().groupby(table["sample"]).transform("any")
    if not known.any():
        raise VTCError("column 'recall' is empty; only clips of the generated world, read without fps, have evidence")
    full = uncompressed(table).groupby("sample").value.first()
    table = table[known & (table["sample"].map(full) == 1) & (table.ratio != 1)].copy()
    if table.empty:
        raise VTCError("no answer about the generated world is right with everything and asked at a ratio above 1")
    gone = table.value == 0
    ways = {"dropped": gone & (table.recall < 0.5), "failed": gone & (table.recall >= 0.5), "either": gone}
    has_result = table.value.notna() & table.recall.notna()
    table["answered"] = has_result.groupby(table["sample"]).transform("any")
    rows = pd.concat(
        [table.assign(loss=loss, value=lost.astype(float).where(has_result)) for loss, lost in ways.items()]
    )
    rows = rows.sort_index(kind="stable")  # so that the ways of a group follow each other
    return intervals(rows, [*by, "loss"]).rename(columns={"mean": "share"})


def _flip_signs(pairs: pd.DataFrame, keys: list[str], permutations: int) -> np.ndarray:
    """Return the two-sided p of each group's sum of differences under sign flips of whole clips."""
    from scipy.stats import permutation_test

    groups = pairs.groupby(keys, sort=False, dropna=False)
    totals, counts = by_clip(pairs, groups.ngroup().to_numpy(), groups.ngroups)
    if len(totals) < 2:
        raise VTCError("the pairs are all of one clip; paired tests need two or more")
    test = permutation_test(
        (totals.T, np.zeros_like(totals.T)),
        lambda x, y, axis: (x - y).sum(axis=axis),
        permutation_type="samples",  # exchanging a pair (difference, 0) flips the sign of the difference
        vectorized=True,
        n_resamples=permutations,
        batch=max(1, 1_000_000 // totals.size),  # a few tens of megabytes
        axis=-1,
        rng=0,
    )
    return np.where(counts.sum(0) > 0, test.pvalue, np.nan)
