"""A small generated world: coloured shapes that appear, move, stop, cross, hide, change and leave.

A scene is drawn from one seed, so any clip can be made again. Most of a frame is background, as in real video, and
things happen over several frames. The camera stands still, pans, or cuts to another place. What the middle frame shows
is drawn before, and independently of, what the questions about time ask for: where an object moves, what becomes of it,
which of two came first and where they end up cannot be read from one frame.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np

SIDE = 112
CELL = 8  # pixels of a side of the patch that one visual token shows
SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {
    "red": (215, 45, 45),
    "green": (45, 175, 65),
    "blue": (50, 85, 225),
    "yellow": (230, 210, 55),
    "purple": (165, 65, 195),
    "cyan": (60, 205, 215),
}
HEADINGS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0), "nowhere": (0, 0)}
RELATIONS = {"left": (0, -1), "right": (0, 1), "above": (-1, 0), "below": (1, 0)}
FATES = ("grows", "shrinks", "darkens", "leaves", "nothing")
PILLAR, DOT, FLASH, BACKGROUND = 3, 4, 5, 6  # owners of a pixel, after the up to three objects 0, 1, 2

_PALETTE = np.array(list(COLOURS.values()), np.float32)
_REACH = 22.0  # how far an object may be from its place in the middle frame, in pixels
_PAN = 16.0  # how far a pan goes
_MARGIN = 20  # of background beyond the frame


@dataclass(frozen=True)
class Scene:
    """The ground truth of a clip of T frames with n objects."""

    frames: np.ndarray  # (T, 112, 112, 3) uint8, before video compression
    owner: np.ndarray  # (T, 112, 112) uint8, the object, or PILLAR, DOT, FLASH, BACKGROUND, that each pixel shows
    shape: tuple[int, ...]  # indices into SHAPES, one per object; no two objects share one
    colour: tuple[int, ...]  # indices into COLOURS, likewise
    position: np.ndarray  # (n, T, 2) float, the centre (y, x) in the picture, also where the object is not present
    radius: np.ndarray  # (n, T) float, in pixels
    visible: np.ndarray  # (n, T) float, the share of the object's area that can be seen, 0 where it is not present
    heading: tuple[str | None, ...]  # the name of each object's direction, None for the two that change places
    fate: tuple[str, ...]  # what becomes of each object after the middle frame
    changed: np.ndarray  # (n, T) bool, true once that has happened
    start: tuple[int, ...]  # the frame in which each object appears
    relation: str | None  # where object 0 is from object 1 in the last frame, None if these two do not change places
    flash: int | None  # index of the colour
    dot: int | None  # index of the colour
    cut: int  # the frame in which the camera cuts to another place, 0 for no cut

    @property
    def middle(self) -> int:
        """Return the index of the middle frame."""
        return middle_frame(len(self.frames))

    def sampled(self, index: np.ndarray) -> Scene:
        """Return the scene as some of its frames, in order, show it."""
        chosen = {name: getattr(self, name)[index] for name in ("frames", "owner")}
        chosen |= {name: getattr(self, name)[:, index] for name in ("position", "radius", "visible", "changed")}
        start = tuple(int(at) for at in np.searchsorted(index, self.start))
        return replace(self, start=start, cut=int(np.searchsorted(index, self.cut)), **chosen)


def middle_frame(count: int) -> int:
    """Return the frame that must not give away the answers about time; clips under 4 frames have none."""
    return count // 2 if count >= 4 else 0


def draw_scene(rng: np.random.Generator, count: int) -> Scene:
    """Draw scenes of `count` frames until every object of one can be seen, and return that one."""
    while True:
        scene = _draw(rng, count)
        if ((scene.visible >= 0.6).sum(1) >= min(2, count)).all():
            return scene


def _draw(rng: np.random.Generator, count: int) -> Scene:
    number = int(rng.integers(1, 4))
    shape, colour = rng.permutation(len(SHAPES))[:number], rng.permutation(len(COLOURS))[:number]
    middle = middle_frame(count)
    time = np.arange(count)
    position, heading, relation = _motion(rng, number, count, middle)
    camera, cut = _camera(rng, count, middle)
    if cut:  # the earlier shot shows the same objects elsewhere, nearer to the other side of the frame
        away = rng.uniform(14, 26, 2) * np.where(position[:, middle].mean(0) > SIDE / 2, -1, 1)
        position[:, :cut] += away
    position = np.round(position * 4) / 4

    start = np.where(rng.random(number) < 0.35, 0, rng.integers(0, max(middle, 1), number))
    if cut and rng.random() < 0.5:
        start[rng.integers(number)] = cut
    fate = [FATES[i] for i in rng.integers(0, len(FATES), number)] if count > 1 else ["nothing"] * number
    change = rng.integers(min(middle + 1, count - 1), max(middle + 2, count - count // 8), number)
    changed = time >= change[:, None]
    present = time >= start[:, None]
    base = rng.uniform(5.5, 8.0, number)
    radius, shade = np.repeat(base[:, None], count, 1), np.ones((number, count), np.float32)
    for i, name in enumerate(fate):
        if name == "leaves":
            present[i] &= ~changed[i]
        elif name == "darkens":
            shade[i, changed[i]] = 0.42
        elif name != "nothing":
            radius[i, changed[i]] *= 1.5 if name == "grows" else 0.62
    radius = np.round(radius * 4) / 4

    frames = _background(rng, camera)
    if cut:
        frames[:cut] = _background(rng, camera[:cut])
    owner = np.full((count, SIDE, SIDE), BACKGROUND, np.uint8)
    tint = _PALETTE[colour] + rng.uniform(-14, 14, (number, 3)).astype(np.float32)
    texture = rng.integers(0, 3, number)
    area = np.zeros((number, count))
    for i in rng.permutation(number):
        for t in np.flatnonzero(present[i]):
            mask = _mask(SHAPES[shape[i]], radius[i, t], *(position[i, t] % 1))
            area[i, t] = (mask > 0.5).sum()
            paint = _texture(texture[i], len(mask)) * tint[i] * shade[i, t]
            _paint(frames[t], owner[t], mask, position[i, t], paint, i)
    _pillar(rng, frames, owner, camera)
    seen = np.stack([(owner == i).sum((1, 2)) for i in range(number)])
    dot = _dot(rng, frames, owner, camera)
    flash = _flash(rng, frames, owner, middle)
    frames += _noise()[rng.integers(0, len(_noise()), count)] * rng.uniform(1, 3)
    return Scene(
        frames=frames.clip(0, 255).astype(np.uint8),
        owner=owner,
        shape=tuple(map(int, shape)),
        colour=tuple(map(int, colour)),
        position=position,
        radius=radius,
        visible=seen / area.clip(min=1),
        heading=tuple(heading),
        fate=tuple(fate),
        changed=changed,
        start=tuple(map(int, start)),
        relation=relation,
        flash=flash,
        dot=dot,
        cut=cut,
    )


@cache
def _noise() -> np.ndarray:
    """Return sixteen frames of the noise that a sensor adds."""
    return np.random.default_rng(20250131).standard_normal((16, SIDE, SIDE, 3), dtype=np.float32)


def _camera(rng: np.random.Generator, count: int, middle: int) -> tuple[np.ndarray, int]:
    """Return how far the background has moved in each frame, (T, 2) pixels, and the frame of a cut, 0 for none."""
    kind = rng.random()
    angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.4, 1) * _PAN * (0.45 < kind < 0.75)
    way = np.array([np.sin(angle), np.cos(angle)]) * length / max(count - 1, 1)
    cut = int(rng.integers(max(2, middle // 2), middle)) if kind >= 0.75 and count >= 8 else 0
    return np.round(np.outer(np.arange(count) - middle, way)).astype(int), cut


def _motion(
    rng: np.random.Generator, number: int, count: int, middle: int
) -> tuple[np.ndarray, list[str | None], str | None]:
    """Return centres (n, T, 2); the first two objects change places in 60 % of the clips that have two."""
    position = np.empty((number, count, 2))
    heading: list[str | None] = [None] * number
    relation = None
    trading = number >= 2 and rng.random() < 0.6
    last = count - 1 - middle  # frames after the middle
    if trading:
        relation = list(RELATIONS)[rng.integers(4)]
        earlier = [list(RELATIONS)[rng.integers(4)], list(RELATIONS)[rng.integers(4)]]
        sides = np.array([RELATIONS[name] for name in [*earlier, relation]])
        apart = sides * rng.uniform(16, 34, (3, 1)) + rng.uniform(-5, 5, (3, 2))
        centre = rng.uniform(34, SIDE - 34, 2) + rng.uniform(-6, 6, (3, 2))
        # They rest where they end up, so that the end is more than the last frame.
        knots = [0, middle, middle + np.ceil(0.7 * last), count - 1]
        for i, sign in enumerate((0.5, -0.5)):
            points = (centre + sign * apart)[[0, 1, 2, 2]]
            if count == 1:
                position[i] = points[2]
            elif middle == 0:
                position[i] = np.linspace(points[1], points[2], count)
            else:
                position[i] = np.stack([np.interp(np.arange(count), knots, points[:, axis]) for axis in (0, 1)], -1)
    for i in range(2 if trading else 0, number):
        heading[i], direction = list(HEADINGS.items())[rng.integers(len(HEADINGS))]
        place = rng.uniform(_REACH + 4, SIDE - _REACH - 4, 2)
        before = int(rng.integers(np.ceil(0.6 * middle), middle + 1))
        after = int(rng.integers(np.ceil(0.6 * last), last + 1))
        speed = _REACH / max(before, after, 1) * rng.uniform(0.5, 1.0)
        progress = np.clip(np.arange(count) - middle, -before, after) * speed
        position[i] = place + progress[:, None] * np.array(direction)
    return position, heading, relation


@cache
def _mask(shape: str, radius: float, down: float, right: float) -> np.ndarray:
    """Return the coverage of a shape centred (down, right), parts of a pixel, from the middle pixel of the window."""
    half = int(np.ceil(radius * 1.15)) + 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(float)
    y, x = y - down, x - right
    if shape == "circle":
        distance = np.hypot(x, y) - radius
    elif shape == "square":
        distance = np.maximum(abs(x), abs(y)) - 0.88 * radius
    elif shape == "triangle":
        distance = np.maximum((1.85 * abs(x) - 1.1 * (y + 1.1 * radius)) / 2.152, y - 0.75 * radius)
    elif shape == "cross":
        distance = _plus(x, y, radius, 0.36 * radius)
    else:
        distance = np.minimum(_plus(x, y, radius, 0.8), _plus((x + y) / 2**0.5, (x - y) / 2**0.5, radius, 0.8))
    return (0.5 - distance).clip(0, 1).astype(np.float32)


def _plus(x: np.ndarray, y: np.ndarray, length: float, width: float) -> np.ndarray:
    return np.minimum(
        np.maximum(abs(x) - length, abs(y) - width),
        np.maximum(abs(y) - length, abs(x) - width),
    )


@cache
def _texture(kind: int, side: int) -> np.ndarray:
    """Return the brightness (side, side, 1): plain, striped or checked."""
    y, x = np.mgrid[:side, :side]
    dark = (np.zeros((side, side), int), y // 2 % 2, (y // 3 + x // 3) % 2)[kind]
    return (1 - 0.35 * dark[..., None]).astype(np.float32)


def _paint(
    frame: np.ndarray, owner: np.ndarray, mask: np.ndarray, place: np.ndarray, colour: np.ndarray, who: int
) -> None:
    half = len(mask) // 2
    y, x = int(place[0] // 1) - half, int(place[1] // 1) - half
    top, left, bottom, right = max(y, 0), max(x, 0), min(y + len(mask), SIDE), min(x + len(mask), SIDE)
    if top >= bottom or left >= right:
        return
    window = slice(top - y, bottom - y), slice(left - x, right - x)
    part = mask[window]
    under = frame[top:bottom, left:right]
    under += part[..., None] * ((colour[window] if colour.ndim == 3 else colour) - under)
    owner[top:bottom, left:right][part > 0.5] = who


@cache
def _upsample(cells: int) -> np.ndarray:
    """Return the (side, cells) matrix that interpolates a row of cells linearly."""
    at = np.linspace(0, cells - 1, SIDE + 2 * _MARGIN)
    return np.maximum(0, 1 - abs(at[:, None] - np.arange(cells))).astype(np.float32)


def _background(rng: np.random.Generator, camera: np.ndarray) -> np.ndarray:
    """Return dull, uneven ground that slides under the camera, (T, 112, 112, 3) float32."""
    cells = int(rng.integers(3, 12))
    grey = rng.uniform(35, 165) + rng.uniform(5, 25) * rng.standard_normal((cells, cells, 1))
    coarse = (grey + rng.uniform(-10, 10, 3) + 5 * rng.standard_normal((cells, cells, 3))).astype(np.float32)
    matrix = _upsample(cells)
    ground = np.moveaxis(matrix @ np.moveaxis(coarse, -1, 0) @ matrix.T, 0, -1)
    if rng.random() < 0.4:
        y, x = np.mgrid[: len(ground), : len(ground)]
        ground += rng.uniform(4, 14) * (((y * rng.integers(0, 2) + x) // rng.integers(3, 9)) % 2)[..., None]
    return np.stack([ground[_MARGIN - y : _MARGIN - y + SIDE, _MARGIN - x : _MARGIN - x + SIDE] for y, x in camera])


def _pillar(rng: np.random.Generator, frames: np.ndarray, owner: np.ndarray, camera: np.ndarray) -> None:
    """Paint a grey bar into the foreground of a quarter of the clips, behind which objects hide."""
    if rng.random() >= 0.25:
        return
    grey, place, width = rng.uniform(60, 200), rng.integers(4, SIDE - 12), rng.integers(5, 10)
    upright = rng.random() < 0.5
    for t, (down, right) in enumerate(camera):
        low = max(place + (right if upright else down), 0)
        part = (slice(None), slice(low, low + width)) if upright else slice(low, low + width)
        frames[t][part] = grey
        owner[t][part] = PILLAR


def _dot(rng: np.random.Generator, frames: np.ndarray, owner: np.ndarray, camera: np.ndarray) -> int | None:
    """Paint a dot of 3x3 pixels with a dark rim, in front of everything, in two thirds of the clips."""
    if rng.random() >= 0.65:
        return None
    colour = int(rng.integers(len(COLOURS)))
    place = rng.integers(_MARGIN, SIDE - _MARGIN, 2)
    for t, shift in enumerate(camera):
        y, x = place + shift
        frames[t, y - 2 : y + 3, x - 2 : x + 3] *= 0.3
        frames[t, y - 1 : y + 2, x - 1 : x + 2] = _PALETTE[colour]
        owner[t, y - 1 : y + 2, x - 1 : x + 2] = DOT
    return colour


def _flash(rng: np.random.Generator, frames: np.ndarray, owner: np.ndarray, middle: int) -> int | None:
    """Paint a burst of thin rays in two thirds of the clips, for up to a quarter of the frames, not the middle one."""
    if rng.random() >= 0.65:
        return None
    colour = int(rng.integers(len(COLOURS)))
    place = np.round(rng.uniform(9, SIDE - 9, 2))
    count = len(frames)
    length = int(rng.integers(max(2, count // 8), max(2, count // 4) + 1)) if count >= 8 else 1
    firsts = [t for t in range(count - length + 1) if count < 4 or not t <= middle < t + length]
    first = firsts[rng.integers(len(firsts))]
    for t in range(first, first + length):
        _paint(frames[t], owner[t], _mask("flash", 7.0, 0.0, 0.0), place, _PALETTE[colour], FLASH)
    return colour
