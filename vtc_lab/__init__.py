"""An interactive workbench for learning-free visual token compression of video language models."""

from importlib import import_module

import vtc_lab.models.torchvision_ops  # noqa: F401  (before anybody imports transformers)

from vtc_lab.clips.reading import find_clips, one_each, read_clip
from vtc_lab.encoders import load_encoder
from vtc_lab.figures.curves import plot_curves
from vtc_lab.figures.export import save_figure
from vtc_lab.figures.filmstrip import show
from vtc_lab.figures.heatmap import plot_heatmap
from vtc_lab.figures.multiples import compare_kept
from vtc_lab.figures.overlap import kept_overlap, plot_agreement, plot_overlap
from vtc_lab.figures.panels import plot_flips, plot_forest, plot_kinds, plot_losses
from vtc_lab.figures.papers import plot_published
from vtc_lab.figures.speed import plot_speed, plot_stages
from vtc_lab.figures.tables import save_table
from vtc_lab.measures import answer_fidelity, fidelity, list_measures
from vtc_lab.pixels import pixel_fidelity, rebuild
from vtc_lab.qa.clips import check_clips, read_sample_clip
from vtc_lab.qa.literature import check_baseline, published
from vtc_lab.qa.readers import benchmarks, read_benchmark
from vtc_lab.qa.samples import read_samples
from vtc_lab.qa.scoring import accuracy, score
from vtc_lab.reducers.ops import merge, prune
from vtc_lab.reducers.registry import method, methods, reduce
from vtc_lab.reducers.streaming import reduce_stream
from vtc_lab.sweeps.features import fidelity_sweep
from vtc_lab.sweeps.papers import rank_agreement
from vtc_lab.sweeps.plan import variants
from vtc_lab.sweeps.run import summary, sweep
from vtc_lab.sweeps.stats import bootstrap_interval, compare, split_losses
from vtc_lab.sweeps.store import read_results
from vtc_lab.tokens import Clip, Reduction, VideoTokens, VTCError
from vtc_lab.toy.evidence import evidence_recall, with_evidence
from vtc_lab.toy.questions import make_clip
from vtc_lab.widgets.ablation import ablate
from vtc_lab.widgets.explorer import explore

__all__ = ["Clip", "Reduction", "VTCError", "VideoTokens", "find_clips", "make_clip", "one_each", "read_clip"]
__all__ += ["ideal_speedup", "measure", "stage_costs"]
__all__ += ["merge", "method", "methods", "prune", "reduce", "reduce_clip", "reduce_stream"]
__all__ += ["Family", "compress", "engaged", "inside", "load_encoder", "load_model", "look_inside"]
__all__ += ["register_family"]
__all__ += ["answer_fidelity", "evidence_recall", "fidelity", "list_measures", "pixel_fidelity", "rebuild"]
__all__ += ["video_metadata", "with_evidence"]
__all__ += ["accuracy", "benchmarks", "check_clips", "read_benchmark", "read_sample_clip", "read_samples", "score"]
__all__ += ["bootstrap_interval", "compare", "fidelity_sweep", "read_results", "split_losses", "summary", "sweep"]
__all__ += ["variants"]
__all__ += ["plot_agreement", "plot_curves", "plot_flips", "plot_forest", "plot_heatmap", "plot_kinds", "plot_losses"]
__all__ += ["plot_overlap", "plot_speed", "plot_stages"]
__all__ += ["check_baseline", "plot_published", "published", "rank_agreement"]
__all__ += ["ablate", "compare_kept", "explore", "kept_overlap", "save_figure", "save_table", "show"]

# transformers takes seconds to import, and who only looks at tokens does not need it.
_LATER = {
    "Family": "vtc_lab.models.families",
    "compress": "vtc_lab.models.compression",
    "engaged": "vtc_lab.models.compression",
    "ideal_speedup": "vtc_lab.cost",
    "inside": "vtc_lab.models.inside",
    "load_model": "vtc_lab.models.loading",
    "look_inside": "vtc_lab.models.layers",
    "measure": "vtc_lab.speed",
    "reduce_clip": "vtc_lab.models.before_encoding",
    "register_family": "vtc_lab.models.families",
    "stage_costs": "vtc_lab.cost",
    "video_metadata": "vtc_lab.models.prompts",
}


def __getattr__(name: str) -> object:
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
