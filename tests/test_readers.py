import csv
import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import vtc_lab as vtc
from vtc_lab.qa.clips import check_clips, read_sample_clip
from vtc_lab.qa.layouts_choice import TASKS
from vtc_lab.qa.readers import benchmarks, read_benchmark
from vtc_lab.qa.records import records

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "tests" / "fixtures"
VIDEO = ROOT / "data" / "clips" / "bikes.mp4"
NEEDED = {"clip", "id", "kind", "question", "answer", "candidates", "rule"}


def all_of(name, folder=None, split=None):
    return list(read_benchmark(name, folder or FIXTURES / name, split))


@pytest.fixture
def copied(tmp_path):
    """A fixture's folder that a test may change, with clips put where it says."""

    def copy(name, *clips):
        shutil.copytree(FIXTURES / name, tmp_path / name)
        for clip in clips:
            (tmp_path / name / clip).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / clip).symlink_to(VIDEO)
        return tmp_path / name

    return copy


def hub(path, *rows):
    """A table as the Hugging Face hub has it, in groups of one row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path, row_group_size=1)


def put(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(VIDEO)


def test_every_benchmark_has_a_fixture_and_its_samples_have_the_same_keys():
    table = benchmarks()
    assert sorted(table.name) == sorted(path.name for path in FIXTURES.iterdir())
    for name in table.name.drop(table.index[table.name == "mvbench"]):
        split = "test" if name == "nextqa-oe" else None
        samples = all_of(name, split=split)
        assert samples and all(set(sample) >= NEEDED and Path(sample["clip"]).is_absolute() for sample in samples)
        assert len({sample["id"] for sample in samples}) == len(samples)
    assert (table.source.str.len() > 10).all()
    # pandas cuts what is longer, and it is these that say what to put where.
    assert table.map(len).max().max() <= pd.get_option("display.max_colwidth")
    assert "\u2026" not in repr(table) and table.set_index("name").splits["mvbench"] == "all, or a task"


@pytest.mark.parametrize(
    "name, split, clips, expected",
    [
        ("msvd-qa", None, "videos/vid_one.avi", ["what is a person rolling?", "dough", "what"]),
        ("msrvtt-qa", None, "videos/all/video7010.mp4", ["what is a person rolling?", "dough", "what"]),
        ("tgif-qa", None, "mp4/tumblr_one.gif", ["what is a person rolling?", "dough", "0"]),
        ("activitynet-qa", None, "all_test/v_aBcDeFgHiJ0.mkv", ["does the swimmer wear a cap", "yes", "yes/no"]),
        ("nextqa-mc", None, "videos/0001/1000000001.mp4", ["how did the cook open the tin", "C", "CH"]),
        ("nextqa-mc", "val", "NExTVideo/1000000001.mp4", ["how did the cook open the tin", "C", "CH"]),
        ("nextqa-oe", "test", "NExTVideo/1000000001.mp4", ["how did the cook open the tin", "with a key", "CH"]),
        (
            "egoschema",
            None,
            "videos/00000000-0000-4000-8000-00000000000a.mp4",
            ["What does c do throughout the video?", "D", ""],
        ),
        (
            "mvbench",
            "moving_direction",
            "video/clevrer/video_validation/video_1.mp4",
            ["What direction is the cube moving in?", "B", "moving_direction"],
        ),
        (
            "mvbench",
            "action_antonym",
            "video/ssv2_video_mp4/1001.mp4",
            ["What is the action performed by the person?", "C", "action_antonym"],
        ),
        ("video-mme", None, "data/aaaaaaaaaa1.MP4", ["What colour is the star's label?", "C", "Attribute Perception"]),
        (
            "longvideobench",
            None,
            "videos/vid1.mp4",
            ['When the cook says "now the salt", what is on the table?', "A", "T2O"],
        ),
        ("plain", None, "clips/a.mp4", ["is it raining?", "yes", ""]),
    ],
)
def test_the_first_sample_of_each_layout(copied, name, split, clips, expected):
    folder = copied(name, clips)
    sample = next(read_benchmark(name, folder, split))
    assert [sample.get("stem", sample["question"]), sample["answer"], sample["kind"]] == expected
    assert sample["clip"] == str(folder / clips) and "tried" not in sample
    assert check_clips([sample]).empty


def test_multiple_choice_asks_with_letters_and_keeps_the_options_as_they_are():
    sample = all_of("video-mme")[1]
    assert sample["options"] == ["1.", "It's 2.", "3.", "4."] and sample["candidates"] == ["A", "B", "C", "D"]
    lines = sample["question"].splitlines()
    assert lines[0] == sample["stem"] == 'How many eggs, in "all", are used?' and lines[2] == "B. It's 2."
    assert "letter" in lines[-1] and sample["rule"] == "letter" and sample["group"] == "medium"


def test_splits():
    assert [sample["group"] for sample in all_of("video-mme", split="medium")] == ["medium"]
    assert [sample["answer"] for sample in all_of("egoschema")] == ["D", "A"]
    assert [sample["answer"] for sample in all_of("egoschema", split="full")] == ["D", None, "A"]
    assert [sample["answer"] for sample in all_of("longvideobench", split="test")] == [None]
    assert [sample["kind"] for sample in all_of("nextqa-mc")] == ["CH", "TN", "DC"]
    assert [sample.get("also") for sample in all_of("nextqa-oe", split="test")] == [["using a key"], None]


def test_all_tasks_of_mvbench_are_read_and_a_missing_one_is_not_passed_over(copied):
    folder = copied("mvbench")
    with pytest.raises(vtc.VTCError, match=r"looked for .*json/action_prediction\.json, .*/action_prediction\.json"):
        read_benchmark("mvbench", folder)
    present = {path.stem for path in (folder / "json").iterdir()}
    for task in TASKS:
        if task not in present:
            (folder / "json" / f"{task}.json").write_text("[]")
    samples = list(read_benchmark("mvbench", folder))
    assert [sample["kind"] for sample in samples] == [
        "action_sequence",
        "action_antonym",
        "moving_direction",
        "episodic_reasoning",
    ]
    assert [(sample.get("start"), sample.get("end")) for sample in samples] == [
        (1.0, 2.0),
        (None, None),
        (None, None),
        (0.5, 2.0),
    ]


@pytest.mark.slow
def test_a_range_is_cut_out_and_may_end_after_the_video(copied):
    folder = copied("mvbench", "video/star/Charades_v1_480/AB1CD.mp4")
    sample = next(read_benchmark("mvbench", folder, "action_sequence"))
    times = read_sample_clip(sample, frames=3).times
    assert times[0] >= 1.0 and times[-1] <= 2.0
    late = read_sample_clip(sample | {"start": 8.0, "end": 999.0}, frames=3).times
    assert late[0] >= 8.0 and late[-1] < 11
    with pytest.raises(vtc.VTCError, match="frames between"):  # not mended by reading on after the end
        read_sample_clip(sample | {"end": 1.1}, frames=16)


def test_a_folder_of_pictures_is_a_clip(copied):
    folder = copied("mvbench")
    pictures = folder / "video/tvqa/frames_fps3_hq/show_s01e01_seg01_clip_00"
    pictures.mkdir(parents=True)
    sample = next(read_benchmark("mvbench", folder, "episodic_reasoning"))
    with pytest.raises(vtc.VTCError, match="no pictures named by a number"):
        read_sample_clip(sample)
    for number in range(1, 10):
        Image.new("RGB", (8, 6), (10 * number, 0, 0)).save(pictures / f"{number:05d}.png")
    clip = read_sample_clip(sample)
    np.testing.assert_allclose(clip.times, [2 / 3, 1, 4 / 3, 5 / 3, 2])
    assert clip.frames[:, 0, 0, 0].tolist() == [30, 40, 50, 60, 70]
    assert len(read_sample_clip(sample | {"end": 60.0}, frames=2)) == 2
    for wrong, words in (({"frames": 0}, "frames=0 cannot be met"), ({"frames": 2, "fps": 1}, "both given")):
        with pytest.raises(vtc.VTCError, match=words):
            read_sample_clip(sample, **wrong)
    Image.new("RGB", (9, 6)).save(pictures / "00004.png")
    with pytest.raises(vtc.VTCError, match="not of one size"):
        read_sample_clip(sample)


def test_pictures_are_checked_as_videos_are(tmp_path: Path):
    sample = {"clip": str(tmp_path), "picture_rate": 3.0}
    Image.new("RGB", (8, 6)).save(tmp_path / "2.png")
    for rate in (-1, float("nan"), "3"):
        with pytest.raises(vtc.VTCError, match="picture_rate=.* cannot be met"):
            read_sample_clip(sample | {"picture_rate": rate})
    first = tmp_path / "1.png"
    os.mkfifo(first)
    with pytest.raises(vtc.VTCError, match="1.png is a pipe or a device"):
        read_sample_clip(sample)
    first.unlink()
    whole = (tmp_path / "2.png").read_bytes()
    header = whole[:16] + struct.pack(">II", 60_000, 60_000) + whole[24:29]
    bomb = header + struct.pack(">I", zlib.crc32(header[12:])) + whole[33:]
    for content, words in (
        (b"", "is empty"),
        (whole[: len(whole) // 2], "1.png cannot be read"),
        (b"version https://git-lfs.github.com/spec/v1\noid x\n", "git-LFS pointer"),
        (bomb, "1.png cannot be read .*exceeds limit"),
    ):
        first.write_bytes(content)
        with pytest.raises(vtc.VTCError, match=words):
            read_sample_clip(sample)
    Image.fromarray(np.full((6, 8), 40_000, np.uint16)).save(first)
    with pytest.raises(vtc.VTCError, match="8 bits a channel"):
        read_sample_clip(sample)
    (tmp_path / "01.png").write_bytes(whole)
    with pytest.raises(vtc.VTCError, match="one number a picture"):
        read_sample_clip(sample)


def test_a_missing_clip_names_every_file_that_was_looked_for(copied):
    folder = copied("activitynet-qa")
    samples = all_of("activitynet-qa", folder)
    assert samples[0]["clip"] == str(folder / "all_test/v_aBcDeFgHiJ0.mp4")
    with pytest.raises(vtc.VTCError) as error:
        read_sample_clip(samples[0])
    names = [f"{place}{name}" for place in ("all_test/", "videos/", "") for name in ("v_aBcDeFgHiJ0", "aBcDeFgHiJ0")]
    listing = f"{', '.join(names)} with .mp4|.avi|.mov|.mkv|.webm|.gif|.MP4 below {folder}"
    clip = folder / "all_test/v_aBcDeFgHiJ0.mp4"
    assert str(error.value) == f"there is no clip {clip}; put it there, or where else it was looked for: {listing}"
    missing = check_clips(samples)
    assert missing["questions"].tolist() == [2] and missing.looked.tolist() == [listing]
    assert check_clips([{"clip": "/no/such.mp4"}]).looked.tolist() == ["/no/such.mp4"]
    # It is found as soon as it is there, also by samples that were read before.
    (folder / "all_test").mkdir()
    (folder / "all_test/v_aBcDeFgHiJ0.mp4").symlink_to(VIDEO)
    assert check_clips(samples).empty and len(read_sample_clip(samples[0], frames=1)) == 1


def test_answers_are_found_in_any_order_and_a_missing_one_is_named(copied):
    folder = copied("msvd-qa")
    right = [sample["answer"] for sample in all_of("msvd-qa", folder)]
    answers = json.loads((folder / "test_a.json").read_text())
    for order in ([2, 1, 0], [1, 2, 0], [0, 2, 1]):
        (folder / "test_a.json").write_text(json.dumps([answers[n] for n in order]))
        assert [sample["answer"] for sample in all_of("msvd-qa", folder)] == right
    questions = json.loads((folder / "test_q.json").read_text())
    (folder / "test_q.json").write_text(json.dumps(questions[1:]))
    assert [sample["answer"] for sample in all_of("msvd-qa", folder)] == right[1:]
    (folder / "test_a.json").write_text(json.dumps(answers[:2]))
    with pytest.raises(vtc.VTCError, match=r"entry 2 of test_q\.json is question 'q_2'"):
        all_of("msvd-qa", folder)


def test_four_benchmarks_in_one_folder_are_told_apart(tmp_path):
    for name, folder in (("msvd-qa", "MSVD_Zero_Shot_QA"), ("activitynet-qa", "Activitynet_Zero_Shot_QA")):
        shutil.copytree(FIXTURES / name, tmp_path / folder)
    assert all_of("msvd-qa", tmp_path)[0]["id"] == "q_0"
    assert all_of("activitynet-qa", tmp_path)[0]["id"] == "v_aBcDeFgHiJ0_1"


def test_exports_of_video_mme_to_csv(copied):
    folder = copied("video-mme")
    file = folder / "videomme/test.jsonl"
    expected = all_of("video-mme", folder)
    table = pd.DataFrame([json.loads(line) for line in file.read_text().splitlines()])
    file.unlink()
    lists = {"python": table.options, "numpy": table.options.map(np.array), "json": table.options.map(json.dumps)}
    for options in lists.values():
        table.assign(options=options).to_csv(folder / "test.csv", index=False)
        assert all_of("video-mme", folder) == expected


def test_parquet_is_read_shard_by_shard(copied):
    folder = copied("video-mme")
    file = folder / "videomme/test.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    expected = all_of("video-mme", folder)
    file.unlink()
    for number, row in enumerate(rows):
        hub(folder / f"videomme/test-{number:05d}-of-00002.parquet", row)
    assert all_of("video-mme", folder) == expected


def test_parquet_says_what_it_needs(tmp_path, monkeypatch):
    (tmp_path / "test-00000-of-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(vtc.VTCError, match=r"test-00000-of-00001\.parquet cannot be read"):
        all_of("video-mme", tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)  # as where it is not installed
    with pytest.raises(vtc.VTCError, match=r"needs pyarrow; install it, or give the table as \.jsonl or \.csv"):
        all_of("video-mme", tmp_path)


def test_the_raw_lists_of_msvd_and_msrvtt(tmp_path):
    """One file with question and answer, clips by number; MSVD's are called after YouTube."""
    shutil.copytree(FIXTURES / "msvd-qa/raw", tmp_path / "msvd")
    put(tmp_path / "msvd/YouTubeClips/AbCdEfGhIjK_3_9.avi")
    first, second = all_of("msvd-qa", tmp_path / "msvd")
    assert (first["question"], first["answer"], first["id"], first["kind"]) == (
        "what is a person rolling?",
        "dough",
        "0",
        "what",
    )
    assert first["clip"] == str(tmp_path / "msvd/YouTubeClips/AbCdEfGhIjK_3_9.avi")
    assert str(tmp_path / "msvd/videos/vid8.avi") in second["tried"]  # not in the mapping
    put(tmp_path / "msrvtt/TestVideo/video7010.mp4")
    shutil.copy(FIXTURES / "msrvtt-qa/raw/test_qa.json", tmp_path / "msrvtt/test_qa.json")
    (sample,) = all_of("msrvtt-qa", tmp_path / "msrvtt")
    assert sample["clip"] == str(tmp_path / "msrvtt/TestVideo/video7010.mp4") and sample["answer"] == "dough"


