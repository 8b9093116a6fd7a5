"""Run a method that cuts visual tokens between the layers of a language model, in the model's own code.

Hooks shorten what enters the later layers: hidden states, positions and masks. An attention function that is SDPA, and
shows the queries and keys of a layer besides, gives the rows of attention that rate; the whole of it is never built.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from vtc_lab.models.families import Model, bare, family_of
from vtc_lab.models.inside_runs import Part, Run, cut_tokens, rating_rows, reads_of, taken
from vtc_lab.models.prompt_clips import places_of
from vtc_lab.reducers.inside import Cut, Rows, held, schedule
from vtc_lab.tokens import VTCError

_HERE = threading.local()  # `stage`: whose model's layers are at work in this thread
_ACTIVE: WeakKeyDictionary[Model, Inside] = WeakKeyDictionary()


class _Peeked(Exception):  # noqa: N818  (no error: it ends a layer's forward once its queries and keys are known)
    pass


class Inside:
    """The stage inside a language model while `inside` is open.

    `layers` has, for each prompt of the last prefill, the number of visual tokens that each layer held, counted from
    the keys that it attended to. Newlines and class tokens among the visual tokens count.
    """

    def __init__(self, network: Model, cuts: list[Cut]) -> None:
        self.network, self.decoder, self.cuts = network, network.get_decoder(), cuts
        self.layers: list[list[int]] = []
        self.engaged = False  # a visual token has passed through
        self.watching = False  # note where the last token looks in each layer
        self.thread = threading.get_ident()
        self.runs: WeakKeyDictionary[Any, Run] = WeakKeyDictionary()  # by their caches
        self.run: Run | None = None  # while the model's forward is running
        self.last: Run | None = None  # of the last prefill

    @property
    def decoding(self) -> bool:
        """True if nothing is cut before the first token is decoded."""
        return all(cut.decoding for cut in self.cuts)

    @property
    def here(self) -> bool:
        """True in the thread that opened the context; the explorer may use the same model in another."""
        return threading.get_ident() == self.thread

    def kept(self, layer: int) -> Tensor:
        """Return (B, N) bool, which tokens of the last prefill a layer held."""
        assert self.last is not None
        part = self.last.part(layer)
        return torch.zeros_like(self.last.alive).scatter(1, part.order, part.real)

    def begin(self, network: Model, args: tuple, given: dict[str, Any]) -> None:
        """Take up the run that a forward of the whole model belongs to, or a new one."""
        if not self.here:
            return
        given = inspect.signature(network.forward).bind_partial(*args).arguments | given
        cache, ids, mask = given.get("past_key_values"), given.get("input_ids"), given.get("attention_mask")
        before = cache.get_seq_length() if cache is not None else 0
        if not all(type(layer) is DynamicLayer for layer in getattr(cache, "layers", ())):
            raise VTCError(f"the cache is a {type(cache).__name__}, which holds equally many tokens in each layer")
        if before:
            if cache not in self.runs:
                raise VTCError(f"the cache holds {before} tokens from elsewhere; prefill the prompt in this context")
            if ids is not None and bool(places_of(network, family_of(network).modality, given).any()):
                raise VTCError("the prompt came in pieces; prefill it at once, without prefill_chunk_size")
            run = self.runs[cache]
            run.repeat(len(given["inputs_embeds"] if ids is None else ids) // len(run.visual))
        elif ids is None:
            raise VTCError("the prompt came as embeddings; give input_ids, which tell the visual tokens")
        else:
            alive = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
            visual = places_of(network, family_of(network).modality, given) & alive
            everything = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
            run = Run(visual, alive, [Part(0, everything, torch.ones_like(alive))])
        run.mask, run.before, run.reads = mask, before, None
        for part in run.parts:
            part.made = None
        self.run, _HERE.stage = run, self

    def end(self, network: Model, args: tuple, given: dict[str, Any], output: Any) -> None:
        """Remember the run by its cache, and check what each layer held against the schedule."""
        if getattr(_HERE, "stage", None) is not self or (run := self.run) is None:
            return
        self.run = _HERE.stage = None
        if (cache := getattr(output, "past_key_values", None)) is not None:
            self.runs[cache] = run
        if run.before:
            return
        self.last = run
        text, depth = (~run.visual).sum(1), len(self.decoder.layers)
        counts = [run.lengths[n] - (~run.part(n).real).sum(1) - text for n in range(depth)]
        self.layers = torch.stack(counts, 1).tolist()
        self.engaged |= bool(run.visual.any()) and not self.decoding
        for row, entered in zip(self.layers, run.visual.sum(1).tolist(), strict=True):
            if row != (wanted := held(entered, depth, self.cuts)):
                raise VTCError(f"the layers held {row} visual tokens, not {wanted}; the stage did not engage")
        if any(cut.everywhere for cut in self.cuts):
            run.parts[0].real = self.kept(depth - 1)

    def enter(self, number: int, layer: Model, args: tuple, given: dict[str, Any]) -> tuple | None:
        """Return what enters a layer."""
        if getattr(_HERE, "stage", None) is not self or (run := self.run) is None:
            return None
        given = {**given, **({"hidden_states": args[0]} if args else {})}
        if not run.before:
            if number == 0:
                kinds: set[Rows] = {"last", *(cut.rows for cut in self.cuts)}
                for kind in kinds:
                    each = zip(given["hidden_states"], run.visual, run.alive, strict=True)
                    run.rows[kind] = [rating_rows(kind, *one) for one in each]
            for cut in self.cuts:
                if cut.layer == number and not cut.decoding:
                    uncut = run.parts[-1].given(given)
                    if cut.peek:
                        _peek(layer, args[1:], uncut)
                    given["hidden_states"] = cut_tokens(run, cut, given["hidden_states"], uncut["position_embeddings"])
        part = run.part(number)
        if part.made is None:
            part.made = self._made(run, part, given)
        given = part.given(given)
        if run.reads and run.reads[0] <= number:
            mask, reads = given["attention_mask"], run.reads[1][:, None]
            given["attention_mask"] = reads if mask is None else mask & reads
        return (given.pop("hidden_states"), *args[1:]), given

    def note(self, number: int, query: Tensor, key: Tensor, mask: Tensor | None, scaling: float) -> None:
        """Look at a layer's queries and keys, to count the keys and to rate by them."""
        run = self.run
        assert run is not None
        part = run.part(number)
        if run.before:
            expected = part.order.shape[1] + run.before - run.visual.shape[1] + query.shape[2]
            if key.shape[2] != expected:
                raise VTCError(f"layer {number} has {key.shape[2]} tokens in its cache, not {expected}; do not crop it")
            for cut in self.cuts:
                if cut.decoding and cut.layer == number + 1:
                    run.reads = cut.layer, reads_of(run, cut, query, key, mask, scaling)
                    self.engaged |= bool(run.visual.any())
            return
        for cut in self.cuts:
            peeking = cut.peek and cut.layer == number and part.start < number
            if peeking or (not cut.peek and cut.rows != "none" and cut.layer == number + 1):
                run.attention = run.looks(run.places(part, cut.rows), query, key, mask, scaling)
            if peeking:
                raise _Peeked
        run.lengths[number] = key.shape[2]
        if self.watching:
            looks = torch.stack(run.looks(run.places(part, "last"), query, key, mask, scaling)).mean(1)[:, 0]
            run.seen.append(torch.zeros(run.visual.shape, device=key.device).scatter(1, part.order, looks))

    def _made(self, run: Run, part: Part, given: dict[str, Any]) -> dict[str, Any]:
        """The positions and the mask of the tokens of a part."""
        padded = not bool(part.real.all())
        if not part.start and not padded:
            return {}
        turn, place, mask = (given.get(name) for name in ("position_embeddings", "position_ids", "attention_mask"))
        order, real, new = part.order, part.real, given["hidden_states"].shape[1]
        if run.before:
            later = torch.arange(run.visual.shape[1], run.before + new, device=order.device).expand(len(order), -1)
            order, real = torch.cat([order, later], 1), torch.cat([real, torch.ones_like(later, dtype=torch.bool)], 1)
        else:
            turn = tuple(taken(each.expand(len(order), -1, -1), order) for each in given["position_embeddings"])
            if place is not None:
                axes = place.shape[:-2]
                place = place.expand(*axes, len(order), -1).gather(-1, order.expand(*axes, -1, -1))
        if part.renumber:
            there = run.alive if run.mask is None else run.mask.bool()
            if run.before:
                there = torch.nn.functional.pad(there, (0, run.before + new - there.shape[1]), value=True)
            place = ((there.gather(1, order) & real).cumsum(1) - 1).clamp(min=0)[:, -new:]
            turned = place.expand(3, -1, -1) if hasattr(self.network.base_model, "get_rope_index") else place
            turn = self.decoder.rotary_emb(given["hidden_states"], turned)
        if mask is not None:
            mask = mask.expand(len(order), -1, -1, -1)
            if not run.before:
                mask = mask.gather(2, order[:, None, :, None].expand(-1, -1, -1, mask.shape[3]))
            mask = mask.gather(3, order[:, None, None, :].expand(-1, -1, mask.shape[2], -1))
        if padded:
            if mask is None:
                mask = torch.ones(new, order.shape[1], dtype=torch.bool, device=order.device).tril(real.shape[1] - new)
            mask = mask & real[:, None, None]
            if not run.before:  # a row that sees nothing would give no numbers, so padding sees itself
                mask = mask | torch.eye(new, dtype=torch.bool, device=order.device)
        return {"position_embeddings": turn, "position_ids": place, "attention_mask": mask}


