"""EarlyTom between the layers of a tower: what a plain loop over the layers gives, on as many frames."""

import threading
from functools import cache
from itertools import groupby

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from published_reference import alike, earlytom_kept, earlytom_parts, ends_and_middles
from tiny_checkpoints import checkpoint

import vtc_lab as vtc
from vtc_lab.models.families import FAMILIES
from vtc_lab.models.prompts import ask_processor

DEPTH, TAU, QUESTION = 6, 0.5, "where ?"
# Layers that are used, class tokens, a layer's norm and attention, and what becomes of the tower's features.
TOWERS = {
    "llava_onevision": (6, 0, "layer_norm1", "self_attn", lambda c, x: c.apply_pooling(c.multi_modal_projector(x))),
    "llava_next_video": (5, 1, "layer_norm1", "self_attn", lambda c, x: c.multi_modal_projector(c.vision_resampler(x))),
    "llava": (5, 1, "layer_norm1", "self_attn", lambda c, x: c.multi_modal_projector(x)),
    "internvl": (6, 1, "layernorm_before", "attention", lambda c, x: c.multi_modal_projector(shuffled(c, x))),
}


def shuffled(core, rows):
    return core.pixel_shuffle(rows.unflatten(1, (4, 4)), core.config.downsample_ratio).flatten(1, 2)


@cache
def tiny(family):
    return vtc.load_model(checkpoint(family, tower=DEPTH))


def drifting(seed=0, frames=12):
    """A clip whose frames go from one picture to another, in steps of every size, and on to a third."""
    rng = np.random.default_rng(seed)
    pictures = rng.integers(0, 256, (3, 4, 4, 3)).repeat(8, 1).repeat(8, 2)
    place = np.sort(rng.random(frames)) * 2
    some = [(pictures[int(p)] * (1 - p % 1) + pictures[int(p) + 1] * (p % 1)) for p in place]
    return vtc.Clip(np.clip(some + rng.normal(0, 4, (frames, 32, 32, 3)), 0, 255).astype(np.uint8), np.arange(frames))


def stack_of(model):
    tower = getattr(model.network.base_model, model.family.tower)
    encoder = getattr(tower, "vision_model", tower).encoder
    return getattr(encoder, "layers", None) or encoder.layer


def hooked(model):
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in model.network.modules())


class Frames:
    """On how many frames each layer of a tower runs."""

    def __init__(self, model):
        self.seen = []
        self.hooks = [layer.register_forward_pre_hook(self.note) for layer in stack_of(model)]

    def note(self, _, args):
        self.seen.append(len(args[0]))

    def __enter__(self):
        return self.seen

    def __exit__(self, *_):
        for hook in self.hooks:
            hook.remove()


