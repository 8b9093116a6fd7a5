"""Training batches: many questions packed behind one clip, and dense labels for what a token shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from vtc_lab.toy.questions import ANSWERS, questions, scene_of
from vtc_lab.toy.world import CELL, COLOURS, DOT, FATES, FLASH, HEADINGS, SHAPES, SIDE, Scene

CELLS = SIDE // CELL
KINDS = tuple(ANSWERS)
IGNORE = -100
# name -> number of classes; what one frame shows, for the tower; what has happened so far, for the language model at
# a patch; and what becomes of an object in the whole clip, for the language model at the word that names it
LOOKS = {"shape": len(SHAPES) + 2, "colour": 7, "dot": 7, "dark": 2, "row": CELLS, "column": CELLS}
PAST = {"heading": len(HEADINGS), "rank": 3, "age": 8, "state": 4, "seen": 3}
STORY = {"heading": len(HEADINGS), "rank": 3, "birth": 8, "fate": len(FATES), "row": CELLS, "column": CELLS}


@dataclass
class Example:
    """A clip of T frames, encoded, with all that may be asked about it."""

    tokens: Tensor  # (T * 196, D), what the tower makes of it
    asked: list[tuple[str, list[int]]]  # kind, and the words of question and answer
    filled: np.ndarray  # (T * 196,) whether a cell has something in it
    owner: np.ndarray  # (T * 196,) object that fills a cell, n for the flash, n + 1 for nobody
    past: dict[str, np.ndarray]  # (T * 196,)
    names: dict[int, int]  # object that a word stands for
    story: dict[str, np.ndarray]  # (4,) per object


@dataclass
class Batch:
    """B clips with K visual tokens and Q question tokens each; `labels` are the next tokens at the answers."""

    tokens: Tensor  # (B, K, D)
    keep: Tensor  # (B, K) sorted raster indices of the visual tokens that enter
    total: Tensor  # (B, 1) visual tokens that there are
    words: Tensor  # (B, Q)
    question: Tensor  # (B, Q) number of the question a word belongs to, -1 for padding
    offset: Tensor  # (B, Q) place of the word in its question
    labels: Tensor  # (B, Q)
    kind: Tensor  # (B, Q) kind of the question at its answer, else -1
    past: dict[str, Tensor]  # (B, K)
    owner: Tensor  # (B, K)
    meant: Tensor  # (B, Q) object that a word names, else -1
    story: dict[str, Tensor]  # (B, 4) per object


def looks(scene: Scene) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Labels per 8x8-pixel cell of what one frame shows, and (T, 8, 8, 3) centre and radius of the object there."""
    owner, who = _owners(scene)
    count = len(scene.frames)
    shape = np.array([*scene.shape, len(SHAPES), IGNORE])[who] + 1
    colour = np.array([*scene.colour, scene.flash if scene.flash is not None else 0, IGNORE])[who] + 1
    dot = np.where(owner[DOT] >= 4, 1 + (scene.dot or 0), 0)
    thing = np.minimum(who, len(scene.shape) - 1)
    time = np.arange(count)[:, None, None]
    cell = np.stack(np.mgrid[:CELLS, :CELLS], -1) * CELL + CELL // 2
    dark = np.array([fate == "darkens" for fate in scene.fate])[thing] & scene.changed[thing, time]
    box = np.concatenate([scene.position[thing, time] - cell, scene.radius[thing, time][..., None]], -1) / CELL
    is_object = who < len(scene.shape)
    box[~is_object] = np.nan
    empty = who > len(scene.shape)
    labels = {
        "shape": np.where(empty, 0, shape),
        "colour": np.where(empty, 0, colour),
        "dot": dot,
        "dark": np.where(is_object, dark, IGNORE),
        # Without these two a token does not say where it is, and the language model cannot learn directions.
        "row": np.broadcast_to(np.arange(CELLS)[:, None], who.shape),
        "column": np.broadcast_to(np.arange(CELLS), who.shape),
    }
    return labels, box


def _owners(scene: Scene) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """Pixels per cell of each owner, and who fills most of it: an object, n for the flash, n + 1 for nobody."""
    cells = scene.owner.reshape(-1, CELLS, CELL, CELLS, CELL)
    number = len(scene.shape)
    owner = {i: (cells == i).sum((2, 4)) for i in [*range(number), FLASH, DOT]}
    stack = np.stack([owner[i] for i in [*range(number), FLASH]])
    return owner, np.where(stack.max(0) >= 5, stack.argmax(0), number + 1)


