"""Tables on disk: what the LaTeX says, and what an error leaves behind."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up_sweep import made_up_sweep

from vtc_lab.figures.tables import save_table
from vtc_lab.sweeps.stats import bootstrap_interval, compare
from vtc_lab.tokens import VTCError


def body(path: Path) -> dict[str, list[str]]:
    """The cells of a tabular by their first column."""
    lines = path.read_text().split("\\midrule\n")[1].split("\\bottomrule")[0].splitlines()
    return {line.split(" & ")[0]: line.removesuffix(" \\\\").split(" & ")[1:] for line in lines}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def sweep() -> pd.DataFrame:
    return made_up_sweep(["lftr", "dycoke", "uniform"], [1, 4, 16], gaps={("dycoke", 16): "minimum"})


def test_labels_go_down_ratios_across_and_both_budgets_are_in_the_head(sweep, tmp_path):
    table = bootstrap_interval(sweep)
    paths = save_table(table, "accuracy", tmp_path / "new")
    assert {suffix: path.name for suffix, path in paths.items()} == {".tex": "accuracy.tex", ".csv": "accuracy.csv"}
    text = paths[".tex"].read_text()
    assert r" & $1\times$ (896/896) & $4\times$ (224/896) & $16\times$ (56/896) \\" in text
    assert [rule for rule in re.findall(r"\\(\w+rule)", text)] == ["toprule", "midrule", "bottomrule"]
    rows = body(paths[".tex"])
    assert list(rows) == ["lftr", "dycoke", "uniform"]
    cell = table[(table.label == "uniform") & (table.ratio == 4)].iloc[0]
    expected = f"{100 * cell['mean']:.1f} [{100 * cell.low:.1f}, {100 * cell.high:.1f}]"
    assert rows["uniform"][1].removeprefix("\\bfseries ") == expected
    pd.testing.assert_frame_equal(pd.read_csv(paths[".csv"]), table)


def test_best_is_bold_at_each_ratio_and_a_tie_of_all_is_not(sweep, tmp_path):
    table = bootstrap_interval(sweep)
    for best in ("max", "min"):
        rows = body(save_table(table, "t", tmp_path, best=best)[".tex"])
        for at, (_, cells) in enumerate(table.groupby("ratio")):
            winners = {r.label for r in cells.itertuples() if r.mean == getattr(cells["mean"], best)()}
            winners = winners if cells["mean"].nunique() > 1 else set()
            assert {label for label, row in rows.items() if row[at].startswith("\\bfseries ")} == winners
    assert "bfseries" not in save_table(table, "t", tmp_path, best=None)[".tex"].read_text()


def test_results_that_are_missing_for_any_reason_are_counted_in_their_cells(sweep, tmp_path):
    sweep.loc[sweep.index[(sweep.label == "lftr") & (sweep.ratio == 4)][:3], ["right", "status"]] = [None, "error"]
    sweep = sweep[(sweep.label != "uniform") | (sweep.ratio != 16)]
    path = save_table(bootstrap_interval(sweep), "t", tmp_path)[".tex"]
    rows = body(path)
    assert (rows["dycoke"][2], rows["uniform"][2]) == (r"--\textsuperscript{48/48}", "--")
    assert rows["lftr"][1].endswith(r"]\textsuperscript{3/48}")
    assert not rows["lftr"][1].startswith("\\bfseries"), "it lacks samples that the others have"
    text = path.read_text()
    assert text.count(r"\multicolumn{4}{l}{\footnotesize ") == 3 and text.rstrip().endswith(r"\end{tabular}")
    assert "-- no result" in text and r"\textsuperscript{n/N} missing, n of N results" in text


@pytest.mark.slow
def test_other_tables_are_written_row_by_row_with_intervals_folded_in(sweep, tmp_path):
    tests = compare(sweep)
    text = save_table(tests, "tests", tmp_path)[".tex"].read_text()
    assert r"p\_holm" in text and "& low" not in text and "& missing" not in text and "& of" not in text
    row = tests[(tests.label == "uniform") & (tests.ratio == 16)].iloc[0]
    number = f"{row.difference:.3f} [{row.low:.3f}, {row.high:.3f}]".replace("-", "$-$")
    assert number in text and row.difference < 0
    assert r"$<$0.001" in text
    assert r"--\textsuperscript{48/48}" in text


@pytest.mark.slow
def test_every_empty_cell_is_a_mark_that_a_note_explains(sweep, tmp_path):
    sweep.loc[sweep["clip"] == "clips/003.mp4", ["right", "status"]] = [None, "error"]
    nowhere = made_up_sweep(["tome"], [4], gaps={("tome", 4): "error"})
    nowhere["sample"] = "of tome " + nowhere["sample"]
    table = pd.concat([sweep[(sweep.label != "uniform") | (sweep.ratio != 16)], nowhere], ignore_index=True)
    tables = {
        "means": bootstrap_interval(table),
        "kinds": bootstrap_interval(table, by=["label", "ratio", "kind"]).drop(columns="ratio"),
        "tests": compare(table),
        "many": compare(table, value="kl"),
        "few": compare(table)[["label", "ratio", "n", "difference", "low", "high", "p_holm"]],
        "own": pd.DataFrame({"name": ["a_b", None], "score": [np.nan, 1.0]}),
    }
    for name, saved in tables.items():
        text = save_table(saved, name, tmp_path)[".tex"].read_text()
        rows, notes = text.split("\\midrule\n")[1].split("\\bottomrule\n")
        assert "--" in rows and "-- no result" in notes and "nan" not in rows.lower(), name
        assert ("textsuperscript" in rows) == ("textsuperscript" in notes), name
    rows = body(tmp_path / "means.tex")
    assert (rows["dycoke"][2], rows["uniform"][2]) == (r"--\textsuperscript{44/44}", "--")
    assert rows["tome"][1] == "--" and "\\textsuperscript" not in rows["lftr"][1]
    assert re.search("missing: [0-9]+ of [0-9]+ results", (tmp_path / "means.tex").read_text())
    assert r"a\_b & --" in (tmp_path / "own.tex").read_text()


def test_budgets_are_in_the_head_only_where_all_full_means_have_the_same(tmp_path):
    table = made_up_sweep(["lftr", "fastv", "dtd", "uniform"], [1, 4, 8], clips=12)
    table["total"] = np.where(table["clip"] < "clips/006.mp4", 800, 400)
    table["kept"] = table["total"] / table.ratio
    minimum = (table.label == "dtd") & (table.ratio == 8) & (table["total"] == 400)
    table.loc[minimum, ["kept", "right", "status"]] = [np.nan, None, "minimum"]
    table.loc[(table.label == "fastv") & (table.ratio == 4), "kept"] = table["total"]
    means = bootstrap_interval(table)
    (odd,) = means[(means.label == "dtd") & (means.ratio == 8)].itertuples()
    assert (odd.kept, odd.total, odd.n) == (100, 800, 24)
    path = save_table(means, "t", tmp_path)[".tex"]
    assert r" & $1\times$ (600/600) & $4\times$ & $8\times$ (75/600) \\" in path.read_text()
    rows = body(path)
    assert [row[1].split("(")[-1] for row in rows.values()] == ["150/600)", "600/600)", "150/600)", "150/600)"]
    assert rows["dtd"][2].endswith(r"]\textsuperscript{24/48} (100/800)")
    assert not any("(" in row[at] for label, row in rows.items() for at in (0, 2) if label != "dtd")


def test_ratios_that_differ_little_have_heads_of_their_own(tmp_path):
    text = save_table(bootstrap_interval(made_up_sweep(["uniform"], [1, 6.401, 6.404])), "t", tmp_path)[".tex"]
    assert r"& $6.401\times$ (140/896) & $6.404\times$ (140/896)" in text.read_text()


def test_what_latex_would_read_as_a_command_is_escaped(tmp_path):
    table = made_up_sweep(["lftr", "uniform"], [1, 4])
    table["label"] = table.label.replace("lftr", "lftr (min_fidelity=90%)")
    rows = body(save_table(bootstrap_interval(table), "t", tmp_path)[".tex"])
    assert r"lftr (min\_fidelity=90\%)" in rows
    named = pd.DataFrame({"a_b": ["50%", "x & y"], "n": [1, 2]})
    text = save_table(named, "own", tmp_path)[".tex"].read_text()
    assert r"a\_b & n" in text and r"50\% & 1" in text and r"x \& y & 2" in text


def test_the_same_bytes_each_time_with_how_they_were_made(sweep, tmp_path):
    table = bootstrap_interval(sweep)
    first = save_table(table, "t.tex", tmp_path, provenance={"model": "/srv/models/toy", "seed": 0})
    before = contents(tmp_path)
    save_table(table, "t.csv", tmp_path, provenance={"model": "/srv/models/toy", "seed": 0})
    assert contents(tmp_path) == before and set(before) == {"t.tex", "t.csv"}
    facts = json.loads(first[".tex"].read_text().splitlines()[0].removeprefix("% "))
    assert facts["config"] == {"model": "toy", "seed": 0}
    assert facts["files"] == [".tex", ".csv"]


@pytest.mark.parametrize(
    ("table", "name", "best", "words"),
    [
        ([1], "t", "max", "the table is a list"),
        (pd.DataFrame(), "t", "max", "the table has no rows"),
        (pd.DataFrame({"a": [1]}), "a/b", "max", "'a/b' cannot name a table"),
        (pd.DataFrame({"a": [1]}), 7, "max", "7 cannot name a table"),
        (pd.DataFrame({"a": [1]}), "t", "largest", "best is 'largest'; there are 'max', 'min'"),
        (
            pd.DataFrame({"label": "a", "ratio": 2, "mean": [0.1, 0.2], "low": 0.0, "high": np.nan}),
            "t",
            "max",
            "more than one row for 'a' at ratio 2",
        ),
    ],
)
def test_bad_input_is_one_sentence(table, name, best, words, tmp_path):
    with pytest.raises(VTCError, match=words) as caught:
        save_table(table, name, tmp_path, best=best)
    assert "\n" not in str(caught.value) and not contents(tmp_path)
