"""Reduce the visual tokens of any supported model: what its processor made goes in, inputs of the same kind come out.

The reduced features enter through transformers' own argument `mm_encoder_outputs`; nothing is patched.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import BatchFeature

from vtc_lab.models.families import Inputs, Model, bare, family_of
from vtc_lab.models.prompt_clips import Encoded, EncodedPrompt, arguments, encode_prompt, on_device, places_of, rows
from vtc_lab.reducers.ops import weighted_sums
from vtc_lab.reducers.registry import needs_saliency, reduce
from vtc_lab.tokens import Reduction, VTCError, demand_one_of

Positions = Literal["preserve", "compact"]


class CompressedInputs(BatchFeature):
    """Hold a prompt whose clips are encoded and reduced; unpack it into `generate` like a processor's output.

    `reductions` has one Reduction for each clip, in the order of the prompts. Each unpacking hands out a new container
    of the features, because beam search writes into it and would spoil the next run.
    """

    def __init__(self, data: Inputs, reductions: Sequence[Reduction] = ()) -> None:
        super().__init__(dict(data))
        self.reductions = tuple(reductions)

    @property
    def padding(self) -> float:
        """The share of the batch's positions that are padding: what prompts of unequal length waste."""
        return 1 - self.data["attention_mask"].float().mean().item()

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        if name == "mm_encoder_outputs":
            return {modality: copy.copy(output) for modality, output in value.items()}
        return value

    def __reduce__(self) -> tuple:
        return type(self), (self.data, self.reductions)

    def to(self, *args: Any, **kwargs: Any) -> CompressedInputs:
        """Move to a device, floating point numbers also to a dtype, in place as `BatchFeature.to` does."""
        super().to(*args, **kwargs)
        for output in self.data.get("mm_encoder_outputs", {}).values():
            for name, value in output.items():
                output[name] = _moved(value, *args, **kwargs)
        return self


def _moved(features: Any, *args: Any, **kwargs: Any):
    if isinstance(features, Tensor):
        return features.to(*args, **kwargs)
    return [_moved(part, *args, **kwargs) for part in features]


def demand_asking(positions: object, max_new_tokens: object = 1) -> None:
    """Raise a VTCError unless a model can be asked with these `positions` and `max_new_tokens`."""
    demand_one_of("positions", positions, ("preserve", "compact"))
    if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, Integral) or max_new_tokens < 1:
        raise VTCError(f"max_new_tokens is {max_new_tokens!r:.60}; give a whole number of at least 1")


def compress(
    model: Model,
    inputs: Inputs,
    method: str,
    ratio: float | None = None,
    *,
    positions: Positions = "preserve",
    clips: Sequence[slice] | None = None,
    **options: object,
) -> CompressedInputs:
    """Encode the clips of a prompt, reduce each by itself, and return inputs for the model's `generate` or `forward`.

    Parameters
    ----------
    model : a Hugging Face model of one of the families in `vtc_lab.models.families.FAMILIES`, also wrapped by
        `torch.compile`, PEFT or `load_model`.
    inputs : what its processor made of a prompt, or of a padded batch of them, with clips, pictures, both or neither.
    method, ratio, options : as for `vtc.reduce`; the ratio is that of each clip.
    positions : "preserve" leaves every token at the position it had in the full prompt. "compact" numbers what stays
        one by one; where positions have time, height and width, all three get that number, as they do in text.
    clips : only where frames are given as pictures (LLaVA, InternVL, SmolVLM, Idefics3): which pictures of the whole
        batch, counted as the processor cut them, are the frames of each clip; the others stay as they are. By default
        those before which the processor writes "Frame", or (LLaVA, Idefics3) all pictures of a prompt as one clip.

    Returns
    -------
    CompressedInputs, on the model's device, encoded without gradients. Without a clip all entries are the ones given.
        Prompts of different lengths are padded on the side on which they were, else on the left; `padding` is the
        share of positions that this wastes.

    Notes
    -----
    Leave the cache of `generate` on: without it, gaps between positions are taken for borders between prompts, which
    `engaged` notices. A decoding loop of your own must go on counting from the last of `position_ids`.

    Examples
    --------
    >>> import vtc_lab as vtc
    >>> bundled, (clip, _) = vtc.load_model(), vtc.make_clip(7)
    >>> inputs = bundled.processor(text="<video> what moves ?", videos=[clip.frames[:4]], return_tensors="pt")
    >>> reduced = compress(bundled.network, inputs, "random", ratio=8)
    >>> inputs["input_ids"].shape[1] - reduced["input_ids"].shape[1], reduced.reductions[0].ledger
    (686, 'kept 98 of 784 tokens, 8.0x, 4 of 4 frames')
    >>> with engaged(bundled.network, reduced):
    ...     answer = bundled.network.generate(**reduced, max_new_tokens=1)
    """
    demand_asking(positions)
    model = bare(model)
    prompt = encode_prompt(model, inputs, saliency=needs_saliency(method, options), clips=clips)
    if prompt is None:
        return CompressedInputs(on_device(inputs, model))
    return put_back(model, prompt, [reduce(tokens, method, ratio, **options) for tokens in prompt.tokens], positions)


