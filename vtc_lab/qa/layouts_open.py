"""The official layouts of benchmarks with open answers, as a function from (folder, folder of clips, split) to samples.

It looks for its files at once and reads them when the samples are asked for. `readers` says where each is from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from vtc_lab.qa.clips import clip_finder
from vtc_lab.qa.layouts import Samples, files, one_file, shards
from vtc_lab.qa.records import Record, records
from vtc_lab.tokens import VTCError

_ACTIVITYNET = ("motion", "spatial", "temporal", "yes/no", "color", "object", "location", "number", "other")
_FRAMEQA = ("object", "number", "color", "location")


@dataclass(frozen=True)
class Open:
    """How a benchmark with open answers lies on disk.

    Parameters
    ----------
    folder : what Video-LLaVA calls its folder.
    places : folders of its clips, the official one first.
    kind : names the kind of a question, given the entries of its question and its answer.
    names : what a clip may be called, given the name in the annotations.
    numbered : that name, where the annotations have a number.
    joined : patterns of files whose entries have both question and answer.
    """

    folder: str
    places: Sequence[str]
    kind: Callable[[Record, Record], str]
    names: Sequence[str] = ("{}",)
    numbered: str = "{}"
    joined: Sequence[str] = ()


def open_answers(root: Path, clips: Path, split: str, layout: Open) -> Samples:
    """Two files as Video-ChatGPT and Video-LLaVA have them, or one with question and answer in each entry."""
    tops = ["", *(f"{top}{layout.folder}/" for top in ("", "GPT_Zero_Shot_QA/", "eval/GPT_Zero_Shot_QA/")), "dataset/"]
    joined = [pattern.format(split=split, Split=split.title()) for pattern in layout.joined]
    patterns = [*(f"{top}{split}_q.json" for top in tops), *joined]
    found = files(root, *patterns, *shards("data", split), *shards("default", split))
    home = found[0].parent
    answers = one_file(home, f"{split}_a.json") if found[0].name == f"{split}_q.json" else None
    find, youtube = clip_finder(clips), _youtube_names(root, home, clips)
    near = dict.fromkeys([*([] if found[0].suffix == ".parquet" else [f"{home.relative_to(root)}/"]), ""])
    places = [f"{top}{place}" for top in near for place in (*layout.places, "")]

    def read() -> Samples:
        entries = chain.from_iterable(map(records, found))
        pairs = _side_by_side(entries, answers) if answers else ((entry, entry) for entry in entries)
        for question, answer in pairs:
            video = question.text("video_name", "video_id", "video", "gif_name")
            name = layout.numbered.format(video) if video.isdecimal() else video
            called, number = [youtube[name]] if name in youtube else [], question.get("question_id", "id", "vid_id")
            yield find([*called, *(form.format(name) for form in layout.names)], places) | {
                "id": question.place if number is None else str(number),
                "kind": layout.kind(question, answer),
                "question": question.text("question"),
                "answer": answer.text("answer"),
                "candidates": None,
                "rule": "exact",
            }

    return read()


def by_word(question: Record, answer: Record) -> str:
    """The kinds of MSVD-QA and MSRVTT-QA: by the first word."""
    first = question.text("question").split(" ")[0].lower()
    return first if first in ("what", "who", "how", "when", "where") else "other"


def by_type(question: Record, answer: Record) -> str:
    """The kinds of ActivityNet-QA: its nine types by name; any other type is given as it is."""
    kind = any_type(question, answer)
    return _ACTIVITYNET[int(kind)] if kind.isdecimal() and int(kind) < len(_ACTIVITYNET) else kind


def by_frame_type(question: Record, answer: Record) -> str:
    """The kinds of TGIF-QA: the four of its own FrameQA table by name, any other type as it is."""
    kind = any_type(question, answer)
    return _FRAMEQA[int(kind)] if "gif_name" in question.fields and kind in ("0", "1", "2", "3") else kind


def any_type(question: Record, answer: Record) -> str:
    """The type as the file has it, if it has one."""
    kind = answer.get("type")
    return "" if kind is None else str(kind)


def _side_by_side(questions: Iterator[Record], file: Path) -> Iterator[tuple[Record, Record]]:
    """Questions with their answers; both files are in one order unless somebody has shortened or sorted one."""
    answers, passed = records(file), {}
    for question in questions:
        asked = question.get("question_id")
        found = passed.pop(asked, None)
        while found is None:
            answer = next(answers, None)
            if answer is None:
                raise VTCError(
                    f"{question.place} is question {asked!r}, which {file.name} does not answer; complete it"
                )
            if asked is None or answer.fields.get("question_id", asked) == asked:
                found = answer
            else:
                passed[answer.get("question_id")] = answer
        yield question, found


def _youtube_names(*folders: Path) -> dict[str, str]:
    """MSVD's clips by the names that its questions use ("vid7"), where youtube_mapping.txt is there."""
    file = next((path for folder in folders if (path := folder / "youtube_mapping.txt").is_file()), None)
    pairs = (line.split() for line in file.read_text(encoding="utf-8").splitlines()) if file else ()
    return {pair[1]: pair[0] for pair in pairs if len(pair) == 2}
