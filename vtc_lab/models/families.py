"""Say where the visual tokens of each Hugging Face family lie: one short entry per family, no model code.

A model puts its visual features, one after the other, where the placeholders are in the prompt. An entry says which
features are the patches of which clip. Everything else is kept: class tokens, newlines, pictures beside a clip, and all
text, including timestamps and marks of frames that lost all their patches.
"""

import difflib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional

from vtc_lab.tokens import VTCError

Grid = tuple[int, int, int]
Model = Any  # a model of transformers or a part of one, whose attributes torch's annotations do not know
Inputs = Mapping[str, Any]  # what a processor made


@dataclass(frozen=True)
class Family:
    """Describe how to find the clips in the output of a family's vision encoder.

    Features that are no patches are allowed only before those of a frame (`cls`) and after those of a clip (`newline`),
    not between the rows of a picture, as LLaVA-NeXT has them.

    Parameters
    ----------
    name : as its papers write it.
    grids : given (core, inputs, count) - the model without its head, what the processor made, and the number of
        features - the (T, h, w) of each clip, or (1, h, w) of each picture where frames are given as pictures.
    modality : whose placeholders stand for clips, "video" or "image"; "image" also where frames are pictures.
    pixels : the processor's name for their pixels.
    stills : where `modality` is "video", the processor's name for the pixels of pictures beside clips.
    encoder : the method of the core that encodes clips. Its first argument is the pixels.
    cls : number of features before the patches of each frame to keep as they are.
    newline : number of features after the patches of each clip to keep as they are.
    frame : where frames are pictures, a regular expression for the text before one. Its group `first` matches only
        before the first frame of a clip; without that group all pictures of a prompt have to be frames of one clip.
    end : what the configuration calls the token that ends a clip, where its last feature is not its end.
    tower : the core's vision tower, for methods that need saliency.
    pool : given (core, (frames, N, 1) saliency of the tower's tokens), the saliency of the visual tokens, each made of
        several of those; None if the tower's tokens are the visual tokens.
    unused : other entries of the processor's output that a reduced prompt must not carry.
    settings : options with which the processor makes each frame one picture with all of its tokens.
    apart : True if the tower sees each frame (Qwen, GLM-4V: each pair of frames) by itself and no feature beside the
        patches is of one frame, so that frames can be left out before they are encoded.

    Examples
    --------
    >>> FAMILIES["video_llava"].cls, FAMILIES["llava_onevision"].newline
    (1, 1)
    """

    name: str
    grids: Callable[[Model, Inputs, int], list[Grid]]
    modality: Literal["video", "image"] = "video"
    pixels: str = "pixel_values_videos"
    stills: str = "pixel_values"
    encoder: str = "get_video_features"
    cls: int = 0
    newline: int = 0
    frame: str = ""
    end: str = ""
    tower: str = "vision_tower"
    pool: Callable[[Model, Tensor], Tensor] | None = None
    unused: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    apart: bool = False

    @property
    def frames_as_pictures(self) -> bool:
        """True if frames are given as pictures, so that only the prompt can tell which belong to one clip."""
        return self.pixels == "pixel_values"


