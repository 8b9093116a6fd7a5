"""What a user wrote is data: names, paths and texts of any kind are drawn as they are, or refused in a sentence."""

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text

import vtc_lab as vtc
from vtc_lab.figures.export import attach, csv_bytes
from vtc_lab.qa.judge import Judge, judge_all
from vtc_lab.tokens import plain
from vtc_lab.widgets.study import results_file

ROOT = Path(__file__).resolve().parent.parent
NAMES = ["Ba$$in", "$0 - $10", r"$\input{x}$", "mine (text=$a^{$)", "_hidden", "[x] 100 % & #_~^"]


@pytest.fixture(scope="module")
def table():
    """Results of methods, kinds of question, clips and a measure with such names; some are missing."""
    chance = np.random.default_rng(0)
    rows = [
        {"method": "lftr", "label": label, "kind": kind, "ratio": ratio, "kept": 64 // ratio, "clip": f"{clip} $x$$"}
        for label in NAMES
        for kind in NAMES
        for ratio in (1, 4)
        for clip in "ab"
    ]
    rows += [row | {"method": "uniform", "label": "uniform"} for row in rows if row["label"] == NAMES[0]]
    made = pd.DataFrame(rows).assign(total=64, flipped=0.0, error=r"$\frac{$")
    made["right"] = chance.integers(0, 2, len(made)).astype(float)
    made.loc[5::17, "right"] = np.nan
    return made.assign(sample=made["clip"] + made.kind, va__lue=made.right).rename(columns={"va__lue": "va$$lue"})


@pytest.fixture(scope="module")
def reductions():
    clip = vtc.Clip(np.zeros((4, 32, 32, 3), np.uint8), np.arange(4.0), r"a $\input{x}$.mp4")
    tokens = vtc.load_encoder("pixels").encode(clip)
    made = [vtc.reduce(tokens, name, ratio=8) for name in ("uniform", "random", "lftr")]
    told = {"notes": tuple(NAMES[:3]), "encoder": "Ba$$in"}
    return clip, [
        dataclasses.replace(r, **told, options={"z": "$a^{$"}, method=n) for r, n in zip(made, NAMES, strict=False)
    ]


FIGURES = {
    "curves": lambda table, _: vtc.plot_curves(table, "va$$lue"),
    "kinds": lambda table, _: vtc.plot_kinds(table, 4),
    "flips": lambda table, _: vtc.plot_flips(table),
    "forest": lambda table, _: vtc.plot_forest(vtc.compare(table, reference="uniform")),
    "published": lambda table, _: vtc.plot_published(_odd_record(), table),
    "heatmap": lambda table, _: vtc.plot_heatmap(_split(table), "va$$lue"),
    "show": lambda _, clip: vtc.show(clip[0], *clip[1]),
    "kept": lambda _, clip: vtc.compare_kept(*clip, {"$a^{$": vtc.VTCError("$a^{$ no")}),
    "overlap": lambda _, clip: vtc.plot_overlap(clip[1]),
    "agreement": lambda _, clip: vtc.plot_agreement(*clip),
}


def _odd_record():
    rows = vtc.published(method="FastV", backbone="LLaVA-OneVision-7B", benchmark="average")
    return rows.assign(method="$a^{$ Ba$$in", source="$0 - $10", table=r"$\input{x}$")


def _split(table):
    options = ['{"temporal_ratio": 1, "spatial_ratio": 2}', '{"temporal_ratio": 2, "spatial_ratio": 2}']
    return table[table.label == NAMES[0]].assign(options=np.resize(options, (table.label == NAMES[0]).sum()))


_SLOW = ("show", "agreement", "forest")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in _SLOW)) for n in FIGURES])
def test_no_text_of_a_user_is_mathtext(name, table, reductions, tmp_path):
    figure = FIGURES[name](table, reductions)
    figure._repr_png_()  # outside of the papers' style
    files = vtc.save_figure(figure, name, tmp_path)
    assert sorted(files) == [".csv", ".json", ".pdf", ".png", ".svg"]
    drawn = [text for text in figure.findobj(Text) if "$" in text.get_text() or "\\" in text.get_text()]
    assert drawn and not any(text.get_parse_math() for text in drawn)
    if name in ("curves", "kinds", "flips", "forest", "published"):
        shown = files[".svg"].read_text().replace("&amp;", "&")
        for each in NAMES:
            assert each in shown, each


def test_a_table_in_latex_holds_names_as_they_are(tmp_path):
    names = [*NAMES, "*z", "<b> --x---y", r"a\textsuperscript{2}"]
    rows = pd.DataFrame({"label": names, "value": range(len(names))})
    files = vtc.save_table(rows, "names", tmp_path)
    lines = files[".tex"].read_text().split("\n")[1:]
    assert [line.rsplit(" & ", 1)[0] for line in lines[4:-3]] == [
        r"Ba\$\$in",
        r"\$0 - \$10",
        r"\$\textbackslash{}input\{x\}\$",
        r"mine (text=\$a\textasciicircum{}\{\$)",
        r"\_hidden",
        r"{[}x] 100 \% \& \#\_\textasciitilde{}\textasciicircum{}",  # after \\ a bare [ begins a length
        "{*}z",
        r"\textless{}b\textgreater{} -{}-x-{}-{}-y",  # no dash, and no mark of what is missing
        r"a\textbackslash{}textsuperscript\{2\}",
    ]
    assert lines[-3:] == [r"\bottomrule", r"\end{tabular}", ""]  # no note says that something is missing
    assert pd.read_csv(files[".csv"]).label.tolist() == names


