"""Measure how much attention each visual token gets in its vision tower, for the methods that rank tokens by it.

A hook catches the input of the attention layer while the tower runs, and the weights are computed again from that,
because fast attention implementations return none, nor do towers of packed patches (Qwen, VideoLLaMA3) and timm's.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.vision_utils import get_vision_window_index

from vtc_lab.models.families import Model
from vtc_lab.tokens import VTCError


def _merged(tower: Model, scores: Tensor, given: dict[str, Any]) -> Tensor:
    """(M,) means of the merge groups, whose patches lie together, in raster order of each frame of each clip."""
    config, grids = tower.config, given["grid_thw"]
    sides = given["merge_sizes"].tolist() if "merge_sizes" in given else [config.spatial_merge_size] * len(grids)
    clips = zip(scores.split(grids.prod(1).tolist()), sides, strict=True)
    groups = torch.cat([patches.view(-1, side * side).mean(1) for patches, side in clips])
    if config.model_type == "qwen2_5_vl_vision":
        order, _ = get_vision_window_index(
            grids, config.spatial_merge_size, window_size=config.window_size, patch_size=config.patch_size
        )
        groups = groups[order.argsort()]
    return groups


def _pooled(tower: Model, scores: Tensor, given: dict[str, Any]) -> Tensor:
    """(M,) means of the squares of patches that Gemma 4 pools, laid out by its own pooler."""
    places, count = given["pixel_position_ids"], scores.shape[1] // tower.config.pooling_kernel_size**2
    pooled, there = tower.pooler(scores[..., None], places, (places == -1).all(-1), count)
    return pooled[there][:, 0] / tower.pooler.root_hidden_size


@dataclass(frozen=True)
class _Tower:
    """Say where a family's vision towers have their attention, and what else it takes to compute its weights again."""

    name: str
    layers: str = "encoder.layers"  # leads to the layers
    attention: str = "self_attn"  # leads from one of them to its attention
    cls: bool = False  # the first token can be [CLS]
    over: str = "heads and queries"  # what attention received is the mean over, in words
    # Shape of a head's channels for its rotary embedding: parts with angles of their own, 2 parts of a number, numbers
    turned: tuple[int, int, int] = (1, 2, -1)
    normed: str = "each"  # the heads over which queries and keys are normed, "each" or "all"
    # Given (tower, scores, what the tower was given), the scores of the tokens that it puts out
    grouped: Callable[[Model, Tensor, dict[str, Any]], Tensor] | None = None


_MERGED: dict[str, Any] = {
    "over": "heads, the queries that see it and the patches of each merge group",
    "grouped": _merged,
}
_QWEN = _MERGED | {"layers": "blocks", "attention": "attn"}
_UNPADDED = "the queries that are no padding"
_TOWERS = {
    "siglip_vision_model": _Tower("SigLIP"),
    "clip_vision_model": _Tower("CLIP", cls=True),
    "qwen2_vl_vision": _Tower("Qwen2-VL", **_QWEN),
    "qwen2_5_vl_vision": _Tower("Qwen2.5-VL", **_QWEN),
    "qwen3_vl_vision": _Tower("Qwen3-VL", **_QWEN),
    "qwen3_vl_moe_vision": _Tower("Qwen3-VL", **_QWEN),
    "qwen3_5_vision": _Tower("Qwen3.5", **_QWEN),
    "qwen3_5_moe_vision": _Tower("Qwen3.5", **_QWEN),
    "glm4v_vision": _Tower("GLM-4V", **_QWEN),
    "glm4v_moe_vision": _Tower("GLM-4V", **_QWEN),
    "internvl_vision": _Tower("InternVL", "encoder.layer", "attention", cls=True, normed="all"),
    "smolvlm_vision": _Tower("SmolVLM", over=f"heads and {_UNPADDED}"),
    "idefics3_vision": _Tower("Idefics3", over=f"heads and {_UNPADDED}"),
    "video_llama_3_vision": _Tower("VideoLLaMA3", **_MERGED),
    "timm_wrapper": _Tower("this Perception Encoder", "timm_model.blocks", "attn", cls=True, turned=(-1, 2, 1)),
    "gemma4_vision": _Tower(
        "Gemma 4", over=f"heads, {_UNPADDED} and the patches of each pool", turned=(2, 2, -1), grouped=_pooled
    ),
}
_WEIGHTS = 2**24  # attention weights held at a time (64 MiB): one frame of 729 patches with 16 heads fits


