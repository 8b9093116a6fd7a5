"""The fate of every visual token from layer to layer of a language model, and where the last token looks."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vtc_lab.models.inside import inside
from vtc_lab.models.video_model import VideoModel
from vtc_lab.reducers.ops import prune
from vtc_lab.tokens import Clip, Reduction, demand


@dataclass(frozen=True)
class Layer:
    """Hold what one layer of a language model had of a clip while it was asked a question.

    Parameters
    ----------
    reduction : the clip's tokens that the layer held, for the film strip; all others count as dropped.
    attention : (T, h, w) float32, the share of the last token's attention that each visual token gets, mean over heads;
        0 for those that the layer did not hold. Their sum is what the clip gets, and the text gets the rest.
    """

    reduction: Reduction
    attention: Tensor


@torch.no_grad()
def look_inside(
    model: VideoModel, clip: Clip, question: str, method: str, reduction: Reduction | None = None, **options: Any
) -> list[Layer]:
    """Return what each layer of the language model holds of a clip under a method inside it, and where it looks.

    Parameters
    ----------
    model : from `load_model`.
    clip, question, reduction : as for `model.ask`.
    method, options : as for `inside`; "fastv" with keep=1 drops nothing.

    Returns
    -------
    A list with a `Layer` for each layer.

    Examples
    --------
    >>> import vtc_lab as vtc
    >>> model, (clip, samples) = vtc.load_model(), vtc.make_clip(7)
    >>> layers = look_inside(model, clip, samples[0]["question"], "pyramiddrop")
    >>> [len(layer.reduction) for layer in layers]
    [5292, 5292, 2645, 1323, 661, 661]
    >>> figure = vtc.show(clip, layers[0].reduction, layers[-1].reduction)
    """
    demand(VideoModel, model)
    tokens, prompt = model._encoded(clip)
    everything = prune(tokens, torch.arange(tokens.total, device=tokens.values.device))
    entered = everything if reduction is None else reduction
    with inside(model, method, **options) as stage:
        stage.watching = True
        model.ask(question, clip, entered, max_new_tokens=2)
    run = stage.last
    assert run is not None
    # Newlines and class tokens stand among the patches: of the placeholders that are left, find those of tokens.
    place = torch.full((len(prompt.features),), -1)
    place[prompt.where[0].flatten().cpu()] = -2
    place[prompt.where[0].flatten().cpu()[entered.anchor.cpu()]] = torch.arange(len(entered))
    patches = run.visual[0].nonzero().flatten()[place[place != -2] >= 0]
    layers = []
    for number, seen in enumerate(run.seen):
        attention = torch.zeros(entered.total, device=seen.device)
        attention[entered.anchor] = seen[0, patches]
        held = replace(entered.only(stage.kept(number)[0, patches]), method=f"{method}, layer {number}", options={})
        layers.append(Layer(held, attention.view(entered.grid)))
    return layers
