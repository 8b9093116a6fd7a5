"""Time every stage from a file to the last token with the bundled model, under each ratio, against the ideal.

Prints one table and, with `--out`, writes it as JSON together with the machine and the command.
"""

import argparse
import json
import sys
from pathlib import Path

import pandas as pd

import vtc_lab as vtc

SHOWN = ["read", "encode", "reduce", "prefill", "decode", "ttft", "total", "questions_per_second"]
SHOWN += ["best_questions_per_second", "tokens_per_second", "peak_gb"]


def show(table: pd.DataFrame) -> str:
    """Return seconds and rates of each setting, then its speed-ups with the share of the ideal in brackets."""
    index = ["method", "ratio", "entered", "per_layer"]
    values = table.pivot(index=index, columns="quantity", values="value")[SHOWN]
    gains = table.dropna(subset="ideal").query("method != 'none'")
    words = gains.speedup.map("{:.2f}".format) + " (" + gains.of_ideal.map("{:.2f}".format) + ")"
    gains = gains.assign(words=words).pivot(index=index, columns="quantity", values="words")
    gains = gains[["prefill", "decode", "ttft", "total"]]
    return f"{values.round(4).to_string()}\n\nspeed-up (measured / ideal)\n{gains.to_string()}"


def write(tables: list[pd.DataFrame], path: Path) -> None:
    """Write tables with what they say about the machine, and the command."""
    command = f"python {' '.join(['benchmarks/' + Path(sys.argv[0]).name, *sys.argv[1:]])}"
    each = [table.attrs | {"rows": json.loads(table.to_json(orient="records", double_precision=5))} for table in tables]
    path.write_text(json.dumps({"command": command, "tables": each}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", default=["lftr"])
    parser.add_argument("--ratios", nargs="+", type=float, default=[2, 4, 8, 16])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--new-tokens", type=int, default=2)
    parser.add_argument("--clip", help="a video; by default the first of the bundled test set")
    parser.add_argument("--frames", type=int)
    parser.add_argument("--model", help="a folder or hub id; by default the bundled model")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    table = vtc.measure(
        vtc.load_model(given.model),
        given.clip or vtc.read_samples()[0]["clip"],
        given.methods,
        given.ratios,
        frames=given.frames,
        batches=given.batches,
        new_tokens=given.new_tokens,
        repeats=given.repeats,
    )
    print(table.attrs, show(table), sep="\n")
    if given.out:
        write([table], given.out)


if __name__ == "__main__":
    main()
