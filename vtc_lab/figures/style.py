"""The look of figures for papers: sizes that fit a venue's page, one style, and one look for each method."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from cycler import cycler
from matplotlib.colors import to_hex, to_rgb

from vtc_lab.reducers.registry import is_ceiling
from vtc_lab.tokens import demand_one_of

VENUES = {  # widths in inches of one column and of the page's whole text
    "cvpr": (3.281, 6.875),
    "iccv": (3.281, 6.875),
    "eccv": (4.803, 4.803),
    "neurips": (5.5, 5.5),
    "iclr": (5.5, 5.5),
    "icml": (3.25, 6.75),
    "acl": (3.03, 6.30),
    "aaai": (3.3125, 7.0),
}

# Okabe and Ito's colours. Their yellow is lost on white paper, so only pictures use it.
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
HUES = (ORANGE, SKY, GREEN, "#F0E442", BLUE, VERMILION, PURPLE)  # of groups of merged patches
GREY = "#777777"  # of the names of baselines
PATCHES = "Unchanged: kept. Dark and hatched: dropped. Flat and tinted: merged into the patch with a dot of that tint."
SMALL = 6  # points, of titles of panels and of notes

_COLORS = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY)
# 6 colours and 13 markers have no factor in common: counting through both at once repeats no pair for 78 methods.
_MARKERS = ("o", "^", "D", "v", "P", "*", "<", ">", "p", "h", "8", "d", "H")
# 6 dashes: of two methods with one colour, of any 36 in a row, both dash and marker differ.
_DASHES = ("-", (0, (5, 1.5)), (0, (4, 1.5, 1, 1.5)), (0, (1.5, 1)), (0, (4, 1, 1, 1, 1, 1)), (0, (8, 1.5, 2, 1.5)))
BASELINES: dict[str, dict[str, Any]] = {  # grey: every figure compares against them
    "uniform": {"color": "#555555", "marker": "s", "linestyle": "--"},
    "random": {"color": "#999999", "marker": "x", "linestyle": ":"},
    "random-per-frame": {"color": "#999999", "marker": "+", "linestyle": "-."},
    "pool": {"color": "#555555", "marker": "X", "linestyle": (0, (1, 2.5))},
    "downscale": {"color": "#999999", "marker": "1", "linestyle": (0, (6, 2))},
    "random-inside": {"color": "#999999", "marker": "2", "linestyle": (0, (3, 1, 1, 1))},
    "uniform-inside": {"color": "#555555", "marker": "3", "linestyle": (0, (6, 1, 2, 1))},
}
CEILING: dict[str, Any] = {"color": "#B2182B", "marker": "", "linestyle": (0, (2.5, 1)), "linewidth": 1.1}
# These set variants of one method apart: 6 dashes, 3 fills and 5 shades repeat no triple for 30 variants.
_FILLS = ("full", "none", "bottom")
_SHADES = (0, 0.45, -0.45, 0.25, -0.25)  # towards white, or towards black
# The place in this list is the look: append, never reorder.
_ROSTER = ["lftr", "tome", "visionzip", "prumerge", "dycoke", "dtd", "evs", "vidcom2", "divprune", "fastvid"]
_ROSTER += ["holitom", "sttm", "framefusion", "flashvid", "pyramiddrop", "sparsevlm", "gleanvid", "prunevid", "fastv"]
_ROSTER += ["earlytom", "infomerge", "v-cast", "aot", "mmg-vid", "unicomp", "unified", "metom", "look-m", "st-simdiff"]
_ROSTER += ["ttf", "stc", "sparsevlm-plus", "prunevid-inner", "holitom-inner", "flashvid-inner", "framefusion-inner"]
_ROSTER += ["unified-text-merge", "dycoke-dp"]

_STYLE = matplotlib.rc_params_from_file(Path(__file__).with_name("paper.mplstyle"), use_default_template=False)
_STYLE["axes.prop_cycle"] = cycler(color=[*_COLORS, "#000000"])
_WRITING = {key: value for key, value in _STYLE.items() if key.startswith(("pdf.", "svg.", "savefig."))}
# matplotlib's settings belong to the whole process, so one thread at a time may change them.
_LOCK = threading.RLock()


def figure_size(venue: str = "cvpr", width: str = "column", aspect: float = 0.62) -> tuple[float, float]:
    """Return the (width, height) in inches of a "column" or of all the "text" of a venue; `aspect` is height / width.

    >>> figure_size("icml", "text", aspect=0.5)
    (6.75, 3.375)
    """
    key = str(venue).lower()
    demand_one_of("venue", key, VENUES)
    demand_one_of("width", width, ("column", "text"))
    inches = VENUES[key][width == "text"]
    return inches, round(inches * aspect, 3)


def letters(inches: float, points: float = SMALL) -> int:
    """Return how many letters of a size fit into a width."""
    return max(1, int(inches * 155 / points))


@contextmanager
def paper_style() -> Iterator[None]:
    """Draw in the papers' style within a `with` block, one thread at a time; never wait in it for one that draws."""
    with _LOCK, matplotlib.rc_context(_STYLE):
        yield


@contextmanager
def writing() -> Iterator[None]:
    """Apply the settings for writing files alone, to figures that were drawn in a style of their own."""
    with _LOCK, matplotlib.rc_context(_WRITING):
        yield


def role(name: str) -> str:
    """Return "baseline" or "ceiling" for a method that others are held against, and "" for any other."""
    return "baseline" if name in BASELINES else "ceiling" if is_ceiling(name) else ""


def method_style(name: str, variant: int = 0) -> dict[str, Any]:
    """Return the colour, marker and dash of a method, as keywords of matplotlib's `plot`, the same in every figure.

    Baselines are grey, a ceiling such as `oracle` is a dashed line without markers, the published methods have looks of
    their own, and any other name gets one computed from the name alone; two such names could look alike. Variant 0 is
    the method itself; 1, 2 ... are the same method with other options: the hue and marker stay, and the shade, the dash
    and the marker's fill change.

    >>> method_style("lftr", 1)
    {'color': '#73b1d5', 'marker': 'o', 'linestyle': (0, (5, 1.5)), 'fillstyle': 'none'}
    """
    if role(name):
        look = dict(BASELINES.get(name, CEILING))
    else:
        hashed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
        place = _ROSTER.index(name) if name in _ROSTER else hashed
        dash = _DASHES[place // len(_COLORS) % len(_DASHES)]
        look = {"color": _COLORS[place % len(_COLORS)], "marker": _MARKERS[place % len(_MARKERS)], "linestyle": dash}
    if variant:
        dashes = [look["linestyle"], *(dash for dash in _DASHES if dash != look["linestyle"])]
        shade = _SHADES[variant % len(_SHADES)]
        red, green, blue = (part * (1 - abs(shade)) + max(shade, 0) for part in to_rgb(look["color"]))
        look |= {"linestyle": dashes[variant % len(dashes)], "color": to_hex((red, green, blue))}
        look["fillstyle"] = _FILLS[variant % len(_FILLS)]
    return look
