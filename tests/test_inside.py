"""The stage inside the language model: schedules, raters, and the model's own code against a plain way of doing it.

What holds for each family is in tests/conformance_table.py.
"""

from __future__ import annotations

import copy
import gc
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from conformance_table import asked, generate, load, logits, new_tokens, same
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_your_model import QUESTIONS, own_way
from tiny_checkpoints import checkpoint, frames, prompt
from torch.nn.functional import cosine_similarity
from transformers import AutoModelForImageTextToText
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

import vtc_lab as vtc
import vtc_lab.models.inside as inside_module
from vtc_lab.models.compression import compress, put_back
from vtc_lab.models.prompt_clips import encode_prompt, places_of
from vtc_lab.reducers.inside import Look, held, schedule
from vtc_lab.reducers.inside_methods import averaged_in, halved_in, recycled
from vtc_lab.reducers.registry import INSIDE

FAMILY = "llava_next_video"
CLIP = vtc.Clip(frames(1), np.arange(6) / 2)
CANDIDATES = ["red circle", "red", "red square moves left"]
SMALL = {"fastv": {"keep": 0.3}, "pyramiddrop": {}, "sparsevlm-plus": {"layers": "2 3"}, "random-inside": {"keep": 0.3}}


# --- budgets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "options", "depth", "mean"),
    [
        ("fastv", {}, 28, 0.536),
        ("fastv", {}, 32, 0.531),
        *[("fastv", {"keep": k}, 28, m) for k, m in ((0.25, 0.304), (0.2, 0.257), (0.15, 0.211), (0.1, 0.164))],
        *[("fastv", {"keep": k}, 32, m) for k, m in ((0.25, 0.297), (0.2, 0.250), (0.15, 0.203), (0.1, 0.156))],
        ("pyramiddrop", {}, 28, 0.518),
        ("pyramiddrop", {"layers": "7 14 21"}, 28, 0.469),
        ("pyramiddrop", {}, 32, 0.469),
        ("prunevid-inner", {}, 28, 0.636),
        ("prunevid-inner", {}, 32, 0.606),
        ("holitom-inner", {}, 28, 0.821),
        ("holitom-inner", {}, 32, 0.781),
        ("flashvid-inner", {}, 28, 0.800),
        ("flashvid-inner", {}, 32, 0.738),
        ("unified-text-merge", {}, 28, 0.821),
        ("unified-text-merge", {}, 32, 0.781),
    ],
)
def test_the_published_mean_per_layer(method, options, depth, mean) -> None:
    layers = held(100_000, depth, schedule(method, depth, **options))
    assert round(sum(layers) / depth / 100_000 + 1e-9, 3) == pytest.approx(mean, abs=1e-9)


@pytest.mark.parametrize(
    ("method", "tokens", "stages", "mean"),
    [
        ("sparsevlm", "192", (309, 204, 113), 206.5),
        ("sparsevlm", "128", (312, 117, 39), 145.4),
        ("sparsevlm", "64", (82, 32, 18), 82.3),
        ("sparsevlm-plus", "192", (300, 200, 118), 206.8),
        ("sparsevlm-plus", "128", (238, 108, 60), 144.1),
        ("sparsevlm-plus", "64", (66, 34, 20), 81.8),
    ],
)
def test_the_published_tokens_of_sparsevlm(method, tokens, stages, mean) -> None:
    layers = held(576, 32, schedule(method, 32, tokens=tokens))
    first, second, third = stages
    assert layers == [576] * 3 + [first] * 4 + [second] * 9 + [third] * 16
    assert sum(layers) / 32 == pytest.approx(mean, abs=0.051)


@settings(deadline=None, max_examples=60)
@given(
    method=st.sampled_from(sorted(set(INSIDE) - {"drop-inside", "dycoke-dp"})),
    depth=st.sampled_from([28, 32, 40]),
    ratio=st.floats(1, 20),
    budget=st.sampled_from(["enters", "mean"]),
)
@example(method="sparsevlm", depth=40, ratio=9.75, budget="mean")
def test_a_ratio_is_met_or_the_range_is_told(method, depth, ratio, budget) -> None:
    try:
        cuts = schedule(method, depth, ratio=ratio, budget=budget)
    except vtc.VTCError as error:
        assert budget == "mean" and "leaves from" in str(error)
        return
    layers = held(1_000_000, depth, cuts)
    assert (layers[-1] if budget == "enters" else sum(layers) / depth) / 1e6 == pytest.approx(1 / ratio, abs=1e-4)


