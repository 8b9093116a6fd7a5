"""A video language model behind three calls: load, encode, ask.

The reduction enters by transformers' own door, `mm_encoder_outputs`: the language model is given vision features that
were encoded and reduced before. Nothing is patched, so there is nothing to undo.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from torch import Tensor

# isort: off
import vtc_lab.models.torchvision_ops  # noqa: F401  (before transformers)
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, LogitsProcessor, LogitsProcessorList
# isort: on

from vtc_lab.models.prompts import build_inputs, share_prefix
from vtc_lab.models.saliency import watch_saliency
from vtc_lab.tokens import Clip, Reduction, VideoTokens, VTCError, demand_clip
from vtc_lab.video import ROOT

BUNDLED = ROOT / "data" / "models" / "shapes-onevision-2m"
_FAMILIES = ("llava_onevision",)


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


class VideoModel:
    """A model and its processor, made by `load_model`; `spec` is how another process can load the same."""

    def __init__(self, network: torch.nn.Module, processor: object, name: str, spec: dict | None = None) -> None:
        self.network, self.processor, self.name, self.spec = network, processor, name, spec
        self._last: tuple[object, dict[bool, VideoTokens]] = (None, {})  # frames; tokens without, with saliency

    @torch.no_grad()
    def encode(self, clip: Clip, *, saliency: bool = False) -> VideoTokens:
        """The clip's visual tokens as the language model would get them.

        Parameters
        ----------
        clip : T frames of any size; the model's own processor resizes them.
        saliency : also tell how much attention each token gets in the vision tower, for methods that need it.

        Returns
        -------
        VideoTokens (T, h, w, D) in the model's dtype, on its device. The last clip's tokens are remembered, so that
        several calls on one clip encode it once. The saliency is (T, h, w) float32, pooled as the tokens are;
        `saliency_source` says what it is (see `vtc_lab.models.saliency`), and `seconds` includes it.

        Raises
        ------
        VTCError
            If saliency is asked for and the vision tower is of a family whose attention is not known.

        Examples
        --------
        >>> import vtc_lab as vtc
        >>> model, (clip, _) = vtc.load_model(), vtc.make_clip(7)
        >>> model.encode(clip).values.shape[1:]
        torch.Size([8, 8, 192])
        """
        demand_clip(clip)
        frames, made = self._last
        made = made if frames is clip.frames else {}
        if saliency in made:
            return made[saliency]
        model, layer = self.network.model, self.network.config.vision_feature_layer
        start = time.perf_counter()
        pixels = self.processor.video_processor([clip.frames], return_tensors="pt")
        pixels = pixels["pixel_values_videos"].to(self.network.device, self.network.dtype)
        with watch_saliency(model.vision_tower, feature_layer=layer) if saliency else nullcontext() as measure:
            features = model.get_video_features(pixels, return_dict=True).pooler_output
        side = math.isqrt((features.shape[1] - 1) // len(clip))  # one newline after the last frame
        values = features[0, : len(clip) * side * side].view(len(clip), side, side, -1)
        _settle(values)
        made = {False: VideoTokens(values, encoder=self.name, seconds=time.perf_counter() - start)} | made
        if saliency:
            scores, source = measure()
            pooled = model.apply_pooling(scores[..., None]).view(len(clip), side, side)
            _settle(pooled)
            seconds = time.perf_counter() - start
            made[True] = replace(made[False], saliency=pooled, saliency_source=source, seconds=seconds)
        self._last = (clip.frames, made)
        return made[saliency]

    @torch.no_grad()
    def ask(
        self,
        question: str | Sequence[str],
        clip: Clip,
        reduction: Reduction | None = None,
        *,
        candidates: Sequence[str] | Sequence[Sequence[str]] | None = None,
        positions: Literal["preserve", "compact"] = "preserve",
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
            If a question is empty, an argument is none of those above, the reduction is of another grid or encoder, or
            the number of visual tokens that reached the language model is not the number reduced to.

        Examples
        --------
        >>> import vtc_lab as vtc
        >>> model, (clip, samples) = vtc.load_model(), vtc.make_clip(7)
        >>> reduced = vtc.reduce(model.encode(clip), "lftr", ratio=2)
        >>> answer = model.ask(samples[0]["question"], clip, reduced)
        >>> answer.entered * 2 == answer.total
        True
        """
        questions = list(question) if isinstance(question, Iterable) and not isinstance(question, str) else [question]
        lists = _per_question(candidates, questions, question)
        answers = self.ask_each(
            questions, clip, [reduction], candidates=lists, positions=positions, max_new_tokens=max_new_tokens
        )[0]
        return answers[0] if isinstance(question, str) else answers

    @torch.no_grad()
    def ask_each(
        self,
        questions: list[str],
        clip: Clip,
        reductions: Sequence[Reduction | None],
        *,
        candidates: Sequence[Sequence[str] | None],
        positions: Literal["preserve", "compact"] = "preserve",
        max_new_tokens: int = 16,
    ) -> list[list[Answer]]:
        """Answer the same questions under each of several reductions of one clip to the same number of tokens.

        Parameters
        ----------
        questions, clip, positions, max_new_tokens : as for `ask`.
        reductions : R of this clip's tokens, all with K tokens; None stands for all of them.
        candidates : one list, or None, for each question.

        Returns
        -------
        For each reduction the list of its answers. Reductions whose tokens and anchors are the same are answered once.
        The seconds of prefill and decoding are those of the whole batch divided by the number of its answers.

        Raises
        ------
        VTCError
            As `ask`.
        """
        if not questions or not all(isinstance(q, str) and q.strip() for q in questions):
            raise VTCError(f"{questions!r} is no question; give text, or a list of texts")
        if positions not in ("preserve", "compact"):
            raise VTCError(f"positions is {positions!r}; choose 'preserve' or 'compact'")
        if type(max_new_tokens) is not int or max_new_tokens < 1:
            raise VTCError(f"max_new_tokens is {max_new_tokens!r}; it must be a whole number, at least 1")
        tokens = self.encode(clip)
        chosen = [_entering(reduction, tokens) for reduction in reductions]
        lengths = sorted({len(anchor) for _, anchor in chosen})
        if len(lengths) != 1:
            raise VTCError(f"reductions to {lengths} tokens cannot be asked together; give those of one length")
        twin = [next(m for m, other in enumerate(chosen) if _same(one, other)) for one in chosen]
        different = sorted(set(twin))
        features, anchor = (torch.stack([chosen[n][part] for n in different]) for part in (0, 1))
        inputs = build_inputs(self.network, self.processor, questions, features, anchor, tokens.total, positions)
        rows, kept = inputs["input_ids"].shape[0], anchor.shape[1]
        clock = _Clock()
        start = time.perf_counter()
        inputs = share_prefix(self.network, inputs, len(questions))
        output = self.network.generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            return_dict_in_generate=True,
            output_logits=True,
            logits_processor=LogitsProcessorList([clock]),
        )
        end = time.perf_counter()
        width, steps = inputs["input_ids"].shape[1], len(output.logits)
        reached, expected = output.past_key_values.get_seq_length(), width + steps - 1
        if reached != expected:
            raise VTCError(f"{reached} tokens reached the language model, not {expected}; the reduction did not engage")
        shared = {"prefill": (clock.first - start) / rows, "decode": (end - clock.first) / rows}
        texts = self.processor.tokenizer.batch_decode(output.sequences[:, width:], skip_special_tokens=True)
        first = output.logits[0].float().cpu()
        answers = []
        for reduction, same in zip(reductions, twin, strict=True):
            reducing = 0.0 if reduction is None else reduction.seconds
            made = {"read": clip.seconds, "encode": tokens.seconds, "reduce": reducing, **shared}
            begin = different.index(same) * len(questions)
            answers.append(
                [
                    Answer(texts[n].strip(), self._scores(first[n], given), first[n], kept, tokens.total, made)
                    for n, given in enumerate(candidates, begin)
                ]
            )
        return answers

    def _scores(self, logits: Tensor, candidates: Sequence[str] | None) -> dict[str, float]:
        tokenizer = self.processor.tokenizer
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


