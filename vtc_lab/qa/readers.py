"""Reading of Video-QA benchmarks in their official layouts."""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import pandas as pd

from vtc_lab.clips.reading import given_path
from vtc_lab.qa import layouts_choice, layouts_open
from vtc_lab.qa.records import files
from vtc_lab.qa.samples import Sample, Samples, read_plain
from vtc_lab.tokens import VTCError, demand_one_of, suggest


def _plain(root: Path, clips: Path, split: str) -> Samples:
    file = root if root.is_file() else files(root, "qa.jsonl", "qa.csv")[0]
    home = file.parent if clips == root else clips
    samples = enumerate(read_plain(file, home), 1)
    return ({"id": str(n), "kind": "", "candidates": None, "rule": "exact", **sample} for n, sample in samples)


# Each takes the folder, the folder of clips and the split, "" for all; benchmarks.csv says the rest.
_READERS: dict[str, Callable[[Path, Path, str], Samples]] = {
    "msvd-qa": partial(layouts_open.open_answers, layout=layouts_open.MSVD),
    "msrvtt-qa": partial(layouts_open.open_answers, layout=layouts_open.MSRVTT),
    "activitynet-qa": partial(layouts_open.open_answers, layout=layouts_open.ACTIVITYNET),
    "tgif-qa": partial(layouts_open.open_answers, layout=layouts_open.TGIF),
    "nextqa-mc": partial(layouts_choice.nextqa, options=True),
    "nextqa-oe": partial(layouts_choice.nextqa, options=False),
    "egoschema": layouts_choice.egoschema,
    "mvbench": layouts_choice.mvbench,
    "video-mme": layouts_choice.video_mme,
    "longvideobench": layouts_choice.longvideobench,
    "plain": _plain,
}


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
    folder : the folder of its annotations and clips ("plain": such a folder, or the file itself).
    split : one of the benchmark's own; by default the first that `benchmarks()` names. For MVBench it is a task.
    limit : the most samples to read.
    clips : the folder of the clips, if they are not with the annotations.

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
        At once for an unknown name or split or a missing file; while reading, for an entry in another layout.

    Examples
    --------
    >>> sample = next(read_benchmark("nextqa-mc", "tests/fixtures/nextqa-mc"))
    >>> sample["answer"], sample["candidates"], sample["kind"]
    ('C', ['A', 'B', 'C', 'D', 'E'], 'CH')

    For a benchmark with secret answers, the ids and letters to submit:

    >>> from vtc_lab.qa.scoring import letter_of
    >>> samples = list(read_benchmark("egoschema", "tests/fixtures/egoschema", "full", limit=2))
    >>> said = ["D. C fixes a bicycle.", "(B)"]  # the texts of a model's answers
    >>> {s["id"][-1]: letter_of(text, s["options"]) for s, text in zip(samples, said, strict=True)}
    {'a': 'D', 'b': 'B'}
    """
    demand_one_of("benchmark", name, _READERS)
    if limit is not None and (type(limit) is not int or not 0 <= limit <= sys.maxsize):
        raise VTCError(f"limit is {limit!r}; it must be a whole number of samples, or None for all")
    facts, read = benchmarks().set_index("name").loc[name], _READERS[name]
    splits = list(layouts_choice.TASKS) if name == "mvbench" else facts.splits.removeprefix("all").split(", ")
    known = list(filter(None, splits))
    chosen = ("" if facts.splits.startswith("all") else known[0]) if split is None else split
    if split is not None and split not in known:
        meant = next((near for near in known if str(split).startswith(near)), split)  # "validation", "test_full"
        raise VTCError(f"{name} has no split {split!r}; {suggest(meant, known)}")
    words = {"split": chosen or "*", "Split": chosen.title() or "*"}
    wanted = ", or ".join(text.format(**words) for text in (facts.files, facts.or_files))
    root = given_path(folder).absolute()
    if not root.exists():
        raise VTCError(f"there is no folder {folder}; give the one that holds {wanted}")
    if root.is_file() and name != "plain":
        raise VTCError(f"{folder} is a file; give the folder that holds {wanted}")
    beside = root if clips is None else given_path(clips).absolute()
    if not beside.exists():
        raise VTCError(f"there is no folder {clips}; give the one that holds the clips ({facts.clips})")
    return islice(read(root, beside, chosen), limit)


def benchmarks() -> pd.DataFrame:
    """List the benchmarks that can be read.

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
    return pd.read_csv(Path(__file__).with_name("benchmarks.csv"), dtype=str, keep_default_na=False)
