"""Saliency is the attention of the tower's own last layer, and to ask for it changes nothing else."""

import cmath
import math
import threading
from copy import deepcopy

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

import vtc_lab as vtc
from vtc_lab.models import saliency
from vtc_lab.models.saliency import tower_saliency, watch_saliency
from vtc_lab.models.video_model import VideoModel

# isort: off
import transformers  # after vtc_lab, which mends the import of torchvision
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel
# isort: on

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


def qwen3():
    config = Qwen3VLVisionConfig(**WIDE, num_position_embeddings=16, deepstack_visual_indexes=[1])
    return settled(Qwen3VLVisionModel(config))


QWENS = {"Qwen2-VL": qwen2, "Qwen2.5-VL": qwen2_5, "Qwen2.5-VL windows": lambda: qwen2_5([1]), "Qwen3-VL": qwen3}


def frames(count=3, seed=0):
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def packed():
    patches = math.prod(GRID)
    return torch.randn(patches, 3 * 2 * 4 * 4, generator=torch.Generator().manual_seed(1)), torch.tensor([GRID])


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


def qwen_order(windowed):
    """For each row of a Qwen tower, as lists: its frame, patch row and column, merge group, and sequence."""
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


@torch.no_grad()
@pytest.mark.parametrize("name", QWENS)
def test_qwen_is_attention_received_in_its_merge_groups(name):
    tower, (pixels, grid) = QWENS[name](), packed()
    scores, source = tower_saliency(tower, pixels, grid_thw=grid)

    hidden, attention = tower(pixels, grid, output_hidden_states=True).hidden_states[-2], tower.blocks[-1].attn
    hidden = tower.blocks[-1].norm1(hidden)
    order, (size, heads) = qwen_order("2.5" in name), (16, 2)
    width, half, quarter = size // heads, size // heads // 2, size // heads // 4
    numbers = linear(attention.qkv, hidden)
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

    assert scores.dtype == torch.float32 and scores.shape == (2, 15)
    assert torch.allclose(scores.double(), want, atol=1e-6)
    assert want.max() > 2 * want.min()
    assert source == (
        "attention received in the last layer, mean over heads, the queries that see it and the patches of each "
        f"merge group ({name.split()[0]} has no [CLS])"
    )


EVERY = {"SigLIP": siglip, "CLIP": clip_tower, **QWENS}


def inputs_of(name):
    return packed() if name.startswith("Qwen") else (frames(), None)


@pytest.mark.parametrize("name", EVERY)
def test_bfloat16_gives_float32(name):
    tower, (pixels, grid) = EVERY[name](), inputs_of(name)
    want, _ = tower_saliency(tower, pixels, grid_thw=grid)
    scores, _ = tower_saliency(tower.bfloat16(), pixels.bfloat16(), grid_thw=grid)
    assert scores.dtype == torch.float32 and bool(scores.isfinite().all()) and bool((scores >= 0).all())
    assert torch.corrcoef(torch.stack([scores.flatten(), want.flatten()]))[0, 1] > 0.98
    assert not torch.equal(scores, scores.bfloat16().float())  # summed in float32, not rounded


@torch.no_grad()
@pytest.mark.parametrize("name", EVERY)
def test_the_tower_is_left_as_it_was(name):
    tower, (pixels, grid) = EVERY[name](), inputs_of(name)
    given = (pixels,) if grid is None else (pixels, grid)
    before = tower(*given).last_hidden_state
    with watch_saliency(tower, grid_thw=grid) as measure:
        during = tower(*given).last_hidden_state
    with pytest.raises(RuntimeError, match="stop"), watch_saliency(tower, grid_thw=grid):
        raise RuntimeError("stop")
    assert torch.equal(measure()[0], tower_saliency(tower, pixels, grid_thw=grid)[0])
    assert torch.equal(before, during) and torch.equal(before, tower(*given).last_hidden_state)
    assert not any(module._forward_pre_hooks for module in tower.modules())
    assert tower.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("name", EVERY)
def test_a_few_queries_at_a_time_are_all_of_them(name, monkeypatch):
    tower, (pixels, grid) = EVERY[name](), inputs_of(name)
    want, _ = tower_saliency(tower, pixels, grid_thw=grid)
    monkeypatch.setattr(saliency, "_WEIGHTS", 100)
    assert torch.allclose(tower_saliency(tower, pixels, grid_thw=grid)[0], want, atol=1e-7)


class Largest(TorchDispatchMode):
    """Notes the most numbers that any one tensor made by torch has had."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.numbers = max(self.numbers, result.numel())
        return result


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
def test_another_thread_may_use_the_tower_meanwhile():
    tower, want = siglip(), tower_saliency(siglip(), frames())[0]
    other = threading.Thread(target=tower, args=(frames(5, seed=9),))
    with watch_saliency(tower) as measure:
        tower(frames())
        other.start()
        other.join()
    assert torch.equal(measure()[0], want)


def test_what_is_not_known_is_said():
    other = transformers.ViTModel(transformers.ViTConfig(**VIT))
    with pytest.raises(vtc.VTCError, match="vit tower; supported are siglip_vision_model, clip_vision_model, qwen2_vl"):
        tower_saliency(other, frames())
    with pytest.raises(vtc.VTCError, match="Linear tower; supported"):
        tower_saliency(torch.nn.Linear(2, 2), frames())
    with pytest.raises(vtc.VTCError, match=r"Qwen3-VL tower needs the \(1, 3\) grid of one clip, not none"):
        tower_saliency(qwen3(), packed()[0])
    with pytest.raises(vtc.VTCError, match=r"needs .* not one of shape \(2, 3\)"):
        tower_saliency(qwen2(), packed()[0], grid_thw=torch.tensor([GRID, GRID]))
    for layer in (0, 4, -4, []):
        with pytest.raises(vtc.VTCError, match=r"feature_layer is .*; it must be 1 to 3, or -3 to -1"):
            tower_saliency(siglip(), frames(), feature_layer=layer)


@pytest.fixture(scope="module")
def model():
    return vtc.load_model(device="cpu")


def test_the_bundled_model_tells_its_saliency(model):
    clip, _ = vtc.make_clip(7)
    tokens = model.encode(clip, saliency=True)
    assert tokens.saliency.shape == tokens.grid == (len(clip), 8, 8) and tokens.saliency.dtype == torch.float32
    assert (
        tokens.saliency_source
        == "attention received in the last layer, mean over heads and queries (SigLIP has no [CLS])"
    )
    pixels = model.processor.video_processor([clip.frames], return_tensors="pt")["pixel_values_videos"][0]
    scores, _ = tower_saliency(model.network.model.vision_tower, pixels)
    assert torch.allclose(scores.sum(1), torch.ones(len(clip)))
    # 16x16 patches to 8x8: bilinear at half the size is the mean of four.
    assert torch.allclose(tokens.saliency, functional.avg_pool2d(scores.view(-1, 16, 16), 2), atol=1e-8)
    assert torch.allclose(tokens.saliency.sum((1, 2)), torch.full((len(clip),), 0.25))
    assert bool((tokens.saliency >= 0).all()) and tokens.saliency.std() > 0
    reduced = vtc.reduce(tokens, "lftr", ratio=4, significance="attention")
    assert tokens.saliency_source in " ".join(reduced.notes)


def test_the_order_of_asking_does_not_matter(model):
    clip, samples = vtc.make_clip(8)
    other = vtc.make_clip(9)[0]
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
