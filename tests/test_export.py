"""Exported figures: the bytes on disk, what they say about themselves, and what an error leaves behind."""

import base64
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET
from pathlib import Path

import matplotlib
import nbformat
import numpy as np
import pandas as pd
import pypdf
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from nbclient import NotebookClient
from PIL import Image

import vtc_lab
from vtc_lab.figures.export import SUFFIXES, attach, other_state, save_figure
from vtc_lab.figures.style import _ROSTER, VENUES, figure_size, method_style, paper_style
from vtc_lab.figures.tables import save_table
from vtc_lab.tokens import Clip, VideoTokens, VTCError

ROOT = Path(vtc_lab.__file__).parents[1]


def draw(title: str = "Accuracy") -> Figure:
    """A figure with lines, text, an image, a colour bar and a hatch."""
    data = pd.DataFrame({"method": ["lftr", "uniform"] * 2, "ratio": [1, 1, 8, 8], "accuracy": [0.9, 0.9, 0.88, 0.1]})
    with paper_style():
        figure = Figure(figsize=figure_size("cvpr"))
        left, right = figure.subplots(1, 2)
        for name, rows in data.groupby("method"):
            left.plot(rows.ratio, rows.accuracy, label=name, **method_style(name))
        left.set(title=title, xlabel="ratio M/K", ylabel="accuracy")
        left.legend()
        figure.colorbar(right.imshow([[0, 1], [2, 3]]), ax=right)
        right.fill_between([0, 1], [0, 1], hatch="//", alpha=0.5)
    return attach(figure, data, methods=2, seed=0)


def blank() -> Figure:
    """A figure with a table, and nothing to draw."""
    return attach(Figure(), pd.DataFrame({"x": [1]}))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fonts(path: Path) -> list:
    found = []
    for resource in pypdf.PdfReader(path).pages[0]["/Resources"]["/Font"].values():
        font = resource.get_object()
        found.append(font["/DescendantFonts"][0].get_object() if "/DescendantFonts" in font else font)
    return found


@pytest.fixture
def figure():
    return draw()