def test_an_impossible_mean_says_the_lowest() -> None:
    with pytest.raises(vtc.VTCError, match=r"ratio is 20, but 'fastv'.* leaves from 7.1% .* can be 1 to 14$"):
        schedule("fastv", 28, ratio=20, budget="mean")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"method": "fastvv"}, "method inside .* is 'fastvv'; did you mean 'fastv'"),
        ({"keep": 0}, "keep is 0; it must be above 0"),
        ({"keep": 1.5}, "keep is 1.5; it must be a number from 0 to 1"),
        ({"layer": 4}, "layer is 4; this model has 4, so it can be 1 to 3"),
        ({"layer": 0}, "layer is 0; this model has 4"),
        ({"depth": 3}, "no option 'depth'"),
        ({"ratio": 4, "keep": 0.5}, "a ratio beside keep"),
        ({"method": "pyramiddrop", "layers": "2 x"}, "layers is '2 x'; give up to 3 rising numbers"),
        ({"method": "sparsevlm", "layers": "3 2"}, "layers is '3 2'; give up to 3 rising numbers"),
        ({"method": "sparsevlm-plus", "layers": "1 2 3 4"}, "layers is '1 2 3 4'; give up to 3"),
        ({"method": "pyramiddrop", "layers": "2 5"}, "layer is 5; this model has 4"),
        ({"ratio": 4, "budget": "average"}, "budget is 'average'; there are 'enters', 'mean'"),
    ],
)
def test_bad_input_is_told_and_leaves_the_model_alone(how, words) -> None:
    model = load(FAMILY, 4)[0]
    with pytest.raises(vtc.VTCError, match=words), vtc.inside(model, **{"method": "fastv", **how}):
        raise AssertionError("it was taken")
    assert untouched(model)


# --- raters and mergers ------------------------------------------------------------------------------------------


def states(seed: int, count: int, stay: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    dice = torch.Generator().manual_seed(seed)
    kept = torch.zeros(count, dtype=torch.bool)
    kept[torch.randperm(count, generator=dice)[:stay]] = True
    return torch.randn(count, 6, generator=dice), kept, torch.rand(count, generator=dice)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 99), count=st.integers(2, 40), part=st.floats(0.05, 1))
def test_merging_against_a_loop(seed, count, part) -> None:
    values, kept, scores = states(seed, count, max(1, int(part * count)))
    halves, sums, members = values.clone(), values.clone(), torch.ones(count)
    stays = kept.nonzero().flatten().tolist()
    for n in (~kept).nonzero().flatten().tolist():
        target = max(stays, key=lambda m: float(cosine_similarity(values[n], values[m], dim=0)))
        halves[target] = (halves[target] + values[n]) / 2
        sums[target] += values[n]
        members[target] += 1
    for merger, expected in ((halved_in, halves), (averaged_in, sums / members[:, None])):
        merged, same_kept = merger(values, kept, scores)
        torch.testing.assert_close(merged[kept], expected[kept], atol=1e-5, rtol=1e-4)
        assert torch.equal(same_kept, kept)


@pytest.mark.parametrize("method", ["holitom-inner", "unified-text-merge", "sparsevlm"])
def test_nothing_is_merged_where_nothing_or_everything_stays(method) -> None:
    model, inputs = load(FAMILY, 4)[0], asked(FAMILY)
    before = logits(model, inputs)
    with vtc.inside(model, method, keep=1) as stage:
        assert torch.equal(logits(model, inputs), before)
    with vtc.inside(model, method, keep=0.01) as stage:
        logits(model, inputs)
    assert stage.layers[0][-1] == 0


