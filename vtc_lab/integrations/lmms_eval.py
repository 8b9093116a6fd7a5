"""Give lmms-eval the model `vtc`, with every reduction of this package in `--model_args`.

lmms-eval finds it by an entry point; nothing is patched. Its cache key holds the model's name and all of `model_args`,
hence the method, the ratio and every option, but no version of this package.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from accelerate import Accelerator
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from loguru import logger
from PIL import Image
from tqdm import tqdm

from vtc_lab.clips.reading import read_clip
from vtc_lab.models.compression import Positions, demand_asking
from vtc_lab.models.inside import inside
from vtc_lab.models.loading import load_model
from vtc_lab.reducers.inside import parts_of
from vtc_lab.reducers.registry import needs_saliency, reduce
from vtc_lab.sweeps.plan import variants
from vtc_lab.tokens import Clip, Reduction, VTCError


@dataclass(frozen=True, order=True)
class _Asked:
    """One request. Sorting brings those about one clip together; `look` gives its pictures where it is no file."""

    clip: str
    max_new_tokens: int
    place: int
    question: str
    until: tuple[str, ...]
    look: Callable[[], Sequence[Image.Image]] | None = field(default=None, compare=False)


class VTC(lmms):
    """Answer the questions of lmms-eval with a video language model whose clips are reduced.

    Parameters
    ----------
    pretrained : folder or hub id, as for `load_model`.
    method : a name from `methods()`, or None to give the model all of a clip's tokens. As in a sweep it may be of a
        stage inside the language model ("fastv"), or of two stages ("holitom + holitom-inner").
    ratio, options : as for `reduce`, or for `inside` where there is no stage before; every option of the method, or of
        both, can be given by its name.
    positions : "preserve" or "compact", as for `VideoModel.ask`.
    frames : number of frames read of each video; by default, and of a video that has fewer, as for `read_clip`.
    batch_size : number of questions about one clip that are answered together, at least 1.
    device : by default the one that `accelerate` gives to this process.

    Examples
    --------
    >>> from vtc_lab.models.loading import BUNDLED
    >>> VTC(BUNDLED, method="lftr", ratio=8, temporal="select").reduction
    {'method': 'lftr', 'ratio': 8, 'temporal': 'select'}
    """

    def __init__(
        self,
        pretrained: str | Path,
        method: str | None = None,
        ratio: float | None = None,
        positions: Positions = "preserve",
        frames: int | None = None,
        batch_size: int | str = 1,
        device: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.reduction, self.stage = _checked(method, ratio, options)
        demand_asking(positions)
        self.positions = positions
        self.frames = None if frames is None else _count("frames", frames)
        self.batch_size = _count("batch_size", batch_size)
        self.accelerator = Accelerator()
        if device is None or self.accelerator.num_processes > 1:
            device = str(self.accelerator.device)
        self.model = load_model(pretrained, device=device)

    @property
    def device(self) -> torch.device:
        """Return the device of the model."""
        return self.model.network.device

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """Answer the questions of a task, each about one video, by greedy decoding, in the order of the requests.

        The mean numbers of visual tokens that entered, that layers held and that the clips have stand in the results
        under "throughput"; of several processes, those of the first.

        The visuals of a request are the path of one video file, or pictures of one size, taken as its frames, one a
        second. Of its generation options `max_new_tokens` and `until` are followed, except "\\n\\n" in `until`:
        lmms-eval puts it there when a task says nothing, and its own models leave it out too.
        """
        asked = [self._asked(place, *request.args) for place, request in enumerate(requests)]
        if not asked:  # one of several processes can be left without a question
            return []
        with inside(self.model.network, **self.stage) if self.stage else nullcontext():
            return self._answered(asked)

    def _answered(self, asked: Sequence[_Asked]) -> list[str]:
        texts = [""] * len(asked)
        sums = np.zeros(5)  # tokens that entered, that layers held and of the clips, generated tokens, seconds
        for clip, reduced, same in self._by_clip(asked):
            for longest, group in groupby(same, key=attrgetter("max_new_tokens")):
                alike = list(group)
                for start in range(0, len(alike), self.batch_size):
                    part = alike[start : start + self.batch_size]
                    questions, none = [one.question for one in part], [None] * len(part)
                    how = {"positions": self.positions, "max_new_tokens": longest}
                    (said,) = self.model.ask_each(questions, clip, [reduced], candidates=none, **how)
                    for one, answer in zip(part, said, strict=True):
                        texts[one.place] = _cut(answer.text, one.until)
                        length = len(self.model.processor.tokenizer(answer.text)["input_ids"])
                        seconds = answer.seconds["prefill"] + answer.seconds["decode"]
                        sums += (answer.entered, answer.per_layer, answer.total, length, seconds)
        *means, generated, seconds = sums.tolist()
        names = ("visual_tokens_kept", "visual_tokens_per_layer", "visual_tokens_total")
        told = {name: mean / len(asked) for name, mean in zip(names, means, strict=True)}
        log_metrics(seconds, generated, generated / seconds, told)
        return texts

    def loglikelihood(self, requests: Sequence[Instance]) -> NoReturn:
        """Refuse: lmms-eval 0.7 turns the pairs that this must return into text and fails to take them apart."""
        raise VTCError("vtc answers by generation only; choose the generate_until form of the task")

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> NoReturn:
        """Refuse: this model answers each question by itself."""
        raise VTCError("vtc answers in one round only; choose the generate_until form of the task")

    def clean(self) -> None:
        """Free the memory; lmms-eval calls this after the last answer, before it starts a local judge."""
        del self.model
        super().clean()

    def _asked(self, place: int, question: str, options: Mapping[str, Any], to_visual: Callable, *where: Any) -> _Asked:
        document, task, split = where
        sampled = options.get("do_sample", bool(options.get("temperature"))) and options.get("temperature", 1) != 0
        if sampled or (options.get("num_beams") or 1) > 1:
            raise VTCError(
                f"task {task!r} asks for sampling or beams and vtc decodes greedily; "
                "add --gen_kwargs temperature=0,do_sample=False,num_beams=1"
            )
        until = options.get("until") or ()
        until = (until,) if isinstance(until, str) else tuple(stop for stop in until if stop != "\n\n")
        longest = int(options.get("max_new_tokens", 128))

        # Pictures are made again when their turn comes, or those of a whole benchmark would be held.
        def look() -> Any:
            return to_visual(self.task_dict[task][split][document])

        visuals = look()
        visuals = list(visuals) if isinstance(visuals, Sequence) else []
        if len(visuals) == 1 and isinstance(visuals[0], (str, os.PathLike)):
            return _Asked(str(visuals[0]), longest, place, question, until)
        if not visuals or not all(isinstance(visual, Image.Image) for visual in visuals):
            kinds = [type(visual).__name__ for visual in visuals]
            raise VTCError(
                f"task {task!r} gives {len(kinds)} visuals ({', '.join(kinds[:3])}) with document {document}; "
                "vtc takes the path of one video file, or pictures as its frames"
            )
        return _Asked(f"document {document} of {task}", longest, place, question, until, look)

    def _by_clip(self, asked: Sequence[_Asked]) -> Iterator[tuple[Clip, Reduction | None, list[_Asked]]]:
        """Each clip with its reduction and the requests about it, read when its turn comes."""
        missing = sorted({one.clip for one in asked if one.look is None and not Path(one.clip).is_file()})
        if missing:
            raise VTCError(f"{len(missing)} videos of this run are missing, the first is {missing[0]}; put them there")
        with tqdm(total=len(asked), desc="vtc", disable=self.rank != 0) as progress:
            for path, group in groupby(sorted(asked), key=attrgetter("clip")):
                same = list(group)
                look = same[0].look
                clip = self._read(path) if look is None else self._joined(path, look())
                reduced = None
                if self.reduction:
                    tokens = self.model.encode(clip, saliency=needs_saliency(self.reduction["method"], self.reduction))
                    reduced = reduce(tokens, **self.reduction)
                yield clip, reduced, same
                progress.update(len(same))

    def _joined(self, name: str, pictures: Sequence[Image.Image]) -> Clip:
        """A clip of pictures, evenly spaced if there are more than were asked for."""
        sizes = sorted({picture.size for picture in pictures})
        if len(sizes) > 1:
            raise VTCError(f"the pictures of {name} have the sizes {sizes!r:.60}; vtc takes pictures of one size")
        count = min(self.frames or 16, len(pictures))
        chosen = np.linspace(0, len(pictures) - 1, count).round().astype(int)
        frames = np.stack([np.asarray(pictures[n].convert("RGB")) for n in chosen])
        return Clip(frames, chosen.astype(float), name, "lmms-eval")

    def _read(self, path: str) -> Clip:
        try:
            return read_clip(path, self.frames)
        except VTCError as error:
            if self.frames is None:
                raise
            clip = read_clip(path)  # raises if something is wrong with the file itself
            logger.warning(f"{len(clip)} frames are read of a clip, for {error}")
            return clip


def _checked(method: str | None, ratio: float | None, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments for `reduce` and for `inside`, or none, checked before a model or a dataset is fetched."""
    budget = {} if ratio is None else {"ratio": ratio}
    if method is None:
        given = budget | options
        if given:
            name, value = next(iter(given.items()))
            raise VTCError(f"{name}={value} was given without a method to use it; add method=lftr or another")
        return {}, {}
    if options.get("stage", "features") != "features":
        raise VTCError(f"stage={options['stage']} is before the encoder, where only sweeps reduce; leave it out")
    stages: dict[str, dict[str, Any]] = {"before": {}, "inside": {}}
    for part in parts_of(method):
        own = {key: value for key, value in options.items() if key in part.options}
        stages[part.stage] = {"method": part.name, **budget, **own}
        budget = {}  # is of the first stage
    variants(method, **{key: [value] for key, value in options.items()})
    return stages["before"], stages["inside"]


def _count(name: str, value: object) -> int:
    """A whole number, which lmms-eval gives as text or as a number."""
    if not str(value).isdecimal() or int(str(value)) < 1:
        raise VTCError(f"{name} is {value!r}; it must be a whole number, at least 1")
    return int(str(value))


def _cut(text: str, until: Sequence[str]) -> str:
    """The text before the first string at which it should have stopped."""
    for stop in until:
        text = text.split(stop)[0]
    return text
