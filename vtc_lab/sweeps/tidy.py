"""Prepare a sweep's table for averages: check it, pair it by sample, sum it by clip, resample the clips."""

import sys
from collections.abc import Iterable

import numpy as np
import pandas as pd
from pandas.api.types import is_object_dtype

from vtc_lab.reducers.registry import is_ceiling
from vtc_lab.tokens import VTCError, demand_one_of, plain, suggest

EVERYTHING = "everything"  # the uncompressed run, ratio 1
DRAWS = 2000  # resamples of the clips
_ONE_OF = {"model": "of {} models", "asked": "that were asked for in {} ways"}  # columns that may not be mixed


def tidy(table: pd.DataFrame, value: str, needs: Iterable[str] = ()) -> pd.DataFrame:
    """Return a checked copy with label, method, seed, sample and kind filled in, and `value` as a column of that name.

    Its values are floats, NaN in rows whose status is not "ok"; column answered marks the samples that have one.
    """
    demand(table, (value, *needs))
    named = [name for name in ("label", "method") if name in table]
    demand(table, named or ["label"])
    table = table.reset_index(drop=True)
    for name in table.columns[table.dtypes.map(is_object_dtype)]:  # half characters, which pandas cannot group by
        table[name] = table[name].map(lambda value: plain(value) if isinstance(value, str | bytes) else value)
    for column, words in _ONE_OF.items():
        kinds = sorted(_texts(table[column]).unique()) if column in table else []
        if len(kinds) > 1:
            raise VTCError(
                f"the table has results {words.format(len(kinds))}, {' and '.join(map(repr, kinds))}; "
                f"choose the rows of one, such as table[table.{column} == {kinds[0]!r}]"
            )
    if "clip" in table:
        table["clip"] = table["clip"].mask(table["clip"] == "")  # which a saved CSV cannot tell from NaN
    if "sample" not in table:
        table["sample"] = table.get("clip", 0)
    if "kind" in table:
        table["kind"] = _texts(table["kind"])
    table["method"] = table[named[-1]].astype(str)
    table["label"] = table[named[0]].astype(str)
    table["seed"] = np.nan_to_num(numbers(table["seed"])) if "seed" in table else 0
    for column in ("ratio", "kept", "total", "per_layer"):
        if column in table:
            table[column] = numbers(table[column])
    table["value"] = numbers(table[value])
    if "status" in table:
        table["value"] = table.value.where(table.status == "ok")
    if table.value.isna().all():
        errors = [text for text in table.get("error", []) if isinstance(text, str) and text]
        first = f"; the first error is: {errors[0]}" if errors else ""
        raise VTCError(f"none of the {len(table)} rows has a result in column {value!r}{first}")
    if {"ratio", "kept", "total", "clip"} <= set(table):
        table["ratio"] = _one_ratio_where_free(table)
    return table.assign(answered=answered(table))


def demand(table: pd.DataFrame, columns: Iterable[str] = ()) -> None:
    """Raise a VTCError for something that is no table with rows and these columns."""
    if not isinstance(table, pd.DataFrame):
        raise VTCError(f"the table is a {type(table).__name__}; give a DataFrame, such as vtc.sweep returns")
    if table.empty:
        raise VTCError("the table has no rows; give one with results, such as vtc.sweep returns")
    lacking = [column for column in columns if column not in table]
    if lacking:
        names = ", ".join(map(repr, lacking))
        raise VTCError(f"the table has no column {names}; {suggest(lacking[0], map(str, table.columns))}")
    if not table.columns.is_unique:
        raise VTCError(f"the table has column {table.columns[table.columns.duplicated()][0]!r} twice; keep one of them")


def groups_of(table: pd.DataFrame, by: str | Iterable[str]) -> list[str]:
    """Return the columns that make groups of a table."""
    by = [by] if isinstance(by, str) else list(by)
    demand(table, by)
    if not by or len({*by}) < len(by):
        raise VTCError(f"by is {by!r:.60}; name one column or more, each once")
    return by


def at_ratio(table: pd.DataFrame, ratio: object) -> pd.DataFrame:
    """Return the rows at a ratio, none where that is no number."""
    known = isinstance(ratio, int | float | np.integer) and 1 <= ratio < sys.maxsize
    return table[table.ratio == ratio] if known else table[:0]


def demand_single(table: pd.DataFrame) -> None:
    """Raise a VTCError if the table has two rows for a label at one ratio."""
    twice = table[table.duplicated(["label", "ratio"])]
    for row in twice.itertuples():
        raise VTCError(f"the table has more than one row for {row.label!r} at ratio {row.ratio:g}; give one value only")


def answered(table: pd.DataFrame) -> pd.Series:
    """Mark the rows of samples with a value under some setting; others do not affect a comparison."""
    return table.value.notna().groupby(table["sample"], dropna=False).transform("any")


def uncompressed(table: pd.DataFrame) -> pd.DataFrame:
    """Return the tidy rows at ratio 1 that have a result."""
    full = table[(table.ratio == 1) & table.value.notna()]
    if full.empty:
        raise VTCError("the table has no result at ratio 1, the uncompressed run; add 1 to the ratios of the sweep")
    return full


