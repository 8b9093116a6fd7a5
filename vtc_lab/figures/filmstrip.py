"""Pictures of a reduction: the filmstrip, as pixels for a page without widgets and as a figure for a paper."""

import io
import math
import textwrap
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from PIL import Image

from vtc_lab.figures.export import Picture, attach
from vtc_lab.figures.marks import legend_below
from vtc_lab.figures.style import HUES, ORANGE, SMALL, figure_size, letters, paper_style
from vtc_lab.reducers.registry import METHODS
from vtc_lab.tokens import Clip, Reduction, VTCError, demand

_HUES = np.rint([np.multiply(to_rgb(hue), 255) for hue in HUES])
_FACE = 900  # pixels across, of the picture where widgets do not live
_TILE = 0.66  # inches of a frame in a figure, at least
_SWATCH: dict[str, Any] = {"edgecolor": "black", "linewidth": 0.4}
_FATES = {  # the legend's words, which begin with the fate, and its swatch
    "kept": Patch(facecolor="#dddddd", **_SWATCH),
    "merged into the token with a dot of this tint": (
        Patch(facecolor=ORANGE, alpha=0.7, **_SWATCH),
        Line2D([], [], color=ORANGE, marker="o", markersize=3.5, markeredgecolor="black", linestyle=""),
    ),
    "dropped": Patch(facecolor="#4a4a4a", hatch="//////", **_SWATCH | {"edgecolor": "#a0a0a0"}),
}


def show(clip: Clip, *reductions: Reduction, venue: str = "neurips", width: str = "text") -> Picture:
    """Draw what each reduction keeps of a clip, with its notes.

    The table attached has a row for each frame: method, frame, seconds, kept (patches that anchor an output token),
    merged (patches that went into another one's token), dropped.

    Parameters
    ----------
    clip : the T frames.
    reductions : one or more of its tokens, drawn one under the other.
    venue, width : as in `figure_size`.

    Examples
    --------
    >>> import vtc_lab as vtc
    >>> clip = Clip(np.zeros((4, 32, 32, 3), np.uint8), np.arange(4.0))
    >>> tokens = vtc.load_encoder("pixels").encode(clip)
    >>> figure = show(clip, vtc.reduce(tokens, "uniform", ratio=2))
    >>> figure.vtc["data"][["kept", "dropped"]].values.tolist()
    [[196, 0], [0, 196], [0, 196], [196, 0]]
    """
    if not reductions:
        raise VTCError("there is no reduction to show; give at least one, made by vtc.reduce")
    data = pd.concat([patch_table(clip, reduction) for reduction in reductions], ignore_index=True)
    inches, _ = figure_size(venue, width)
    rows = math.ceil(len(clip) / min(8, int(inches / _TILE)))
    columns = math.ceil(len(clip) / rows)
    wide = inches / columns
    tall = wide * clip.frames.shape[1] / clip.frames.shape[2]
    lines = [(f"{describe(r)}: {r.ledger}", "; ".join(r.notes)) for r in reductions]
    headers = [[part for line in pair for part in textwrap.wrap(line, int(inches * 20))] for pair in lines]
    below = [[[time, *textwrap.wrap(fate, letters(wide))] for time, fate in captions(clip, r)] for r in reductions]
    deep = [rows * (tall + 0.07 + 0.125 * max(map(len, each))) for each in below]
    heights = [0.16 * len(header) + 0.08 + depth for header, depth in zip(headers, deep, strict=True)]
    with paper_style():
        pads = ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.02, wspace=0.01, hspace=0.01)
        figure = Picture(figsize=(inches, sum(heights)), layout=pads)
        panels = figure.subfigures(len(reductions), 1, squeeze=False, height_ratios=heights).ravel()
        for panel, reduction, header, captioned in zip(panels, reductions, headers, below, strict=True):
            panel.suptitle("\n".join(header), fontsize=7, x=0.005, ha="left")
            axes = panel.subplots(rows, columns, squeeze=False).ravel()
            for axis in axes:
                axis.set_axis_off()
            tiles = draw_frames(clip, reduction, max(round(300 * wide), 4 * reduction.grid[2]))
            for axis, picture, caption in zip(axes, tiles, captioned, strict=False):
                axis.imshow(picture, interpolation="none", aspect="equal")
                axis.set_title("\n".join(caption), fontsize=SMALL, pad=2.5)
        legend_below(figure, {words: look for words, look in _FATES.items() if data[words.split()[0]].any()})
    return attach(figure, data, clip=clip, reductions=list(reductions))


