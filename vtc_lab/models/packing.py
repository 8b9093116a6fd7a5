"""Run a vision tower on some frames of a clip, and on some patches of each of them."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vtc_lab.models.families import Family, Inputs, Model
from vtc_lab.models.inside_runs import taken

_TOWERS = ("clip_vision_model", "siglip_vision_model")  # positions are added before the layers, which take a mask
_EACH_PATCH = ("llava", "llava_onevision")  # these project every patch by itself, and pool afterwards
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
    tower = getattr(core, family.tower)
    masked = tower.config.model_type in _TOWERS and tower.config._attn_implementation in ("sdpa", "eager")
    return masked or _in_row(tower)


def _in_row(tower: Model) -> bool:
    """True if a tower has the patches of all frames in a row, with attention that ends where it is told (Qwen, GLM)."""
    return all(hasattr(tower, name) for name in ("blocks", "merger", "spatial_merge_size"))


@contextmanager
def packed(core: Model, family: Family, wanted: Tensor) -> Iterator[None]:
    """Let the tower's layers see only the patches of the wanted tokens, (T, h, w) bool, and a few for all the others.

    One token in 9 stands for those left out: log(number of patches / how many stand for them) is added to the logits of
    attention to it, as ToMe does for merged tokens. That is our choice: without it, answers of the bundled model were
    lost. Patches keep their positions; where a frame has fewer than others, some are there and masked. In towers that
    have all patches in a row, no logits can be added to, and nothing needs to be masked.
    """
    tower, here = getattr(core, family.tower), threading.get_ident()
    some = torch.zeros_like(wanted)
    some[:, _EVERY // 2 :: _EVERY, _EVERY // 2 :: _EVERY] = True
    if _in_row(tower):
        with _packed_row(tower, wanted | some):
            yield
        return
    whole, stand = _patches(core, family, wanted), _patches(core, family, some)
    stand &= ~whole
    left = (~(whole | stand)).sum(1, keepdim=True)
    weight = torch.where(stand, torch.log(1 + left / stand.sum(1, keepdim=True).clamp(min=1)), 0)
    weight[~(whole | stand)] = -torch.inf
    order = weight.isinf().long().argsort(dim=1, stable=True)[:, : weight.shape[1] - int(left.min())]
    size = 0

    def pack(_: Model, args: tuple, given: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        nonlocal order, size
        if threading.get_ident() != here:
            return None
        hidden = given["inputs_embeds"]
        size, cls = hidden.shape[1], hidden.shape[1] - weight.shape[1]
        added = functional.pad(weight.gather(1, order), (cls, 0)).clamp(min=torch.finfo(hidden.dtype).min).to(hidden)
        order = torch.cat([torch.arange(cls, device=order.device).expand(len(order), -1), order + cls], 1)
        mask = added[:, None, None] if added.any() else None
        return args, given | {"inputs_embeds": taken(hidden, order), "attention_mask": mask}

    def unpack(_: Model, __: tuple, output: Any) -> Any:
        if threading.get_ident() != here:
            return None
        if isinstance(output, Tensor):
            return spread(output)
        output.last_hidden_state = spread(output.last_hidden_state)
        states = output.hidden_states or ()  # None where they are not needed
        output.hidden_states = tuple(each if each is None else spread(each) for each in states)
        return output

    def spread(rows: Tensor) -> Tensor:
        lacks = order.shape[1] - rows.shape[1]  # the class token, where the features are without it
        place = (order[:, lacks:] - lacks)[..., None].expand_as(rows)
        return rows.new_zeros(len(rows), size - lacks, rows.shape[2]).scatter(1, place, rows)

    encoder = getattr(tower, "vision_model", tower).encoder
    last = core.multi_modal_projector if core.config.model_type in _EACH_PATCH else tower
    with encoder.register_forward_pre_hook(pack, with_kwargs=True), last.register_forward_hook(unpack):
        yield


@contextmanager
def _packed_row(tower: Model, stays: Tensor) -> Iterator[None]:
    """Let the blocks see only the patches of some tokens, (T, h, w) bool; what is made of the others is 0."""
    here, each = threading.get_ident(), tower.spatial_merge_size**2
    if side := getattr(tower, "window_size", 0) // tower.spatial_merge_size // tower.config.patch_size:
        t, y, x = torch.meshgrid(*(torch.arange(n, device=stays.device) for n in stays.shape), indexing="ij")
        window = torch.stack([t, y // side, x // side]).flatten(1).unique(dim=1, return_inverse=True)[1]
        stays = stays.flatten()[window.argsort(stable=True)]  # Qwen2.5-VL sorts tokens by their windows
    tokens = stays.flatten()
    patches = tokens.repeat_interleave(each)
    before = functional.pad(patches.cumsum(0), (1, 0))

    def pack(_: Model, args: tuple, given: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        if threading.get_ident() != here:
            return None
        hidden, *rest = args
        ends = before[given["cu_seqlens"]].unique_consecutive().to(given["cu_seqlens"])
        turn = tuple(part[..., patches, :] for part in given["position_embeddings"])
        hidden = hidden[patches] if len(hidden) == len(patches) else hidden
        return (hidden, *rest), given | {"cu_seqlens": ends, "position_embeddings": turn}

    def unpack(_: Model, __: tuple, rows: Tensor) -> Tensor | None:
        if threading.get_ident() != here:
            return None
        found = rows.new_zeros(len(tokens), rows.shape[1])
        found[tokens] = rows
        return found

    with ExitStack() as hooks:
        for block in tower.blocks:
            hooks.enter_context(block.register_forward_pre_hook(pack, with_kwargs=True))
        for merger in (tower.merger, *getattr(tower, "deepstack_merger_list", ())):
            hooks.enter_context(merger.register_forward_hook(unpack))
        yield


def _patches(core: Model, family: Family, wanted: Tensor) -> Tensor:
    """(T, N) bool, the patches of which the wanted tokens, (T, h, w) bool, are made."""
    if not family.pool:
        return wanted.flatten(1)
    config = getattr(core, family.tower).config
    scores = torch.zeros(len(wanted), (config.image_size // config.patch_size) ** 2, 1, device=wanted.device)
    with torch.enable_grad():
        pooled = family.pool(core, scores.requires_grad_())
        return torch.autograd.grad(pooled.flatten(), scores, wanted.flatten().float())[0][..., 0] != 0
