"""Read Video-QA benchmarks as people have them on disk, in their official layouts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import pandas as pd

from vtc_lab.qa import layouts
from vtc_lab.qa.layouts import Samples
from vtc_lab.tokens import VTCError, suggest


@dataclass(frozen=True)
class _Benchmark:
    """How a benchmark is read and what `benchmarks` says of it; the first split is the default, "" stands for all."""

    read: Callable[[Path, str], Samples]
    splits: tuple[str, ...]
    rule: str
    files: str
    clips: str
    source: str


def read_benchmark(
    name: str, folder: str | Path, split: str | None = None, limit: int | None = None
) -> Iterator[dict[str, object]]:
    """Read the samples of a benchmark one by one, as `sweep`, `score` and `read_sample_clip` take them.

    Parameters
    ----------
    name : one of `benchmarks()`.
    folder : what holds its annotations and clips ("plain": such a folder, or the file itself).
    split : one of the benchmark's own; by default the first that `benchmarks()` names.
    limit : how many samples at most.

    Returns
    -------
    Iterator of dicts. The files are read as it goes, not loaded whole. Each dict has

    - clip, an absolute path. Where no clip is there it is the path that it should have, and `tried` has every path that
      was looked for. start and end in seconds, where the benchmark asks about a range;
    - id; kind, the type of question by which the benchmark reports; group, the length of the video, where it has such;
    - question (what the model is asked), answer (None where the benchmark keeps it to itself), candidates and rule
      ("exact" or "letter", see `score`).

    For multiple choice the question includes the lettered options, candidates and answer are letters, and `stem` and
    `options` are the question and the options as they are in the file. All benchmarks are asked in the form that
    LongVideoBench uses; Video-MME and MVBench word theirs differently.

    Raises
    ------
    VTCError
        At once for an unknown name or split, or if a file is missing (it names those it looked for); while reading,
        for an entry that is not as the benchmark has it.

    Examples
    --------
    >>> sample = next(read_benchmark("nextqa-mc", "tests/fixtures/nextqa-mc"))
    >>> sample["answer"], sample["candidates"], sample["kind"]
    ('C', ['A', 'B', 'C', 'D', 'E'], 'CH')
    """
    if name not in _BENCHMARKS:
        raise VTCError(f"there is no benchmark {name!r}; {suggest(name, _BENCHMARKS)}")
    if limit is not None and (type(limit) is not int or limit < 0):
        raise VTCError(f"limit is {limit!r}; it must be a whole number of samples, or None for all")
    benchmark = _BENCHMARKS[name]
    chosen = benchmark.splits[0] if split is None else split
    if chosen not in benchmark.splits:
        raise VTCError(f"{name} has no split {split!r}; {suggest(split, filter(None, benchmark.splits))}")
    root = Path(folder).expanduser().absolute()
    if not root.exists():
        raise VTCError(f"there is no folder {folder}; give the one that holds {benchmark.files}")
    return islice(benchmark.read(root, chosen), limit)


def benchmarks() -> pd.DataFrame:
    """The benchmarks that can be read.

    Returns
    -------
    DataFrame with a row for each: name, rule (how its answers are scored), splits (the default first), files and clips
    (relative to the folder), and source (where the layout is from).

    Examples
    --------
    >>> table = benchmarks().set_index("name")
    >>> table.rule["egoschema"], table.splits["egoschema"]
    ('letter', 'subset, full')
    """
    columns = ("rule", "splits", "files", "clips", "source")
    rows = [[name, *(getattr(entry, column) for column in columns)] for name, entry in _BENCHMARKS.items()]
    table = pd.DataFrame(rows, columns=["name", *columns])
    return table.assign(splits=[", ".join(split or "all" for split in splits) for splits in table.splits])


def _zero_shot(folder: str, clips: str, kind: Callable, source: str = "", names: tuple[str, ...] = ("{}",)):
    """A benchmark in the layout that Video-ChatGPT evaluates."""
    return _Benchmark(
        partial(layouts.zero_shot, folder=folder, names=names, kind=kind),
        ("test", "val", "train"),
        "exact",
        "{split}_q.json, {split}_a.json",
        clips,
        f"{source}Maaz et al. 2024, arXiv 2306.05424; files and folders as in Video-LLaVA, scripts/v1_5/eval",
    )


_BENCHMARKS = {
    "msvd-qa": _zero_shot("MSVD_Zero_Shot_QA", "videos/", layouts.by_word),
    "msrvtt-qa": _zero_shot("MSRVTT_Zero_Shot_QA", "videos/all/", layouts.by_word),
    "activitynet-qa": _zero_shot(
        "Activitynet_Zero_Shot_QA",
        "all_test/, called v_ and the name",
        layouts.by_type,
        "Yu et al. 2019, github.com/MILVLG/activitynet-qa; ",
        ("v_{}", "{}"),
    ),
    "tgif-qa": _zero_shot("TGIF_Zero_Shot_QA", "mp4/", layouts.any_type),
    "nextqa-mc": _Benchmark(
        partial(layouts.nextqa, options=True),
        ("val", "test", "train"),
        "letter",
        "{split}.csv",
        "NExTVideo/, or videos/ and map_vid_vidorID.json",
        "Xiao et al. 2021, github.com/doc-doc/NExT-QA",
    ),
    "nextqa-oe": _Benchmark(
        partial(layouts.nextqa, options=False),
        ("val", "test", "train"),
        "exact (its own is WUPS, which needs WordNet)",
        "{split}.csv",
        "NExTVideo/, or videos/ and map_vid_vidorID.json",
        "Xiao et al. 2021, github.com/doc-doc/NExT-OE",
    ),
    "egoschema": _Benchmark(
        layouts.egoschema,
        ("subset", "full"),
        "letter",
        "questions.json, subset_answers.json",
        "videos/",
        "Mangalam et al. 2023, github.com/egoschema/EgoSchema",
    ),
    "mvbench": _Benchmark(
        layouts.mvbench,
        ("", *layouts.TASKS),
        "letter",
        "json/{split}.json",
        "video/, in the folder of each source",
        "Li et al. 2024, arXiv 2311.17005; github.com/OpenGVLab/Ask-Anything, video_chat2/mvbench.ipynb",
    ),
    "video-mme": _Benchmark(
        layouts.video_mme,
        ("", "short", "medium", "long"),
        "letter",
        "videomme/test-*.parquet, or test.jsonl or test.csv",
        "data/",
        "Fu et al. 2024, arXiv 2405.21075; the columns of the dataset lmms-lab/Video-MME",
    ),
    "longvideobench": _Benchmark(
        layouts.longvideobench,
        ("val", "test"),
        "letter",
        "lvb_val.json, or lvb_test_wo_gt.json without answers",
        "videos/, subtitles/",
        "Wu et al. 2024, arXiv 2407.15754; github.com/longvideobench/LongVideoBench",
    ),
    "plain": _Benchmark(
        layouts.plain,
        ("",),
        "exact, or letter with options",
        "qa.jsonl or qa.csv",
        "as the file says",
        "our definition",
    ),
}
