"""The official layouts of benchmarks with open answers, which differ in little; `readers` says where each is from."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vtc_lab.qa.clips import clip_finder
from vtc_lab.qa.records import Record, files, records, shards
from vtc_lab.qa.samples import Samples, open_question
from vtc_lab.tokens import VTCError

_ACTIVITYNET = ("motion", "spatial", "temporal", "yes/no", "color", "object", "location", "number", "other")
_FRAMEQA = ("object", "number", "color", "location")


@dataclass(frozen=True)
class Open:
    """The layout of a benchmark with open answers."""

    folder: str  # its folder in Video-LLaVA
    places: Sequence[str]  # folders of its clips, the official one first
    kind: Callable[[Record, Record], str]  # names the kind of a question, given the entries of question and answer
    names: Sequence[str] = ("{}",)  # file names of a clip, given the name in the annotations
    numbered: str = "{}"  # that name, where the annotations have a number
    joined: Sequence[str] = ()  # patterns of files whose entries have both question and answer


def open_answers(root: Path, clips: Path, split: str, layout: Open) -> Samples:
    """Find two files as Video-ChatGPT and Video-LLaVA have them, or one with question and answer in each entry."""
    tops = ["", *(f"{top}{layout.folder}/" for top in ("", "GPT_Zero_Shot_QA/", "eval/GPT_Zero_Shot_QA/")), "dataset/"]
    joined = [pattern.format(split=split, Split=split.title()) for pattern in layout.joined]
    patterns = [*(f"{top}{split}_q.json" for top in tops), *joined]
    found = files(root, *patterns, *shards("data", split), *shards("default", split))
    home = found[0].parent
    answers = files(home, f"{split}_a.json")[0] if found[0].name == f"{split}_q.json" else None
    find, youtube = clip_finder(clips), _youtube_names(root, home, clips)
    near = ("",) if found[0].suffix == ".parquet" else (f"{home.relative_to(root)}/", "")
    places = tuple(f"{top}{place}" for top in near for place in (*layout.places, ""))

    def read() -> Samples:
        for question, answer in _answered(records(*found), answers):
            video = question.text("video_name", "video_id", "video", "gif_name")
            name = layout.numbered.format(video) if video.isdecimal() else video
            called, number = [youtube[name]] if name in youtube else [], question.get("question_id", "id", "vid_id")
            yield {
                **find((*called, *(form.format(name) for form in layout.names)), places),
                "id": question.place if number is None else str(number),
                "kind": layout.kind(question, answer),
                **open_question(question, answer),
            }

    return read()


def _by_word(question: Record, answer: Record) -> str:
    """The kind in MSVD-QA and MSRVTT-QA: the first word."""
    first = question.text("question").split(" ")[0].lower()
    return first if first in ("what", "who", "how", "when", "where") else "other"


def _by_type(question: Record, answer: Record) -> str:
    """The kind in ActivityNet-QA: its nine types by name; any other type as it is."""
    kind = _type(answer)
    return _ACTIVITYNET[int(kind)] if kind.isdecimal() and int(kind) < len(_ACTIVITYNET) else kind


def _by_frame_type(question: Record, answer: Record) -> str:
    """The kind in TGIF-QA: the four of its own FrameQA table by name; any other type as it is."""
    kind = _type(answer)
    return _FRAMEQA[int(kind)] if "gif_name" in question.fields and kind in ("0", "1", "2", "3") else kind


def _type(answer: Record) -> str:
    kind = answer.get("type")
    return "" if kind is None else str(kind)


def _answered(questions: Iterator[Record], file: Path | None) -> Iterator[tuple[Record, Record]]:
    """Questions with their answers: the same entries, or those of a file by question_id or in the same order."""
    if file is None:
        yield from ((entry, entry) for entry in questions)
        return
    answers = list(records(file))
    known = {str(answer.get("question_id")): answer for answer in answers if answer.get("question_id") is not None}
    for n, question in enumerate(questions):
        asked = question.get("question_id")
        beside = answers[n] if n < len(answers) else None  # tried first, because an id may occur twice
        aligned = beside and (asked is None or beside.get("question_id") in (asked, None))
        answer = beside if aligned else known.get(str(asked))
        if answer is None:
            raise VTCError(f"{question.place} is question {asked!r}, which {file.name} does not answer; complete it")
        yield question, answer


def _youtube_names(*folders: Path) -> dict[str, str]:
    """MSVD's clips by the names that its questions use ("vid7"), where youtube_mapping.txt is there."""
    file = next((path for folder in folders if (path := folder / "youtube_mapping.txt").is_file()), None)
    pairs = (line.split() for line in file.read_text(encoding="utf-8").splitlines()) if file else ()
    return {pair[1]: pair[0] for pair in pairs if len(pair) == 2}


MSVD = Open(
    "MSVD_Zero_Shot_QA",
    ("videos", "YouTubeClips", "video"),
    _by_word,
    numbered="vid{}",
    joined=("{split}_qa.json", "MSVD-QA/{split}_qa.json"),
)
MSRVTT = Open(
    "MSRVTT_Zero_Shot_QA",
    ("videos/all", "videos", "video", "TestVideo", "TrainValVideo", "all"),
    _by_word,
    numbered="video{}",
    joined=("{split}_qa.json", "MSRVTT-QA/{split}_qa.json"),
)
ACTIVITYNET = Open("Activitynet_Zero_Shot_QA", ("all_test", "videos"), _by_type, ("v_{}", "{}"))
TGIF = Open(
    "TGIF_Zero_Shot_QA",
    ("mp4", "gifs", "videos_mp4", "videos"),
    _by_frame_type,
    joined=("{Split}_frameqa_question.csv", "dataset/{Split}_frameqa_question.csv"),
)