def test_the_folders_above_video_llavas_are_fine_too(tmp_path):
    shutil.copytree(FIXTURES / "msvd-qa", tmp_path / "eval/GPT_Zero_Shot_QA/MSVD_Zero_Shot_QA")
    put(tmp_path / "eval/GPT_Zero_Shot_QA/MSVD_Zero_Shot_QA/videos/vid_one.avi")
    clip = str(tmp_path / "eval/GPT_Zero_Shot_QA/MSVD_Zero_Shot_QA/videos/vid_one.avi")
    for top in (tmp_path, tmp_path / "eval", tmp_path / "eval/GPT_Zero_Shot_QA"):
        assert all_of("msvd-qa", top)[0]["clip"] == clip


def test_annotations_and_clips_may_lie_apart(tmp_path):
    """As a cloned repository and a disk of videos do, and lmms-eval's caches."""
    (tmp_path / "repository/dataset").mkdir(parents=True)
    for file in (FIXTURES / "activitynet-qa").iterdir():
        shutil.copy(file, tmp_path / "repository/dataset")
    put(tmp_path / "disk/v_aBcDeFgHiJ0.mp4")
    first = next(read_benchmark("activitynet-qa", tmp_path / "repository", clips=tmp_path / "disk"))
    assert first["clip"] == str(tmp_path / "disk/v_aBcDeFgHiJ0.mp4") and first["kind"] == "yes/no"
    put(tmp_path / "disk/clips/a.mp4")
    plain = next(read_benchmark("plain", FIXTURES / "plain/qa.csv", clips=tmp_path / "disk"))
    assert plain["clip"] == str(tmp_path / "disk/clips/a.mp4") and "tried" not in plain
    with pytest.raises(vtc.VTCError, match=r"no folder /no/such; give the one that holds the clips \(all_test/"):
        read_benchmark("activitynet-qa", tmp_path / "repository", clips="/no/such")
    with pytest.raises(vtc.VTCError, match=r"test_q\.json is a file; give the folder that holds test_q\.json and"):
        read_benchmark("activitynet-qa", tmp_path / "repository/dataset/test_q.json")