def describe(reduction: Reduction) -> str:
    """Return the method and its options where they differ from the defaults, in one line."""
    name = reduction.method or "a reduction made by hand"
    defaults = METHODS[name].defaults if name in METHODS else {}
    changed = [f"{k}={v}" for k, v in reduction.options.items() if k != "ratio" and v != defaults.get(k)]
    return f"{name} ({', '.join(changed)})" if changed else name


def patch_table(clip: Clip, reduction: Reduction) -> pd.DataFrame:
    """Return how many patches of each frame were kept, merged and dropped, one row a frame."""
    demand_same_frames(clip, reduction)
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


def captions(clip: Clip, reduction: Reduction) -> list[tuple[str, str]]:
    """Return for each frame its time and what became of its patches, in words."""
    lines = []
    for row in patch_table(clip, reduction).to_dict("records"):
        fates = {name: row[name] for name in ("kept", "merged", "dropped")}
        whole = [name for name, count in fates.items() if count == sum(fates.values())]
        parts = [f"{count} {name}" for name, count in fates.items() if count and name != "dropped"]
        lines.append((f"{row['seconds']:.2f} s", f"all {whole[0]}" if whole else ", ".join(parts)))
    return lines


def face(clip: Clip, *reductions: Reduction) -> bytes:
    """Return `show` as a small PNG, for where no widget can live."""
    data = io.BytesIO()
    with Image.open(io.BytesIO(show(clip, *reductions)._repr_png_())) as image:
        image.thumbnail((_FACE, 10 * _FACE))
        image.convert("RGB").quantize(128).save(data, "png", optimize=True)
    return data.getvalue()


