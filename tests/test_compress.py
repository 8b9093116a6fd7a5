"""`compress` on checkpoints of every family, and its errors. What holds for which family stands in docs/families.md."""

from __future__ import annotations

import copy
import pickle
import runpy

import numpy as np
import pytest
import tiny_checkpoints
import torch
import transformers as hf
from conformance_table import (
    CHECKS,
    EVERY_FAMILY,
    EXPLANATIONS,
    PAGE,
    apart,
    explained,
    generate,
    load,
    logits,
    measure,
    new_tokens,
    same,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_checkpoints import QWEN_MARKS, SIDE, Tiny, frames, prompt

import vtc_lab as vtc
from vtc_lab.models.compression import compress, engaged, put_back
from vtc_lab.models.families import FAMILIES, Family, register_family
from vtc_lab.models.prompt_clips import encode_prompt

ROW = ("what moves", frames(1), "where ?")


def assert_sentence(caught: pytest.ExceptionInfo, *words: str) -> None:
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message and ". " not in message and not message.endswith("."), message


# --- every family ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", EVERY_FAMILY)
@pytest.mark.parametrize("check", CHECKS)
def test_family(family, check) -> None:
    found = measure(family, check)
    if found not in ("yes", "none"):
        pytest.skip(found)


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_the_page_says_of_each_family_what_was_measured(family) -> None:
    said = explained(PAGE.read_text())[FAMILIES[family].name]
    assert said == [measure(family, check) for check in CHECKS], "run python tests/conformance_table.py --write"


def test_the_page_has_every_family_and_explains_every_check() -> None:
    page = PAGE.read_text()
    assert list(explained(page)) == [entry.name for entry in FAMILIES.values()]
    assert [line for line in page.splitlines() if line.startswith("- **")] == EXPLANATIONS


def test_there_is_a_checkpoint_of_every_family() -> None:
    assert list(tiny_checkpoints.TINY) == list(FAMILIES)


@pytest.mark.parametrize(
    "family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "video_llama_3", "gemma4", "glm4v"]
)
def test_frames_that_are_wider_than_high(family) -> None:
    model, processor = load(family)
    before = np.concatenate([frames(1), frames(2)], 2)
    after = before.copy()
    after[4:, SIDE // 2 :, SIDE:] = 255 - after[4:, SIDE // 2 :, SIDE:]
    one, other = (
        encode_prompt(model, prompt(family, processor, ("what", clip))).tokens[0].values for clip in (before, after)
    )
    change = (one - other).norm(dim=-1)
    t, h, w = change.shape
    assert h < w
    assert change[4 * t // 6 :, (h + 1) // 2 :, (w + 1) // 2 :].mean() > 1.2 * change.mean()
    assert int(change.argmax()) % (h * w) // w >= h // 2 and int(change.argmax()) % w >= w // 2


def test_the_newline_and_the_class_tokens_stay() -> None:
    for family, shape, first in (("llava_onevision", (25,), False), ("video_llava", (6, 17), True)):
        model, processor = load(family)
        inputs = prompt(family, processor, ROW)
        with torch.no_grad():
            given = model.model.get_video_features(inputs["pixel_values_videos"]).pooler_output.view(*shape, -1)
        extra, patches = (given[:, 0], given[:, 1:]) if first else (given[-1:], given[:-1])
        values = encode_prompt(model, inputs).tokens[0].values
        assert torch.equal(values.flatten(0, 2), patches.reshape(-1, 32))
        entering = compress(model, inputs, "lftr", ratio=8)["mm_encoder_outputs"]["video"].pooler_output[:, 0]
        assert all((entering == token).all(1).any() for token in extra)
        assert len(entering) == len(extra) + values.flatten(0, 2).shape[0] // 8


# --- a script of somebody else's ---------------------------------------------------------------------------------

SCRIPT = """import numpy as np
import vtc_lab as vtc
import vtc_lab.models.torchvision_ops  # only beside a CPU torch
from transformers import AutoModelForImageTextToText, AutoProcessor

model, processor = AutoModelForImageTextToText.from_pretrained({0!r}), AutoProcessor.from_pretrained({0!r})
inputs = processor(text="<video> what moves ?", videos=[np.load({1!r})], return_tensors="pt")
inputs = vtc.compress(model, inputs, "lftr", ratio=8)
print(inputs.reductions[0].ledger)
print(model.generate(**inputs, max_new_tokens=4, do_sample=False).shape)
"""


@pytest.mark.slow
def test_five_lines_anywhere(tmp_path, monkeypatch, capsys) -> None:
    np.save(tmp_path / "clip.npy", frames(1))
    folder = tiny_checkpoints.checkpoint("llava_onevision")
    (tmp_path / "mine.py").write_text(SCRIPT.format(str(folder), str(tmp_path / "clip.npy")))
    assert len(SCRIPT.split("\n\n")[1].splitlines()) == 5
    monkeypatch.chdir(tmp_path)
    runpy.run_path("mine.py")
    # 3 of 24 tokens, the newline and the 3 words; and 4 new ones
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("kept 3 of 24 tokens, 8.0x") and said[1] == "torch.Size([1, 11])"


# --- one more family ---------------------------------------------------------------------------------------------


def vipllava():
    model, processor = tiny_checkpoints.llava()
    config = {**model.config.to_dict(), "vision_feature_layer": [-1, 1]}
    return hf.VipLlavaForConditionalGeneration(hf.VipLlavaConfig(**config)), processor


def exaone4_5():
    vision = {"hidden_size": 16, "intermediate_size": 24, "out_hidden_size": 32, "window_size": 16}
    vision |= {"fullatt_block_indexes": [1], "num_key_value_heads": 1}
    classes = (hf.Exaone4_5_ForConditionalGeneration, hf.Exaone4_5_Config, hf.Exaone4Config)
    layers = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 512}
    return tiny_checkpoints.qwen(*classes, vision, hf.Exaone4_5_Processor, hf.Qwen2VLVideoProcessor, **layers)


@pytest.fixture
def more(monkeypatch):
    """Two families that are not among the supported ones, as somebody's checkpoints."""
    monkeypatch.setitem(tiny_checkpoints.TINY, "vipllava", Tiny(vipllava, frames_as_pictures=True))
    monkeypatch.setitem(tiny_checkpoints.TINY, "exaone4_5", Tiny(exaone4_5, **QWEN_MARKS))


def grids(core, inputs, count):
    return [(t, height // 2, width // 2) for t, height, width in inputs["video_grid_thw"].tolist()]


@pytest.mark.slow
def test_a_family_that_is_not_there_can_be_added(more) -> None:
    model, processor = load("vipllava")
    with pytest.raises(vtc.VTCError) as caught:
        compress(model, prompt("vipllava", processor, ROW), "lftr", ratio=4)
    ways = "register_family('vipllava', Family(name, grids))", "register_family('vipllava', {}.FAMILIES['llava'])"
    assert_sentence(caught, "'vipllava' models", *(way.format("vtc_lab.models.families") for way in ways))
    with pytest.raises(vtc.VTCError) as loading:
        vtc.load_model(model.name_or_path)
    assert_sentence(loading, model.name_or_path, str(caught.value))
    register_family("vipllava", FAMILIES["llava"])
    for check in CHECKS.values():
        check("vipllava")


def test_positions_that_a_model_throws_away_are_noticed(more) -> None:
    """EXAONE 4.5 in transformers 5.23: its forward takes positions, its generate drops them."""
    model, processor = load("exaone4_5")
    register_family("exaone4_5", Family("EXAONE 4.5", grids, tower="visual"))
    inputs = prompt("exaone4_5", processor, ROW)
    reduced = compress(model, inputs, "random", ratio=4)
    with engaged(model, reduced):
        logits(model, reduced)
    with pytest.raises(vtc.VTCError) as caught, engaged(model, reduced):
        generate(model, reduced)
    assert_sentence(caught, "Exaone4_5_ForConditionalGeneration", "positions of its own", "compact")
    reduced = compress(model, inputs, "random", ratio=4, positions="compact")
    with engaged(model, reduced):
        generate(model, reduced)


def test_grids_that_do_not_fit_are_told(more) -> None:
    model, processor = load("exaone4_5")
    register_family("exaone4_5", Family("EXAONE 4.5", lambda core, inputs, count: [(2, 4, 4)], tower="visual"))
    with pytest.raises(vtc.VTCError) as caught:
        compress(model, prompt("exaone4_5", processor, ROW), "lftr", ratio=4)
    assert_sentence(caught, "EXAONE 4.5", "[(2, 4, 4)]", "32 features", "48")


def test_a_model_without_the_door_is_told() -> None:
    model = hf.LlamaForCausalLM(hf.LlamaConfig(hidden_size=32, num_hidden_layers=1, vocab_size=9))
    register_family("llama", Family("Llama", lambda core, inputs, count: []))
    with pytest.raises(vtc.VTCError) as caught:
        compress(model, {"input_ids": torch.ones(1, 3)}, "lftr", ratio=4)
    assert_sentence(caught, "LlamaForCausalLM", "mm_encoder_outputs", "5.18")


# --- what comes in and goes out ----------------------------------------------------------------------------------


def test_inputs_stay_as_they_were() -> None:
    model, processor = load("qwen3_vl")
    inputs = prompt("qwen3_vl", processor, ROW, ("is it", frames(2), "red ?"))
    before = {name: value.clone() for name, value in inputs.items()}
    reduced = compress(model, inputs, "lftr", ratio=4)
    assert inputs.keys() == before.keys() and all(torch.equal(inputs[name], before[name]) for name in before)
    assert set(reduced) == {"input_ids", "attention_mask", "mm_token_type_ids", "position_ids", "mm_encoder_outputs"}
    assert reduced["position_ids"].shape == (4, *reduced["input_ids"].shape)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_what_stays_is_what_a_plain_loop_leaves(data) -> None:
    """Row by row: ids, kinds, labels and positions of all tokens but the removed ones, padded on the side they were."""
    model, processor = load("llava_onevision")
    side = data.draw(st.sampled_from(["left", "right"]))
    kinds = {
        "text": ("what is red ?",),
        "one": ("is it", frames(1)),
        "two": ("what", frames(2), "then", frames(3), "?"),
    }
    chosen = data.draw(
        st.lists(st.sampled_from(list(kinds)), min_size=1, max_size=3).filter(lambda c: set(c) != {"text"})
    )
    inputs = prompt("llava_onevision", processor, *(kinds[kind] for kind in chosen), padding_side=side)
    inputs["labels"] = inputs["input_ids"].clone()
    encoded = encode_prompt(model, inputs)
    reductions = [
        vtc.prune(tokens, data.draw(st.lists(st.integers(0, 23), min_size=1, unique=True))) for tokens in encoded.tokens
    ]
    reduced = put_back(model, encoded, reductions)
    keep = iter([bool(kept) for each in reductions for kept in [*each.kept.flatten().tolist(), True]])
    place, rows = model.config.video_token_id, []
    for ids, mask in zip(inputs["input_ids"].tolist(), inputs["attention_mask"].tolist(), strict=True):
        real = [token for token, alive in zip(ids, mask, strict=True) if alive]
        rows.append([(token, n) for n, token in enumerate(real) if token != place or next(keep)])
    assert next(keep, None) is None
    width, side = max(map(len, rows)), "left" if inputs["attention_mask"].all() else side
    for n, row in enumerate(rows):
        pad = [None] * (width - len(row))
        expected = [*pad, *row] if side == "left" else [*row, *pad]
        assert reduced["input_ids"][n].tolist() == [each[0] if each else 0 for each in expected]
        assert reduced["labels"][n].tolist() == [each[0] if each else -100 for each in expected]
        assert reduced["position_ids"][n].tolist() == [each[1] if each else 0 for each in expected]
        assert reduced["attention_mask"][n].tolist() == [int(each is not None) for each in expected]
    with engaged(model, reduced):
        logits(model, {name: value for name, value in reduced.items() if name != "labels"})


def test_a_right_padded_batch_is_as_the_prompts_alone() -> None:
    model, processor = load("qwen2_5_vl")
    rows = [ROW, ("is the first one red ?", frames(2, still=6), "?")]
    reduced = compress(model, prompt("qwen2_5_vl", processor, *rows, padding_side="right"), "lftr", min_fidelity=0.8)
    together = logits(model, reduced)
    widths = reduced["attention_mask"].sum(1)
    assert 0 < reduced.padding == pytest.approx(1 - float(widths.float().mean() / widths.max()))
    for n, row in enumerate(rows):
        alone = logits(model, compress(model, prompt("qwen2_5_vl", processor, row), "lftr", min_fidelity=0.8))
        same(together[n : n + 1, : alone.shape[1]], alone)


def test_inputs_without_mask_or_kinds() -> None:
    model, processor = load("qwen3_vl")
    inputs = prompt("qwen3_vl", processor, ROW)
    bare = {name: value for name, value in inputs.items() if name not in ("attention_mask", "mm_token_type_ids")}
    one, other = compress(model, inputs, "lftr", ratio=4), compress(model, bare, "lftr", ratio=4)
    assert torch.equal(logits(model, one), logits(model, other))


def test_options_reach_the_method_and_notes_come_back() -> None:
    model, processor = load("llava_onevision")
    reduced = compress(
        model, prompt("llava_onevision", processor, ROW), "lftr", temporal_ratio=2, significance="attention"
    )
    reduction = reduced.reductions[0]
    assert reduction.options["temporal_ratio"] == 2 and len(reduction) == 12
    assert any("attention received" in note for note in reduction.notes)


@pytest.mark.parametrize("family", ["llava_onevision", "qwen3_vl"])
@pytest.mark.parametrize("way", [{"cache_implementation": "static"}, {"prefill_chunk_size": 7}])
def test_other_ways_to_generate(family, way) -> None:
    model, processor = load(family)
    reduced = compress(model, prompt(family, processor, ROW), "random", ratio=4)
    plain = generate(model, reduced)
    with engaged(model, reduced):
        other = generate(model, reduced, **way)
    assert torch.equal(new_tokens(reduced, plain), new_tokens(reduced, other))
    same(torch.stack(plain.logits), torch.stack(other.logits))


@pytest.mark.parametrize("family", ["llava", "molmo2"])
def test_gaps_without_cache_are_noticed(family) -> None:
    model, processor = load(family)
    reduced = compress(model, prompt(family, processor, ROW), "random", ratio=4)
    with pytest.raises(vtc.VTCError) as caught, engaged(model, reduced):
        broken = generate(model, reduced, use_cache=False)
    assert_sentence(caught, "use_cache", "compact")
    # That is, there is something to notice:
    assert apart(torch.stack(broken.logits), torch.stack(generate(model, reduced).logits)) > 0.01


@pytest.mark.slow
def test_what_was_compiled_before_cannot_be_watched() -> None:
    model, processor = load("llava_onevision")
    reduced = compress(model, prompt("llava_onevision", processor, ROW), "random", ratio=4)
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        compiled(**reduced)
        with pytest.raises(vtc.VTCError, match="compiled before and cannot be watched"), engaged(compiled, reduced):
            compiled(**reduced)


def test_a_run_that_did_not_happen_did_not_engage() -> None:
    model, processor = load("llava")
    reduced = compress(model, prompt("llava", processor, ROW), "random", ratio=4)
    with pytest.raises(vtc.VTCError) as caught, engaged(model, reduced):
        pass
    assert_sentence(caught, "0 of 24", "did not engage")


# --- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ({}, {"positions": "keep"}, ["'keep'", "'preserve'", "'compact'"]),
        ({}, {"method": "lfrt"}, ["'lfrt'", "'lftr'"]),
        ({}, {"ratio": 25}, ["25", "24"]),
        ({}, {"ratio": None}, ["budget"]),
        ({}, {"clips": [slice(0, 6)]}, ["LLaVA-OneVision", "clips"]),
        ({"input_ids": None}, {}, ["processor", "unchanged"]),
        ({"attention_mask": torch.ones(1, 3)}, {}, ["processor", "unchanged"]),
        ({"mm_encoder_outputs": {}}, {}, ["mm_encoder_outputs", "unchanged"]),
        ({"input_ids": torch.ones(1, 27, dtype=torch.long)}, {}, ["0 places", "25 features", "video token 5"]),
        ({"input_ids": [[1, 2, 3]]}, {}, ["input_ids is a list", "return_tensors='pt'"]),
        ({"input_ids": torch.ones(27, dtype=torch.long)}, {}, ["input_ids has shape (27,)", "unchanged"]),
        ({"position_ids": torch.ones(1, 27)}, {}, ["position_ids", "unchanged"]),
    ],
)
def test_errors(changes, options, words) -> None:
    model, processor = load("llava_onevision")
    inputs = {**prompt("llava_onevision", processor, ("what", frames(1), "?")), **changes}
    with pytest.raises(vtc.VTCError) as caught:
        compress(model, inputs, **{"method": "lftr", "ratio": 4, **options})
    assert_sentence(caught, *words)


@pytest.mark.parametrize("inputs", [None, "what moves ?", torch.ones(1, 3)])
def test_inputs_that_no_processor_made(inputs) -> None:
    with pytest.raises(vtc.VTCError, match=f"inputs is a {type(inputs).__name__}; give what the processor made"):
        compress(load("llava_onevision")[0], inputs, "lftr", ratio=4)


@pytest.mark.parametrize("model", [None, "some/where"])
def test_what_is_no_model(model) -> None:
    with pytest.raises(vtc.VTCError, match="model is a .*; give the model itself, loaded by from_pretrained"):
        compress(model, {}, "lftr", ratio=4)


def test_a_wrapped_model_is_unwrapped() -> None:
    model, processor = load("qwen3_vl")
    inputs, lora = prompt("qwen3_vl", processor, ROW), torch.nn.Module()  # PEFT's models have this method
    lora.get_base_model = lambda: model
    expected = compress(model, inputs, "random", ratio=4)
    for wrapped in (torch.compile(model), torch.nn.DataParallel(model), lora):
        reduced = compress(wrapped, inputs, "random", ratio=4)
        with engaged(wrapped, reduced):
            same(logits(model, reduced), logits(model, expected))


def test_other_inputs_than_compress_gave_are_told() -> None:
    model, processor = load("llava")
    reduced = compress(model, prompt("llava", processor, ROW), "random", ratio=4)
    for wrong in (dict(reduced), model):
        with pytest.raises(vtc.VTCError, match="give what compress returned"), engaged(model, wrong):
            logits(model, reduced)


@pytest.mark.parametrize("family", ["llava_onevision", "qwen3_vl"])
def test_copies_have_everything_and_move_whole(family) -> None:
    model, processor = load(family)
    reduced = compress(model, prompt(family, processor, ROW), "pool", ratio=4)
    expected = logits(model, reduced)
    for again in (copy.copy(reduced), copy.deepcopy(reduced), pickle.loads(pickle.dumps(reduced))):
        assert [each.ledger for each in again.reductions] == [each.ledger for each in reduced.reductions]
        with engaged(model, again):
            assert torch.equal(logits(model, again), expected)
    output = copy.deepcopy(reduced).to(torch.bfloat16)["mm_encoder_outputs"]["video"]
    assert {x.dtype for x in flat(output.values())} == {torch.bfloat16}
    moved = copy.deepcopy(reduced).to("meta")
    assert {x.device.type for x in flat([*moved["mm_encoder_outputs"]["video"].values(), moved["input_ids"]])} == {
        "meta"
    }


def flat(values) -> list[torch.Tensor]:
    """All tensors in lists within lists."""
    return [x for value in values for x in ([value] if isinstance(value, torch.Tensor) else flat(value or ()))]


def test_prompt_lookup_decodes_what_greedy_does() -> None:
    """Its first guesses run together with the prompt."""
    model, processor = load("llava_onevision")
    inputs = prompt("llava_onevision", processor, ("what moves", frames(1), "what moves what moves what moves"))
    reduced = compress(model, inputs, "random", ratio=4)
    with engaged(model, reduced):
        guessed = generate(model, reduced, prompt_lookup_num_tokens=4, max_matching_ngram_size=1)
    assert torch.equal(guessed.sequences, generate(model, reduced).sequences)


def test_pictures_that_are_not_square() -> None:
    """LLaVA with a Pixtral tower takes pictures as they are."""
    tower = hf.PixtralVisionConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2)
    tower.patch_size = 8
    config = load("llava")[0].config.to_dict() | {"vision_config": tower.to_dict(), "vision_feature_layer": -1}
    model = hf.LlavaForConditionalGeneration(
        hf.LlavaConfig(**config | {"vision_feature_select_strategy": "full"})
    ).eval()
    ids = torch.tensor([[7, *[model.config.image_token_id] * 32, 8]])
    inputs = {"input_ids": ids, "pixel_values": torch.rand(2, 3, 16, 64), "image_sizes": torch.tensor([[16, 64]] * 2)}
    reduced = compress(model, inputs, "random", ratio=4)
    assert reduced.reductions[0].grid == (2, 2, 8)
    assert torch.equal(logits(model, compress(model, inputs, "random", ratio=1)), logits(model, inputs))


def test_a_picture_whose_pixels_are_missing_is_told() -> None:
    model, processor = load("qwen3_vl")
    inputs = prompt("qwen3_vl", processor, ("is", frames(5)[0], "in", frames(1), "?"))
    one = prompt("qwen3_vl", processor, ("is", frames(5)[0], "?"))
    more = {
        **inputs,
        "pixel_values": torch.cat([one["pixel_values"]] * 2),
        "image_grid_thw": one["image_grid_thw"].repeat(2, 1),
    }
    with pytest.raises(vtc.VTCError) as caught:
        compress(model, more, "lftr", ratio=4)
    assert_sentence(caught, "Qwen3-VL", "image", "unchanged")


@pytest.mark.parametrize("clips", [[slice(0, 4), slice(3, 6)], [slice(9, 12)], [slice(0, 0)], [slice(4, 8)]])
def test_clips_that_cannot_be(clips) -> None:
    model, processor = load("internvl")
    inputs = prompt("internvl", processor, ROW, ROW)
    with pytest.raises(vtc.VTCError) as caught:
        compress(model, inputs, "lftr", ratio=4, clips=clips if clips[0].start != 9 else [slice(12, 13)])
    assert_sentence(caught, "clips", "12 pictures")


def test_no_clips_among_pictures_changes_nothing() -> None:
    model, processor = load("llava")
    inputs = prompt("llava", processor, ROW)
    assert compress(model, inputs, "lftr", ratio=4, clips=[])["pixel_values"] is inputs["pixel_values"]


def test_pictures_of_a_prompt_are_its_clip_by_default() -> None:
    model, processor = load("smolvlm")
    reduced = compress(model, prompt("smolvlm", processor, ROW, ("is it red ?",), ROW), "lftr", ratio=4)
    assert [reduction.grid for reduction in reduced.reductions] == [(6, 2, 2), (6, 2, 2)]


def test_a_processor_that_has_removed_tokens_itself_is_told() -> None:
    model, processor = load("video_llama_3")
    still = frames(1, still=6)
    inputs = processor(text="<|video_pad|> what", videos=[still], use_token_compression=True, return_tensors="pt")
    with pytest.raises(vtc.VTCError) as caught:
        compress(model, inputs, "lftr", ratio=4)
    assert_sentence(caught, "VideoLLaMA3", "use_token_compression=False")