def test_recycling_takes_means_of_the_best_of_the_dropped() -> None:
    values, kept, scores = states(0, 576, 300)
    scores[kept] += 1
    after, stays = recycled(values, kept, scores)
    added = stays & ~kept
    best = scores.masked_fill(kept, -1).argsort(descending=True)[:83]
    assert int(added.sum()) == 9 and set(added.nonzero().flatten().tolist()) <= set(best.tolist())
    assert torch.equal(after[~added], values[~added])
    weights = torch.linalg.lstsq(values[best].T, after[added].T).solution  # each is in the span, and near its members
    assert weights.isfinite().all() and after[added].norm(dim=1).mean() < values[best].norm(dim=1).mean()


@pytest.mark.parametrize("method", ["fastv", "pyramiddrop"])
def test_rating_is_by_the_rows_that_eager_attention_gives(method) -> None:
    """FastV by the layer before the cut, PyramidDrop by the layer at which it cuts."""
    model, inputs = load(FAMILY, 4)[0], dict(asked(FAMILY))
    eager = AutoModelForImageTextToText.from_pretrained(checkpoint(FAMILY, 4), attn_implementation="eager")
    with torch.no_grad():
        weights = eager(**inputs, output_attentions=True).attentions[1 if method == "fastv" else 2]
    options = {"keep": 0.3, "layer": 2} if method == "fastv" else {"keep": 0.3, "layers": "2"}
    with vtc.inside(model, method, **options) as stage:
        logits(model, inputs)
    visual = places_of(model, "video", inputs)[0]
    count = round(0.3 * 24) if method == "fastv" else int(0.3 * 24)
    best = weights[0, :, -1].mean(0)[visual].topk(count).indices.sort().values
    assert torch.equal(stage.kept(3)[0][visual].nonzero().flatten(), best)
    assert stage.last.attention[0].shape[1] == 1  # a single row


def test_the_pull_of_near_positions_is_taken_out_and_half_of_the_heads_rate() -> None:
    model, inputs = load(FAMILY, 4)[0], dict(asked(FAMILY))
    eager = AutoModelForImageTextToText.from_pretrained(checkpoint(FAMILY, 4), attn_implementation="eager")
    with torch.no_grad():
        weights = eager(**inputs, output_attentions=True).attentions[1]
    with vtc.inside(model, "sparsevlm-plus", keep=0.3, layers="2") as stage:
        logits(model, inputs)
    length, wide = inputs["input_ids"].shape[1], model.get_decoder().layers[0].self_attn.head_dim
    ones = torch.ones(1, 1, length, wide)
    query, key = apply_rotary_pos_emb(ones, ones, *model.get_decoder().rotary_emb(ones, torch.arange(length)[None]))
    visual, rows = places_of(model, "video", inputs)[0], stage.last.rows["chosen"][0]
    seen = (weights[0] / (query @ key.mT / wide**0.5)[0])[:, rows][:, :, visual]
    heads = seen.sum((1, 2)).topk(len(seen) // 2).indices
    best = seen[heads].mean((0, 1)).topk(round(0.3 * 24)).indices.sort().values
    assert torch.equal(stage.kept(3)[0][visual].nonzero().flatten(), best) and len(seen) > 2


# --- in the model's own code, against a loop over its layers -----------------------------------------------------


def test_what_is_read_while_decoding_stays_in_every_layer() -> None:
    assert held(100, 28, schedule("dycoke-dp", 28)) == [100] * 28


def row_of_attention(layer, hidden: torch.Tensor, turn: tuple, row: int) -> torch.Tensor:
    """Attention of one token to itself and those before it, mean over heads, with the layer's own weights."""
    own, normed = layer.self_attn, layer.input_layernorm(hidden)
    query, key = (part(normed).unflatten(2, (-1, own.head_dim)).mT.mT for part in (own.q_proj, own.k_proj))
    query, key = apply_rotary_pos_emb(query.transpose(1, 2), key.transpose(1, 2), *turn)
    key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)[:, :, : row + 1]
    return (query[:, :, row : row + 1] @ key.mT / own.head_dim**0.5).softmax(-1).mean(1)[0, 0]


