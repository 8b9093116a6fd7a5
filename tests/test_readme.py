"""What the README and the pages in docs/ say is so: examples run and print what they claim, numbers are recomputed."""

import re
from pathlib import Path

import pytest
import torch

import vtc_lab as vtc
from vtc_lab.reducers.registry import METHODS

ROOT = Path(__file__).resolve().parent.parent
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")]}
PAGES["CONTRIBUTING.md"] = (ROOT / "CONTRIBUTING.md").read_text()
BLOCKS = [
    pytest.param(block, id=f"{page}: {block.strip().splitlines()[-1][:40]}")
    for page, text in PAGES.items()
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.S)
]


def test_the_readme_is_read_in_one_sitting_and_no_example_is_overlooked():
    assert len(PAGES["README.md"].splitlines()) <= 130
    assert len(BLOCKS) == sum(text.count("```python") for text in PAGES.values()) >= 7


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS)
def test_examples_run_and_print_what_they_claim(block, tmp_path, capsys):
    registered = dict(METHODS)
    block = re.sub(r"(save_figure\(.*)\)( *#.*)?$", rf"\1, folder={str(tmp_path)!r})", block, flags=re.M)
    exec(re.sub(r"read_samples\(\)\[:(\d+)\]", r"read_samples()[: \1 // 2]", block), {})  # as true of fewer
    printed = capsys.readouterr().out
    for claim in re.findall(r"print\(reduced.ledger\) +# (.*)", block):
        assert claim in printed
    for name in set(METHODS) - set(registered):
        tokens = vtc.load_encoder("pixels").encode(vtc.read_clip("data/clips/dog.mp4", frames=4))
        assert len(vtc.reduce(tokens, name, ratio=4)) == 196


def test_shapes_in_comments_are_right():
    reduced = vtc.reduce(vtc.VideoTokens(torch.randn(16, 14, 14, 896)), "lftr", ratio=8)
    for name in ("tokens", "anchor", "assign"):
        claim = re.search(rf"reduced\.{name} +# \(([\d, ]+)\)", PAGES["README.md"])[1]
        assert tuple(getattr(reduced, name).shape) == tuple(int(n) for n in claim.split(",") if n.strip())


@pytest.mark.slow
def test_the_page_of_methods_has_them_all():
    rows = re.findall(r"^\| `([\w-]+)` \|.*\| (\w+) \| (.*) \|$", PAGES["docs/methods.md"], re.M)
    table = vtc.methods()
    for name, needs, least in rows:
        if needs != "positions":
            assert needs == table.needs[name]
        assert least == (table.minimum[name] if table.minimum[name] != "none" else "one token")
    assert [name for name, *_ in rows] == list(table.index)


@pytest.mark.parametrize("page", PAGES)
def test_links_exist(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", PAGES[page]):
        assert target.startswith("http") or (ROOT / page).parent.joinpath(target).exists(), target
