"""Generate answers to prompts whose clips are reduced, time that, and weigh how likely given answers are."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from vtc_lab.models.compression import CompressedInputs, Positions, engaged, padding_token, put_back
from vtc_lab.models.families import Inputs, Model
from vtc_lab.models.inside import inside_of
from vtc_lab.models.prompt_clips import EncodedPrompt, settle
from vtc_lab.models.prompts import Processor, Rows, behind, end_of, join, lengthened, prefill, say_each, with_tail
from vtc_lab.tokens import Reduction, VTCError, plain


@dataclass(frozen=True)
class Answer:
    """Hold a model's answer to one question.

    Parameters
    ----------
    text : the generated answer.
    scores : probability of each candidate answer, normalised over the candidates: of their first tokens where no two
        are the same, else of the whole texts without an end token, so that a text never loses to one that begins with
        it. Without candidates, the plain probabilities of the five likeliest first tokens.
    logits : (V,) float32 logits of the first answered token, for comparing distributions.
    entered, total : visual tokens that entered the language model, and that the clip has.
    seconds : time of each stage: read, encode, reduce, prefill, decode. The last two are those of the whole batch of
        questions divided by their number.
    per_layer : visual tokens that its layers held, on average: fewer than entered if a stage inside cut them.
    cache_bytes : size of the keys and values that its layers held at the end, of all tokens; of several questions that
        were asked together, each with the padding to the longest.
    """

    text: str
    scores: dict[str, float]
    logits: Tensor = field(repr=False)
    entered: int
    total: int
    seconds: dict[str, float]
    per_layer: float = math.nan
    cache_bytes: int = 0


@dataclass(frozen=True)
class Entering:
    """Hold what enters a language model before the question: one clip's prompt under reductions to one length."""

    network: Model
    prompt: EncodedPrompt
    reductions: Sequence[Reduction]
    positions: Positions
    together: bool  # several questions can be run at once: padding before them is ignored, and they rate no tokens


# The text, the first logits, the seconds of prefill and decoding, the mean of layers as a share of what entered, and
# the bytes of the cache.
Said = tuple[str, Tensor, dict[str, float], float, int]


def say(entering: Entering, tokenizer: Processor, tails: Sequence[Rows], max_new_tokens: int) -> list[list[Said]]:
    """Return the answer to each of the tails, for each reduction."""
    inputs, shared = _prepared(entering, tails)
    parts = [_say(entering, tokenizer, inputs, shared, part, max_new_tokens) for part in _parts(entering, tails)]
    return [[answer for part in parts for answer in part[n]] for n in range(len(entering.reductions))]


def weigh(entering: Entering, tail: Rows, codes: Sequence[Sequence[int]], first: Sequence[Tensor] = ()) -> list[Tensor]:
    """Return the log-probability of each of some answers, given as tokens, behind a tail, for each reduction.

    A stage inside the language model cuts by the question alone; then the logits of the first token have to be given.
    """
    tails = [lengthened(tail, code) for code in codes]
    inputs, shared = _prepared(entering, tails)
    if inside_of(entering.network) is not None:
        asked = tail["input_ids"].shape[1]
        tails = [{name: row[:, asked:] for name, row in each.items()} for each in tails]
        return _weigh(entering, inputs, shared + asked, list(zip(tails, codes, strict=True)), first)
    parts = [_weigh(entering, inputs, shared, part) for part in _parts(entering, list(zip(tails, codes, strict=True)))]
    return [torch.cat([part[n] for part in parts]) for n in range(len(entering.reductions))]


def codes_of(tokenizer: Processor, candidates: Sequence[str]) -> list[list[int]]:
    """Return the tokens of each candidate answer, which must be texts that differ."""
    if isinstance(candidates, str) or not all(isinstance(each, str) and plain(each) == each for each in candidates):
        raise VTCError(f"candidates are {candidates!r:.80}; give a list of texts")
    codes = [tokenizer(candidate, add_special_tokens=False)["input_ids"] for candidate in candidates]
    if not codes or not all(codes) or len({tuple(code) for code in codes}) < len(codes):
        raise VTCError(f"candidates {list(candidates)!r:.80} do not differ or are empty; give different texts")
    return codes


def scores_of(
    entering: Entering,
    tokenizer: Processor,
    tail: Rows,
    first: Sequence[Tensor],
    candidates: Sequence[str] | None,
    codes: Sequence[Sequence[int]],
) -> list[dict[str, float]]:
    """Return the scores of a question as in `Answer`, for each reduction.

    `first` are the logits of the first token, `codes` the tokens of the candidates.
    """
    if candidates is None:
        best = [logits.softmax(-1).topk(min(5, len(logits))) for logits in first]
        return [
            {tokenizer.decode([i]).strip(): p for p, i in zip(*map(Tensor.tolist, each), strict=True)} for each in best
        ]
    if len({code[0] for code in codes}) == len(codes):
        scores = [logits[[code[0] for code in codes]] for logits in first]
    else:
        scores = weigh(entering, tail, codes, first)
    return [dict(zip(candidates, each.softmax(-1).tolist(), strict=True)) for each in scores]


