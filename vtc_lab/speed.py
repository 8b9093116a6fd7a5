"""Measure the time of every stage from a file to the last token, settings interleaved, against what could be had."""

from __future__ import annotations

import math
import os
import platform
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from itertools import islice, product
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import transformers
from scipy.stats import binom
from transformers import LogitsProcessorList

from vtc_lab.clips.reading import read_clip
from vtc_lab.cost import shares_left, stage_costs
from vtc_lab.models.answers import Clock
from vtc_lab.models.before_encoding import check_stage, reduce_clip
from vtc_lab.models.compression import engaged, put_back
from vtc_lab.models.inside import inside
from vtc_lab.models.loading import free_memory
from vtc_lab.models.prompt_clips import EncodedPrompt, settle
from vtc_lab.models.prompts import join
from vtc_lab.models.video_model import VideoModel
from vtc_lab.reducers.ops import prune
from vtc_lab.reducers.registry import check_ratio, reduce
from vtc_lab.sweeps.jobs import Setting
from vtc_lab.sweeps.plan import Chosen, settings_of
from vtc_lab.tokens import Clip, MinimumBudgetError, Reduction, VideoTokens, VTCError, demand

FULL = ("none", 1.0)  # the setting that everything is compared with
_STAGES = ["read", "encode", "reduce", "prefill", "decode"]
_IDEALS = {  # the stages whose times a quantity is made of
    "encode": ["encode"],
    "prefill": ["prefill"],
    "decode": ["decode"],
    "ttft": ["encode", "prefill"],
    "total": ["read", "encode", "prefill", "decode"],
    "tokens_per_second": ["decode"],
    "questions_per_second": ["read", "encode", "prefill", "decode"],
}
_QUANTITIES = [*_STAGES, "ttft", "total", "tokens_per_second", "questions_per_second"]
_QUANTITIES += ["best_questions_per_second", "peak_gb"]
_MOST = 100_000  # rounds or tokens
_BATCHES = 100  # sizes of them
_ROOM = 0.9  # of the free memory, for the largest batch
_STATUS = Path("/proc/self/status")  # of Linux, with the highest memory of the process
Named = tuple[str, float]  # a setting in the table: its label, and the ratio


class _Trial(NamedTuple):
    """The seconds of one run, with those of encoding if it did that itself, and what it held."""

    times: dict[str, float]
    peak_gb: float
    entered: int
    held: list[int]  # visual tokens of each layer
    encoded: list[int] | None  # visual tokens of each frame that it encoded itself
    text: int


class _Known(NamedTuple):
    """A setting's tokens that enter, their mean over the layers, costs, and the batch that fits."""

    entered: int
    per_layer: float
    costs: pd.DataFrame
    fits: int


