import csv
import importlib.util
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import vtc_lab as vtc
from vtc_lab.qa.clips import check_clips, read_sample_clip, read_subtitles
from vtc_lab.qa.readers import benchmarks, read_benchmark
from vtc_lab.qa.records import records, stream_array

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


def test_every_benchmark_has_a_fixture_and_its_samples_have_the_same_keys():
    table = benchmarks()
    assert sorted(table.name) == sorted(path.name for path in FIXTURES.iterdir())
    for name in table.name.drop(table.index[table.name == "mvbench"]):
        split = "test" if name == "nextqa-oe" else None
        samples = all_of(name, split=split)
        assert samples and all(set(sample) >= NEEDED and Path(sample["clip"]).is_absolute() for sample in samples)
        assert len({sample["id"] for sample in samples}) == len(samples)
    assert (table.source.str.len() > 10).all()


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
    for task in benchmarks().set_index("name").splits["mvbench"].split(", ")[1:]:
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
    Image.new("RGB", (9, 6)).save(pictures / "00004.png")
    with pytest.raises(vtc.VTCError, match="not of one size"):
        read_sample_clip(sample)


def test_a_missing_clip_names_every_file_that_was_looked_for(copied):
    folder = copied("activitynet-qa")
    samples = all_of("activitynet-qa", folder)
    assert samples[0]["clip"] == str(folder / "videos/v_aBcDeFgHiJ0.mp4")
    with pytest.raises(vtc.VTCError) as error:
        read_sample_clip(samples[0])
    for part in ("all_test/v_aBcDeFgHiJ0.mp4|.avi|.mov|.mkv|.webm", "all_test/aBcDeFgHiJ0.mp4"):
        assert part in str(error.value)
    missing = check_clips(samples)
    assert missing["questions"].tolist() == [2] and "v_aBcDeFgHiJ0.mp4|.avi" in missing.looked[0]
    # It is found as soon as it is there, also by samples that were read before.
    (folder / "all_test").mkdir()
    (folder / "all_test/v_aBcDeFgHiJ0.mp4").symlink_to(VIDEO)
    assert check_clips(samples).empty and len(read_sample_clip(samples[0], frames=1)) == 1


def test_subtitles_are_in_the_clips_own_time():
    first, second = all_of("longvideobench")
    assert read_subtitles(first) == [(1.0, 3.0, "now the salt")]
    assert read_subtitles(second) == [(1.0, 2.0, "hello"), (10.0, 12.5, "to the end")]
    with pytest.raises(vtc.VTCError, match="vid3_en.json"):
        read_subtitles(all_of("longvideobench", split="test")[0])


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


def test_parquet_is_read_shard_by_shard_or_says_what_it_needs(copied):
    folder = copied("video-mme")
    file = folder / "videomme/test.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    expected = all_of("video-mme", folder)
    file.unlink()
    if importlib.util.find_spec("pyarrow"):
        import pyarrow
        import pyarrow.parquet

        for number, row in enumerate(rows):
            shard = folder / f"videomme/test-{number:05d}-of-00002.parquet"
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), shard)
        assert all_of("video-mme", folder) == expected
    else:
        (folder / "videomme/test-00000-of-00001.parquet").write_bytes(b"PAR1")
        with pytest.raises(vtc.VTCError, match=r"needs pyarrow; install it, or give the table as \.jsonl or \.csv"):
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
    assert len(vtc.read_samples()) == 2309


def test_a_bundled_sample_is_the_same_through_both_readers():
    ours = ROOT / "data" / "shapes_qa"
    first = next(read_benchmark("plain", ours))
    assert vtc.read_samples()[0].items() <= first.items() and "tried" not in first
    assert read_sample_clip(first).frames.shape[1:] == (64, 64, 3)