def square_frames(core: Model, inputs: Inputs, count: int) -> list[Grid]:
    """Return the grids of (B, T, 3, H, W) pixels whose frames all become the same square of patches."""
    family, (clips, frames) = FAMILIES[core.config.model_type], inputs["pixel_values_videos"].shape[:2]
    side = math.isqrt((count // clips - family.newline) // frames - family.cls)
    return [(frames, side, side)] * clips


def square_pictures(core: Model, inputs: Inputs, count: int) -> list[Grid]:
    """Return the grids of (n, 3, H, W) pixels of pictures which all become the same square of patches."""
    if "image_sizes" in inputs:  # LLaVA with a Pixtral tower, which takes pictures as they are
        side = core.config.vision_config.patch_size * getattr(core.config, "spatial_merge_size", 1)
        return [(1, height // side, width // side) for height, width in inputs["image_sizes"].tolist()]
    pictures = len(inputs["pixel_values"])
    side = math.isqrt(count // pictures)
    return [(1, side, side)] * pictures


def merged_patches(core: Model, inputs: Inputs, count: int) -> list[Grid]:
    """Return the grids of Qwen's packed patches after each group of them is merged into one."""
    side = core.visual.spatial_merge_size
    return [(t, h // side, w // side) for t, h, w in inputs["video_grid_thw"].tolist()]


def _smolvlm(core: Model, inputs: Inputs, count: int) -> list[Grid]:
    # Its processor pads batches with black pictures, which the model leaves out.
    side = math.isqrt(core.image_seq_len)
    return [(1, side, side)] * (count // core.image_seq_len)


def _videollama3(core: Model, inputs: Inputs, count: int) -> list[Grid]:
    mask = inputs.get("video_compression_mask")
    if mask is not None and not bool(mask.all()):
        raise VTCError(
            f"VideoLLaMA3's processor has itself removed {int((~mask).sum())} of {mask.numel()} visual tokens from "
            "this prompt; call it with use_token_compression=False"
        )
    sides = inputs["video_merge_sizes"].tolist()
    return [(t, h // n, w // n) for (t, h, w), n in zip(inputs["video_grid_thw"].tolist(), sides, strict=True)]


def _gemma4(core: Model, inputs: Inputs, count: int) -> list[Grid]:
    frames, side = inputs["num_frames_per_video"].tolist(), core.config.vision_config.pooling_kernel_size
    clips = inputs["video_position_ids"].split(frames)  # (T, patches, 2) x and y, -1 for padding
    sizes = [(clip.amax((0, 1)) + 1).tolist() for clip in clips]
    return [(t, height // side, width // side) for t, (width, height) in zip(frames, sizes, strict=True)]


def _averaged(core: Model, scores: Tensor) -> Tensor:
    """The mean over each square of tokens that becomes one, however their features are pooled."""
    side = math.isqrt(scores.shape[1])
    return functional.avg_pool2d(scores.view(-1, side, side), core.config.spatial_pool_stride)


def _shuffled(core: Model, scores: Tensor) -> Tensor:
    """The mean over the patches that InternVL's pixel shuffle turns into one token."""
    side = math.isqrt(scores.shape[1])
    return core.pixel_shuffle(scores.view(-1, side, side, 1), core.config.downsample_ratio).mean(-1)


_QWEN: dict[str, Any] = {"grids": merged_patches, "tower": "visual", "apart": True}
_PICTURES: dict[str, Any] = {"modality": "image", "pixels": "pixel_values", "encoder": "get_image_features"}
_PICTURES["apart"] = True
_GLM = _QWEN | {"modality": "image", "end": "video_end_token_id"}
_WHOLE = r"<global-img>\s*$"  # before a picture that is whole, not one of the pieces of one
_CONNECTED = _PICTURES | {
    "grids": _smolvlm,
    "tower": "vision_model",
    "pool": lambda core, scores: core.connector.pixel_shuffle(scores, core.connector.scale_factor).mean(-1),
}

FAMILIES: dict[str, Family] = {
    "llava_onevision": Family(
        "LLaVA-OneVision", square_frames, newline=1, pool=lambda core, scores: core.apply_pooling(scores), apart=True
    ),
    "llava_next_video": Family("LLaVA-NeXT-Video", square_frames, pool=_averaged, apart=True),
    "video_llava": Family("Video-LLaVA", square_frames, stills="pixel_values_images", cls=1, tower="video_tower"),
    "qwen2_vl": Family("Qwen2-VL", **_QWEN),
    "qwen2_5_vl": Family("Qwen2.5-VL", **_QWEN),
    "qwen3_vl": Family("Qwen3-VL", **_QWEN),
    "qwen3_vl_moe": Family("Qwen3-VL MoE", **_QWEN),
    "qwen3_5": Family("Qwen3.5", **_QWEN),
    "qwen3_5_moe": Family("Qwen3.5 MoE", **_QWEN),
    "internvl": Family(
        "InternVL",
        square_pictures,
        frame=r"Frame\s*((?P<first>1\s*:)|[\d\s]+:)\s*<img>\s*$",
        pool=_shuffled,
        **_PICTURES,
    ),
    "smolvlm": Family(
        "SmolVLM",
        frame=rf"(?P<first>following\s+series.*)?Frame\s+from[\d\s:]+<fake_token_around_image>\s*{_WHOLE}",
        **_CONNECTED,
    ),
    "idefics3": Family("Idefics3", frame=_WHOLE, settings={"do_image_splitting": False}, **_CONNECTED),
    "video_llama_3": Family(
        "VideoLLaMA3",
        _videollama3,
        tower="vision_model",
        unused=("video_compression_mask",),
        settings={"use_token_compression": False},
        apart=True,
    ),
    "perception_lm": Family(
        "PerceptionLM",
        square_frames,
        encoder="get_image_features",
        pool=lambda core, scores: core.multi_modal_projector.pooling(scores),
        apart=True,
    ),
    "gemma4": Family("Gemma 4", _gemma4, apart=True),
    "glm4v": Family("GLM-4.1V", **_GLM),
    "glm4v_moe": Family("GLM-4.5V", **_GLM),
    "molmo2": Family("Molmo2", lambda core, inputs, count: inputs["video_grids"].tolist(), end="frame_end_token_id"),
    "llava": Family("LLaVA", square_pictures, **_PICTURES),
}


def register_family(model_type: str, family: Family) -> None:
    """Let `compress` and `load_model` take models of one more family, in this process.

    The workers of a sweep that do not share this process have to do the same.

    Parameters
    ----------
    model_type : what the models' configuration calls itself.
    family : where its clips are. Registering a family again replaces it.

    Examples
    --------
    >>> register_family("llava", FAMILIES["llava"])
    """
    FAMILIES[model_type] = family


def bare(model: Model) -> Model:
    """Return the model of transformers inside `torch.compile`, PEFT, `nn.DataParallel` or `load_model`'s result."""
    if hasattr(model, "get_base_model"):  # PEFT's
        return bare(model.get_base_model())
    for name in ("_orig_mod", "module", "network"):
        if hasattr(model, name):
            return bare(getattr(model, name))
    if not isinstance(model, nn.Module):
        raise VTCError(f"model is a {type(model).__name__}; give the model itself, loaded by from_pretrained")
    return model


def how_to_add(model_type: str) -> str:
    """Say that a family has no entry, and two ways to add one."""
    known = next(iter(difflib.get_close_matches(model_type, FAMILIES)), "qwen2_5_vl")
    return (
        f"nothing says where {model_type!r} models have their clips; add them with register_family({model_type!r}, "
        f"Family(name, grids)), where grids gives (T, h, w) of each clip, or, if they are built like {known!r}, with "
        f"register_family({model_type!r}, vtc_lab.models.families.FAMILIES[{known!r}])"
    )


def family_of(model: Model) -> Family:
    """Return the entry of a model's family, checked to take reduced tokens."""
    kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    if kind not in FAMILIES:
        raise VTCError(how_to_add(kind))
    if "mm_encoder_outputs" not in inspect.signature(model.forward).parameters:
        raise VTCError(
            f"{type(model).__name__} takes no mm_encoder_outputs, by which reduced tokens enter; "
            "use its class that generates, and transformers 5.18 or newer"
        )
    return FAMILIES[kind]
