"""The cost model against torch's own count of real forward passes, and the speed-up that it calls ideal."""

import math

import pytest
import torch
from tiny_checkpoints import checkpoint, frames, prompt
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

import vtc_lab as vtc
from vtc_lab.models.compression import put_back
from vtc_lab.models.prompt_clips import encode_prompt

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


def test_a_family_that_was_never_compared_is_refused():
    with pytest.raises(vtc.VTCError, match="'qwen3_5' models were never compared"):
        vtc.stage_costs(AutoConfig.from_pretrained(checkpoint("qwen3_5")), (1, 2, 2))


@pytest.mark.parametrize(
    "named", [{"text": -1}, {"text": math.nan}, {"new_tokens": 0}, {"new_tokens": 1.5}, {"grid": (4, 14)}, {"grid": ""}]
)
def test_numbers_that_cannot_be_are_refused(named):
    with pytest.raises(vtc.VTCError, match=next(iter(named))):
        vtc.stage_costs(vtc.load_model().network, **{"grid": (4, 14, 14)} | named)
