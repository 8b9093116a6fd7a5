"""Write the gallery into figures/: every figure, its table, and a page that says what they show.

All of it is computed from the shipped clips, test set and model, with fixed seeds: the same code gives the same bytes.
`--clips` takes another number of the test set's 400 clips; `--results` keeps answers in an SQLite file, so that a run
that was stopped goes on.
"""

import argparse
import multiprocessing
import os
import time
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pandas as pd

import vtc_lab as vtc
from vtc_lab.sweeps.tidy import ceilings

CLIPS = 80  # the first ones of the test set: a run takes less than 20 minutes on two cores
RATIOS = (1, 2, 4, 8, 16)
SPLITS = (1, 2, 4, 8)
INSIDE = ["fastv", "pyramiddrop", "random-inside", "flashvid + flashvid-inner", "flashvid", "random"]
INSIDE_CLIPS = 8  # each question has a prefill of its own there
FIRST = {"joint": "coverage"}  # our first reading of LFTR
ORACLE = "oracle"  # the ceiling
SPLIT_AT = 8  # the ratio at which lost answers of these methods are split
SPLIT_OF = ["lftr", "divprune", "vidcom2", "fastvid", "uniform", "random", ORACLE]
BEGIN, END = "<!-- finding:begin -->", "<!-- finding:end -->"
TABLES = ("2605.30010 Table 1", "2602.08024 Table 1", "2505.14454 Table 2")  # of EarlyTom, FlashVID and VidCom2
CLOSE = 0.004  # the loss of accuracy that the paper claims at 2.3x throughput


def questions(count: int, results: Path | None, executor: Executor | None) -> pd.DataFrame:
    """The bundled test set under every method and ratio, and LFTR under every split between time and space."""
    splits = vtc.variants("lftr", temporal_ratio=[float(s) for s in SPLITS], spatial_ratio=[float(s) for s in SPLITS])
    methods = [*vtc.methods().index, ("lftr", FIRST), ORACLE]
    return _answers(count, results, executor, (methods, RATIOS), (splits, [None]))


def _answers(count: int, results: Path | None, executor: Executor | None, *asked: tuple[list, list]) -> pd.DataFrame:
    """The first clips of the test set under each of some methods and ratios."""
    samples, model = vtc.read_samples(), vtc.load_model()
    clips = set(list(dict.fromkeys(sample["clip"] for sample in samples))[:count])
    samples = [sample for sample in samples if sample["clip"] in clips]
    told = {"executor": executor, "results": results, "progress": _tell}
    return pd.concat([vtc.sweep(model, samples, *each, **told) for each in asked], ignore_index=True)


def _workers(processes: int) -> AbstractContextManager[Executor | None]:
    """Processes that are started afresh, or None for this one alone."""
    if processes == 1:
        return nullcontext()
    return ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"))


def _tell(progress) -> None:
    print(f"\r{progress.done} of {progress.total}, {progress.seconds_left:.0f} s left  ", end="", flush=True)


def features(count: int) -> pd.DataFrame:
    """Fidelity of the bundled clips' CNN features, the first ones, under every method that needs no attention."""
    encoder = vtc.load_encoder("efficientnet-lite0")
    tokens = {path.stem: encoder.encode(vtc.read_clip(path, frames=16)) for path in vtc.find_clips()[:count]}
    return vtc.fidelity_sweep(tokens, list(vtc.methods().query("needs == 'features'").index), RATIOS)


def reported() -> pd.DataFrame:
    """What papers report for the backbone that most of them have in common."""
    return vtc.published(backbone="LLaVA-OneVision-7B", benchmark="average")


