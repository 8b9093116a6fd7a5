"""The cost model against torch's own count of real forward passes, and the speed-up that it calls ideal."""

import math

import numpy as np
import pytest
import torch
from tiny_checkpoints import checkpoint, frames, prompt
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

import vtc_lab as vtc
from vtc_lab.models.compression import put_back
from vtc_lab.models.prompt_clips import encode_prompt
from vtc_lab.reducers.registry import METHODS

FAMILIES = ["llava_onevision", "llava_next_video", "video_llava", "llava", "internvl", "smolvlm", "idefics3"]
FAMILIES += ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v"]


def counted(run):
    """Return what a function gives, and the FLOPs that torch counts while it runs."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        result = run()
    return result, counter.get_total_flops()


@pytest.mark.parametrize("family", FAMILIES)
def test_costs_are_those_that_torch_counts(family, ratio=3):
    folder = checkpoint(family, 3)
    network, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    inputs = prompt(family, processor, (frames(1), "what moves ?"))
    whole = [slice(None)] if "pixel_values" in inputs and family != "glm4v" else None
    found, vision = counted(lambda: encode_prompt(network, inputs, clips=whole))
    tokens = found.tokens[0]
    given = put_back(network, found, [vtc.reduce(tokens, "random", ratio=ratio)])
    output, prefill = counted(lambda: network(**given, use_cache=True, logits_to_keep=1))
    held, width = round(tokens.total / ratio), given["input_ids"].shape[1]
    more = torch.cat([given["attention_mask"], torch.ones(1, 1, dtype=torch.long)], 1)
    step = {"input_ids": given["input_ids"][:, -1:], "attention_mask": more, "past_key_values": output.past_key_values}
    step["position_ids"] = given["position_ids"][..., -1:] + 1
    _, decode = counted(lambda: network(**step))

    costs = vtc.stage_costs(AutoConfig.from_pretrained(folder), tokens.grid, held, text=width - held, new_tokens=2)
    stages = costs.groupby("stage").sum()
    assert stages.flops["vision"] + stages.flops["projector"] == pytest.approx(vision, rel=0.02)
    assert stages.flops["prefill"] == pytest.approx(prefill, rel=0.02)
    assert stages.flops["decode"] == pytest.approx(decode, rel=0.02)
    kept = sum(2 * layer.keys.nbytes for layer in output.past_key_values.layers)  # of both steps
    assert costs.kv_bytes.sum() == kept
    unused = getattr(network.base_model, "image_tower", torch.nn.Module())  # Video-LLaVA's
    parameters = network.num_parameters() - sum(weight.numel() for weight in unused.parameters())
    assert stages.parameters.drop("decode").sum() == pytest.approx(parameters, rel=0.001)  # without newlines


@pytest.mark.parametrize(
    ("family", "method"),
    [("llava_onevision", "same-place"), ("llava", "same-place"), ("qwen3_vl", "same-place"), ("qwen2_5_vl", "uniform")],
)
def test_a_stage_before_the_encoder_costs_what_is_encoded(family, method):
    """The place that is kept stands for no other, and so none is encoded for that."""

    @vtc.method(name="same-place")
    def run(tokens, budget):
        return vtc.prune(tokens, torch.arange(tokens.total).view(tokens.grid)[:, 1, 1])

    try:
        model, clip = vtc.load_model(checkpoint(family, 3)), vtc.Clip(frames(1), np.arange(6) / 2)
        grid = model.encode(clip).grid
        ratio = grid[1] * grid[2] if method == "same-place" else grid[0]
        _, torchs = counted(lambda: vtc.reduce_clip(model, clip, method, ratio, stage="pixels"))
    finally:
        METHODS.pop("same-place")
    encoded = [n for n in model.part[2].values[..., 0].isfinite().flatten(1).sum(1).tolist() if n]
    assert encoded == ([1] * grid[0] if method == "same-place" else [grid[1] * grid[2]])
    costs = vtc.stage_costs(model.network, grid, encoded=encoded).groupby("stage").flops.sum()
    assert costs.vision + costs.projector == pytest.approx(torchs, rel=0.02)


def test_a_stage_inside_costs_what_its_layers_hold():
    """Half of the tokens in all layers cost as much as half on average, but for attention, which is quadratic."""
    network, grid = vtc.load_model().network, (16, 14, 14)
    sums = [
        vtc.stage_costs(network, grid, held, text=0).groupby("stage").sum() for held in (1568, [2352] * 3 + [784] * 3)
    ]
    even, uneven = (table.loc["prefill"] for table in sums)
    assert even.flops - even.attention == uneven.flops - uneven.attention
    assert even.attention < uneven.attention and even.kv_bytes == uneven.kv_bytes


def test_ideal_speedup_is_bounded_by_what_stays():
    network, grid = vtc.load_model().network, (16, 14, 14)
    full, tiny = (vtc.stage_costs(network, grid, held) for held in (None, 1))
    assert vtc.ideal_speedup(full, full) == 1
    assert 1 < vtc.ideal_speedup(full, tiny, {"encode": 3.0, "prefill": 1.0}) < 4 / 3
    assert vtc.ideal_speedup(full, tiny) < vtc.ideal_speedup(full, tiny, {"prefill": 1.0})


@pytest.mark.parametrize("held", [0, 5, [4, 4, 4]])
def test_more_tokens_than_there_are_cost_nothing_that_is_known(held):
    with pytest.raises(vtc.VTCError, match="give 1 to 4 visual tokens, or 6 such numbers"):
        vtc.stage_costs(vtc.load_model().network, (1, 2, 2), held)


@pytest.mark.parametrize("encoded", [[], [0], [5], [4] * 3, [2.0], "44"])
def test_more_than_there_is_cannot_be_encoded(encoded):
    with pytest.raises(vtc.VTCError, match="give 1 to 4 tokens for each of 1 to 2 frames"):
        vtc.stage_costs(vtc.load_model().network, (2, 2, 2), encoded=encoded)


def test_a_family_that_was_never_compared_is_refused():
    with pytest.raises(vtc.VTCError, match="'qwen3_5' models were never compared"):
        vtc.stage_costs(AutoConfig.from_pretrained(checkpoint("qwen3_5")), (1, 2, 2))


@pytest.mark.parametrize(
    "named", [{"text": -1}, {"text": math.nan}, {"new_tokens": 0}, {"new_tokens": 1.5}, {"grid": (4, 14)}, {"grid": ""}]
)
def test_numbers_that_cannot_be_are_refused(named):
    with pytest.raises(vtc.VTCError, match=next(iter(named))):
        vtc.stage_costs(vtc.load_model().network, **{"grid": (4, 14, 14)} | named)
