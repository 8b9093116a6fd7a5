"""Whatever comes in from outside ends in a result or in one of our sentences; VTC_FUZZ=10000 makes a night of it."""

import contextlib
import inspect
import json
import os
import re
import shutil
import string
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import vtc_lab as vtc
from vtc_lab.figures import export
from vtc_lab.figures.export import Picture
from vtc_lab.models.prompts import ask_processor
from vtc_lab.widgets.state import DEFAULTS

EXAMPLES = int(os.environ.get("VTC_FUZZ", 10))
pytestmark = pytest.mark.slow
FUZZ = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
TOKENS = vtc.VideoTokens(torch.randn(4, 3, 3, 8, generator=torch.Generator().manual_seed(0)), torch.ones(4, 3, 3))
REDUCED = vtc.reduce(TOKENS, "uniform", ratio=2)
CLIP = vtc.Clip(np.zeros((4, 24, 24, 3), np.uint8), np.arange(4.0))
TABLE = pd.DataFrame({"method": "lftr", "label": "lftr", "ratio": [1, 2], "value": 0.5})
MADE, ASKED = vtc.make_clip(3, frames=8)
CLIP_64 = MADE[:4]
ROOT = Path(__file__).resolve().parent.parent
FOLDER = "data/clips"

numbers = st.one_of(
    st.integers(),
    st.sampled_from([10**400, -(10**400), 2**63, 2**64, 10**9, -1, 0, 1, 1e-300, 1e12, np.float64("nan"), 1 + 2j]),
    st.floats(),
    st.booleans(),
)
texts = st.one_of(
    st.text(max_size=12),
    st.text(alphabet=string.ascii_letters + "./~$\\{}[]()0", max_size=12),
    st.sampled_from(
        ["\ud800", "x" * 300, "~nouser/x", "a\0b", "", " ", "..", "/", "/etc/../", "[" * 2000, "lftr", "data"]
        + ["pipe", "all", "everything", "label", "ratio", "column", "<img src=x>", "$\\input{x}$"]
    ),
)
plain = st.one_of(st.none(), numbers, texts, st.binary(max_size=4))
arrays = st.sampled_from(
    [torch.ones(0), torch.ones(2), torch.full((36,), np.nan), torch.ones(36) / 0, torch.full((36,), 99)]
    + [torch.ones(4, 3, 3, 8), torch.ones(4, 3, 3), torch.ones(36, dtype=torch.bool), torch.tensor(5), -torch.ones(36)]
    + [torch.ones(3, dtype=torch.complex64), torch.ones(36).to_sparse(), torch.ones(36, device="meta")]
    + [np.array([1, 2]), np.array("x"), np.zeros((4, 24, 24, 3)), np.zeros((0, 3)), np.array([None])]
)
things = st.sampled_from(
    [Path("."), Path("/dev/null"), Path("pipe"), object(), len, CLIP, TOKENS, REDUCED, TABLE, pd.DataFrame(), ...]
    + [range(10**9), range(10**30), slice(0, 2), slice(None, None, 2), slice(10**400), slice("a"), vtc.Clip, Picture()]
)
junk = st.recursive(
    st.one_of(plain, arrays, things),
    lambda some: st.one_of(st.lists(some, max_size=3), st.tuples(some, some), st.dictionaries(texts, some, max_size=3)),
    max_leaves=4,
)


@st.composite
def changed(draw, table):
    """A table with a column or cell that is not as it should be."""
    name, how = draw(st.sampled_from(list(table))), draw(st.integers(0, 6))
    table, column = table.copy(), list(table).index(name)
    if how == 0:
        return table.drop(columns=name)
    if how == 1:
        return pd.concat([table, table[[name]]], axis=1)
    if how == 2:
        return table[: draw(st.integers(0, 2))]
    if how == 3:
        return table.set_index(name, drop=False)
    if how == 4:
        return table.set_axis(
            pd.Index([*table.columns[:column], draw(plain), *table.columns[column + 1 :]], dtype=object), axis=1
        )
    table[name] = table[name].astype(object)
    rows = range(len(table)) if how == 5 else [draw(st.integers(0, len(table) - 1))]
    value = draw(st.one_of(plain, st.lists(plain, max_size=2)))
    for row in rows:
        table.iat[row, column] = value
    return table


