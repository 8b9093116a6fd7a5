"""Trains the bundled model in stages on clips drawn as it goes; run again to go on where it stopped.

    python training/train.py --work runs/toy --processes 2

Each process is one thread; their gradients are averaged, so two cores do what one would do with
twice the batch. The stages lengthen the clip, because what changes between two frames is learnt
at two frames and not at eight. `report.py` measures what this leaves behind.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from batches import IGNORE, KINDS, LOOKS, PAST, STORY, Batch, Example, looks, make_batch, make_example
from model import TOKENS_PER_FRAME, build_model, build_processor, build_tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface

from vtc_lab.toy.questions import SPLITS, scene_of

SEED = 2501
QUESTIONS = 8
SAVE_EVERY = 60  # seconds
PAST_LAYER = 2  # the language model layer after which the dense labels about the past are asked for
HEADS = 2  # that are guided, in two layers:
TRACKING_LAYER = 0  # a patch of an object is made to look at that object's patches in earlier frames
NAMING_LAYER = 2  # the word for an object is made to look at that object's patches


@dataclass(frozen=True)
class Stage:
    """Steps over clips of these lengths (None: as the seed has it), of which one of these numbers of tokens is kept."""

    name: str
    steps: int
    lengths: tuple[int | None, ...]
    rate: tuple[float, float]
    kept: tuple[int, ...] = ()
    odds: tuple[float, ...] = ()  # of each number
    first: float = 0.5  # share of the steps in which things are kept before background
    past_weight: float = 0.3


AT_ONCE = 3072  # visual tokens of a step in a process
CLIPS = 16  # at most
NEW = 1  # clips that a process draws and encodes for each step of long clips; the others it has seen before
FIRST = 150  # but so many at first: a few clips again and again would be learnt by heart
MEMORY = 300  # clips
KEPT = (96, 192, 384, 768, 1568, 3072)
TOWER = Stage("tower", 600, (4,), (7e-4, 1e-4))
STAGES = (
    TOWER,
    Stage("1 frame", 300, (1,), (5e-4, 5e-4), (40,), (1.0,), 0.8),
    Stage("2 and 4 frames", 300, (2, 4), (5e-4, 5e-4), (96, 192), (0.5, 0.5), 0.7),
    Stage("things first", 900, (None,), (5e-4, 5e-4), (96, 192, 384, 768), (0.2, 0.35, 0.3, 0.15), 0.6),
    Stage("any number", 600, (None,), (5e-4, 5e-4), KEPT, (0.1, 0.2, 0.3, 0.22, 0.12, 0.06), 0.15, 0.2),
    Stage("things first again", 800, (None,), (5e-4, 4e-4), KEPT, (0.15, 0.3, 0.3, 0.15, 0.06, 0.04), 0.7, 0.4),
    Stage("any number again", 900, (None,), (4e-4, 2e-5), KEPT, (0.1, 0.2, 0.3, 0.22, 0.12, 0.06), 0.25, 0.2),
    Stage("any number at last", 550, (None,), (2e-4, 1e-5), KEPT, (0.05, 0.15, 0.3, 0.28, 0.14, 0.08), 0.4, 0.2),
)


def attention(module, query, key, value, mask, scaling=None, prefix=0, told=None, **_):  # noqa: ANN001, ANN003, ANN201
    """What "sdpa" computes, faster on a CPU; `told` receives where the words look in the layer that is guided."""
    guided = prefix and module.layer_idx in (TRACKING_LAYER, NAMING_LAYER)
    if query.is_cuda and not guided:
        return F.scaled_dot_product_attention(query, key, value, mask, scale=scaling).transpose(1, 2), None
    # The kernel for a causal prefix needs no mask; short sequences and the questions do better with plain products.
    cut = prefix if prefix > 400 else 0
    rows = query[:, :, cut:] * scaling @ key.transpose(2, 3)
    weights = (rows if mask is None else rows + mask[:, :, cut:]).softmax(-1)
    mixed = weights @ value
    if guided:
        looks = weights[:, :HEADS, :, 1 : prefix - 1].float().mean(1)
        if module.layer_idx == NAMING_LAYER:
            told["words"] = looks[:, prefix - cut :]
        elif not cut:
            told["patches"] = looks[:, 1 : prefix - 1]
    if cut:
        parts = [part[:, :, :prefix] for part in (query, key, value)]
        first = F.scaled_dot_product_attention(*parts, is_causal=True, scale=scaling)
        mixed = torch.cat([first, mixed], 2)
    return mixed.transpose(1, 2).contiguous(), None


AttentionInterface.register("training", attention)


class Heads(nn.Module):
    """Linear read-outs of the dense labels, thrown away after training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.looks = nn.ModuleDict({name: nn.Linear(width, size) for name, size in LOOKS.items()})
        self.box = nn.Linear(width, 3)
        self.norm = nn.LayerNorm(width)
        self.past = nn.ModuleDict({name: nn.Linear(width, size) for name, size in PAST.items()})
        self.story = nn.ModuleDict({name: nn.Linear(width, size) for name, size in STORY.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of the log, the checkpoint and the weights")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--start", type=Path, help="folder of the weights for 64x64 pixels to start from")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.processes == 1:
        train(0, options)
    else:
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", "29533")
        mp.spawn(train, args=(options,), nprocs=options.processes)


def train(rank: int, options: argparse.Namespace) -> None:
    """Run every stage that the checkpoint has not finished yet."""
    torch.set_num_threads(1)
    if options.processes > 1:
        dist.init_process_group("gloo", rank=rank, world_size=options.processes)
    torch.manual_seed(SEED)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    if options.start:
        start_from(model, options.start)
    model.set_attn_implementation("training")
    heads = Heads(model.config.text_config.hidden_size)
    weights = nn.ModuleDict({"model": model, "heads": heads})
    # Computing in bfloat16 and stepping in float32: no casts inside the pass, no loss of small steps.
    master = {name: p.detach().clone().to(options.device) for name, p in weights.named_parameters()}
    weights.bfloat16().to(options.device)
    state = {"stage": 0, "step": 0, "seconds": 0.0}
    checkpoint = options.work / "checkpoint.pt"
    optimizer = None
    if checkpoint.exists():
        stored = torch.load(checkpoint, weights_only=True, map_location=options.device)
        state = stored["state"]
        master |= stored["master"]
        optimizer = stored["optimizer"]
    copy_into(weights, master)
    started = time.time() - state["seconds"]
    while state["stage"] < len(STAGES):
        stage = STAGES[state["stage"]]
        names = trained_in(stage, master)
        opt = torch.optim.AdamW([master[n] for n in names], lr=stage.rate[0], betas=(0.9, 0.98), weight_decay=0.02)
        if optimizer:
            opt.load_state_dict(optimizer)
            optimizer = None
        parameters = dict(weights.named_parameters())
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in names)
        saved, tally, done = time.time(), Tally(), state["step"]
        for step in range(done, stage.steps):
            for group in opt.param_groups:
                group["lr"] = learning_rate(stage, step)
            run = tower_step if stage is TOWER else question_step
            run(weights, tokenizer, stage, step, state["stage"], rank, options, tally)
            norm = average_gradients([parameters[n] for n in names], [master[n] for n in names], options.processes)
            opt.step()
            copy_into(weights, {n: master[n] for n in names})
            state = {"stage": state["stage"], "step": step + 1, "seconds": time.time() - started}
            if rank == 0 and (step + 1) % 50 == 0:
                line = {**state, "stage": stage.name, "rate": learning_rate(stage, step), "norm": norm, **tally.read()}
                with (options.work / "log.jsonl").open("a") as log:
                    log.write(json.dumps(line) + "\n")
                tally = Tally()
            if rank == 0 and time.time() - saved > SAVE_EVERY:
                save(checkpoint, state, master, opt)
                saved = time.time()
        state = {"stage": state["stage"] + 1, "step": 0, "seconds": time.time() - started}
        if rank == 0:
            save(checkpoint, state, master, None)
            torch.save({"state": state, "master": master}, options.work / f"after-{stage.name.replace(' ', '-')}.pt")
    if rank == 0:
        ship(model, master, tokenizer, options.work / "weights")


