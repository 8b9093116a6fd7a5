"""Measure how much of a clip a reduction keeps, in its tokens and in the model's answers, and list every measure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor

from vtc_lab.reducers.ops import blocks, coverage, few_threads
from vtc_lab.tokens import Reduction, VideoTokens, VTCError, demand, demand_one_of

if TYPE_CHECKING:  # importing the model imports transformers, which takes seconds
    from vtc_lab.models.answers import Answer

_FLAT = 1e-10  # rows whose variance is below this share of their energy are equal up to the rounding of float32

NO_NUMBERS = (
    "the model gave NaN in place of an answer, as float16 does where it overflows; "
    "load it with dtype='bfloat16' or dtype='float32'"
)

_MEASURES = [
    ("coverage", "tokens", "mean of cos(x, z)", (-1, 1), 1, "our definition", True),
    ("coverage_p5", "tokens", "5th percentile of cos(x, z)", (-1, 1), 1, "our definition", True),
    ("reconstruction_error", "tokens", "|X-Y|^2 / |X|^2", (0, math.inf), 0, "relative squared error", True),
    ("retained_variance", "tokens", "max(0, <X,Y>)^2 / (|X|^2 |Y|^2), centred", (0, 1), 1, "r squared", True),
    ("cka", "tokens", "|X'Y|^2 / (|X'X| |Y'Y|), centred", (0, 1), 1, "Kornblith et al. 2019", False),
    ("saliency_kept", "tokens", "sum of min(w, 1) s / sum of s", (0, 1), 1, "our definition", True),
    ("psnr", "pixels", "10 log10(255^2 / MSE), dB", (0, math.inf), math.inf, "standard, MSE over the clip", False),
    ("ssim", "pixels", "mean SSIM over frames", (-1, 1), 1, "Wang et al. 2004", False),
    ("kl", "answers", "sum of p log(p/q), nats", (0, math.inf), 0, "Kullback and Leibler 1951", False),
    ("tv", "answers", "sum of |p-q| / 2", (0, 1), 0, "total variation distance", False),
    ("agrees", "answers", "1 if the text is the same, else 0", (0, 1), 1, "exact match", False),
    ("flip_rate", "table", "mean over questions of 1 - agrees", (0, 1), 0, "exact match", False),
    ("accuracy", "table", "share of questions answered right", (0, 1), 1, "exact match", False),
]
_OF_TOKENS = {name: follows_a_slider for name, of, *_, follows_a_slider in _MEASURES if of == "tokens"}


def list_measures() -> pd.DataFrame:
    """Return every fidelity measure with its formula, range and source.

    Returns
    -------
    DataFrame with a row for each name, and the columns

    - of: "tokens" (returned by `fidelity`), "pixels" (`pixel_fidelity`), "answers" (`answer_fidelity`), or "table": a
      mean over a table of answers, such as that of `sweep`.
    - formula: x is a source token, y and z the output it went into or, if it was dropped, the nearest one (y) and the
      most similar one (z); X and Y are all of them; w is a token's weight in its output and s its saliency; p and q
      are the distributions of the next token with all tokens and with the kept ones.
    - range: (lowest, highest); best; source.
    - follows_a_slider: True for the cheap ones, which `fidelity` gives by default (`benchmarks/fidelity_cost.py`).

    Examples
    --------
    >>> list(list_measures().query("of == 'pixels'").index)
    ['psnr', 'ssim']
    """
    columns = ["name", "of", "formula", "range", "best", "source", "follows_a_slider"]
    return pd.DataFrame(_MEASURES, columns=columns).set_index("name")


def fidelity(
    tokens: VideoTokens, reduction: Reduction, measures: str | Iterable[str] | None = None
) -> dict[str, float]:
    """Measure the token fidelity of a reduction, from the features alone.

    Parameters
    ----------
    tokens : (T, h, w, D) the source, of any floating dtype.
    reduction : of these tokens.
    measures : names, "all", or None for those cheap enough to follow a slider (see `list_measures`).

    Returns
    -------
    dict of the measures asked for, in this order; `list_measures` has their formulas and ranges. X are the source
    tokens, Y those of `Reduction.reconstruct()`, in which the *nearest* kept token's output replaces a dropped one.

    - coverage, coverage_p5: mean and 5th percentile of the cosine of each source token to the output it went into or,
      if it was dropped, to the *most similar* output of the clip; of nested prunings the smaller never has more.
    - reconstruction_error: the relative squared error; zeros for Y would give 1.
    - retained_variance: the share of X's variance that Y explains, up to its scale. Where every token went into a plain
      mean it is the explained variance; methods that add tokens up are not punished for their size.
    - cka: linear centred kernel alignment (Kornblith et al. 2019, arXiv 1905.00414, section 3), which tells if the
      tokens keep their relative positions, up to rotation and scale. Exact; its cost grows with M D min(M, D).
    - saliency_kept: the share of saliency kept; a kept token brings all of its own, a mean that of its mean member.
      Left out where tokens carry no saliency.

    Tokens that are all equal have no variance: retained_variance and cka are 1 where neither X nor Y has any, 0 where
    one of them has. The error of a source of zeros is 0, or infinite if Y is not zero. Of no saliency at all 1 is kept.

    Examples
    --------
    >>> import torch, vtc_lab as vtc
    >>> tokens = VideoTokens(torch.randn(8, 4, 4, 16))
    >>> round(fidelity(tokens, vtc.reduce(tokens, "lftr", ratio=1))["coverage"], 4)
    1.0
    >>> fidelity(tokens, vtc.reduce(tokens, "pool", ratio=1), ["reconstruction_error"])
    {'reconstruction_error': 0.0}
    """
    demand(VideoTokens, tokens)
    demand(Reduction, reduction)
    names = _names(tokens, measures)
    if tokens.grid != reduction.grid:
        raise VTCError(
            f"the reduction is of a {reduction.grid} grid but the tokens are {tokens.grid}; compare a clip with its own"
        )
    channels, source = reduction.tokens.shape[1], tokens.values.shape[3]
    if channels != source:
        raise VTCError(f"the reduction has {channels} channels but the tokens {source}; compare a clip with its own")
    if not len(reduction):
        raise VTCError(f"no token of these {tokens.grid[0]} frames was kept, so there is nothing to compare with")
    found: dict[str, float] = {}
    with few_threads(tokens.values.numel()):
        if {"coverage", "coverage_p5"} & {*names}:
            alike = coverage(tokens.values, reduction).flatten().float()
            found |= {"coverage": float(alike.mean()), "coverage_p5": float(alike.quantile(0.05))}
        if {"reconstruction_error", "retained_variance", "cka"} & {*names}:
            found |= _second_order(tokens.values.flatten(0, 2), reduction, "cka" in names)
        if "saliency_kept" in names and tokens.saliency is not None:
            saliency = tokens.saliency.flatten().double()
            kept, total = float((saliency * reduction.weight.clamp(max=1)).sum()), float(saliency.sum())
            found["saliency_kept"] = min(1.0, kept / total) if total else 1.0
    return {name: found[name] for name in names}


def answer_fidelity(full: Answer, kept: Answer) -> dict[str, float]:
    """Measure how far one answer is from the uncompressed one.

    Parameters
    ----------
    full, kept : answers of one model to one question, with all tokens and with the kept ones.

    Returns
    -------
    dict of three numbers, by the formulas of `list_measures`; p and q are the distributions of the first answered
    token in `full` and `kept`.

    - kl: KL divergence in nats, at least 0; infinite where `kept` excludes a token that `full` does not.
    - tv: total variation distance, 0 to 1; 1 where they share no token.
    - agrees: 1 if the text is the same, else 0.

    Examples
    --------
    >>> import vtc_lab as vtc
    >>> model, (clip, asked) = vtc.load_model(), vtc.make_clip(7)
    >>> full = model.ask(asked[0]["question"], clip)
    >>> answer_fidelity(full, full)
    {'kl': 0.0, 'tv': 0.0, 'agrees': 1.0}
    """
    for answer in (full, kept):
        if not hasattr(answer, "logits"):
            raise VTCError(f"{answer!r:.60} is no answer; give two that model.ask returned")
    if full.logits.shape != kept.logits.shape:
        shapes = f"{tuple(full.logits.shape)} and {tuple(kept.logits.shape)}"
        raise VTCError(f"logits are of shapes {shapes}; compare answers of one model")
    p, q = log_probabilities(full.logits), log_probabilities(kept.logits)
    divergence = float(torch.where(p == -math.inf, 0, p.exp() * (p - q)).sum())
    distance = float((p.exp() - q.exp()).abs().sum() / 2)
    return {"kl": max(0.0, divergence), "tv": min(1.0, distance), "agrees": float(full.text == kept.text)}


def log_probabilities(logits: Tensor) -> Tensor:
    """Return the (V,) float64 log-probabilities in nats of (V,) logits, in which -inf is a token that cannot come."""
    found = logits.double().log_softmax(-1)
    if found.isnan().any():
        raise VTCError(NO_NUMBERS)
    return found


def _names(tokens: VideoTokens, asked: str | Iterable[str] | None) -> list[str]:
    """Return the measures to compute, in the table's order."""
    able = [name for name in _OF_TOKENS if name != "saliency_kept" or tokens.saliency is not None]
    if asked is None:
        return [name for name in able if _OF_TOKENS[name]]
    if isinstance(asked, str):
        asked = able if asked == "all" else [asked]
    asked = list(asked) if isinstance(asked, Iterable) else [asked]
    for name in asked:
        demand_one_of("measure of tokens", name, [*_OF_TOKENS, "all"])
        if name not in able:
            raise VTCError(f"{name} needs tokens that carry saliency and these carry none; encode with saliency=True")
    return [name for name in able if name in asked]


