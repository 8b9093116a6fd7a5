"""Make prompts about one clip with the model's own processor and chat template, prefilled once for all questions."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor
from torch.nn import functional
from transformers import BatchFeature, Cache

from vtc_lab.models.compression import CompressedInputs, engaged
from vtc_lab.models.families import Family, Inputs, Model, family_of
from vtc_lab.models.prompt_clips import Encoded, EncodedPrompt, places_of, rows
from vtc_lab.tokens import Clip, VTCError, demand

Processor = Any  # of transformers
Rows = dict[str, Tensor]  # what is said of each token of a prompt, (B, N): ids, mask, kinds


def ask_processor(processor: Processor, family: Family, clip: Clip, question: str) -> BatchFeature:
    """Return a processor's output for a question, without a thought, about a clip's frames and times as they are."""
    for marker in (getattr(processor, f"{kind}_token", None) for kind in ("video", "image")):
        if marker and marker in question:
            raise VTCError(f"a question holds the text {marker!r}, which stands for the video; leave it out")
    takes_videos = getattr(processor, "video_processor", None) is not None
    content = [{"type": "video"}] if takes_videos else [{"type": "image"}] * len(clip)
    message = {"role": "user", "content": [*content, {"type": "text", "text": question}]}
    quick = {"enable_thinking": False} if "enable_thinking" in str(getattr(processor, "chat_template", "")) else {}
    try:
        prompt = processor.apply_chat_template([message], add_generation_prompt=True, **quick)
    except (ValueError, TypeError, TemplateError) as error:
        reason = "has no chat template"
        if getattr(processor, "chat_template", None):
            reason = f"has a chat template that fails ({' '.join(str(error).split()):.120})"
        raise VTCError(
            f"{family.name} cannot be asked, its checkpoint {reason}; set model.processor.chat_template"
        ) from error
    if opened := re.search(r"([<\u25c1])(think(?:ing)?[>\u25b7])\s*$", prompt):
        words = f"{family.name}'s chat template opens a thought, which is closed at once, before the answer"
        warnings.warn(words, RuntimeWarning, stacklevel=2)
        prompt = f"{prompt.rstrip()}\n\n{opened[1]}/{opened[2]}\n\n"
    given: dict[str, Any] = {"images": [list(clip.frames)], "images_kwargs": dict(family.settings)}
    if takes_videos:
        told = {"do_sample_frames": False, "video_metadata": [video_metadata(clip)], **family.settings}
        given = {"videos": [clip.frames], "videos_kwargs": told}
    if prompt.startswith(processor.tokenizer.bos_token or "\0"):
        given["add_special_tokens"] = False  # or there would be two of them
    try:
        return processor(text=[prompt], return_tensors="pt", **given)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise VTCError(f"{family.name}'s processor does not take {len(clip)} frames as asked: {reason}") from error


def video_metadata(clip: Clip) -> dict[str, Any]:
    """Return the times of a clip's frames as transformers' processors take them: frame numbers of a millisecond each.

    Without them a processor that writes times into the prompt, or counts them into positions, makes them up.

    Parameters
    ----------
    clip : F frames and their times.

    Returns
    -------
    One entry of the list that goes into a processor's `videos_kwargs` as `video_metadata`.

    Examples
    --------
    >>> import vtc_lab as vtc
    >>> video_metadata(vtc.make_clip(7)[0])["frames_indices"][:3]
    [0, 250, 500]
    """
    demand(Clip, clip)
    span = clip.times[-1] - clip.times[0]
    apart = span / (len(clip) - 1) if span > 0 else 1
    numbers = [round(1000 * time) for time in clip.times.tolist()]
    length = apart * len(clip)
    return {"fps": 1000, "frames_indices": numbers, "total_num_frames": round(1000 * length), "duration": length}


def rows_of(inputs: Inputs) -> Rows:
    """Return the entries of a processor's output that have a value for each token of a prompt."""
    shape = inputs["input_ids"].shape
    return {name: value for name, value in inputs.items() if isinstance(value, Tensor) and value.shape == shape}


