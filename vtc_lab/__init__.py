"""An interactive workbench for learning-free visual token compression of video language models."""

from vtc_lab.reduce import method, methods, reduce
from vtc_lab.reduce.ops import merge, prune
from vtc_lab.tokens import Clip, Reduction, VideoTokens, VTCError

__all__ = ["Clip", "Reduction", "VTCError", "VideoTokens", "merge", "method", "methods", "prune", "reduce"]
