"""Saliency is the attention of the tower's own last layer, and to ask for it changes nothing else."""

import cmath
import math
import threading
from copy import deepcopy

import numpy as np
import pytest
import tiny_checkpoints
import torch
import transformers
from conformance_table import clips_of, load
from tiny_checkpoints import prompt
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.glm4v.configuration_glm4v import Glm4vVisionConfig
from transformers.models.glm4v.modeling_glm4v import Glm4vVisionModel
from transformers.models.glm4v_moe.configuration_glm4v_moe import Glm4vMoeVisionConfig
from transformers.models.glm4v_moe.modeling_glm4v_moe import Glm4vMoeVisionModel
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel
from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5VisionConfig
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5VisionModel
from transformers.models.qwen3_5_moe.configuration_qwen3_5_moe import Qwen3_5MoeVisionConfig
from transformers.models.qwen3_5_moe.modeling_qwen3_5_moe import Qwen3_5MoeVisionModel
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel
from transformers.models.qwen3_vl_moe.configuration_qwen3_vl_moe import Qwen3VLMoeVisionConfig
from transformers.models.qwen3_vl_moe.modeling_qwen3_vl_moe import Qwen3VLMoeVisionModel

import vtc_lab as vtc
from vtc_lab.models import saliency
from vtc_lab.models.prompt_clips import encode_prompt
from vtc_lab.models.saliency import watch_saliency
from vtc_lab.models.video_model import VideoModel

VIT = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}
QWEN = {"depth": 3, "num_heads": 2, "patch_size": 4, "temporal_patch_size": 2, "spatial_merge_size": 2}
WIDE = {**QWEN, "hidden_size": 16, "intermediate_size": 24, "out_hidden_size": 8}
PLAIN = {name: value for name, value in VIT.items() if name != "image_size"}
GRID = (2, 6, 10)  # of patches: 3x5 merge groups, so that windows of 2x2 groups are cut off at two edges