def start_from(model: nn.Module, folder: Path) -> None:
    """Take over weights for smaller pictures: positions are interpolated, layers they lack begin as identity."""
    given = type(model).from_pretrained(folder).state_dict()
    own = model.state_dict()
    for name, value in own.items():
        if name in given and given[name].shape == value.shape:
            value.copy_(given[name])
        elif name.endswith("position_embedding.weight"):
            old, new = (int(len(table) ** 0.5) for table in (given[name], value))
            grid = given[name].T.reshape(1, -1, old, old)
            value.copy_(F.interpolate(grid, (new, new), mode="bicubic", align_corners=False).flatten(2)[0].T)
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            value.zero_()
        else:
            print("fresh:", name)


def trained_in(stage: Stage, master: dict[str, Tensor]) -> list[str]:
    """The tower and the projector learn first, from dense labels, and stay as they are afterwards."""
    sight = ("vision_tower", "multi_modal_projector", "heads.looks", "heads.box")
    return [name for name in master if any(part in name for part in sight) == (stage is TOWER)]


def learning_rate(stage: Stage, step: int) -> float:
    """A short warm-up, then a cosine from the first rate of the stage to its last."""
    first, last = stage.rate
    cosine = last + (first - last) * 0.5 * (1 + np.cos(np.pi * step / stage.steps))
    return float(cosine * min(1, (step + 1) / 100))


