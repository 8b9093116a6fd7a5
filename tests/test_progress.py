"""The bar of a sweep: in a notebook's cell, and nowhere else."""

import threading
from types import SimpleNamespace

import IPython
import pandas as pd
import pytest
import torch

import vtc_lab as vtc
from vtc_lab.sweeps.progress import Progress, notebook_bar, seconds_left, with_bar


@pytest.fixture
def shown(monkeypatch):
    """What a notebook's cell would show."""
    outputs = []
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(kernel=None))
    monkeypatch.setattr("IPython.display.display", lambda data, **how: outputs.append((data, how)))
    monkeypatch.setattr("vtc_lab.sweeps.progress._PAUSE", 0)
    return outputs


def test_a_sweep_shows_one_bar_from_nothing_to_everything(shown):
    tokens = {name: vtc.VideoTokens(torch.randn(2, 2, 2, 4)) for name in "ab"}
    vtc.fidelity_sweep(tokens, ["uniform", "random"], [2])
    assert [data["text/plain"].partition(",")[0] for data, _ in shown] == [
        f"{n} of 4 settings of clips" for n in range(5)
    ]
    assert [how["update"] for _, how in shown] == [False, True, True, True, True]
    assert len({how["display_id"] for _, how in shown}) == 1
    assert 'value="3" max="4"' in shown[3][0]["text/html"] and "left" in shown[3][0]["text/html"]


def test_questions_have_the_same_bar_unless_they_have_another(shown):
    clip, asked = vtc.make_clip(7)
    sweep = [vtc.load_model(), [asked[0] | {"clip": clip}], ["uniform"], [8]]
    vtc.sweep(*sweep)
    assert shown[-1][0]["text/plain"] == "1 of 1 settings of clips"
    told, count = [], len(shown)
    vtc.sweep(*sweep, progress=told.append)
    assert told and len(shown) == count


def test_another_thread_and_a_script_have_none(shown, monkeypatch):
    found = []
    thread = threading.Thread(target=lambda: found.append(notebook_bar()))
    thread.start()
    thread.join()
    monkeypatch.setattr(IPython, "get_ipython", lambda: None)
    assert found == [None] and notebook_bar() is None
    assert list(with_bar("abc")) == [*"abc"] and not shown


def test_pictures_of_the_bar_are_seldom_but_for_the_last(shown, monkeypatch):
    monkeypatch.setattr("vtc_lab.sweeps.progress._PAUSE", 60)
    show = notebook_bar()
    for done in range(11):
        show(Progress(done, 10, 1.0, pd.DataFrame))
    assert len(shown) == 2 and shown[-1][0]["text/plain"].startswith("10 of 10")
    assert seconds_left(0, 0, 10) != seconds_left(0, 0, 10), "NaN before anything is done"
