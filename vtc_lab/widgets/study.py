"""What an ablation is, as a function of its state: samples and methods for `sweep`, and the outcome in words."""

from __future__ import annotations

import json
import os
import tempfile
from functools import cache
from pathlib import Path

import pandas as pd

from vtc_lab.clips.reading import ROOT
from vtc_lab.figures.marks import unit
from vtc_lab.figures.style import BASELINES, VENUES
from vtc_lab.qa.samples import read_samples
from vtc_lab.reducers.registry import get_method, methods
from vtc_lab.sweeps.plan import variants
from vtc_lab.tokens import VTCError, suggest
from vtc_lab.widgets.state import bundled_samples

DEFAULTS = {
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
MEASURES = {
    "accuracy": "right",
    "probability of the right answer": "likelihood",
    "KL from the full answer": "kl",
    "total variation": "tv",
    "answers flipped": "flipped",
}
NEVER_VARIED = ("seed", "min_fidelity")  # options: one has a setting of its own, one would fix the budget again
RATIOS = (1, 2, 4, 8, 16, 32)
_LOWER_IS_BETTER = ("kl", "tv", "flipped")
_ON_SHOW = ("value", "figure", "venue")  # what changes nothing about the results


def complete_study(state: dict[str, object]) -> dict[str, object]:
    """The state with every default filled in.

    Parameters
    ----------
    state : any of the keys of `DEFAULTS`; it must survive JSON.

    Returns
    -------
    A new dict of plain JSON values. Baselines that are always there are taken off the methods.

    Raises
    ------
    VTCError
        For an unknown setting or name, or a value of the wrong kind.

    Examples
    --------
    >>> complete_study({"methods": ["tome", "random"]})["methods"], complete_study({})["ablated"]
    (['tome'], 'lftr')
    """
    for key in state:
        if key not in DEFAULTS:
            raise VTCError(f"the ablation has no setting {key!r}; {suggest(key, DEFAULTS)}")
    try:
        nothing = {} if state.get("ablated", True) else {"options": {}, "option": "", "values": []}
        state = json.loads(json.dumps({**DEFAULTS, **state, **nothing}))
    except TypeError as error:
        raise VTCError(f"the state of the ablation must be plain JSON values: {error}") from error
    for key, default in DEFAULTS.items():
        if not isinstance(state[key], type(default)) or isinstance(state[key], bool):
            raise VTCError(f"{key} is {state[key]!r}; it must be of the kind of {default!r}")
    named = {"methods": methods().index, "ablated": ["", *methods().index], "venue": VENUES}
    for key, known in {**named, "value": MEASURES.values()}.items():
        for name in state[key] if isinstance(state[key], list) else [state[key]]:
            if name not in list(known):
                raise VTCError(f"{key} is {state[key]!r}; {suggest(name, known)}")
    options = (
        [name for name in get_method(state["ablated"]).options if name not in NEVER_VARIED] if state["ablated"] else []
    )
    if state["option"] not in ("", *options):
        raise VTCError(f"option is {state['option']!r}; of {state['ablated']!r} {suggest(state['option'], options)}")
    for key in ("clips", "seeds"):
        if state[key] < 1:
            raise VTCError(f"{key} is {state[key]}; it must be at least 1")
    return {**state, "methods": [name for name in state["methods"] if name not in ALWAYS]}


def study_settings(state: dict[str, object]) -> dict[str, object]:
    """The part of a state on which the results depend."""
    return {key: value for key, value in state.items() if key not in _ON_SHOW}


def study_set(state: dict[str, object]) -> list[dict[str, object]]:
    """All samples of the file that a state names, or of the bundled test set."""
    return read_samples(state["samples"]) if state["samples"] else bundled_samples()


def study_samples(state: dict[str, object]) -> list[dict[str, object]]:
    """The samples of a state: all of the chosen kinds about the first clips that have one.

    Examples
    --------
    >>> chosen = study_samples(complete_study({"clips": 3, "kinds": ["colour", "order"]}))
    >>> len({sample["clip"] for sample in chosen}), sorted({sample["kind"] for sample in chosen})
    (3, ['colour', 'order'])
    """
    every = study_set(state)
    samples = [sample for sample in every if not state["kinds"] or sample.get("kind", "") in state["kinds"]]
    if not samples:
        known = sorted({sample.get("kind", "") for sample in every})
        raise VTCError(f"no sample is of the kinds {state['kinds']}; choose of {known}, or [] for all")
    clips = list(dict.fromkeys(sample["clip"] for sample in samples))[: state["clips"]]
    return [sample for sample in samples if sample["clip"] in set(clips)]


def study_methods(state: dict[str, object]) -> list[str | tuple[str, dict[str, object]]]:
    """The methods of a state for `sweep`: those chosen, the variants of the ablated one, the baselines.

    Examples
    --------
    >>> study_methods(complete_study({"option": "order", "values": ["spatial-first"]}))
    [('lftr', {'order': 'spatial-first'}), 'uniform', 'random']
    """
    base, option = {key: [value] for key, value in state["options"].items()}, state["option"]
    if option and not state["values"]:
        raise VTCError(f"no value of {option} is chosen; choose those to compare")
    varied = {**base, option: state["values"]} if option else base
    return [*state["methods"], *(variants(state["ablated"], **varied) if state["ablated"] else []), *ALWAYS]


def results_file(name: str) -> tuple[Path, str]:
    """Where the results of ablations lie, and a sentence if that is not where they should.

    Parameters
    ----------
    name : path, from the repository or else the current folder. Where nothing can be written a temporary file is
        taken, which is gone when Python ends.
    """
    place = (ROOT if (ROOT / "pyproject.toml").exists() else Path.cwd()) / Path(name).expanduser()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place.parent):  # SQLite writes beside its file, too
            pass
        # Opening and closing a file that SQLite has open in this process would drop its locks.
        if place.exists() and not os.access(place, os.W_OK):
            raise PermissionError(None, "the file may not be written to")
        return place, ""
    except OSError as error:
        reason = error.strerror or error
        return Path(_scratch().name, "ablations.sqlite"), (
            f"{name} cannot be written ({reason}), so results are kept only until this kernel ends"
        )


