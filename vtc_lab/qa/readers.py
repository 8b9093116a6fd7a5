"""Read Video-QA benchmarks as people have them on disk, in their official layouts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import pandas as pd

from vtc_lab.qa import layouts_choice, layouts_open
from vtc_lab.qa.layouts import Samples, plain
from vtc_lab.qa.layouts_open import Open
from vtc_lab.tokens import VTCError, suggest


@dataclass(frozen=True)
class _Benchmark:
    """How a benchmark is read and what `benchmarks` says of it; the first split is the default, "" stands for all."""

    read: Callable[[Path, Path, str], Samples]
    splits: tuple[str, ...]
    rule: str
    files: str
    clips: str
    source: str


def read_benchmark(
    name: str,
    folder: str | Path,
    split: str | None = None,
    limit: int | None = None,
    clips: str | Path | None = None,
) -> Iterator[dict[str, object]]:
    """Read the samples of a benchmark one by one, as `sweep`, `score` and `read_sample_clip` take them.

    Parameters
    ----------
    name : one of `benchmarks()`.
    folder : what holds its annotations and clips ("plain": such a folder, or the file itself).
    split : one of the benchmark's own; by default the first that `benchmarks()` names.
    limit : how many samples at most.
    clips : the folder of the clips, where they are not with the annotations.

    Returns
    -------
    Iterator of dicts. The files are read as it goes, not loaded whole. Each dict has

    - clip, an absolute path. Where no clip is there it is the path that it should have, and `tried` has every path that
      was looked for. start and end in seconds, where the benchmark asks about a range;
    - id; kind, the type of question by which the benchmark reports; group, the length of the video, where it has such;
      what `read_subtitles` needs, where it has subtitles;
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
    if root.is_file() and name != "plain":
        raise VTCError(f"{folder} is a file; give the folder that holds {benchmark.files}")
    beside = root if clips is None else Path(clips).expanduser().absolute()
    if not beside.exists():
        raise VTCError(f"there is no folder {clips}; give the one that holds the clips ({benchmark.clips})")
    return islice(benchmark.read(root, beside, chosen), limit)


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


_MSVD = Open(
    "MSVD_Zero_Shot_QA",
    ("videos", "YouTubeClips", "video"),
    layouts_open.by_word,
    numbered="vid{}",
    joined=("{split}_qa.json", "MSVD-QA/{split}_qa.json"),
)
_MSRVTT = Open(
    "MSRVTT_Zero_Shot_QA",
    ("videos/all", "videos", "video", "TestVideo", "TrainValVideo", "all"),
    layouts_open.by_word,
    numbered="video{}",
    joined=("{split}_qa.json", "MSRVTT-QA/{split}_qa.json"),
)
_ACTIVITYNET = Open("Activitynet_Zero_Shot_QA", ("all_test", "videos"), layouts_open.by_type, ("v_{}", "{}"))
_TGIF = Open(
    "TGIF_Zero_Shot_QA",
    ("mp4", "gifs", "videos_mp4", "videos"),
    layouts_open.by_frame_type,
    joined=("{Split}_frameqa_question.csv", "dataset/{Split}_frameqa_question.csv"),
)


def _open(layout: Open, files: str = "", source: str = "") -> _Benchmark:
    """A benchmark with open answers; they are all scored alike."""
    return _Benchmark(
        partial(layouts_open.open_answers, layout=layout),
        ("test", "val", "train"),
        "exact",
        f"{{split}}_q.json and {{split}}_a.json{files}",
        f"{layout.places[0]}/" + (", called v_ and the name" if "v_{}" in layout.names else ""),
        f"{source}Maaz et al. 2024, arXiv 2306.05424; files and folders as in Video-LLaVA, scripts/v1_5/eval",
    )


_RAW = "Xu et al. 2017, github.com/xudejing/video-question-answering; "
_NEXT_CLIPS = "NExTVideo/, or videos/ and map_vid_vidorID.json"
_BENCHMARKS = {
    "msvd-qa": _open(_MSVD, ", or {split}_qa.json and youtube_mapping.txt", _RAW),
    "msrvtt-qa": _open(_MSRVTT, ", or {split}_qa.json", _RAW),
    "activitynet-qa": _open(
        _ACTIVITYNET,
        ", or data/{split}-*.parquet",
        "Yu et al. 2019, github.com/MILVLG/activitynet-qa and the dataset lmms-lab/ActivityNetQA; ",
    ),
    "tgif-qa": _open(
        _TGIF, ", or {Split}_frameqa_question.csv", "Jang et al. 2017, github.com/YunseokJANG/tgif-qa (FrameQA); "
    ),
    "nextqa-mc": _Benchmark(
        partial(layouts_choice.nextqa, options=True),
        ("val", "test", "train"),
        "letter",
        "{split}.csv, or MC/{split}-*.parquet",
        _NEXT_CLIPS,
        "Xiao et al. 2021, github.com/doc-doc/NExT-QA; the columns of the dataset lmms-lab/NExTQA",
    ),
    "nextqa-oe": _Benchmark(
        partial(layouts_choice.nextqa, options=False),
        ("val", "test", "train"),
        "exact; its own are wups and wups0.9, which need WordNet (see score)",
        "{split}.csv, or OE/{split}-*.parquet",
        _NEXT_CLIPS,
        "Xiao et al. 2021, github.com/doc-doc/NExT-OE; the columns of the dataset lmms-lab/NExTQA",
    ),
    "egoschema": _Benchmark(
        layouts_choice.egoschema,
        ("subset", "full"),
        "letter",
        "questions.json and subset_answers.json, or Subset/test-*.parquet and MC/test-*.parquet",
        "videos/",
        "Mangalam et al. 2023, github.com/egoschema/EgoSchema; the columns of the dataset lmms-lab/egoschema",
    ),
    "mvbench": _Benchmark(
        layouts_choice.mvbench,
        ("", *layouts_choice.TASKS),
        "letter",
        "json/{split}.json",
        'video/, in the folder of each source; in the revision "video" without video/',
        "Li et al. 2024, arXiv 2311.17005; github.com/OpenGVLab/Ask-Anything, video_chat2/mvbench.ipynb; the dataset "
        'OpenGVLab/MVBench, revisions "main" and "video"',
    ),
    "video-mme": _Benchmark(
        layouts_choice.video_mme,
        ("", "short", "medium", "long"),
        "letter",
        "videomme/test-*.parquet, or test.jsonl, .csv or .json, or its own output_test_template.json",
        "data/, and subtitle/",
        "Fu et al. 2024, arXiv 2405.21075; the dataset lmms-lab/Video-MME; github.com/BradyFU/Video-MME, evaluation/",
    ),
    "longvideobench": _Benchmark(
        layouts_choice.longvideobench,
        ("val", "test"),
        "letter",
        "lvb_val.json, or lvb_test_wo_gt.json without answers; or validation-*.parquet and test-*.parquet",
        "videos/, and subtitles/",
        "Wu et al. 2024, arXiv 2407.15754; github.com/longvideobench/LongVideoBench",
    ),
    "plain": _Benchmark(
        plain,
        ("",),
        "exact, or letter with options",
        "qa.jsonl or qa.csv",
        "as the file says",
        "our definition",
    ),
}
