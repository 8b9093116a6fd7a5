"""Tables such as `vtc.sweep` returns, made up from a seed, for tests of statistics and figures."""

import json
from collections.abc import Sequence

import numpy as np
import pandas as pd

KINDS = ("colour", "count", "direction", "order")


def made_up_sweep(
    labels: Sequence[str] = ("lftr", "uniform", "random"),
    ratios: Sequence[float] = (1, 2, 4, 8, 16),
    clips: int = 12,
    per_clip: int = 4,
    total: int = 896,
    seed: int = 0,
    gaps: dict[tuple[str, float], str] | None = None,
) -> pd.DataFrame:
    """One row a sample, label and ratio; `gaps` maps (label, ratio) to "minimum" or "error" of all its rows.

    Later labels lose more. A sample that was answered correctly with everything is lost with a chance that grows with
    log(ratio), clip by clip; one that was not is found with a small chance.
    """
    rng, evidence = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    rows = []
    for clip in range(clips):
        hard = rng.uniform(0.5, 1.5)
        for question in range(per_clip):
            full = bool(rng.random() < 0.95)
            for place, label in enumerate(labels):
                method, _, options = label.rstrip(")").partition(" (")
                given = dict(option.split("=") for option in options.split(", ")) if options else {}
                for ratio in ratios:
                    lost = rng.random() < hard * np.log2(ratio) * (0.05 + 0.02 * place)
                    right = (full and not lost) or bool(ratio > 1 and not full and rng.random() < 0.1)
                    said = "red" if right else "blue" if full or not lost else "green"
                    row = {"sample": f"{clip}-{question}", "clip": f"clips/{clip:03}.mp4"}
                    row |= {"kind": KINDS[question % len(KINDS)], "question": f"what {question}?", "answer": "red"}
                    row |= {"method": method, "options": json.dumps(given) if given else "", "label": label, "seed": 0}
                    row |= {"ratio": ratio, "kept": round(total / ratio), "total": total}
                    row |= {"said": said}
                    row |= {"right": right, "likelihood": rng.uniform(0.5, 1) if right else rng.uniform(0, 0.5)}
                    row |= {
                        "kl": rng.exponential(np.log2(ratio)),
                        "tv": rng.random(),
                        "flipped": said != ("red" if full else "blue"),
                    }
                    row["recall"] = 1.0 if ratio == 1 or method == "oracle" else evidence.uniform(0 if lost else 0.5, 1)
                    row |= {"read_s": 0.02, "encode_s": 0.03, "reduce_s": 0.001 * (ratio > 1), "engaged": True}
                    row |= {"prefill_s": 0.01 + 0.09 / ratio * rng.uniform(0.9, 1.1), "decode_s": 0.01}
                    row |= {"status": "ok", "error": ""}
                    status = (gaps or {}).get((label, ratio))
                    if status:
                        results = ("kept", "said", "right", "likelihood", "kl", "tv", "flipped", "recall")
                        row |= dict.fromkeys((*results, "reduce_s", "prefill_s", "decode_s"), float("nan"))
                        row |= {"status": status, "error": f"{method} cannot", "engaged": False}
                    rows.append(row)
    return pd.DataFrame(rows).astype({"right": object, "flipped": object})
