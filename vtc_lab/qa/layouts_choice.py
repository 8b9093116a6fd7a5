"""The official layouts of benchmarks with options to choose from, and of NExT-OE, which shares NExT-QA's.

Each function takes the folder, the folder of clips and the split, looks for its files at once, and reads them when the
samples are asked for. `readers` says where each layout is from.
"""

import re
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from vtc_lab.qa.clips import SUFFIXES, clip_finder
from vtc_lab.qa.records import Record, files, read_object, records, shards
from vtc_lab.qa.samples import LETTERS, Part, Samples, choice, open_question, position
from vtc_lab.tokens import VTCError

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

# In the revision "video" of MVBench: the same videos in another format, and the ranges cut out beforehand.
_CONVERTED = {"ssv2_video": "ssv2_video_mp4", "nturgbd": "nturgbd_convert"}
_CUT = {
    "star/Charades_v1_480": "star/Charades_segment",
    "sta/sta_video": "sta/sta_video_segment",
    "tvqa/frames_fps3_hq": "tvqa/video_fps3_hq_segment",
}
_TOPS = ("video/", "", "video/data0613/", "data0613/")  # the last two: clips that were missing at first
_TVQA_RATE = 3.0  # pictures a second
_HUB = {"val": "validation"}  # how the hub names a split
_VIDEO_MME = ("output_test_template", "output_template", "videomme", "Video-MME", "video_mme", "videomme_json_file")


def nextqa(root: Path, clips: Path, split: str, *, options: bool) -> Samples:
    """Find NExT-QA with options, or NExT-OE without, which may have a second right answer (`also`)."""
    tables = shards("MC" if options else "OE", _HUB.get(split, split))
    found = files(root, *(f"{top}{split}.csv" for top in ("", "nextqa/", "dataset/nextqa/")), *tables)
    home, find = found[0].parent, clip_finder(clips)

    def read() -> Samples:
        vidor = read_object(home / "map_vid_vidorID.json") or read_object(root / "map_vid_vidorID.json")
        second = {} if options else read_object(home / f"add_reference_answer_{split}.json")
        for record in records(*found):
            if ("a0" in record.fields) != options:
                holds, other = ("no options", "nextqa-oe") if options else ("options", "nextqa-mc")
                raise VTCError(f"{record.place} has {holds}; read it as {other!r}, or give the other task's file")
            video, number, kind = record.text("video"), record.text("qid"), record.text("type")
            part = find((video, str(vidor.get(video, video))), ("NExTVideo", "videos", "video", ""))
            name = f"{video}_{number}"
            kind = "TN" if kind == "TP" else kind  # as its own evaluation counts them
            if options:
                texts = [record.text(f"a{n}") for n in range(5)]
                yield {**part, "id": name, "kind": kind, **choice(record, texts, record.number("answer"))}
            else:
                also = second.get(video, {}).get(number) or record.get("additional_ref_answer")
                yield {**part, "id": name, "kind": kind, **open_question(record, also=also)}

    return read()


def egoschema(root: Path, clips: Path, split: str) -> Samples:
    """Find EgoSchema: the 500 questions with public answers, or all; in its own files, or in the hub's tables."""
    subset = shards("Subset", "test")
    tables = subset if split == "subset" else (*shards("MC", "test"), *shards("MC_PPL", "test"))
    found, find = files(root, "questions.json", *tables), clip_finder(clips)
    own = found[0].suffix == ".json"
    if own and split == "subset":
        files(root, "subset_answers.json")

    def read() -> Samples:
        known = read_object(root / "subset_answers.json")
        if split == "full" and not own:
            public = chain.from_iterable(root.glob(pattern) for pattern in subset)
            known |= {row.text("video_idx"): row.get("answer") for row in records(*public)}
        for record in records(*found):
            uid = record.text("q_uid", "video_idx")
            if own and split == "subset" and uid not in known:
                continue
            texts = [record.text(f"option {n}") for n in range(5)] if own else without_letters(record.texts("option"))
            record.fields["answer"] = known.get(uid, record.get("answer"))
            right = None if record.get("answer") in (None, "") else record.number("answer")
            yield {**find((uid,), ("videos", "")), "id": uid, "kind": "", **choice(record, texts, right)}

    return read()


def mvbench(root: Path, clips: Path, split: str) -> Samples:
    """Find MVBench: a file for each task. A range that was cut out to a file of its own is not cut again."""
    tasks = [split] if split else list(TASKS)
    found = {task: files(root, f"json/{task}.json", f"{task}.json")[0] for task in tasks}
    find = clip_finder(clips)

    def read() -> Samples:
        for task, file in found.items():
            for number, record in enumerate(records(file)):
                texts = record.texts("candidates")
                asked = choice(record, texts, position(record, texts, ["text"]))
                yield {**_part(find, record, TASKS[task]), "id": f"{task}_{number}", "kind": task, **asked}

    return read()