@pytest.mark.parametrize(
    "text, cut",
    [
        ("read /home/my name/clips/a.mp4 now", "read a.mp4 now"),
        ("there is no folder /home/my name/clips; give one", "there is no folder clips; give one"),
        ("'/home/my name/x y/z.mp4'", "'z.mp4'"),
        (r"C:\Program Files\x y\a.mp4 failed", "a.mp4 failed"),
        ("in /home/bob's stuff/x", "in x"),
        ("at /home/x y/12:30/a.mp4: see c/d", "at a.mp4: see c/d"),
        ("see /tmp/x.mp4 or b/c", "see x.mp4 or b/c"),
        ("5/6 of and/or, https://a.b/c/d e/f", "5/6 of and/or, https://a.b/c/d e/f"),
    ],
)
def test_folders_with_spaces_in_their_names_stay_private(text, cut, tmp_path):
    assert csv_bytes(pd.DataFrame({"said": [text]})).decode().split("\n")[1].strip('"') == cut
    figure = attach(Figure(), **{text: [text]})
    assert json.loads(vtc.save_figure(figure, "x", tmp_path)[".json"].read_text())["config"] == {cut: [cut]}


NO_PATHS = {"half a character": "\ud800", "300 characters": "x" * 300, "nobody": "~nouser/x", "a zero": "a\0b"}


@pytest.fixture(scope="module")
def model():
    return vtc.load_model()


@pytest.fixture(params=[*NO_PATHS, "a closed folder"])
def no_path(request, tmp_path):
    if request.param in NO_PATHS:
        yield NO_PATHS[request.param]
        return
    closed = tmp_path / "closed"
    (closed / "inner").mkdir(parents=True)
    closed.chmod(0)
    root = os.geteuid() == 0
    try:
        if root:  # who may read whatever the permissions say
            tmp_path.chmod(0o755)
            os.seteuid(65534)
        yield str(closed / "inner")
    finally:
        if root:
            os.seteuid(0)
        closed.chmod(0o755)


def test_what_cannot_be_a_path_is_said_wherever_one_is_given(no_path, model, tmp_path):
    clip, samples = vtc.make_clip(7)
    asked = [samples[0] | {"clip": clip}]
    table = pd.DataFrame({"label": ["a"], "value": [1]})
    doors = {
        "read_clip": lambda: vtc.read_clip(no_path),
        "find_clips": lambda: vtc.find_clips(no_path),
        "read_samples": lambda: vtc.read_samples(no_path),
        "read_benchmark": lambda: vtc.read_benchmark("plain", no_path),
        "its clips": lambda: vtc.read_benchmark("plain", ROOT / "tests/fixtures/plain", clips=no_path),
        "load_model": lambda: vtc.load_model(no_path),
        "sweep": lambda: vtc.sweep(model, asked, ["uniform"], [2], results=no_path),
        "read_results": lambda: vtc.read_results(no_path),
        "save_figure": lambda: vtc.save_figure(Figure(), "x", no_path),
        "ablate": lambda: results_file(no_path),
        "save_table": lambda: vtc.save_table(table, "x", no_path),
        "read_sample_clip": lambda: vtc.read_sample_clip({"clip": no_path}),
        "judge": lambda: judge_all([{"question": "a", "answer": "b"}], ["b"], Judge("http://x", "m", cache=no_path)),
    }
    for door, give in doors.items():
        with pytest.raises(vtc.VTCError) as error:
            give()
        assert plain(no_path) in str(error.value), door
        str(error.value).encode()  # can be printed
    assert vtc.check_clips([{"clip": no_path}]).questions.tolist() == [1]
    (row,) = vtc.sweep(model, [samples[0] | {"clip": no_path}], ["uniform"], [2]).itertuples()
    assert row.status == "error" and re.search("cannot be (a path|read)", row.error)


@pytest.mark.parametrize("name", NO_PATHS.values(), ids=NO_PATHS)
def test_names_that_no_file_can_have_are_said(name, tmp_path):
    for save in (lambda: vtc.save_figure(Figure(), name, tmp_path), lambda: vtc.save_table(TABLE, name, tmp_path)):
        with pytest.raises(vtc.VTCError, match="cannot name a|File name too long"):
            save()
    assert not list(tmp_path.iterdir())


TABLE = pd.DataFrame({"label": ["a"], "value": [1]})


