"""VidCom2: distinctive frames get more of the budget, and in each frame the distinctive patches stay."""

import torch
from torch import Tensor

from vtc_lab.reducers.ops import add_up, apportion, blocks, even, prune, ranks
from vtc_lab.reducers.registry import method
from vtc_lab.tokens import Reduction, VideoTokens

_SCALES = tuple(2.0**power for power in range(-3, 2))
_TEMPERATURE = 0.01


@method(
    paper="arXiv 2505.14454", year=2025, minimum=("one token of every frame", lambda frames, patches, options: frames)
)
def vidcom2(tokens: VideoTokens, budget: int) -> Reduction:
    """Keep the patches that are least like the clip and least like their frame, more of them in frames unlike the clip.

    Tokens are cut to the floor(D / 2) channels that vary least over the clip and normalised; g_v is their mean, g_f
    that of a frame. Likeness to g is the sum over a = 2^-3 .. 2^1 of exp(-|x - g|^2 / 2a), v to g_v and f to g_f. A
    frame's score is u = -mean v, p = softmax((u - max u) / 0.01), its share of patches s = min(1, r (1 + p - mean p))
    with r = K / M. A frame keeps its lowest v + f, at least one; ties go to the lower patch. The shares are scaled
    together until their whole numbers sum to K; the original rounds each. The cost is three passes over the tokens.
    """
    frames = _steady_channels(tokens.values.flatten(1, 2))
    patches = frames.shape[1]
    clip = frames.mean((0, 1))
    v, both = [], []
    for part in blocks(frames):
        v.append(_likeness(frames[part], clip))
        both.append(v[-1] + _likeness(frames[part], frames[part].mean(1, keepdim=True)))
    u = -torch.cat(v).mean(1)
    p = ((u - u.max()) / _TEMPERATURE).softmax(0)
    share = (budget / tokens.total * (1 + p - p.mean())).clamp(max=1)
    count = apportion(share, budget, patches, least=1)
    return prune(tokens, (ranks(-even(torch.cat(both))) < count[:, None]).flatten().nonzero().flatten())


def _steady_channels(frames: Tensor) -> Tensor:
    """(T, N, floor(D / 2)) float32 unit vectors of the channels of lowest variance, the lower channel on ties."""
    parts = [*blocks(frames)]
    total = add_up(frames[part].float().sum((0, 1), dtype=torch.double) for part in parts)
    mean = (total / frames[..., 0].numel()).float()
    spread = add_up((frames[part].float() - mean).square().sum((0, 1), dtype=torch.double) for part in parts)
    steady = spread.argsort(stable=True)[: max(1, frames.shape[2] // 2)].sort().values
    return torch.cat([torch.nn.functional.normalize(frames[part].float()[..., steady], dim=-1) for part in parts])


def _likeness(vectors: Tensor, centre: Tensor) -> Tensor:
    far = (vectors - centre).square().sum(-1)
    return add_up((far / (-2 * scale)).exp() for scale in _SCALES)