@torch.no_grad()
def by_hand(model, inputs: dict, said: torch.Tensor, cuts: list, kept: list[torch.Tensor]) -> torch.Tensor:
    """Logits of the last token of a prompt and of those said, all run at once without a cache."""
    decoder, found = model.get_decoder(), []
    handle = decoder.register_forward_pre_hook(lambda _, args, given: found.append(given), with_kwargs=True)
    model(**inputs)
    handle.remove()
    hidden = torch.cat([found[0]["inputs_embeds"], model.get_input_embeddings()(said[:, :-1])], 1)
    length, visual = inputs["input_ids"].shape[1], places_of(model, "video", inputs)[0]
    total = hidden.shape[1]
    here = place = torch.arange(total)
    reads = torch.ones(total, total, dtype=torch.bool)
    for number, layer in enumerate(decoder.layers):
        for cut, stays in zip(cuts, kept, strict=True):
            if cut.layer == number:
                of_clip = (here < length) & visual[here.clamp(max=length - 1)]
                if cut.merge is halved_in:
                    values, staying = hidden[0, of_clip], stays[here[of_clip]]
                    targets = staying.nonzero().flatten().tolist()
                    for n in (~staying).nonzero().flatten().tolist():
                        best = max(
                            targets,
                            key=lambda m: float(cosine_similarity(hidden[0, of_clip][n], hidden[0, of_clip][m], dim=0)),
                        )
                        values[best] = (values[best] + values[n]) / 2
                    hidden[0, of_clip] = values
                left = (here >= length) | stays[here.clamp(max=length - 1)]
                hidden, here = hidden[:, left], here[left]
                place = torch.arange(len(here)) if cut.renumber else place[left]
        mask = torch.ones(len(here), len(here), dtype=torch.bool).tril()
        for cut, stays in zip(cuts, kept, strict=True):
            if cut.everywhere and number < cut.layer:
                mask[length:, :length] &= stays
        turn = decoder.rotary_emb(hidden, place[None])
        for cut in cuts:
            if cut.decoding and cut.layer <= number:
                mask &= reads
            if cut.decoding and cut.layer == number + 1:
                for row in range(length, total):
                    seen = row_of_attention(layer, hidden, turn, row)[:length][visual]
                    reads[row, :length][visual] = torch.zeros(len(seen), dtype=torch.bool).index_fill(
                        0, seen.topk(cut.stays(len(seen))).indices, True
                    )
        hidden = layer(hidden, attention_mask=mask[None, None], position_embeddings=turn, position_ids=place[None])
    return model.lm_head(decoder.norm(hidden))[0, -said.shape[1] :]


PLAIN = ["fastv", "pyramiddrop", "random-inside", "uniform-inside", "drop-inside", "prunevid-inner", "holitom-inner"]


@pytest.mark.parametrize("clips", [1, 2])
@pytest.mark.parametrize("method", [*PLAIN, "flashvid-inner", "framefusion-inner", "dycoke-dp"])
def test_prefill_and_decoding_are_those_of_a_loop_over_the_layers(method, clips) -> None:
    model, processor = load(FAMILY, 4)
    words = ("what moves first , then ?", frames(1), "is the circle red ?", frames(2), "where ?")
    inputs = dict(asked(FAMILY) if clips == 1 else prompt(FAMILY, processor, words))
    cuts = schedule(method, 4)
    with vtc.inside(model, method) as stage:
        output = generate(model, inputs)
    kept = [stage.kept(cut.layer)[0] for cut in cuts]
    entered = int(places_of(model, "video", inputs).sum())
    assert stage.layers == [held(entered, 4, cuts)] and (stage.layers[0][-1] < entered or method == "dycoke-dp")
    assert entered == 24 * clips
    expected = by_hand(model, inputs, new_tokens(inputs, output), cuts, kept)
    same(torch.stack(output.logits)[:, 0], expected)


def test_uniform_keeps_both_ends_and_random_is_seeded() -> None:
    model, inputs, said = load(FAMILY, 4)[0], asked(FAMILY), []
    visual = places_of(model, "video", inputs)[0]
    for method, seed in (("uniform-inside", {}), *[("random-inside", {"seed": n}) for n in (0, 0, 1)]):
        with vtc.inside(model, method, keep=0.25, **seed) as stage:
            logits(model, inputs)
        said.append(stage.kept(3)[0][visual].nonzero().flatten().tolist())
    assert said[0] == [0, 4, 9, 13, 18, 23] and said[1] == said[2] != said[3]


