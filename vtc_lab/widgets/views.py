"""The parts of the explorer that JavaScript draws: film strips, charts and the menu of methods."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import traitlets
from PIL import Image
from torch import Tensor

from vtc_lab.figures.filmstrip import describe
from vtc_lab.figures.style import BASELINES, HUES, method_style
from vtc_lab.reducers.joint import joint_significance
from vtc_lab.tokens import Clip, Reduction, VideoTokens

_HERE = Path(__file__).parent
_DOM = (_HERE / "dom.js").read_text()
_GREY = "#858585"
_FRAME = 256  # pixels of a frame's longer side in the browser
_TALLEST = 30_000  # pixels of a picture that every browser decodes


class Strips(anywidget.AnyWidget):
    """Film strips of a clip, one for each method; the kernel sends arrays and never draws."""

    _esm = _DOM + (_HERE / "strips.js").read_text()
    _css = _HERE / "views.css"
    clip = traitlets.Dict().tag(sync=True)
    sprite = traitlets.Bytes().tag(sync=True)  # the frames under each other, a JPEG
    colours = traitlets.Bytes().tag(sync=True)  # uint8 (M, 3), the mean colour of each patch
    significance = traitlets.Bytes().tag(sync=True)  # float32 (M,), LFTR's
    saliency = traitlets.Bytes().tag(sync=True)  # float32 (M,), or nothing
    layers: traitlets.List[Any] = traitlets.List().tag(sync=True)  # one dict for each method
    home = traitlets.Bytes().tag(sync=True)  # int32 (methods, M), the raster index of the anchor, -1 where dropped
    alike = traitlets.Bytes().tag(sync=True)  # float32 (methods, M), the cosine to what stands for a token, or not yet
    drawn = traitlets.Int(0).tag(sync=True)  # grows by one with every picture
    view = traitlets.Unicode("tokens").tag(sync=True)
    stale = traitlets.Bool(False).tag(sync=True)  # the controls say something else
    _source: tuple[object, object] | None = None  # of the frames that the browser has

    def take(self, shown: Clip, tokens: VideoTokens, reductions: Sequence[Reduction]) -> None:
        """Show reductions of a clip; what depends on their values follows in `alike`."""
        with self.hold_sync():
            if self._source is None or self._source[0] is not shown or self._source[1] is not tokens:
                self._source = (shown, tokens)
                self._take_clip(shown, tokens)
            self.layers = [_layer(reduction) for reduction in reductions]
            self.home = np.stack([homes(reduction) for reduction in reductions]).astype(np.int32).tobytes()
            self.alike = b""
            self.drawn += 1

    def _take_clip(self, shown: Clip, tokens: VideoTokens) -> None:
        frames, rows, columns = tokens.grid
        height, width = shown.frames.shape[1:3]
        self.sprite = _sprite(shown)
        self.colours = _fitted(shown, columns, rows).tobytes()
        self.significance = as_bytes(joint_significance(tokens, "distinct")[1])
        self.saliency = b"" if tokens.saliency is None else as_bytes(tokens.saliency)
        self.clip = {
            **{"frames": frames, "rows": rows, "columns": columns, "aspect": height / width},
            **{"times": shown.times.tolist(), "hues": list(HUES)},
        }


class Charts(anywidget.AnyWidget):
    """The curve, the tokens of each frame, the answer and the exported figure; a click on the curve sends a ratio."""

    _esm = _DOM + (_HERE / "charts.js").read_text()
    _css = _HERE / "views.css"
    layers: traitlets.List[Any] = traitlets.List().tag(sync=True)
    curve = traitlets.Dict().tag(sync=True)
    answer = traitlets.Dict().tag(sync=True)
    exported = traitlets.Dict().tag(sync=True)
    stale = traitlets.Bool(False).tag(sync=True)


class MethodPicker(anywidget.AnyWidget):
    """The method and up to three others; `choices` are pairs of a name and why it cannot run now, or ""."""

    _esm = _HERE / "picker.js"
    _css = _HERE / "views.css"
    value: traitlets.List[Any] = traitlets.List().tag(sync=True)
    choices: traitlets.List[Any] = traitlets.List().tag(sync=True)
    most = traitlets.Int(4).tag(sync=True)


def colour_of(name: str) -> str:
    """Return the colour of a method in every figure; baselines have a grey that shows on light and on dark."""
    return _GREY if name in BASELINES else method_style(name)["color"]


def homes(reduction: Reduction) -> np.ndarray:
    """Return (M,) the raster index of the anchor that each source token went into, -1 if it was dropped."""
    assign = reduction.assign
    return reduction.anchor[assign.clamp(min=0)].where(assign >= 0, -1).cpu().numpy()


def as_bytes(numbers: Tensor) -> bytes:
    """Return a tensor as float32, as JavaScript reads it."""
    return numbers.float().cpu().numpy().tobytes()


def thumbnail(png: Path) -> str:
    """Return a small copy of a picture, as an address that holds it."""
    with Image.open(png) as image:
        image.thumbnail((400, 180))
        data = io.BytesIO()
        image.convert("RGB").save(data, "jpeg", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"


def _layer(reduction: Reduction) -> dict[str, Any]:
    return {
        **{"label": describe(reduction), "colour": colour_of(reduction.method), "ledger": reduction.ledger},
        **{"notes": list(reduction.notes), "tokens": len(reduction)},
        "per_frame": reduction.kept.flatten(1).sum(1).tolist(),
    }


def _sprite(shown: Clip) -> bytes:
    height, width = shown.frames.shape[1:3]
    scale = min(1, _FRAME / max(height, width), _TALLEST / (height * len(shown)))
    frames = _fitted(shown, max(1, round(width * scale)), max(1, round(height * scale)))
    data = io.BytesIO()
    Image.fromarray(frames.reshape(-1, *frames.shape[2:])).save(data, "jpeg", quality=88, subsampling=0)
    return data.getvalue()


def _fitted(shown: Clip, width: int, height: int) -> np.ndarray:
    frames = [np.asarray(Image.fromarray(f).resize((width, height), Image.Resampling.BOX)) for f in shown.frames]
    return np.stack(frames)