@pytest.mark.slow
@pytest.mark.parametrize("name", NO_PATHS.values(), ids=NO_PATHS)
def test_the_fields_of_the_panels_say_so(name):
    explorer = vtc.explore(encoder="pixels", frames=4)
    for field in (explorer._folder, explorer._file):
        field.value = name
        explorer.wait()
        assert "cannot be" in explorer.message and "Traceback" not in explorer.message
    explorer._controls["figure"].value = name
    explorer._export.click()
    explorer.wait()
    assert "Traceback" not in explorer.message and "cannot" in explorer.message
    explorer.close()
    panel = vtc.ablate(samples=name, results=name)
    panel.wait()
    assert "cannot be" in panel.message and "Traceback" not in panel.message
    panel.close()


def test_a_home_folder_is_meant_by_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    files = vtc.save_figure(Figure(), "x", "~/figures here")
    assert files[".pdf"] == tmp_path / "figures here/x.pdf" and files[".pdf"].is_file()


@pytest.mark.slow
def test_a_file_name_that_is_no_unicode_is_read_and_its_results_kept(model, tmp_path):
    """Names on Linux are bytes: those of Latin-1 come to Python with half characters."""
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4")
    shutil.copy(ROOT / "data/clips/bikes.mp4", path)
    sample = vtc.make_clip(7)[1][0] | {"clip": path, "kind": "\ud83d", "id": "\ud83d"}
    table = vtc.sweep(model, [sample], ["uniform"], [8], frames=4, results=tmp_path / "r.db")
    assert table.status.tolist() == ["ok"] and table["clip"][0].endswith(r"caf\udce9.mp4")
    assert vtc.read_results(tmp_path / "r.db")["clip"].tolist() == table["clip"].tolist()
    clip = vtc.read_clip(path, frames=4)
    figure = vtc.show(clip, vtc.reduce(model.encode(clip), "uniform", ratio=8))
    assert r"caf\\udce9.mp4" in vtc.save_figure(figure, "x", tmp_path)[".json"].read_text()


@pytest.mark.slow
def test_half_a_character_is_no_question(model, tmp_path):
    clip, samples = vtc.make_clip(7)
    for given in ({"question": "what \ud800"}, {"question": "what", "candidates": ["\ud800", "a"]}):
        with pytest.raises(vtc.VTCError, match="give"):
            model.ask(clip=clip, **given)
    sample = samples[0] | {"clip": clip, "question": "what \ud800", "candidates": None}
    table = vtc.sweep(model, [sample], ["uniform"], [8], results=tmp_path / "r.db")
    assert table.question.tolist() == [r"what \ud800"] and table.status.tolist() == ["ok"]
    named = pd.DataFrame({"label": ["a\ud800"], "value": [1]}, dtype=object)
    assert vtc.save_table(named, "x", tmp_path)[".csv"].read_text() == "label,value\n" + "a\\ud800,1\n"


@pytest.mark.parametrize("seed", [2**63, 10**400, -(2**63) - 1])
def test_a_seed_that_no_table_holds_is_refused_before_anything_is_computed(seed, model, tmp_path):
    clip, samples = vtc.make_clip(7)
    asked, progress = [samples[0] | {"clip": clip}], []
    options = [("random", {"seed": seed})]
    for given in ({"methods": ["random"], "seeds": [0, seed]}, {"methods": options}):
        with pytest.raises(vtc.VTCError, match=r"seed is -?\d+; it must be below 2\*\*63"):
            vtc.sweep(model, asked, ratios=[2], results=tmp_path / "r.db", progress=progress.append, **given)
    assert not progress
    with pytest.raises(vtc.VTCError, match="seed is"):
        vtc.reduce(vtc.VideoTokens(torch.randn(4, 2, 2, 8)), "random", ratio=2, seed=seed)
    with pytest.raises(vtc.VTCError, match="the seed of a clip is"):
        vtc.make_clip(seed)


def test_the_largest_seeds_are_kept(model, tmp_path):
    clip, samples = vtc.make_clip(2**63 - 1)
    seeds = [2**63 - 1, 1 - 2**63]
    asked = [samples[0] | {"clip": clip}]
    table = vtc.sweep(model, asked, ["random"], [8], seeds=seeds, results=tmp_path / "r.db")
    assert table.seed.tolist() == seeds and set(vtc.read_results(tmp_path / "r.db").seed) == set(seeds)


@pytest.mark.parametrize("sample", [{}, {"clip": None}, {"clip": float("nan")}, {"clip": 5}])
def test_a_sample_without_a_clip_is_said(sample, model):
    for read in (lambda: vtc.read_sample_clip(sample), lambda: vtc.check_clips([sample])):
        with pytest.raises(vtc.VTCError, match="the sample has no clip but"):
            read()
    table = vtc.sweep(model, [sample | {"question": "what ?", "answer": "a"}], ["uniform"], [2])
    assert table.status.tolist() == ["error"] and "the sample has no clip but" in table.error[0]


def test_scripts_of_the_widgets_put_no_text_into_the_page_as_markup():
    scripts = {path.name: path.read_text() for path in Path("vtc_lab/widgets").glob("*.js")}
    assert scripts
    markup = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|\beval\(|new Function"
    assert {name: re.findall(markup, text) for name, text in scripts.items() if re.search(markup, text)} == {}
    for place in re.findall(r"href: `([^`]*)`", "".join(scripts.values())):
        assert "encodeURIComponent" in place
