"""The live curve of the explorer: a measure against the ratio, computed coarse first and remembered for a clip."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from vtc_lab.figures.filmstrip import describe
from vtc_lab.measures import answer_fidelity, fidelity, list_measures
from vtc_lab.reducers.registry import reduce
from vtc_lab.tokens import Reduction, VTCError
from vtc_lab.widgets.state import ANSWERS, State, View, ask_view, chosen, own_budget
from vtc_lab.widgets.views import colour_of

if TYPE_CHECKING:
    from vtc_lab.models.answers import Answer
    from vtc_lab.models.video_model import VideoModel

_ROUNDS = ((1, 4, 16, 64), (2, 8, 32), (1.4, 2.8, 5.7, 11.3, 22.6, 45.3))
MOST = _ROUNDS[0][-1]  # the highest ratio of the curve
_HALVINGS = 6  # of the gap between two neighbours, in search of a flip


class Curve:
    """Remember what was measured of one clip's tokens, and of answers about it."""

    def __init__(self) -> None:
        self._tokens: object = None
        self._found: dict[str, float | None] = {}
        self._answers: dict[str, tuple[Answer, str | None]] = {}

    def full(self, state: State, view: View, model: VideoModel | None) -> tuple[Answer, str | None]:
        """Return the answer with everything and the right one, if that is known."""
        self._forget(view)
        if state["question"] not in self._answers:
            answers, right = ask_view(state, view, model, [None])
            self._answers[state["question"]] = answers[0], right
        return self._answers[state["question"]]

    def rounds(self, state: State, view: View, model: VideoModel | None) -> Iterator[dict[str, Any] | None]:
        """Measure one point after the other; yield what `Views.curve` shows after each round, and None in between."""
        self._forget(view)
        measure = partial(self._measure, state, view, model)
        methods = able(state, view)
        lines: list[dict[str, Any]] = [
            {"label": describe(r), "colour": colour_of(r.method), "points": [], "now": _point(r, measure(r))}
            for r in view.reductions
        ]
        facts = {"label": _label(state["measure"]), "best": _best(state["measure"]), "most": MOST}
        facts["ratio"] = view.tokens.total / len(view.reductions[0])
        for ratios in _ROUNDS:
            for line, (name, options) in zip(lines, methods, strict=True):
                for ratio in ratios if not own_budget(name, options) else ():
                    value = self._at(state, view, name, options, ratio, measure)
                    if value is not None and math.isfinite(value):
                        line["points"] = sorted([*line["points"], (ratio, value)])
                    yield None
            yield {**facts, "lines": [dict(line) for line in lines]}

    def _at(
        self, state: State, view: View, name: str, options: State, ratio: float, measure: Callable[[Reduction], float]
    ) -> float | None:
        asked = [state["question"], state["inside"]] if state["measure"] in ANSWERS else []
        key = json.dumps([name, options, ratio, state["measure"], asked])
        if key not in self._found:
            try:
                self._found[key] = measure(reduce(view.tokens, name, ratio=ratio, **options))
            except VTCError:  # a ratio below the method's minimum budget has no point
                self._found[key] = None
        return self._found[key]

    def _measure(self, state: State, view: View, model: VideoModel | None, reduction: Reduction) -> float:
        name = state["measure"]
        if name not in ANSWERS:
            return fidelity(view.tokens, reduction, [name])[name]
        full, right = self.full(state, view, model)
        answer = ask_view(state, view, model, [reduction])[0][0]
        if name == "kl":
            return answer_fidelity(full, answer)["kl"]
        return answer.scores.get(full.text if right is None else right, 0.0)

    def _forget(self, view: View) -> None:
        if self._tokens is not view.tokens:
            self._tokens, self._found, self._answers = view.tokens, {}, {}


def flip_of(answer_at: Callable[[float], str], full: str) -> float | None:
    """Return the lowest ratio at which the answer is another, within 1 %, None if it is the same up to the highest.

    Ratios are doubled up to the first flip, then the gap before it is halved; a flip and back within a gap is missed.

    >>> round(flip_of(lambda ratio: "yes" if ratio < 6.3 else "no", "yes"), 1)
    6.3
    """
    low, high = 1.0, 2.0
    while answer_at(high) == full:
        low, high = high, 2 * high
        if high > MOST:
            return None
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if answer_at(middle) == full else (low, middle)
    return high


def able(state: State, view: View) -> list[tuple[str, State]]:
    """Return the methods of a state, with their options, that the view has a reduction by."""
    return [each for index, each in enumerate(chosen(state)) if index == 0 or each[0] not in view.failed]


def _point(reduction: Reduction, value: float) -> tuple[float, float] | None:
    return (reduction.total / len(reduction), value) if math.isfinite(value) else None  # JSON has no infinity


def _label(measure: str) -> str:
    labels = {"probability": "probability of the right answer", "kl": "KL of the answer, nats"}
    return labels.get(measure, measure.replace("_", " "))


def _best(measure: str) -> float | None:
    best = list_measures().best.get(measure, 1.0)
    return float(best) if math.isfinite(best) else None