def settled(tower):
    """A tower with random weights large enough for its attention to be uneven."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.8)
    return tower.eval()


def siglip(**options):
    return settled(transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**{**VIT, **options})))


def clip_tower(kind=transformers.CLIPVisionModel):
    return settled(kind(transformers.CLIPVisionConfig(**VIT, projection_dim=8)))


def qwen2():
    return settled(Qwen2VisionTransformerPretrainedModel(Qwen2VLVisionConfig(**QWEN, embed_dim=16, hidden_size=8)))


def qwen2_5(full=(1, 2)):
    # Windows of 16 pixels: 2x2 merge groups of 2x2 patches of 4 pixels.
    config = Qwen2_5_VLVisionConfig(**WIDE, window_size=16, fullatt_block_indexes=list(full))
    return settled(Qwen2_5_VisionTransformerPretrainedModel(config))


def qwen3(model=Qwen3VLVisionModel, config=Qwen3VLVisionConfig):
    return settled(model(config(**WIDE, num_position_embeddings=16, deepstack_visual_indexes=[1])))


def qwen3_5(model=Qwen3_5VisionModel, config=Qwen3_5VisionConfig):
    return settled(model(config(**WIDE, num_position_embeddings=16)))


def glm4v(model=Glm4vVisionModel, config=Glm4vVisionConfig):
    return settled(model(config(**WIDE, image_size=16, attention_bias=True)))


def video_llama_3():
    return settled(transformers.VideoLlama3VisionModel(transformers.VideoLlama3VisionConfig(**PLAIN)))


def internvl(**options):
    config = transformers.InternVLVisionConfig(**VIT, **options)
    return settled(transformers.InternVLVisionModel(config))


def smolvlm():
    return settled(transformers.SmolVLMVisionTransformer(transformers.SmolVLMVisionConfig(**VIT)))


def idefics3():
    return settled(transformers.Idefics3VisionTransformer(transformers.Idefics3VisionConfig(**VIT)))


def perception(architecture="vit_pe_core_base_patch16_224", **options):
    """A tower of timm for 6x4 patches."""
    sizes = {"img_size": [24, 16], "patch_size": 4, "depth": 3, "embed_dim": 16, "num_heads": 2, "global_pool": ""}
    options = sizes | {"ref_feat_shape": [6, 4]} | options
    return settled(
        transformers.TimmWrapperModel(transformers.TimmWrapperConfig(architecture=architecture, model_args=options))
    )


def gemma4():
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    config = transformers.Gemma4VisionConfig(**PLAIN | heads, pooling_kernel_size=2, position_embedding_size=8)
    return settled(transformers.Gemma4VisionModel(config))


PACKED = {
    "Qwen2-VL": qwen2,
    "Qwen2.5-VL": qwen2_5,
    "Qwen2.5-VL windows": lambda: qwen2_5([1]),
    "Qwen3-VL": qwen3,
    "Qwen3-VL MoE": lambda: qwen3(Qwen3VLMoeVisionModel, Qwen3VLMoeVisionConfig),
    "Qwen3.5": qwen3_5,
    "Qwen3.5 MoE": lambda: qwen3_5(Qwen3_5MoeVisionModel, Qwen3_5MoeVisionConfig),
    "GLM-4V": glm4v,
    "GLM-4V MoE": lambda: glm4v(Glm4vMoeVisionModel, Glm4vMoeVisionConfig),
    "VideoLLaMA3": video_llama_3,
}


@torch.no_grad()
def tower_saliency(tower, pixels, *, feature_layer=-1, **given):
    with watch_saliency(tower, feature_layer=feature_layer) as measure:
        tower(pixels, **given)
    return measure()


def random(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def frames(count=3, seed=0, height=16):
    return random(count, 3, height, 16, seed=seed)


def packed(name, *grids, sides=None):
    """What a tower takes of clips, whose patches (Qwen's of two frames each) lie one behind the other."""
    given = {"grid_thw": torch.tensor(grids)}
    if "GLM" in name:  # it wants frames, not clips
        given["grid_thw"] = torch.tensor([(1, *grid[1:]) for grid in grids for _ in range(grid[0])])
    if name == "VideoLLaMA3":
        given["merge_sizes"] = torch.tensor(sides or [2] * len(grids))
    return random(sum(math.prod(grid) for grid in grids), 48 if name == "VideoLLaMA3" else 96), given


def placed():
    """Frames of 4x6 and 6x2 patches for Gemma 4 in some order, the second one padded."""
    places = torch.full((2, 24, 2), -1)
    for frame, (height, width) in zip(places, [(4, 6), (6, 2)], strict=True):
        order = torch.randperm(height * width, generator=torch.Generator().manual_seed(height))
        frame[: height * width] = torch.tensor([(x, y) for y in range(height) for x in range(width)])[order]
    return random(2, 24, 48).sigmoid(), {"pixel_position_ids": places}


def padded():
    """Frames for SmolVLM and Idefics3 of which the second has no last row and column, the third no last two columns."""
    mask = torch.ones(3, 4, 4, dtype=torch.bool)
    mask[1, 3], mask[1, :, 3], mask[2, :, 2:] = False, False, False
    return frames(), {"patch_attention_mask": mask}


@torch.no_grad()
def own_weights(tower, attention, *given, **named):
    """The weights that a layer's own attention gives, if it is the plain one."""
    caught, tower = [], tower.eval()
    if hasattr(attention, "fused_attn"):  # timm: they come by its dropout
        attention.fused_attn = False
        handle = attention.attn_drop.register_forward_hook(lambda _, args, weights: caught.append(weights))
    else:
        tower.set_attn_implementation("eager")
        handle = attention.register_forward_hook(lambda _, args, output: caught.append(output[1]))
    tower(*given, **named)
    handle.remove()
    return caught[0]


def softmax(row):
    top = max(row)
    weights = [math.exp(x - top) for x in row]
    return [weight / sum(weights) for weight in weights]


def linear(layer, rows):
    """(N, out) numbers as lists of floats."""
    return (rows.double() @ layer.weight.double().T + layer.bias.double()).tolist()


@torch.no_grad()
def by_hand(tower, pixels, layer):
    """Frame by frame, head by head, query by query: all the weights (T, heads, N, N) of a SigLIP or CLIP layer."""
    hidden = tower(pixels, output_hidden_states=True).hidden_states[layer - 1]
    block = tower.encoder.layers[layer - 1]
    size, heads = tower.config.hidden_size, tower.config.num_attention_heads
    width, weights = size // heads, []
    for frame in block.layer_norm1(hidden):
        queries, keys = linear(block.self_attn.q_proj, frame), linear(block.self_attn.k_proj, frame)
        weights.append([])
        for head in range(heads):
            part = range(head * width, (head + 1) * width)
            rows = [softmax([sum(q[i] * k[i] for i in part) / math.sqrt(width) for k in keys]) for q in queries]
            weights[-1].append(rows)
    return torch.tensor(weights)


@pytest.mark.parametrize(("taken", "layer"), [(-1, 3), (-2, 2), (1, 1), ([1, -2], 2)])
def test_siglip_is_attention_received(taken, layer):
    tower, pixels = siglip(), frames()
    scores, source = tower_saliency(tower, pixels, feature_layer=taken)
    want = by_hand(tower, pixels, layer).mean((1, 2))
    assert scores.shape == (3, 16) and torch.allclose(scores, want, atol=1e-6)
    assert want.max() > 3 * want.min()
    assert torch.allclose(scores.sum(1), torch.ones(3)) and bool((scores >= 0).all())
    tower.set_attn_implementation("eager")
    eager = tower(pixels, output_attentions=True).attentions[layer - 1]
    assert torch.allclose(scores, eager.mean((1, 2)), atol=1e-6)
    where = "the last layer" if layer == 3 else f"layer {layer} of 3, the last that is used"
    assert source == f"attention received in {where}, mean over heads and queries (SigLIP has no [CLS])"


@pytest.mark.parametrize("kind", [transformers.CLIPVisionModel, transformers.CLIPVisionModelWithProjection])
@pytest.mark.parametrize(("taken", "layer"), [(-1, 3), (-2, 2)])
def test_clip_is_the_row_of_cls(kind, taken, layer):
    tower, pixels = clip_tower(kind), frames()
    scores, source = tower_saliency(tower, pixels, feature_layer=taken)
    plain = getattr(tower, "vision_model", tower)
    want = by_hand(plain, pixels, layer)[:, :, 0, 1:].mean(1)
    assert scores.shape == (3, 16) and torch.allclose(scores, want, atol=1e-6)
    assert want.max() > 3 * want.min()
    tower.set_attn_implementation("eager")
    eager = plain(pixels, output_attentions=True).attentions[layer - 1]
    assert torch.allclose(scores, eager[:, :, 0, 1:].mean(1), atol=1e-6)
    where = "the last layer" if layer == 3 else "layer 2 of 3, the last that is used"
    assert source == f"attention of [CLS] in {where}, mean over heads"


def packed_order(windowed):
    """For each row of packed patches, as lists: its frame, patch row and column, merge group, and sequence."""
    count, height, width = GRID
    groups = [(t, y, x) for t in range(count) for y in range(height // 2) for x in range(width // 2)]
    if windowed:
        groups.sort(key=lambda group: (group[0], group[1] // 2, group[2] // 2, group[1], group[2]))
    order = []
    for t, y, x in groups:
        for row in (2 * y, 2 * y + 1):
            for column in (2 * x, 2 * x + 1):
                order.append((t, row, column, y * (width // 2) + x, (t, y // 2, x // 2)))
    return order


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("name", PACKED)
def test_packed_is_attention_received_in_its_merge_groups(name):
    tower, (pixels, given) = PACKED[name](), packed(name, GRID)
    scores, source = tower_saliency(tower, pixels, **given)

    hidden = tower(pixels, **given, output_hidden_states=True).hidden_states[-2]
    if name == "VideoLLaMA3":
        layer = tower.encoder.layers[-1]
        hidden, attention = layer.layer_norm1(hidden), layer.self_attn
        both = linear(attention.q_proj, hidden), linear(attention.k_proj, hidden)
        numbers = [query + key for query, key in zip(*both, strict=True)]
    else:
        numbers = linear(tower.blocks[-1].attn.qkv, tower.blocks[-1].norm1(hidden))
    order, (size, heads) = packed_order("2.5" in name), (16, 2)
    width, half, quarter = size // heads, size // heads // 2, size // heads // 4
    want = torch.zeros(GRID[0], GRID[1] * GRID[2] // 4, dtype=torch.double)
    for head in range(heads):
        queries, keys = [], []
        for (_, row, column, _, _), values in zip(order, numbers, strict=True):
            # The rotary embedding turns the complex number made of parts i and i + half by row, or by column.
            angles = [place * 10000 ** (-2 * i / half) for place in (row, column) for i in range(quarter)]
            for rotated, start in ((queries, head * width), (keys, size + head * width)):
                parts = [complex(values[start + i], values[start + half + i]) for i in range(half)]
                rotated.append([part * cmath.exp(1j * angle) for part, angle in zip(parts, angles, strict=True)])
        for (t, _, _, _, window), query in zip(order, queries, strict=True):
            seen = [i for i, to in enumerate(order) if (to[4] == window if "windows" in name else to[0] == t)]
            row = [sum((q * k.conjugate()).real for q, k in zip(query, keys[i], strict=True)) for i in seen]
            for i, weight in zip(seen, softmax([x / math.sqrt(width) for x in row]), strict=True):
                want[t, order[i][3]] += weight / heads / len(seen) / 4  # a merge group has 4 patches

    assert scores.dtype == torch.float32 and scores.shape == (30,)
    assert torch.allclose(scores.double().view(2, 15), want, atol=1e-6)
    assert want.max() > 2 * want.min()
    assert source == (
        "attention received in the last layer, mean over heads, the queries that see it and the patches of each "
        f"merge group ({name.split()[0]} has no [CLS])"
    )
    if name == "VideoLLaMA3":
        eager = own_weights(tower, attention, pixels, **given)
        received = torch.stack([frame[0].mean((0, 1)) for frame in eager])  # of each frame by itself
        assert torch.allclose(scores, received.view(30, 4).mean(1), atol=1e-6)


@pytest.mark.parametrize("name", PACKED)
def test_clips_in_one_run_are_as_if_alone(name):
    grids, sides = [(2, 6, 10), (1, 4, 4), (3, 8, 4)], [2, 1, 2]
    tower, (pixels, given) = PACKED[name](), packed(name, *grids, sides=sides)
    scores, _ = tower_saliency(tower, pixels, **given)
    alone = [
        tower_saliency(tower, part, **packed(name, grid, sides=[side])[1])[0]
        for part, grid, side in zip(pixels.split([math.prod(grid) for grid in grids]), grids, sides, strict=True)
    ]
    assert [len(clip) for clip in alone] == [30, 16 if name == "VideoLLaMA3" else 4, 24]
    assert torch.allclose(scores, torch.cat(alone), atol=1e-6)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize(("taken", "layer"), [(-1, 3), (-2, 2)])
def test_internvl_is_the_row_of_cls(norm, taken, layer):
    tower, pixels = internvl(use_qk_norm=norm), frames(height=24)
    scores, source = tower_saliency(tower, pixels, feature_layer=taken)
    want = own_weights(tower, tower.encoder.layer[layer - 1].attention, pixels)[:, :, 0, 1:].mean(1)
    assert scores.shape == (3, 24) and torch.allclose(scores, want, atol=1e-6) and want.max() > 1.4 * want.min()
    where = "the last layer" if layer == 3 else "layer 2 of 3, the last that is used"
    assert source == f"attention of [CLS] in {where}, mean over heads"


@pytest.mark.parametrize(("name", "make"), [("SmolVLM", smolvlm), ("Idefics3", idefics3)])
def test_it_is_attention_received_without_padding(name, make):
    tower, (pixels, given) = make(), padded()
    scores, source = tower_saliency(tower, pixels, **given)
    weights = own_weights(tower, tower.encoder.layers[-1].self_attn, pixels, **given)
    assert scores.shape == (3, 16) and torch.allclose(scores.sum(1), torch.ones(3))
    for row, heads, there in zip(scores, weights, given["patch_attention_mask"].flatten(1), strict=True):
        assert torch.allclose(row, heads[:, there].mean((0, 1)), atol=1e-6) and not row[~there].any()
    assert source == (
        "attention received in the last layer, mean over heads and the queries that are no padding "
        f"({name} has no [CLS])"
    )
    whole, _ = tower_saliency(make(), pixels)
    assert torch.allclose(whole[0], scores[0], atol=1e-6) and not torch.allclose(whole[1], scores[1], atol=1e-3)


@pytest.mark.parametrize(
    ("architecture", "cls"), [("vit_pe_lang_large_patch14_448", True), ("vit_pe_lang_gigantic_patch14_448", False)]
)
def test_perception_encoder_is_the_row_of_cls_if_it_has_one(architecture, cls):
    tower, pixels = perception(architecture), frames(height=24)
    scores, source = tower_saliency(tower, pixels)
    weights = own_weights(tower, tower.timm_model.blocks[-1].attn, pixels)
    want = weights[:, :, 0, 1:].mean(1) if cls else weights.mean((1, 2))
    assert scores.shape == (3, 24) and torch.allclose(scores, want, atol=1e-6) and want.max() > 2 * want.min()
    received = (
        "attention received in the last layer, mean over heads and queries (this Perception Encoder has no [CLS])"
    )
    assert source == ("attention of [CLS] in the last layer, mean over heads" if cls else received)


def test_gemma_is_attention_received_in_its_pools():
    tower, (pixels, given) = gemma4(), placed()
    scores, source = tower_saliency(tower, pixels, **given)
    weights = own_weights(tower, tower.encoder.layers[-1].self_attn, pixels, **given)
    want = []
    for heads, places, (height, width) in zip(
        weights, given["pixel_position_ids"].tolist(), [(4, 6), (6, 2)], strict=True
    ):
        pools = [[0.0] * (width // 2) for _ in range(height // 2)]
        for n, (x, y) in enumerate(places[: height * width]):
            received = [float(heads[head, query, n]) for head in range(4) for query in range(height * width)]
            pools[y // 2][x // 2] += sum(received) / len(received) / 4
        want += [pool for row in pools for pool in row]
    assert scores.shape == (6 + 3,) and torch.allclose(scores, torch.tensor(want), atol=1e-6)
    assert scores[:6].max() > 1.5 * scores[:6].min()
    assert source == (
        "attention received in the last layer, mean over heads, the queries that are no padding and the patches of "
        "each pool (Gemma 4 has no [CLS])"
    )


EVERY = {
    "SigLIP": (siglip, lambda: (frames(), {})),
    "CLIP": (clip_tower, lambda: (frames(), {})),
    "InternVL": (lambda: internvl(use_qk_norm=True), lambda: (frames(), {})),
    "SmolVLM": (smolvlm, padded),
    "Idefics3": (idefics3, padded),
    "Perception Encoder": (perception, lambda: (frames(height=24), {})),
    "Gemma 4": (gemma4, placed),
} | {name: (make, lambda name=name: packed(name, GRID, (1, 4, 4))) for name, make in PACKED.items()}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", EVERY)
def test_half_precision_gives_float32(name, dtype):
    make, inputs = EVERY[name]
    tower, (pixels, given) = make(), inputs()
    want, _ = tower_saliency(tower, pixels, **given)
    scores, _ = tower_saliency(tower.to(dtype), pixels.to(dtype), **given)
    assert scores.dtype == torch.float32 and bool(scores.isfinite().all()) and bool((scores >= 0).all())
    assert torch.corrcoef(torch.stack([scores.flatten(), want.flatten()]))[0, 1] > 0.98
    assert not torch.equal(scores, scores.to(dtype).float())  # summed in float32, not rounded


@torch.no_grad()
@pytest.mark.parametrize("name", EVERY)
def test_the_tower_is_left_as_it_was(name):
    make, inputs = EVERY[name]
    tower, (pixels, given) = make(), inputs()
    given = (pixels, *given.values())
    before = tower(*given).last_hidden_state
    with watch_saliency(tower) as measure:
        during = tower(*given).last_hidden_state
    with pytest.raises(RuntimeError, match="stop"), watch_saliency(tower):
        raise RuntimeError("stop")
    assert torch.equal(measure()[0], tower_saliency(tower, pixels, **inputs()[1])[0])
    assert torch.equal(before, during) and torch.equal(before, tower(*given).last_hidden_state)
    assert not any(module._forward_pre_hooks for module in tower.modules())
    assert tower.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("name", EVERY)
def test_a_few_queries_at_a_time_are_all_of_them(name, monkeypatch):
    make, inputs = EVERY[name]
    tower, (pixels, given) = make(), inputs()
    want, _ = tower_saliency(tower, pixels, **given)
    monkeypatch.setattr(saliency, "_WEIGHTS", 100)
    assert torch.allclose(tower_saliency(tower, pixels, **given)[0], want, atol=1e-7)


class Largest(TorchDispatchMode):
    """Notes the most numbers that any one tensor made by torch has had."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.numbers = max(self.numbers, result.numel())
        return result


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize(("count", "side", "limit"), [(64, 27, 2 * 729 * 729), (1, 64, 2**24)])
def test_weights_are_never_held_all_at_once(count, side, limit):
    """Of 64 frames one at a time; of one frame with 4,096 patches some of its queries."""
    tower = siglip(image_size=4 * side)
    with watch_saliency(tower) as measure:
        tower(torch.zeros(count, 3, 4 * side, 4 * side))
    with Largest() as largest:
        scores, _ = measure()
    assert scores.shape == (count, side * side)
    assert largest.numbers == limit < count * 2 * side**4


@torch.no_grad()
@pytest.mark.parametrize("name", ["SigLIP", "Qwen3-VL"])
def test_another_thread_may_use_the_tower_meanwhile(name):
    make, inputs = EVERY[name]
    tower, (pixels, given) = make(), inputs()
    want, _ = tower_saliency(tower, pixels, **given)
    pixels_there, given_there = packed(name, (4, 2, 6)) if given else (frames(5, seed=9), {})
    other = threading.Thread(target=tower, args=(pixels_there,), kwargs=given_there)
    with watch_saliency(tower) as measure:
        tower(pixels, **given)
        other.start()
        other.join()
    assert torch.equal(measure()[0], want)


@torch.no_grad()
def test_the_last_run_counts():
    tower, (pixels, given) = smolvlm(), padded()
    with watch_saliency(tower) as measure:
        tower(pixels, **given)
        tower(pixels)
    assert torch.equal(measure()[0], tower_saliency(tower, pixels)[0])


def test_what_is_not_known_is_said():
    other = transformers.ViTModel(transformers.ViTConfig(**VIT))
    with pytest.raises(vtc.VTCError, match="vit tower; supported are siglip_vision_model, clip_vision_model, qwen2_vl"):
        tower_saliency(other, frames())
    with pytest.raises(vtc.VTCError, match="Linear tower; supported"):
        tower_saliency(torch.nn.Linear(2, 2), frames())
    for other in ("eva02_tiny_patch14_224", "vit_small_patch16_rope_mixed_224", "vit_tiny_patch16_224"):
        config = transformers.TimmWrapperConfig(
            architecture=other, model_args={"depth": 1, "embed_dim": 24, "num_heads": 2}
        )
        tower = transformers.TimmWrapperModel(config)
        with pytest.raises(vtc.VTCError, match=f"timm's {other}; of timm's towers it is for Perception Encoder's"):
            tower_saliency(tower, frames())
    for layer in (0, 4, -4, []):
        with pytest.raises(vtc.VTCError, match=r"feature_layer is .*; it must be 1 to 3, or -3 to -1"):
            tower_saliency(siglip(), frames(), feature_layer=layer)


@pytest.fixture(scope="module")
def model():
    return vtc.load_model(device="cpu")


def test_the_bundled_model_tells_its_saliency(model):
    clip, _ = vtc.make_clip(7)
    tokens = model.encode(clip, saliency=True)
    assert tokens.saliency.shape == tokens.grid == (len(clip), 14, 14) and tokens.saliency.dtype == torch.float32
    assert tokens.saliency_source == (
        "attention received in the last layer, mean over heads and queries (SigLIP has no [CLS]), then over the "
        "patches of each token"
    )
    pixels = model.processor.video_processor([clip.frames], return_tensors="pt")["pixel_values_videos"][0]
    scores, _ = tower_saliency(model.network.model.vision_tower, pixels)
    assert torch.allclose(scores.sum(1), torch.ones(len(clip)))
    # 28x28 patches to 14x14: bilinear at half the size is the mean of four.
    assert torch.allclose(tokens.saliency, functional.avg_pool2d(scores.view(-1, 28, 28), 2), atol=1e-8)
    assert torch.allclose(tokens.saliency.sum((1, 2)), torch.full((len(clip),), 0.25))
    assert bool((tokens.saliency >= 0).all()) and tokens.saliency.std() > 0
    reduced = vtc.reduce(tokens, "lftr", ratio=4, significance="attention")
    assert tokens.saliency_source in " ".join(reduced.notes)


@pytest.mark.slow
def test_the_order_of_asking_does_not_matter(model):
    clip, samples = vtc.make_clip(8, frames=8)
    other = vtc.make_clip(9, frames=8)[0]
    before = model.ask(samples[0]["question"], clip)
    plain = model.encode(clip)
    assert plain.saliency is None and plain.saliency_source == ""
    salient = model.encode(clip, saliency=True)
    assert torch.equal(salient.values, plain.values) and salient.seconds > 0
    assert model.encode(clip, saliency=True) is salient and model.encode(clip) is plain
    assert model.encode(other).saliency is None  # and clip is forgotten
    first = model.encode(clip, saliency=True)
    assert torch.equal(first.saliency, salient.saliency) and torch.equal(first.values, plain.values)
    then = model.encode(clip)
    assert then.saliency is None and then.saliency_source == "" and then.seconds < first.seconds
    assert torch.equal(then.values, plain.values)
    assert not torch.equal(model.encode(other, saliency=True).saliency[:8], salient.saliency[:8])
    assert torch.equal(model.ask(samples[0]["question"], clip).logits, before.logits)


@torch.no_grad()
def test_pooling_and_layer_are_those_of_the_model(model):
    """An odd grid and features of the last but one layer, as LLaVA-OneVision's 27x27 and others' -2."""
    config = deepcopy(model.network.config)
    config.vision_config.image_size, config.vision_feature_layer = 20, -2
    torch.manual_seed(0)
    network = transformers.LlavaOnevisionForConditionalGeneration(config).eval()
    settled(network.model.vision_tower)
    processor = deepcopy(model.processor)
    processor.video_processor.size, processor.num_image_tokens = {"height": 20, "width": 20}, 25
    clip, _ = vtc.make_clip(7)
    tokens = VideoModel(network, processor, "odd").encode(clip, saliency=True)
    assert tokens.saliency.shape == tokens.grid == (len(clip), 3, 3)
    assert tokens.saliency_source.startswith("attention received in layer 1 of 2")
    pixels = processor.video_processor([clip.frames], return_tensors="pt")["pixel_values_videos"][0]
    scores = by_hand(network.model.vision_tower, pixels, 1).mean((1, 2)).view(-1, 1, 5, 5)
    want = functional.interpolate(scores, (3, 3), mode="bilinear")[:, 0]
    assert torch.allclose(tokens.saliency, want, atol=1e-6)


def test_a_bfloat16_model_has_float32_saliency():
    model = vtc.load_model(device="cpu", dtype=torch.bfloat16)
    clip, _ = vtc.make_clip(7)
    plain, tokens = model.encode(clip), model.encode(clip, saliency=True)
    assert tokens.values.dtype == torch.bfloat16 and torch.equal(tokens.values, plain.values)
    assert tokens.saliency.dtype == torch.float32 and bool(tokens.saliency.isfinite().all())


# --- families, with their real processors ------------------------------------------------------------------------

SIDES = {"qwen3_5": (48, 32), "video_llama_3": (48, 32), "gemma4": (48, 32)}  # others make squares of everything


def clip_of(family, seed):
    """(6, H, W, 3) uint8, taller than wide where the family's tokens then are."""
    height, width = SIDES.get(family, (tiny_checkpoints.SIDE,) * 2)
    return tiny_checkpoints.frames(seed).repeat(2, 1)[:, :height, :width]


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize(
    "family", ["internvl", "smolvlm", "idefics3", "perception_lm", "gemma4", "video_llama_3", "qwen3_5"]
)
def test_tokens_have_the_saliency_of_their_patches(family):
    """Row by row and column by column, from the weights of the model's own attention; of Qwen from its tower's."""
    model, processor = load(family)
    inputs = prompt(family, processor, ("what", clip_of(family, 1)))
    tokens = encode_prompt(model, inputs, saliency=True).tokens[0]
    core = deepcopy(model).base_model
    tower, grid = getattr(core, vtc.models.families.FAMILIES[family].tower), tokens.grid
    assert grid[1] > grid[2] or family not in SIDES
    if family == "qwen3_5":
        want, _ = tower_saliency(tower, inputs["pixel_values_videos"], grid_thw=inputs["video_grid_thw"])
        assert torch.allclose(tokens.saliency, want.view(grid), atol=1e-7)
        return

    pixels = {"pixel_values": inputs["pixel_values_videos" if "pixel_values_videos" in inputs else "pixel_values"]}
    side = 2
    if family == "internvl":
        weights = own_weights(tower, tower.encoder.layer[-1].attention, **pixels)[:, :, 0, 1:].mean(1)
    elif family in ("smolvlm", "idefics3"):
        weights = own_weights(tower, tower.encoder.layers[-1].self_attn, pixels["pixel_values"][0]).mean((1, 2))
    elif family == "perception_lm":
        attention = tower.timm_model.blocks[-1].attn
        weights = own_weights(tower, attention, pixels["pixel_values"][0])[:, :, 0, 1:].mean(1)
    elif family == "gemma4":
        side, places = 3, inputs["video_position_ids"]
        there = (places >= 0).all(-1)[0]  # the same in every frame of a clip
        weights = own_weights(tower, tower.encoder.layers[-1].self_attn, **pixels, pixel_position_ids=places)
        weights = weights[:, :, there][..., there].mean((1, 2))
    else:
        given = {"grid_thw": inputs["video_grid_thw"], "merge_sizes": inputs["video_merge_sizes"]}
        weights = own_weights(tower, tower.encoder.layers[-1].self_attn, **pixels, **given)
        weights = torch.cat([frame.mean((1, 2)) for frame in weights])
    want = torch.zeros(grid)
    for t, row in enumerate(weights.tolist()):
        for n, weight in enumerate(row):
            if family == "video_llama_3":  # its patches lie group by group
                y, x = divmod(n // 4, grid[2])
            else:
                y, x = (place // side for place in divmod(n, grid[2] * side))
            want[t, y, x] += weight / side**2
    assert torch.allclose(tokens.saliency, want, atol=1e-6)
    assert not torch.allclose(tokens.saliency.mT.reshape(grid), want, atol=1e-4)
    words = ", then over the patches of each token"
    assert tokens.saliency_source.endswith(words) == (family in ("internvl", "smolvlm", "idefics3", "perception_lm"))


@pytest.mark.parametrize(
    "family", ["internvl", "smolvlm", "idefics3", "perception_lm", "gemma4", "video_llama_3", "qwen3_5"]
)
def test_clips_of_a_batch_have_the_saliency_they_have_alone(family):
    """Beside a picture, as SmolVLM's processor does not allow; of different sizes where a family has such."""
    model, processor = load(family)
    still = () if family == "smolvlm" else (tiny_checkpoints.frames(9)[0],)
    clips = [tiny_checkpoints.frames(1), clip_of(family, 2), clip_of(family, 3)[:, :, :32]]
    inputs = prompt(family, processor, ("is", *still, "in", clips[0], "?"), ("what", clips[1], "then", clips[2], "?"))
    places = clips_of(family, 6, 6, 6, skip=len(still))
    plain, salient = (encode_prompt(model, inputs, saliency=asked, **places) for asked in (False, True))
    assert torch.equal(plain.features, salient.features)
    assert len({tokens.grid for tokens in salient.tokens}) == (2 if family in SIDES else 1)
    for clip, with_it, without in zip(clips, salient.tokens, plain.tokens, strict=True):
        alone = encode_prompt(model, prompt(family, processor, ("what", clip)), saliency=True).tokens[0]
        assert torch.equal(with_it.values, without.values)
        assert with_it.saliency.shape == with_it.grid and bool((with_it.saliency > 0).all())
        assert torch.allclose(with_it.saliency, alone.saliency, atol=1e-6)


def test_padding_of_smolvlm_has_no_saliency():
    model, processor = load("smolvlm")
    inputs = prompt("smolvlm", processor, ("what", tiny_checkpoints.frames(1)))
    inputs["pixel_attention_mask"][0, 1, :, 16:] = 0
    tokens = encode_prompt(model, inputs, saliency=True).tokens[0]
    assert not tokens.saliency[1, :, 1].any() and bool((tokens.saliency[1, :, 0] > 0).all())
    assert bool((tokens.saliency[[0, 2, 3, 4, 5]] > 0).all())


@pytest.mark.parametrize(
    "family", ["internvl", "smolvlm", "idefics3", "perception_lm", "gemma4", "video_llama_3", "qwen3_5"]
)
def test_a_loaded_model_encodes_with_saliency(family):
    model = vtc.load_model(tiny_checkpoints.checkpoint(family), device="cpu", dtype=torch.bfloat16)
    clip = vtc.Clip(tiny_checkpoints.frames(1), np.arange(6) / 2)
    plain, tokens = model.encode(clip), model.encode(clip, saliency=True)
    assert torch.equal(plain.values, tokens.values) and tokens.values.dtype == torch.bfloat16
    assert tokens.saliency.shape == tokens.grid and tokens.saliency.dtype == torch.float32
    reduced = vtc.reduce(tokens, "visionzip", ratio=4)
    assert tokens.saliency_source in " ".join(reduced.notes)