@torch.no_grad()
def put_back(
    model: Model, prompt: EncodedPrompt, reductions: Sequence[Reduction], positions: Positions = "preserve"
) -> CompressedInputs:
    """Replace the visual tokens of a prompt by reductions, one for each of its clips."""
    keep = torch.ones(len(prompt.features), dtype=torch.bool, device=prompt.features.device)
    anchors = [index.flatten()[each.anchor] for index, each in zip(prompt.where, reductions, strict=True)]
    keep[torch.cat([index.flatten() for index in prompt.where])] = False
    keep[torch.cat(anchors)] = True
    sizes = [int(part.sum()) for part in keep.split(prompt.sizes)]

    def packed(features: Tensor, of: Callable[[Tensor, Reduction], Tensor]) -> list[Tensor]:
        features = features.clone()
        for index, reduction, anchor in zip(prompt.where, reductions, anchors, strict=True):
            features[anchor] = of(features[index], reduction)
        return list(features[keep].split(sizes))

    modality = family_of(model).modality
    given, features = prompt.outputs[modality], packed(prompt.features, lambda _, reduction: reduction.tokens)
    # As one tensor it gets a row for each token, so that beam search can repeat prompts of any number of tokens.
    entering = torch.cat(features)[:, None] if isinstance(given.pooler_output, Tensor) else features
    deeper = given.deepstack_features and [
        packed(rows(layer), lambda values, each: weighted_sums(values, each.assign, each.weight, len(each)))
        for layer in given.deepstack_features
    ]
    data = _shortened(model, prompt, keep, positions)
    data["mm_encoder_outputs"] = prompt.outputs | {modality: Encoded(pooler_output=entering, deepstack_features=deeper)}
    return CompressedInputs(data, reductions)


@contextmanager
def engaged(model: Model, inputs: CompressedInputs) -> Iterator[None]:
    """Raise a VTCError on leaving unless the language model ran on exactly the reduced tokens, at their positions.

    Parameters
    ----------
    model : the one that `inputs` were made for.
    inputs : what `compress` returned; call `generate` with them, with any number of beams, or `forward`.

    Examples
    --------
    >>> import vtc_lab as vtc
    >>> bundled, (clip, _) = vtc.load_model(), vtc.make_clip(7)
    >>> inputs = bundled.processor(text="<video> what moves ?", videos=[clip.frames[:4]], return_tensors="pt")
    >>> reduced = compress(bundled.network, inputs, "lftr", ratio=4)
    >>> with engaged(bundled.network, reduced):
    ...     logits = bundled.network(**inputs).logits
    Traceback (most recent call last):
    vtc_lab.tokens.VTCError: 0 of 197 reduced visual tokens reached the language model; the reduction did not engage
    """
    model = bare(model)
    if not isinstance(inputs, CompressedInputs):
        raise VTCError(f"inputs is a {type(inputs).__name__}; give what compress returned, not a copy as a dict")
    seen: list[dict[str, Any]] = []
    here, width = threading.get_ident(), inputs["input_ids"].shape[1]

    def note(_: Model, args: tuple, given: dict[str, Any]) -> None:
        done = sum(part["inputs_embeds"].shape[1] for part in seen)
        # The prompt comes whole or in chunks; the explorer may ask the same model on another thread.
        if done < width and threading.get_ident() == here:
            seen.append(given)

    handle = model.get_decoder().register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
    if inputs.reductions:
        beams = _demand_features(model, inputs, seen)
        _demand_positions(model, inputs, seen, beams)


def _demand_features(model: Model, inputs: CompressedInputs, seen: list[dict[str, Any]]) -> int:
    """The number of beams, if all of them were given the reduced tokens in their places."""
    ids, modality, reached = inputs["input_ids"], family_of(model).modality, 0
    places, width = places_of(model, modality, inputs), ids.shape[1]
    features = rows(inputs["mm_encoder_outputs"][modality].pooler_output)
    # Assisted decoding runs its first guesses with the prompt.
    given = torch.cat([part["inputs_embeds"] for part in seen], 1)[:, :width] if seen else features.new_zeros(0, 0, 0)
    beams = len(given) // len(ids)
    if beams and given.shape[1] == width:
        # They replace the placeholder's own embedding; Molmo2 adds them to it.
        features = features.to(given)
        added = features + model.get_input_embeddings()(ids[places]).to(given)
        arrived = [given[beam::beams][places] for beam in range(beams)]
        reached = min(int(((each == features).all(-1) | (each == added).all(-1)).sum()) for each in arrived)
    if reached != len(features) or given.shape[1] != width:
        unseen = "" if seen else ", or what ran was compiled before and cannot be watched"
        raise VTCError(
            f"{reached} of {len(features)} reduced visual tokens reached the language model; the reduction did not "
            f"engage{unseen}"
        )
    return beams