def _peek(layer: Model, args: tuple, given: dict[str, Any]) -> None:
    """Run a layer on what it would hold without a cut, only to see its queries and keys."""
    given = given | {"past_key_values": None}
    with suppress(_Peeked):
        layer.forward(given.pop("hidden_states"), *args, **given)


def _probe(
    module: Model, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **given: Any
) -> Any:
    """SDPA that shows its queries and keys to the stage at work in this thread."""
    if (stage := getattr(_HERE, "stage", None)) is not None:
        scaling = given.get("scaling") or query.shape[-1] ** -0.5
        stage.note(module.layer_idx, query, key, attention_mask, scaling)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **given)


AttentionInterface.register("probe", _probe)
AttentionMaskInterface.register("probe", sdpa_mask)


def inside_of(network: Model) -> Inside | None:
    """Return the stage that is at work inside a model, if this thread opened one."""
    stage = _ACTIVE.get(network)
    return stage if stage and stage.here else None


@contextmanager
def inside(
    model: Model,
    method: str,
    *,
    ratio: float | None = None,
    budget: Literal["enters", "mean"] = "enters",
    **options: Any,
) -> Iterator[Inside]:
    """Cut visual tokens between the layers of a language model, in whatever runs of it within this context.

    The model's own `forward` and `generate`, `model.ask` and `vtc.compress` work as they do outside. Prefill rates and
    cuts; while decoding, the later layers see what they kept. On leaving, the model is as it was.

    Parameters
    ----------
    model : from `load_model`, or a Hugging Face model of one of its families, with SDPA attention.
    method : a name of `methods(stage="inside")`.
    ratio, budget : in place of the option `keep`: of M visual tokens that enter, M / ratio are left in the last layer
        ("enters", as papers name their budgets) or are the mean of all layers ("mean").
    options : of the method, such as keep, the share of the visual tokens that stays, and layer, the first that sees
        fewer, counted from 0.

    Returns
    -------
    A context that gives an `Inside`, whose `layers` are the visual tokens that each layer held for each prompt.

    Raises
    ------
    VTCError
        For a method or option that is not there, a layer that the model does not have, a model that is inside another
        context or cannot be cut; and on leaving, if no visual token passed through the stage.

    Examples
    --------
    >>> import vtc_lab as vtc
    >>> model, (clip, samples) = vtc.load_model(), vtc.make_clip(7)
    >>> with inside(model, "fastv", keep=0.25, layer=1) as stage:
    ...     answer = model.ask(samples[0]["question"], clip)
    >>> stage.layers[0][1] == round(stage.layers[0][0] / 4), answer.per_layer < answer.entered
    (True, True)
    """
    network = bare(model)
    family, config = family_of(network), network.config.get_text_config()
    layers, before = network.get_decoder().layers, config._attn_implementation
    if before == "probe":
        raise VTCError("the model is inside another context already; leave that first")
    if before != "sdpa":
        raise VTCError(
            f"attention is {before!r}, whose rows cannot be had; load the model with attn_implementation='sdpa'"
        )
    if other := sorted(set(getattr(config, "layer_types", None) or ["full_attention"]) - {"full_attention"}):
        raise VTCError(
            f"{family.name} has {', '.join(other)} layers, whose states or windows pass tokens on; a cut would not hold"
        )
    cuts = schedule(method, len(layers), ratio=ratio, budget=budget, **options)
    deeper = len(getattr(network.config.vision_config, "deepstack_visual_indexes", None) or [])
    if cuts[0].layer < deeper:
        raise VTCError(
            f"{family.name} adds visual features behind each of its first {deeper} layers; cut at {deeper} or later"
        )
    stage = Inside(network, cuts)
    handles = [
        network.register_forward_pre_hook(stage.begin, with_kwargs=True),
        network.register_forward_hook(stage.end, with_kwargs=True),
        *(each.register_forward_pre_hook(partial(stage.enter, n), with_kwargs=True) for n, each in enumerate(layers)),
    ]
    network.set_attn_implementation({"text_config": "probe"})
    _ACTIVE[network] = stage
    try:
        yield stage
    finally:
        del _ACTIVE[network]
        _HERE.stage = None
        network.set_attn_implementation({"text_config": before})
        for handle in handles:
            handle.remove()
    if not stage.engaged:
        done = "was chosen from while decoding" if stage.decoding else "of a prompt passed through the layers"
        raise VTCError(f"no visual token {done}; the stage did not engage")
