"""Compare what each method keeps with what its authors' code kept of the same tensors.

Prints the mean Jaccard index of the kept sets for each method and share of tokens, as a Markdown table. The answers of
the official code are in `tests/agreement/handed.json`, and `inputs.py` beside them makes the tensors. A method
is given the number of tokens that the official code kept, which is not always the share that it was asked for.
"""

import importlib.util
import json
from pathlib import Path

import pandas as pd

import vtc_lab as vtc

FIXTURES = Path(__file__).resolve().parent.parent / "tests" / "agreement"
_spec = importlib.util.spec_from_file_location("agreement_inputs", FIXTURES / "inputs.py")
_inputs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_inputs)


def agreement() -> pd.DataFrame:
    """Return one row a case: method, seed, keep (the share asked for) and the Jaccard index of the kept sets."""
    rows = []
    for case in json.loads((FIXTURES / "handed.json").read_text()):
        values, saliency = _inputs.make(case["seed"], case["frames"])
        tokens, official = vtc.VideoTokens(values, saliency), set(case["kept"])
        reduced = vtc.reduce(tokens, case["method"], ratio=tokens.total / len(official), **case.get("options", {}))
        ours = set(reduced.anchor.tolist())
        rows.append(
            {key: case[key] for key in ("method", "seed", "keep")}
            | {"jaccard": len(ours & official) / len(ours | official)}
        )
    return pd.DataFrame(rows)


def main() -> None:
    """Print the table."""
    table = agreement().pivot_table(index="method", columns="keep", values="jaccard")[[0.5, 0.25, 0.1]]
    print("| method | " + " | ".join(f"{keep:.0%}" for keep in table.columns) + " |")
    print("|---" * (len(table.columns) + 1) + "|")
    for name, row in table.iterrows():
        print(f"| `{name}` | " + " | ".join("" if pd.isna(value) else f"{value:.3f}" for value in row) + " |")


if __name__ == "__main__":
    main()