@st.composite
def altered(draw, value):
    """Something in the place of a good argument: anything, or the same with a part replaced."""
    if isinstance(value, pd.DataFrame) and draw(st.integers(0, 3)):
        return draw(changed(value))
    if isinstance(value, dict) and value and draw(st.booleans()):
        return value | draw(st.dictionaries(st.one_of(st.sampled_from(list(value)), texts), junk, max_size=2))
    if isinstance(value, list) and value and draw(st.booleans()):
        return [*value[1:], draw(altered(value[0]))]
    return draw(plain if isinstance(value, bool) else st.one_of(good, junk))


@pytest.fixture(autouse=True, scope="module")
def elsewhere(tmp_path_factory):
    """No figure or file of any name comes into the repository."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "FOLDER", tmp_path_factory.mktemp("figures"))
        patch.chdir(tmp_path_factory.mktemp("here"))
        os.mkfifo("pipe")
        yield


good = st.sampled_from([TOKENS, REDUCED, CLIP, [REDUCED], {"clip": CLIP, "question": "?"}, TABLE, "lftr"])


def answered(function, *given, **named):
    """Call it; only our errors, and TypeErrors as Python has them for values of a wrong type, may come out."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return function(*given, **named)
    except (vtc.VTCError, TypeError) as error:
        assert str(error)
        return None


def one_of(names, value):
    """Some named arguments with a value each."""
    return st.dictionaries(st.sampled_from(names), value, min_size=1, max_size=2)


@FUZZ
@given(seed=junk, frames=junk)
def test_making_clips(seed, frames):
    answered(vtc.make_clip, seed, frames)


@FUZZ
@given(st.data())
@pytest.mark.parametrize("name", list(vtc.methods().index))
def test_reducing(name, data):
    from vtc_lab.reducers.registry import get_method

    options = list(get_method(name).options)
    given_options = data.draw(one_of(options, junk)) if options and data.draw(st.booleans()) else {}
    ratio = 2 if given_options and data.draw(st.booleans()) else data.draw(junk)
    answered(vtc.reduce, TOKENS, name, ratio=ratio, **given_options)


@FUZZ
@given(path=junk)
@pytest.mark.parametrize("door", ["read_clip", "find_clips", "read_samples", "read_results", "load_encoder"])
def test_opening(door, path):
    answered(lambda: list(getattr(vtc, door)(path)))


@FUZZ
@given(named=one_of(["frames", "fps", "start", "end"], junk))
def test_reading(named):
    answered(vtc.read_clip, f"{FOLDER}/dog.mp4", **named)


@FUZZ
@given(name=junk, folder=junk, named=one_of(["limit", "split", "clips"], junk))
def test_reading_benchmarks(name, folder, named):
    answered(lambda: list(vtc.read_benchmark(name, folder, **named)))
    answered(lambda: list(vtc.read_benchmark("nextqa-mc", ROOT / "tests/fixtures/nextqa-mc", **named)))


FIXTURES = ROOT / "tests/fixtures"
NAMES = [name for name in vtc.benchmarks().iloc[:, 0] if (FIXTURES / name).is_dir()]
FILES = [(name, file) for name in NAMES for file in sorted((FIXTURES / name).rglob("*")) if file.is_file()]
PIECES = [
    b"[]",
    b'{"a": 1}',
    b'""',
    b"null",
    b"3.5",
    b"-1",
    b"1e999",
    b"NaN",
    b"\xff",
    b"\0",
    b'"\\ud800"',
    b'"../../x"',
]
PIECES += [b"", b"[" * 3000, b"9" * 5000, b"'", b",", b"\n"]