def draw_frames(clip: Clip, reduction: Reduction, width: int) -> np.ndarray:
    """Return the clip's frames with the fate of every patch (see `PATCHES`) drawn in, (T, height, width, 3) uint8.

    `width` is in pixels, rounded down to whole pixels a patch; the grid is stretched over the frame.
    """
    demand_same_frames(clip, reduction)
    frames, rows, columns = reduction.grid
    wide = max(2, width // columns)
    tall = max(2, round(wide * columns * clip.frames.shape[1] / clip.frames.shape[2] / rows))
    kept, assign = _states(reduction)
    dropped = assign < 0
    anchor = reduction.anchor.cpu().numpy()
    members = np.bincount(assign[~dropped], minlength=len(anchor))
    # What was dropped has -1 and so the last entry, which stands for no group: there may be no group at all.
    merged = np.append(members, 0)[assign] > 1
    colour = np.append(_group_colours(anchor, members, reduction.grid), np.zeros((1, 3), np.uint8), 0)[assign]

    # Pixels as (frame, patch row, y, patch column, x, RGB): new = frame * gain / 256 + tint, constant over a patch.
    shown, means = _thumbnails(clip, rows, tall, columns, wide)
    gain = np.full(kept.shape, 256, np.uint16)
    gain[merged & ~kept] = 0
    gain[dropped] = 70
    flat = 0.2 * colour + 0.8 * _group_means(means, assign)
    tint = np.where((merged & ~kept)[..., None], flat, np.where(dropped, 40, 0)[..., None])
    picture = shown * gain[:, :, None, :, None, None]
    picture >>= 8
    picture += tint.astype(np.uint16)[:, :, None, :, None]
    picture = picture.astype(np.uint8)
    step = max(6, columns * wide // 20)
    ramp = np.arange(rows * tall).reshape(rows, tall, 1, 1) + np.arange(columns * wide).reshape(columns, wide)
    lit = (ramp % step < max(1, step // 6)) & dropped[:, :, None, :, None]
    picture[lit] = picture[lit] // 2 + 84
    if min(tall, wide) >= 7:  # on smaller patches lines would hide the picture
        # A line between patches that went different ways, so that groups of one colour stay apart.
        label = np.where(merged, assign, -1)
        down = np.diff(label, axis=1, prepend=label[:, :1]) != 0
        across = np.diff(label, axis=2, prepend=label[:, :, :1]) != 0
        picture[:, :, 0] //= (1 + down[:, :, :, None, None]).astype(np.uint8)
        picture[:, :, :, :, 0] //= (1 + across[:, :, None, :, None]).astype(np.uint8)
    frame, y, x = (merged & kept).nonzero()
    rim, core = _dots(tall, wide)
    for mask, ink in ((rim, np.zeros(3, np.uint8)), (core, colour[frame, y, x][:, None])):
        dy, dx = mask.nonzero()
        picture[frame[:, None], y[:, None], dy, x[:, None], dx] = ink
    return picture.reshape(frames, rows * tall, columns * wide, 3)


def demand_same_frames(clip: Clip, reduction: Reduction) -> None:
    """Raise a VTCError for a clip of another number of frames than the reduction."""
    demand(Clip, clip)
    demand(Reduction, reduction)
    if len(clip) != reduction.grid[0]:
        raise VTCError(
            f"the clip has {len(clip)} frames and the reduction {reduction.grid[0]}; show a clip with its own "
            f"reduction, or vtc.one_each(clip, {reduction.grid[0]}) where a token is of several frames"
        )


def _states(reduction: Reduction) -> tuple[np.ndarray, np.ndarray]:
    """Return (T, h, w) bool, kept or not, and (T, h, w) int, the output that each token went into."""
    return reduction.kept.cpu().numpy(), reduction.assign.view(reduction.grid).cpu().numpy()


def _group_colours(anchor: np.ndarray, members: np.ndarray, grid: tuple[int, int, int]) -> np.ndarray:
    """Return (K, 3) uint8: one hue for the groups anchored in a frame, shaded in turns so that neighbours differ."""
    frames, height, width = grid
    frame, place = np.divmod(anchor, height * width)
    order = np.cumsum(np.bincount(frame[members > 1], minlength=frames) > 0) - 1  # a lone token needs no colour
    shade = 0.8 + 0.2 * ((place // width + place % width) % 2)
    return (_HUES[order[frame] % len(_HUES)] * shade[:, None]).astype(np.uint8)


def _group_means(patches: np.ndarray, assign: np.ndarray) -> np.ndarray:
    """Return for each of (T, h, w, 3) patches the mean colour of all that went into the same output."""
    group = assign.ravel() + 1  # those that were dropped are a group of their own
    sums = np.stack([np.bincount(group, channel.ravel()) for channel in np.moveaxis(patches, -1, 0)], axis=1)
    return (sums / np.bincount(group).clip(1)[:, None])[group].reshape(patches.shape)


@lru_cache(maxsize=2)
def _thumbnails(clip: Clip, rows: int, tall: int, columns: int, wide: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the frames in patches, (T, rows, tall, columns, wide, 3) uint16, and the (T, rows, columns, 3) means."""
    size = (columns * wide, rows * tall)
    frames = [np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX)) for frame in clip.frames]
    patches = np.stack(frames).astype(np.uint16).reshape(-1, rows, tall, columns, wide, 3)
    return patches, patches.mean((2, 4))


def _dots(tall: int, wide: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (tall, wide) bool masks of the dark rim and of the core of a patch's dot."""
    y, x = np.arange(tall)[:, None] - (tall - 1) / 2, np.arange(wide) - (wide - 1) / 2
    radius = max(0.75, min(tall, wide) / 6)
    distance = np.hypot(y, x)
    return distance <= radius + 0.8, distance <= radius
