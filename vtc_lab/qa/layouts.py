"""The official layouts of Video-QA benchmarks, each a function from (folder, split) to its samples.

Each looks for its files at once and reads them when the samples are asked for. `readers` says where each is from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from vtc_lab.qa.clips import clip_finder
from vtc_lab.qa.records import Record, read_object, records
from vtc_lab.tokens import VTCError

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
TASKS = {
    "action_sequence": "star/Charades_v1_480",
    "action_prediction": "star/Charades_v1_480",
    "action_antonym": "ssv2_video",
    "fine_grained_action": "Moments_in_Time_Raw/videos",
    "unexpected_action": "FunQA_test/test",
    "object_existence": "clevrer/video_validation",
    "object_interaction": "star/Charades_v1_480",
    "object_shuffle": "perception/videos",
    "moving_direction": "clevrer/video_validation",
    "action_localization": "sta/sta_video",
    "scene_transition": "scene_qa/video",
    "action_count": "perception/videos",
    "moving_count": "clevrer/video_validation",
    "moving_attribute": "clevrer/video_validation",
    "state_change": "perception/videos",
    "fine_grained_pose": "nturgbd",
    "character_order": "perception/videos",
    "egocentric_navigation": "vlnqa",
    "episodic_reasoning": "tvqa/frames_fps3_hq",
    "counterfactual_inference": "clevrer/video_validation",
}
"""MVBench's tasks, and the folder of each one's clips."""

_RANGED = ("action_sequence", "action_prediction", "object_interaction", "action_localization", "episodic_reasoning")
_CONVERTED = {"ssv2_video": "ssv2_video_mp4", "nturgbd": "nturgbd_convert"}  # in a later revision; whole videos too
_TVQA_RATE = 3.0  # pictures a second
_ASK = "Answer with the option's letter from the given choices directly."
_ACTIVITYNET = ("motion", "spatial", "temporal", "yes/no", "color", "object", "location", "number", "other")

Samples = Iterator[dict[str, object]]


def zero_shot(
    root: Path, split: str, *, folder: str, names: Sequence[str], kind: Callable[[Record, Record], str]
) -> Samples:
    """Video-ChatGPT's and Video-LLaVA's: questions in one file, answers in another, clips called as `names` says."""
    questions = _file(root, f"{split}_q.json", f"{folder}/{split}_q.json")
    answers = records(_file(questions.parent, f"{split}_a.json"))
    find, passed = clip_finder(questions.parent), {}

    def answer_to(question: Record) -> Record:
        # Both files are read side by side; they are in the same order unless somebody has shortened or sorted one.
        asked = question.fields.get("question_id")
        if asked in passed:
            return passed.pop(asked)
        for answer in answers:
            if asked is None or answer.fields.get("question_id", asked) == asked:
                return answer
            passed[answer.fields["question_id"]] = answer
        raise VTCError(f"{question.place} is question {asked!r}, which {split}_a.json does not answer; complete it")

    def read() -> Samples:
        for question in records(questions):
            answer, video = answer_to(question), question.text("video_name")
            yield find([name.format(video) for name in names], ["videos", "videos/all", "all_test", "mp4", ""]) | {
                "id": str(question.fields.get("question_id", question.place)),
                "kind": kind(question, answer),
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
    kind = answer.fields.get("type")
    return _ACTIVITYNET[kind] if kind in range(len(_ACTIVITYNET)) else any_type(question, answer)


def any_type(question: Record, answer: Record) -> str:
    """The type as the file has it, if it has one."""
    return str(answer.fields.get("type", ""))


def nextqa(root: Path, split: str, *, options: bool) -> Samples:
    """NExT-QA with options, or NExT-OE without, which may have a second right answer (`also`)."""
    file = _file(root, f"{split}.csv", f"nextqa/{split}.csv", f"dataset/nextqa/{split}.csv")
    find = clip_finder(root)

    def read() -> Samples:
        vidor = _table(file.parent / "map_vid_vidorID.json") or _table(root / "map_vid_vidorID.json")
        second = {} if options else _table(file.parent / f"add_reference_answer_{split}.json")
        for record in records(file):
            video, number, kind = record.text("video"), record.text("qid"), record.text("type")
            names = dict.fromkeys([video, str(vidor.get(video, video))])
            sample = find(names, ["NExTVideo", "videos", "video", ""]) | {
                "id": f"{video}_{number}",
                "kind": "TN" if kind == "TP" else kind,  # as its own evaluation counts them
            }
            if options:
                texts = [record.text(f"a{n}") for n in range(5)]
                yield sample | _choice(record, record.text("question"), texts, record.number("answer"))
                continue
            sample |= {"question": record.text("question"), "answer": record.text("answer")}
            also = second.get(video, {}).get(number)
            yield sample | {"candidates": None, "rule": "exact"} | ({"also": [also]} if also else {})

    return read()


def egoschema(root: Path, split: str) -> Samples:
    """EgoSchema: the 500 questions with public answers, or all."""
    file, known = _file(root, "questions.json"), root / "subset_answers.json"
    find = clip_finder(root)
    if split == "subset":
        known = _file(root, "subset_answers.json")

    def read() -> Samples:
        answers = _table(known)
        for record in records(file):
            uid = record.text("q_uid")
            if split == "full" or uid in answers:
                texts = [record.text(f"option {n}") for n in range(5)]
                sample = find([uid], ["videos", ""]) | {"id": uid, "kind": ""}
                yield sample | _choice(record, record.text("question"), texts, answers.get(uid))

    return read()


def mvbench(root: Path, split: str) -> Samples:
    """MVBench: a file for each task. The pre-cut segments of a later revision are not read, only whole videos."""
    files = {task: _file(root, f"json/{task}.json", f"{task}.json") for task in ([split] if split else TASKS)}
    find = clip_finder(root)

    def read(task: str, file: Path) -> Samples:
        pictures, folder = task == "episodic_reasoning", TASKS[task]
        places = [f"{top}{folder}" for top in ("video/", "", "video/data0613/", "data0613/")]
        places += [f"{top}{_CONVERTED[folder]}" for top in ("video/", "") if folder in _CONVERTED]
        for number, record in enumerate(records(file)):
            texts = record.texts("candidates")
            sample = find([record.text("video")], places, *([[""]] if pictures else []))
            sample = sample | {"id": f"{task}_{number}", "kind": task}
            if task in _RANGED:
                sample |= {"start": record.number("start"), "end": record.number("end")}
            if pictures:
                sample["picture_rate"] = _TVQA_RATE
            yield sample | _choice(record, record.text("question"), texts, _position(record, texts, ["text"]))

    return chain.from_iterable(read(task, file) for task, file in files.items())


def video_mme(root: Path, split: str) -> Samples:
    """Video-MME: one table, of which a split is the clips of one length."""
    names = [f"{place}test{ending}" for place in ("videomme/", "") for ending in ("-*.parquet", ".jsonl", ".csv")]
    files, find = _files(root, *names), clip_finder(root)

    def read() -> Samples:
        for record in chain.from_iterable(map(records, files)):
            length = record.text("duration")
            if split in ("", length):
                texts = record.texts("options")
                marks = [re.match(rf"{letter}[.)]\s*", text) for letter, text in zip(LETTERS, texts, strict=False)]
                if all(marks):
                    texts = [text[mark.end() :] for mark, text in zip(marks, texts, strict=True)]
                yield {
                    **find([record.text("videoID")], ["data", "videos", "video", ""]),
                    "id": record.text("question_id"),
                    "kind": record.text("task_type"),
                    "group": length,
                    **_choice(record, record.text("question"), texts, _position(record, texts, ["letter"])),
                }

    return read()


def longvideobench(root: Path, split: str) -> Samples:
    """LongVideoBench: validation, or test without answers; `read_subtitles` reads the subtitles."""
    file = _file(root, "lvb_val.json" if split == "val" else "lvb_test_wo_gt.json")
    find = clip_finder(root)

    def read() -> Samples:
        for record in records(file):
            sample = find([record.text("video_path")], ["videos", ""]) | {
                "id": record.text("id"),
                "kind": record.text("question_category"),
                "group": record.text("duration_group"),
                "subtitles": str(root / "subtitles" / record.text("subtitle_path")),
                "subtitles_from": record.number("starting_timestamp_for_subtitles"),
                "duration": record.number("duration"),
            }
            right = record.fields.get("correct_choice")
            yield sample | _choice(record, record.text("question"), record.texts("candidates"), right)

    return read()


def plain(root: Path, split: str) -> Samples:
    """Anybody's own .jsonl or .csv."""
    file = root if root.is_file() else _file(root, "qa.jsonl", "qa.csv")
    find = clip_finder(file.parent)
    defaults = {"kind": "", "candidates": None, "rule": "exact"}
    return (
        defaults | {"id": str(number)} | sample | find([sample["clip"]], [""], [""])
        for number, sample in enumerate(read_plain(file), 1)
    )


