"""Pictures of a reduction: the filmstrip, as pixels for the explorer and as a figure for a paper.

A kept patch looks as it is. A dropped one is dimmed and hatched. A patch that was merged away is tinted in the
colour of its group, and the patch it went into, the anchor, carries a dot of that colour.
"""

from __future__ import annotations

import io
import math
import textwrap
from functools import lru_cache

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from vtc_lab.figures.export import attach
from vtc_lab.figures.style import figure_size, paper_style
from vtc_lab.reducers.registry import get_method, methods
from vtc_lab.tokens import Clip, Reduction, VTCError

# Okabe and Ito's colours without black, told apart by most colour-blind readers
_PALETTE = np.array(
    [(230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167)],
    np.uint8,
)
_GAP = 6
_CAPTION = 18
_TILE_AREA = 16_000  # pixels of a frame in the explorer


def patch_table(clip: Clip, reduction: Reduction) -> pd.DataFrame:
    """What became of every frame's patches, one row a frame.

    Parameters
    ----------
    clip : the T frames.
    reduction : of their tokens.

    Returns
    -------
    DataFrame with columns method, frame, seconds, kept (patches that anchor an output token), merged (patches that
    went into another one's token), dropped.

    Raises
    ------
    VTCError
        If clip and reduction differ in the number of frames.

    Examples
    --------
    >>> import torch, vtc_lab as vtc
    >>> clip = Clip(np.zeros((4, 32, 32, 3), np.uint8), np.arange(4.0))
    >>> reduced = vtc.reduce(vtc.load_encoder("pixels").encode(clip), "uniform", ratio=2)
    >>> patch_table(clip, reduced)[["kept", "dropped"]].values.tolist()
    [[196, 0], [0, 196], [0, 196], [196, 0]]
    """
    _demand_same_clip(clip, reduction)
    kept, assign = _states(reduction)
    dropped = assign < 0
    return pd.DataFrame(
        {
            "method": reduction.method,
            "frame": np.arange(len(clip)),
            "seconds": clip.times,
            "kept": kept.sum((1, 2)),
            "merged": (~kept & ~dropped).sum((1, 2)),
            "dropped": dropped.sum((1, 2)),
        }
    )


