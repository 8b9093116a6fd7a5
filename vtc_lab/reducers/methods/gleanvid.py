"""GleanVID: frames that add something new get more of the budget; patches that the kept ones do not span stay."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, softplus

from vtc_lab.reducers.ops import add_up, apportion, blocks, cosine, frame_means, minmax, prune, ranks
from vtc_lab.reducers.registry import method
from vtc_lab.tokens import Reduction, VideoTokens

_SHARPNESS, _RIDGE, _NEW = 4.0, 1e-4, 1e-4
_LEAST, _MOST = 0.2, 0.6  # share of the budget that is spread evenly over the frames
_WIDTH, _ROUNDS = 8, 8  # of the subspace iteration
_ROUNDING = 1e-5  # squared residuals below this share of the squared norm


@method(
    paper="arXiv id unknown",
    year=2026,
    ours="the subspace iteration, and that residuals as small as rounding count as 0",
)
def gleanvid(tokens: VideoTokens, budget: int) -> Reduction:
    """Share the budget by what each frame adds to all before it, and keep patches that the kept ones do not span.

    Tokens are debiased: their part along the clip's first principal direction is taken out. z is the mean of a 2 x 2
    cell of them; a cell's novelty is the residual of z to the span of the same cell in all frames before (ridge: 1e-4
    of their mean squared norm), |z| in the first. With s a frame's share of the novelty of all patches and c the Gini
    coefficient of these, frames get a * K/T + (1 - a) * K * s tokens, a = 0.6 - 0.4 * c, as whole numbers by largest
    remainder. Then, frame by frame, the patches of highest u + v stay, each scaled to 0..1 over the frame: u is
    softplus(4 (cos to the cell's mean - cos to the frame's mean)) / 4 of the raw tokens, v the norm of the debiased
    token's residual to the span of all kept before. Ties go to the lower patch.

    The direction is found by eight rounds of subspace iteration with eight vectors, exact for up to eight channels.
    Once the kept tokens span all channels, v is 0. Neither code nor the paper's
    arXiv id were at hand. Cost: T * N * D * min(K, D)
    + N * T^2 * (D + T^2).

    >>> values = torch.zeros(2, 2, 2, 4)
    >>> values[0] = values[1, 0] = torch.tensor([1.0, 0, 0, 0])
    >>> values[1, 1] = torch.tensor([0, 1.0, 0, 0])
    >>> gleanvid(VideoTokens(values), 4).kept.flatten(1).sum(1).tolist()
    [3, 1]
    """
    values, (_, height, width) = tokens.values, tokens.grid
    mean, main = _principal(values)
    cells = torch.cat([_pooled(_debiased(values[part], mean, main)) for part in blocks(values)])
    count = _shares(_novelty(cells), height, width, budget)
    span, kept = mean.new_zeros(len(mean), 0), []
    for t, number in enumerate(count.tolist()):
        raw, rows = values[t].float(), _debiased(values[t], mean, main).flatten(0, 1)
        near = cosine(raw, _spread(_pooled(raw[None]), height, width)[0]) - cosine(raw, raw.mean((0, 1)))
        square = rows.square().sum(1)
        left = square - (rows @ span).square().sum(1)
        left = torch.where(left <= _ROUNDING * square, 0, left)
        score = minmax(softplus(near, _SHARPNESS).view(1, -1)) + minmax(left.sqrt()[None])
        chosen = (ranks(score)[0] < number).nonzero().flatten()
        kept.append(t * height * width + chosen)
        fresh = rows[chosen[left[chosen] > 0]]
        if len(fresh):
            basis, triangle = torch.linalg.qr((fresh - (fresh @ span) @ span.T).T)
            strength = triangle.diagonal().abs()
            span = torch.cat([span, basis[:, strength > _NEW * strength.max()]], 1)
    return prune(tokens, torch.cat(kept))


def _principal(values: Tensor) -> tuple[Tensor, Tensor]:
    """(D,) each: the mean of all tokens, and the direction along which they vary most."""
    mean = frame_means(values).mean(0)
    channels = len(mean)

    def parts() -> Iterator[Tensor]:
        return (values[part].float().flatten(0, 2) - mean for part in blocks(values))

    basis = torch.randn(channels, min(_WIDTH, channels), generator=torch.Generator().manual_seed(0)).to(mean.device)
    for _ in range(_ROUNDS):
        basis = torch.linalg.qr(add_up(rows.T @ (rows @ basis) for rows in parts())).Q
    along = (rows @ basis for rows in parts())
    return mean, basis @ torch.linalg.eigh(add_up(rows.T @ rows for rows in along)).eigenvectors[:, -1]


def _debiased(rows: Tensor, mean: Tensor, main: Tensor) -> Tensor:
    rows = rows.float()
    return rows - ((rows - mean) @ main)[..., None] * main


def _pooled(frames: Tensor) -> Tensor:
    """(B, h, w, D) to the means of its 2 x 2 cells, smaller ones at the far border."""
    return avg_pool2d(frames.permute(0, 3, 1, 2), 2, ceil_mode=True).permute(0, 2, 3, 1)


def _spread(cells: Tensor, height: int, width: int) -> Tensor:
    """Each cell repeated at all its patches."""
    return cells.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, :height, :width]


def _novelty(cells: Tensor) -> Tensor:
    """(T, h', w') norm of each cell's residual to the span of the same cell in all frames before."""
    frames = len(cells)
    rows = cells.flatten(1, 2).transpose(0, 1)
    gram = torch.cat([part.double() @ part.double().mT for part in rows.split(16)])  # (cells, T, T)
    square = gram.diagonal(dim1=1, dim2=2)
    left = square.clone()
    for t in range(1, frames):
        ridge = _RIDGE * square[:, :t].mean(1)
        ridge = torch.where(ridge > 0, ridge, 1)[:, None, None] * torch.eye(t, device=gram.device)
        before = gram[:, :t, t]
        left[:, t] -= (before * torch.linalg.solve(gram[:, :t, :t] + ridge, before)).sum(1)
    return left.clamp(min=0).sqrt().T.view(cells.shape[:3])


def _shares(novelty: Tensor, height: int, width: int, budget: int) -> Tensor:
    """(T,) tokens of each frame."""
    frames = len(novelty)
    total = _spread(novelty[..., None], height, width).sum((1, 2, 3))
    share = total / total.sum().clamp(min=torch.finfo(total.dtype).tiny)
    number = torch.arange(1, frames + 1, device=total.device)
    gini = 2 * (number * share.sort().values).sum() / frames - (frames + 1) / frames
    alike = _MOST - (_MOST - _LEAST) * gini
    return apportion(alike * budget / frames + (1 - alike) * budget * share, budget, height * width)