def _part(find: Callable[..., Part], record: Record, folder: str) -> Part:
    """The whole clip, the one that a range was cut out to, or the whole one and the range."""
    video = record.text("video")
    places = tuple(f"{top}{name}" for name in (folder, _CONVERTED.get(folder, folder)) for top in _TOPS)
    if folder not in _CUT:
        return find((video,), places)
    stem = video.removesuffix(Path(video).suffix) if Path(video).suffix in SUFFIXES else video
    pictures = folder.startswith("tvqa")
    cut = tuple(f"{top}{_CUT[folder]}" for top in _TOPS)
    if re.search(r"_[\d.]+_[\d.]+$", stem) or (pictures and stem != video):  # the name of what was cut out
        return find((video,), (*cut, *places))
    if record.get("start") is None:
        return find((video,), cut)
    part = find((f"{stem}_{record.text('start')}_{record.text('end')}",), cut)
    if "tried" not in part:
        return part
    suffixes = ("",) if pictures else SUFFIXES
    whole: Part = {**find((video,), places, suffixes), "start": record.number("start"), "end": record.number("end")}
    return {**whole, "picture_rate": _TVQA_RATE} if pictures else whole


def video_mme(root: Path, clips: Path, split: str) -> Samples:
    """Find Video-MME: one table, of which a split is the clips of one length; or its own JSON, an entry a video."""
    tables = ("test-*.parquet", "test/*.parquet", "test.jsonl", "test.csv", "test.json")
    own = (f"{top}{name}.json" for top in ("", "evaluation/") for name in _VIDEO_MME)
    found = files(root, *(f"{top}{table}" for top in ("videomme/", "") for table in tables), *own)
    find = clip_finder(clips)

    def read() -> Samples:
        for record in _questions(records(*found)):
            length = record.text("duration", "duration_category")
            if split not in ("", length):
                continue
            texts = without_letters(record.texts("options", "choices"))
            called = [record.get("videoID") or _youtube_id(str(record.get("url") or "")), record.get("video_id")]
            names = tuple(str(name) for name in called if name) or (record.text("videoID", "url"),)
            yield {
                **find(names, ("data", "videos", "video", "")),
                "id": record.text("question_id"),
                "kind": record.text("task_type"),
                "group": length,
                **choice(record, texts, position(record, texts, ["letter"])),
            }

    return read()


def _questions(entries: Iterator[Record]) -> Iterator[Record]:
    """Yield one record per question."""
    for entry in entries:
        questions = entry.fields.get("questions")
        if not isinstance(questions, list):
            yield entry
            continue
        for number, question in enumerate(questions, 1):
            if not isinstance(question, dict):
                raise VTCError(f"question {number} of {entry.place} is {question!r:.60}; it must be a JSON object")
            yield Record(f"question {number} of {entry.place}", entry.fields | question)


def _youtube_id(url: str) -> str:
    parts = urlsplit(url)
    return parse_qs(parts.query).get("v", [parts.path.rstrip("/").rpartition("/")[2]])[0]


def longvideobench(root: Path, clips: Path, split: str) -> Samples:
    """Find LongVideoBench: validation, or test without answers."""
    hub = _HUB.get(split, split)
    own = "lvb_val.json" if split == "val" else "lvb_test_wo_gt.json"
    found = files(root, own, f"{hub}-*.parquet", *shards("data", hub), *shards("default", hub))
    find = clip_finder(clips)

    def read() -> Samples:
        for record in records(*found):
            columns = [record.get(f"option{n}") for n in range(5)]
            texts = [str(text) for text in columns if text not in (None, "N/A")] or record.texts("candidates")
            right = record.get("correct_choice")
            yield {
                **find((record.text("video_path"),), ("videos", "")),
                "id": record.text("id"),
                "kind": record.text("question_category"),
                "group": record.text("duration_group"),
                # A table of the test has -1 for the secret answer.
                **choice(record, texts, None if split == "test" and right == -1 else right),
            }

    return read()


def without_letters(options: list[str]) -> list[str]:
    """Return options without the "A. ", "B. " before them, if all have it.

    >>> without_letters(["A. red", "B. blue"]), without_letters(["A. Smith", "C. Jones"])
    (['red', 'blue'], ['A. Smith', 'C. Jones'])
    """
    marks = [re.match(rf"\(?{letter}[.):]\s*", text) for letter, text in zip(LETTERS, options, strict=False)]
    return [text[mark.end() :] for mark, text in zip(marks, options, strict=True) if mark] if all(marks) else options