def _prepared(entering: Entering, tails: Sequence[Rows]) -> tuple[CompressedInputs, int]:
    """The prompts with the longest of the tails, and how many tokens come before it."""
    longest = max(tails, key=lambda tail: tail["input_ids"].shape[1])
    network, prompt = entering.network, entering.prompt
    whole = with_tail(prompt, longest, end_of(network, prompt.inputs))
    inputs = join([put_back(network, whole, [each], entering.positions) for each in entering.reductions])
    return inputs, inputs["input_ids"].shape[1] - longest["input_ids"].shape[1]


def _parts(entering: Entering, tails: Sequence) -> list[Sequence]:
    """The tails to run at once."""
    return [tails] if len(tails) > 1 and entering.together else [[tail] for tail in tails]


def _say(
    entering: Entering,
    tokenizer: Processor,
    inputs: CompressedInputs,
    shared: int,
    tails: Sequence[Rows],
    max_new_tokens: int,
) -> list[list[Said]]:
    clock, start = Clock(), time.perf_counter()
    options = {
        "max_new_tokens": max_new_tokens,
        "do_sample": False,
        "num_beams": 1,
        "return_dict_in_generate": True,
        "output_logits": True,
        "logits_processor": LogitsProcessorList([clock]),
    }
    rows, given, watched = _begun(entering.network, inputs, shared, tails)
    with engaged(entering.network, watched):
        output = entering.network.generate(**given, **options)
    end = time.perf_counter()
    if len(tails) > 1:  # the cache must begin with what was prefilled
        reached, expected = output.past_key_values.get_seq_length(), rows["input_ids"].shape[1] + len(output.logits) - 1
        if reached != expected:
            raise VTCError(f"{reached} tokens were in the cache, not {expected}; the reduction did not engage")
    count = len(rows["input_ids"])
    times = {"prefill": (clock.first - start) / count, "decode": (end - clock.first) / count}
    said = output.sequences[:, rows["input_ids"].shape[1] :]
    texts = tokenizer.batch_decode(said, skip_special_tokens=True)
    first = output.logits[0].float().cpu()
    stage = inside_of(entering.network)
    shares = [sum(held) / len(held) / held[0] for held in stage.layers] if stage else [1.0] * count
    stored = [vars(layer).values() for layer in getattr(output.past_key_values, "layers", ())]
    cache = sum(each.nbytes for layer in stored for each in layer if isinstance(each, Tensor)) // count
    said_of_each = zip(texts, first, shares, strict=True)
    answers = [(text.strip(), logits, times, share, cache) for text, logits, share in said_of_each]
    return [answers[n : n + len(tails)] for n in range(0, count, len(tails))]


def _weigh(
    entering: Entering,
    inputs: CompressedInputs,
    shared: int,
    tails: Sequence[tuple[Rows, Sequence[int]]],
    first: Sequence[Tensor] = (),
) -> list[Tensor]:
    rows, given, watched = _begun(entering.network, inputs, shared, [tail for tail, _ in tails])
    if len(tails) > 1:  # what was prefilled is not run again, but the mask is of all
        given = {**given, **{name: row[..., shared:] for name, row in rows.items() if name != "attention_mask"}}
    lengths = [len(code) for _, code in tails] * len(entering.reductions)
    with engaged(entering.network, watched):
        logits = entering.network(**given, use_cache=True, logits_to_keep=max(lengths) + 1).logits
    logits = logits[:, -max(lengths) - 1 :]  # VideoLLaMA3 ignores logits_to_keep
    if first:  # the token before an answer was prefilled
        logits = torch.nn.functional.pad(logits, (0, 0, 1, 0))
        for n, length in enumerate(lengths):
            logits[n, -length - 1] = first[n // len(tails)].to(logits)
    logprobs, said = logits[:, :-1].float().log_softmax(-1), rows["input_ids"][:, -max(lengths) :]
    chosen = logprobs.gather(2, said[..., None])[..., 0]
    sums = [row[-length:].sum() for row, length in zip(chosen, lengths, strict=True)]
    return [torch.stack(sums[n : n + len(tails)]) for n in range(0, len(sums), len(tails))]


def _begun(
    network: Model, inputs: CompressedInputs, shared: int, tails: Sequence[Rows]
) -> tuple[Rows, Inputs, CompressedInputs]:
    """The prompts with each of the tails, what to run of them, and the part of that for `engaged` to watch.

    With several tails the beginning of each prompt is run once, here.
    """
    rows = say_each(inputs, shared, tails, padding_token(network, inputs["input_ids"], inputs["attention_mask"]))
    if len(tails) == 1:
        given = CompressedInputs({**rows, "mm_encoder_outputs": inputs["mm_encoder_outputs"]}, inputs.reductions)
        return rows, given, given
    cache = prefill(network, inputs, shared)
    cache.batch_repeat_interleave(len(tails))
    return rows, {**rows, "past_key_values": cache}, behind(inputs, rows, shared)


class Clock(LogitsProcessor):
    """Notes when the first token's logits are there, which ends the prefill."""

    first = math.nan

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: D102
        if math.isnan(self.first):
            settle(scores)
            self.first = time.perf_counter()
        return scores
