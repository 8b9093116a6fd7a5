"""Turn the state of an ablation into samples and methods for `sweep`, and its outcome into words."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from vtc_lab.clips.reading import ROOT, given_path
from vtc_lab.figures.marks import LOWER_IS_BETTER, unit
from vtc_lab.figures.style import BASELINES, VENUES
from vtc_lab.qa.samples import Sample
from vtc_lab.reducers.registry import finds_budget, get_method, methods
from vtc_lab.sweeps.plan import variants
from vtc_lab.sweeps.tidy import ceilings
from vtc_lab.tokens import VTCError, suggest
from vtc_lab.widgets.state import State, complete, sample_set

DEFAULTS: State = {
    "model": "",  # folder or hub id; "" is the bundled one
    "samples": "",  # a file of samples; "" is the bundled test set
    "clips": 12,  # the first ones of the set that have a question of these kinds
    "kinds": [],  # of questions; [] is all
    "methods": [],  # with their defaults, beside the ablated one and the baselines
    "ablated": "lftr",  # the method of which one option is varied, or ""
    "options": {},  # its other options, the same in all variants
    "option": "temporal",  # the option that is varied, or ""
    "values": ["merge", "select"],
    "ratios": [1, 2, 4, 8, 16],
    "seeds": 1,  # how many, for methods that have one
    "value": "right",  # what the curves show
    "results": "data/results/ablations.sqlite",
    "figure": "my_ablation",  # name of the exported files
    "venue": "neurips",
}
ALWAYS = ("uniform", "random")  # baselines without which a comparison misleads
VALUES = ("right", "likelihood", "kl", "tv", "flipped")
_ON_SHOW = ("value", "figure", "venue")  # what changes nothing about the results


def complete_study(state: State) -> State:
    """Return the state with every default filled in, checked as `complete` does, without methods that always run."""
    names = list(methods().index)
    choices = {"methods": names, "ablated": ["", *names], "venue": VENUES, "value": VALUES}
    nothing = {} if state.get("ablated", True) else {"options": {}, "option": "", "values": []}
    state = complete("ablation", {**state, **nothing}, DEFAULTS, choices)
    method, option, known = state["ablated"], state["option"], varied_options(state["ablated"])
    if option not in ["", *known]:
        raise VTCError(f"option is {option!r}; of {method!r} {suggest(option, known)}")
    for key in ("clips", "seeds"):
        if state[key] < 1:
            raise VTCError(f"{key} is {state[key]}; it must be at least 1")
    return {**state, "methods": [name for name in state["methods"] if name not in ALWAYS]}


def varied_options(method: str) -> list[str]:
    """Return the options of a method, none for "", that an ablation can vary."""
    never = ("seed", *budget_options(method))
    return [name for name in get_method(method).options if name not in never] if method else []


def budget_options(method: str) -> list[str]:
    """Return the options of a method, none for "", that would fix the budget, which the ratios do."""
    return ["min_fidelity", get_method(method).instead] if method else []


def study_settings(state: State) -> State:
    """Return the part of a state on which the results depend."""
    return {key: value for key, value in state.items() if key not in _ON_SHOW}


def study_samples(state: State) -> list[Sample]:
    """Return the samples of a state: all of the chosen kinds about the first clips that have one."""
    every = sample_set(state["samples"])
    samples = [sample for sample in every if not state["kinds"] or sample.get("kind", "") in state["kinds"]]
    if not samples:
        known = sorted({sample.get("kind", "") for sample in every})
        raise VTCError(f"no sample is of the kinds {state['kinds']}; choose of {known}, or [] for all")
    clips = list(dict.fromkeys(sample["clip"] for sample in samples))[: state["clips"]]
    return [sample for sample in samples if sample["clip"] in set(clips)]


def study_methods(state: State) -> list[str | tuple[str, dict[str, Any]]]:
    """Return the methods of a state for `sweep`: those chosen, the variants of the ablated one, the baselines."""
    options, option = {key: [value] for key, value in state["options"].items()}, state["option"]
    if state["ablated"] and finds_budget(state["ablated"], state["options"]):
        fixed = get_method(state["ablated"]).instead
        raise VTCError(f"{fixed} of {state['ablated']!r} fixes the budget, which the ratios do here; leave {fixed} out")
    if option and not state["values"]:
        raise VTCError(f"no value of {option} is chosen; choose those to compare")
    options |= {option: state["values"]} if option else {}
    return [*state["methods"], *(variants(state["ablated"], **options) if state["ablated"] else []), *ALWAYS]


def results_file(name: str) -> Path:
    """Return where the results of ablations lie, in a folder that is made if it is missing."""
    place = (ROOT if (ROOT / "pyproject.toml").exists() else Path.cwd()) / given_path(name)
    with suppress(OSError):  # which the sweep says in words
        place.parent.mkdir(parents=True, exist_ok=True)
    return place


def comparable(table: pd.DataFrame, samples: Sequence[Sample], steps: int) -> pd.DataFrame:
    """Return the rows of samples that every setting has answered, all until there is one, of steps for each clip."""
    settings = steps // len({str(sample["clip"]) for sample in samples})
    whole = table[table.groupby("sample")["sample"].transform("size") >= settings]
    return table if whole.empty else whole


def in_words(cells: pd.DataFrame, value: str) -> str:
    """Return the best at each ratio with its interval, from the numbers behind `plot_curves`."""
    name, factor = unit(value)
    digits, best = 1 if factor == 100 else 3, []
    for ratio, group in cells[cells["mean"].notna() & (cells.ratio != 1) & ~ceilings(cells)].groupby("ratio"):
        rows = group[group["mean"] == group["mean"].agg(better(value))]
        row = rows.iloc[0]
        who = " and ".join(f"{r.label}, a baseline," if r.method in BASELINES else r.label for r in rows.itertuples())
        mean, low, high = (f"{number * factor:.{digits}f}" for number in row[["mean", "low", "high"]])
        interval = "" if pd.isna(row.low) else f" [{low}, {high}]"
        best.append(f"at {ratio:g}× ({row.kept:,.0f} of {row.total:,.0f} tokens) {who} {mean}{interval}")
    return f"best {name}: {'; '.join(best)}" if best else "no ratio above 1 has a result yet"


def better(value: str) -> str:
    """Return "min" or "max", whichever of a value is best."""
    return "min" if value in LOWER_IS_BETTER else "max"
