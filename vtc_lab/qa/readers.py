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
from vtc_lab.qa.samples import Sample
from vtc_lab.tokens import VTCError, suggest


@dataclass(frozen=True)
class _Benchmark:
    """How a benchmark is read and what `benchmarks` says of it, in texts that pandas shows whole (50 characters).

    The first split is the default, "" stands for all.
    """

    read: Callable[[Path, Path, str], Samples]
    splits: tuple[str, ...]
    rule: str
    files: str
    or_files: str
    clips: str
    source: str
    github: str = ""
    hub: str = ""

    def wanted(self, split: str) -> str:
        """The files of a split, the official ones first."""
        texts = (text.format(split=split or "*", Split=split.title() or "*") for text in (self.files, self.or_files))
        return ", or ".join(filter(None, texts))


def read_benchmark(
    name: str,
    folder: str | Path,
    split: str | None = None,
    limit: int | None = None,
    clips: str | Path | None = None,
) -> Iterator[Sample]:
    """Read the samples of a benchmark one by one, as `sweep`, `score` and `read_sample_clip` take them.

    Parameters
    ----------
    name : one of `benchmarks()`.
    folder : what holds its annotations and clips ("plain": such a folder, or the file itself).
    split : one of the benchmark's own; by default the first that `benchmarks()` names. Of MVBench it is a task.
    limit : how many samples at most.
    clips : the folder of the clips, where they are not with the annotations.

    Returns
    -------
    Iterator of `Sample`. `clip` is an absolute path; where no clip is there it is the path that it should have, and
    `tried` has every path that was looked for. JSON is loaded whole; JSON lines, CSV and Parquet are read as it goes.

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

    What a benchmark that keeps its answers wants to be sent, an id and a letter:

    >>> from vtc_lab.qa.scoring import letter_of
    >>> samples = list(read_benchmark("egoschema", "tests/fixtures/egoschema", "full", limit=2))
    >>> said = ["D. C fixes a bicycle.", "(B)"]  # the texts of a model's answers
    >>> {s["id"][-1]: letter_of(text, s["options"]) for s, text in zip(samples, said, strict=True)}
    {'a': 'D', 'b': 'B'}
    """
    if name not in _BENCHMARKS:
        raise VTCError(f"there is no benchmark {name!r}; {suggest(name, _BENCHMARKS)}")
    if limit is not None and (type(limit) is not int or limit < 0):
        raise VTCError(f"limit is {limit!r}; it must be a whole number of samples, or None for all")
    benchmark = _BENCHMARKS[name]
    chosen = benchmark.splits[0] if split is None else split
    if chosen not in benchmark.splits:
        known = list(filter(None, benchmark.splits))
        meant = next((near for near in known if str(split).startswith(near)), split)  # "validation", "test_full"
        raise VTCError(f"{name} has no split {split!r}; {suggest(meant, known)}")
    root = Path(folder).expanduser().absolute()
    if not root.exists():
        raise VTCError(f"there is no folder {folder}; give the one that holds {benchmark.wanted(chosen)}")
    if root.is_file() and name != "plain":
        raise VTCError(f"{folder} is a file; give the folder that holds {benchmark.wanted(chosen)}")
    beside = root if clips is None else Path(clips).expanduser().absolute()
    if not beside.exists():
        raise VTCError(f"there is no folder {clips}; give the one that holds the clips ({benchmark.clips})")
    try:
        samples = benchmark.read(root, beside, chosen)
    except VTCError as error:
        there = ", ".join(repr(other) for other in benchmark.splits if other and _is_there(benchmark, root, other))
        raise VTCError(f"{error}; those of split {there} are there" if there else f"{error}") from error
    return islice(samples, limit)


def benchmarks() -> pd.DataFrame:
    """The benchmarks that can be read.

    Returns
    -------
    DataFrame with a row for each: name, rule (how its answers are scored), splits (the default first), files, or_files
    (what may be there instead) and clips (all relative to the folder), and where the layout is from: source (the
    paper), github and hub (repositories and datasets there). Two files _q.json and _a.json are as in
    PKU-YuanGroup/Video-LLaVA, scripts/v1_5/eval.

    Examples
    --------
    >>> table = benchmarks().set_index("name")
    >>> table.rule["egoschema"], table.splits["egoschema"]
    ('letter', 'subset, full')
    """
    columns = ("rule", "splits", "files", "or_files", "clips", "source", "github", "hub")
    rows = [[name, *(getattr(entry, column) for column in columns)] for name, entry in _BENCHMARKS.items()]
    table = pd.DataFrame(rows, columns=["name", *columns])
    tasks = layouts_choice.TASKS.keys()
    named = [
        "all, or a task" if tasks <= set(each) else ", ".join(split or "all" for split in each) for each in table.splits
    ]
    return table.assign(splits=named)