def measure(
    model: VideoModel,
    clip: Clip | str | Path,
    methods: Sequence[Chosen],
    ratios: Sequence[float] = (2, 4, 8, 16),
    *,
    frames: int | None = None,
    question: str = "how many objects appear ?",
    batches: Sequence[int] = (1, 4),
    new_tokens: int = 8,
    repeats: int = 7,
) -> pd.DataFrame:
    """Measure the speed of a model with and without reductions, each against the ideal.

    Each round reads and encodes the clip once and then runs every setting and batch, in an order that changes from
    round to round, so that a machine that slows down slows everything. A setting whose `stage` is before the encoder
    encodes for itself in each run; with one, the whole clip is encoded several times a round, and the median counts. A
    first round warms up and is not counted.

    Parameters
    ----------
    model : from `load_model`.
    clip : a clip, or a video file, of which `frames` are then read in each round.
    methods : as for `sweep`: names of `methods()`, of `methods(stage="inside")`, or both joined ("lftr + fastv"), or
        pairs of a name and its options, such as ("lftr", {"stage": "pixels"}).
    ratios : of the tokens that enter, or for a method inside, of those left in the last layer.
    question : asked of every clip.
    batches : numbers of prompts, each with a clip of its own, that the language model gets at once. Clips are read,
        encoded and reduced one by one. One prompt alone is always among them.
    new_tokens : length of each answer, at least 2: the model is not allowed to end earlier.
    repeats : rounds that count.

    Returns
    -------
    DataFrame with a row for each setting and quantity. "none" at ratio 1, every token, is the first.

    - method (with its options: "lftr (stage=pixels)"), ratio; entered, visual: tokens that entered the language model,
      and that the clip has; per_layer: mean over the layers;
    - quantity: seconds of "read", "encode" (the processor's work with it), "reduce", "prefill" (with taking the tokens
      out of the prompt), "decode", "ttft" (encode to the first token) and "total" (read to the last);
      "tokens_per_second" of decoding; "questions_per_second" one at a time; "best_questions_per_second" over the
      batches; "peak_gb", the highest memory from reduction to the last token, weights included (NaN on macOS);
      "largest_batch", estimated to fit into memory;
    - batch, at which it was measured;
    - value, low, high: the median and its interval, of at least 95 % from 6 rounds on;
    - speedup, speedup_low, speedup_high: against "none" in the same rounds; for memory, how many times less;
    - ideal: the speed-up that `ideal_speedup` allows, in which a stage before the encoder takes the FLOPs of the frames
      or patches that it needs; of_ideal: measured / ideal. Both are medians of the rounds, too.

    `attrs` describes the machine. A method that cannot go down to a ratio is left out, with a warning.

    Raises
    ------
    VTCError
        For a batch that does not fit under any setting, arguments that are none of those above, or a family whose costs
        are not known.

    Examples
    --------
    >>> import vtc_lab as vtc
    >>> model, (clip, _) = vtc.load_model(), vtc.make_clip(7)
    >>> table = vtc.measure(model, clip[:4], ["lftr"], [8], batches=[1], new_tokens=2, repeats=1)
    >>> table.query("method == 'lftr' and quantity == 'prefill'").speedup.item() > 1
    True
    """
    demand(VideoModel, model)
    batches = list(islice(batches, _BATCHES + 1))
    if len(batches) > _BATCHES or not all(isinstance(batch, Integral) and batch >= 1 for batch in batches):
        raise VTCError(f"batches is {batches!r:.60}; give at most {_BATCHES} whole numbers of at least 1")
    for name, value, least in (("new_tokens", new_tokens, 2), ("repeats", repeats, 1)):
        if not isinstance(value, Integral) or not least <= value < _MOST:
            raise VTCError(f"{name} is {value!r:.60}; it must be a whole number from {least} to below {_MOST:,}")
    settings = _settings(model, methods, ratios)
    salient = {name for name, setting in settings.items() if setting and setting.salient}
    apart = any(setting and setting.stage != "features" for setting in settings.values())
    rows: list[dict[str, Any]] = []
    order = np.random.default_rng(0)
    for number in range(repeats + 1):
        start = time.perf_counter()
        here = clip if isinstance(clip, Clip) else read_clip(clip, frames=frames)
        read = here.seconds if isinstance(clip, Clip) else time.perf_counter() - start
        prompt, encode_salient, encode = model.prompt(here, question, saliency=bool(salient))
        if not number:
            about = _tried(model, here, prompt, settings, max({1, *batches}), new_tokens)
            runs = [
                (setting, batch) for setting, batch in product(about, {1, *batches}) if batch <= about[setting].fits
            ]
            runs += [(FULL, 1)] * max(len(runs) // 8, 2 * apart)  # whatever disturbs it disturbs every comparison
            continue
        encodes, done_here = [(encode_salient, encode)], []
        for setting, batch in (runs[n] for n in order.permutation(len(runs))):
            if apart and setting == FULL:  # others encode anew, at other moments
                encodes.append(model.prompt(here, question, saliency=bool(salient))[1:])
            done = _run(model, here, prompt, settings[setting], batch, new_tokens)
            row = {"method": setting[0], "ratio": setting[1], "batch": batch, "round": number, "read": read}
            done_here.append((setting in salient, row | {"peak_gb": done.peak_gb} | done.times))
        with_it, without = np.median(encodes, axis=0)
        rows += [{"encode": with_it if looks else without} | row for looks, row in done_here]
    table = _table(pd.DataFrame(rows), about, new_tokens).assign(visual=prompt.tokens[0].total)
    table.attrs = _machine(model) | {"clip": list(here.frames.shape), "new_tokens": new_tokens, "rounds": repeats}
    return table


def _machine(model: VideoModel) -> dict[str, Any]:
    """Return what a table of speeds has to say about the machine and the software that it was measured with."""
    device, cpu = str(model.network.device), platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), cpu)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    told = {"model": model.name, "device": device, "cpu": cpu, "cores": cores, "threads": torch.get_num_threads()}
    if device.startswith("cuda"):
        told["gpu"] = torch.cuda.get_device_name(device)
    dtype = str(model.network.dtype).removeprefix("torch.")
    return told | {"dtype": dtype, "torch": torch.__version__, "transformers": transformers.__version__}


