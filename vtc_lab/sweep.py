"""Ask many questions under many reductions: one row for each sample, method and ratio."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import pandas as pd

from vtc_lab.fidelity import divergence
from vtc_lab.reduce import reduce
from vtc_lab.tokens import Clip
from vtc_lab.video import read_clip

if TYPE_CHECKING:  # importing the model imports transformers, which takes seconds
    from vtc_lab.models.video_model import Answer, VideoModel

STAGES = ("read", "encode", "reduce", "prefill", "decode")


def sweep(
    model: VideoModel,
    samples: Iterable[dict[str, object]],
    methods: Sequence[str] = ("lftr", "uniform", "random"),
    ratios: Sequence[float] = (1, 2, 4, 8, 16),
    options: Mapping[str, object] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> pd.DataFrame:
    """Answer every sample under every method and ratio; each clip is read and encoded once.

    Parameters
    ----------
    model : from `load_model`.
    samples : dicts as `read_samples` gives them, those of one clip next to each other. `clip` is a path, or a Clip.
    methods : registered names.
    ratios : each from 1 to the clip's number of tokens.
    options : given to every method, for an ablation; all of them must know each.
    progress : called with the number of clips done and their total.

    Returns
    -------
    DataFrame with clip, kind, question, answer, method, ratio, kept, total, said, right, likelihood (probability of
    the right answer among the candidates, if there are any), kl (nats, from everything to what was kept), flipped, and
    seconds of each stage. Reading and encoding are counted on every row, as if each were evaluated on its own.

    Raises
    ------
    VTCError
        From reading, reducing or asking.

    Examples
    --------
    >>> import vtc_lab as vtc
    >>> clip, asked = vtc.make_clip(7)
    >>> table = sweep(vtc.load_model(), [sample | {"clip": clip} for sample in asked], ["uniform"], [1, 2])
    >>> len(table) == 2 * len(asked), table.kept.unique().tolist()
    (True, [896, 448])
    """
    groups = [(clip, list(group)) for clip, group in groupby(samples, key=lambda sample: sample["clip"])]
    rows = []
    for done, (source, group) in enumerate(groups):
        clip, name = (source, source.path) if isinstance(source, Clip) else (read_clip(source), str(source))
        tokens = model.encode(clip)
        candidates = [sample.get("candidates") for sample in group]
        questions = [sample["question"] for sample in group]
        everything = model.ask(questions, clip, candidates=candidates)
        for method in methods:
            for ratio in ratios:
                answers = model.ask(
                    questions, clip, reduce(tokens, method, ratio=ratio, **(options or {})), candidates=candidates
                )
                rows += [
                    _row(sample | {"clip": name}, method, ratio, answer, full)
                    for sample, answer, full in zip(group, answers, everything, strict=True)
                ]
        progress(done + 1, len(groups))
    return pd.DataFrame(rows)


def _row(sample: dict[str, object], method: str, ratio: float, answer: Answer, full: Answer) -> dict[str, object]:
    facts = {key: sample.get(key) for key in ("clip", "kind", "question", "answer")}
    return {
        **facts,
        "method": method,
        "ratio": ratio,
        "kept": answer.entered,
        "total": answer.total,
        "said": answer.text,
        "right": answer.text == sample["answer"],
        "likelihood": answer.scores.get(sample["answer"], float("nan")),
        "kl": divergence(full.logits, answer.logits),
        "flipped": answer.text != full.text,
        **{f"{stage}_s": answer.seconds[stage] for stage in STAGES},
    }