def test_tgifs_own_table_is_between_tabs(copied):
    folder = copied("tgif-qa", "gifs/tumblr_two.gif")
    (folder / "test_q.json").unlink()
    first, second = all_of("tgif-qa", folder)
    assert first["question"] == "what is the color of the kite ?" and first["answer"] == "red"
    assert [first["kind"], second["kind"]] == ["color", "location"] and first["id"] == "FRAMEQA1"
    assert second["clip"] == str(folder / "gifs/tumblr_two.gif")


ACTIVITYNET = {"video_name": "aBcDeFgHiJ0", "question": "how many lanes", "question_id": "v_1", "answer": "8"}
NEXT = {"video": 1000000001, "frame_count": 300, "width": 640, "height": 360, "question": "how did he", "qid": 6}
OPTIONS = ["A. C bakes.", "B. C sews.", "C. C digs.", "D. C runs.", "E. C sits."]


@pytest.mark.parametrize("form", ["{}-00000-of-00001.parquet", "{}/0000.parquet"])
def test_activitynet_and_nextqa_as_the_hub_has_them(tmp_path, form):
    hub(tmp_path / "data" / form.format("test"), ACTIVITYNET | {"type": "7"})
    put(tmp_path / "all_test/v_aBcDeFgHiJ0.mp4")
    (sample,) = all_of("activitynet-qa", tmp_path)
    assert (sample["answer"], sample["kind"], sample["id"]) == ("8", "number", "v_1") and "tried" not in sample

    options = {f"a{n}": text for n, text in enumerate(["by hand", "with a key", "with a pin", "slowly", "twice"])}
    hub(tmp_path / "MC" / form.format("test"), NEXT | {"answer": 1, "type": "TP"} | options)
    put(tmp_path / "NExTVideo/1000000001.mp4")
    (sample,) = all_of("nextqa-mc", tmp_path, "test")
    assert (sample["answer"], sample["kind"], sample["options"][1]) == ("B", "TN", "with a key")
    assert sample["clip"] == str(tmp_path / "NExTVideo/1000000001.mp4")

    one, other = NEXT | {"answer": "with a key", "type": "CH"}, NEXT | {"answer": "two", "type": "DC", "qid": 7}
    rows = [one | {"additional_ref_answer": "using a key"}, other | {"additional_ref_answer": None}]
    hub(tmp_path / "OE" / form.format("validation"), *rows)
    first, second = all_of("nextqa-oe", tmp_path)
    assert first["also"] == ["using a key"] and first["rule"] == "exact" and "also" not in second
    with pytest.raises(vtc.VTCError, match=r"looked for .*/test\.csv, .*/OE/test-\*\.parquet, .*/OE/test/\*\.parquet"):
        all_of("nextqa-oe", tmp_path, "test")