@contextmanager
def watch_saliency(
    tower: Model, *, feature_layer: int | Sequence[int] = -1
) -> Iterator[Callable[[], tuple[Tensor, str]]]:
    """Watch a vision tower run, to measure the attention that each token gets in the last layer before its features.

    Where a tower has a [CLS] token (CLIP, InternVL, some of PerceptionLM's), saliency is the attention that [CLS] pays
    to each patch, mean over heads. Elsewhere it is attention *received*, our definition: the mean over heads and over
    the queries that see the patch (those of its frame, or of its window if Qwen2.5-VL's last layer is windowed).

    `feature_layer` counts hidden states as `vision_feature_layer` in a model's config does. The context gives a
    function that returns, after the run, the saliency of each token that the tower puts out and, in words, what it is:
    (T, N) in raster order, or flat (M,) where frames may differ in size (Qwen, GLM-4V, VideoLLaMA3, Gemma 4). Padding
    gets 0.

    >>> import vtc_lab as vtc
    >>> tower = vtc.load_model().network.model.vision_tower
    >>> with torch.no_grad(), watch_saliency(tower) as measure:
    ...     features = tower(torch.zeros(2, 3, 112, 112)).last_hidden_state
    >>> measure()[0].shape == features.shape[:2], measure()[1]
    (True, 'attention received in the last layer, mean over heads and queries (SigLIP has no [CLS])')
    """
    kind = _kind(tower)
    layers = attrgetter(kind.layers)(getattr(tower, "vision_model", tower))
    number = last_layer(feature_layer, len(layers))
    attention = getattr(layers[number - 1], kind.attention)
    words = "the last layer" if number == len(layers) else f"layer {number} of {len(layers)}, the last that is used"
    seen: dict[Model, dict[str, Any]] = {}
    here = threading.get_ident()  # the explorer may encode with the same tower on another thread

    def note(module: Model, args: tuple, named: dict) -> None:
        if threading.get_ident() == here:
            seen[module] = inspect.signature(module.forward).bind(*args, **named).arguments

    handles = [module.register_forward_pre_hook(note, with_kwargs=True) for module in (tower, attention)]
    try:
        yield lambda: _measured(tower, kind, attention, seen[tower], seen[attention], words)
    finally:
        for handle in handles:
            handle.remove()


def _kind(tower: Model) -> _Tower:
    kind = getattr(getattr(tower, "config", None), "model_type", type(tower).__name__)
    if kind not in _TOWERS:
        raise VTCError(f"no saliency is known for a {kind} tower; supported are {', '.join(_TOWERS)}")
    if kind == "timm_wrapper":
        inner = tower.timm_model
        known = type(inner).__name__ == "Eva" and type(inner.blocks[0].attn).__name__ == "AttentionRope"
        # Newer versions of timm turn queries and keys in other ways too, of which Perception Encoder uses none.
        other = known and (getattr(inner, "rope_mixed", False) or getattr(inner.blocks[0].attn, "rotate_half", False))
        if not known or other or inner.reg_token is not None:
            raise VTCError(
                f"no saliency is known for timm's {tower.config.architecture}; of timm's towers it is for Perception "
                "Encoder's, vit_pe_..."
            )
    return _TOWERS[kind]


def last_layer(feature_layer: int | Sequence[int], count: int) -> int:
    """Return the number, from 1, of the last of `count` layers that goes into the hidden states a model takes."""
    taken = [feature_layer] if isinstance(feature_layer, int) else list(feature_layer)
    # Of the count + 1 hidden states the first is the layers' input, before any attention.
    number = max((state % (count + 1) for state in taken if -count <= state <= count), default=0)
    if not number:
        raise VTCError(f"feature_layer is {feature_layer!r}; it must be 1 to {count}, or -{count} to -1 from the end")
    return number


