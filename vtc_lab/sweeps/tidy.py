"""A sweep's table made ready to average: checked, paired by sample, summed by clip, resampled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from vtc_lab.tokens import VTCError, suggest

EVERYTHING = "everything"  # the uncompressed run, ratio 1
NOT_RUN = "not run"  # said of a setting that others have and a label lacks
_STATUSES = ("ok", "minimum", "error")


def tidy(table: pd.DataFrame, value: str, needs: Sequence[str] = ()) -> pd.DataFrame:
    """A checked copy with label, method, status and seed filled in, and `value` as floats in a column of that name.

    Results of rows whose status is not "ok" become NaN; where none is, under any setting, status is "everywhere". What
    is "" in a clip's name becomes NaN, as it is in a table that was saved as CSV.
    """
    if not isinstance(table, pd.DataFrame):
        raise VTCError(f"the table is a {type(table).__name__}; give the DataFrame that vtc.sweep returns")
    if table.empty:
        raise VTCError("the table has no rows; run vtc.sweep on at least one sample first")
    named = [name for name in ("label", "method") if name in table]
    for column in (value, *needs, *([] if named else ["label"])):
        if column not in table:
            raise VTCError(f"the table has no column {column!r}; {suggest(column, map(str, table.columns))}")
    models = sorted(map(str, table["model"].dropna().unique())) if "model" in table else []
    if len(models) > 1:
        raise VTCError(
            f"the table has results of {len(models)} models, {' and '.join(map(repr, models))}; "
            f"choose the rows of one, such as table[table.model == {models[0]!r}]"
        )
    table = table.reset_index(drop=True)
    if "asked" in table:
        asked = sorted(table["asked"].astype(object).where(table["asked"].notna(), "").astype(str).unique())
        if len(asked) > 1:
            raise VTCError(
                f"the table has results that were asked for in {len(asked)} ways, {' and '.join(map(repr, asked))}; "
                f"choose the rows of one, such as table[table.asked == {asked[0]!r}]"
            )
    if "clip" in table:
        table["clip"] = table["clip"].mask(table["clip"] == "")
    if "kind" in table:
        table["kind"] = table["kind"].astype(object).where(table["kind"].notna(), "")
    table["label"] = table[named[0]].astype(str)
    table["method"] = table[named[-1]].astype(str).str.replace(r" \(.*", "", regex=True)
    table["status"] = table.get("status", "ok")
    table["seed"] = pd.to_numeric(table.get("seed", pd.Series(0, table.index))).fillna(0)
    unknown = set(table.status.astype(str)) - set(_STATUSES)
    if unknown:
        raise VTCError(f"status {min(unknown)!r} is unknown; {suggest(min(unknown), _STATUSES)}")
    for column in ("ratio", "kept", "total"):
        if column in table:
            table[column] = _numbers(table[column])
    table["value"] = np.where(table.status == "ok", _numbers(table[value]), np.nan)
    if {"ratio", "kept", "total", "clip"} <= set(table):
        table["ratio"] = _one_ratio_where_free(table)
    table["status"] = with_everywhere(table)
    return table


def _numbers(column: pd.Series) -> np.ndarray:
    """A column as floats, or a VTCError if it does not hold numbers."""
    try:
        numbers = column.astype("Float64").to_numpy(float, na_value=np.nan)
    except (TypeError, ValueError):
        raise VTCError(f"column {column.name!r} does not hold numbers; choose one that does, such as 'right'") from None
    if np.isinf(numbers).any():
        raise VTCError(f"column {column.name!r} holds infinite numbers, of which there is no mean; replace them")
    return numbers


def with_everywhere(table: pd.DataFrame) -> pd.Series:
    """The status, "everywhere" for samples without a value under any setting: they make no two means differ."""
    one = "sample" if "sample" in table else "clip"
    if one not in table:
        return table.status
    return table.status.mask(table.value.isna().groupby(table[one], dropna=False).transform("all"), "everywhere")


def _one_ratio_where_free(table: pd.DataFrame) -> pd.Series:
    """The ratios, with that of the totals for a label whose options make a budget of its own for each clip."""
    ratios = table.ratio.copy()
    one = "sample" if "sample" in table else "clip"
    repeated = table.label[table.duplicated(["label", one, "seed"]) & table[one].notna()]
    several = table.groupby("label").ratio.agg(lambda r: r.nunique() > 1 or (r.isna().any() and r.notna().any()))
    for label in several[several].index.difference(repeated):
        mine = table[(table.label == label) & table.kept.notna()]
        ratios[table.label == label] = mine.total.sum() / mine.kept.sum()
    return ratios


def of_curves(cells: pd.DataFrame, column: str) -> np.ndarray:
    """The sorted values of a column that a curve is made of: those of labels with two or more; or all there are."""
    runs = cells.groupby("label")[column].transform("nunique")
    return np.sort(cells[column][(runs > 1) if (runs > 1).any() else slice(None)].dropna().unique())


def demand_clips(table: pd.DataFrame, cluster: str) -> None:
    """Raise a VTCError if there is only one cluster."""
    names = table[cluster].dropna().unique()
    if len(names) < 2:
        which = f"all rows are of one {cluster}, {names[0]!r:.60}" if len(names) else f"no row names a {cluster}"
        raise VTCError(f"{which}; intervals need at least two")


def uncompressed(table: pd.DataFrame) -> pd.DataFrame:
    """The tidy rows at ratio 1 that have a result."""
    full = table[(table.ratio == 1) & table.value.notna()]
    if full.empty:
        raise VTCError("the table has no result at ratio 1, the uncompressed run; add 1 to the ratios of the sweep")
    return full


def differences(table: pd.DataFrame, reference: str = EVERYTHING) -> pd.DataFrame:
    """Per label, ratio and sample of a tidy table: clip, kind, value (minus the reference's), first (same), status.

    The value is a mean over seeds, first and status are of the first seed. A sample that either side did not answer
    under one of its seeds has NaN.
    """
    keys = ["label", "ratio", "sample"]
    cells = table.groupby(keys, sort=False, dropna=False)
    found = cells.value.agg(["sum", "count"])
    each = cells[[name for name in ("clip", "kind") if name in table]].first().reset_index()
    each["value"] = (found["sum"] / found["count"]).where(found["count"] == cells.size()).to_numpy()
    first = table.loc[cells.seed.idxmin()]
    each = each.assign(first=first.value.to_numpy(), status=first.status.to_numpy())
    if reference == EVERYTHING:
        full = uncompressed(table).groupby("sample")["value"].first()
        base = pd.DataFrame({"value": full, "first": full}).reindex(each["sample"]).reset_index(drop=True)
    else:
        if reference not in set(table.label):
            raise VTCError(
                f"no label is called {reference!r}; {suggest(reference, [EVERYTHING, *table.label.unique()])}"
            )
        other = each[each.label == reference].set_index(["ratio", "sample"])[["value", "first"]]
        each = each[each.label != reference]
        base = other.reindex(pd.MultiIndex.from_frame(each[["ratio", "sample"]]))
    each = each.assign(**{name: each[name].to_numpy() - base[name].to_numpy() for name in ("value", "first")})
    return each.assign(status=with_everywhere(each))


def counted(
    table: pd.DataFrame, by: list[str], cluster: str = "clip", per: str | None = None
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Means of a tidy table and how many rows they are of; and (clusters, groups) sums, of which they are the ratio."""
    for column in by:
        if column not in table:
            raise VTCError(f"the table has no column {column!r}; {suggest(column, map(str, table.columns))}")
    groups = table.groupby(by, sort=False, dropna=False)
    at = groups.ngroup().to_numpy()
    totals, counts = by_cluster(table, at, groups.ngroups, cluster)
    result = groups.size().index.to_frame(index=False)
    sizes = counts
    if per is not None:
        sizes, _ = by_cluster(table.assign(value=table[per]), at, groups.ngroups, cluster)
    result["mean"] = ratio_of(totals.sum(0), sizes.sum(0))
    result["n"], result["clips"] = counts.sum(0).astype(int), (counts > 0).sum(0)
    result["missing"] = groups.size().to_numpy() - result.n
    for status in ("minimum", "error", "everywhere"):
        result[status] = np.bincount(at[table.status == status], minlength=groups.ngroups)
    return result, totals, sizes


def intervals(
    table: pd.DataFrame,
    by: list[str],
    cluster: str = "clip",
    *,
    per: str | None = None,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """`bootstrap_interval` of a tidy table; with one clip there are means and no intervals.

    With `per`, another column that is NaN in the same rows, the mean is the ratio of the totals, value / per.
    """
    result, totals, sizes = counted(table, by, cluster, per)
    weights = resamples(len(totals), draws, seed)
    bounds = quantiles(ratio_of(weights @ totals, weights @ sizes), level, result.clips.to_numpy() > 1)
    for name, bound in zip(("low", "high"), bounds, strict=True):
        result.insert(result.columns.get_loc("n"), name, bound)
    return result


def with_budgets(cells: pd.DataFrame, table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Cells with the mean of each budget column that the table has, over the rows that the cells' means are of."""
    columns = [name for name in ("kept", "total") if name in table]
    answered = table[columns].where(table.value.notna()).assign(**table[keys])
    means = answered.groupby(keys, sort=False, dropna=False)[columns].mean().reset_index(drop=True)
    return cells.assign(**means)


def uneven(cells: pd.DataFrame) -> pd.Series:
    """Whether a cell lacks samples that others have, so that its mean does not compare with theirs."""
    return cells.missing > cells.everywhere


def by_cluster(table: pd.DataFrame, group: np.ndarray, groups: int, cluster: str) -> tuple[np.ndarray, np.ndarray]:
    """(clusters, groups) sums of the values and how many there are."""
    codes, names = pd.factorize(table[cluster], sort=True)
    known = table.value.notna().to_numpy()
    nameless = ((codes < 0) & known).sum()
    if nameless:
        raise VTCError(f"column {cluster!r} is empty in {nameless} rows with a result; each of them needs one")
    cell = (codes * groups + group)[known]
    size, shape = len(names) * groups, (len(names), groups)
    totals = np.bincount(cell, weights=table.value.to_numpy()[known], minlength=size)
    return totals.reshape(shape), np.bincount(cell, minlength=size).reshape(shape).astype(float)


def resamples(clusters: int, draws: int, seed: int) -> np.ndarray:
    """(draws, clusters) how often each cluster is drawn, shared by all groups."""
    if type(draws) is not int or draws < 1:
        raise VTCError(f"draws is {draws!r}; it must be a whole number of resamples, such as 2000")
    rng = np.random.default_rng(whole_seed(seed))
    return rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=draws).astype(float)


def whole_seed(seed: int) -> int:
    """The seed, or a VTCError if it is none."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise VTCError(f"seed is {seed!r}; it must be a whole number of 0 or more")
    return int(seed)


def ratio_of(totals: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Their quotient, NaN where there is nothing."""
    return np.divide(totals, counts, out=np.full(totals.shape, np.nan), where=counts > 0)


def quantiles(samples: np.ndarray, level: float, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The bounds of the central interval of each column, NaN where it is not `known`."""
    if not isinstance(level, float | int | np.number) or not 0 < level < 1:
        raise VTCError(f"level is {level!r}; it must lie between 0 and 1, such as 0.95")
    bounds = np.full((2, samples.shape[1]), np.nan)
    known = known & ~np.isnan(samples).all(axis=0)
    if known.any():
        bounds[:, known] = np.nanquantile(samples[:, known], [(1 - level) / 2, (1 + level) / 2], axis=0)
    return bounds[0], bounds[1]
