"""What a model says to prompts whose clips are reduced, and how it is timed."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

# isort: off
import vtc_lab.models.torchvision_ops  # noqa: F401  (before transformers)
from transformers import LogitsProcessor, LogitsProcessorList
# isort: on

from vtc_lab.models.compress import CompressedInputs, engaged, padding_token
from vtc_lab.models.prompt_clips import settle
from vtc_lab.models.prompts import Rows, behind, prefill, say_each
from vtc_lab.tokens import VTCError


@dataclass(frozen=True)
class Answer:
    """What a model said to one question.

    Parameters
    ----------
    text : the generated answer.
    scores : probability of each candidate answer, normalised over the candidates; without candidates, of the five
        likeliest first tokens, as they are.
    logits : (V,) float32 logits of the first answered token, for comparing distributions.
    entered, total : visual tokens that entered the language model, and that the clip has.
    seconds : time of each stage: read, encode, reduce, prefill, decode. The last two are those of the whole batch of
        questions divided by their number.
    """

    text: str
    scores: dict[str, float]
    logits: Tensor = field(repr=False)
    entered: int
    total: int
    seconds: dict[str, float]


def say(
    network: nn.Module, tokenizer: object, inputs: CompressedInputs, shared: int, tails: list[Rows], max_new_tokens: int
) -> list[list[tuple[str, Tensor, dict[str, float]]]]:
    """For each reduced prompt and each tail the text, the first logits, and the seconds of prefill and decoding.

    Raises
    ------
    VTCError
        If what the language model worked on was not the reduced prompts.
    """
    clock, start = _Clock(), time.perf_counter()
    pad = padding_token(network, inputs["input_ids"], inputs["attention_mask"])
    rows = say_each(inputs, shared, tails, pad)
    options = {
        "max_new_tokens": max_new_tokens,
        "do_sample": False,
        "num_beams": 1,
        "return_dict_in_generate": True,
        "output_logits": True,
        "logits_processor": LogitsProcessorList([clock]),
    }
    if len(tails) == 1:
        given = CompressedInputs(rows | {"mm_encoder_outputs": inputs["mm_encoder_outputs"]}, inputs.reductions)
        watched = given
    else:
        cache = prefill(network, inputs, shared)
        cache.batch_repeat_interleave(len(tails))
        given, watched = rows | {"past_key_values": cache}, behind(inputs, rows, shared)
    with engaged(network, watched):
        output = network.generate(**given, **options)
    end = time.perf_counter()
    if len(tails) > 1:  # what was prefilled must be in the end of it
        reached, expected = output.past_key_values.get_seq_length(), rows["input_ids"].shape[1] + len(output.logits) - 1
        if reached != expected:
            raise VTCError(f"{reached} tokens were in the cache, not {expected}; the reduction did not engage")
    count = len(rows["input_ids"])
    times = {"prefill": (clock.first - start) / count, "decode": (end - clock.first) / count}
    said = output.sequences[:, rows["input_ids"].shape[1] :]
    texts = tokenizer.batch_decode(said, skip_special_tokens=True)
    first = output.logits[0].float().cpu()
    answers = [(text.strip(), logits, times) for text, logits in zip(texts, first, strict=True)]
    return [answers[n : n + len(tails)] for n in range(0, count, len(tails))]


def first_words(tokenizer: object, logits: Tensor, candidates: Sequence[str] | None) -> dict[str, float]:
    """The probability of each candidate answer, among them, or of the five likeliest first tokens.

    Raises
    ------
    VTCError
        If two candidates begin with the same token.
    """
    if candidates is None:
        best = logits.softmax(-1).topk(min(5, len(logits)))
        return {tokenizer.decode([i]).strip(): float(p) for p, i in zip(best.values, best.indices, strict=True)}
    codes = [tokenizer(candidate, add_special_tokens=False)["input_ids"] for candidate in candidates]
    first = [code[0] for code in codes if code]
    if not first or len(set(first)) < len(codes):
        raise VTCError(
            f"candidates {list(candidates)} do not differ in their first token; make them single words or letters"
        )
    return dict(zip(candidates, logits[first].softmax(-1).tolist(), strict=True))


class _Clock(LogitsProcessor):
    """Notes when the first token's logits are there, which ends the prefill."""

    first = math.nan

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if math.isnan(self.first):
            settle(scores)
            self.first = time.perf_counter()
        return scores