def _settings(model: VideoModel, methods: Sequence[Chosen], ratios: Sequence[float]) -> dict[Named, Setting | None]:
    """The settings by their names, checked; every token is None."""
    settings: dict[Named, Setting | None] = {FULL: None}
    for setting in settings_of(methods, ratios, [0]):
        if setting.stage != "features":
            check_stage(model.family, setting.stages[0], setting.stage, setting.before)
        settings[setting.label, check_ratio("ratio", setting.ratio, 1 << 30)] = setting
    return settings


def _reduced(
    model: VideoModel, clip: Clip, tokens: VideoTokens, setting: Setting | None
) -> tuple[Reduction, dict[str, float], list[int] | None]:
    """The clip reduced; the seconds; and how many tokens of each frame were encoded, if the setting did that itself."""
    before = setting.stages[0] if setting else ""
    if not (setting and before):
        return prune(tokens, torch.arange(tokens.total, device=tokens.values.device)), {"reduce": 0.0}, None
    start, fresh, how = time.perf_counter(), model.fresh(), {"ratio": setting.ratio} | setting.before
    if setting.stage == "features":
        reduced = reduce(tokens, before, **how)
    else:
        reduced = reduce_clip(fresh, clip, before, stage=setting.stage, **how)
    settle(reduced.tokens)
    seconds = time.perf_counter() - start
    if not fresh.part:
        return reduced, {"reduce": seconds}, None
    made = fresh.part[2].values[..., 0].isfinite().flatten(1).sum(1)
    times = {"encode": seconds - reduced.seconds, "reduce": reduced.seconds}
    return reduced, times, made[made > 0].tolist()


@torch.no_grad()
def _run(
    model: VideoModel,
    clip: Clip,
    prompt: EncodedPrompt,
    setting: Setting | None,
    batch: int,
    new_tokens: int,
    check: bool = False,
) -> _Trial:
    """Reduce the clip of an encoded prompt, or encode less of it, and answer a batch of copies of it."""
    tokens, network = prompt.tokens[0], model.network
    _reset_peak(network.device)
    reduced, times, encoded = _reduced(model, clip, tokens, setting)
    before, inner = setting.stages if setting else ("", "")
    how = {"ratio": None if before else setting.ratio} | setting.inside() if setting and inner else {}
    clock = Clock()
    length: Mapping[str, Any] = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False}
    with inside(network, inner, **how) if inner else nullcontext() as stage:
        begun = time.perf_counter()
        given = put_back(network, prompt, [reduced])
        text = given["input_ids"].shape[1] - len(reduced)
        given = join([given] * batch)
        with engaged(network, given) if check else nullcontext():
            said = network.generate(**given, **length, num_beams=1, logits_processor=LogitsProcessorList([clock]))
        settle(said)
        end = time.perf_counter()
    held = [len(reduced)] * len(network.get_decoder().layers)
    if stage:  # which counts newlines, too
        held = [min(tokens.total, n) for n in stage.layers[0]]
    times |= {"prefill": clock.first - begun, "decode": end - clock.first}
    return _Trial(times, _peak_gb(network.device), len(reduced), held, encoded, text)