def _measured(
    tower: Model, kind: _Tower, attention: Model, given: dict[str, Any], seen: dict[str, Any], words: str
) -> tuple[Tensor, str]:
    """The saliency and its source, from what the tower and its attention layer were given."""
    cls, real = getattr(attention, "num_prefix_tokens", int(kind.cls)), _unpadded(given)
    rows: list[Tensor] = []
    scale = getattr(attention, "scaling", attention.head_dim**-0.5)
    with torch.no_grad():
        for number, (hidden, *turn) in enumerate(_sequences(attention, seen)):
            query, key = _heads(attention, hidden, kind.normed)
            if turn:
                query, key = (_rotated(x, turn, kind.turned) for x in (query, key))
            if real is None:
                row = _received(query[:1] if cls else query, key, scale)[cls:]
            else:
                there = real[number]
                row = torch.zeros(len(key), device=key.device)
                row[there] = _received(query[there], key[there], scale)
            rows.append(row)
        scores = torch.cat(rows) if "cu_seqlens" in seen else torch.stack(rows)
        if kind.grouped:
            scores = kind.grouped(tower, scores, given)
    if cls:
        return scores, f"attention of [CLS] in {words}, mean over heads"
    return scores, f"attention received in {words}, mean over {kind.over} ({kind.name} has no [CLS])"


def _unpadded(given: dict[str, Any]) -> Tensor | None:
    """(T, N) bool, the patches that are no padding, if the tower was told."""
    if (mask := given.get("patch_attention_mask")) is not None:
        return mask.flatten(1)
    if (places := given.get("pixel_position_ids")) is not None:
        return (places != -1).any(-1)
    return None


def _sequences(attention: Model, seen: dict[str, Any]) -> Iterator[tuple[Tensor, ...]]:
    """Hidden states (N, D) of each frame or window, with cosines and sines (N, d) of a rotary embedding."""
    hidden, turn = next(iter(seen.values())), seen.get("position_embeddings") or ()  # timm calls them x
    if seen.get("rope") is not None:  # of timm: the same for each frame, and [CLS] is not turned
        before = (0, 0, attention.num_prefix_tokens, 0)
        sin, cos = seen["rope"].chunk(2, -1)
        turn = [[functional.pad(x, before, value=still)] * len(hidden) for x, still in ((cos, 1), (sin, 0))]
    if "cu_seqlens" in seen:  # packed, one behind the other
        lengths = seen["cu_seqlens"].diff().tolist()
        hidden, *turn = (x.split(lengths) for x in (hidden, *turn))
    return zip(hidden, *turn, strict=True)


def _heads(attention: Model, hidden: Tensor, normed: str) -> Iterator[Tensor]:
    """Queries and keys (N, heads, d) of hidden states (N, D), normed where the layer does so."""
    fused = getattr(attention, "qkv", None)
    both = (attention.q_proj(hidden), attention.k_proj(hidden)) if fused is None else fused(hidden).chunk(3, -1)[:2]
    for x, name in zip(both, ("q_norm", "k_norm"), strict=True):
        norm, heads = getattr(attention, name, nn.Identity()), (-1, attention.head_dim)
        yield norm(x).unflatten(-1, heads) if normed == "all" else norm(x.unflatten(-1, heads))


def _rotated(x: Tensor, turn: Sequence[Tensor], turned: tuple[int, int, int]) -> Tensor:
    """Queries or keys (N, heads, d), turned by the cosines and sines (N, d) of a rotary embedding."""
    x, (cos, sin) = x.float(), (part[:, None].float() for part in turn)
    first, second = x.unflatten(-1, turned).unbind(-2)
    return x * cos + torch.stack([-second, first], -2).flatten(-3) * sin


def _received(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """(N,) attention that keys (N, heads, d) get from queries (Q, heads, d), mean over heads and queries."""
    key = key.repeat_interleave(query.shape[1] // key.shape[1], 1).float().permute(1, 2, 0) * scale
    total, rows = torch.zeros((), device=key.device), max(1, _WEIGHTS // (len(key) * key.shape[2]))
    for some in query.float().transpose(0, 1).split(rows, 1):
        total = total + (some @ key).softmax(-1).sum((0, 1))
    return total / (len(query) * len(key))