def _is_there(benchmark: _Benchmark, root: Path, split: str) -> bool:
    """Whether a folder has the files of a split."""
    try:
        benchmark.read(root, root, split)
    except VTCError:
        return False
    return True


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


def _open(layout: Open, or_files: str, source: str, github: str, hub: str = "") -> _Benchmark:
    """A benchmark with open answers; they are all scored alike, and in two files as Video-LLaVA has them."""
    return _Benchmark(
        partial(layouts_open.open_answers, layout=layout),
        ("test", "val", "train"),
        "exact",
        "{split}_q.json and {split}_a.json",
        or_files,
        f"{layout.places[0]}/" + (", called v_ and the name" if "v_{}" in layout.names else ""),
        f"{source}; Maaz et al., arXiv 2306.05424",
        github,
        hub,
    )


_NEXT_CLIPS = "NExTVideo/, or videos/ and map_vid_vidorID.json"
_BENCHMARKS = {
    "msvd-qa": _open(
        _MSVD, "{split}_qa.json and youtube_mapping.txt", "Xu et al. 2017", "xudejing/video-question-answering"
    ),
    "msrvtt-qa": _open(_MSRVTT, "{split}_qa.json", "Xu et al. 2017", "xudejing/video-question-answering"),
    "activitynet-qa": _open(
        _ACTIVITYNET, "data/{split}-*.parquet", "Yu et al. 2019", "MILVLG/activitynet-qa", "lmms-lab/ActivityNetQA"
    ),
    "tgif-qa": _open(_TGIF, "{Split}_frameqa_question.csv", "Jang et al. 2017", "YunseokJANG/tgif-qa"),
    "nextqa-mc": _Benchmark(
        partial(layouts_choice.nextqa, options=True),
        ("val", "test", "train"),
        "letter",
        "{split}.csv",
        "MC/{split}-*.parquet",
        _NEXT_CLIPS,
        "Xiao et al. 2021",
        "doc-doc/NExT-QA",
        "lmms-lab/NExTQA",
    ),
    "nextqa-oe": _Benchmark(
        partial(layouts_choice.nextqa, options=False),
        ("val", "test", "train"),
        "exact; its own are wups and wups0.9 (see score)",
        "{split}.csv",
        "OE/{split}-*.parquet",
        _NEXT_CLIPS,
        "Xiao et al. 2021",
        "doc-doc/NExT-OE",
        "lmms-lab/NExTQA",
    ),
    "egoschema": _Benchmark(
        layouts_choice.egoschema,
        ("subset", "full"),
        "letter",
        "questions.json and subset_answers.json",
        "Subset/test-*.parquet and MC/test-*.parquet",
        "videos/",
        "Mangalam et al. 2023",
        "egoschema/EgoSchema",
        "lmms-lab/egoschema",
    ),
    "mvbench": _Benchmark(
        layouts_choice.mvbench,
        ("", *layouts_choice.TASKS),
        "letter",
        "json/{split}.json",
        "{split}.json",
        "video/ (or without it), a folder for each source",
        "Li et al. 2024, arXiv 2311.17005",
        "OpenGVLab/Ask-Anything, video_chat2/mvbench.ipynb",
        "OpenGVLab/MVBench, revisions main and video",
    ),
    "video-mme": _Benchmark(
        layouts_choice.video_mme,
        ("", "short", "medium", "long"),
        "letter",
        "videomme/test-*.parquet",
        "test.jsonl|csv|json or output_test_template.json",
        "data/",
        "Fu et al. 2024, arXiv 2405.21075",
        "BradyFU/Video-MME, evaluation/",
        "lmms-lab/Video-MME",
    ),
    "longvideobench": _Benchmark(
        layouts_choice.longvideobench,
        ("val", "test"),
        "letter",
        "lvb_val.json, of the test lvb_test_wo_gt.json",
        "validation-*.parquet, of the test test-*.parquet",
        "videos/",
        "Wu et al. 2024, arXiv 2407.15754",
        "longvideobench/LongVideoBench",
        "longvideobench/LongVideoBench",
    ),
    "plain": _Benchmark(
        plain,
        ("",),
        "exact, or letter with options",
        "qa.jsonl",
        "qa.csv",
        "as the file says",
        "our definition",
    ),
}