def seeds_of(stage: int, step: int, rank: int, count: int) -> range:
    """Training seeds that no other stage, step or process draws."""
    first = SPLITS["train"].start + ((stage * 1_000_000 + step) * 16 + rank) * 1_000
    return range(first, first + count)


def tower_step(weights, tokenizer, stage, step, number, rank, options, tally) -> None:  # noqa: ANN001
    """Dense labels on single frames: what is in each of the 14x14 cells."""
    scenes = [scene_of(seed, 4)[0] for seed in seeds_of(number, step, rank, 4)]
    seen = [looks(scene) for scene in scenes]
    frames = torch.from_numpy(np.concatenate([scene.frames for scene in scenes])).to(options.device)
    labels = {name: torch.from_numpy(np.concatenate([entry[0][name] for entry in seen])).flatten(1) for name in LOOKS}
    box = torch.from_numpy(np.concatenate([entry[1] for entry in seen])).flatten(1, 2).float()
    parts = list(torch.arange(len(frames)).split(4 if options.device == "cpu" else len(frames)))
    for part in parts:  # small parts stay in the cache of a CPU
        chosen = {name: label[part].to(options.device) for name, label in labels.items()}
        loss = tower_loss(weights, frames[part], chosen, box[part].to(options.device), tally)
        tally.loss(loss)
        (loss / len(parts)).backward()


def tower_loss(weights: nn.ModuleDict, frames: Tensor, labels: dict[str, Tensor], box: Tensor, tally: Tally) -> Tensor:
    tokens, heads = encode(weights["model"], frames[:, None]), weights["heads"]
    there = ~box[..., 0].isnan()
    loss = (heads.box(tokens).float()[there] - box[there]).abs().mean() if there.any() else 0 * tokens.float().sum()
    for name, label in labels.items():
        score = heads.looks[name](tokens).float()
        # Most cells are empty; without weights their loss drowns the others.
        weight = torch.ones(score.shape[-1], device=score.device)
        mostly_empty = name in ("shape", "colour", "dot")
        if mostly_empty:
            weight[0] = 0.2
        wanted = label > 0 if mostly_empty else label >= 0
        if mostly_empty or wanted.any():
            loss = loss + F.cross_entropy(score.flatten(0, -2), label.flatten(), weight, ignore_index=IGNORE)
        tally.add(name, (score.argmax(-1) == label)[wanted])
    return loss


