"""The tokens of a prompt that each layer of a language model holds, and what is chosen to stay."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vtc_lab.reducers.inside import Cut, Look, Rows
from vtc_lab.reducers.ops import top
from vtc_lab.tokens import VTCError


@dataclass
class Part:
    """The tokens of the prompts that the layers from `start` on hold."""

    start: int
    order: Tensor  # (B, n) long: which of the prompts' tokens
    real: Tensor  # (B, n) bool: False for padding, where prompts keep different numbers of tokens
    renumber: bool = False
    made: dict[str, Any] | None = None  # positions and mask, in the forward that is running

    def given(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return what a layer is given, with the positions and the mask of these tokens."""
        return given | {name: value for name, value in (self.made or {}).items() if name in given}


@dataclass
class Run:
    """A batch of prompts, from its prefill on."""

    visual: Tensor  # (B, N) bool
    alive: Tensor  # (B, N) bool: no padding
    parts: list[Part]
    before: int = 0  # tokens that were in the cache when the forward that is running began
    mask: Tensor | None = None  # (B, tokens so far) of that forward
    rows: dict[Rows, list[Tensor]] = field(default_factory=dict)  # the rating tokens of each prompt, by kind
    attention: list[Tensor] = field(default_factory=list)  # (H, R, n) of each prompt, in the layer that rates next
    lengths: dict[int, int] = field(default_factory=dict)  # number of keys in each layer
    seen: list[Tensor] = field(default_factory=list)  # (B, N) attention of the last token in each layer, if watched
    reads: tuple[int, Tensor] | None = None  # a layer, and (B, new, keys) bool, what each new token reads from it on

    def part(self, layer: int) -> Part:
        """Return what a layer holds."""
        return next(part for part in reversed(self.parts) if part.start <= layer)

    def places(self, part: Part, kind: Rows) -> list[Tensor]:
        """Return where the rating tokens of each prompt are in this part."""
        each = zip(self.rows[kind], part.order, part.real, strict=True)
        return [((order == rows[:, None]) & real).long().argmax(1) for rows, order, real in each]

    def looks(
        self, places: list[Tensor], query: Tensor, key: Tensor, mask: Tensor | None, scaling: float
    ) -> list[Tensor]:
        """Return (H, R, n) float32 for each prompt, how much the rows at these places attend to all keys."""
        masks = [None] * len(places) if mask is None else mask
        each = zip(query, key, masks, places, strict=True)
        return [_attention(*one, scaling) for one in each]

    def repeat(self, times: int) -> None:
        """Repeat each prompt, as its cache was."""
        if times > 1:
            self.visual, self.alive = (each.repeat_interleave(times, 0) for each in (self.visual, self.alive))
            for part in self.parts:
                part.order, part.real = (each.repeat_interleave(times, 0) for each in (part.order, part.real))


def taken(values: Tensor, order: Tensor) -> Tensor:
    """Rows (B, n, D) of values (B, N, D)."""
    return values.gather(1, order[..., None].expand(-1, -1, values.shape[2]))


def rating_rows(kind: Rows, hidden: Tensor, visual: Tensor, alive: Tensor) -> Tensor:
    """(R,) the tokens of one prompt that rate, given its embeddings (N, D)."""
    last = alive.nonzero()[-1]
    if kind in ("last", "none") or not bool(visual.any()):
        return last
    text = alive.clone()
    text[: int(visual.nonzero()[-1]) + 1] = False
    rows = text.nonzero().flatten()
    if not len(rows):
        raise VTCError("no text stands behind the clip, and this method rates by it; ask a question after the clip")
    if kind == "text":
        return rows
    relevance = (hidden[visual].float() @ hidden[rows].float().T).softmax(1).mean(0)
    return rows[relevance >= relevance.mean()]


def _attention(query: Tensor, key: Tensor, mask: Tensor | None, rows: Tensor, scaling: float) -> Tensor:
    """(H, R, n) float32 attention of some rows of queries (H, n, d) to the keys (H / groups, n, d) before them."""
    columns = torch.arange(key.shape[1], device=key.device) - key.shape[1] + query.shape[1]
    seen = columns <= rows[:, None] if mask is None else mask[:, rows]
    grouped = query[:, rows].reshape(len(key), -1, query.shape[2]).float()
    logits = (grouped @ key.float().mT * scaling).view(len(query), len(rows), -1)
    return logits.masked_fill(~seen, -torch.inf).softmax(-1)


@torch.no_grad()
def reads_of(run: Run, cut: Cut, query: Tensor, key: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    """(B, new, keys) bool, which tokens each new one reads, by its own row in the layer before."""
    visual = functional.pad(run.visual, (0, key.shape[2] - run.visual.shape[1]))
    reads = ~visual[:, None].repeat(1, query.shape[2], 1)
    rows, nothing = torch.arange(query.shape[2], device=key.device), query.new_zeros(0, 0)
    for n, look in enumerate(run.looks([rows] * len(visual), query, key, mask, scaling)):
        mine = visual[n].nonzero().flatten()
        for row in range(len(rows) if len(mine) else 0):
            scores = cut.score(Look(look[:, row : row + 1, mine], nothing, nothing, nothing))
            reads[n, row, mine[top(scores, cut.stays(len(mine)))]] = True
    return reads


@torch.no_grad()
def cut_tokens(run: Run, cut: Cut, hidden: Tensor, waves: tuple[Tensor, Tensor]) -> Tensor:
    """Choose what stays from a layer on, and return its hidden states.

    `waves` are the (B or 1, N, d) cosines and sines of the positions in the layer before.
    """
    part = run.parts[-1]
    cosines, sines = (wave.expand(len(hidden), -1, -1) for wave in waves)
    visual, stays = run.visual.gather(1, part.order) & part.real, part.real.clone()
    hidden = hidden.clone() if cut.merge else hidden
    places = run.places(part, cut.rows)
    for n, mine in enumerate(visual):
        values = hidden[n, mine]
        if not len(values):
            continue
        seen = run.attention[n][..., mine] if cut.rows != "none" else hidden.new_zeros(1, 1, len(values))
        turn = torch.stack([wave[places[n]].float() @ wave[mine].float().T for wave in (cosines[n], sines[n])]).sum(0)
        scores = cut.score(Look(seen, values, hidden[n, places[n]], turn)).to(hidden.device)
        kept = torch.zeros_like(scores, dtype=torch.bool)
        kept[top(scores, cut.stays(int(run.visual[n].sum())))] = True
        if cut.merge and 0 < int(kept.sum()) < len(kept):
            hidden[n, mine], kept = cut.merge(values, kept, scores)
        stays[n, mine] = kept
    index = stays.long().argsort(dim=1, stable=True)[:, -int(stays.sum(1).max()) :]
    run.parts.append(Part(cut.layer, part.order.gather(1, index), stays.gather(1, index), cut.renumber))
    return taken(hidden, index)
