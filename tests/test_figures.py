"""The gallery is what the script writes: the same bytes every time, and the same words in both pages."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- finding:begin -->", "<!-- finding:end -->"


# The same script on short clips with fewer questions and settings, or the test would take minutes.
FEW = """import make_figures as m
short = [sample for sample in m.vtc.read_samples() if sample["frames"] == 8][::2]
m.vtc.read_samples = lambda: short
m.RATIOS, m.SPLITS, m.INSIDE = (1, 4, 8), (1, 4), ["fastv", "random"]
m.main()"""


@pytest.mark.slow
def test_figures_regenerate_byte_for_byte(tmp_path):
    """On two of the test set's clips, in two runs that share nothing; one of them works in one process."""
    for folder, flags in (("first", []), ("again", ["--processes", "1"])):
        command = [sys.executable, "-c", FEW, "--clips", "2", "--folder", tmp_path / folder, *flags]
        environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'benchmarks'}"}
        run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)
        assert run.returncode == 0, run.stderr
    names = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert len(names) > 40 and names == sorted(path.name for path in (tmp_path / "again").iterdir())
    shipped = {path.name for path in (ROOT / "figures").iterdir()}
    assert set(names) <= shipped
    for name in names:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name
    page = (tmp_path / "first" / "README.md").read_text()
    assert "2 generated clips" in page and page.count("![") == page.count(".png)") == 13


def test_the_page_on_the_model_says_what_the_gallery_says():
    pages = [(ROOT / name).read_text() for name in ("docs/model.md", "figures/README.md")]
    texts = [page.partition(BEGIN)[2].partition(END)[0] for page in pages]
    (clips,) = re.findall(r"^CLIPS = (\d+)", (ROOT / "benchmarks/make_figures.py").read_text(), re.MULTILINE)
    assert texts[0] == texts[1] and f"{clips} generated clips" in texts[0]