def pictures(answers: pd.DataFrame, fidelity: pd.DataFrame, stages: pd.DataFrame) -> dict[str, tuple]:
    """Each figure by its name, with its caption."""
    clip = vtc.read_clip("data/clips/sintel.mp4", frames=8)
    tokens = vtc.load_encoder("efficientnet-lite0").encode(clip)
    shown = [vtc.reduce(tokens, method, ratio=4) for method in ("lftr", "uniform", "random")]
    every = [vtc.reduce(tokens, method, ratio=4) for method in vtc.methods().query("needs == 'features'").index]
    split = answers.options.str.contains("spatial_ratio")
    curves, wide = answers[~split], {"venue": "neurips", "width": "text"}
    one = curves[curves.method.isin(["lftr", "uniform", "random", "random-per-frame", "pool", ORACLE])]
    ours = curves[curves.label.isin(["fastvid", "flashvid", "vidcom2", "visionzip", "random"])]
    heat = answers[split | (answers.method.isin(["uniform", "random"]) & answers.ratio.isin(RATIOS))]
    return {
        "what_gets_dropped": (
            vtc.show(clip, *shown),
            "One clip at one budget: what LFTR, evenly spaced frames and chance keep of it. Hatched: dropped. Flat: "
            "merged into the patch with a dot of that tint. Sintel, © Blender Foundation, CC BY 3.0.",
        ),
        "accuracy_vs_ratio": (
            vtc.plot_curves(curves, **wide),
            "Accuracy on the test set against the tokens that enter the language model; 95 % intervals over clips. The "
            "oracle, which knows where the answers are, is a ceiling.",
        ),
        "lftr_and_the_baselines": (
            vtc.plot_curves(one),
            "The same for LFTR, our first reading of it (`joint=coverage`), the baselines and the ceiling.",
        ),
        "loss_by_kind_at_4x": (vtc.plot_kinds(one, 4, **wide), "What each kind of question loses at 4x."),
        "what_was_lost": (
            vtc.plot_losses(curves[curves.method.isin(SPLIT_OF)], SPLIT_AT, **wide),
            f"Right answers lost at {SPLIT_AT}x, by kind: less than half of the evidence was kept, or at least "
            "half was there and the model failed.",
        ),
        "flips": (vtc.plot_flips(one, **wide), "Answers that a reduction turns, to the worse and to the better."),
        "time_or_space": (vtc.plot_heatmap(heat), "LFTR under every split of a budget between time and space."),
        "coverage_vs_ratio": (
            vtc.plot_curves(fidelity, "coverage", **wide),
            "Coverage of eight real clips' ImageNet CNN features, for the methods that need no attention.",
        ),
        "kept_by_every_method": (
            vtc.compare_kept(clip, every, columns=2),
            "The patches that each method keeps of one clip at 4x.",
        ),
        "published": (
            vtc.plot_published(reported()[lambda rows: rows.table.isin(TABLES)], ours),
            "What three papers report for LLaVA-OneVision-7B, each on its own average, and the same methods "
            "on this test set (thick lines). The fill of a mark says what the share of tokens is a share of.",
        ),
        "published_per_layer": (
            vtc.plot_published(reported()[lambda rows: rows.table.isin(TABLES)], x="per_layer"),
            "The same tables against the mean of what the layers of the language model hold, where that can be told. "
            "FastV's 10 % behind layer 2 of 28 is 16.4 %.",
        ),
        "accuracy_vs_mean_per_layer": (
            vtc.plot_curves(stages, x="per_layer"),
            f"Methods that drop tokens inside the language model, before it, and both, on the first {INSIDE_CLIPS} "
            "clips. A ratio is of the tokens in the last layer; without FlashVID's first stage everything enters.",
        ),
        "overlap_of_methods": (vtc.plot_overlap(every), "How far the sets of kept patches overlap."),
    }


def finding(answers: pd.DataFrame, permutations: int = 99_999) -> list[str]:
    """What the answers show, in sentences made from the numbers, whichever way they fall."""
    table = answers[~answers.options.str.contains("spatial_ratio")]
    full = table[table.ratio == 1].right.astype(float).mean()
    lines = [
        f"{table['sample'].nunique()} questions on {table['clip'].nunique()} generated clips, the bundled toy model, "
        f"{100 * full:.1f} % correct with everything. Differences in points of accuracy, 95 % intervals over clips; "
        "p from a paired permutation test over clips, after Holm's correction over all methods and ratios.",
        "",
    ]
    against = vtc.compare(table, "random", permutations=permutations)
    against = against[~ceilings(against)]
    for label in sorted({label for label in against.label if label.startswith("lftr")}):
        lines.append(f"- `{label}` against `random`:")
        for row in against[against.label == label].itertuples():
            verdict = "no clear difference" if row.p_holm >= 0.05 else "above" if row.difference > 0 else "below"
            lines[-1] += f" {row.ratio:g}x {verdict}, {_points(row)};"
        lines[-1] = lines[-1][:-1] + "."
    for ratio, rows in against.groupby("ratio"):
        best = rows[rows.n == rows.of].sort_values("difference").iloc[-1]
        lines.append(f"- Best at {ratio:g}x against `random`: `{best.label}`, {_points(best)}.")
    loss = vtc.compare(table)
    ceiling = ", ".join(f"{row.ratio:g}x {_difference(row)}" for row in loss[ceilings(loss)].itertuples())
    lines.append(f"- Ceiling, `{ORACLE}` against no reduction: {ceiling}.")
    split = vtc.split_losses(table[table.method.isin(SPLIT_OF)], ["label", "ratio"])
    split = split[split.ratio == SPLIT_AT].pivot(index="label", columns="loss", values="share").mul(100)
    lost = "; ".join(f"`{row.Index}` {row.dropped:.1f} and {row.failed:.1f}" for row in split.itertuples())
    lines.append(
        f"- Of the answers that are right with everything, {SPLIT_AT}x loses with less than half of the evidence kept, "
        f"and with at least half (%): {lost}."
    )
    loss = loss[~ceilings(loss)]
    close = loss[(loss.n == loss.of) & (loss.difference >= -CLOSE)]
    names = ", ".join(f"`{row.label}` at {row.ratio:g}x ({_points(row)})" for row in close.itertuples())
    lines.append(f"- Within {100 * CLOSE:g} points of no reduction: {names or 'no method at any ratio above 1x'}.")
    for row in vtc.rank_agreement(table, reported(), ratio=4).itertuples():
        lines.append(
            f"- Kendall's tau with {row.source} for {row.backbone} at 4x: {row.tau:+.2f} ({row.low:+.2f} to "
            f"{row.high:+.2f} over clips), p = {row.p:.2g}, for {row.n} methods; its order: {row.methods}."
        )
    lines.append(f"- {vtc.summary(answers)[1]}.")
    return lines