def read_plain(file: Path) -> Samples:
    """Samples of a .jsonl or .csv file with clip, question and answer, clips relative to it.

    Yields
    ------
    Every field as it is, `clip` made absolute. With `options` (a list; in CSV written as JSON) the answer is a letter
    or one of them. A CSV may also have `candidates`, written likewise, and `start` and `end`; an empty cell gives
    nothing.

    Raises
    ------
    VTCError
        If an entry lacks one of the three; it names the line.

    Examples
    --------
    >>> next(read_plain(Path("tests/fixtures/plain/qa.csv")))["answer"]
    'yes'
    """
    for record in records(file):
        if file.suffix == ".csv":
            record = Record(record.place, {name: value for name, value in record.fields.items() if value})
        missing = [name for name in ("clip", "question", "answer") if record.fields.get(name) is None]
        if missing or not isinstance(record.fields["clip"], str):
            reason = f"without {', '.join(missing)}" if missing else f"with clip {record.fields['clip']!r:.60}"
            raise VTCError(f"{record.place} is no sample, {reason}; it needs clip (a path), question and answer")
        sample = record.fields | {"clip": str(file.parent / record.fields["clip"])}
        if file.suffix == ".csv":
            sample |= {name: record.number(name) for name in ("start", "end") if name in sample}
            sample |= {name: record.texts(name) for name in ("candidates",) if name in sample}
        if "options" in sample:
            texts = record.texts("options")
            sample |= _choice(record, record.text("question"), texts, _position(record, texts))
        yield sample


