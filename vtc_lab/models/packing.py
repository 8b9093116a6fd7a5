"""Run a vision tower on some frames of a clip, and on some patches of each of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vtc_lab.models.families import Family, Inputs, Model

_TOWERS = ("clip_vision_model", "siglip_vision_model")  # positions are added before the layers, which take a mask
_EVERY = 3  # of the rows and columns of tokens, those that stand for what is left out


def some_frames(inputs: Inputs, names: Sequence[str], there: Tensor) -> dict[str, Any]:
    """Return inputs of one clip in which those named hold some frames, by (T,) bool, instead of all."""
    chosen, some = there.nonzero().flatten(), dict(inputs)
    for name in names:
        value = inputs.get(name)
        if not isinstance(value, Tensor) or name.endswith("merge_sizes"):
            continue
        if name.endswith("grid_thw"):
            some[name] = torch.cat([value.new_full((1, 1), len(chosen)), value[:, 1:]], 1)
        elif name.startswith("num_frames"):
            some[name] = value.new_full((1,), len(chosen))
        elif value.shape[:2] == (1, len(there)):
            some[name] = value[:, chosen]
        else:  # each frame has as many rows
            some[name] = value.unflatten(0, (len(there), -1))[chosen].flatten(0, 1)
    return some


def packs(core: Model, family: Family) -> bool:
    """Return True if single patches can be left out of a family's tower."""
    config = getattr(core, family.tower).config
    return config.model_type in _TOWERS and config._attn_implementation in ("sdpa", "eager")


@contextmanager
def packed(core: Model, family: Family, wanted: Tensor) -> Iterator[None]:
    """Let the tower's layers see only the patches of the wanted tokens, (T, h, w) bool, and a few for all the others.

    One token in 9 stands for those left out: log(number of patches / how many stand for them) is added to the logits of
    attention to it, as ToMe does for merged tokens. That is our choice: without it, answers of the bundled model were
    lost. Patches keep their positions and attend within their frame, though those of several frames share a row of the
    batch, so that little of it is padding. What is left out comes out as 0.
    """
    tower, here = getattr(core, family.tower), threading.get_ident()
    some = torch.zeros_like(wanted)
    some[:, _EVERY // 2 :: _EVERY, _EVERY // 2 :: _EVERY] = True
    whole, stand = _patches(core, family, wanted), _patches(core, family, some)
    stand &= ~whole
    kept = whole | stand
    for_all = torch.log(1 + (~kept).sum(1, keepdim=True) / stand.sum(1, keepdim=True).clamp(min=1)) * stand
    slots = torch.empty(0)

    def pack(_: Model, args: tuple, given: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        nonlocal kept, slots
        if threading.get_ident() != here:
            return None
        hidden = given["inputs_embeds"]
        cls = hidden.shape[1] - kept.shape[1]
        kept, more = functional.pad(kept, (cls, 0), value=True), functional.pad(for_all, (cls, 0))
        slots, owner = (each.to(hidden.device) for each in _rows(kept.sum(1).tolist()))
        rows, weight = hidden.new_zeros(owner.numel(), hidden.shape[2]), hidden.new_zeros(owner.numel())
        rows[slots], weight[slots] = hidden[kept], more[kept].to(hidden)
        apart, mask = (owner[:, None, :, None] != owner[:, None, None]), None
        if bool(apart.any() or weight.any()):
            mask = weight.view(len(owner), 1, 1, -1).masked_fill(apart, torch.finfo(hidden.dtype).min)
        return args, given | {"inputs_embeds": rows.view(*owner.shape, -1), "attention_mask": mask}

    def unpack(_: Model, __: tuple, output: Any) -> None:
        if threading.get_ident() == here:
            output.last_hidden_state = spread(output.last_hidden_state)
            states = output.hidden_states or ()  # those that are not needed are None
            output.hidden_states = tuple(each if each is None else spread(each) for each in states)

    def spread(rows: Tensor) -> Tensor:
        whole = rows.new_zeros(*kept.shape, rows.shape[2])
        whole[kept] = rows.flatten(0, 1)[slots]
        return whole

    handles = [getattr(tower, "vision_model", tower).encoder.register_forward_pre_hook(pack, with_kwargs=True)]
    handles.append(tower.register_forward_hook(unpack))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _patches(core: Model, family: Family, wanted: Tensor) -> Tensor:
    """(T, N) bool, the patches of which the wanted tokens, (T, h, w) bool, are made."""
    if not family.pool:
        return wanted.flatten(1)
    config = getattr(core, family.tower).config
    scores = torch.zeros(len(wanted), (config.image_size // config.patch_size) ** 2, 1, device=wanted.device)
    with torch.enable_grad():
        pooled = family.pool(core, scores.requires_grad_())
        return torch.autograd.grad(pooled.flatten(), scores, wanted.flatten().float())[0][..., 0] != 0


def _rows(counts: list[int]) -> tuple[Tensor, Tensor]:
    """Places of each frame's patches in rows as long as the longest, and (R, n) whose each place is, -1 for none."""
    free: list[int] = []  # places left at the end of each row
    begin, length = [0] * len(counts), max(counts)
    for t in sorted(range(len(counts)), key=lambda t: -counts[t]):
        row = next((n for n, left in enumerate(free) if left >= counts[t]), len(free))
        free += [length] * (row == len(free))
        begin[t] = (row + 1) * length - free[row]
        free[row] -= counts[t]
    slots = torch.cat([torch.arange(first, first + count) for first, count in zip(begin, counts, strict=True)])
    owner = torch.full((len(free) * length,), -1)
    owner[slots] = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return slots, owner.view(-1, length)
