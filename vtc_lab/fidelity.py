"""How much of a clip's tokens a reduction keeps."""

from __future__ import annotations

from torch import Tensor

from vtc_lab.reduce.ops import coverage, few_threads
from vtc_lab.tokens import Reduction, VideoTokens, VTCError


def fidelity(tokens: VideoTokens, reduction: Reduction) -> dict[str, float]:
    """Token fidelity of a reduction, from the features alone.

    Parameters
    ----------
    tokens : (T, h, w, D) the source.
    reduction : of these tokens.

    Returns
    -------
    dict with "coverage", the mean, and "coverage_p5", the 5th percentile, of the cosine of each source token to
    what stands for it: the output it went into or, if it was dropped, the most similar output of its frame (of
    the nearest frame that has any). Both lie between -1 and 1; 1 is lossless in direction. Our definition.

    Raises
    ------
    VTCError
        If the reduction is of another grid or number of channels.

    Examples
    --------
    >>> import torch, vtc_lab as vtc
    >>> tokens = VideoTokens(torch.randn(8, 4, 4, 16))
    >>> round(fidelity(tokens, vtc.reduce(tokens, "lftr", ratio=1))["coverage"], 4)
    1.0
    """
    if tokens.grid != reduction.grid:
        raise VTCError(
            f"the reduction is of a {reduction.grid} grid but the tokens are {tokens.grid}; compare a clip with its own"
        )
    channels, source = reduction.tokens.shape[1], tokens.values.shape[3]
    if channels != source:
        raise VTCError(f"the reduction has {channels} channels but the tokens {source}; compare a clip with its own")
    with few_threads(tokens.values.numel()):
        alike = coverage(tokens.values, reduction)
    return {"coverage": float(alike.mean()), "coverage_p5": float(alike.flatten().float().quantile(0.05))}


def divergence(full: Tensor, kept: Tensor) -> float:
    """KL divergence KL(full || kept) between two next-token distributions, in nats.

    Parameters
    ----------
    full, kept : (V,) logits with everything and with what was kept.

    Returns
    -------
    At least 0; 0 where the distributions are the same.

    Examples
    --------
    >>> import torch
    >>> divergence(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]))
    0.0
    """
    p, q = full.double().log_softmax(-1), kept.double().log_softmax(-1)
    return max(0.0, float((p.exp() * (p - q)).sum()))