def test_text_that_is_chosen_rates() -> None:
    """SparseVLM's rows are those whose relevance is at least the mean, found anew from the embeddings."""
    model, inputs = load(FAMILY, 4)[0], dict(asked(FAMILY))
    found: list = []
    handle = model.get_decoder().register_forward_pre_hook(lambda _, a, given: found.append(given), with_kwargs=True)
    with vtc.inside(model, "sparsevlm", layers="2 3") as stage:
        logits(model, inputs)
    handle.remove()
    visual, hidden = places_of(model, "video", inputs)[0], found[0]["inputs_embeds"][0]
    text = torch.arange(int(visual.nonzero()[-1]) + 1, len(hidden))
    relevance = torch.stack([(value @ hidden[text].T).softmax(0) for value in hidden[visual]]).mean(0)
    assert stage.last.rows["chosen"][0].tolist() == text[relevance >= relevance.mean()].tolist()
    assert 0 < len(stage.last.rows["chosen"][0]) < len(text)


def test_prompts_padded_on_the_right() -> None:
    model, processor = load(FAMILY, 4)
    rows = [("what moves", frames(1), "where ?"), ("is the circle red ?", frames(2), "then ?"), ("what ?",)]
    inputs = prompt(FAMILY, processor, *rows, padding_side="right")
    for method, options in SMALL.items():
        with vtc.inside(model, method, **options) as stage:
            together, kept = logits(model, inputs), stage.kept(3)
            for n, row in enumerate(rows):
                alone = logits(model, prompt(FAMILY, processor, row))[0, -1]
                last = int(inputs["attention_mask"][n].nonzero()[-1])
                width = int(kept[n].sum())
                after = int(kept[n, last + 1 :].sum())
                assert width <= together.shape[1]
                same(together[n, -1 - after], alone)


@pytest.mark.parametrize("beams", [1, 3])
def test_what_is_read_while_decoding_is_the_own_choice_of_each_prompt_and_beam(beams) -> None:
    model, processor = load(FAMILY, 4)
    rows = [("what moves", frames(1), "where ?"), ("is the circle red ?", frames(2), "then", frames(3), "?")]
    inputs = prompt(FAMILY, processor, *rows)
    with vtc.inside(model, "dycoke-dp", p=0.9):
        together = new_tokens(inputs, generate(model, inputs, num_beams=beams))
        for n, row in enumerate(rows):
            alone = prompt(FAMILY, processor, row)
            assert torch.equal(new_tokens(alone, generate(model, alone, num_beams=beams))[0], together[n])


# --- refusals, and what is left behind ---------------------------------------------------------------------------


def untouched(model) -> bool:
    hooks = [
        hook for each in model.modules() for hook in (*each._forward_pre_hooks.values(), *each._forward_hooks.values())
    ]
    ours = [hook for hook in hooks if "inside" in repr(hook)]
    return not ours and model.config.get_text_config()._attn_implementation == "sdpa"


def test_nothing_is_left_behind_also_after_an_exception() -> None:
    model, inputs = load(FAMILY, 4)[0], asked(FAMILY)
    before = logits(model, inputs)
    with pytest.raises(KeyError), vtc.inside(model, "fastv"):
        logits(model, inputs)
        raise KeyError
    assert untouched(model) and torch.equal(logits(model, inputs), before)

    def fail(*_: object) -> None:
        raise KeyError

    handle = model.get_decoder().layers[2].register_forward_pre_hook(fail)
    with pytest.raises(KeyError), vtc.inside(model, "fastv"):
        logits(model, inputs)
    handle.remove()
    assert untouched(model) and torch.equal(logits(model, inputs), before)
    gc.collect()


def test_without_a_decoded_token_what_cuts_there_did_not_engage() -> None:
    model, inputs = load(FAMILY, 4)[0], asked(FAMILY)
    before = logits(model, inputs)
    idle = pytest.raises(vtc.VTCError, match="chosen from while decoding; the stage did not engage")
    with idle, vtc.inside(model, "dycoke-dp"):
        assert torch.equal(logits(model, inputs), before)


