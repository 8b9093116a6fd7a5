"""Whatever comes in from outside ends in a result or in one of our sentences; VTC_FUZZ=10000 makes a night of it."""

import inspect
import json
import os
import string
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vtc_lab as vtc
from vtc_lab.figures import export
from vtc_lab.figures.export import Picture
from vtc_lab.widgets.state import DEFAULTS

EXAMPLES = int(os.environ.get("VTC_FUZZ", 10))
pytestmark = pytest.mark.slow
FUZZ = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
TOKENS = vtc.VideoTokens(torch.randn(4, 3, 3, 8, generator=torch.Generator().manual_seed(0)), torch.ones(4, 3, 3))
REDUCED = vtc.reduce(TOKENS, "uniform", ratio=2)
CLIP = vtc.Clip(np.zeros((4, 24, 24, 3), np.uint8), np.arange(4.0))
TABLE = pd.DataFrame({"method": "lftr", "label": "lftr", "ratio": [1, 2], "value": 0.5})
CLIP_64 = vtc.make_clip(7)[0][:4]
FOLDER = "data/clips"

numbers = st.one_of(
    st.integers(), st.sampled_from([10**400, -(10**400), 2**63, 2**64, -1, 0, 1]), st.floats(), st.booleans()
)
texts = st.one_of(
    st.text(max_size=12),
    st.text(alphabet=string.ascii_letters + "./~$\\{}[]()0", max_size=12),
    st.sampled_from(
        ["\ud800", "x" * 300, "~nouser/x", "a\0b", "", " ", "..", "/", "/etc/../", "[" * 2000, "lftr", "data"]
    ),
)
plain = st.one_of(st.none(), numbers, texts, st.binary(max_size=4))
junk = st.one_of(
    plain,
    st.lists(plain, max_size=3),
    st.dictionaries(texts, plain, max_size=3),
    st.sampled_from(
        [
            Path("."),
            Path("/dev/null"),
            np.array([1, 2]),
            np.array("x"),
            object(),
            len,
            torch.ones(2),
            CLIP,
            REDUCED,
            TABLE,
        ]
    ),
)


@pytest.fixture(autouse=True, scope="module")
def no_figures_in_the_repository(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "FOLDER", tmp_path_factory.mktemp("figures"))
        yield


good = st.sampled_from([TOKENS, REDUCED, CLIP, [REDUCED], {"clip": CLIP, "question": "?"}, TABLE, "lftr"])


def answered(function, *given, **named):
    """Call it; only our errors, and TypeErrors as Python has them for values of a wrong type, may come out."""
    try:
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
    answered(lambda: list(vtc.read_benchmark("nextqa-mc", "tests/fixtures/nextqa-mc", **named)))


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


# The others have a test of their own, change what is registered, or open a clip's file for every value.
OWN = {"explore", "ablate", "sweep", "register_family", "method", "Family", "VTCError", "load_model", "save_figure"}


@FUZZ
@given(st.data())
@pytest.mark.parametrize("door", sorted({*vtc.__all__} - OWN))
def test_first_arguments(door, data):
    function = getattr(vtc, door)
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    wanted = [each for each in inspect.signature(function).parameters.values() if each.kind in positional]
    count = max(1, sum(each.default is each.empty for each in wanted)) if wanted else 0
    given_values = [data.draw(st.one_of(good, junk)) for _ in range(count)]
    result = answered(function, *given_values)
    if inspect.isgenerator(result):
        answered(list, result)


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
@given(named=one_of(["held", "text", "new_tokens"], junk), grid=junk)
def test_counting_costs(model, named, grid):
    answered(vtc.stage_costs, model.network, (4, 14, 14), **named)
    answered(vtc.stage_costs, model.network, grid)