@pytest.mark.parametrize(
    "name, split, words",
    [
        ("msvd", None, "no benchmark 'msvd'; did you mean 'msvd-qa'"),
        ("video-mme", "shrot", "no split 'shrot'; did you mean 'short'"),
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
    with pytest.raises(vtc.VTCError, match="limit is 2.5"):
        read_benchmark("egoschema", FIXTURES / "egoschema", limit=2.5)
    assert len(list(read_benchmark("egoschema", FIXTURES / "egoschema", limit=1))) == 1


@pytest.mark.parametrize(
    "name, file, old, new, words",
    [
        ("msvd-qa", "test_q.json", '"video_name"', '"video"', "entry 1 of test_q.json has no 'video_name', only video"),
        ("msvd-qa", "test_q.json", "[\n", "{}[\n", "test_q.json cannot be read .it is no JSON array"),
        ("msvd-qa", "test_q.json", "]", "", "test_q.json cannot be read after entry 3 .it ends within the array"),
        ("msvd-qa", "test_a.json", '"dough"', '"dough', "test_a.json cannot be read .*Invalid control"),
        ("nextqa-mc", "val.csv", ",2,6,CH", ",7,6,CH", "line 2 of val.csv has answer 7.0; with 5 options it is 0 to 4"),
        ("nextqa-mc", "val.csv", ",2,6,CH", ",x,6,CH", "line 2 of val.csv has answer 'x'; it must be a number"),
        ("nextqa-mc", "val.csv", '"washed, then dried the pan"', "washed, then", "line 3 of val.csv has more cells"),
        ("nextqa-mc", "val.csv", ",a0,a1,a2,a3,a4", "", "more cells than the header"),
        ("mvbench", "json/moving_direction.json", '"answer": "The', '"answer": "An', "not one of the options"),
        ("video-mme", "videomme/test.jsonl", '"answer": "C"', '"answer": "E"', "line 1 of test.jsonl has answer 'E'"),
        ("video-mme", "videomme/test.jsonl", '{"video_id": "301"', "nonsense", "line 2 of test.jsonl is no JSON"),
        ("egoschema", "subset_answers.json", "{", "[{", "subset_answers.json cannot be read"),
        ("longvideobench", "lvb_val.json", "12.5", '"long"', "entry 1 of lvb_val.json has duration 'long'"),
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
    with pytest.raises(vtc.VTCError, match="test_q.json is no UTF-8 text"):
        all_of("msvd-qa", tmp_path)
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(vtc.VTCError, match="deep.json cannot be read"):
        list(records(tmp_path / "deep.json"))
    with pytest.raises(vtc.VTCError, match=r"qa\.txt is of no kind"):
        list(records(tmp_path / "qa.txt"))
    (tmp_path / "three.json").write_text("[{}, 3]")
    with pytest.raises(vtc.VTCError, match="entry 2 of three.json is 3"):
        list(records(tmp_path / "three.json"))


def test_nothing_is_loaded_whole(tmp_path):
    """The first samples of an endless file come at once, because no more than a part of it is read."""
    questions, answers = tmp_path / "test_q.json", tmp_path / "test_a.json"
    with questions.open("w") as q, answers.open("w") as a:
        for file, entry in ((q, {"video_name": "v", "question": "what is it?"}), (a, {"answer": "a cat"})):
            file.write("[")
            for number in range(20_000):
                file.write(json.dumps(entry | {"question_id": number}) + ",\n")
            file.write("and here the file is broken")
    samples = list(read_benchmark("msvd-qa", tmp_path, limit=100))
    assert samples[-1]["id"] == "99"
    with pytest.raises(vtc.VTCError, match="after entry 20000"):
        all_of("msvd-qa", tmp_path)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.lists(VALUES, max_size=6), st.integers(1, 40), st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_an_array_is_streamed_as_json_loads_it(values, chunk, ascii_only, indent):
    text = json.dumps(values, ensure_ascii=ascii_only, indent=indent)
    assert list(stream_array(io.StringIO(f" \n{text}\r\n"), chunk)) == json.loads(text)


@settings(deadline=None)
@given(st.lists(VALUES, max_size=4), st.integers(1, 9), st.data())
def test_a_damaged_array_is_refused_where_json_refuses_it(values, chunk, data):
    text = json.dumps(values)
    at = data.draw(st.integers(0, len(text)))
    damaged = text[:at] + data.draw(st.sampled_from(["", ",", "]", "[", "x", '"', "{", "}", "1"])) + text[at + 1 :]
    try:
        expected = json.loads(damaged)
    except ValueError:
        expected = None
    if isinstance(expected, list):
        assert list(stream_array(io.StringIO(damaged), chunk)) == expected
    else:
        with pytest.raises(ValueError):
            list(stream_array(io.StringIO(damaged), chunk))


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