def test_nextqas_two_tasks_are_told_apart():
    """Their files have the same names, and an option's number would pass for an open answer."""
    with pytest.raises(vtc.VTCError, match=r"line 2 of val\.csv has options; read it as 'nextqa-mc'"):
        all_of("nextqa-oe", FIXTURES / "nextqa-mc", "val")
    with pytest.raises(vtc.VTCError, match=r"line 2 of test\.csv has no options; read it as 'nextqa-oe'"):
        all_of("nextqa-mc", FIXTURES / "nextqa-oe", "test")


@pytest.mark.parametrize("secret", [None, ""])
def test_egoschema_as_the_hub_has_it(tmp_path, secret):
    row = {"question_idx": "1", "question": "What does c do?", "option": OPTIONS}
    hub(tmp_path / "Subset/test-00000-of-00001.parquet", row | {"video_idx": "uid-a", "answer": "3"})
    every = [row | {"video_idx": uid, "answer": secret} for uid in ("uid-a", "uid-b")]
    hub(tmp_path / "MC/test-00000-of-00001.parquet", *every)
    put(tmp_path / "videos/uid-a.mp4")
    (sample,) = all_of("egoschema", tmp_path)
    assert sample["answer"] == "D" and sample["options"][3] == "C runs." and sample["id"] == "uid-a"
    assert sample["clip"] == str(tmp_path / "videos/uid-a.mp4") and "\nA. C bakes.\n" in sample["question"]
    assert [sample["answer"] for sample in all_of("egoschema", tmp_path, "full")] == ["D", None]