def _demand_positions(model: Model, inputs: CompressedInputs, seen: list[dict[str, Any]], beams: int) -> None:
    wanted, mask = inputs["position_ids"].repeat_interleave(beams, -2), inputs["attention_mask"]
    mask = mask.repeat_interleave(beams, 0).bool()
    alive, taken = mask.expand_as(wanted), [part.get("position_ids") for part in seen]
    used = [part for part in taken if part is not None and part.shape[0] in (1, wanted.shape[0])]
    if len(used) < len(taken) or not torch.equal(
        torch.cat(used, -1)[..., : wanted.shape[-1]].expand_as(wanted)[alive], wanted[alive]
    ):
        raise VTCError(
            f"{type(model).__name__} put positions of its own in the place of those given; compress with "
            "positions='compact'"
        )
    masks = [part.get("attention_mask") for part in seen if part.get("past_key_values") is None]
    gaps = wanted.view(-1, *wanted.shape[-2:])[0].diff() != 1
    if bool(gaps.any()) and any(each is None or _hides(each, mask) for each in masks):
        raise VTCError(
            "gaps between positions were taken for borders between prompts; leave use_cache on, or compress with "
            "positions='compact'"
        )


def _hides(mask: object, alive: Tensor) -> bool:
    """True if a mask of all tokens against all hides some of a prompt from its last token."""
    if not isinstance(mask, Tensor) or mask.ndim != 4 or mask.shape[-2:] != alive.shape[-1:] * 2:
        return False
    seen = mask[:, 0, -1] if mask.dtype == torch.bool else mask[:, 0, -1] >= 0
    return bool((alive & alive[:, -1:] & ~seen).any())


def _shortened(model: Model, prompt: EncodedPrompt, keep: Tensor, positions: Positions) -> dict[str, Any]:
    """The language model's inputs without the tokens that go, padded again on the side on which they were."""
    core, family, ids = model.base_model, family_of(model), prompt.inputs["input_ids"]
    inputs = {"attention_mask": torch.ones_like(ids)} | prompt.inputs
    mask, stays = inputs["attention_mask"], torch.ones_like(ids, dtype=torch.bool)
    stays[prompt.places] = keep
    alive = stays & mask.bool()
    on_the_right = bool(mask[:, 0].all() and not mask[:, -1].all())
    order, width = alive.long().argsort(dim=1, descending=on_the_right, stable=True), int(alive.sum(1).max())
    order = order[:, :width] if on_the_right else order[:, -width:]
    alive = alive.gather(1, order)
    encoding = {family.pixels, family.stills, *family.unused}
    for name in ("get_image_features", "get_video_features", "get_rope_index"):
        encoding |= set(arguments(core, name))
    fill = {"input_ids": padding_token(model, ids, mask), "labels": -100}
    data: dict[str, Any] = {}
    for key, value in inputs.items():
        if isinstance(value, Tensor) and value.shape == ids.shape:
            data[key] = value.gather(1, order).masked_fill(~alive, fill.get(key, 0))
        elif key not in encoding:
            data[key] = value
    number = (alive.cumsum(1) - 1).masked_fill(~alive, 0)
    if hasattr(core, "get_rope_index"):
        # Time, height and width; before them the plain number, from which transformers makes masks.
        axes = number.expand(3, -1, -1)
        if positions == "preserve":
            kinds = (ids == model.config.image_token_id).long() + 2 * (ids == model.config.video_token_id)
            full = {"mm_token_type_ids": kinds} | inputs
            asked = [name for name in arguments(core, "get_rope_index") if name in full]
            axes = core.get_rope_index(**{name: full[name] for name in asked})[0]
            axes = axes.gather(2, order.expand(3, -1, -1)).masked_fill(~alive, 0)
        number = torch.cat([number[None], axes])
    elif positions == "preserve":
        number = (mask.cumsum(1) - 1).gather(1, order).masked_fill(~alive, 0)
    return data | {"position_ids": number}


def padding_token(model: Model, ids: Tensor, mask: Tensor) -> int:
    """Return the padding token; never one that stands for a picture or a clip."""
    if not bool(mask.all()):
        return int(ids[mask == 0][0])
    config = model.config
    known = [getattr(each, "pad_token_id", None) for each in (config.get_text_config(), config)]
    taken = [getattr(config, f"{modality}_token_id", None) for modality in ("image", "video")]
    return next((token for token in known if token is not None and token not in taken), 0)