@FUZZ
@given(which=st.sampled_from(FILES), at=st.floats(0, 1), cut=st.booleans(), put=st.sampled_from(PIECES))
def test_damaged_annotations(which, at, cut, put, tmp_path_factory):
    (name, file), folder = which, tmp_path_factory.mktemp("copy") / "all"
    shutil.copytree(FIXTURES / name, folder)
    whole = file.read_bytes()
    values = list(re.finditer(rb'"[^"\n]{0,40}"|\d+', whole)) or [re.match(b"", whole)]
    value = values[int(at * (len(values) - 1))]
    rest = b"" if cut else whole[value.end() :]
    (folder / file.relative_to(FIXTURES / name)).write_bytes(whole[: value.start()] + put + rest)
    with contextlib.suppress(vtc.VTCError):  # and no TypeError either: this comes from outside
        for each in vtc.read_benchmark(name, folder):
            answered(vtc.score, each, "B")


sample = st.dictionaries(
    st.sampled_from(
        ["clip", "question", "answer", "candidates", "rule", "options", "also", "kind", "start", "end", "id"]
    ),
    junk,
)


@FUZZ
@given(sample=sample, text=texts)
def test_scoring(sample, text):
    answered(vtc.score, sample, text)
    answered(vtc.accuracy, [sample], [text])
    answered(vtc.check_clips, [sample])
    answered(vtc.read_sample_clip, sample)


@pytest.fixture(scope="module")
def model():
    return vtc.load_model()


@FUZZ
@given(
    samples=st.lists(sample, max_size=2),
    named=one_of(
        ["methods", "ratios", "seeds", "frames", "fps", "positions", "max_new_tokens", "stop", "executor"], junk
    ),
)
def test_sweeping(model, samples, named):
    answered(vtc.sweep, model, samples, **{"methods": ["uniform"], "ratios": [2]} | named)


@FUZZ
@given(named=one_of(list(DEFAULTS), junk))
def test_exploring(named):
    explorer = answered(vtc.explore, **named)
    if explorer is not None:
        explorer.wait()
        assert "This should not have happened" not in explorer._message.value
        explorer.close()


@pytest.fixture(scope="module")
def explorer():
    with_panel = vtc.explore(encoder="pixels", frames=4)
    yield with_panel
    with_panel.close()


@FUZZ
@given(state=st.one_of(one_of(list(DEFAULTS), st.one_of(plain, st.lists(texts, max_size=2))), plain, st.just({"x": 1})))
def test_loading_sessions(explorer, state, tmp_path_factory):
    session = tmp_path_factory.getbasetemp() / "session.json"
    session.write_bytes(state if isinstance(state, bytes) else json.dumps(state, default=str).encode())
    answered(explorer.load, session)
    explorer.wait()
    assert "This should not have happened" not in explorer._message.value
    explorer.load(explorer.save(tmp_path_factory.getbasetemp() / "good.json"))


@FUZZ
@given(path=junk)
@pytest.mark.parametrize("door", ["save", "load"])
def test_naming_sessions(explorer, door, path, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.getbasetemp())
    answered(getattr(explorer, door), path)


@FUZZ
@given(named=one_of(["clips", "kinds", "methods", "option", "values", "ratios", "results", "options"], junk))
def test_ablating(named):
    panel = answered(vtc.ablate, **named)
    if panel is not None:
        panel.close()


@FUZZ
@given(name=junk)
def test_naming_figures(name, tmp_path_factory):
    figure = Picture()
    figure.subplots().plot([0, 1])
    answered(vtc.save_figure, figure, name, folder=tmp_path_factory.mktemp("figures"))


# The others have a test of their own, or change what is registered.
OWN = {"explore", "ablate", "register_family", "method", "Family", "VTCError", "load_model", "Reduction", "engaged"}