def test_longvideobench_as_the_hub_has_it(tmp_path):
    row = json.loads((FIXTURES / "longvideobench/lvb_val.json").read_text())[0]
    options = row.pop("candidates")
    row |= {f"option{n}": text for n, text in enumerate([*options, "N/A", "N/A"])}
    row = {name: value for name, value in row.items() if name not in ("position", "level", "view_count")}
    hub(tmp_path / "validation-00000-of-00001.parquet", row)
    hub(tmp_path / "test-00000-of-00001.parquet", row | {"correct_choice": -1})
    (sample,), (secret,) = all_of("longvideobench", tmp_path), all_of("longvideobench", tmp_path, "test")
    assert sample["options"] == options and sample["answer"] == "A" and secret["answer"] is None


def test_ranges_that_mvbench_has_cut_out_are_not_cut_again(copied):
    """Revision "video": files named by their range, in folders of their own; its annotations may say the range too."""
    folder = copied("mvbench")
    cut = next(read_benchmark("mvbench", folder / "cut", "action_sequence"))
    assert cut["clip"] == str(folder / "cut/video/star/Charades_segment/AB1CD_1.0_2.0.mp4") and "start" not in cut
    put(folder / "cut/star/Charades_segment/AB1CD_1.0_2.0.mp4")
    put(folder / "cut/tvqa/video_fps3_hq_segment/show_s01e01_seg01_clip_00.mp4")
    for task in ("action_sequence", "episodic_reasoning"):
        cut = next(read_benchmark("mvbench", folder / "cut", task))
        assert "tried" not in cut and not {"start", "end", "picture_rate"} & set(cut)
        assert read_sample_clip(cut, frames=4).times[-1] > 2
    # The annotations of the revision "main" with the clips of "video", then with its own, which it prefers to nothing.
    put(folder / "star/Charades_segment/AB1CD_1.0_2.0.mp4")
    sample = next(read_benchmark("mvbench", folder, "action_sequence"))
    assert sample["clip"].endswith("Charades_segment/AB1CD_1.0_2.0.mp4") and "start" not in sample
    (folder / "star/Charades_segment/AB1CD_1.0_2.0.mp4").unlink()
    put(folder / "video/star/Charades_v1_480/AB1CD.mp4")
    sample = next(read_benchmark("mvbench", folder, "action_sequence"))
    assert sample["clip"].endswith("Charades_v1_480/AB1CD.mp4") and (sample["start"], sample["end"]) == (1.0, 2.0)