def _entering(reduction: Reduction | None, tokens: VideoTokens) -> tuple[Tensor, Tensor]:
    """(K, D) features and (K,) positions of what enters, if the reduction is one of these tokens."""
    if reduction is None:
        return tokens.values.flatten(0, 2), torch.arange(tokens.total)
    if reduction.grid != tokens.grid:
        raise VTCError(
            f"the reduction is of a {reduction.grid} grid but this clip has {tokens.grid}; reduce its own tokens"
        )
    if reduction.encoder not in ("", tokens.encoder) or reduction.tokens.shape[1:] != tokens.values.shape[3:]:
        raise VTCError(
            f"the reduction is of {reduction.tokens.shape[1]}-channel tokens by {reduction.encoder!r}, but this is "
            f"{tokens.encoder!r} with {tokens.values.shape[3]} channels; reduce what model.encode gives"
        )
    return reduction.tokens, reduction.anchor.cpu()


def _same(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> bool:
    return torch.equal(one[1], other[1]) and torch.equal(one[0], other[0])


def _settle(result: Tensor) -> None:
    """Wait until a GPU has done what was asked of it, or a clock would tell how long the asking took."""
    if result.is_cuda:
        torch.cuda.synchronize(result.device)
    elif result.is_mps:
        torch.mps.synchronize()


class _Clock(LogitsProcessor):
    """Notes when the first token's logits are there, which ends the prefill."""

    first = math.nan

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if math.isnan(self.first):
            _settle(scores)
            self.first = time.perf_counter()
        return scores


def load_model(
    name: str | Path | None = None,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    trust_remote_code: bool = False,
    safetensors_only: bool = True,
) -> VideoModel:
    """Load a Video-QA model: the bundled one, a folder, or a hub id, all by the same code.

    Parameters
    ----------
    name : a folder or hub id of a LLaVA-OneVision checkpoint, or None for the bundled toy model.
    device : "cpu", "cuda", "mps"; by default the best there is.
    dtype : by default float32 on a CPU and bfloat16 elsewhere.
    trust_remote_code, safetensors_only : code from a checkpoint is not run and pickled weights are not read, unless
        you say otherwise.

    Returns
    -------
    VideoModel, in evaluation mode.

    Raises
    ------
    VTCError
        If there is no such checkpoint or device, or its family is not supported.

    Examples
    --------
    >>> load_model().network.config.model_type
    'llava_onevision'
    """
    source = str(BUNDLED if name is None else name)
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
        if config.model_type not in _FAMILIES:
            raise VTCError(f"{source} is a {config.model_type} model; supported are {', '.join(_FAMILIES)}")
        here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        here = [kind for kind, there in here.items() if there]
        device = here[0] if device is None else str(device)
        if device.split(":")[0] not in here:
            raise VTCError(f"device is {device!r}; this machine has {', '.join(here)}")
        dtype = dtype or (torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16)
        network = AutoModelForImageTextToText.from_pretrained(
            source, dtype=dtype, trust_remote_code=trust_remote_code, use_safetensors=safetensors_only or None
        )
        processor = AutoProcessor.from_pretrained(source, trust_remote_code=trust_remote_code)
    except VTCError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).split("\n")[0]
        raise VTCError(f"no model could be loaded from {source}: {reason}") from error
    local = Path(source).exists()
    label, place = (Path(source).name, str(Path(source).resolve())) if local else (source, source)
    spec = {"name": place, "device": device, "dtype": dtype}
    spec |= {"trust_remote_code": trust_remote_code, "safetensors_only": safetensors_only}
    return VideoModel(network.to(device).eval(), processor, label, spec)


def _per_question(candidates: Sequence | None, questions: list[str], asked: str | Sequence[str]) -> list:
    if candidates is None:
        return [None] * len(questions)
    lists = [candidates] if isinstance(asked, str) else list(candidates)
    if len(lists) != len(questions):
        raise VTCError(f"{len(lists)} lists of candidates were given for {len(questions)} questions; give one each")
    return lists
