"""An interactive workbench for learning-free visual token compression of video language models."""

from vtc_lab.explorer import explore
from vtc_lab.export import save_figure
from vtc_lab.fidelity import answer_fidelity, fidelity, measures
from vtc_lab.models.encoders import load_encoder
from vtc_lab.pixels import pixel_fidelity, rebuild
from vtc_lab.plots import show
from vtc_lab.qa.questions import make_clip
from vtc_lab.qa.samples import read_samples
from vtc_lab.reduce import method, methods, reduce
from vtc_lab.reduce.ops import merge, prune
from vtc_lab.sweep import sweep
from vtc_lab.tokens import Clip, Reduction, VideoTokens, VTCError
from vtc_lab.video import find_clips, read_clip

__all__ = [
    "Clip",
    "Reduction",
    "VTCError",
    "VideoTokens",
    "answer_fidelity",
    "explore",
    "fidelity",
    "find_clips",
    "load_encoder",
    "load_model",
    "make_clip",
    "measures",
    "merge",
    "method",
    "methods",
    "pixel_fidelity",
    "prune",
    "read_clip",
    "read_samples",
    "rebuild",
    "reduce",
    "save_figure",
    "show",
    "sweep",
]


def __getattr__(name: str) -> object:
    # transformers takes seconds to import, and who only looks at tokens does not need it.
    if name == "load_model":
        from vtc_lab.models.video_model import load_model

        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