@pytest.mark.parametrize("name", ["output_test_template.json", "output_template.json"])
def test_video_mmes_own_json_has_an_entry_for_each_video(copied, tmp_path, name):
    folder = copied("video-mme", "data/001.mp4", "data/aaaaaaaaaa2.mp4")
    shutil.rmtree(folder / "videomme")
    if name == "output_template.json":
        (folder / "evaluation/output_test_template.json").unlink()
    samples = all_of("video-mme", folder)
    expected = {
        "output_test_template.json": [("001-1", "C", "short", "001.mp4"), ("001-2", "A", "short", "001.mp4")],
        "output_template.json": [("301-1", "B", "medium", "aaaaaaaaaa2.mp4")],
    }
    assert [(s["id"], s["answer"], s["group"], Path(s["clip"]).name) for s in samples] == expected[name]
    assert samples[0]["options"][0] in ("Red.", "1.") and not any("tried" in sample for sample in samples)
    text = (folder / "evaluation" / name).read_text().replace('"question":', '"asked":')
    (folder / "evaluation" / name).write_text(text)
    with pytest.raises(vtc.VTCError, match=rf"question 1 of entry 1 of {name} has no 'question'"):
        all_of("video-mme", folder)


def test_plain_files_and_read_samples_agree(tmp_path):
    weather, thing = all_of("plain", FIXTURES / "plain/qa.csv")
    assert weather["question"] == "is it raining, or not?" and weather["answer"] == "yes" and "start" not in weather
    assert (thing["answer"], thing["start"], thing["end"]) == ("B", 0.5, 1.5)
    assert thing["options"] == ["the cube", "the ball"] and thing["kind"] == "object"
    (mine,) = all_of("plain")
    assert mine["source"] == "mine" and mine["candidates"] == ["yes", "no"] and mine["id"] == "1"
    for file in (FIXTURES / "plain/qa.csv", FIXTURES / "plain/qa.jsonl"):
        for bare, full in zip(vtc.read_samples(file), all_of("plain", file), strict=True):
            assert bare.items() <= full.items()
    assert len(vtc.read_samples()) == 2200


def test_a_bundled_sample_is_the_same_through_both_readers():
    ours = ROOT / "data" / "shapes_qa"
    first = next(read_benchmark("plain", ours))
    assert vtc.read_samples()[0].items() <= first.items() and "tried" not in first
    assert read_sample_clip(first).frames.shape[1:] == (112, 112, 3)


@pytest.mark.parametrize(
    "name, split, words",
    [
        ("msvd", None, "benchmark is 'msvd'; did you mean 'msvd-qa'"),
        ("video-mme", "shrot", "no split 'shrot'; did you mean 'short'"),
        ("nextqa-mc", "validation", "no split 'validation'; did you mean 'val'"),
        ("nextqa-mc", "test", r"annotations are missing; looked for .*/test\.csv, .*/nextqa/test\.csv"),
        ("msvd-qa", "val", r"looked for .*/val_q\.json, .*/MSVD_Zero_Shot_QA/val_q\.json"),
    ],
)
def test_what_is_unknown_or_missing_is_said_at_once(name, split, words):
    with pytest.raises(vtc.VTCError, match=words):
        read_benchmark(name, FIXTURES / name if (FIXTURES / name).exists() else FIXTURES, split)