def _tried(
    model: VideoModel,
    clip: Clip,
    prompt: EncodedPrompt,
    settings: Mapping[Named, Setting | None],
    most: int,
    new_tokens: int,
) -> dict[Named, _Known]:
    """Run each setting once, checked and not timed; a VTCError if the largest batch fits under none of them."""
    about = {}
    for name, setting in settings.items():
        try:
            tried = _run(model, clip, prompt, setting, 1, new_tokens, check=True)
        except MinimumBudgetError as error:
            warnings.warn(f"{name[0]} at {name[1]:g}x is left out: {error}", RuntimeWarning, stacklevel=3)
            continue
        grid, held = prompt.tokens[0].grid, tried.held
        lengths = {"text": tried.text, "new_tokens": new_tokens}
        costs = stage_costs(model.network, grid, held, encoded=tried.encoded, **lengths)
        about[name] = _Known(tried.entered, sum(held) / len(held), costs, _fitting(model, costs))
    if most > (fits := max(each.fits for each in about.values())):
        free = free_memory(str(model.network.device)) / 1e9
        raise VTCError(
            f"a batch of {most} prompts does not fit into the {free:.1f} GB that are free under any of these settings; "
            f"the largest that does has {fits}"
        )
    return about


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _STATUS.exists():
        (_STATUS.parent / "clear_refs").write_text("5")


def _peak_gb(device: torch.device) -> float:
    """The highest memory since the reset: of the allocator on a GPU, of the process on Linux."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    if not _STATUS.exists():
        return math.nan
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e9


def _fitting(model: VideoModel, costs: pd.DataFrame) -> int:
    """Estimate the prompts that fit into free memory: their caches, the work of one layer, and their logits."""
    torch.cuda.empty_cache()  # what torch only keeps at hand is free
    config, size = model.network.config.get_text_config(), model.network.dtype.itemsize
    tokens = costs.tokens[costs.stage == "prefill"].max()
    each = costs.kv_bytes.sum() + tokens * size * (8 * config.hidden_size + 3 * config.intermediate_size)
    fits = int(_ROOM * free_memory(str(model.network.device)) / (each + 8 * config.vocab_size))
    return max(1, fits)  # one prompt has just run


def _table(runs: pd.DataFrame, about: Mapping[Named, _Known], new: int) -> pd.DataFrame:
    """The rows of `measure`, from those of all runs."""
    runs = runs.groupby(["method", "ratio", "batch", "round"], as_index=False).median()
    runs["ttft"] = runs.batch * (runs.encode + runs.reduce) + runs.prefill
    runs["total"] = runs.batch * runs.read + runs.ttft + runs.decode
    runs["tokens_per_second"] = runs.batch * (new - 1) / runs.decode
    runs["questions_per_second"] = runs.batch / runs.total
    each = {key: rows.set_index("round") for key, rows in runs.groupby(["method", "ratio", "batch"])}
    rate = {key: rows.questions_per_second.median() for key, rows in each.items()}
    best = {setting: max((key for key in each if key[:2] == setting), key=rate.__getitem__) for setting in about}
    full, rows = each[*FULL, 1], []
    for setting, known in about.items():
        head = {"method": setting[0], "ratio": setting[1], "entered": known.entered, "visual": math.nan}
        head |= {"per_layer": known.per_layer}
        left = shares_left(about[FULL].costs, known.costs)
        for quantity in _QUANTITIES:
            one, other = (best[setting], best[FULL]) if quantity.startswith("best") else ((*setting, 1), (*FULL, 1))
            column = quantity.removeprefix("best_")
            value, base = each[one][column], each[other][column]
            row = head | {"quantity": quantity, "batch": one[2], **_interval(value, "value")}
            if quantity not in ("read", "reduce"):
                gain = value / base if "per_second" in column else base / value
                row |= _interval(gain, "speedup")
            if quantity in _IDEALS:
                times = full[_IDEALS[quantity]]
                ideal = times.sum(axis=1) / sum(left.get(stage, 1) * times[stage] for stage in times)
                row |= {"ideal": ideal.median(), "of_ideal": (gain / ideal).median()}
            rows.append(row)
        rows.append(head | {"quantity": "largest_batch", "batch": 1, "value": known.fits})
    return pd.DataFrame(rows)


def _interval(values: pd.Series, name: str) -> dict[str, float]:
    """The median, and the order statistics between which it is with 95 %: with few values, the smallest and largest."""
    ranked = sorted(values)
    out = max(int(binom.ppf(0.025, len(ranked), 0.5)), 1) - 1
    low, high = ("low", "high") if name == "value" else (f"{name}_low", f"{name}_high")
    return {name: float(pd.Series(ranked).median()), low: ranked[out], high: ranked[-1 - out]}
