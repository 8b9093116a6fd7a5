"""What the README says is so: its examples run and print what their comments claim, its numbers are recomputed."""

import re
from pathlib import Path

import pytest

import vtc_lab as vtc
from vtc_lab.reducers.registry import METHODS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.S)


def test_no_example_is_overlooked():
    assert len(BLOCKS) == README.count("```python") >= 3


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.strip().splitlines()[-1][:40])
def test_examples_run_and_print_what_they_claim(block, tmp_path, capsys):
    registered = dict(METHODS)
    exec(re.sub(r"(save_figure\(.*)\)( *#.*)?$", rf"\1, folder={str(tmp_path)!r})", block, flags=re.M), {})
    printed = capsys.readouterr().out
    for claim in re.findall(r"print\(reduced.ledger\) +# (.*)", block):
        assert claim in printed
    for name in set(METHODS) - set(registered):
        tokens = vtc.load_encoder("pixels").encode(vtc.read_clip("data/clips/dog.mp4", frames=4))
        assert len(vtc.reduce(tokens, name, ratio=4)) == 196
        del METHODS[name]


def test_shapes_in_comments_are_right():
    import torch

    reduced = vtc.reduce(vtc.VideoTokens(torch.randn(16, 14, 14, 896)), "lftr", ratio=8)
    for name in ("tokens", "anchor", "assign"):
        claim = re.search(rf"reduced\.{name} +# \(([\d, ]+)\)", README)[1]
        assert tuple(getattr(reduced, name).shape) == tuple(int(n) for n in claim.split(",") if n.strip())


def test_coverage_in_the_text_is_that_of_the_picture():
    clip = vtc.read_clip("data/clips/sintel.mp4", frames=8)
    tokens = vtc.load_encoder("efficientnet-lite0").encode(clip)
    said = re.search(
        r"`random`\s+covers more \((.*?)\) than LFTR \((.*?)\), which covers more than `uniform` \((.*?)\)", README
    )
    for method, number in zip(("random", "lftr", "uniform"), said.groups(), strict=True):
        coverage = vtc.fidelity(tokens, vtc.reduce(tokens, method, ratio=4))["coverage"]
        assert f"{coverage:.2f}" == number


def test_links_and_make_targets_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target
