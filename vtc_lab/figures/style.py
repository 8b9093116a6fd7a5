"""The look of figures for papers: sizes that fit a venue's page, one style, and one look for each method."""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.colors import to_hex, to_rgb

from vtc_lab.tokens import VTCError, suggest

VENUES = {  # widths in inches of one column and of the page's whole text
    "cvpr": (3.281, 6.875),
    "neurips": (5.5, 5.5),
    "icml": (3.25, 6.75),
    "acl": (3.03, 6.30),
    "aaai": (3.3125, 7.0),
}

_STYLE = matplotlib.rc_params_from_file(Path(__file__).with_name("paper.mplstyle"), use_default_template=False)
_WRITING = {key: value for key, value in _STYLE.items() if key.startswith(("pdf.", "svg.", "savefig."))}
# matplotlib's settings belong to the whole process, so one thread at a time may change them.
_LOCK = threading.RLock()

# Okabe and Ito's colours; their yellow is lost on white paper. 6 colours and 13 markers have no factor in common,
# so counting through both at once repeats no pair for 78 methods.
_COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
_MARKERS = ("o", "^", "D", "v", "P", "*", "<", ">", "p", "h", "8", "d", "H")
_DASHES = ("-", (0, (5, 1.5)), (0, (4, 1.5, 1, 1.5)), (0, (1.5, 1)))
BASELINES = {  # grey: what a method has to beat
    "uniform": {"color": "#555555", "marker": "s", "linestyle": "--"},
    "random": {"color": "#999999", "marker": "x", "linestyle": ":"},
    "random-per-frame": {"color": "#999999", "marker": "+", "linestyle": "-."},
    "pool": {"color": "#555555", "marker": "X", "linestyle": (0, (1, 2.5))},
}
# What sets variants of one method apart; 4 dashes, 3 fills and 5 shades repeat no triple for 60 variants.
_FILLS = ("full", "none", "bottom")
_SHADES = (0, 0.45, -0.45, 0.25, -0.25)  # towards white, or towards black
_ROSTER = (  # the place in this list is the look: append, never reorder
    "lftr",
    "tome",
    "visionzip",
    "prumerge",
    "dycoke",
    "dtd",
    "evs",
    "vidcom2",
    "divprune",
    "fastvid",
    "holitom",
    "sttm",
    "framefusion",
    "flashvid",
    "earlytom",
    "fastv",
    "pyramiddrop",
    "sparsevlm",
)


def figure_size(venue: str = "cvpr", span: str = "column", aspect: float = 0.62) -> tuple[float, float]:
    """The size at which a figure fits a venue's template without scaling.

    Parameters
    ----------
    venue : "cvpr", "neurips", "icml", "acl" or "aaai", in any case.
    span : "column" or "text", the whole width of the page's text (the same in NeurIPS).
    aspect : height / width, above 0.

    Returns
    -------
    (width, height) in inches.

    Raises
    ------
    VTCError
        For an unknown venue or span, or an aspect that is not a positive number.

    Examples
    --------
    >>> figure_size("icml", "text", aspect=0.5)
    (6.75, 3.375)
    """
    key = str(venue).lower()
    if key not in VENUES:
        raise VTCError(f"no venue is called {venue!r}; {suggest(key, VENUES)}")
    if span not in ("column", "text"):
        raise VTCError(f"span is {span!r}; choose 'column' or 'text'")
    if not (isinstance(aspect, int | float) and 0 < aspect < math.inf):
        raise VTCError(f"aspect is {aspect!r}; it is height / width, a number above 0")
    width = VENUES[key][span == "text"]
    return width, round(width * aspect, 3)


@contextmanager
def paper_style() -> Iterator[None]:
    """Draw in the papers' style within a `with` block.

    matplotlib's settings are those of the whole process. A lock lets one thread at a time into such a block or into
    `save_figure`; what other threads draw meanwhile without it gets the style too. Keep blocks short, and never
    wait in one for a thread that draws.

    Examples
    --------
    >>> with paper_style():
    ...     matplotlib.rcParams["pdf.fonttype"]
    42
    """
    with _LOCK, matplotlib.rc_context(_STYLE):
        yield


@contextmanager
def writing() -> Iterator[None]:
    """Only what concerns the writing of files, for figures that were drawn in a style of their own."""
    with _LOCK, matplotlib.rc_context(_WRITING):
        yield


def method_style(name: str, variant: int = 0) -> dict[str, object]:
    """The colour, marker and dash of a method, the same in every figure.

    Baselines are grey, the published methods of this project have looks of their own, and any other name gets one
    computed from the name alone, whatever else is registered; two such names could look alike.

    Parameters
    ----------
    name : registered name of a method.
    variant : 0 for the method itself, 1, 2 ... for the same with other options: the hue and marker stay, and the
        shade, the dash and the marker's fill change.

    Returns
    -------
    Keywords of matplotlib's `plot`: color, marker, linestyle; of a variant, fillstyle too.

    Examples
    --------
    >>> method_style("lftr")
    {'color': '#0072B2', 'marker': 'o', 'linestyle': '-'}
    >>> method_style("lftr", 1)
    {'color': '#73b1d5', 'marker': 'o', 'linestyle': (0, (5, 1.5)), 'fillstyle': 'none'}
    """
    if name in BASELINES:
        look = dict(BASELINES[name])
    else:
        if name in _ROSTER:
            place = _ROSTER.index(name)
        else:
            place = len(_ROSTER) + int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
        dash = _DASHES[place // len(_COLORS) % len(_DASHES)]
        look = {"color": _COLORS[place % len(_COLORS)], "marker": _MARKERS[place % len(_MARKERS)], "linestyle": dash}
    if variant:
        dashes = [look["linestyle"], *(dash for dash in _DASHES if dash != look["linestyle"])]
        shade = _SHADES[variant % len(_SHADES)]
        mixed = np.array(to_rgb(look["color"])) * (1 - abs(shade)) + max(shade, 0)
        look |= {"linestyle": dashes[variant % len(dashes)], "color": to_hex(mixed)}
        look["fillstyle"] = _FILLS[variant % len(_FILLS)]
    return look
