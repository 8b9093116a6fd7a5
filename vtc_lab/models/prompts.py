"""What a model is given: prompts in which every visual token that enters has one placeholder at its position."""

from __future__ import annotations

# isort: off
import vtc_lab.models.torchvision_ops  # noqa: F401  (before transformers)
from transformers.modeling_outputs import BaseModelOutputWithPooling
# isort: on

import torch
from torch import Tensor, nn

from vtc_lab.tokens import VTCError


def build_inputs(
    network: nn.Module,
    processor: object,
    questions: list[str],
    features: Tensor,
    anchor: Tensor,
    total: int,
    positions: str,
) -> dict[str, object]:
    """The prompts with exactly one placeholder for each visual token that enters, and the features to fill them.

    Every question is asked about each of the R reductions, all of K tokens: `features` are (R, K, D), `anchor` (R, K);
    the R * Q prompts are those of the first reduction, then those of the second, and so on.
    """
    device, kept = network.device, anchor.shape[1]
    marker, place = processor.video_token, network.config.video_token_id
    prompts = []
    for question in questions:
        content = [{"type": "video"}, {"type": "text", "text": question}]
        prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        prompts.append(prompt.replace(marker, marker * (kept + 1)))
    encoded = processor.tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt")
    ids, mask = (encoded[name].repeat(len(anchor), 1) for name in ("input_ids", "attention_mask"))
    inside = ids == place
    if not bool((inside.sum(1) == kept + 1).all()):
        raise VTCError(f"a question holds the text {marker!r}, which stands for the video; leave it out")
    position = mask.cumsum(1) - 1
    if positions == "preserve":
        # Behind the block of visual tokens everything is as far along as if the whole clip stood before it.
        start = position[inside].view(len(ids), -1)[:, :1]
        each = anchor.repeat_interleave(len(questions), 0)
        position[inside] = torch.cat([start + each, start + total], 1).flatten()
        after = (inside.cumsum(1) == kept + 1) & ~inside
        position[after] += total - kept
    newline = network.model.image_newline[None, None].to(features).expand(len(features), -1, -1)
    return {
        "input_ids": ids.to(device),
        "attention_mask": mask.to(device),
        "position_ids": position.clamp(min=0).to(device),
        "mm_encoder_outputs": _vision(torch.cat([features, newline], 1)),
    }


def share_prefix(network: nn.Module, inputs: dict[str, object], questions: int) -> dict[str, object]:
    """Prefill what all prompts of a reduction begin with, its visual tokens among it, once for all its questions."""
    ids, mask, position = inputs["input_ids"], inputs["attention_mask"], inputs["position_ids"]
    features = inputs["mm_encoder_outputs"]["video"].pooler_output
    lengths = mask.sum(1).tolist()
    rows = [row[-length:] for row, length in zip(ids, lengths, strict=True)]
    shared = int((rows[0] == network.config.video_token_id).nonzero()[-1]) + 1
    if questions == 1 or not all(torch.equal(row[:shared], rows[0][:shared]) for row in rows):
        # With the question before the video nothing is shared.
        return inputs | {"mm_encoder_outputs": _vision(features.repeat_interleave(questions, 0))}
    first = range(0, len(rows), questions)
    cache = network(
        input_ids=torch.stack([rows[n][:shared] for n in first]),
        position_ids=torch.stack([position[n, -lengths[n] :][:shared] for n in first]),
        mm_encoder_outputs=_vision(features),
        use_cache=True,
        logits_to_keep=1,
    ).past_key_values
    if cache.get_seq_length() != shared:
        raise VTCError(f"{cache.get_seq_length()} tokens were prefilled, not {shared}; the reduction did not engage")
    cache.batch_repeat_interleave(questions)
    # Padding moves from before the prompt to between the shared part and the rest of the question.
    order = torch.stack([_padding_after(shared, length, ids.shape[1]) for length in lengths]).to(ids.device)
    return {
        "input_ids": ids.gather(1, order),
        "attention_mask": mask.gather(1, order),
        "position_ids": position.gather(1, order),
        "past_key_values": cache,
    }


def _vision(features: Tensor) -> dict[str, BaseModelOutputWithPooling]:
    """Pre-encoded vision as transformers takes it."""
    return {"video": BaseModelOutputWithPooling(pooler_output=features)}


def _padding_after(shared: int, length: int, width: int) -> Tensor:
    """(width,) order that puts a left-padded row's padding behind its first `shared` tokens."""
    index = torch.arange(width)
    pad = width - length
    return torch.cat([index[pad : pad + shared], index[:pad], index[pad + shared :]])