@cache
def _scratch() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="vtc-results-")


def comparable(table: pd.DataFrame, samples: list[dict[str, object]], steps: int) -> pd.DataFrame:
    """The rows of the samples that every setting has answered, if any has; while a run goes on some lack settings.

    Parameters
    ----------
    table : of a sweep of these samples.
    samples : all that it was given.
    steps : settings times clips.
    """
    settings = steps // len({str(sample["clip"]) for sample in samples})
    whole = table[table.groupby("sample")["sample"].transform("size") >= settings]
    return table if whole.empty else whole


def better(value: str) -> str:
    """Whether the "max" or the "min" of a measure is best."""
    return "min" if value in _LOWER_IS_BETTER else "max"


def in_words(cells: pd.DataFrame, value: str) -> str:
    """The best at each ratio, from the numbers behind `plot_curves`.

    Examples
    --------
    >>> cells = pd.DataFrame({"label": ["lftr", "random"], "method": ["lftr", "random"], "ratio": 4.0, "kept": 128.0,
    ...                       "total": 512.0, "mean": [0.5, 0.75], "low": [0.4, 0.7], "high": [0.6, 0.8]})
    >>> in_words(cells, "right")
    'best accuracy (%): at 4× (128 of 512 tokens) random, a baseline, 75.0 [70.0, 80.0]'
    """
    name, factor = unit(value)
    digits, best = 1 if factor == 100 else 3, []
    for ratio, group in cells[cells["mean"].notna() & (cells.ratio != 1)].groupby("ratio"):
        rows = group[group["mean"] == group["mean"].agg(better(value))]
        row = rows.iloc[0]
        who = " and ".join(f"{r.label}, a baseline," if r.method in BASELINES else r.label for r in rows.itertuples())
        numbers = [f"{number * factor:.{digits}f}" for number in row[["mean", "low", "high"]]]
        interval = "" if pd.isna(row.low) else f" [{numbers[1]}, {numbers[2]}]"
        best.append(f"at {ratio:g}× ({row.kept:,.0f} of {row.total:,.0f} tokens) {who} {numbers[0]}{interval}")
    return f"best {name}: {'; '.join(best)}" if best else "no ratio above 1 has a result yet"


def study_line(state: dict[str, object]) -> str:
    """The call that opens the panel in this state.

    >>> study_line(complete_study({"clips": 4}))
    'vtc.ablate(clips=4)'
    """
    changed = [f"{key}={value!r}" for key, value in state.items() if value != DEFAULTS[key]]
    return f"vtc.ablate({', '.join(changed)})"
