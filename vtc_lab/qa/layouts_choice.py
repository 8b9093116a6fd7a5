"""The official layouts of benchmarks with options to choose from, and of NExT-OE, which shares NExT-QA's.

Each is a function from (folder, folder of clips, split) to its samples. It looks for its files at once and reads them
when the samples are asked for. `readers` says where each is from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from vtc_lab.qa.clips import SUFFIXES, clip_finder
from vtc_lab.qa.layouts import Samples, choice, files, one_file, position, shards, table, without_letters
from vtc_lab.qa.records import Record, records
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
_HUB = {"val": "validation"}  # what the hub calls a split
_VIDEO_MME = ("output_test_template", "output_template", "videomme", "Video-MME", "video_mme", "videomme_json_file")


def nextqa(root: Path, clips: Path, split: str, *, options: bool) -> Samples:
    """NExT-QA with options, or NExT-OE without, which may have a second right answer (`also`)."""
    tables = shards("MC" if options else "OE", _HUB.get(split, split))
    found = files(root, *(f"{top}{split}.csv" for top in ("", "nextqa/", "dataset/nextqa/")), *tables)
    home, find = found[0].parent, clip_finder(clips)

    def read() -> Samples:
        vidor = table(home / "map_vid_vidorID.json") or table(root / "map_vid_vidorID.json")
        second = {} if options else table(home / f"add_reference_answer_{split}.json")
        for record in chain.from_iterable(map(records, found)):
            if ("a0" in record.fields) != options:
                holds, other = ("no options", "nextqa-oe") if options else ("options", "nextqa-mc")
                raise VTCError(f"{record.place} has {holds}; read it as {other!r}, or give the other task's file")
            video, number, kind = record.text("video"), record.text("qid"), record.text("type")
            names = dict.fromkeys([video, str(vidor.get(video, video))])
            sample = find(names, ["NExTVideo", "videos", "video", ""]) | {
                "id": f"{video}_{number}",
                "kind": "TN" if kind == "TP" else kind,  # as its own evaluation counts them
            }
            if options:
                texts = [record.text(f"a{n}") for n in range(5)]
                yield sample | choice(record, record.text("question"), texts, record.number("answer"))
                continue
            sample |= {"question": record.text("question"), "answer": record.text("answer")}
            also = second.get(video, {}).get(number) or record.get("additional_ref_answer")
            yield sample | {"candidates": None, "rule": "exact"} | ({"also": [also]} if also else {})

    return read()


def egoschema(root: Path, clips: Path, split: str) -> Samples:
    """EgoSchema: the 500 questions with public answers, or all; in its own files, or in the hub's tables."""
    subset = shards("Subset", "test")
    tables = subset if split == "subset" else (*shards("MC", "test"), *shards("MC_PPL", "test"))
    found, find = files(root, "questions.json", *tables), clip_finder(clips)
    own = found[0].suffix == ".json"
    if own and split == "subset":
        one_file(root, "subset_answers.json")

    def read() -> Samples:
        known = table(root / "subset_answers.json")
        if split == "full" and not own:
            public = chain.from_iterable(root.glob(pattern) for pattern in subset)
            known |= {row.text("video_idx"): row.get("answer") for file in public for row in records(file)}
        for record in chain.from_iterable(map(records, found)):
            uid = record.text("q_uid", "video_idx")
            if own and split == "subset" and uid not in known:
                continue
            texts = [record.text(f"option {n}") for n in range(5)] if own else without_letters(record.texts("option"))
            record.fields["answer"] = known.get(uid, record.get("answer"))
            right = None if record.get("answer") in (None, "") else record.number("answer")
            sample = find([uid], ["videos", ""]) | {"id": uid, "kind": ""}
            yield sample | choice(record, record.text("question"), texts, right)

    return read()


def mvbench(root: Path, clips: Path, split: str) -> Samples:
    """MVBench: a file for each task. A range that a file of its own has, as in a later revision, is not cut again."""
    found = {task: one_file(root, f"json/{task}.json", f"{task}.json") for task in ([split] if split else TASKS)}
    find = clip_finder(clips)

    def read(task: str, file: Path) -> Samples:
        folder = TASKS[task]
        places = [f"{top}{name}" for name in (folder, _CONVERTED.get(folder, folder)) for top in _TOPS]
        for number, record in enumerate(records(file)):
            ranged = folder in _CUT
            part = _part(find, record, places, folder) if ranged else find([record.text("video")], places)
            texts = record.texts("candidates")
            right = position(record, texts, ["text"])
            sample = part | {"id": f"{task}_{number}", "kind": task}
            yield sample | choice(record, record.text("question"), texts, right)

    return chain.from_iterable(read(task, file) for task, file in found.items())