def differences(table: pd.DataFrame, reference: str = EVERYTHING) -> pd.DataFrame:
    """Return value (minus the reference's), first (same), clip and kind for each label, ratio and sample.

    The value is a mean over seeds, `first` is of the first seed. A sample that either side did not answer under one of
    its seeds has NaN.
    """
    keys = ["label", "ratio", "sample"]
    cells = table.groupby(keys, sort=False, dropna=False)
    each = cells[[name for name in ("clip", "kind") if name in table]].first().reset_index()
    each["value"] = cells.value.mean().where(cells.value.count() == cells.size()).to_numpy()
    each["first"] = table.value[cells.seed.idxmin()].to_numpy()
    demand_one_of("reference", reference, [EVERYTHING, *each.label.unique()])
    if reference == EVERYTHING:
        full = uncompressed(table).groupby("sample").value.first()
        base = pd.DataFrame({"value": full, "first": full}).reindex(each["sample"])
    else:
        other = each[each.label == reference].set_index(["ratio", "sample"])[["value", "first"]]
        each = each[each.label != reference]
        base = other.reindex(pd.MultiIndex.from_frame(each[["ratio", "sample"]]))
    each = each.assign(**{name: each[name].to_numpy() - base[name].to_numpy() for name in ("value", "first")})
    return each.assign(answered=answered(each))


def counted(table: pd.DataFrame, by: list[str]) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Return a cell for each group of a tidy table, and (clips, cells) sums and counts, of which means are ratios.

    A cell has mean, n, clips, missing, of (see `bootstrap_interval`), and the mean budgets of the rows with a result.
    """
    groups = table.groupby(by, sort=False, dropna=False)
    at = groups.ngroup()
    totals, counts = by_clip(table, at.to_numpy(), groups.ngroups)
    cells = groups.size().index.to_frame(index=False)
    cells["mean"] = pd.Series(totals.sum(0)) / counts.sum(0)
    cells[["low", "high"]] = np.nan  # filled by `intervals`
    cells["n"], cells["clips"] = counts.sum(0).astype(int), (counts > 0).sum(0)
    cells["missing"] = groups.size().to_numpy() - cells.n
    cells["of"] = groups.answered.sum().to_numpy()
    for budget in ("kept", "total", "per_layer"):
        if budget in table:
            cells[budget] = table[budget].where(table.value.notna()).groupby(at).mean()
    return cells, totals, counts


def intervals(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Return the cells of `counted` with 95 % intervals, NaN for cells of too few clips."""
    cells, totals, counts = counted(table, by)
    times = resamples(len(totals))
    cells[["low", "high"]] = bounds(pd.DataFrame(times @ totals) / (times @ counts), cells.clips)
    return cells


def bounds(drawn: pd.DataFrame, clips: pd.Series) -> np.ndarray:
    """Return (cells, 2) bounds of 95 % of what was drawn for each cell, NaN for cells of too few clips."""
    return drawn.quantile([0.025, 0.975]).T.where(enough(clips)).to_numpy()


def enough(clips: pd.Series) -> pd.Series:
    """Mark numbers of clips of which a sign-flip test can reach p = 0.05.

    An interval from fewer would exclude a difference of 0 that no such test can; its resamples hardly differ.
    """
    return clips >= 6  # 2 / 2^6 < 0.05


def resamples(clips: int) -> np.ndarray:
    """Return how often each clip is in each bootstrap resample, (draws, clips), the same for all cells."""
    return np.random.default_rng(0).multinomial(clips, np.full(clips, 1 / clips), size=DRAWS).astype(float)


def uneven(cells: pd.DataFrame) -> pd.Series:
    """Mark the cells that lack samples which others have, so that their means do not compare."""
    return cells["n"] < cells["of"] if {"n", "of"} <= set(cells) else pd.Series(False, cells.index)


def ceilings(table: pd.DataFrame) -> pd.Series:
    """Mark the rows of ceilings such as `oracle`, by method or label; they compete with no other row."""
    names = table.get("method", table.get("label", pd.Series("", table.index)))
    return names.astype(str).str.partition(" (")[0].map(is_ceiling).astype(bool)


def by_clip(table: pd.DataFrame, group: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the (clips, groups) sums of the values and how many there are."""
    codes, names = pd.factorize(table["clip"], sort=True)
    known = table.value.notna().to_numpy()
    nameless = ((codes < 0) & known).sum()
    if nameless:
        raise VTCError(f"column 'clip' is empty in {nameless} rows with a result; each of them needs one")
    cell = (codes * groups + group)[known]
    size, shape = len(names) * groups, (len(names), groups)
    totals = np.bincount(cell, weights=table.value.to_numpy()[known], minlength=size)
    return totals.reshape(shape), np.bincount(cell, minlength=size).reshape(shape).astype(float)


def _texts(column: pd.Series) -> pd.Series:
    return column.astype(object).where(column.notna(), "").astype(str)


def numbers(column: pd.Series) -> np.ndarray:
    """Return a column as floats, NaN where it is empty; a VTCError names one of other values."""
    try:
        numbers = column.astype("Float64").to_numpy(float, na_value=np.nan)
    except (TypeError, ValueError, OverflowError):
        raise VTCError(f"column {column.name!r} does not hold numbers; choose one that does, such as 'right'") from None
    if np.isinf(numbers).any():
        raise VTCError(f"column {column.name!r} holds infinite numbers, which have no mean; replace them")
    return numbers


def _one_ratio_where_free(table: pd.DataFrame) -> pd.Series:
    """Return the ratios, with that of the totals for a label whose options give each clip a budget of its own."""
    ratios = table.ratio.copy()
    repeated = table.label[table.duplicated(["label", "sample", "seed"]) & table["sample"].notna()]
    several = table.groupby("label").ratio.nunique(dropna=False) > 1
    for label in several[several].index.difference(repeated):
        mine = table[(table.label == label) & table.kept.notna()]
        ratios[table.label == label] = mine.total.sum() / mine.kept.sum()
    return ratios
