"""The published record: what papers report of token reduction, one row a figure, with where it stands."""

from __future__ import annotations

import warnings
from functools import cache

import pandas as pd

from vtc_lab.clips.reading import ROOT
from vtc_lab.tokens import VTCError, suggest

RECORD = ROOT / "data" / "published.csv"
# The registered methods that a row is about; of methods with a stage inside the language model too, the whole.
_REGISTERED = {
    "DyCoke": "dycoke",
    "FastVID": "fastvid",
    "FlashVID": "flashvid",
    "FrameFusion": "framefusion",
    "HoliTom": "holitom",
    "PruMerge": "prumerge",
    "STTM": "sttm",
    "ToMe": "tome",
    "VidCom2": "vidcom2",
    "VisionZip": "visionzip",
    "average pooling": "pool",
    "random": "random",
    "uniform frame subsampling": "uniform",
}
_TRAP = 1.0  # points between a reader's own baseline and a published one, beyond which they are not the same measurement


@cache
def _record() -> pd.DataFrame:
    table = pd.read_csv(RECORD, dtype={"arxiv": str})
    names = {
        "paper_method": "method",
        "reported_in": "source",
        "source_ref": "table",
        "nominal_ratio_kept": "retained",
        "budget_kind": "budget",
        "baseline_value": "baseline",
        "verified_in": "verified",
    }
    table = table.rename(columns=names)
    table.insert(1, "registered", table.method.map(_REGISTERED).fillna(""))
    accuracy = table.metric.isin(["accuracy", "relative_accuracy"])
    table["relative"] = (100 * table.value / table.baseline).where(accuracy)
    return table


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
    metric : "accuracy", "relative_accuracy" (a paper's own, in per cent), "throughput", "ttft_ms" or "prefill_ms".

    Returns
    -------
    DataFrame with method, registered (its name here, or ""), arxiv, source, table, backbone, frames, retained (nominal share
    of the tokens, 0 to 1), budget ("enters_llm", "mean_per_layer" or "unclear"), benchmark, metric, value, baseline,
    hardware, verified (how the figure was checked) and relative (value in per cent of the baseline, for accuracies).

    Raises
    ------
    VTCError
        For a name that is not on record; it offers the nearest ones.

    Examples
    --------
    >>> rows = published(method="FastV", backbone="LLaVA-OneVision-7B", benchmark="average", metric="relative_accuracy")
    >>> sorted(set(rows[rows.retained == 0.15].value))
    [85.0, 94.1, 94.5]
    """
    rows = _record()
    wanted = {"method": method, "backbone": backbone, "benchmark": benchmark, "source": source, "metric": metric}
    for column, name in wanted.items():
        if name is None:
            continue
        by = "registered" if column == "method" and name in set(rows.registered) else column
        known = _record()[by].dropna().unique()
        if name not in known:
            raise VTCError(f"no {column} {name!r} is on record; {suggest(name, known)}")
        rows = rows[rows[by] == name]
    return rows.reset_index(drop=True)


def check_baseline(own: float, *, backbone: str, benchmark: str) -> pd.Series:
    """Return the published accuracies without reduction, and warn if one's own is more than a point from all of them.

    A difference is a sign of another prompt, number of frames, subtitles or version of the benchmark, and then the
    accuracies under reduction cannot be compared either: on Video-MME, 63.9 and 58.2 are on record for one model.

    Parameters
    ----------
    own : accuracy with every token, in per cent.
    backbone, benchmark : as for `published`.

    Returns
    -------
    Series of accuracies in per cent by source.

    Raises
    ------
    VTCError
        If nothing is on record for this backbone and benchmark.

    Examples
    --------
    >>> check_baseline(58.5, backbone="LLaVA-OneVision-7B", benchmark="videomme").round(1).max()
    np.float64(58.6)
    """
    rows = published(backbone=backbone, benchmark=benchmark, metric="accuracy").dropna(subset=["baseline"])
    if rows.empty:
        raise VTCError(f"no accuracy of {backbone!r} on {benchmark!r} is on record")
    known = rows.groupby("source").baseline.first()
    if (abs(known - own) > _TRAP).all():
        near = known.iloc[(known - own).abs().argmin()]
        warnings.warn(
            f"your accuracy with every token is {own:.1f} %, the nearest published one {near:.1f} %; "
            "compare prompt, frames, subtitles and version of the benchmark before you compare reductions",
            RuntimeWarning,
            stacklevel=2,
        )
    return known