def encode(model: nn.Module, frames: Tensor) -> Tensor:
    """(B, T, 112, 112, 3) uint8 -> (B, T * 196, D) by the model's own path, without the newline token."""
    pixels = frames.permute(0, 1, 4, 2, 3).to(model.dtype) / 127.5 - 1
    pooled = model.model.get_video_features(pixels, return_dict=True).pooler_output
    return pooled[:, : frames.shape[1] * TOKENS_PER_FRAME]


def question_step(weights, tokenizer, stage, step, number, rank, options, tally) -> None:  # noqa: ANN001
    """Answers to packed questions, and dense labels for what has happened so far."""
    chooser = np.random.default_rng([SEED, number, step])  # the same in every process
    length = stage.lengths[chooser.integers(len(stage.lengths))]
    kept = int(chooser.choice(stage.kept, p=stage.odds))
    first = bool(chooser.random() < stage.first)
    clips = max(1, min(CLIPS, AT_ONCE // kept))
    with torch.no_grad():
        new = [
            make_example(seed, length, lambda frames: encode(weights["model"], frames[None])[0], tokenizer)
            for seed in seeds_of(number, step, rank, clips if length else NEW if REMEMBERED else FIRST)
        ]
    rng = np.random.default_rng([SEED, number, step, rank])
    pool = new
    if length is None:
        REMEMBERED.extend(new)
        while len(REMEMBERED) > MEMORY:
            REMEMBERED.pop(rng.integers(len(REMEMBERED) // 2))
        pool = [example for example in REMEMBERED if len(example.tokens) >= kept] or REMEMBERED
    chosen = [pool[i] for i in rng.permutation(len(pool))[:clips]]
    kept = min(kept, *(len(example.tokens) for example in chosen), kept)
    batch = make_batch(chosen, kept, first, QUESTIONS, rng)
    loss = question_loss(weights, batch, stage.past_weight, options.device, tally, kept)
    tally.loss(loss)
    loss.backward()


REMEMBERED: list[Example] = []


def question_loss(
    weights: nn.ModuleDict, batch: Batch, past_weight: float, device: str, tally: Tally, length: int
) -> Tensor:
    model, heads = weights["model"], weights["heads"]
    keep, words, visual = batch.keep.to(device), batch.words.to(device), batch.tokens.to(device)
    size, kept = keep.shape
    embed = model.get_input_embeddings()
    first = embed(torch.full((size, 1), model.config.text_config.bos_token_id, device=device))
    newline = model.model.image_newline.expand(size, 1, -1)
    inputs = torch.cat([first, visual, newline, embed(words)], 1)
    total = batch.total.to(device)
    place = torch.cat(
        [
            torch.zeros_like(keep[:, :1]),
            keep + 1,
            total + 1,
            batch.offset.to(device) + total + 2,
        ],
        1,
    )
    prefix, told = kept + 2, {}
    question = batch.question.to(device)
    sees = torch.ones(inputs.shape[1], inputs.shape[1], dtype=torch.bool, device=device).tril()
    sees = sees.expand(size, -1, -1).clone()
    sees[:, prefix:, prefix:] &= question[:, :, None] == question[:, None]
    mask = torch.zeros_like(sees, dtype=inputs.dtype).masked_fill(~sees, -1e4)[:, None]
    out = model.model.language_model(
        inputs_embeds=inputs,
        attention_mask=mask,
        position_ids=place,
        output_hidden_states=True,
        use_cache=False,
        prefix=prefix,
        told=told,
    )
    labels, kind = batch.labels.to(device), batch.kind.to(device)
    asked = labels != IGNORE
    score = model.lm_head(out.last_hidden_state[:, prefix:][asked]).float()
    loss = F.cross_entropy(score, labels[asked])
    right = score.argmax(-1) == labels[asked]
    for k, name in enumerate(KINDS):
        tally.add(f"{name}@{length}", right[kind[asked] == k])
    owner, meant, moment = batch.owner.to(device), batch.meant.to(device), keep // TOKENS_PER_FRAME
    wanted = {"words": meant[:, :, None] == owner[:, None]}
    if "patches" in told:
        is_object = owner < owner.amax(1, keepdim=True) - 1  # the last two numbers are the flash and nobody
        same = (owner[:, :, None] == owner[:, None]) & is_object[:, :, None]
        wanted["patches"] = same & (moment[:, :, None] > moment[:, None])
    for name, target in wanted.items():
        looked = (told[name] * target).sum(-1)[target.any(-1)]
        if len(looked):
            tally.add(f"{name}:{length}", looked)
            loss = loss - past_weight * looked.clamp(min=1e-3).log().mean()
    read = heads.norm(out.hidden_states[PAST_LAYER][:, 1 : 1 + kept])
    dense = [(f"{name}:{length}", heads.past[name](read), batch.past[name].to(device)) for name in PAST]
    if int(batch.total.max()) > TOKENS_PER_FRAME:
        read = heads.norm(out.hidden_states[NAMING_LAYER + 1][:, prefix:])[meant >= 0]
        for name in STORY:
            label = batch.story[name].to(device).gather(1, meant.clamp(min=0))[meant >= 0]
            dense.append((f"{name}.{length}", heads.story[name](read), label))
    for name, value, label in dense:
        if (label >= 0).any():
            value, label = value.float().flatten(0, -2), label.flatten()
            loss = loss + past_weight * F.cross_entropy(value, label, ignore_index=IGNORE)
            tally.add(name, (value.argmax(-1) == label)[label >= 0])
    return loss


def average_gradients(computed: list[Tensor], master: list[Tensor], processes: int) -> float:
    """Give the float32 weights the gradients of the bfloat16 ones, averaged over processes and clipped."""
    # A head without labels in this batch has no gradient; every process must still send the same numbers.
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).float().flatten() for p in computed])
    if processes > 1:
        dist.all_reduce(flat)
        flat /= processes
    norm = float(flat.norm())
    flat *= min(1.0, 1.0 / (norm + 1e-6))
    for source, target, part in zip(computed, master, flat.split([p.numel() for p in master]), strict=True):
        target.grad, source.grad = part.view_as(target), None
    return norm


@torch.no_grad()
def copy_into(weights: nn.Module, master: dict[str, Tensor]) -> None:
    parameters = dict(weights.named_parameters())
    for name, value in master.items():
        parameters[name].copy_(value)


class Tally:
    """Accuracies and the loss since the last line of the log."""

    def __init__(self) -> None:
        self.right: dict[str, list[float]] = {}

    def add(self, name: str, right: Tensor) -> None:
        entry = self.right.setdefault(name, [0, 0])
        entry[0] += right.sum().item()
        entry[1] += right.numel()

    def loss(self, value: Tensor) -> None:
        entry = self.right.setdefault("loss", [0, 0])
        entry[0] += value.item()
        entry[1] += 1

    def read(self) -> dict[str, float]:
        return {name: round(right / count, 4) for name, (right, count) in self.right.items() if count}


def save(path: Path, state: dict, master: dict[str, Tensor], optimizer: torch.optim.Optimizer | None) -> None:
    """Write beside and rename, so that a stop in between leaves the old checkpoint whole."""
    fresh = path.with_suffix(".new")
    torch.save({"state": state, "master": master, "optimizer": optimizer and optimizer.state_dict()}, fresh)
    fresh.replace(path)


def ship(model: nn.Module, master: dict[str, Tensor], tokenizer, folder: Path) -> None:  # noqa: ANN001
    """Save weights, tokenizer and processor as `from_pretrained` wants them."""
    model.float()
    copy_into(model, {name.removeprefix("model."): p for name, p in master.items() if name.startswith("model.")})
    model.save_pretrained(folder)
    build_processor(tokenizer).save_pretrained(folder)


if __name__ == "__main__":
    main()