def test_one_call_writes_five_files_that_say_how_they_were_made(figure, tmp_path):
    paths = save_figure(figure, "curves", tmp_path / "new" / "folder", provenance={"reader": "decord 0.6.0"})
    assert set(paths) == set(SUFFIXES)
    assert set(contents(tmp_path / "new" / "folder")) == {f"curves{suffix}" for suffix in SUFFIXES}
    facts = json.loads(paths[".json"].read_text())
    assert facts["config"] == {"methods": 2, "seed": 0, "reader": "decord 0.6.0"}
    assert facts["files"] == list(SUFFIXES)
    assert facts["inches"] == [3.281, 2.034]
    pdf = pypdf.PdfReader(paths[".pdf"])
    assert json.loads(pdf.metadata["/Subject"]) == facts and "/CreationDate" not in pdf.metadata
    assert [float(side) / 72 for side in pdf.pages[0].mediabox[2:]] == pytest.approx([3.281, 2.034])
    assert "accuracy" in pdf.pages[0].extract_text()
    image = Image.open(paths[".png"])
    assert json.loads(image.text["Description"]) == facts
    assert image.size == (984, 610)  # 300 dots per inch
    svg = ET.parse(paths[".svg"]).getroot()
    assert svg.get("width") == "236.232pt"
    assert "accuracy" in [text.text for text in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert json.loads(svg.find(".//{http://purl.org/dc/elements/1.1/}description").text) == facts
    pd.testing.assert_frame_equal(pd.read_csv(paths[".csv"]), figure.vtc["data"])


def test_text_is_text_and_the_page_keeps_its_width_whatever_the_user_set(figure, tmp_path):
    with matplotlib.rc_context({"savefig.bbox": "tight", "pdf.fonttype": 3, "svg.fonttype": "path"}):
        paths = save_figure(figure, "f", tmp_path)
    assert float(pypdf.PdfReader(paths[".pdf"]).pages[0].mediabox.width) == pytest.approx(3.281 * 72)
    assert {font["/Subtype"] for font in fonts(paths[".pdf"])} <= {"/CIDFontType2", "/TrueType"}
    assert all("STIXGeneral" in font["/BaseFont"] for font in fonts(paths[".pdf"]))
    assert b"<text" in paths[".svg"].read_bytes()


@pytest.mark.slow
def test_same_bytes_after_the_figure_was_shown_or_saved(figure, tmp_path):
    first = {path: path.read_bytes() for path in save_figure(figure, "f", tmp_path).values()}
    FigureCanvasAgg(figure).draw()
    figure.savefig(io.BytesIO(), dpi=72, format="png")
    assert {path: path.read_bytes() for path in save_figure(figure, "f", tmp_path).values()} == first


def test_clips_and_reductions_are_written_as_facts(tmp_path):
    tokens = VideoTokens(torch.randn(4, 4, 4, 8), encoder="pixels")
    reduced = vtc_lab.reduce(tokens, "random", ratio=8, seed=3)
    clip = Clip(np.zeros((4, 8, 8, 3), np.uint8), np.arange(4) / 2, path="clips/dog.mp4", reader="decord 0.6.0")
    attach(figure := Figure(), clip=clip, tokens=tokens, reduced=reduced, ratio=np.float32(8), nothing=float("nan"))
    facts = json.loads(save_figure(figure, "f", tmp_path)[".json"].read_text())
    config = facts["config"]
    assert config["clip"] == {
        "path": "clips/dog.mp4",
        "reader": "decord 0.6.0",
        "times": [0.0, 0.5, 1.0, 1.5],
        "sha256": clip.sha256,
    }
    assert config["tokens"] == {"encoder": "pixels", "grid": [4, 4, 4]}
    assert config["reduced"]["method"] == "random" and config["reduced"]["options"]["seed"] == 3
    assert (config["reduced"]["kept"], config["reduced"]["total"]) == (8, 64)
    assert (config["ratio"], config["nothing"]) == (8.0, "nan")
    assert ".csv" not in facts["files"]
    with pytest.raises(VTCError, match=r"provenance\['model'\]\['it'\] is a object"):
        save_figure(figure, "f", tmp_path, provenance={"model": {"it": object()}})


def test_no_file_holds_a_local_path(tmp_path):
    home = tmp_path / "John Doe"
    data = pd.DataFrame({"clip": [str(home / "my dog.mp4"), "dog.mp4"], "n": [1, 2]}).set_index("clip")
    texts = [f"read {tmp_path}/a.mp4 and 'file://{tmp_path}/b.mp4'", r"C:\Users\me\c.mp4", "see https://x.org/a/b, 1/2"]
    figure = attach(Figure(), data, folder=home / "deep", notes=texts)
    paths = save_figure(figure, "f", tmp_path)
    facts = json.loads(paths[".json"].read_text())
    assert facts["config"]["folder"] == "deep"
    assert facts["config"]["notes"] == ["read a.mp4 and 'b.mp4'", "c.mp4", "see https://x.org/a/b, 1/2"]
    assert paths[".csv"].read_text() == "clip,n\nmy dog.mp4,1\ndog.mp4,2\n"
    for path in paths.values():
        assert tmp_path.name.encode() not in path.read_bytes() and b"John" not in path.read_bytes()


@pytest.mark.parametrize(
    ("table", "text"),
    [
        (pd.DataFrame(), "\n"),
        (pd.DataFrame({0: ["a"], 1: [np.float32(0.1)], "c": [None]}).astype({1: "float32"}), "0,1,c\na,0.1,\n"),
        (pd.DataFrame({"n": pd.array([1, None], "Int64"), "t": pd.to_datetime(["2020-01-02"] * 2)}), None),
    ],
)
def test_tables_of_any_columns_are_written_as_pandas_would(table, text, tmp_path):
    before = table.copy()
    written = save_figure(Figure(), "f", tmp_path, data=table)[".csv"].read_text()
    assert written == (table.to_csv(index=False) if text is None else text)
    pd.testing.assert_frame_equal(table, before)


def test_figures_of_pyplot_and_seaborn(tmp_path):
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import seaborn

    table = pd.DataFrame({"x": [1, 2], "y": [3, 4]})
    grid = seaborn.relplot(table, x="x", y="y")
    own, axes = plt.subplots()
    axes.plot([1, 2])
    try:
        assert save_figure(grid.figure, "seaborn", tmp_path, data=table)[".csv"].read_text() == "x,y\n1,3\n2,4\n"
        assert set(save_figure(own, "pyplot", tmp_path)) == set(SUFFIXES) - {".csv"}
        with pytest.raises(VTCError, match="a FacetGrid cannot be saved"):
            save_figure(grid, "grid", tmp_path)
    finally:
        plt.close("all")


@pytest.mark.slow
def test_a_notebook_shows_pictures_in_the_same_size_after_pyplot_was_used():
    shown = "from vtc_lab.figures.export import Picture\nPicture(figsize=(5.5, 2))"
    cells = [shown, "import matplotlib.pyplot as plt\n%matplotlib inline\nplt.plot([1, 2])", shown]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=120).execute()
    before, after = notebook.cells[0].outputs[0], notebook.cells[2].outputs[0]
    assert before == after | {"execution_count": before.execution_count}
    assert before.metadata == {"image/png": {"width": 660, "height": 240}}
    assert Image.open(io.BytesIO(base64.b64decode(after.data["image/png"]))).size == (1320, 480)


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a\\b", ".pdf", "a\0", "a\n", "a:b", "end.", 7, None])
def test_a_bad_name_is_refused_before_anything_is_written(name, tmp_path):
    with pytest.raises(VTCError, match="cannot name a figure"):
        save_figure(blank(), name, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "stem"), [("f.pdf", "f"), ("v1.5", "v1.5"), ("v1.5.png", "v1.5"), ("Bild ü", "Bild ü")]
)
def test_a_known_suffix_is_taken_off_the_name(name, stem, tmp_path):
    assert save_figure(Figure(), name, tmp_path)[".svg"] == tmp_path / f"{stem}.svg"
    assert len(contents(tmp_path)) == 4


