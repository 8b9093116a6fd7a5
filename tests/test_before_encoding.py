"""What is left out before the encoder is never encoded, and nothing else differs."""

import math
from contextlib import nullcontext
from functools import cache

import numpy as np
import pytest
import torch
from conformance_table import EVERY_FAMILY
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_checkpoints import checkpoint, frames

import vtc_lab as vtc
from vtc_lab.models.families import FAMILIES
from vtc_lab.models.packing import packed, packs
from vtc_lab.tokens import MinimumBudgetError

CLIP = vtc.Clip(frames(1), np.arange(6) / 2)
QUESTION = "where ?"
CLOSE = 1e-5


@cache
def tiny(family):
    return vtc.load_model(checkpoint(family))


class Watched:
    """The number of values that go into a model's vision tower, one entry a run."""

    def __init__(self, model):
        tower = getattr(model.network.base_model, model.family.tower)
        self.seen, self.hook = [], tower.register_forward_pre_hook(self.note, with_kwargs=True)

    def note(self, _, args, named):
        self.seen.append((args[0] if args else next(iter(named.values()))).numel())

    def __enter__(self):
        return self.seen

    def __exit__(self, *_):
        self.hook.remove()


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_what_is_not_chosen_is_not_encoded_and_changes_nothing(family):
    model, other = tiny(family).fresh(), tiny(family).fresh()
    if not model.family.apart:
        with pytest.raises(vtc.VTCError, match="does not encode each frame by itself"):
            vtc.reduce_clip(model, CLIP, "random", 4)
        return
    with Watched(other) as all_of_it:
        full = other.encode(CLIP)
    with Watched(model) as some:
        reduced = vtc.reduce_clip(model, CLIP, "random", 4)
        answer = model.ask(QUESTION, CLIP, reduced)
    made = model.part[2].values.isfinite().all(-1)
    frames = made.flatten(1).any(1)
    assert some == [all_of_it[0] * int(frames.sum()) // len(full)]
    note = f"encoded {int(frames.sum())} of {len(full)} frames"
    if packs(model.network.base_model, model.family):
        assert int(made.sum()) == round(full.total / 4 * 1.5)
        note += f", {int(made.sum())} of {full.total} tokens" * (not made[frames].all())
    else:
        assert torch.equal(made, frames[:, None, None].expand_as(made))
        assert torch.allclose(reduced.tokens, full.values.flatten(0, 2)[reduced.anchor], atol=CLOSE)
        expected = other.ask(QUESTION, CLIP, reduced)
        assert torch.allclose(answer.logits, expected.logits, atol=1e-4) and answer.text == expected.text
    assert reduced.notes[-1] == note
    assert reduced.grid == full.grid and len(reduced) == round(full.total / 4)
    assert (answer.entered, answer.total) == (len(reduced), full.total)


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_pixels_decide_alike_for_every_tower(family):
    model = tiny(family).fresh()
    if not model.family.apart:
        return
    grid = model.encode(CLIP).grid
    for method, kept in (("uniform", 1), ("random", grid[0])):
        reduced = vtc.reduce_clip(model.fresh(), CLIP, method, grid[0], stage="pixels")
        assert reduced.grid == grid and len(reduced) == reduced.total // grid[0]
        assert int(reduced.kept.flatten(1).any(1).sum()) <= kept
        assert reduced.tokens.isfinite().all() and int((reduced.assign >= 0).sum()) == len(reduced)
        assert model.ask(QUESTION, CLIP, reduced).entered == len(reduced)


@torch.no_grad()
def features(network, pixels, wanted=None, mask=None):
    """The features (T, n, D) of frames, with some tokens packed, or with an additive mask on the tower's attention."""
    core, entry = network.base_model, FAMILIES[network.config.model_type]

    def masked(_, args, named):
        return args, named | {"attention_mask": mask}

    hook = (
        getattr(core, entry.tower).encoder.register_forward_pre_hook(masked, with_kwargs=True)
        if mask is not None
        else None
    )
    with packed(core, entry, wanted) if wanted is not None else nullcontext():
        found = getattr(core, entry.encoder)(
            pixels if entry.pixels == "pixel_values" else pixels[None], return_dict=True
        )
    if hook:
        hook.remove()
    found = torch.cat([each.flatten(0, -2) for each in found.pooler_output])
    return found[: len(found) - entry.newline].unflatten(0, (len(pixels), -1))


PACKED = {"llava_onevision": (2, 0), "llava_next_video": (2, 1), "llava": (4, 1)}  # tokens a side, class tokens


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", PACKED)
@given(data=st.data())
@settings(deadline=None, max_examples=10)
def test_packed_patches_are_as_if_the_others_were_masked(family, attention, data):
    network, (side, cls) = tiny(family).network, PACKED[family]
    bits = st.lists(st.booleans(), min_size=side * side, max_size=side * side).filter(any)
    wanted = torch.tensor([data.draw(bits) for _ in range(3)]).view(3, side, side)
    pixels = torch.randn(3, 3, 32, 32, generator=torch.manual_seed(data.draw(st.integers(0, 99))))
    mask = torch.zeros(3, 1, 1, cls + 16)
    for t in range(3):
        need = {(y, x) for y in range(4) for x in range(4) if wanted[t, y * side // 4, x * side // 4]}
        stand = {(y, x) for y in range(4) for x in range(4) if y * side // 4 == x * side // 4 == 1} - need
        for y, x in {(y, x) for y in range(4) for x in range(4)} - need - stand:
            mask[t, ..., cls + 4 * y + x] = -1e30
        for y, x in stand:
            mask[t, ..., cls + 4 * y + x] = math.log((16 - len(need)) / len(stand))
    network.base_model.vision_tower.set_attn_implementation(attention)
    try:
        found, plain = features(network, pixels, wanted), features(network, pixels, mask=mask)
    finally:
        network.base_model.vision_tower.set_attn_implementation("sdpa")
    assert torch.allclose(found[wanted.flatten(1)], plain[wanted.flatten(1)], atol=4e-6)


@pytest.mark.parametrize("family", PACKED)
def test_packing_every_patch_changes_no_bit(family):
    network, side = tiny(family).network, PACKED[family][0]
    pixels = torch.randn(3, 3, 32, 32, generator=torch.manual_seed(0))
    every = torch.ones(3, side, side, dtype=torch.bool)
    assert torch.equal(features(network, pixels, every), features(network, pixels))


@pytest.fixture(scope="module")
def case():
    clip, samples = vtc.make_clip(10_003, frames=8)
    return vtc.load_model(), clip, [sample["question"] for sample in samples[:2]]


@pytest.mark.parametrize("method", vtc.methods().index.drop(["oracle", "earlytom"], errors="ignore"))
def test_both_keeps_as_many_as_asked_for_all_of_them_encoded(case, method):
    model = case[0].fresh()
    clip = case[1][:3]
    for ratio in (1, 1.3, 8, 37.5, 3 * 196):
        try:
            reduced = vtc.reduce_clip(model, clip, method, ratio).check()
        except MinimumBudgetError:
            continue
        made = model.part[2].values.isfinite().all(-1).flatten()
        assert len(reduced) == max(1, round(reduced.total / ratio))
        whole = math.ceil(3 / min(2, math.sqrt(ratio))) * 196  # for methods that look at the tower's attention
        assert int(made.sum()) in (round(reduced.total / max(1, ratio / 1.5)), whole)
        assert reduced.tokens.isfinite().all() and made[reduced.assign >= 0].all()


def test_both_reduces_the_features_of_what_lftr_chose_by_pixels(case):
    model, clip, questions = case
    reduced = vtc.reduce_clip(model, clip, "pool", 4)
    made, values = model.part[2].values.isfinite().all(-1), model.part[2].values.flatten(0, 2)
    assert torch.equal(made, vtc.reduce_clip(model.fresh(), clip, "lftr", 4 / 1.5, stage="pixels").kept)
    members = reduced.assign >= 0
    weight = torch.bincount(reduced.assign[members], reduced.weight[members], len(reduced))
    assert torch.allclose(weight.float(), torch.ones(len(reduced)))
    for n in range(0, len(reduced), 40):
        own = reduced.assign == n
        assert torch.allclose(reduced.tokens[n], reduced.weight[own] @ values[own], atol=1e-4)
    assert all(answer.entered == len(reduced) for answer in model.ask(questions, clip, reduced))


def test_for_methods_that_look_at_attention_both_reduces_half_of_the_frames(case):
    model, clip, questions = case
    other = model.fresh()
    for method in ("holitom", "visionzip"):
        reduced = vtc.reduce_clip(model, clip, method, 4)
        full = other.encode(clip, saliency=True)
        chosen = (model.part[2].values.isfinite().flatten(1).all(1)).nonzero().flatten()
        part = vtc.reduce(vtc.VideoTokens(full.values[chosen], full.saliency[chosen]), method, 2)
        assert chosen.tolist() == [0, 2, 5, 7] and torch.allclose(reduced.tokens, part.tokens, atol=1e-3)
        for n, t in enumerate(chosen.tolist()):
            here = reduced.assign.view(8, 196)[t]
            assert torch.equal(here, part.assign.view(4, 196)[n])
            assert torch.allclose(reduced.weight.view(8, 196)[t], part.weight.view(4, 196)[n], atol=1e-5)
        assert int((reduced.assign >= 0).sum()) == int((part.assign >= 0).sum())
        for one, two in zip(model.ask(questions, clip, reduced), other.ask(questions, clip, reduced), strict=True):
            assert one.text == two.text and torch.allclose(one.logits, two.logits, atol=1e-4)


def test_both_encodes_everything_at_1x_as_features_does(case):
    model, clip, _ = case
    one, other = (vtc.reduce_clip(model.fresh(), clip, "lftr", 1, stage=stage) for stage in ("both", "features"))
    assert torch.equal(one.tokens, other.tokens) and torch.equal(one.anchor, other.anchor)


def test_pixels_encode_what_the_method_keeps_of_them(case):
    model, clip, questions = case
    model = model.fresh()
    with Watched(model) as seen:
        reduced = vtc.reduce_clip(model, clip, "lftr", 8, stage="pixels")
        model.ask(questions, clip, reduced)
    assert len(seen) == 1 and reduced.notes[-1] == "encoded 8 of 8 frames, 196 of 1568 tokens"
    assert torch.equal(model.part[2].values.isfinite().all(-1), reduced.kept)
    assert reduced.method == "lftr" and reduced.options["stage"] == "pixels" and reduced.options["ratio"] == 8
    every = vtc.reduce_clip(model, clip, "lftr", 1, stage="pixels")
    assert torch.equal(every.tokens, model.encode(clip).values.flatten(0, 2))


def test_features_are_what_reduce_gives(case):
    model, clip, _ = case
    reduced, wanted = (
        vtc.reduce_clip(model, clip, "lftr", 4, stage="features"),
        vtc.reduce(model.encode(clip), "lftr", 4),
    )
    assert torch.equal(reduced.tokens, wanted.tokens) and torch.equal(reduced.assign, wanted.assign)


def test_what_was_not_encoded_is_encoded_when_it_is_asked_about(case):
    model, clip, questions = case
    model = model.fresh()
    wide, narrow = (vtc.reduce_clip(model, clip, "uniform", ratio) for ratio in (2, 4))
    with Watched(model) as seen:
        model.ask(questions[0], clip, narrow)
        assert seen == []
        model.ask(questions[0], clip, wide)
        model.ask(questions[0], clip)
    assert len(seen) == 1


def test_what_shows_in_one_frame_is_encoded(case):
    model, still = case[0].fresh(), np.full((8, 112, 112, 3), 90, np.uint8)
    still[5, 40:64, 40:64] = 250  # a grey and a white patch differ in length alone
    for times in (2, 4, 16):
        reduced = vtc.reduce_clip(model, vtc.Clip(still, np.arange(8.0)), "lftr", times)
        assert model.part[2].values[5, 5:8, 5:8].isfinite().any() and reduced.kept[5, 5:8, 5:8].any()


def test_what_cannot_be_left_out_is_one_sentence(case):
    model, clip, _ = case
    for stage in ("before", None, ["both"]):
        with pytest.raises(vtc.VTCError, match="stage is"):
            vtc.reduce_clip(model, clip, "lftr", 4, stage=stage)
    for stage in ("both", "pixels"):
        with pytest.raises(vtc.VTCError, match="ratio is 0.5"):
            vtc.reduce_clip(model, clip, "lftr", 0.5, stage=stage)
    with pytest.raises(vtc.VTCError, match="'visionzip' looks at the encoder's attention.*stage='both'"):
        vtc.reduce_clip(model, clip, "visionzip", 4, stage="pixels")
    with pytest.raises(vtc.VTCError, match="is no Clip"):
        vtc.reduce_clip(model, "bikes.mp4", "lftr", 4)


def segments(places, side):
    """The rows of some patches, (t, y, x) of each one's token: those of one frame, or of one window of it."""
    found = {}
    for row, (t, y, x) in enumerate(places):
        found.setdefault((t, y // side, x // side), []).append(row)
    return list(found.values())


@torch.no_grad()
def by_hand(tower, pixels, grid, wanted):
    """The features of the wanted tokens of a tower with all patches in a row, run one frame or window at a time."""
    seen = {}

    def note(block, args, named):
        seen.setdefault("hidden", args[0])
        seen.setdefault("turn", named["position_embeddings"])

    hook = tower.blocks[0].register_forward_pre_hook(note, with_kwargs=True)
    tower(pixels, grid_thw=grid)
    hook.remove()
    each, (frames_, high, wide) = tower.spatial_merge_size, wanted.shape
    order = [(t, y, x) for t in range(frames_) for y in range(high) for x in range(wide)]
    window = getattr(tower, "window_size", 0) // each // tower.config.patch_size
    if window:  # in which order it has them
        order.sort(key=lambda place: (place[0], place[1] // window, place[2] // window))
    rows = [row for row, place in enumerate(order) if wanted[place] for _ in range(each**2)]
    patches = [each**2 * row + n % each**2 for n, row in enumerate(rows)]
    places = [order[row] for row in rows]
    hidden, turn = seen["hidden"][patches], [part[..., patches, :] for part in seen["turn"]]
    for number, block in enumerate(tower.blocks):
        local = window and number not in tower.fullatt_block_indexes
        out = torch.empty_like(hidden)
        for some in segments(places, window if local else max(wanted.shape)):
            ends, part = torch.tensor([0, len(some)]), tuple(each[..., some, :] for each in turn)
            out[some] = block(hidden[some], cu_seqlens=ends, max_seqlen=len(some), position_embeddings=part)
        hidden = out
    if hasattr(tower, "downsample"):
        hidden = tower.post_layernorm(hidden).view(-1, each, each, hidden.shape[-1]).permute(0, 3, 1, 2)
        hidden = tower.downsample(hidden).flatten(1)
    found = dict(zip(places[:: each**2], tower.merger(hidden), strict=True))
    return torch.stack([found[place] for place in sorted(found)])


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "glm4v"])
@given(data=st.data())
@settings(deadline=None, max_examples=10)
def test_patches_packed_in_a_row_are_as_if_there_were_no_others(family, data):
    core = tiny(family).network.base_model
    tower, shape = core.visual, (2, 5, 6)
    bits = st.lists(st.booleans(), min_size=60, max_size=60).filter(any)
    wanted = torch.tensor(data.draw(bits)).view(shape)
    stand = torch.zeros(shape, dtype=torch.bool)
    stand[:, 1::3, 1::3] = True
    side = tower.spatial_merge_size
    grid = torch.tensor([[1, 5 * side, 6 * side]] * 2 if family == "glm4v" else [[2, 5 * side, 6 * side]])
    size = tower.config.in_channels * tower.config.temporal_patch_size * tower.config.patch_size**2
    pixels = torch.randn(60 * side**2, size, generator=torch.manual_seed(data.draw(st.integers(0, 99))))
    ran = []
    with torch.no_grad(), packed(core, FAMILIES[family], wanted):
        hook = tower.blocks[-1].register_forward_hook(lambda _, __, rows: ran.append(len(rows)))
        found = tower(pixels, grid_thw=grid).pooler_output.view(*shape, -1)
        hook.remove()
    there = wanted | stand
    assert ran == [int(there.sum()) * side**2]
    expected = torch.zeros_like(found)
    expected[there] = by_hand(tower, pixels, grid, there)
    assert torch.allclose(found[wanted], expected[wanted], atol=CLOSE)