def past(scene: Scene) -> dict[str, np.ndarray]:
    """Labels per cell of what has happened to the object there up to this frame, IGNORE where there is none."""
    number, count = len(scene.shape), len(scene.frames)
    _, who = _owners(scene)
    first = (scene.visible >= 0.3).argmax(1)
    time = np.arange(count)
    path = scene.position - scene.position[np.arange(number), first][:, None]
    axis = abs(path).argmax(-1)
    way = np.take_along_axis(path, axis[..., None], -1)[..., 0]
    heading = np.where(abs(way) < 3, 4, np.where(axis == 1, np.where(way < 0, 0, 1), np.where(way < 0, 2, 3)))
    heading[[name is None for name in scene.heading]] = IGNORE
    fate = np.array([(FATES.index(name) + 1) % 5 % 4 for name in scene.fate])  # leaves and nothing are both 0
    labels = {
        "heading": heading,
        "rank": np.repeat((first < first[:, None]).sum(1)[:, None], count, 1),
        "age": ((time - first[:, None]) * 8 // max(count, 8)).clip(0, 7),
        "state": fate[:, None] * scene.changed,
        "seen": np.repeat(((first[:, None] <= time).sum(0)[None] - 1).clip(0), number, 0),
    }
    there = np.minimum(who, number - 1)
    return {name: np.where(who < number, value[there, time[:, None, None]], IGNORE) for name, value in labels.items()}


def story(scene: Scene) -> dict[str, np.ndarray]:
    """Labels per object of what the whole clip tells about it, IGNORE in the places of objects that are not there."""
    first = (scene.visible >= 0.3).argmax(1)
    last = len(scene.frames) - 1 - (scene.visible >= 0.3)[:, ::-1].argmax(1)
    place = (scene.position[np.arange(len(last)), last] // CELL).astype(int).clip(0, CELLS - 1)
    labels = {
        "heading": [IGNORE if name is None else list(HEADINGS).index(name) for name in scene.heading],
        "rank": (first < first[:, None]).sum(1),
        "birth": first * 8 // len(scene.frames),
        "fate": [FATES.index(name) for name in scene.fate],
        "row": place[:, 0],
        "column": place[:, 1],
    }
    return {name: np.pad(value, (0, 4 - len(value)), constant_values=IGNORE) for name, value in labels.items()}


def make_example(seed: int, count: int | None, encode: Callable, tokenizer: PreTrainedTokenizerFast) -> Example:
    """Draw a clip, encode it and collect its questions and dense labels; of a long clip often 16 frames, as read."""
    scene, rng = scene_of(seed, count)
    asked = [
        (kind, tokenizer.convert_tokens_to_ids([*question.split(), "<answer>", answer, "<eos>"]))
        for kind, question, answer, _ in questions(scene, rng)
    ]
    if len(scene.frames) > 16 and rng.random() < 0.7:
        scene = scene.sampled(np.linspace(0, len(scene.frames) - 1, 16).round().astype(int))
    owner, who = _owners(scene)
    filled = (who <= len(scene.shape)) | (owner[DOT] > 0)
    dense = {name: value.ravel() for name, value in past(scene).items()}
    tokens = encode(torch.from_numpy(scene.frames))
    return Example(tokens, asked, filled.ravel(), who.ravel(), dense, _names(scene, tokenizer), story(scene))


def make_batch(examples: list[Example], kept: int, first: bool, limit: int, rng: np.random.Generator) -> Batch:
    """Pack up to `limit` questions behind each clip, of which `kept` tokens stay: by chance, or things `first`."""
    rows, keeps = [], []
    for example in examples:
        order = np.argsort(rng.random(len(example.filled)) - first * example.filled)
        keeps.append(np.sort(order[:kept]))
        rows.append(_choose(example.asked, limit, rng))
    longest = max(sum(len(ids) - 1 for _, ids in row) for row in rows)
    shape = len(rows), longest
    words, question, offset = np.zeros(shape, int), np.full(shape, -1), np.zeros(shape, int)
    labels, kind, meant = np.full(shape, IGNORE), np.full(shape, -1), np.full(shape, -1)
    for b, row in enumerate(rows):
        at = 0
        for number, (name, ids) in enumerate(row):
            end = at + len(ids) - 1
            words[b, at:end], question[b, at:end], offset[b, at:end] = ids[:-1], number, range(len(ids) - 1)
            labels[b, end - 2 : end] = ids[-2:]
            kind[b, end - 2] = KINDS.index(name)
            meant[b, at : end - 2] = [examples[b].names.get(word, -1) for word in ids[:-3]]
            at = end
    pairs = list(zip(examples, keeps, strict=True))
    return Batch(
        tokens=torch.stack([example.tokens[torch.from_numpy(keep)] for example, keep in pairs]),
        keep=torch.from_numpy(np.stack(keeps)),
        total=torch.tensor([[len(example.filled)] for example in examples]),
        words=torch.from_numpy(words),
        question=torch.from_numpy(question),
        offset=torch.from_numpy(offset),
        labels=torch.from_numpy(labels),
        kind=torch.from_numpy(kind),
        past={name: torch.from_numpy(np.stack([e.past[name][keep] for e, keep in pairs])) for name in PAST},
        owner=torch.from_numpy(np.stack([e.owner[keep] for e, keep in pairs])),
        meant=torch.from_numpy(meant),
        story={name: torch.from_numpy(np.stack([e.story[name] for e in examples])) for name in STORY},
    )


def _names(scene: Scene, tokenizer: PreTrainedTokenizerFast) -> dict[int, int]:
    """Which object, or the flash, a word of a question stands for."""
    words = {list(COLOURS)[colour]: i for i, colour in enumerate(scene.colour)}
    words |= {SHAPES[shape]: i for i, shape in enumerate(scene.shape)} | {"flash": len(scene.shape)}
    return {tokenizer.convert_tokens_to_ids(word): i for word, i in words.items()}


def _choose(asked: list[tuple], limit: int, rng: np.random.Generator) -> list[tuple]:
    """At most `limit` questions, those about time first in half of the clips: they are the harder ones."""
    easy = ("colour", "shape", "count", "event", "detail")
    score = rng.random(len(asked)) + [0.5 * (entry[0] not in easy) for entry in asked]
    return [asked[i] for i in np.argsort(-score)[:limit]]