def test_a_stage_that_does_nothing_is_told(monkeypatch) -> None:
    model, processor = load(FAMILY, 4)
    with pytest.raises(vtc.VTCError, match="did not engage"), vtc.inside(model, "fastv"):
        pass
    with pytest.raises(vtc.VTCError, match="did not engage"), vtc.inside(model, "fastv"):
        logits(model, prompt(FAMILY, processor, ("what is red ?",)))
    monkeypatch.setattr(inside_module, "cut_tokens", lambda run, cut, hidden, waves: hidden)
    engaging = pytest.raises(vtc.VTCError, match=r"held \[24, 24, 24, 24\] .* not \[24, 24, 12, 12\]; .* not engage")
    with engaging, vtc.inside(model, "fastv"):
        logits(model, asked(FAMILY))


def test_a_model_inside_already_or_a_backend_without_rows_is_told() -> None:
    model = load(FAMILY, 4)[0]
    twice = pytest.raises(vtc.VTCError, match="inside another context already")
    with twice, vtc.inside(model, "fastv"), vtc.inside(model, "fastv"):
        pass
    assert untouched(model)
    eager = AutoModelForImageTextToText.from_pretrained(checkpoint(FAMILY, 4), attn_implementation="eager")
    without_rows = pytest.raises(vtc.VTCError, match="attention is 'eager'.*attn_implementation='sdpa'")
    with without_rows, vtc.inside(eager, "fastv"):
        pass


@pytest.mark.parametrize(
    ("family", "words"),
    [
        ("qwen3_5", "Qwen3.5 has linear_attention layers"),
        ("gemma4", "Gemma 4 has sliding_attention layers"),
        ("qwen3_vl", "adds visual features behind each of its first 2 layers; cut at 2 or later"),
    ],
)
def test_where_a_cut_would_not_hold_it_is_refused(family, words) -> None:
    model = load(family, 4)[0]
    with pytest.raises(vtc.VTCError, match=words), vtc.inside(model, "fastv", layer=1):
        pass
    assert untouched(model)


def test_caches_from_elsewhere_and_of_other_kinds_are_told() -> None:
    model, inputs = load(FAMILY, 4)[0], dict(asked(FAMILY))
    with torch.no_grad():
        outside = model(**inputs, use_cache=True).past_key_values
    one = torch.ones(1, 1, dtype=torch.long)
    with pytest.raises(vtc.VTCError, match="the cache holds 28 tokens from elsewhere"), vtc.inside(model, "fastv"):
        model(input_ids=one, past_key_values=outside)
    with pytest.raises(vtc.VTCError, match="is a StaticCache, which holds equally many"), vtc.inside(model, "fastv"):
        generate(model, inputs, cache_implementation="static")
    with (
        pytest.raises(vtc.VTCError, match="layer 2 has .* do not crop it"),
        vtc.inside(model, "fastv"),
        torch.no_grad(),
    ):
        cache = model(**inputs, use_cache=True).past_key_values
        with pytest.raises(vtc.VTCError, match="the prompt came in pieces"):
            model(input_ids=one * model.config.video_token_id, past_key_values=cache)
        cache.layers[2].crop(-3)
        model(input_ids=one, past_key_values=cache)


@pytest.mark.parametrize("method", sorted(INSIDE))
def test_in_bfloat16(method) -> None:
    model, inputs = copy.deepcopy(load(FAMILY, 4)[0]).bfloat16(), asked(FAMILY)
    with vtc.inside(model, method) as stage:
        said = generate(model, inputs)
    assert torch.stack(said.logits).isfinite().all() and stage.layers == [held(24, 4, schedule(method, 4))]


def test_without_a_cache_each_step_is_a_prefill() -> None:
    model, inputs = load(FAMILY, 4)[0], asked(FAMILY)
    with vtc.inside(model, "uniform-inside", keep=0.25):
        said = [generate(model, inputs, use_cache=cached).sequences for cached in (True, False)]
    assert torch.equal(*said)


def test_reduced_inputs_are_cut_again() -> None:
    model, inputs = load(FAMILY, 4)[0], asked(FAMILY)
    reduced = compress(model, inputs, "lftr", 2)
    with vtc.inside(model, "fastv", keep=0.25) as stage:
        generate(model, reduced)
    assert stage.layers == [[12, 12, 3, 3]]


def test_they_are_listed() -> None:
    table = vtc.methods(stage="inside")
    assert table.loc["fastv", "paper"] == "arXiv 2403.06764" and not set(table.index) & set(vtc.methods().index)
    assert Look.__doc__ and set(table.index) == set(INSIDE)
    with pytest.raises(vtc.VTCError, match="stage is 'within'"):
        vtc.methods(stage="within")