def refuse(message: str, earlier: Path, figure: Figure, name: str = "f", folder: Path | None = None) -> None:
    """Saving must fail with this message and leave all files under `earlier` as they are, and no others."""
    before = contents(earlier)
    with pytest.raises(VTCError, match=message) as raised:
        save_figure(figure, name, folder or earlier, replace=True)
    assert "\n" not in str(raised.value)
    assert contents(earlier) == before
    assert not list(earlier.rglob(".vtc*"))


def test_a_figure_of_another_state_is_replaced_only_if_asked(tmp_path):
    options = {"ratio": float("nan"), "values": np.arange(3) / 3, "clip": Path("/home/me/a.mp4")}
    saved = {
        path: path.read_bytes()
        for path in save_figure(attach(Figure(), **options, state={"n": 4}), "v1.5", tmp_path).values()
    }
    save_figure(attach(Figure(), **options), "v1.5.pdf", tmp_path, provenance={"state": {"n": 4}})  # the same state
    other = attach(Figure(), **options, state={"n": 8, "m": 1})
    told = "state.n is 4 there and 8 here, state.m is absent there and 1 here"
    assert other_state(other, "v1.5", tmp_path) == told and other_state(other, "new", tmp_path) == ""
    with pytest.raises(VTCError, match=rf"figure 'v1.5' is there in another state \({told}\).*replace=True"):
        save_figure(other, "v1.5", tmp_path)
    assert {path: path.read_bytes() for path in saved} == saved
    save_figure(other, "v1.5", tmp_path, replace=True)
    assert other_state(other, "v1.5", tmp_path) == ""


def test_a_file_that_save_figure_did_not_write_is_not_overwritten(tmp_path):
    for name, text in (("f.png", "mine"), ("f.json", '{"mine": 1}'), ("f.json", "[]")):
        (tmp_path / name).write_text(text)
        refuse(f"{name} was not written by save_figure; choose another name or move it", tmp_path, blank())
        (tmp_path / name).unlink()
    table = save_figure(blank(), "f", tmp_path)[".csv"]
    save_figure(blank(), "f", tmp_path)
    save_figure(Figure(), "f", tmp_path)
    assert not table.exists(), "it was of the earlier figure"
    table.write_text("mine\n1\n")
    assert ".csv" not in save_figure(Figure(), "f", tmp_path)
    assert table.read_text() == "mine\n1\n"
    refuse("f.csv was not written", tmp_path, blank())
    os.mkfifo(tmp_path / "pipe.json")  # would be waited for
    with pytest.raises(VTCError, match="pipe.json was not written by save_figure"):
        save_figure(blank(), "pipe", tmp_path)