@torch.no_grad()
def plainly(family, clip, budget, after, tau):
    """The tokens, the kept places and the members of each, by a loop over the layers of the tower."""
    model, (used, cls, norm, attention, features) = tiny(family), TOWERS[family]
    core = model.network.base_model
    tower = getattr(core, model.family.tower)
    body = getattr(tower, "vision_model", tower)
    pixels = ask_processor(model.processor, model.family, clip, QUESTION)[model.family.pixels].view(-1, 3, 32, 32)
    rows = body.embeddings(pixels)
    rows = body.pre_layrnorm(rows) if hasattr(body, "pre_layrnorm") else rows
    parts, per_frame = [{t: 1.0} for t in range(len(clip))], model.encode(clip).total // len(clip)
    tower.set_attn_implementation("eager")
    try:
        for number, layer in enumerate(stack_of(model)[:used]):
            weights = getattr(layer, attention)(getattr(layer, norm)(rows), attention_mask=None)[1]
            rows = layer(rows, None) if norm == "layer_norm1" else layer(rows)
            if number not in after:
                continue
            made = earlytom_parts(rows[:, cls:].double().numpy(), tau, len(rows) - -(-budget // per_frame))
            mix = torch.zeros(len(made), len(rows))
            for n, some in enumerate(made):
                mix[n, list(some)] = torch.tensor([*some.values()], dtype=torch.float32)
            parts = [{t: w * share for m, w in some.items() for t, share in parts[m].items()} for some in made]
            rows = torch.einsum("nt,tpd->npd", mix, rows)
            worth = weights[:, :, 0, 1:].mean(1) if cls else weights.mean((1, 2))
            worth = torch.einsum("nt,tp->np", mix, worth)
            segments = ends_and_middles(rows[:, cls:].double().numpy(), tau, alike)
    finally:
        tower.set_attn_implementation("sdpa")
    pool = model.family.pool or (lambda _, each: each)
    worth = pool(core, worth[..., None]).reshape(len(parts), -1)
    kept = earlytom_kept(worth.numpy(), segments, budget)
    tokens = features(core, rows[:, cls:]).reshape(len(parts), per_frame, -1)
    found = [(min(some) * per_frame + p, tokens[n, p], some) for n, some in enumerate(parts) for p in sorted(kept[n])]
    return torch.stack([token for _, token, _ in found]), [place for place, *_ in found], [some for *_, some in found]


@pytest.mark.parametrize(("layers", "tau"), [(None, 0.5), ((0, 2, 3), 0.9), ((1,), 0.5)])
@pytest.mark.parametrize("family", TOWERS)
def test_it_is_a_plain_loop_over_the_layers(family, layers, tau):
    model, clip = tiny(family).fresh(), drifting()
    with Frames(model) as ran:
        reduced = vtc.reduce_clip(model, clip, "earlytom", 4, tau=tau, layers=layers)
    after = layers or {6: (1, 4, 5), 5: (1, 3, 4)}[TOWERS[family][0]]
    tokens, places, members = plainly(family, clip, round(reduced.total / 4), after, tau)
    assert reduced.options["layers"] == after and reduced.anchor.tolist() == places
    assert torch.allclose(reduced.tokens, tokens, atol=1e-5)
    weight, per_frame = reduced.weight.view(len(clip), -1), reduced.total // len(clip)
    assign = reduced.assign.view(len(clip), -1)
    for n, (place, some) in enumerate(zip(places, members, strict=True)):
        assert (assign == n).nonzero().tolist() == [[t, place % per_frame] for t in some]
        assert weight[assign == n].tolist() == pytest.approx([*some.values()], abs=1e-5)
    # Fewer frames run after a merge, as the layers saw it and not as a configuration has it.
    assert ran[0] == 12 and len(ran) == DEPTH and ran[-1] < 12
    said = ", ".join(f"{count} x{len([*same])}" for count, same in groupby(ran))
    assert reduced.notes[-1] == f"frames by layer: {said}"


@pytest.mark.parametrize("family", TOWERS)
def test_where_nothing_merges_it_is_the_plain_tower(family):
    model, other, clip = tiny(family).fresh(), tiny(family).fresh(), drifting(1)
    full = other.encode(clip, saliency=True)
    reduced = vtc.reduce_clip(model, clip, "earlytom", 4, tau=1)
    assert torch.equal(model.part[2].values, full.values)
    last = TOWERS[family][0] - 1
    assert reduced.options["layers"][-1] == last  # where saliency is measured for the whole clip, too
    wanted = vtc.reduce(full, "earlytom", 4, tau=1)
    for name in ("tokens", "anchor", "assign", "weight"):
        assert torch.equal(getattr(reduced, name), getattr(wanted, name))
    assert reduced.notes[-1] == f"frames by layer: 12 x{DEPTH}"


@pytest.mark.parametrize("family", TOWERS)
def test_the_answer_is_that_of_the_reduced_prompt(family):
    model, other, clip = tiny(family).fresh(), tiny(family).fresh(), drifting(2)
    reduced = vtc.reduce_clip(model, clip, "earlytom", 3, tau=TAU)
    with Frames(model) as ran:
        answer = model.ask(QUESTION, clip, reduced)
        assert ran == []
        model.ask(QUESTION, clip)
        assert ran == [12] * DEPTH
    expected = other.ask(QUESTION, clip, reduced)
    assert torch.allclose(answer.logits, expected.logits, atol=1e-4)
    assert (answer.text, answer.entered, answer.total) == (expected.text, len(reduced), reduced.total)
    made = model.part[2].values.isfinite().all(-1).flatten(1)
    assert (made.all(1) | ~made.any(1)).all() and made.any(1).sum() < 12
    # A merged frame is where its first was.
    lead = reduced.anchor[reduced.assign].div(reduced.total // 12, rounding_mode="floor").view(12, -1)
    gone = (~made.any(1)).nonzero().flatten()
    there = (reduced.assign.view(12, -1) >= 0)[gone]
    assert (lead[gone][there] < gone[:, None].expand_as(there)[there]).all() and there.any()


@given(seed=st.integers(0, 99), share=st.floats(0.01, 1), tau=st.floats(-1, 1), layers=st.sets(st.integers(0, 5)))
@settings(deadline=None, max_examples=25)
def test_budgets_are_exact(seed, share, tau, layers):
    clip, total = drifting(seed, 9), 9 * 4
    layers = tuple(sorted(layers)) or None
    reduced = vtc.reduce_clip(
        tiny("llava_onevision").fresh(),
        clip,
        "earlytom",
        1 / share if share * total >= 1 else total,
        tau=tau,
        layers=layers,
    )
    assert len(reduced) == max(1, round(max(share * total, 1)))
    assert reduced.tokens.isfinite().all() and reduced.check() is reduced
    frames = [int(part.split(" x")[0]) for part in reduced.notes[-1].removeprefix("frames by layer: ").split(", ")]
    assert frames == sorted(frames, reverse=True) and frames[-1] * 4 >= len(reduced)
    total = torch.zeros(len(reduced)).index_add(0, reduced.assign.clamp(min=0), reduced.weight)
    assert torch.allclose(total, torch.ones(()), atol=1e-5)


def test_a_first_run_is_like_any_other():
    """Transformers hooks the layers in the first run, and so behind what merges there."""
    new = vtc.load_model(checkpoint("llava_next_video", tower=DEPTH))
    first, second = (vtc.reduce_clip(new.fresh(), drifting(), "earlytom", 4, tau=TAU) for _ in range(2))
    assert torch.equal(first.tokens, second.tokens) and torch.equal(first.assign, second.assign)


def test_nothing_stays_hooked_and_other_threads_are_left_alone():
    model, clip, here = tiny("llava_onevision").fresh(), drifting(), threading.get_ident()
    full, found = model.encode(clip).values, []
    before = hooked(model)

    def elsewhere(*_):
        if threading.get_ident() == here:
            thread = threading.Thread(target=lambda: found.append(model.fresh().encode(clip).values))
            thread.start()
            thread.join()

    with stack_of(model)[3].register_forward_hook(elsewhere):
        reduced = vtc.reduce_clip(model, clip, "earlytom", 4, tau=TAU)
    assert torch.equal(found[0], full) and not reduced.notes[-1].endswith(f"12 x{DEPTH}")

    def fails(*_):
        raise RuntimeError("within the tower")

    with stack_of(model)[4].register_forward_hook(fails), pytest.raises(RuntimeError, match="within the tower"):
        vtc.reduce_clip(model, clip, "earlytom", 4)
    assert hooked(model) == before
    assert torch.equal(model.fresh().encode(clip).values, full)


def test_a_shallow_tower_merges_after_each_of_its_layers():
    model, (clip, _) = vtc.load_model(), vtc.make_clip(7, frames=8)
    reduced = vtc.reduce_clip(model, clip, "earlytom", 4)
    assert reduced.options == {"tau": 0.8, "layers": (0, 1), "ratio": 4, "stage": "both"}


def test_sweeps_take_the_layers():
    clip, samples = vtc.make_clip(7, frames=8)
    asked = [{**samples[0], "clip": clip}]
    table = vtc.sweep(vtc.load_model(), asked, vtc.variants("earlytom", stage=["both"], layers=[None, (0,)]), [4])
    assert table.label.tolist() == ["earlytom (stage=both)", "earlytom (layers=[0], stage=both)"]
    assert (table.status == "ok").all() and table.engaged.all()
    pair = vtc.sweep(vtc.load_model(), asked, [("earlytom + pyramiddrop", {"stage": "both", "layers": "1"})], [4])
    assert pair.status.item() == "ok"  # of the inner stage
    for method in ("earlytom", "earlytom + fastv"):
        with pytest.raises(vtc.VTCError, match=r"layers is \(0,\), an option of stage='both' alone"):
            vtc.sweep(vtc.load_model(), asked, [(method, {"layers": (0,)})], [4])
    tokens = vtc.load_model().encode(clip, saliency=True)
    assert vtc.fidelity_sweep({"": tokens}, ["earlytom"], [4]).status.item() == "ok"


def test_what_it_cannot_do_is_one_sentence():
    model, clip = tiny("llava_onevision"), drifting()
    for layers in ((), (6,), (-1,), (2, 1), (1, 1), "12", 3, (True,), (0.5,), [None]):
        with pytest.raises(vtc.VTCError, match="layers is .*from 0 to 5"):
            vtc.reduce_clip(model, clip, "earlytom", 4, layers=layers)
    with pytest.raises(vtc.VTCError, match="tau is 2"):
        vtc.reduce_clip(model, clip, "earlytom", 4, tau=2)
    with pytest.raises(vtc.VTCError, match="no option 'layer'; did you mean 'layers'"):
        vtc.reduce_clip(model, clip, "earlytom", 4, layer=(1,))
    with pytest.raises(vtc.VTCError, match="ratio is 0.5"):
        vtc.reduce_clip(model, clip, "earlytom", 0.5)
    for family in ("qwen3_vl", "smolvlm"):
        assert FAMILIES[family].apart
        with pytest.raises(vtc.VTCError, match="does not run the frames of a clip as a batch.*stage='features'"):
            vtc.reduce_clip(vtc.load_model(checkpoint(family)), clip, "earlytom", 4)