@pytest.fixture(scope="module")
def calls(model):
    """A call of each public function that works."""
    tokens = vtc.with_evidence(model.encode(MADE), ASKED)
    asked = [
        {**ASKED[0], "clip": MADE},
        {**ASKED[1], "clip": MADE},
        {**ASKED[0], "clip": vtc.make_clip(4, frames=8)[0]},
    ]
    table = vtc.sweep(model, asked, ["uniform", "pool"], [1, 4])
    answer = model.ask("what ?", CLIP_64, candidates=["red", "blue"])
    processed = ask_processor(model.processor, model.family, CLIP_64, "what ?")
    speed = vtc.measure(model, CLIP_64[:1], ["uniform"], [2], batches=[1], new_tokens=2, repeats=1)
    costs, rows = vtc.stage_costs(model.network, (4, 14, 14)), vtc.published(benchmark="videomme", metric="accuracy")
    figure = Picture()
    figure.subplots().plot([0, 1])
    shown = {"venue": "cvpr", "width": "column"}
    pair, both = {"clip": CLIP, "reduction": REDUCED}, [REDUCED, vtc.reduce(TOKENS, "pool", ratio=2)]
    found = {
        "Clip": {"frames": CLIP.frames, "times": CLIP.times, "path": "x"},
        "VideoTokens": {"values": TOKENS.values, "saliency": TOKENS.saliency, "evidence": None},
        "accuracy": {"samples": ASKED[:1], "answers": ["red"], "rule": "exact"},
        "answer_fidelity": {"full": answer, "kept": answer},
        "benchmarks": {},
        "bootstrap_interval": {"table": table, "value": "right", "by": ["label"]},
        "check_baseline": {"own": 50.0, "backbone": "LLaVA-OneVision-7B", "benchmark": "videomme", "source": None},
        "check_clips": {"samples": asked[:1]},
        "compare": {"table": table, "reference": "uniform", "value": "right", "permutations": 20},
        "compare_kept": {"clip": CLIP, "reductions": both, "gaps": {}, "frames": [0], "columns": 2, **shown},
        "compress": {"model": model.network, "inputs": {**processed}, "method": "uniform", "ratio": 2, "clips": None},
        "evidence_recall": {"reduction": vtc.reduce(tokens, "uniform", ratio=4), "sample": ASKED[0]},
        "fidelity": {"tokens": TOKENS, "reduction": REDUCED, "measures": ["cka"]},
        "fidelity_sweep": {"clips": {"a": TOKENS}, "methods": ["uniform"], "ratios": [1, 2]},
        "find_clips": {"folder": FOLDER},
        "ideal_speedup": {"full": costs, "reduced": costs, "seconds": {"prefill": 1.0, "decode": 1.0}},
        "inside": {"model": model.network, "method": "fastv", "ratio": 2, "budget": "mean"},
        "kept_overlap": {"reductions": both},
        "list_measures": {},
        "load_encoder": {"name": "pixels"},
        "look_inside": {"model": model, "clip": CLIP_64, "question": "what ?", "method": "fastv", "reduction": None},
        "make_clip": {"seed": 3, "frames": 8},
        "measure": {"model": model, "clip": CLIP_64[:1], "methods": ["uniform"], "ratios": [2], "frames": 1}
        | {"question": "what ?", "batches": [1], "new_tokens": 2, "repeats": 1},
        "merge": {"tokens": TOKENS, "group": torch.arange(36) // 2, "weight": torch.ones(36) / 2}
        | {"anchor": torch.arange(0, 36, 2)},
        "methods": {"stage": "before"},
        "one_each": {"clip": CLIP, "count": 2},
        "pixel_fidelity": pair,
        "plot_agreement": {"clip": CLIP, "reductions": both, **shown},
        "plot_curves": {"table": table, "value": "right", "x": "kept", **shown},
        "plot_flips": {"table": table, **shown},
        "plot_forest": {"tests": vtc.compare(table), **shown},
        "plot_heatmap": {"table": table, "value": "right", **shown},
        "plot_kinds": {"table": table, "ratio": 4, "value": "right", **shown},
        "plot_losses": {"table": table, "ratio": 4, **shown},
        "plot_overlap": {"reductions": both, **shown},
        "plot_published": {"rows": rows, "own": None, "x": "retained", **shown},
        "plot_speed": {"table": speed, "accuracy": table, **shown},
        "plot_stages": {"table": speed, **shown},
        "prune": {"tokens": TOKENS, "anchor": torch.arange(0, 36, 2)},
        "published": dict.fromkeys(["method", "backbone", "benchmark", "source", "metric"]),
        "rank_agreement": {"table": table, "rows": rows, "ratio": 4},
        "read_benchmark": {"name": "nextqa-mc", "folder": ROOT / "tests/fixtures/nextqa-mc", "limit": 2},
        "read_clip": {"path": f"{FOLDER}/dog.mp4", "frames": 2},
        "read_results": {"path": "no.db"},
        "read_sample_clip": {"sample": {"clip": f"{FOLDER}/dog.mp4", "start": 0, "end": 1}, "frames": 2, "fps": None},
        "read_samples": {"path": None},
        "rebuild": pair,
        "reduce": {"tokens": TOKENS, "method": "uniform", "ratio": 2},
        "reduce_clip": {"model": model, "clip": CLIP_64, "method": "uniform", "ratio": 4, "stage": "pixels"},
        "reduce_stream": {"frames": [*TOKENS.values], "method": "dtd", "ratio": 2, "tau": None, "window": 2},
        "save_figure": {"figure": figure, "name": "x", "data": table, "provenance": {"a": 1}, "replace": True},
        "save_table": {"table": vtc.bootstrap_interval(table), "name": "t", "best": "max", "provenance": {}},
        "score": {"sample": ASKED[0], "answer": "red", "rule": "exact"},
        "show": {"clip": CLIP, **shown},
        "split_losses": {"table": table, "by": ["label"]},
        "stage_costs": {
            "model": model.network,
            "grid": (4, 14, 14),
            "held": 20,
            "encoded": [9],
            "text": 3,
            "new_tokens": 2,
        },
        "summary": {"table": table},
        "sweep": {"model": model, "samples": asked[:1], "methods": ["uniform"], "ratios": [4], "seeds": [0]}
        | {"max_new_tokens": 1, "budget": "enters", "results": None, "timeout": None},
        "variants": {"method": "lftr", "temporal": ["merge"]},
        "video_metadata": {"clip": CLIP},
        "with_evidence": {"tokens": tokens, "samples": ASKED[:1]},
    }
    assert {*found} == {*vtc.__all__} - OWN
    found["VideoModel.ask"] = {"question": "what ?", "clip": CLIP_64, "reduction": None, "candidates": ["red", "blue"]}
    found["VideoModel.encode"] = {"clip": CLIP_64, "saliency": True}
    return found | {"Reduction.explain": {"t": 0, "y": 0, "x": 0}, "Reduction.__getitem__": {"frames": slice(0, 2)}}


METHODS = ["VideoModel.ask", "VideoModel.encode", "Reduction.explain", "Reduction.__getitem__"]


@FUZZ
@given(st.data())
@pytest.mark.parametrize("door", [*sorted({*vtc.__all__} - OWN), *METHODS])
def test_every_argument(door, model, calls, data):
    owner, _, name = door.rpartition(".")
    function = getattr({"": vtc, "VideoModel": model, "Reduction": REDUCED}[owner], name)
    given_values = calls[door]
    wrong = data.draw(st.lists(st.sampled_from(list(given_values) or ["x"]), min_size=1, max_size=2, unique=True))
    drawn = {key: data.draw(altered(given_values.get(key))) for key in wrong}
    asked = [drawn.get(key) for key in ("repeats", "new_tokens")]  # what is asked for is done, however long it takes
    assume(not any(isinstance(number, int) and 3 < number < 100_000 for number in asked))
    result = answered(function, **given_values | drawn)
    if inspect.isgenerator(result):
        answered(list, result)
    elif door == "inside" and result:
        answered(result.__enter__)


@FUZZ
@given(name=junk, named=one_of(["keep", "layer", "ratio", "budget", "layers", "keeps"], junk))
def test_cutting_inside(model, name, named):
    def ask(method, **options):
        with vtc.inside(model.network, method, **options):
            model.ask("how many?", CLIP_64)

    answered(ask, name)
    for method in vtc.methods(stage="inside").index:
        answered(ask, method, **named)


@FUZZ
@given(named=one_of(["held", "encoded", "text", "new_tokens"], junk), grid=junk)
def test_counting_costs(model, named, grid):
    answered(vtc.stage_costs, model.network, (4, 14, 14), **named)
    answered(vtc.stage_costs, model.network, grid)