def test_a_figure_and_a_table_of_one_name_share_no_csv(tmp_path):
    table = pd.DataFrame({"label": ["lftr"], "n": [1]})
    save_table(table, "results", tmp_path)
    refuse("results.csv was not written by save_figure", tmp_path, blank(), "results")
    assert set(save_figure(Figure(), "results", tmp_path)) == set(SUFFIXES) - {".csv"}  # it has no CSV of its own
    save_table(table, "results", tmp_path)
    assert (tmp_path / "results.csv").read_text() == "label,n\nlftr,1\n"
    save_figure(blank(), "curves", tmp_path)
    before = contents(tmp_path)
    with pytest.raises(VTCError, match="curves.csv was not written by save_table; choose another name"):
        save_table(table, "curves", tmp_path)
    assert contents(tmp_path) == before


def test_errors_leave_the_earlier_figure(tmp_path):
    save_figure(blank(), "f", tmp_path)
    (tmp_path / "file").write_text("no folder")
    refuse("File exists; give a writable folder", tmp_path, blank(), folder=tmp_path / "file")
    refuse("Not a directory", tmp_path, blank(), folder=tmp_path / "file" / "below")
    refuse("File name too long", tmp_path, blank(), name="x" * 300)
    (formula := Figure()).suptitle("$\\frac{1$")
    refuse("cannot be drawn.*mend", tmp_path, formula)
    (tmp_path / "f.svg").unlink()
    (tmp_path / "f.svg").mkdir()
    refuse("f.svg was not written", tmp_path, blank())


@pytest.mark.skipif(os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes anywhere")
def test_a_read_only_folder_is_one_sentence(tmp_path):
    tmp_path.chmod(0o500)
    refuse("cannot write figure 'f' into .*ermission", tmp_path, blank())


@pytest.mark.slow
def test_a_full_disk_leaves_the_earlier_figure(tmp_path):
    resource = pytest.importorskip("resource")
    size = save_figure(blank(), "f", tmp_path)[".pdf"].stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 100, hard))
    try:
        refuse("File too large; give a writable folder with room", tmp_path, draw())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.slow
def test_threads_draw_and_save_the_same_bytes_as_one(tmp_path):
    titles = ["one", "two"]
    for title in titles:
        save_figure(draw(title), title, tmp_path / "alone")
    settings = dict(matplotlib.rcParams)
    errors = []

    def work(title: str) -> None:
        try:
            for turn in range(2):
                save_figure(draw(title), title, tmp_path / f"{turn}")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=[title]) for title in titles]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert dict(matplotlib.rcParams) == settings
    for turn in range(2):
        assert contents(tmp_path / f"{turn}") == contents(tmp_path / "alone")


