"""The model `vtc` of lmms-eval, by its own command line on a task made here; `make test-lmms` has it installed."""

import json
import os
import subprocess
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from PIL import Image

import vtc_lab as vtc
from vtc_lab.clips.reading import ROOT
from vtc_lab.models.loading import BUNDLED

if find_spec("lmms_eval") is None:
    pytest.skip("lmms-eval is not installed here; make test-lmms installs it", allow_module_level=True)

from lmms_eval.api.instance import Instance
from lmms_eval.models import get_model

from vtc_lab.integrations.lmms_eval import VTC, _cut

DATA = ROOT / "data" / "shapes_qa"
TASK = """
task: shapes
dataset_path: json
dataset_kwargs:
  data_files:
    test: {questions}
test_split: test
output_type: {output}
doc_to_visual: !function shapes.doc_to_visual
doc_to_text: question
doc_to_target: answer
doc_to_choice: candidates
process_results: !function shapes.process_results
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""
GENERATION = "generation_kwargs: {max_new_tokens: 4, temperature: 0, top_p: 1.0, num_beams: 1, do_sample: false}\n"
FUNCTIONS = """
def doc_to_visual(doc):
    return [doc["clip"]]


def process_results(doc, results):
    return {"exact_match": float(results[0] == doc["answer"])}