def _second_order(rows: Tensor, reduction: Reduction, with_cka: bool) -> dict[str, float]:
    """Return reconstruction error, retained variance and, because it costs the most, CKA only if it is wanted.

    The reconstruction Y has only K distinct rows, the outputs: a sum over Y is one over the outputs, each `size` times,
    and X'Y is the sums of X over the tokens that each output represents (`group`), times the outputs.
    """
    outputs, home = reduction.tokens.float(), reduction.representative
    size = home.bincount(minlength=len(outputs)).float()
    mean = sum(rows[part].float().sum(0) for part in blocks(rows)) / len(rows)
    error = energy = variance = 0.0
    group = torch.zeros_like(outputs)
    for part in blocks(rows):
        source = rows[part].float()
        centred = source - mean
        error += _squares(source - outputs[home[part]])
        energy += _squares(source)
        variance += _squares(centred)
        group.index_add_(0, home[part], centred)
    kept = outputs - (outputs * size[:, None]).sum(0) / len(rows)
    kept_energy, kept_variance = (float(torch.linalg.vecdot(each, each) @ size) for each in (outputs, kept))
    result = {"reconstruction_error": error / energy if energy else math.inf if error else 0.0}
    flat, kept_flat = variance <= _FLAT * energy, kept_variance <= _FLAT * kept_energy
    if flat or kept_flat:
        return result | dict.fromkeys(("retained_variance", "cka"), float(flat and kept_flat))
    shared = max(0.0, float(torch.linalg.vecdot(group, kept).sum()))
    result["retained_variance"] = min(1.0, shared**2 / (variance * kept_variance))
    if with_cka:
        # Divided by their norms, because fourth powers of large values overflow.
        length, kept_length = math.sqrt(variance), math.sqrt(kept_variance)
        if len(rows) < rows.shape[1]:
            own = _alignment((rows - mean).float().div_(length))
        else:
            parts = ((rows[part].float() - mean) / length for part in blocks(rows))
            own = _squares(sum((part.T @ part for part in parts), torch.zeros((), device=rows.device)))
        kept = kept / kept_length
        cross = max(0.0, _alignment(group / length, kept))
        result["cka"] = min(1.0, cross / math.sqrt(own * _alignment(kept * size.sqrt()[:, None])))
    return result


def _alignment(a: Tensor, b: Tensor | None = None) -> float:
    """Return |a'b|^2, or |a'a|^2, of (rows, D) matrices, by the smaller of the two products that give it."""
    if len(a) >= a.shape[1]:
        return _squares(a.T @ (a if b is None else b))
    return _squares(a @ a.T) if b is None else float(((a @ a.T) * (b @ b.T)).sum())


def _squares(a: Tensor) -> float:
    return sum(float(a[part].square().sum()) for part in blocks(a))
