"""A video language model behind three calls: load, encode, ask."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from vtc_lab.models.answers import Answer, Entering, codes_of, say, scores_of
from vtc_lab.models.compression import Positions, demand_asking
from vtc_lab.models.families import Model, family_of
from vtc_lab.models.inside import inside_of
from vtc_lab.models.prompt_clips import EncodedPrompt, encode_prompt, places_of
from vtc_lab.models.prompts import Processor, Rows, ask_processor, end_of, rows_of
from vtc_lab.models.state import model_state
from vtc_lab.reducers.ops import prune
from vtc_lab.tokens import Clip, Reduction, VideoTokens, VTCError, demand, plain

_ANYTHING = "?"  # a question, where it does not matter which
_BLANK = Clip(np.zeros((2, 64, 64, 3), np.uint8), np.arange(2.0))


class VideoModel:
    """Hold a model and its processor, made by `load_model`; `spec` tells another process how to load the same.

    >>> import vtc_lab as vtc
    >>> vtc.load_model()
    <LLaVA-OneVision, 3.1 million parameters, on cpu in float32, sdpa attention, 196 tokens a frame (16 of 640x360)>
    """

    def __init__(self, network: Model, processor: Processor, name: str, spec: dict[str, Any] | None = None) -> None:
        self.network, self.processor, self.name, self.spec = network, processor, name, spec
        self.family = family_of(network)
        self._last: tuple[np.ndarray, np.ndarray, dict[bool, VideoTokens], EncodedPrompt] | None = None
        self.part: tuple[np.ndarray, np.ndarray, VideoTokens, EncodedPrompt] | None = None  # of reduce_clip
        self._tails: dict[str, Rows] = {}
        self._loaded = model_state(network, processor, spec)
        self.revision = None

    @property
    def revision(self) -> str | None:
        """Name of the weights and settings as they are now, or None for those that were loaded.

        A sweep stores results by the files that a model was loaded from, so it refuses `results=` for a model that was
        changed in memory (merged LoRA weights, another chat template), or that `load_model` did not make, until you set
        a revision. Set it after the last change. Replaced code, hooks, and changes of single values through
        `weight.data` are not noticed.

        >>> import vtc_lab as vtc
        >>> model = vtc.load_model()
        >>> model.processor.chat_template += " "
        >>> model.changed
        True
        >>> model.revision = "a space behind the question"
        >>> model.changed
        False
        """
        return self._revision

    @revision.setter
    def revision(self, name: str | None) -> None:
        self._revision = name or None
        self._state = model_state(self.network, self.processor, self.spec) if name else self._loaded

    @property
    def changed(self) -> bool:
        """True if weights, settings or files are not what they were at loading, or when `revision` was set."""
        return self._state != model_state(self.network, self.processor, self.spec)

    def fresh(self) -> VideoModel:
        """Return the same model without what it remembers of clips and prompts, which may be from before a change."""
        other = copy.copy(self)
        other._last, other.part, other._tails = None, None, {}
        return other

    def __repr__(self) -> str:
        clip = Clip(np.zeros((16, 360, 640, 3), np.uint8), np.arange(16.0))
        try:
            inputs = ask_processor(self.processor, self.family, clip, _ANYTHING)
            count = int(places_of(self.network, self.family.modality, inputs).sum())
            each = (count - self.family.newline) / len(clip) - self.family.cls
            room = f"{each:g} tokens a frame (16 of 640x360)"
        except VTCError as error:  # whatever is wrong with the processor, the model can be looked at
            room = str(error)
        size = sum(weight.numel() for weight in self.network.parameters())
        parameters = f"{size / 1e9:.1f} billion" if size >= 1e9 else f"{size / 1e6:.1f} million"
        place = f"on {self.network.device} in {str(self.network.dtype).removeprefix('torch.')}"
        attention = self.network.config.get_text_config()._attn_implementation
        return f"<{self.family.name}, {parameters} parameters, {place}, {attention} attention, {room}>"

    @cached_property
    def _shares(self) -> bool:
        """True if padding within a prompt is ignored; a sliding window counts it, and a state carries it on."""
        one = torch.zeros(1, 1, dtype=torch.long, device=self.network.device)
        memory = self.network(input_ids=one, use_cache=True).past_key_values
        return all(type(layer) is DynamicLayer for layer in getattr(memory, "layers", [None]))

    def encode(self, clip: Clip, *, saliency: bool = False) -> VideoTokens:
        """Return the clip's visual tokens as the language model would get them.

        Parameters
        ----------
        clip : F frames of any size; the model's own processor resizes them.
        saliency : also measure how much attention each token gets in the vision tower, for methods that need it.

        Returns
        -------
        VideoTokens (T, h, w, D) in the model's dtype, on its device. T is F, or F / 2 rounded up with models that make
        one token of the same place in two frames (Qwen). The saliency is (T, h, w) float32, pooled as the tokens are;
        `saliency_source` says what it is, and `seconds` includes it. The last clip's tokens are remembered.

        Examples
        --------
        >>> import vtc_lab as vtc
        >>> model, (clip, _) = vtc.load_model(), vtc.make_clip(7)
        >>> model.encode(clip).values.shape[1:]
        torch.Size([14, 14, 192])
        """
        return self._encoded(clip, saliency)[0]

    @torch.no_grad()
    def prompt(self, clip: Clip, question: str = _ANYTHING, **options: Any) -> tuple[EncodedPrompt, float, float]:
        """Return what `encode_prompt` makes of a question without pixels; and the seconds with and without saliency."""
        demand(Clip, clip)
        start = time.perf_counter()
        inputs = ask_processor(self.processor, self.family, clip, question)
        processing = time.perf_counter() - start
        clips = [slice(None)] if self.family.frames_as_pictures else None
        found = encode_prompt(self.network, inputs, clips=clips, **options)
        if found is None:
            words = f"no {self.family.pixels} but {', '.join(inputs)}; name its pixels in the family's entry"
            raise VTCError(f"the processor of {self.name} makes {words}")
        seconds = time.perf_counter() - start
        rest = {name: value for name, value in found.inputs.items() if name != self.family.pixels}
        tokens = [replace(found.tokens[0], encoder=self.name)]
        return replace(found, inputs=rest, tokens=tokens), seconds, processing + found.seconds

    def _asked_about(self, clip: Clip, reductions: Sequence[Reduction | None]) -> tuple[VideoTokens, EncodedPrompt]:
        """The clip's tokens and prompt, encoded in part if the reductions hold no others."""
        if (part := self.part) and part[0] is clip.frames and part[1] is clip.times:
            made = part[2].values[..., 0].isfinite().flatten()
            # What went into another token is needed only where features of deeper layers are summed, too.
            summed = any(each.deepstack_features for each in part[3].outputs.values())
            given = [each for each in reductions if isinstance(each, Reduction)]
            held = [(each.assign >= 0 if summed else each.kept.flatten()).to(made.device) for each in given]
            if len(held) == len(reductions) and all(len(each) == len(made) and made[each].all() for each in held):
                return part[2], part[3]
        return self._encoded(clip)

    @torch.no_grad()
    def _encoded(self, clip: Clip, saliency: bool = False) -> tuple[VideoTokens, EncodedPrompt]:
        demand(Clip, clip)
        last = self._last
        if last and (last[0] is not clip.frames or last[1] is not clip.times):
            last = None
        if last is None or bool(saliency) not in last[2]:
            found, seconds, without = self.prompt(clip, saliency=saliency)
            tokens = replace(found.tokens[0], seconds=seconds)
            plain = replace(tokens, saliency=None, saliency_source="", seconds=without)
            made = {False: plain} | (last[2] if last else {})
            if saliency:
                made[True] = replace(tokens, values=made[False].values)
            last = self._last = (clip.frames, clip.times, made, last[3] if last else found)
        return last[2][bool(saliency)], last[3]

    def ask(
        self,
        question: str | Sequence[str],
        clip: Clip,
        reduction: Reduction | None = None,
        *,
        candidates: Sequence[str] | Sequence[Sequence[str]] | None = None,
        positions: Positions = "preserve",
        max_new_tokens: int = 16,
    ) -> Answer | list[Answer]:
        """Answer a question, or several at once, about a clip.

        Parameters
        ----------
        question : one question, or a sequence of them, answered as one batch.
        clip : what it is about.
        reduction : of this clip's tokens, or None to give the model all of them.
        candidates : possible answers (for a sequence of questions: one list each), to be scored.
        positions : "preserve" leaves every token at the position it had in the full prompt; "compact" renumbers.
        max_new_tokens : longest answer, at least 1. Decoding is greedy.

        Returns
        -------
        Answer, or a list of them for a sequence of questions.

        Raises
        ------
        VTCError
            If an argument is none of those above, or other visual tokens than the reduction's reached the model.

        Examples
        --------
        >>> import vtc_lab as vtc
        >>> model, (clip, samples) = vtc.load_model(), vtc.make_clip(7)
        >>> reduced = vtc.reduce(model.encode(clip), "lftr", ratio=2)
        >>> answer = model.ask(samples[0]["question"], clip, reduced)
        >>> answer.entered * 2 == answer.total
        True
        """
        single = isinstance(question, str) or not isinstance(question, Iterable)
        questions: list[Any] = [question] if single else list(question)
        lists: list[Any] = [candidates] * len(questions) if single or candidates is None else list(candidates)
        if len(lists) != len(questions):
            raise VTCError(f"{len(lists)} lists of candidates were given for {len(questions)} questions; give one each")
        answers = self.ask_each(
            questions, clip, [reduction], candidates=lists, positions=positions, max_new_tokens=max_new_tokens
        )[0]
        return answers[0] if single else answers

    @torch.no_grad()
    def ask_each(
        self,
        questions: list[str],
        clip: Clip,
        reductions: Sequence[Reduction | None],
        *,
        candidates: Sequence[Sequence[str] | None],
        positions: Positions = "preserve",
        max_new_tokens: int = 16,
    ) -> list[list[Answer]]:
        """Return, for each of several reductions of one clip to one length, the answers to the same questions.

        Arguments are as for `ask`, `candidates` one list, or None, for each question. Reductions whose tokens and
        anchors are the same are answered once. Seconds of prefill and decoding are those of the batch, shared equally.
        """
        demand_asking(positions, max_new_tokens)
        if not questions or not all(isinstance(q, str) and q.strip() and plain(q) == q for q in questions):
            raise VTCError(f"{questions!r} is no question; give text, or a list of texts")
        demand(Clip, clip)
        tokenizer = self.processor.tokenizer
        codes = [[] if given is None else codes_of(tokenizer, given) for given in candidates]
        tokens, prompt = self._asked_about(clip, reductions)
        chosen = [_chosen(reduction, tokens) for reduction in reductions]
        lengths = sorted({len(each) for each in chosen})
        if len(lengths) != 1:
            raise VTCError(f"reductions to {lengths} tokens cannot be asked together; give those of one length")
        twin = [next(m for m, other in enumerate(chosen) if _same(one, other)) for one in chosen]
        different = sorted(set(twin))
        tails = [self._tail(question) for question in questions]
        together = self._shares and inside_of(self.network) is None  # a stage inside may rate by the question
        entering = Entering(self.network, prompt, [chosen[n] for n in different], positions, together)
        said = say(entering, tokenizer, tails, max_new_tokens)
        scores = [
            scores_of(entering, tokenizer, tail, [answers[q][1] for answers in said], candidates[q], codes[q])
            for q, tail in enumerate(tails)
        ]
        answers: list[list[Answer]] = [[] for _ in reductions]
        for made, reduction, same in zip(answers, reductions, twin, strict=True):
            place, reducing = different.index(same), 0.0 if reduction is None else reduction.seconds
            before = {"read": clip.seconds, "encode": tokens.seconds, "reduce": reducing}
            for (text, first, times, share, cache), scored in zip(said[place], scores, strict=True):
                counts, mean = (lengths[0], tokens.total), lengths[0] * share
                made.append(Answer(text, scored[place], first, *counts, before | times, mean, cache))
        return answers

    def _tail(self, question: str) -> Rows:
        """The tokens that the processor writes behind a clip, found with a blank one."""
        if question not in self._tails:
            before, tail = self._asked(question)
            if not torch.equal(before, self._asked(_ANYTHING)[0]):
                raise VTCError(
                    f"the chat template of {self.name} does not leave the question behind the clip; give "
                    "model.processor.chat_template one that does"
                )
            self._tails[question] = tail
        return self._tails[question]

    def _asked(self, question: str) -> tuple[Tensor, Rows]:
        """The tokens of a question about a blank clip, up to the clip's end and behind it."""
        inputs = ask_processor(self.processor, self.family, _BLANK, question)
        after = end_of(self.network, inputs)
        return inputs["input_ids"][:, :after], {name: row[:, after:] for name, row in rows_of(inputs).items()}


def _chosen(reduction: Reduction | None, tokens: VideoTokens) -> Reduction:
    """Check that the reduction belongs to these tokens; None keeps them all."""
    if reduction is None:
        return prune(tokens, torch.arange(tokens.total, device=tokens.values.device))
    if not isinstance(reduction, Reduction):
        raise VTCError(f"reduction is {reduction!r:.60}; give what vtc.reduce returns, or None for all tokens")
    if reduction.grid != tokens.grid:
        raise VTCError(
            f"the reduction is of a {reduction.grid} grid but this clip has {tokens.grid}; reduce its own tokens"
        )
    if reduction.encoder not in ("", tokens.encoder) or reduction.tokens.shape[1:] != tokens.values.shape[3:]:
        raise VTCError(
            f"the reduction is of {reduction.tokens.shape[1]}-channel tokens by {reduction.encoder!r}, but this is "
            f"{tokens.encoder!r} with {tokens.values.shape[3]} channels; reduce what model.encode gives"
        )
    return reduction.to(tokens.values.device)


def _same(one: Reduction, other: Reduction) -> bool:
    return torch.equal(one.anchor, other.anchor) and torch.equal(one.tokens, other.tokens)