def _part(find: Callable, record: Record, places: list[str], folder: str) -> dict[str, object]:
    """The clip that a range was cut out to, or the whole one and its range."""
    video = record.text("video")
    stem = video.removesuffix(Path(video).suffix) if Path(video).suffix in SUFFIXES else video
    pictures = folder.startswith("tvqa")
    cut = [f"{top}{_CUT[folder]}" for top in _TOPS]
    if re.search(r"_[\d.]+_[\d.]+$", stem) or (pictures and stem != video):  # the name of what was cut out
        return find([video], [*cut, *places])
    if record.get("start") is None:
        return find([video], cut)
    part = find([f"{stem}_{record.text('start')}_{record.text('end')}"], cut)
    if "tried" not in part:
        return part
    part = find([video], places, *([[""]] if pictures else []))
    part = part | {"start": record.number("start"), "end": record.number("end")}
    return part | ({"picture_rate": _TVQA_RATE} if pictures else {})


def video_mme(root: Path, clips: Path, split: str) -> Samples:
    """Video-MME: one table, of which a split is the clips of one length; or its own JSON, with an entry a video."""
    ends = (".jsonl", ".csv", ".json")
    names = [*shards("videomme", "test"), *(f"videomme/test{end}" for end in ends)]
    names += ["test-*.parquet", *(f"test{end}" for end in ends)]
    names += [f"{top}{name}.json" for top in ("", "evaluation/") for name in _VIDEO_MME]
    found, find, subtitles = files(root, *names), clip_finder(clips), _beside(root, clips, "subtitle")

    def read() -> Samples:
        for record in _questions(chain.from_iterable(map(records, found))):
            length = record.text("duration", "duration_category")
            if split not in ("", length):
                continue
            texts = without_letters(record.texts("options", "choices"))
            called = [record.get("videoID") or _youtube_id(str(record.get("url") or "")), record.get("video_id")]
            called = list(dict.fromkeys(str(name) for name in called if name)) or [record.text("videoID", "url")]
            yield {
                **find(called, ["data", "videos", "video", ""]),
                "id": record.text("question_id"),
                "kind": record.text("task_type"),
                "group": length,
                "subtitles": str(subtitles / f"{called[0]}.srt"),
                **choice(record, record.text("question"), texts, position(record, texts, ["letter"])),
            }

    return read()


def _questions(entries: Iterator[Record]) -> Iterator[Record]:
    """Entries, those with a list of questions taken apart."""
    for entry in entries:
        if not isinstance(entry.fields.get("questions"), list):
            yield entry
            continue
        video = {name: value for name, value in entry.fields.items() if name != "questions"}
        for number, question in enumerate(entry.fields["questions"], 1):
            if not isinstance(question, dict):
                raise VTCError(f"question {number} of {entry.place} is {question!r:.60}; it must be a JSON object")
            yield Record(f"question {number} of {entry.place}", video | question)


def _youtube_id(url: str) -> str:
    """What a video is called on YouTube, of its address or as it is."""
    parts = urlsplit(url)
    return parse_qs(parts.query).get("v", [parts.path.rstrip("/").rpartition("/")[2]])[0]


def _beside(root: Path, clips: Path, name: str) -> Path:
    """A folder that lies with the annotations or with the clips."""
    return root / name if (root / name).is_dir() else clips / name


def longvideobench(root: Path, clips: Path, split: str) -> Samples:
    """LongVideoBench: validation, or test without answers; `read_subtitles` reads the subtitles."""
    hub = _HUB.get(split, split)
    own = "lvb_val.json" if split == "val" else "lvb_test_wo_gt.json"
    found = files(root, own, f"{hub}-*.parquet", *shards("data", hub), *shards("default", hub))
    find, subtitles = clip_finder(clips), _beside(root, clips, "subtitles")

    def read() -> Samples:
        for record in chain.from_iterable(map(records, found)):
            sample = find([record.text("video_path")], ["videos", ""]) | {
                "id": record.text("id"),
                "kind": record.text("question_category"),
                "group": record.text("duration_group"),
                "subtitles": str(subtitles / record.text("subtitle_path")),
                "subtitles_from": record.number("starting_timestamp_for_subtitles"),
                "duration": record.number("duration"),
            }
            columns = [record.fields.get(f"option{n}") for n in range(5)]
            texts = [str(text) for text in columns if text not in (None, "N/A")] or record.texts("candidates")
            right = record.get("correct_choice")
            right = None if split == "test" and right == -1 else right  # how a table keeps it secret
            yield sample | choice(record, record.text("question"), texts, right)

    return read()