@pytest.mark.slow
def test_commit_and_folder_of_a_checkout(tmp_path):
    """The commit is the package's own, whatever else is committed or lies about, and git may be missing."""
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT / "vtc_lab", checkout / "vtc_lab", ignore=shutil.ignore_patterns("__pycache__"))
    (checkout / "pyproject.toml").touch()
    (checkout / "elsewhere").mkdir()
    (checkout / ".gitignore").write_text("__pycache__")

    def git(*command: str) -> str:
        who = ["-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"]
        run = subprocess.run(["git", *who, *command], cwd=checkout, check=True, capture_output=True, text=True)
        return run.stdout.strip()

    git("init")
    git("add", "vtc_lab")
    git("commit", "-m", "package")
    commit = git("rev-parse", "HEAD")
    git("add", "pyproject.toml")
    git("commit", "-m", "something else")
    code = """
import importlib, json, os, pathlib
from matplotlib.figure import Figure
from vtc_lab.figures import export
def facts():
    path = export.save_figure(Figure(), 'f')['.json']
    print([str(path), *map(json.loads(path.read_text()).get, ['commit', 'dirty'])])
facts()
facts()  # with a figure in the tree
pathlib.Path('vtc_lab/mine.py').touch()
facts()
os.environ['PATH'] = ''
facts()
pathlib.Path('pyproject.toml').unlink()
os.chdir('elsewhere')
importlib.reload(export)
facts()
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True)
    path, lines = str(checkout / "figures" / "f.json"), run.stdout.splitlines()
    assert lines[:3] == [str([path, commit, dirty]) for dirty in (False, False, True)], run.stderr
    assert lines[3:] == [str([path, None, None]), str(["figures/f.json", None, None])]


def test_figure_sizes():
    widths = {(venue, width): figure_size(venue, width)[0] for venue in VENUES for width in ("column", "text")}
    assert widths == {
        ("cvpr", "column"): 3.281,
        ("cvpr", "text"): 6.875,
        ("iccv", "column"): 3.281,
        ("iccv", "text"): 6.875,
        ("eccv", "column"): 4.803,
        ("eccv", "text"): 4.803,
        ("neurips", "column"): 5.5,
        ("neurips", "text"): 5.5,
        ("iclr", "column"): 5.5,
        ("iclr", "text"): 5.5,
        ("icml", "column"): 3.25,
        ("icml", "text"): 6.75,
        ("acl", "column"): 3.03,
        ("acl", "text"): 6.30,
        ("aaai", "column"): 3.3125,
        ("aaai", "text"): 7.0,
    }
    assert figure_size("NeurIPS", aspect=0.5) == (5.5, 2.75)
    with pytest.raises(VTCError, match="'nips'; did you mean 'neurips'"):
        figure_size("nips")
    with pytest.raises(VTCError, match="'xyz'; there are 'cvpr', 'iccv'"):
        figure_size("xyz")
    with pytest.raises(VTCError, match="width is 'page'; there are 'column'"):
        figure_size(width="page")


def seen(color: str, matrix: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of a colour whose linear RGB goes through a matrix."""
    rgb = np.array(to_rgb(color))
    linear = matrix @ np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4339, 0.3762, 0.1899], [0.2127, 0.7152, 0.0722], [0.0178, 0.1095, 0.8727]]  # over that of white
    x, y, z = np.cbrt(np.maximum(to_xyz @ linear, 0.008856))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


# Machado, Oliveira and Fernandes 2009, severity 1
DEUTERANOPIA = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]


@pytest.mark.parametrize("eye", [np.eye(3), np.array(DEUTERANOPIA)], ids=["normal", "deuteranope"])
def test_any_two_methods_differ_in_colour_or_in_both_mark_and_dash(eye):
    looks = {name: method_style(name) for name in vtc_lab.methods().index}
    for (one, a), (other, b) in itertools.combinations(looks.items(), 2):
        apart = np.linalg.norm(seen(a["color"], eye) - seen(b["color"], eye))
        assert apart > 15 or (a["marker"] != b["marker"] and a["linestyle"] != b["linestyle"]), (one, other, apart)


def test_each_method_has_one_look_of_its_own():
    baselines = {name: method_style(name) for name in ("uniform", "random", "random-per-frame", "pool", "downscale")}
    published = {name: method_style(name) for name in _ROSTER}
    assert {look["color"] for look in baselines.values()} == {"#555555", "#999999"}
    assert len({look["marker"] for look in baselines.values()} - {look["marker"] for look in published.values()}) == 5
    assert len({(look["color"], look["marker"]) for look in published.values()}) == len(_ROSTER)
    assert set(baselines) | set(published) >= set(vtc_lab.methods().index)
    others = {name: method_style(name) for name in ("mine", "first-tokens", "my-method", "ablation")}
    looks = [str(look) for look in [*baselines.values(), *published.values(), *others.values()]]
    assert len(set(looks)) == len(looks)
    assert others["mine"] == {"color": "#0072B2", "marker": "^", "linestyle": (0, (5, 1.5))}
    axes = Figure().subplots()
    for look in [*baselines.values(), *published.values(), *others.values()]:
        axes.plot([0, 1], **look)  # matplotlib refuses what it does not know