def end_of(network: Model, inputs: Inputs) -> int:
    """Return the number of tokens up to the end of one prompt's clip, with the token that ends it if there is one."""
    family, ids = family_of(network), inputs["input_ids"][0]
    after = int(places_of(network, family.modality, inputs)[0].nonzero()[-1]) + 1
    if family.end:
        after += int((ids[after:] == getattr(network.config, family.end)).nonzero()[0]) + 1
    return after


def lengthened(tail: Rows, codes: Sequence[int]) -> Rows:
    """Return a tail with some tokens of text behind it."""
    more = {"input_ids": torch.tensor([codes]), "attention_mask": torch.ones(1, len(codes), dtype=torch.long)}
    nothing = torch.zeros(1, len(codes), dtype=torch.long)
    return {name: torch.cat([row, more.get(name, nothing).to(row)], 1) for name, row in tail.items()}


def with_tail(prompt: EncodedPrompt, tail: Rows, after: int) -> EncodedPrompt:
    """Return a prompt with other tokens behind its first `after` ones."""
    width = tail["input_ids"].shape[1]
    said = rows_of(prompt.inputs)
    said = {name: torch.cat([row[:, :after], tail[name].to(row.device)], 1) for name, row in said.items()}
    places = functional.pad(prompt.places[:, :after], (0, width))
    return replace(prompt, places=places, inputs=prompt.inputs | said)


def join(prompts: Sequence[CompressedInputs]) -> CompressedInputs:
    """Return prompts of one length as one batch."""
    data: dict[str, Any] = {}
    for name, value in prompts[0].items():
        each = [prompt[name] for prompt in prompts]
        if name == "mm_encoder_outputs":
            data[name] = {modality: _joined([one[modality] for one in each]) for modality in value}
        else:
            data[name] = torch.cat(each, -2)  # (B, N), or (4, B, N) where positions have axes
    return CompressedInputs(data, [reduction for prompt in prompts for reduction in prompt.reductions])


def _joined(outputs: list[Encoded]) -> Encoded:
    features = [output.pooler_output for output in outputs]
    together = torch.cat(features) if isinstance(features[0], Tensor) else list(chain(*features))
    layers = zip(*(output.deepstack_features or [] for output in outputs), strict=True)
    return Encoded(pooler_output=together, deepstack_features=[list(chain(*layer)) for layer in layers] or None)


def say_each(inputs: CompressedInputs, shared: int, tails: Sequence[Rows], pad: int) -> Rows:
    """Return the first `shared` tokens of some prompts, each with every tail behind them: first prompt first.

    No tail is longer than what the prompts have behind the shared tokens. Padding stands before a tail, and the text
    after a clip goes on counting positions as it does in the prompts.
    """
    width = max(tail["input_ids"].shape[1] for tail in tails)
    said = {name: value[..., : shared + width] for name, value in inputs.items() if isinstance(value, Tensor)}
    said = {name: value.repeat_interleave(len(tails), -2) for name, value in said.items()}
    for n, tail in enumerate(tails):
        length, mine = tail["input_ids"].shape[1], slice(n, None, len(tails))
        tail = tail | {"position_ids": said["position_ids"][..., mine, shared : shared + length].clone()}
        for name, value in said.items():
            value[..., mine, shared:] = pad if name == "input_ids" else 0
            value[..., mine, shared + width - length :] = tail[name].to(value.device)
    return said


def prefill(network: Model, inputs: CompressedInputs, shared: int) -> Cache:
    """Return the cache of the first `shared` tokens of some prompts, which hold all the visual ones."""
    beginning = {name: value[..., :shared] for name, value in inputs.items() if isinstance(value, Tensor)}
    beginning |= {"mm_encoder_outputs": inputs["mm_encoder_outputs"]}
    with engaged(network, CompressedInputs(beginning, inputs.reductions)):
        return network(**beginning, use_cache=True, logits_to_keep=1).past_key_values


def behind(inputs: CompressedInputs, say: Rows, shared: int) -> CompressedInputs:
    """Return what is left of prompts for `engaged` to watch, once their visual tokens have been prefilled."""
    outputs = inputs["mm_encoder_outputs"]
    none = {modality: Encoded(pooler_output=rows(output.pooler_output)[:0]) for modality, output in outputs.items()}
    left = {name: value[..., shared:] for name, value in say.items()}
    return CompressedInputs(left | {"mm_encoder_outputs": none}, inputs.reductions)