@pytest.mark.parametrize("family", ["llava_next_video", "video_llava", "llava_onevision", "qwen2_vl"])
def test_the_fate_of_each_token_at_each_layer_and_where_the_last_token_looks(family) -> None:
    """Class tokens and newlines are no patches; the attention is that of an eager run, where nothing is cut."""
    model = vtc.load_model(checkpoint(family, 4))
    eager = AutoModelForImageTextToText.from_pretrained(checkpoint(family, 4), attn_implementation="eager")
    tokens = model.encode(CLIP)
    reduced = vtc.reduce(tokens, "random", ratio=2)
    own = put_back(model.network, encode_prompt(model.network, own_way(model, CLIP, QUESTIONS[0])), [reduced])
    with torch.no_grad():
        weights = eager(**own, output_attentions=True).attentions
    layers = vtc.look_inside(model, CLIP, QUESTIONS[0], "fastv", reduced, keep=1)
    visual = places_of(model.network, model.family.modality, own)[0]
    for layer, seen in zip(layers, weights, strict=True):
        assert torch.equal(layer.reduction.check().kept, reduced.kept)
        found, expected = layer.attention[reduced.kept], seen[0, :, -1].mean(0)[visual]
        assert all((expected - each).abs().min() < 1e-5 for each in found) and not layer.attention[~reduced.kept].any()
        if len(expected) == len(found):
            same(found, expected)
    cut = vtc.look_inside(model, CLIP, QUESTIONS[0], "fastv", reduced, keep=0.5)
    best = layers[1].attention[reduced.kept].topk(len(cut[3].reduction)).indices
    for number, layer in enumerate(cut):
        assert set(layer.reduction.check().anchor.tolist()) <= set(reduced.anchor.tolist())
        assert (layer.attention > 0).equal(layer.reduction.kept) and len(layer.reduction) <= len(reduced)
        assert layer.reduction.method == f"fastv, layer {number}"
    assert torch.equal(cut[2].reduction.anchor, reduced.anchor[best.sort().values])
    assert len(cut[1].reduction) == len(reduced) and abs(len(cut[3].reduction) - len(reduced) / 2) <= 3
    nothing = vtc.look_inside(model, CLIP, QUESTIONS[0], "drop-inside")[-1]
    assert not nothing.reduction.kept.any() and not nothing.attention.any()
    if tokens.grid[0] == len(CLIP):
        assert vtc.show(CLIP, nothing.reduction).vtc["data"].dropped.sum() == tokens.total


# --- asking, and sweeps ------------------------------------------------------------------------------------------


def test_asking() -> None:
    """Together and alone, as the model's own forward says; candidates are weighed behind what the question rated."""
    model = vtc.load_model(checkpoint(FAMILY, 4))
    reduced = vtc.reduce(model.encode(CLIP), "lftr", ratio=2)
    codes = [model.processor.tokenizer(text, add_special_tokens=False)["input_ids"] for text in CANDIDATES]
    whole = model.ask(QUESTIONS[0], CLIP, reduced, candidates=CANDIDATES)
    assert whole.per_layer == whole.entered == 12
    with vtc.inside(model, "fastv", keep=0.25), torch.no_grad():
        for question, answer in zip(
            QUESTIONS, model.ask(QUESTIONS, CLIP, reduced, candidates=[CANDIDATES] * 3), strict=True
        ):
            own = put_back(model.network, encode_prompt(model.network, own_way(model, CLIP, question)), [reduced])
            sums = []
            for code in codes:
                output, place, total = model.network(**own, use_cache=True), own["position_ids"], 0.0
                same(output.logits[0, -1], answer.logits)
                for token in code:
                    total += float(output.logits[0, -1].log_softmax(0)[token])
                    place = place[..., -1:] + 1
                    more = {"input_ids": torch.tensor([[token]]), "position_ids": place}
                    output = model.network(**more, past_key_values=output.past_key_values, use_cache=True)
                sums.append(total)
            assert list(answer.scores.values()) == pytest.approx(torch.tensor(sums).softmax(0).tolist(), abs=1e-4)
            assert (answer.entered, answer.per_layer) == (12, 12 * (1 + 1 + 0.25 + 0.25) / 4)
    again = model.ask(QUESTIONS[0], CLIP, reduced, candidates=CANDIDATES)
    assert torch.equal(again.logits, whole.logits) and not torch.equal(again.logits, answer.logits)


