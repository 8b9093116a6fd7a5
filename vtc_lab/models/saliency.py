"""How much attention each visual token gets in its vision tower, for the methods that rank tokens by it.

The attention layer's input is caught by an ordinary hook while the tower runs as always, and its weights are computed
again from that. So features do not change, and no attention implementation has to be switched: the fast ones return
no weights, and Qwen's towers return none under any.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

# isort: off
import vtc_lab.models.torchvision_ops  # noqa: F401  (before transformers)
from transformers.vision_utils import get_vision_window_index
# isort: on

from vtc_lab.tokens import VTCError

_FAMILIES = {
    "siglip_vision_model": "SigLIP",
    "clip_vision_model": "CLIP",
    "qwen2_vl_vision": "Qwen2-VL",
    "qwen2_5_vl_vision": "Qwen2.5-VL",
    "qwen3_vl_vision": "Qwen3-VL",
}
_WEIGHTS = 2**24  # attention weights held at a time (64 MiB): one frame of 729 patches with 16 heads fits


def tower_saliency(
    tower: nn.Module,
    pixel_values: Tensor,
    *,
    grid_thw: Tensor | None = None,
    feature_layer: int | Sequence[int] = -1,
) -> tuple[Tensor, str]:
    """The attention that each token of a vision tower gets in the last layer that its features pass through.

    SigLIP and Qwen have no [CLS] token: attention *received*, the mean over heads and over the queries that see the
    token (those of its frame, or of its window if Qwen2.5-VL's last layer is windowed). CLIP: the attention that
    [CLS] pays to each patch, mean over heads. It is never the norm of a feature.

    Parameters
    ----------
    tower : a vision tower of transformers: SigLIP, CLIP, Qwen2-VL, Qwen2.5-VL or Qwen3-VL.
    pixel_values : what its processor made: (T, 3, H, W), or for Qwen (patches, values of a patch).
    grid_thw : (1, 3), Qwen only: temporal patches, patch rows and patch columns of the clip.
    feature_layer : the hidden state, or states, that a model takes from a SigLIP or CLIP tower, as its config's
        `vision_feature_layer` counts them: 1 is the output of the first layer, -1 that of the last.

    Returns
    -------
    (T, N) float32, at least 0: SigLIP and CLIP one row per frame and one column per patch in raster order; Qwen one
        row per temporal patch and one column per merge group in raster order, each the mean of its patches, since
        that is what the tower puts out. A row of SigLIP sums to 1. And, in words, what the numbers are.

    Raises
    ------
    VTCError
        If the tower is of another family, no attention comes before the features, or the grid is not one clip's.

    Source: our definition of what stands in for [CLS] where there is none.

    Examples
    --------
    >>> import vtc_lab as vtc
    >>> tower = vtc.load_model().network.model.vision_tower
    >>> scores, source = tower_saliency(tower, torch.zeros(2, 3, 64, 64))
    >>> scores.shape, source
    (torch.Size([2, 256]), 'attention received in the last layer, mean over heads and queries (SigLIP has no [CLS])')
    """
    with torch.no_grad(), watch_saliency(tower, grid_thw=grid_thw, feature_layer=feature_layer) as measure:
        tower(pixel_values) if grid_thw is None else tower(pixel_values, grid_thw)
    return measure()


@contextmanager
def watch_saliency(
    tower: nn.Module, *, grid_thw: Tensor | None = None, feature_layer: int | Sequence[int] = -1
) -> Iterator[Callable[[], tuple[Tensor, str]]]:
    """Watch a tower run once, to tell its saliency without running it again.

    Parameters
    ----------
    tower, grid_thw, feature_layer : as for `tower_saliency`.

    Returns
    -------
    A context in which the tower is to be run, by this thread, as often as one likes: the last run counts. It gives a
        function without arguments that returns what `tower_saliency` does; call it after the run.

    Raises
    ------
    VTCError
        As for `tower_saliency`.

    Examples
    --------
    >>> import vtc_lab as vtc
    >>> tower = vtc.load_model().network.model.vision_tower
    >>> with torch.no_grad(), watch_saliency(tower) as measure:
    ...     features = tower(torch.zeros(2, 3, 64, 64)).last_hidden_state
    >>> measure()[0].shape == features.shape[:2]
    True
    """
    family = _family(tower)
    if family.startswith("Qwen") and (grid_thw is None or tuple(grid_thw.shape) != (1, 3)):
        given = "none" if grid_thw is None else f"one of shape {tuple(grid_thw.shape)}"
        raise VTCError(f"a {family} tower needs the (1, 3) grid of one clip, not {given}; pass grid_thw")
    layers = tower.blocks if family.startswith("Qwen") else getattr(tower, "vision_model", tower).encoder.layers
    number = _last_layer(feature_layer, len(layers))
    attention = layers[number - 1].attn if family.startswith("Qwen") else layers[number - 1].self_attn
    words = "the last layer" if number == len(layers) else f"layer {number} of {len(layers)}, the last that is used"
    seen, here = {}, threading.get_ident()

    def note(_: nn.Module, args: tuple, given: dict) -> None:
        # The explorer encodes on a thread of its own, maybe with the same tower at the same time.
        if threading.get_ident() == here:
            seen.update(given, hidden_states=args[0] if args else given["hidden_states"])

    handle = attention.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield lambda: _measure(tower, family, attention, seen, words, grid_thw)
    finally:
        handle.remove()


def _family(tower: nn.Module) -> str:
    kind = getattr(getattr(tower, "config", None), "model_type", type(tower).__name__)
    if kind not in _FAMILIES:
        raise VTCError(f"no saliency is known for a {kind} tower; supported are {', '.join(_FAMILIES)}")
    return _FAMILIES[kind]


def _last_layer(feature_layer: int | Sequence[int], count: int) -> int:
    """The number, from 1, of the last of `count` layers that goes into the hidden states a model takes."""
    taken = [feature_layer] if isinstance(feature_layer, int) else list(feature_layer)
    # Of the count + 1 hidden states the first is the layers' input, before any attention.
    number = max((state % (count + 1) for state in taken if -count <= state <= count), default=0)
    if not number:
        raise VTCError(f"feature_layer is {feature_layer!r}; it must be 1 to {count}, or -{count} to -1 from the end")
    return number


def _measure(
    tower: nn.Module, family: str, attention: nn.Module, seen: dict, words: str, grid_thw: Tensor | None
) -> tuple[Tensor, str]:
    """What `tower_saliency` returns, from what the attention layer was given."""
    with torch.no_grad():
        if family == "CLIP":
            return _framewise(attention, seen["hidden_states"], True), f"attention of [CLS] in {words}, mean over heads"
        if family == "SigLIP":
            scores, mean = _framewise(attention, seen["hidden_states"], False), "heads and queries"
        else:
            scores = _grouped(tower, _packed(attention, seen), grid_thw)
            mean = "heads, the queries that see it and the patches of each merge group"
    return scores, f"attention received in {words}, mean over {mean} ({family} has no [CLS])"


def _framewise(attention: nn.Module, hidden: Tensor, cls: bool) -> Tensor:
    """(T, N) attention in hidden states (T, N, D): received by each token, or paid by [CLS] to each patch."""
    rows = []
    for frame in hidden:
        query = attention.q_proj(frame[:1] if cls else frame)
        query, key = (x.unflatten(-1, (attention.num_heads, -1)) for x in (query, attention.k_proj(frame)))
        rows.append(_received(query, key)[1 if cls else 0 :])
    return torch.stack(rows)


def _packed(attention: nn.Module, seen: dict) -> Tensor:
    """(M,) attention received in a Qwen layer, whose sequences (frames or windows) lie one behind the other."""
    lengths, parts = seen["cu_seqlens"].diff().tolist(), []
    sequences = (x.split(lengths) for x in (seen["hidden_states"], *seen["position_embeddings"]))
    for hidden, *turn in zip(*sequences, strict=True):
        query, key, _ = attention.qkv(hidden).view(len(hidden), 3, attention.num_heads, -1).unbind(1)
        parts.append(_received(_rotated(query, *turn), _rotated(key, *turn)))
    return torch.cat(parts)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding (N, d) of queries or keys (N, heads, d), whose halves are the two parts of each number."""
    x, cos, sin = x.float(), cos[:, None].float(), sin[:, None].float()
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


def _received(query: Tensor, key: Tensor) -> Tensor:
    """(N,) attention that keys (N, heads, d) get from queries (Q, heads, d), mean over heads and queries."""
    key = key.float().permute(1, 2, 0) / query.shape[-1] ** 0.5
    total, rows = 0, max(1, _WEIGHTS // (len(key) * key.shape[2]))
    for some in query.float().transpose(0, 1).split(rows, 1):
        total = total + (some @ key).softmax(-1).sum((0, 1))
    return total / (len(query) * len(key))


def _grouped(tower: nn.Module, scores: Tensor, grid_thw: Tensor) -> Tensor:
    """(T, N) mean of each merge group, whose patches lie together, in raster order."""
    config = tower.config
    groups = scores.view(-1, config.spatial_merge_size**2).mean(1)
    if config.model_type == "qwen2_5_vl_vision":
        order, _ = get_vision_window_index(
            grid_thw, config.spatial_merge_size, window_size=config.window_size, patch_size=config.patch_size
        )
        groups = groups[order.argsort()]
    return groups.view(int(grid_thw[0, 0]), -1)