def test_a_missing_folder_and_a_bad_limit():
    with pytest.raises(vtc.VTCError, match=r"no folder /no/such; give the one that holds questions\.json"):
        read_benchmark("egoschema", "/no/such")
    with pytest.raises(vtc.VTCError, match=r"give the one that holds test\.csv, or MC/test-\*\.parquet"):
        read_benchmark("nextqa-mc", "/no/such", "test")
    with pytest.raises(vtc.VTCError, match=r"give the one that holds Test_frameqa|test_q\.json .*Test_frameqa"):
        read_benchmark("tgif-qa", "/no/such")
    with pytest.raises(vtc.VTCError, match=r"give the one that holds json/\*\.json"):
        read_benchmark("mvbench", "/no/such")
    with pytest.raises(vtc.VTCError, match="limit is 2.5"):
        read_benchmark("egoschema", FIXTURES / "egoschema", limit=2.5)
    assert len(list(read_benchmark("egoschema", FIXTURES / "egoschema", limit=1))) == 1


@pytest.mark.parametrize(
    "name, file, old, new, words",
    [
        (
            "msvd-qa",
            "test_q.json",
            '"video_name"',
            '"clip"',
            "entry 1 of test_q.json has no 'video_name' or .*, only clip",
        ),
        ("msvd-qa", "test_q.json", "]", "", "test_q.json is not valid JSON .Expecting ',' delimiter"),
        ("msvd-qa", "test_a.json", '"dough"', '"dough', "test_a.json is not valid JSON .*Invalid control"),
        ("nextqa-mc", "val.csv", ",2,6,CH", ",7,6,CH", "line 2 of val.csv has answer 7.0; with 5 options it is 0 to 4"),
        ("nextqa-mc", "val.csv", ",2,6,CH", ",x,6,CH", "line 2 of val.csv has answer 'x'; it must be a number"),
        ("nextqa-mc", "val.csv", '"washed, then dried the pan"', "washed, then", "line 3 of val.csv has more cells"),
        ("nextqa-mc", "val.csv", ",a0,a1,a2,a3,a4", "", "more cells than the header"),
        ("mvbench", "json/moving_direction.json", '"answer": "The', '"answer": "An', "not one of the options"),
        ("video-mme", "videomme/test.jsonl", '"answer": "C"', '"answer": "E"', "line 1 of test.jsonl has answer 'E'"),
        (
            "video-mme",
            "videomme/test.jsonl",
            '{"video_id": "301"',
            "nonsense",
            "line 2 of test.jsonl is not valid JSON",
        ),
        ("egoschema", "subset_answers.json", "{", "[{", "subset_answers.json is not valid JSON"),
        ("plain", "qa.jsonl", '"answer"', '"said"', "line 1 of qa.jsonl is no sample, without answer"),
    ],
)
def test_an_entry_that_is_not_as_it_should_be_is_named(copied, name, file, old, new, words):
    folder = copied(name)
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new, 1))
    with pytest.raises(vtc.VTCError, match=words) as error:
        list(read_benchmark(name, folder, "moving_direction" if name == "mvbench" else None))
    assert "\n" not in str(error.value)


def test_files_that_are_no_text_or_of_no_known_kind(tmp_path):
    (tmp_path / "test_q.json").write_bytes(b"[\xff\xfe]")
    (tmp_path / "test_a.json").write_text("[]")
    with pytest.raises(vtc.VTCError, match="test_q.json is not valid UTF-8"):
        all_of("msvd-qa", tmp_path)
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(vtc.VTCError, match="deep.json is not valid JSON"):
        list(records(tmp_path / "deep.json"))
    with pytest.raises(vtc.VTCError, match=r"qa\.txt is of no kind"):
        list(records(tmp_path / "qa.txt"))
    (tmp_path / "three.json").write_text("[{}, 3]")
    with pytest.raises(vtc.VTCError, match="entry 2 of three.json is 3"):
        list(records(tmp_path / "three.json"))
    (tmp_path / "one.json").write_text("{}")
    with pytest.raises(vtc.VTCError, match="one.json is a dict; it must be a JSON array of objects"):
        list(records(tmp_path / "one.json"))
    (tmp_path / "wide.csv").write_text("clip,question,answer\na,b,c\n" + "x" * 200_000)
    with pytest.raises(vtc.VTCError, match=r"wide\.csv cannot be read after line 2 .field larger"):
        list(records(tmp_path / "wide.csv"))
    (tmp_path / "qa.csv").write_bytes("clip,question,answer\na.mp4,où ?,café\n".encode("cp1252"))
    with pytest.raises(vtc.VTCError, match=r"qa\.csv is not valid UTF-8; save it as UTF-8"):
        all_of("plain", tmp_path)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb\nsize 12345\n"


