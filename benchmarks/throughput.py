"""Print what reductions save and what they cost: the speed from file to answer, then the accuracy, against every token.

Speed is that of `vtc.measure` on some clips, file by file; accuracy that of a sweep over more of the bundled test set.
A method can have options: `--methods lftr "lftr stage=pixels"`. With `--out`, the speeds are written as JSON.
"""

import argparse
import ast
import itertools
import json
import re
import sys
from contextlib import suppress
from pathlib import Path

import pandas as pd

import vtc_lab as vtc

METHODS = ["lftr", *vtc.variants("lftr", stage=["both", "pixels"])]
SHOWN = ["read", "encode", "reduce", "prefill", "decode", "ttft", "total", "questions_per_second"]
SHOWN += ["best_questions_per_second", "tokens_per_second", "peak_gb"]
AGAINST_IDEAL = ["encode", "prefill", "decode", "ttft", "total"]


def chosen(words: str) -> str | tuple[str, dict]:
    """Return a method, or for "lftr stage=pixels" a method with its options."""
    name, *pairs = re.split(r"\s+(?=\w+=)", words)
    options = dict(pair.split("=", 1) for pair in pairs)
    for key, value in options.items():
        with suppress(ValueError, SyntaxError):  # a text
            options[key] = ast.literal_eval(value)
    return (name, options) if options else name


def show(tables: list[pd.DataFrame]) -> str:
    """Return medians over clips: seconds and rates, then speed-ups with the share of the ideal."""
    rows = pd.concat(tables)
    settings = list(dict.fromkeys(zip(rows.method, rows.ratio, strict=True)))
    cells = rows.groupby(["method", "ratio", "quantity"])[["value", "speedup", "of_ideal"]].median()
    values = cells.value.unstack()[SHOWN].loc[settings].round(4)
    values.insert(0, "per_layer", rows.groupby(["method", "ratio"]).per_layer.median().round())
    gains = cells.speedup.map("{:.2f}".format) + " (" + cells.of_ideal.map("{:.2f}".format) + ")"
    gains = gains.unstack()[AGAINST_IDEAL].loc[settings[1:]]
    rates = rows[rows.quantity == "questions_per_second"].groupby(["method", "ratio"])
    low, middle, high = (rates.speedup.quantile(share).round(2).astype(str) for share in (0.25, 0.5, 0.75))
    if len(tables) == 1:  # the interval over rounds
        low, high = (rates[f"speedup_{end}"].first().round(2).astype(str) for end in ("low", "high"))
    gains["questions per second"] = middle + ", " + low + " to " + high
    return f"{values.to_string()}\n\nspeed-up (measured / ideal)\n{gains.to_string()}"


def write(tables: list[pd.DataFrame], path: Path) -> None:
    """Write tables with what they say about the machine, and the command."""
    command = f"python {' '.join(['benchmarks/' + Path(sys.argv[0]).name, *sys.argv[1:]])}"
    each = [table.attrs | {"rows": json.loads(table.to_json(orient="records", double_precision=5))} for table in tables]
    path.write_text(json.dumps({"command": command, "tables": each}) + "\n")


def accuracy(table: pd.DataFrame) -> str:
    """Return the points of accuracy that each setting of a sweep is above or below every token, with intervals."""
    full = vtc.bootstrap_interval(table[table.ratio == 1]).iloc[0]
    words = (
        f"{vtc.summary(table)[1]}\n{full.clips} clips, {full.n} questions, {full['mean']:.1%} right with every token"
    )
    tests = vtc.compare(table)
    points = [
        f"{100 * row.difference:+.1f} ({100 * row.low:+.1f} to {100 * row.high:+.1f})" for row in tests.itertuples()
    ]
    points = tests.assign(points=points).pivot(index="label", columns="ratio", values="points")
    return f"{words}\n\n{points.loc[list(dict.fromkeys(tests.label))].to_string()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", type=chosen, default=METHODS)
    parser.add_argument("--ratios", nargs="+", type=float, default=[2, 4, 8, 16])
    parser.add_argument("--clips", type=int, default=5, help="of the test set, for speed; 0 to leave it out")
    parser.add_argument("--repeats", type=int, default=3, help="rounds on each clip")
    parser.add_argument("--batches", nargs="+", type=int, default=[1])
    parser.add_argument("--new-tokens", type=int, default=2)
    parser.add_argument(
        "--answers", type=int, default=24, help="clips of the test set, for accuracy; 0 to leave it out"
    )
    parser.add_argument("--results", help="an SQLite file of answers, which a later run goes on with")
    parser.add_argument("--clip", help="a video of yours, for speed alone")
    parser.add_argument("--frames", type=int)
    parser.add_argument("--model", help="a folder or hub id, for speed alone; by default the bundled model")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    model, test = vtc.load_model(given.model), vtc.read_samples()
    groups = [list(same) for _, same in itertools.groupby(test, key=lambda sample: sample["clip"])]

    def some(count: int) -> list[list]:
        return groups[:: max(1, len(groups) // max(1, count))][:count]

    how = {"frames": given.frames, "batches": given.batches, "new_tokens": given.new_tokens, "repeats": given.repeats}
    tables: list[pd.DataFrame] = []
    for clip in [given.clip] if given.clip else [same[0]["clip"] for same in some(given.clips)]:
        tables.append(vtc.measure(model, clip, given.methods, given.ratios, **how))
        if given.out:
            write(tables, given.out)
    if tables:
        print(tables[-1].attrs, show(tables), sep="\n")
    if given.answers and not (given.clip or given.model):
        samples = [sample for same in some(given.answers) for sample in same]
        methods = [*given.methods, "random", "uniform"]
        print(accuracy(vtc.sweep(model, samples, methods, [1, *given.ratios], results=given.results)))


if __name__ == "__main__":
    main()
