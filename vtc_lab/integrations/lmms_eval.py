"""The model `vtc` of lmms-eval: its benchmarks, with every reduction of this package in `--model_args`.

lmms-eval finds it by an entry point; nothing of it is patched. Its cache key holds the model's name and all of
`model_args`, hence the method, the ratio and every option, but no version of this package.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Literal, NoReturn

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from loguru import logger
from tqdm import tqdm

from vtc_lab.models.answers import Answer
from vtc_lab.models.loading import load_model
from vtc_lab.reduce.registry import get_method, needs_saliency, reduce
from vtc_lab.sweeps.plan import variants
from vtc_lab.tokens import Clip, Reduction, VTCError
from vtc_lab.video import read_clip


@dataclass(frozen=True, order=True)
class _Asked:
    """One request; sorted, those about one clip stand together."""

    clip: str
    max_new_tokens: int
    place: int
    question: str
    until: tuple[str, ...]


class VTC(lmms):
    """A video language model with a reduction, as lmms-eval makes it from `--model_args`.

    Parameters
    ----------
    pretrained : folder or hub id, as for `load_model`.
    method : a name from `methods()`, or None to give the model all of a clip's tokens.
    ratio, options : as for `reduce`; every option of the method can be given by its name.
    positions : "preserve" or "compact", as for `VideoModel.ask`.
    frames : how many are read of each video; by default, and of one that has fewer, 16, or all if there are fewer.
    batch_size : how many questions about one clip are answered together, at least 1.
    device : by default the one that `accelerate` gives to this process.

    Raises
    ------
    VTCError
        If the model cannot be loaded, or for an unknown method or option, a value that it cannot have, or a ratio or an
        option without a method.

    Examples
    --------
    >>> from vtc_lab.models.loading import BUNDLED
    >>> VTC(BUNDLED, method="lftr", ratio=8, temporal="select").reduction
    {'method': 'lftr', 'ratio': 8, 'temporal': 'select'}
    """

    def __init__(
        self,
        pretrained: str | os.PathLike,
        method: str | None = None,
        ratio: float | None = None,
        positions: Literal["preserve", "compact"] = "preserve",
        frames: int | None = None,
        batch_size: int | str = 1,
        device: str | None = None,
        **options: object,
    ) -> None:
        super().__init__()
        self.reduction = _checked(method, ratio, options)
        if positions not in ("preserve", "compact"):
            raise VTCError(f"positions is {positions!r}; choose 'preserve' or 'compact'")
        self.positions = positions
        self.frames = None if frames is None else _count("frames", frames)
        self.batch_size = _count("batch_size", batch_size)
        self.accelerator = Accelerator()
        if device is None or self.accelerator.num_processes > 1:
            device = str(self.accelerator.device)
        self.model = load_model(pretrained, device=device)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.network.device

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """Answer the questions of a task, each about one video file, by greedy decoding.

        Parameters
        ----------
        requests : (question, generation options, function that gives a document's videos, document, task, split) each.
            Of the options `max_new_tokens` and `until` are followed. "\\n\\n" in `until` is not: lmms-eval puts it
            there when a task says nothing, and its own models leave it out too.

        Returns
        -------
        The answers, in the order of the requests. The mean numbers of visual tokens that entered the language model
        and that the clips have are logged and stand in the results under "throughput"; of several processes, those
        of the first.

        Raises
        ------
        VTCError
            If a task asks for sampling or beams, gives something else than one video file, or files are missing;
            all of that before the first clip is read.
        """
        asked = sorted(self._asked(place, *request.args) for place, request in enumerate(requests))
        missing = sorted({one.clip for one in asked if not Path(one.clip).is_file()})
        if missing:
            raise VTCError(f"{len(missing)} videos of this run are missing, the first is {missing[0]}; put them there")
        texts, sums = [""] * len(asked), Counter()
        with tqdm(total=len(asked), desc="vtc", disable=self.rank != 0) as progress:
            for (path, longest), group in groupby(asked, key=attrgetter("clip", "max_new_tokens")):
                clip, same = self._read(path), list(group)
                reduced = self._reduce(clip)
                how = {"positions": self.positions, "max_new_tokens": longest}
                for start in range(0, len(same), self.batch_size):
                    part = same[start : start + self.batch_size]
                    said = self.model.ask([one.question for one in part], clip, reduced, **how)
                    for one, answer in zip(part, said, strict=True):
                        texts[one.place] = _cut(answer.text, one.until)
                        sums.update(self._counts(answer))
                    progress.update(len(part))
        if asked:  # one of several processes can be left without a question
            means = {f"visual_tokens_{name}": sums[name] / len(asked) for name in ("kept", "total")}
            log_metrics(sums["seconds"], sums["generated"], sums["generated"] / sums["seconds"], means)
        return texts

    def loglikelihood(self, requests: Sequence[Instance]) -> NoReturn:
        """Refuse: this model answers by generation alone.

        Raises
        ------
        VTCError
            Always.
        """
        raise VTCError("vtc answers by generation only; choose the generate_until form of the task")

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> NoReturn:
        """Refuse: this model answers each question by itself.

        Raises
        ------
        VTCError
            Always.
        """
        raise VTCError("vtc answers in one round only; choose the generate_until form of the task")

    def clean(self) -> None:
        """Give the memory back; lmms-eval calls this when all answers are there, before a local judge is started."""
        del self.model
        super().clean()

    def _asked(
        self, place: int, question: str, options: Mapping[str, object], to_visual: Callable, *where: object
    ) -> _Asked:
        document, task, split = where
        visuals = to_visual(self.task_dict[task][split][document])
        if not isinstance(visuals, list) or len(visuals) != 1 or not isinstance(visuals[0], (str, os.PathLike)):
            kinds = [type(visual).__name__ for visual in visuals or ()]
            raise VTCError(
                f"task {task!r} gives {len(kinds)} visuals ({', '.join(kinds[:3])}) with document {document}; "
                "vtc takes the path of one video file"
            )
        sampled = options.get("do_sample", bool(options.get("temperature"))) and options.get("temperature", 1) != 0
        if sampled or (options.get("num_beams") or 1) > 1:
            raise VTCError(
                f"task {task!r} asks for sampling or beams and vtc decodes greedily; "
                "add --gen_kwargs temperature=0,do_sample=False,num_beams=1"
            )
        until = options.get("until") or ()
        until = (until,) if isinstance(until, str) else tuple(stop for stop in until if stop != "\n\n")
        return _Asked(str(visuals[0]), int(options.get("max_new_tokens", 128)), place, question, until)

    def _read(self, path: str) -> Clip:
        if self.frames is not None:
            try:
                return read_clip(path, self.frames)
            except VTCError as error:
                clip = read_clip(path)  # what is wrong with the file itself is told here
                logger.warning(f"{len(clip)} frames are read of a clip, for {error}")
                return clip
        return read_clip(path)

    def _reduce(self, clip: Clip) -> Reduction | None:
        if not self.reduction:
            return None
        tokens = self.model.encode(clip, saliency=needs_saliency(self.reduction["method"], self.reduction))
        return reduce(tokens, **self.reduction)

    def _counts(self, answer: Answer) -> dict[str, float]:
        generated = len(self.model.processor.tokenizer(answer.text)["input_ids"])
        seconds = answer.seconds["prefill"] + answer.seconds["decode"]
        return {"kept": answer.entered, "total": answer.total, "generated": generated, "seconds": seconds}


def _checked(method: str | None, ratio: object, options: dict[str, object]) -> dict[str, object]:
    """The arguments for `reduce`, none for all tokens; a mistake is told before a model or a dataset is fetched."""
    given = ({} if ratio is None else {"ratio": ratio}) | options
    if method is None:
        if given:
            name, value = next(iter(given.items()))
            raise VTCError(f"{name}={value} was given without a method to use it; add method=lftr or another")
        return {}
    get_method(method)
    variants(method, **{key: [value] for key, value in options.items()})
    return {"method": method, **given}


def _count(name: str, value: object) -> int:
    """A whole number of at least 1; lmms-eval gives what stands on the command line as text or as a number."""
    if not str(value).isdecimal() or int(value) < 1:
        raise VTCError(f"{name} is {value!r}; it must be a whole number, at least 1")
    return int(value)


def _cut(text: str, until: Sequence[str]) -> str:
    """The text before the first of the strings at which it should have stopped."""
    for stop in until:
        text = text.split(stop)[0]
    return text
