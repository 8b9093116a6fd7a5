"""The published record: what papers report of token reduction, one row a figure, with the table that it stands in."""

import math
import warnings
from functools import cache
from typing import Any

import pandas as pd

from vtc_lab.clips.reading import ROOT
from vtc_lab.reducers.inside import held, schedule
from vtc_lab.reducers.registry import METHODS
from vtc_lab.tokens import VTCError, suggest

RECORD = ROOT / "data" / "published.csv"
_NAMES = {  # columns of the file that have shorter names here
    "paper_method": "method",
    "reported_in": "source",
    "source_ref": "table",
    "nominal_ratio_kept": "retained",
    "budget_kind": "budget",
    "baseline_value": "baseline",
    "verified_in": "verified",
}
_BASELINES = {"average pooling": "pool", "uniform frame subsampling": "uniform"}  # others have the names of papers
# Others have 28.
_LAYERS = {"Qwen3-VL-8B": 36, "LLaVA-Video-72B": 80, "PLLaVA": 32, "ST-LLM": 32, "LLaVA-OneVision-0.5B": 24}
# Their share for FastV is that behind layer 2.
_AFTER_2 = ("FlashVID (2602.08024)", "InfoMerge (2606.02161)", "GleanVID")
_HALVED = ("HoliTom", "EarlyTom")  # whose tokens EarlyTom's tables halve behind layer 18
_UNTOLD = ("FastV", "PyramidDrop", "SparseVLM", "PruneVid", "FlashVID", "Unified")  # drop inside, nobody says how much
_FAR = 1.0  # points between two accuracies with every token that make them two measurements


@cache
def _record() -> pd.DataFrame:
    table = pd.read_csv(RECORD, dtype={"arxiv": str}).rename(columns=_NAMES)
    accuracy = table.metric.isin(["accuracy", "relative_accuracy"])
    relative = (100 * table.value / table.baseline).where(accuracy)
    return table.assign(relative=relative, per_layer=[_per_layer(row) for row in table.itertuples()])


def _per_layer(row: Any) -> float:
    """Return the mean share of the tokens in a layer, NaN where it cannot be told."""
    method, depth = row.method.partition("[")[0], _LAYERS.get(row.backbone, 28)
    if row.budget == "unclear" and method == "FastV" and row.source in _AFTER_2:
        return sum(held(1_000_000, depth, schedule("fastv", depth, keep=row.retained))) / depth / 1e6
    if row.budget == "enters_llm" and method in _HALVED and row.source.startswith("EarlyTom"):
        return row.retained * sum(held(1_000_000, depth, schedule("holitom-inner", depth))) / depth / 1e6
    told = row.budget == "mean_per_layer" or (row.budget == "enters_llm" and method not in _UNTOLD)
    return row.retained if told else math.nan


def published(
    *,
    method: str | None = None,
    backbone: str | None = None,
    benchmark: str | None = None,
    source: str | None = None,
    metric: str | None = None,
) -> pd.DataFrame:
    """Return the published figures of token reduction that match.

    Parameters
    ----------
    method : as papers call it ("FastV") or as it is registered here ("fastvid").
    backbone : such as "LLaVA-OneVision-7B".
    benchmark : such as "videomme"; "average" is a paper's own average, which differs from paper to paper.
    source : the paper that reports it, such as "EarlyTom (2605.30010)".
    metric : "accuracy", "relative_accuracy" (as the paper rounds it, in per cent), "throughput", "ttft_ms" or
        "prefill_ms".

    Returns
    -------
    DataFrame with a row for each figure, never empty:

    - method, arxiv, registered: its name here, or ""; a paper's figure is of the whole method, with the stage inside
      the language model if it has one;
    - source, table, backbone, frames, benchmark, hardware: what was measured, and where it is printed;
    - retained: nominal share of the tokens, 0 to 1; budget: what it is a share of, "enters_llm", "mean_per_layer" (over
      the layers of the language model) or "unclear";
    - per_layer: mean share per layer, NaN where it cannot be told; FastV's 10 % behind layer 2 of 28 is 16.4 %;
    - metric, value, baseline (without reduction, in the same table), relative: value in per cent of the baseline, for
      accuracies;
    - verified: "full_text", "readme" (of the authors) or "third_party".

    Examples
    --------
    >>> rows = published(method="FastV", backbone="LLaVA-OneVision-7B", benchmark="average", metric="relative_accuracy")
    >>> sorted(rows[rows.retained == 0.15].value)
    [85.0, 94.1, 94.5]
    """
    names = _record().method.replace(_BASELINES).str.lower()
    rows = _record().assign(registered=names.where(names.isin(list(METHODS)), ""))
    wanted = {"backbone": backbone, "benchmark": benchmark, "source": source, "metric": metric, "method": method}
    given: list[str] = []
    for column, name in wanted.items():
        if name is None:
            continue
        columns = ["method", "registered"] if column == "method" else [column]
        same = (rows[columns] == (name if isinstance(name, str) else "")).any(axis=1)
        if not (isinstance(name, str) and name and same.any()):
            beside = f" for {', '.join(given)}" if given else ""
            known = filter(None, rows[columns].stack().dropna().unique())
            raise VTCError(f"no {column} {name!r:.60} is on record{beside}; {suggest(name, known)}")
        rows = rows[same]
        given.append(name)
    return rows.reset_index(drop=True)


def check_baseline(own: float, *, backbone: str, benchmark: str, source: str | None = None) -> pd.DataFrame:
    """Return the published accuracies without reduction, and warn if one's own is more than a point from any.

    A difference is a sign of another prompt, number of frames, use of subtitles or version of the benchmark. Accuracies
    under reduction cannot be compared then.

    Parameters
    ----------
    own : accuracy with every token, in per cent.
    backbone, benchmark, source : as for `published`.

    Returns
    -------
    DataFrame with source, table, frames, baseline (in per cent) and apart (own minus baseline, in points).

    Examples
    --------
    >>> check_baseline(58.0, backbone="LLaVA-OneVision-7B", benchmark="videomme").baseline.agg(["min", "max"]).tolist()
    [57.7, 58.6]
    """
    if not (isinstance(own, int | float) and 1 < own <= 100):
        raise VTCError(f"own is {own!r:.60}; give the accuracy with every token in per cent, such as 58.4")
    rows = published(backbone=backbone, benchmark=benchmark, source=source, metric="accuracy")
    if rows.baseline.isna().all():
        raise VTCError(f"no accuracy of {backbone} on {benchmark} without reduction is on record")
    found = rows.groupby(["source", "table", "frames"], sort=False, dropna=False).baseline.first().reset_index()
    found["apart"] = (own - found.baseline).round(2)
    far = found.baseline[found.apart.abs() > _FAR]
    if len(far):
        warnings.warn(
            f"your accuracy with every token, {own:.1f} %, is more than {_FAR:g} point from {len(far)} of {len(found)} "
            f"published ones ({far.min():.1f} to {far.max():.1f} %); compare the prompt, frames, subtitles and version "
            "of the benchmark before you compare reductions",
            RuntimeWarning,
            stacklevel=2,
        )
    return found
