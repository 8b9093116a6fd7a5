"""Count parameters, FLOPs and KV cache of each stage from a model's configuration, and the speed-up that they allow."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import pandas as pd
import torch
from pandas.api.types import is_numeric_dtype
from torch import nn
from transformers import AutoModelForImageTextToText, PreTrainedConfig

from vtc_lab.models.families import FAMILIES, Model, bare, family_of, how_to_add
from vtc_lab.tokens import VTCError, suggest

# Modules between the tower and the language model, as the families call them.
_PROJECTORS = {"merger", "deepstack_merger_list", "downsample", "multi_modal_projector", "projector", "connector"}
# Families whose costs agree with what torch counts.
_KNOWN = {"llava_onevision", "llava_next_video", "video_llava", "llava", "internvl", "smolvlm", "idefics3"}
_KNOWN |= {"qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v"}
_POOLS_LAST = {"llava_onevision"}  # projects every patch, then pools
_CLASS_TOKEN = {"clip_vision_model", "internvl_vision"}
_LAYERS_FROM = 3  # rows of a table, behind vision, projector and reducer


def stage_costs(
    model: Model | PreTrainedConfig,
    grid: tuple[int, int, int],
    held: int | Sequence[int] | None = None,
    *,
    encoded: Sequence[int] | None = None,
    text: int = 32,
    new_tokens: int = 16,
) -> pd.DataFrame:
    """Return what each stage of answering one question about one clip costs.

    Parameters
    ----------
    model : a configuration of transformers, of which no weights are made, or a model, of which none are read.
    grid : (T, h, w) of the clip's visual tokens, such as `model.encode(clip).grid`.
    held : visual tokens that each layer of the language model holds: one number, or one a layer for a stage inside
        (`stage.layers[0]` of `vtc.inside`); by default all.
    encoded : visual tokens of each frame that is encoded, h * w for whole ones, where a stage before the encoder leaves
        out others (see `reduce_clip`); by default all of all. The tower's layers work on the patches of those alone.
    text : other tokens of the prompt.
    new_tokens : length of the answer.

    Returns
    -------
    DataFrame with a row for each of the stages vision, projector and reducer, one for each layer of prefill and one for
    what is around the layers (embedding, head), and one for decode, with the columns

    - stage, layer; tokens: how many it works on;
    - parameters: of the weights that it uses. Decode uses those of prefill again.
    - flops: two for a multiply-add, of matrices alone, as `torch.utils.flop_counter` counts them; of these, attention:
      scores and weighted values, with the half of a causal matrix that kernels skip;
    - kv_bytes: what it adds to the cache; moved: bytes of weights and cache that it reads or writes at least.

    The reducer's row is the least for any method that looks at features: one similarity a token.

    Raises
    ------
    VTCError
        For a family whose costs are not known, or numbers of tokens that the clip or the model does not have.

    Examples
    --------
    >>> import vtc_lab as vtc
    >>> costs = vtc.stage_costs(vtc.load_model().network, (16, 14, 14)).groupby("stage", sort=False).flops.sum()
    >>> (costs / costs.sum()).round(2).to_dict()
    {'vision': 0.21, 'projector': 0.02, 'reducer': 0.0, 'prefill': 0.77, 'decode': 0.0}
    """
    network = _skeleton(model)
    if (kind := network.config.model_type) not in _KNOWN:
        raise VTCError(f"the costs of {kind!r} models were never compared with torch's count; {suggest('', _KNOWN)}")
    if len(grid) != 3 or not all(isinstance(size, Integral) and size > 0 for size in grid):
        raise VTCError(f"grid is {grid!r:.60}; give (T, h, w), three whole numbers of at least 1")
    for name, value, least in (("text", text, 0), ("new_tokens", new_tokens, 1)):
        if not isinstance(value, Integral) or value < least:
            raise VTCError(f"{name} is {value!r:.60}; give a whole number of at least {least}")
    frames, each = grid[0], math.prod(grid[1:])
    if encoded is not None:
        known = isinstance(encoded, Sequence) and 0 < len(encoded) <= frames
        if not known or not all(isinstance(n, Integral) and 0 < n <= each for n in encoded):
            raise VTCError(f"encoded is {encoded!r:.60}; give 1 to {each} tokens for each of 1 to {frames} frames")
    some = {each: frames} if encoded is None else Counter(map(int, encoded))
    total, depth = math.prod(grid), len(network.get_decoder().layers)
    layers = list(held) if isinstance(held, Sequence) else [total if held is None else held] * depth
    if len(layers) != depth or not all(isinstance(n, Real) and 0 < n <= total for n in layers):
        raise VTCError(f"held is {held!r:.60}; give 1 to {total} visual tokens, or {depth} such numbers, one a layer")
    rows = _before(network, grid, some) + _language(network, [n + text for n in layers], new_tokens - 1)
    columns = ["stage", "tokens", "parameters", "flops", "attention", "kv_bytes", "moved"]
    table = pd.DataFrame(rows, columns=columns)
    table.insert(1, "layer", pd.Series(range(depth), range(_LAYERS_FROM, _LAYERS_FROM + depth), "Int64"))
    return table


def _before(network: Model, grid: tuple[int, int, int], encoded: Mapping[int, int]) -> list[tuple]:
    """The rows of what is in front of the language model; `encoded` are frames by how many of their tokens are."""
    core, family, config, size = network.base_model, family_of(network), network.config, network.dtype.itemsize
    vision, tower, frames = config.vision_config, getattr(core, family.tower), sum(encoded.values())
    inner = [part for name, part in tower.named_children() if name in _PROJECTORS]
    between = inner + [part for name, part in core.named_children() if name in _PROJECTORS]
    groups, cls = _groups(vision, grid), vision.model_type in _CLASS_TOKEN
    looks, patches, total, whole = 0.0, 0, math.prod(grid), sum(groups[0]) - cls
    for tokens, times in encoded.items():  # of the layers; what a window sees is thinned out as the whole frame is
        share = tokens / (grid[1] * grid[2])
        patches += times * (cls + round(whole * share))
        looks += times * sum((cls + (length - cls) * share) ** 2 for layer in groups for length in layer)
    looks = 4 * (getattr(vision, "embed_dim", None) or vision.hidden_size) * round(looks)
    begin, *less = (_work(part, (nn.Conv2d, nn.Conv3d)) for part in (tower, *inner))
    begin -= sum(less)  # makes the patches of whole frames, and no class token
    flops = 2 * patches * (_work(tower) - sum(map(_work, inner)) - begin) + 2 * frames * whole * begin + looks
    weights = _count(tower) - sum(map(_count, inner))
    rows: list[tuple] = [("vision", patches, weights, flops, looks, 0, weights * size)]
    made = sum(n * times for n, times in encoded.items())
    projected = patches if config.model_type in _POOLS_LAST else made + family.cls * frames
    weights, work = (sum(map(each, between)) for each in (_count, _work))
    rows.append(("projector", projected, weights, 2 * projected * work, 0, 0, weights * size))
    numbers = total * config.get_text_config().hidden_size
    return [*rows, ("reducer", total, 0, 2 * numbers, 0, 0, numbers * size)]


def _language(network: Model, layers: list[int], steps: int) -> list[tuple]:
    """The rows of the language model, whose layers hold so many tokens, with so many steps behind prefill."""
    config, decoder, size = network.config.get_text_config(), network.get_decoder(), network.dtype.itemsize
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    look = 4 * config.num_attention_heads * head  # FLOPs for a query and a key
    kept = 2 * config.num_key_value_heads * head * size  # bytes of the cache for a token
    rows: list[tuple] = []
    for layer, tokens in zip(decoder.layers, layers, strict=True):
        weights, looks, cache = _count(layer), look * tokens**2, kept * tokens
        flops = 2 * tokens * _work(layer) + looks
        rows.append(("prefill", tokens, weights, flops, looks, cache, weights * size + cache))
    final, embedding = network.get_output_embeddings().weight, decoder.get_input_embeddings().weight
    around = _count(decoder) - sum(map(_count, decoder.layers)) + (0 if final is embedding else final.numel())
    rows.append(("prefill", layers[0], around, 2 * final.numel(), 0, 0, final.numel() * size))
    seen = sum(steps * tokens + steps * (steps + 1) // 2 for tokens in layers)  # each step sees itself, too
    weights, work = (sum(map(each, decoder.layers)) + final.numel() for each in (_count, _work))
    moved = steps * weights * size + kept * seen
    flops = 2 * steps * work + look * seen
    return [*rows, ("decode", steps, weights, flops, look * seen, kept * len(layers) * steps, moved)]


_EFFORT = ["flops", "attention", "moved"]


def ideal_speedup(full: pd.DataFrame, reduced: pd.DataFrame, seconds: Mapping[str, float] | None = None) -> float:
    """Return the speed-up that a reduction could give if it cost nothing and a machine lost no time (Amdahl's law).

    Encoding shrinks with the FLOPs of tower and projector, which are fewer for a stage before the encoder alone;
    prefill with its FLOPs, of which attention counts half because kernels skip the masked half; and decoding with the
    bytes that it moves.

    Parameters
    ----------
    full, reduced : tables of `stage_costs`, for either budget: tokens that enter, or tokens of each layer.
    seconds : measured without reduction, by stage: "encode", "prefill", "decode" and any others, whose times stay. By
        default the FLOPs of vision, projector, prefill and decode stand for them.

    Examples
    --------
    >>> import vtc_lab as vtc
    >>> network = vtc.load_model().network
    >>> full, reduced = (vtc.stage_costs(network, (16, 14, 14), held) for held in (3136, 392))
    >>> round(ideal_speedup(full, reduced, {"encode": 27.6, "prefill": 6.2}), 2)
    1.21
    """
    for table in (full, reduced):
        known = isinstance(table, pd.DataFrame) and table.columns.is_unique and {"stage", *_EFFORT} <= {*table}
        numbers = known and table[_EFFORT].dtypes.map(is_numeric_dtype).all()
        if not (numbers and {"prefill", "decode"} <= {*table.stage}):
            raise VTCError(f"{table!r:.60} is no table of costs; give two that vtc.stage_costs returned")
    seconds = _effort(full).drop("reducer", errors="ignore").to_dict() if seconds is None else {**seconds}
    if not (all(isinstance(s, int | float) and 0 <= s < math.inf for s in seconds.values()) and any(seconds.values())):
        raise VTCError(f"seconds are {seconds!r:.60}; give the time of each stage")
    share = shares_left(full, reduced)
    return float(sum(seconds.values()) / sum(share.get(stage, 1) * time for stage, time in seconds.items()))


def shares_left(full: pd.DataFrame, reduced: pd.DataFrame) -> dict[str, float]:
    """Return the shares of the time of encoding, of prefill and of decoding that are left in `ideal_speedup`."""
    one, other = ({**_effort(table)} for table in (full, reduced))
    for effort, table in ((one, full), (other, reduced)):
        effort["encode"] = effort.get("vision", 0) + effort.get("projector", 0)
        effort["decode"] = table.moved[table.stage == "decode"].sum()
    return {stage: float(other.get(stage, 0) / one[stage]) if one[stage] else 1.0 for stage in one}


def _effort(costs: pd.DataFrame) -> pd.Series:
    """The FLOPs of each stage, masked attention counted by half."""
    return (costs.flops - costs.attention.where(costs.stage != "vision", 0) / 2).groupby(costs.stage).sum()


def _skeleton(model: Model | PreTrainedConfig) -> Model:
    """The model itself, or one without memory, made from a configuration."""
    if not isinstance(model, PreTrainedConfig):
        return bare(model)
    if model.model_type not in FAMILIES:
        raise VTCError(how_to_add(model.model_type))
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(model)


def _groups(vision: Any, grid: tuple[int, int, int]) -> list[list[int]]:
    """The tokens of one picture in the tower, for each layer in the groups within which they attend."""
    _, height, width = grid
    depth = getattr(vision, "depth", None) or vision.num_hidden_layers
    if not (side := getattr(vision, "spatial_merge_size", 0)):
        image, patch = (int(torch.tensor(side).max()) for side in (vision.image_size, vision.patch_size))
        return [[(image // patch) ** 2 + (vision.model_type in _CLASS_TOKEN)]] * depth
    layers = [[height * width * side**2]] * depth
    if window := getattr(vision, "window_size", 0):  # of Qwen2.5-VL: all but some layers attend within windows
        edge = window // side // vision.patch_size
        rows, columns = ([min(edge, length - start) for start in range(0, length, edge)] for length in (height, width))
        windows = [y * x * side**2 for y in rows for x in columns]
        layers = [layers[n] if n in vision.fullatt_block_indexes else windows for n in range(depth)]
    return layers


def _work(module: nn.Module, kinds: tuple[type, ...] = (nn.Linear, nn.Conv2d, nn.Conv3d)) -> int:
    """Multiply-adds for one token: the weights of matrices."""
    found: list[Any] = [each for each in module.modules() if isinstance(each, kinds)]
    return sum(each.weight.numel() for each in found)


def _count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())
