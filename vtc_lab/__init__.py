"""An interactive workbench for learning-free visual token compression of video language models."""

from vtc_lab.fidelity import fidelity
from vtc_lab.models import load_encoder
from vtc_lab.reduce import method, methods, reduce
from vtc_lab.reduce.ops import merge, prune
from vtc_lab.tokens import Clip, Reduction, VideoTokens, VTCError

__all__ = ["Clip", "Reduction", "VTCError", "VideoTokens", "fidelity", "load_encoder", "merge", "method", "methods", "prune", "reduce"]
