"""The questions that a scene answers, each with one right answer."""

import itertools

import numpy as np

from vtc_lab.qa.samples import Sample
from vtc_lab.tokens import Clip, VTCError
from vtc_lab.toy.evidence import evidence
from vtc_lab.toy.world import COLOURS, DOT, FATES, FLASH, HEADINGS, RELATIONS, SHAPES, Scene, draw_scene

NUMBERS = ("one", "two", "three")
ANSWERS = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "count": NUMBERS,
    "direction": tuple(HEADINGS),
    "order": ("before", "after"),
    "event": tuple(COLOURS),
    "detail": tuple(COLOURS),
    "spatial": tuple(RELATIONS),
    "state": FATES,
}
NEED_TIME = ("direction", "order", "event", "spatial", "state")
SPLITS = {"test": range(0, 10_000), "validation": range(10_000, 20_000), "train": range(20_000, 2**40)}
FRAMES_PER_SECOND = 4
_OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}


def make_clip(seed: int, frames: int | None = None) -> tuple[Clip, list[Sample]]:
    """Make a clip of the generated world and one question of every kind that it can answer.

    Parameters
    ----------
    seed : at least 0; 0 to 9,999 are test clips, 10,000 to 19,999 validation, the rest training.
    frames : 8 to 32, or None to let the seed choose (more than half of the clips have 16 or more).

    Returns
    -------
    The clip, 112x112 pixels at 4 frames a second, and its samples, with `clip` (a name made of the seed), `question`,
    `answer`, `kind`, `candidates`, the answers that this kind can have, `frames`, and `evidence`: for each thing that
    the question is about, the (frame, patch) pairs of the 14x14 patches a frame that show what it asks for.

    Examples
    --------
    >>> clip, samples = make_clip(7)
    >>> clip.frames.shape[1:], sorted(samples[0])
    ((112, 112, 3), ['answer', 'candidates', 'clip', 'evidence', 'frames', 'kind', 'question'])
    """
    if type(seed) is not int or not 0 <= seed < 1 << 63:
        raise VTCError(f"the seed of a clip is {seed!r:.60}; it must be a whole number, at least 0 and below 2**63")
    if frames is not None and not 8 <= frames <= 32:
        raise VTCError(f"a clip of {frames!r:.60} frames was asked for; the generated world has 8 to 32")
    scene, rng = scene_of(seed, frames)
    name = f"seed-{seed:05d}"
    samples: list[Sample] = []
    for kind, same in itertools.groupby(questions(scene, rng), key=lambda entry: entry[0]):
        choice = list(same)
        _, question, answer, things = choice[rng.integers(len(choice))]
        sample: Sample = {"clip": name, "question": question, "answer": answer, "kind": kind}
        cells = [evidence(scene, kind, thing) for thing in things]
        samples.append({**sample, "candidates": ANSWERS[kind], "evidence": cells, "frames": len(scene.frames)})
    return Clip(scene.frames, np.arange(len(scene.frames)) / FRAMES_PER_SECOND, name, "generated"), samples


def scene_of(seed: int, frames: int | None = None) -> tuple[Scene, np.random.Generator]:
    """Return the scene of a seed, and the generator to go on with; training also asks for fewer than 8 frames."""
    rng = np.random.default_rng(seed)
    lengths = [8, int(rng.integers(9, 16)), 16, int(rng.integers(17, 33))]
    drawn = int(rng.choice(lengths, p=[0.15, 0.25, 0.3, 0.3]))
    return draw_scene(rng, frames or drawn), rng


def questions(scene: Scene, rng: np.random.Generator) -> list[tuple[str, str, str, tuple[int, ...]]]:
    """Return every (kind, question, answer, things asked about) that can be told from what is visible, by kind."""
    count, number = len(scene.frames), len(scene.shape)
    clear = scene.visible >= 0.6
    colour, shape = [list(COLOURS)[i] for i in scene.colour], [SHAPES[i] for i in scene.shape]

    def name(i: int) -> str:
        return f"the {shape[i]}" if rng.random() < 0.5 else f"the {colour[i]} object"

    asked: list[tuple[str, str, str, tuple[int, ...]]]
    asked = [("colour", f"what colour is the {shape[i]} ?", colour[i], (i,)) for i in range(number)]
    asked += [("shape", f"what shape is the {colour[i]} object ?", shape[i], (i,)) for i in range(number)]
    asked.append(("count", "how many objects appear ?", NUMBERS[number - 1], tuple(range(number))))
    for i in range(number):
        heading = scene.heading[i]
        if heading and can_tell_heading(scene, i):
            asked.append(("direction", f"which way does {name(i)} move ?", heading, (i,)))
    gap = max(2, count // 8) if count >= 8 else 1
    for i, j in itertools.permutations(range(number), 2):
        known = all(clear[k, scene.start[k]] and clear[k, scene.middle] for k in (i, j)) or count < 4
        if abs(scene.start[i] - scene.start[j]) >= gap and known:
            answer = "before" if scene.start[i] < scene.start[j] else "after"
            asked.append(("order", f"does {name(i)} appear before or after {name(j)} ?", answer, (i, j)))
    if scene.flash is not None and (scene.owner == FLASH).any():
        asked.append(("event", "what colour is the flash ?", list(COLOURS)[scene.flash], (FLASH,)))
    if scene.dot is not None and (scene.owner == DOT).any():
        asked.append(("detail", "what colour is the dot ?", list(COLOURS)[scene.dot], (DOT,)))
    if scene.relation and clear[:2, -1].all():
        asked.append(("spatial", f"where is {name(0)} from {name(1)} at the end ?", scene.relation, (0, 1)))
        asked.append(("spatial", f"where is {name(1)} from {name(0)} at the end ?", _OPPOSITE[scene.relation], (0, 1)))
    for i in range(number):
        if count > 1 and clear[i, scene.middle] and (clear[i, -1] or scene.fate[i] == "leaves"):
            asked.append(("state", f"what happens to {name(i)} ?", scene.fate[i], (i,)))
    return asked


def can_tell_heading(scene: Scene, i: int) -> bool:
    """Say if object i is seen long enough to tell where it goes: 8 pixels of movement, or half of the frames."""
    times = np.flatnonzero((scene.visible[i] >= 0.6) & (np.arange(len(scene.frames)) >= scene.cut))
    if len(times) < 2:
        return False
    path = scene.position[i, times[-1]] - scene.position[i, times[0]]
    return len(times) >= len(scene.frames) / 2 if scene.heading[i] == "nowhere" else abs(path).max() >= 8