@pytest.mark.parametrize("method", ["", "fastv", "pyramiddrop", "holitom-inner", "prunevid-inner"])
def test_the_cache_holds_what_each_layer_does(method) -> None:
    """PruneVid's earlier layers do not see what was dropped, but they hold it."""
    model = vtc.load_model(checkpoint(FAMILY, 4))
    text = own_way(model, CLIP, QUESTIONS[0])["input_ids"].shape[1] - 24
    with vtc.inside(model, method) if method else nullcontext():
        answer = model.ask(QUESTIONS[0], CLIP, max_new_tokens=1)
    layers = held(24, 4, schedule(method, 4) if method else [])
    costs = vtc.stage_costs(model.network, model.encode(CLIP).grid, layers, text=text, new_tokens=1)
    assert answer.cache_bytes == costs.kv_bytes.sum() and (not method or layers[-1] < 24)


def test_sweep() -> None:
    model = vtc.load_model(checkpoint(FAMILY, 4))
    samples = [
        {"clip": CLIP, "question": question, "answer": "red", "candidates": CANDIDATES} for question in QUESTIONS
    ]
    pair = "lftr + flashvid-inner"
    table = vtc.sweep(model, samples, ["lftr", "fastv", (pair, {"keep": 0.5, "layer": 2})], [1, 2], max_new_tokens=2)
    assert set(table.status) == {"ok"} and table.engaged.all(), table.error.tolist()
    assert (table.cache_bytes[table.ratio == 2] < table.cache_bytes[table.ratio == 1].to_numpy()).all()
    cells = table.groupby(["method", "ratio"])[["kept", "per_layer"]].first().apply(tuple, axis=1).to_dict()
    assert cells == {
        ("lftr", 1): (24, 24),
        ("lftr", 2): (12, 12),
        ("fastv", 1): (24, 24),
        ("fastv", 2): (24, 18),
        (pair, 1): (24, 18),
        (pair, 2): (12, 9),
    }
    assert (table[(table.method == "fastv") & (table.ratio == 1)].kl.abs() < 1e-6).all()
    assert (table[(table.method == "fastv") & (table.ratio == 2)].kl > 0).all()
    mean = vtc.sweep(model, samples[:1], ["lftr", "fastv", pair], [1, 1.6], max_new_tokens=2, budget="mean")
    assert [round(24 / each, 1) for each in mean[mean.status == "ok"].per_layer] == [1, 1.6, 1, 1.6, 1.6]
    assert (
        "leaves 83.3% of them on average, not 1 / 1; take a ratio of 1.2 or more"
        in mean[mean.method == pair].error.iloc[0]
    )
    assert set(mean.asked) == {'{"max_new_tokens": 2, "budget": "mean"}'} and untouched(model.network)
    open_ended = [{**samples[0], "candidates": None}]
    idle = vtc.sweep(model, open_ended, ["dycoke-dp"], [None], max_new_tokens=1)
    assert idle.error.str.contains("did not engage").all() and idle.said.isna().all()
    read = vtc.sweep(model, open_ended, ["dycoke-dp", ("dycoke + dycoke-dp", {"k": 0.5})], [None], max_new_tokens=2)
    assert (read.per_layer == read.kept).all() and read.kept.iloc[1] < read.kept.iloc[0] == 24
    broken = vtc.sweep(model, samples[:1], ["drop-inside", ("fastv", {"layer": 9})], [2])
    assert broken.error.str.contains("has no keep|layer is 9; this model has 4").all()
    with pytest.raises(vtc.VTCError, match="method inside .* is 'holitom-iner'; did you mean 'holitom-inner'"):
        vtc.sweep(model, samples, ["holitom + holitom-iner"])
    with pytest.raises(vtc.VTCError, match="'fastv' was given keep and ratios"):
        vtc.sweep(model, samples, [("fastv", {"keep": 0.5})], [2])