def _choice(record: Record, question: str, options: list[str], right: float | None) -> dict[str, object]:
    """What a multiple-choice sample adds; `right` is the position of the answer, None where that is kept secret."""
    if not 2 <= len(options) <= len(LETTERS):
        raise VTCError(f"{record.place} has the options {options!r:.80}; give 2 to {len(LETTERS)}")
    if right is not None and right not in range(len(options)):
        raise VTCError(
            f"{record.place} has answer {right!r}; with {len(options)} options it is 0 to {len(options) - 1}"
        )
    letters = list(LETTERS[: len(options)])
    lines = [question, *(f"{letter}. {option}" for letter, option in zip(letters, options, strict=True)), _ASK]
    choice = {"question": "\n".join(lines), "answer": None if right is None else letters[int(right)]}
    return choice | {"candidates": letters, "rule": "letter", "stem": question, "options": options}


def _position(record: Record, options: list[str], given: Sequence[str] = ("letter", "text")) -> int:
    """Which option the answer is, given as its letter or as its text."""
    answer, texts = record.text("answer").strip(), [option.strip() for option in options]
    found = {texts.index(answer)} if "text" in given and texts.count(answer) == 1 else set()
    if "letter" in given and len(answer) == 1 and answer in LETTERS[: len(options)]:
        found.add(LETTERS.index(answer))
    if len(found) != 1:
        raise VTCError(f"{record.place} has answer {answer!r:.60}, which is not one of the options {texts!r:.120}")
    return found.pop()


def _table(path: Path) -> dict[str, object]:
    return read_object(path) if path.is_file() else {}


def _file(root: Path, *patterns: str) -> Path:
    return _files(root, *patterns)[0]


def _files(root: Path, *patterns: str) -> list[Path]:
    """What matches the first pattern that anything matches."""
    for pattern in patterns:
        if found := sorted(path for path in root.glob(pattern) if path.is_file()):
            return found
    raise VTCError(f"annotations are missing; looked for {', '.join(str(root / pattern) for pattern in patterns)}")