def accuracy_table(cells: pd.DataFrame) -> list[str]:
    """Accuracy in percent by label and ratio, with intervals, as Markdown."""
    ratios = sorted(cells.ratio.unique())
    lines = ["| method | " + " | ".join(f"{ratio:g}x" for ratio in ratios) + " |", "|---|" + "---|" * len(ratios)]
    for label, rows in cells.groupby("label", sort=False):
        shown = [_percent(row) for row in rows.sort_values("ratio").itertuples()]
        lines.append(f"| {label}{' (ceiling)' if label == ORACLE else ''} | {' | '.join(shown)} |")
    return lines


def recall_table(answers: pd.DataFrame) -> list[str]:
    """Share of the evidence that is kept at SPLIT_AT, in percent, by label and kind of question, as Markdown."""
    at = answers[(answers.ratio == SPLIT_AT) & answers.recall.notna()]
    cells = (100 * at.pivot_table(index="label", columns="kind", values="recall", sort=False)).round(0).astype(int)
    kinds = sorted(cells)
    lines = ["| method | " + " | ".join(kinds) + " |", "|---|" + "---|" * len(kinds)]
    return lines + [f"| {label} | {' | '.join(map(str, row))} |" for label, row in cells[kinds].iterrows()]


def _percent(row) -> str:
    text = f"{100 * row.mean:.1f} ({100 * row.low:.1f} to {100 * row.high:.1f})" if row.n else ""
    lacking = f"missing, {row.of - row.n} of {row.of}" if row.n < row.of else ""
    return ", ".join(filter(None, (text, lacking)))


def _points(row) -> str:
    return f"{_difference(row)}, p = {row.p_holm:.2g}"


def _difference(row) -> str:
    return f"{100 * row.difference:+.1f} ({100 * row.low:+.1f} to {100 * row.high:+.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=CLIPS)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    start = time.perf_counter()
    with _workers(given.processes) as executor:
        answers = questions(given.clips, given.results, executor)
        stages = _answers(min(INSIDE_CLIPS, given.clips), given.results, executor, (INSIDE, RATIOS))
    page = ["# Figures", "", "Written by `make figures` from the shipped clips, test set and model.", ""]
    curves = answers[~answers.options.str.contains("spatial_ratio")]
    cells = vtc.bootstrap_interval(curves)
    text = [BEGIN, *finding(answers), END]
    page += ["## What they show", "", *text, "", *accuracy_table(cells), ""]
    page += [f"Evidence kept at {SPLIT_AT}x, in percent, by kind of question:", "", *recall_table(curves), ""]
    for name, (figure, caption) in pictures(answers, features(given.clips), stages).items():
        paths = vtc.save_figure(figure, name, given.folder, replace=True)
        page += [f"## {name.replace('_', ' ')}", "", caption, "", f"![{caption.split('.')[0]}]({name}.png)", ""]
    vtc.save_table(cells, "accuracy", given.folder)
    page.append("The table of accuracies as [CSV](accuracy.csv) and [LaTeX](accuracy.tex).")
    (paths[".png"].parent / "README.md").write_text("\n".join(page) + "\n", encoding="utf-8")
    if given.folder is None:  # the same words in the page on the model
        model = paths[".png"].parent.parent / "docs" / "model.md"
        before, _, rest = model.read_text(encoding="utf-8").partition(BEGIN)
        model.write_text(before + "\n".join(text) + rest.partition(END)[2], encoding="utf-8")
    print(f"\nwrote {paths['.png'].parent.name}/ in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
