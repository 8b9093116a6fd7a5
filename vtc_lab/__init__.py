"""An interactive workbench for learning-free visual token compression of video language models."""

from vtc_lab.explorer import explore
from vtc_lab.export import save_figure
from vtc_lab.fidelity import fidelity
from vtc_lab.models import load_encoder
from vtc_lab.plots import show
from vtc_lab.reduce import method, methods, reduce
from vtc_lab.reduce.ops import merge, prune
from vtc_lab.tokens import Clip, Reduction, VideoTokens, VTCError
from vtc_lab.video import find_clips, read_clip

__all__ = [
    "Clip",
    "Reduction",
    "VTCError",
    "VideoTokens",
    "explore",
    "fidelity",
    "find_clips",
    "load_encoder",
    "merge",
    "method",
    "methods",
    "prune",
    "read_clip",
    "reduce",
    "save_figure",
    "show",
]