def draw_frames(clip: Clip, reduction: Reduction, width: int) -> np.ndarray:
    """The clip's frames with the fate of every patch drawn in.

    Parameters
    ----------
    clip : the T frames.
    reduction : of their tokens; its grid is stretched over the frame.
    width : of a drawn frame in pixels, rounded down to whole pixels a patch.

    Returns
    -------
    (T, height, width, 3) uint8, as near to the aspect of the clip as whole pixels a patch allow.
    """
    _demand_same_clip(clip, reduction)
    frames, rows, columns = reduction.grid
    wide = max(2, width // columns)
    tall = max(2, round(wide * columns * clip.frames.shape[1] / clip.frames.shape[2] / rows))
    kept, assign = _states(reduction)
    dropped = assign < 0
    anchor = reduction.anchor.cpu().numpy()
    members = np.bincount(assign[~dropped], minlength=len(anchor))
    merged = ~dropped & (members[assign.clip(0)] > 1)
    colour = _group_colours(anchor, members, reduction.grid)[assign.clip(0)]

    # Pixels as (frame, patch row, y, patch column, x, RGB): new = frame * gain / 256 + tint, constant over a patch.
    gain = np.full(kept.shape, 256, np.uint16)
    gain[merged & ~kept] = 140
    gain[dropped] = 70
    tint = np.where((merged & ~kept)[..., None], colour * np.float32(0.45), np.where(dropped, 40, 0)[..., None])
    picture = _thumbnails(_Frames(clip), rows, tall, columns, wide) * gain[:, :, None, :, None, None]
    picture >>= 8
    picture += tint.astype(np.uint16)[:, :, None, :, None]
    picture = picture.astype(np.uint8)
    step = max(6, columns * wide // 20)
    ramp = np.arange(rows * tall).reshape(rows, tall, 1, 1) + np.arange(columns * wide).reshape(columns, wide)
    lit = (ramp % step < max(1, step // 6)) & dropped[:, :, None, :, None]
    picture[lit] = picture[lit] // 2 + 84
    # A line between patches that went different ways, so that groups of one colour stay apart.
    label = np.where(merged, assign, -1)
    down, across = (
        np.diff(label, axis=1, prepend=label[:, :1]) != 0,
        np.diff(label, axis=2, prepend=label[:, :, :1]) != 0,
    )
    if min(tall, wide) >= 7:  # on smaller patches lines would hide the picture
        picture[:, :, 0] //= (1 + down[:, :, :, None, None]).astype(np.uint8)
        picture[:, :, :, :, 0] //= (1 + across[:, :, None, :, None]).astype(np.uint8)
    rim, core = _dots(tall, wide)
    frame, y, x = (merged & kept).nonzero()
    for mask, ink in ((rim, np.zeros(3, np.uint8)), (core, colour[frame, y, x][:, None])):
        dy, dx = mask.nonzero()
        picture[frame[:, None], y[:, None], dy, x[:, None], dx] = ink
    return picture.reshape(frames, rows * tall, columns * wide, 3)


def strip(clip: Clip, reduction: Reduction, room: int = 1120) -> bytes:
    """A JPEG of the filmstrip with a caption under every frame, drawn in a few milliseconds.

    Parameters
    ----------
    clip : the T frames.
    reduction : of their tokens.
    room : width of the picture in pixels.

    Returns
    -------
    The file's bytes.
    """
    aspect = clip.frames.shape[2] / clip.frames.shape[1]
    ideal = math.sqrt(_TILE_AREA * aspect)
    columns = min(range(1, len(clip) + 1), key=lambda c: _untidiness(len(clip), c, room / c - _GAP, ideal))
    rows = math.ceil(len(clip) / columns)
    tiles = draw_frames(clip, reduction, min(room // columns - _GAP, round(2 * ideal)))
    height, width = tiles.shape[1] + _CAPTION + _GAP, tiles.shape[2] + _GAP
    sheet = np.full((rows * columns, height, width, 3), 255, np.uint8)
    sheet[: len(clip), : tiles.shape[1], : tiles.shape[2]] = tiles
    page = sheet.reshape(rows, columns, height, width, 3).swapaxes(1, 2).reshape(rows * height, columns * width, 3)
    image = Image.fromarray(page)
    draw, font = ImageDraw.Draw(image), _font()
    for index, text in enumerate(captions(clip, reduction)):
        place = (index % columns * width, index // columns * height + tiles.shape[1] + 2)
        draw.text(place, _fitting(text, tiles.shape[2], font), fill=(40, 40, 40), font=font)
    data = io.BytesIO()
    image.save(data, "jpeg", quality=90, subsampling=0)
    return data.getvalue()


def _fitting(caption: tuple[str, str], room: int, font: ImageFont.FreeTypeFont) -> str:
    """As much of a frame's caption as fits below it: all, time and the first count, or the time."""
    time, counts = caption
    tries = (f"{time}  {counts}", f"{time}  {counts.split(',')[0]}", time)
    return next((text for text in tries if font.getlength(text) <= room), time)


def _untidiness(frames: int, columns: int, width: float, ideal: float) -> float:
    """How far a layout is from tiles of the ideal width and from a full last row."""
    blank = -frames % columns
    return abs(math.log(max(width, 1) / ideal)) + 1.5 * blank / frames


def captions(clip: Clip, reduction: Reduction) -> list[tuple[str, str]]:
    """For each frame its time and what became of it, in words."""
    table = patch_table(clip, reduction)
    lines = []
    for row in table.itertuples():
        fates = {"kept": row.kept, "merged": row.merged, "dropped": row.dropped}
        whole = [name for name, count in fates.items() if count == sum(fates.values())]
        parts = [f"{count} {name}" for name, count in fates.items() if count and name != "dropped"]
        lines.append((f"{row.seconds:.2f} s", f"all {whole[0]}" if whole else ", ".join(parts)))
    return lines


def show(clip: Clip, *reductions: Reduction, venue: str = "neurips", columns: int = 8) -> Figure:
    """A figure of what each reduction keeps of a clip, with its notes, at the text width of a venue.

    Parameters
    ----------
    clip : the T frames.
    reductions : one or more of its tokens, drawn one under the other.
    venue : a name that `figure_size` knows.
    columns : frames beside each other, at least 1.

    Returns
    -------
    matplotlib Figure, ready for `save_figure`; the table behind it is `patch_table`.

    Raises
    ------
    VTCError
        If there is no reduction, one is of another clip, or the venue is unknown.

    Examples
    --------
    >>> import torch, vtc_lab as vtc
    >>> clip = Clip(np.zeros((4, 32, 32, 3), np.uint8), np.arange(4.0))
    >>> tokens = vtc.load_encoder("pixels").encode(clip)
    >>> figure = show(clip, vtc.reduce(tokens, "lftr", ratio=4), vtc.reduce(tokens, "uniform", ratio=4))
    >>> figure.vtc["data"].method.unique().tolist()
    ['lftr', 'uniform']
    """
    if not reductions:
        raise VTCError("there is no reduction to show; give at least one, made by vtc.reduce")
    if type(columns) is not int or columns < 1:
        raise VTCError(f"columns is {columns!r}; it must be a whole number of frames beside each other, at least 1")
    columns = min(columns, len(clip))
    rows = math.ceil(len(clip) / columns)
    width, _ = figure_size(venue, "text")
    small = 36 / columns  # captions as large as the frames leave room for
    tile = width / columns * clip.frames.shape[1] / clip.frames.shape[2]
    lines = [(f"{describe(r)}: {r.ledger}", "; ".join(r.notes)) for r in reductions]
    headers = [[part for line in pair for part in textwrap.wrap(line, int(width * 20))] for pair in lines]
    heights = [0.14 * len(h) + 0.08 + rows * (tile + 2.6 * min(small, 6) / 72) for h in headers]
    with paper_style():
        figure = Picture(figsize=(width, sum(heights)))
        figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)
        panels = np.atleast_1d(figure.subfigures(len(reductions), 1, height_ratios=heights))
        for panel, reduction, header in zip(panels, reductions, headers, strict=True):
            panel.suptitle("\n".join(header), fontsize=7, x=0.005, ha="left")
            axes = panel.subplots(rows, columns, squeeze=False).ravel()
            for axis in axes:
                axis.set_axis_off()
            tiles = draw_frames(clip, reduction, max(round(300 * width / columns), 4 * reduction.grid[2]))
            for axis, picture, caption in zip(axes, tiles, captions(clip, reduction), strict=False):
                axis.imshow(picture, interpolation="none", aspect="equal")
                axis.set_title("\n".join(caption), fontsize=min(small, 6), pad=1.5)
    data = pd.concat([patch_table(clip, reduction) for reduction in reductions], ignore_index=True)
    return attach(figure, data, clip=clip, reductions=list(reductions))


def describe(reduction: Reduction) -> str:
    """The method and its options where they differ from the defaults, in one line."""
    name = reduction.method or "a reduction made by hand"
    known = get_method(name).options if name in methods().index else {}
    defaults = {key: default for key, (_, default) in known.items()}
    changed = [f"{k}={v}" for k, v in reduction.options.items() if k != "ratio" and v != defaults.get(k)]
    return f"{name} ({', '.join(changed)})" if changed else name


def _states(reduction: Reduction) -> tuple[np.ndarray, np.ndarray]:
    """(T, h, w) kept as bool and the output each token went into."""
    return reduction.kept.cpu().numpy(), reduction.assign.view(reduction.grid).cpu().numpy()


def _group_colours(anchor: np.ndarray, members: np.ndarray, grid: tuple[int, int, int]) -> np.ndarray:
    """(K, 3) uint8: one hue for the groups anchored in a frame, shaded in turns so that neighbours differ."""
    frames, height, width = grid
    frame, place = np.divmod(anchor, height * width)
    order = np.cumsum(np.bincount(frame[members > 1], minlength=frames) > 0) - 1  # a lone token needs no colour
    shade = 0.8 + 0.2 * ((place // width + place % width) % 2)
    return (_PALETTE[order[frame] % len(_PALETTE)] * shade[:, None]).astype(np.uint8)


class Picture(Figure):
    """A Figure that a notebook shows without pyplot, which must stay out of widget callbacks."""

    def _repr_png_(self) -> bytes:
        data = io.BytesIO()
        self.savefig(data, format="png", dpi=180)
        return data.getvalue()


class _Frames:
    """A clip as a cache key: two are the same if they share their pixels in memory."""

    def __init__(self, clip: Clip) -> None:
        self.frames = clip.frames

    def __hash__(self) -> int:
        return id(self.frames)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Frames) and self.frames is other.frames


@lru_cache(maxsize=8)
def _thumbnails(clip: _Frames, rows: int, tall: int, columns: int, wide: int) -> np.ndarray:
    """(T, rows, tall, columns, wide, 3) uint16: the frames in patches."""
    size = (columns * wide, rows * tall)
    frames = [np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX)) for frame in clip.frames]
    return np.stack(frames).astype(np.uint16).reshape(-1, rows, tall, columns, wide, 3)


@lru_cache(maxsize=16)
def _dots(tall: int, wide: int) -> tuple[np.ndarray, np.ndarray]:
    """(tall, wide) bool masks of the dark rim and of the core of a patch's dot."""
    y, x = np.arange(tall)[:, None] - (tall - 1) / 2, np.arange(wide) - (wide - 1) / 2
    radius = max(0.75, min(tall, wide) / 6)
    distance = np.hypot(y, x)
    return distance <= radius + 0.8, distance <= radius


@lru_cache(maxsize=1)
def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(12)


def _demand_same_clip(clip: Clip, reduction: Reduction) -> None:
    if len(clip) != reduction.grid[0]:
        raise VTCError(
            f"the clip has {len(clip)} frames and the reduction {reduction.grid[0]}; show a clip with its own "
            f"reduction, or vtc.one_each(clip, {reduction.grid[0]}) where a token is of several frames"
        )