@pytest.mark.parametrize(
    "name, file",
    [
        ("nextqa-mc", "val.csv"),
        ("nextqa-mc", "map_vid_vidorID.json"),
        ("msvd-qa", "test_a.json"),
        ("video-mme", "videomme/test.jsonl"),
        ("activitynet-qa", "data/test-0.parquet"),
    ],
)
def test_annotations_that_git_lfs_has_not_fetched(copied, name, file):
    folder = copied(name)
    if name == "activitynet-qa":
        (folder / "test_q.json").unlink()
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text(POINTER)
    with pytest.raises(vtc.VTCError, match=rf"{file} is a git-LFS pointer .*; fetch that with `git lfs pull`"):
        all_of(name, folder)


def test_clips_that_git_lfs_has_not_fetched_are_missing(copied):
    folder = copied("msvd-qa", "videos/vid_two.avi")
    (folder / "videos/vid_one.avi").write_text(POINTER)
    samples = all_of("msvd-qa", folder)
    assert Path(samples[0]["clip"]).name == "vid_one.avi"
    missing = check_clips(samples).set_index("clip")
    assert "`git lfs pull`" in missing.looked[str(folder / "videos/vid_one.avi")]
    with pytest.raises(vtc.VTCError, match=r"vid_one\.avi is a git-LFS pointer"):
        read_sample_clip(samples[0])


def test_fields_of_plain_files_are_of_one_kind_in_json_lines_too(tmp_path):
    row = {"clip": str(VIDEO), "question": "what?", "answer": "red", "start": "1.5", "end": 3}
    for candidates in (["red", "blue"], '["red", "blue"]', None):
        (tmp_path / "qa.jsonl").write_text(json.dumps(row | {"candidates": candidates, "end": None}))
        (sample,) = all_of("plain", tmp_path)
        assert sample["start"] == 1.5 and sample["end"] is None
        assert sample["candidates"] == (candidates and ["red", "blue"])
        assert read_sample_clip(sample, frames=1).times[0] >= 1.5
    for wrong, words in (
        ({"candidates": "red,blue"}, "candidates 'red,blue'; it must be a list"),
        ({"end": "late"}, "end 'late'; it must be a number"),
    ):
        (tmp_path / "qa.jsonl").write_text(json.dumps(row | wrong))
        with pytest.raises(vtc.VTCError, match=f"line 1 of qa.jsonl has {words}"):
            all_of("plain", tmp_path)


# In a process of its own: in this one Python's table of names may happen to grow by megabytes meanwhile.
PEAK = """
import sys, tracemalloc
import pyarrow, pyarrow.parquet
from vtc_lab.qa.readers import read_benchmark
tracemalloc.start()
for name, folder in zip(sys.argv[1::2], sys.argv[2::2]):
    tracemalloc.reset_peak()
    arrow = 0
    for number, _ in enumerate(read_benchmark(name, folder), 1):
        arrow = max(arrow, pyarrow.total_allocated_bytes())
    print(tracemalloc.get_traced_memory()[1] + arrow, number)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path):
    """JSON lines, CSV and Parquet of some megabytes; the parquet file has one group of rows."""
    rows = [
        {"video_name": f"v{n // 500}", "question": "what " + "x" * 120, "question_id": f"q{n}", "answer": "a"}
        for n in range(30_000)
    ]
    plain = [{"clip": row["video_name"]} | row for row in rows]
    files = {"jsonl/qa.jsonl": "plain", "csv/qa.csv": "plain", "parquet/data/test-0.parquet": "msvd-qa"}
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / "jsonl/qa.jsonl").write_text("\n".join(map(json.dumps, plain)))
    pd.DataFrame(plain).to_csv(tmp_path / "csv/qa.csv", index=False)
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, tmp_path / list(files)[2], compression="NONE", use_dictionary=False)
    asked = [word for file, name in files.items() for word in (name, str(tmp_path / file.split("/")[0]))]
    run = subprocess.run([sys.executable, "-c", PEAK, *asked], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    for file, line in zip(files, run.stdout.splitlines(), strict=True):
        most, number = map(int, line.split())
        assert number == 30_000 and (tmp_path / file).stat().st_size > 4_000_000 and most < 3_000_000


@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\r\0")), min_size=2, max_size=5, unique_by=str.strip
    )
)
def test_any_options_survive_a_csv(tmp_path_factory, options):
    file = tmp_path_factory.mktemp("csv") / "qa.csv"
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(["clip", "question", "options", "answer"])
        writer.writerow(["a.mp4", "which ?", json.dumps(options), "B"])
    if any(option.strip() in "AB" for option in options):
        return
    (sample,) = read_benchmark("plain", file)
    assert sample["options"] == options and sample["answer"] == "B"