"""


def test_all_that_is_installed_here_is_pinned():
    pins = "".join((ROOT / name).read_text().lower() for name in ("constraints.txt", "constraints-lmms.txt"))
    pins = {line.split("==")[0].replace("_", "-") for line in pins.splitlines()}
    here = {each.name.lower().replace("_", "-") for each in metadata.distributions()}
    assert "lmms-eval" in here and here - pins <= {"vtc-lab", "pip", "setuptools"}


@pytest.fixture(scope="module")
def samples():
    """The questions about the first three clips of the bundled dataset."""
    rows = [json.loads(line) for line in (DATA / "qa.jsonl").read_text().splitlines()]
    rows = [row | {"clip": str(DATA / row["clip"])} for row in rows]
    clips = sorted({row["clip"] for row in rows})[:3]
    return [row for row in rows if row["clip"] in clips]


@pytest.fixture(scope="module")
def clips(samples):
    return {path: vtc.read_clip(path) for path in sorted({row["clip"] for row in samples})}


@pytest.fixture(scope="module")
def task(tmp_path_factory, samples):
    folder = tmp_path_factory.mktemp("lmms")
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples))
    (folder / "tasks").mkdir()
    for name, output, generation in (("shapes", "generate_until", GENERATION), ("likely", "multiple_choice", "")):
        text = TASK.format(questions=folder / "questions.jsonl", output=output) + generation
        (folder / "tasks" / f"{name}.yaml").write_text(text.replace("task: shapes", f"task: {name}"))
    (folder / "tasks" / "shapes.py").write_text(FUNCTIONS)
    return folder


def lmms_eval(folder, *arguments):
    """Run the command and give what it printed."""
    offline = {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "200"}
    run = subprocess.run(
        [Path(sys.executable).with_name("lmms-eval"), *map(str, arguments)],
        cwd=folder,
        env={**os.environ, **offline},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    assert run.returncode == 0, run.stdout[-4000:]
    return run.stdout


def outcome(folder):
    """The results and the answers by document that a run left."""
    (results,), (samples,) = folder.rglob("*_results.json"), folder.rglob("*_samples_*.jsonl")
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    return json.loads(results.read_text()), {row["doc_id"]: row["filtered_resps"] for row in rows}


def keys(folder):
    """The cache keys in the order in which answers were computed."""
    return [json.loads(line)["cache_key"] for line in (folder / "cache" / "cache.audit.jsonl").open()]


@pytest.fixture(scope="module")
def runs(task):
    """The command of the README, then, in one process, more of them with the same cache; all their output."""
    here = ["--include_path", task / "tasks", "--tasks", "shapes", "--log_samples", "--use_cache", task / "cache"]
    pretrained = f"pretrained={BUNDLED}"
    words = lmms_eval(
        task,
        *("--model", "vtc", "--model_args", f"{pretrained},method=lftr,ratio=8"),
        *(*here, "--output_path", task / "lftr8"),
    )
    first, more = (
        keys(task),
        {
            "lftr2": f"{pretrained},method=lftr,ratio=2",
            "uniform8": f"{pretrained},method=uniform,ratio=8",
            "compact": f"{pretrained},method=lftr,ratio=8,positions=compact,temporal=select",
            "again": f"{pretrained},method=lftr,ratio=8",
            "full": pretrained,
            "unknown": f"{pretrained},method=lfrt,ratio=8",
            "likely": f"{pretrained},method=lftr,ratio=8",
        },
    )
    configs = [
        {
            "model": "vtc",
            "model_args": arguments,
            "tasks": "likely" if name == "likely" else "shapes",
            "include_path": str(task / "tasks"),
            "log_samples": True,
            "use_cache": str(task / "cache"),
            "output_path": str(task / name),
            "batch_size": 8,
        }
        for name, arguments in more.items()
    ]
    (task / "runs.yaml").write_text(yaml.safe_dump(configs))
    words += lmms_eval(task, "--config", task / "runs.yaml")
    return SimpleNamespace(folder=task, words=words, first=first)


def test_the_command_line_answers_and_scores_a_local_task(runs, samples):
    results, answers = outcome(runs.folder / "lftr8")
    right = sum(answers[n] == row["answer"] for n, row in enumerate(samples))
    assert results["results"]["shapes"]["exact_match,none"] == pytest.approx(right / len(samples))
    assert right > len(samples) / 4 and "vtc_lab.integrations.lmms_eval.VTC (simple)" in json.dumps(results["config"])


@pytest.mark.parametrize(("name", "ratio"), [("lftr8", 8), ("uniform8", 8), ("compact", 8), ("lftr2", 2), ("full", 1)])
def test_the_results_tell_how_many_visual_tokens_entered(runs, samples, clips, name, ratio):
    results, _ = outcome(runs.folder / name)
    total = sum(len(clips[row["clip"]]) * 196 for row in samples) / len(samples)
    assert results["throughput"]["avg_visual_tokens_total"] == pytest.approx(total)
    assert results["throughput"]["avg_visual_tokens_kept"] == pytest.approx(total / ratio)


@pytest.mark.parametrize(
    ("name", "method", "how", "options"),
    [
        ("lftr8", "lftr", {}, {"ratio": 8}),
        ("compact", "lftr", {"positions": "compact"}, {"ratio": 8, "temporal": "select"}),
    ],
)
def test_its_answers_are_those_of_the_model(runs, samples, clips, name, method, how, options):
    model, answers = vtc.load_model(device="cpu"), outcome(runs.folder / name)[1]
    for n, row in enumerate(samples):
        clip = clips[row["clip"]]
        reduced = vtc.reduce(model.encode(clip), method, **options)
        assert model.ask(row["question"], clip, reduced, max_new_tokens=4, **how).text == answers[n]


def test_each_reduction_has_cache_entries_of_its_own(runs, samples):
    computed, each = keys(runs.folder), len(samples)
    # five reductions were computed, each once: the second run of one was answered from the cache
    assert len(computed) == len(set(computed)) == 5 * each and computed[:each] == runs.first
    assert f"{each}/{each} cache hits" in runs.words
    again, answers = outcome(runs.folder / "again")
    assert answers == outcome(runs.folder / "lftr8")[1] and "throughput" not in again


def test_mistakes_are_told_in_one_sentence(runs):
    for sentence in (
        "Error during evaluation: method is 'lfrt'; did you mean 'lftr'?",
        "Error during evaluation: vtc answers by generation only; choose the generate_until form of the task",
    ):
        assert sentence in runs.words
    assert not any((runs.folder / name).exists() for name in ("unknown", "likely"))


# The class by itself


@pytest.fixture(scope="module")
def model():
    return VTC(BUNDLED, method="lftr", ratio=8, device="cpu", batch_size=3)


def request(model, documents, number, visuals=None, question=None, **options):
    """What lmms-eval asks about a document."""
    model.task_dict = {"shapes": {"test": documents}}
    kwargs = {"max_new_tokens": 4, "do_sample": False, "until": ["\n\n"]} | options
    look = (lambda row: [row["clip"]]) if visuals is None else lambda row: visuals
    arguments = (question or documents[number]["question"], kwargs, look, number, "shapes", "test")
    return Instance("generate_until", arguments, 0, {"task": "shapes", "doc_id": number, "repeats": 1})


def test_lmms_eval_finds_the_class_by_its_entry_point():
    assert get_model("vtc") is VTC


def test_answers_stand_in_the_order_of_the_requests_whatever_the_batch(model, samples):
    order = list(range(0, len(samples), 2)) + list(range(1, len(samples), 2))[::-1]
    answers = model.generate_until([request(model, samples, n) for n in order])
    single = VTC(BUNDLED, method="lftr", ratio=8, device="cpu", batch_size="1")
    expected = single.generate_until([request(single, samples, n) for n in range(len(samples))])
    assert answers == [expected[n] for n in order] and len(set(answers)) > 3
    assert model.generate_until([]) == []


def test_a_stage_inside_cuts_behind_one_before(samples, clips):
    model = VTC(BUNDLED, method="uniform + fastv", ratio=2, keep=0.1, layer=1, device="cpu")
    assert model.reduction == {"method": "uniform", "ratio": 2}
    assert model.stage == {"method": "fastv", "keep": 0.1, "layer": 1}
    assert VTC(BUNDLED, method="fastv", ratio=4, device="cpu").stage == {"method": "fastv", "ratio": 4}
    said, expected = model.generate_until([request(model, samples, n) for n in range(4)]), []
    with vtc.inside(model.model.network, "fastv", keep=0.1, layer=1):
        for row in samples[:4]:
            clip = vtc.read_clip(row["clip"])
            reduced = vtc.reduce(model.model.encode(clip), "uniform", ratio=2)
            expected.append(model.model.ask(row["question"], clip, reduced, max_new_tokens=4).text)
    assert said == expected
    deep = VTC(BUNDLED, method="fastv", layer=9, device="cpu")
    with pytest.raises(vtc.VTCError, match="layer is 9; this model has 6"):
        deep.generate_until([request(deep, samples, 0)])


def test_pictures_are_taken_as_frames(samples, clips):
    row = samples[0]
    clip = clips[row["clip"]]
    pictures = [Image.fromarray(frame) for frame in clip.frames]
    model = VTC(BUNDLED, frames=len(clip), device="cpu")
    asked = [request(model, samples, 0), request(model, samples, 0, visuals=pictures)]
    said = model.generate_until(asked)
    assert said[0] == said[1]
    few = VTC(BUNDLED, frames=3, device="cpu")._joined("some", pictures)
    assert few.times.tolist() == [0, round((len(clip) - 1) / 2), len(clip) - 1]
    assert (few.frames == clip.frames[few.times.astype(int)]).all()
    with pytest.raises(vtc.VTCError, match="pictures of one size"):
        model.generate_until([request(model, samples, 0, visuals=[*pictures, pictures[0].resize((8, 8))])])


def test_frames_are_as_many_as_asked_for_or_as_by_default(clips, tmp_path):
    model = VTC(BUNDLED, frames=4, device="cpu")
    path, most = next((path, len(clip)) for path, clip in clips.items())
    assert len(model._read(path)) == 4 and not VTC(BUNDLED, device="cpu").reduction
    assert len(VTC(BUNDLED, frames=10_000, device="cpu")._read(path)) == most
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(vtc.VTCError, match="broken"):
        model._read(str(tmp_path / "broken.mp4"))


def test_an_answer_ends_where_the_task_says(model, samples):
    free = model.generate_until([request(model, samples, 0)])[0]
    assert model.generate_until([request(model, samples, 0, until=[free[1:]])])[0] == free[0]
    assert _cut("a b. c\nd", ("\n", ".")) == "a b"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"ratio": 8}, "ratio=8 was given without a method"),
        ({"method": "lftr", "ratio": 8, "temporl": "select"}, "no option 'temporl'; did you mean 'temporal'"),
        ({"method": "lftr", "ratio": 8, "temporal": "pick"}, "temporal is 'pick'"),
        ({"method": "lftr", "ratio": 8, "positions": "drop"}, "positions is 'drop'"),
        ({"frames": 0.5}, "frames is 0.5"),
        ({"batch_size": "auto"}, "batch_size is 'auto'"),
    ],
)
def test_wrong_arguments_are_told_before_the_model_is_loaded(arguments, sentence):
    with pytest.raises(vtc.VTCError, match=sentence):
        VTC("/no/such/model", **arguments)


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"visuals": []}, "gives 0 visuals"),
        ({"visuals": ["a.mp4", "b.mp4"]}, "gives 2 visuals \\(str, str\\)"),
        ({"visuals": [7]}, "vtc takes the path of one video file, or pictures"),
        ({"visuals": None.__class__}, "gives 0 visuals"),
        ({"visuals": ["/no/such.mp4"]}, "1 videos of this run are missing, the first is /no/such.mp4"),
        ({"do_sample": True}, "asks for sampling or beams"),
        ({"temperature": 0.7, "do_sample": True}, "asks for sampling or beams"),
        ({"num_beams": 3}, "--gen_kwargs temperature=0,do_sample=False,num_beams=1"),
    ],
)
def test_what_a_task_may_not_ask_is_told_before_anything_is_read(model, samples, how, sentence):
    with pytest.raises(vtc.VTCError, match=sentence):
        model.generate_until([request(model, samples, 0), request(model, samples, 1, **how)])


@pytest.mark.parametrize(
    "options",
    [{"temperature": 0.7}, {"temperature": 0.0, "do_sample": True}, {"temperature": None, "num_beams": None}],
)
def test_greedy_decoding_has_many_spellings(model, samples, options):
    plain = model.generate_until([request(model, samples, 0)])
    assert model.generate_until([request(model, samples, 0, **options)]) == plain


def test_memory_is_given_back_after_the_answers(samples):
    model = VTC(BUNDLED, method="uniform", ratio=2, device="cpu")
    model.generate_until([request(model, samples, 0)])
    model.clean()
    assert not hasattr(model, "model")
