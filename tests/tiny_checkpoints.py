"""Checkpoints of every supported family, of a few thousand random weights, with their real processors, on disk.

Everything is read back by from_pretrained, as a user's checkpoint is. The tokenizers know words; the weights are large
enough that what a model says depends on what it sees.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import vtc_lab.models.torchvision_ops  # noqa: F401  (before transformers)

import numpy as np
import torch
import transformers as hf
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import ByteLevel, Digits, Punctuation, Sequence, WhitespaceSplit

WORDS = "what which moves where is the a red green circle square left right up down first then no yes Frame from Time"
WORDS += (
    " You are provided following series of frames video H MM SS seconds s < > : . , - [ ] ? ! two three four five six"
)
SIDE = 32  # pixels of a square frame


@dataclass(frozen=True)
class Tiny:
    """How to make one family's checkpoint, and how its prompts name a clip and a picture."""

    make: Callable[[], tuple[torch.nn.Module, hf.ProcessorMixin]]
    clip: str = "<video>"
    picture: str = "<image>"
    frames_as_pictures: bool = False


def frames(seed: int, still: int = 1) -> np.ndarray:
    """(6, 32, 32, 3) uint8: a square that moves over a patterned ground; a picture stays for some frames."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(0, 256, (6, 4, 4, 3)).repeat(SIDE // 4, 1).repeat(SIDE // 4, 2)
    for t, frame in enumerate(ground):
        frame[8:20, 3 * t : 3 * t + 10] = rng.integers(0, 256, 3)
    return ground.astype(np.uint8)[np.arange(6) // still * still]


def tokenizer(*special: str, **named: str) -> hf.PreTrainedTokenizerBase:
    """Words, digits one by one, and a family's special tokens; pads on the left.

    A class of its own (Qwen3.5's) reads the same vocabulary byte by byte, so the bytes are in it too.
    """
    special = [*special, *named.values()]
    vocabulary = ["<pad>", "<s>", "</s>", "<unk>", *special, *"0123456789", *WORDS.split()]
    vocabulary += sorted(ByteLevel.alphabet())
    words = Tokenizer(WordLevel({word: n for n, word in enumerate(dict.fromkeys(vocabulary))}, unk_token="<unk>"))
    words.add_special_tokens(special)
    words.pre_tokenizer = Sequence([WhitespaceSplit(), Digits(individual_digits=True), Punctuation()])
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=named,
        padding_side="left",
    )


def text(kind: type, words: hf.PreTrainedTokenizerBase, **options: object) -> hf.PreTrainedConfig:
    """A language model of 2 layers of 32 channels."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return kind(**{"num_key_value_heads": 2, "vocab_size": len(words), **sizes, **special, **options})


VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
SQUARE = {"height": SIDE, "width": SIDE}
EDGE = {"size": {"shortest_edge": SIDE}, "crop_size": SQUARE}
PLACES = {"image_token": "<image>", "video_token": "<video>"}


def ids(words: hf.PreTrainedTokenizerBase, old: bool = False, **names: str) -> dict[str, int]:
    """The configuration's entries for the placeholders; older ones call an id an index."""
    return {f"{name}_{'index' if old else 'id'}": words.convert_tokens_to_ids(token) for name, token in names.items()}


def llava_onevision():
    words = tokenizer(**PLACES)
    config = hf.LlavaOnevisionConfig(
        vision_config=hf.SiglipVisionConfig(**VISION, image_size=SIDE, patch_size=8, vision_use_head=False),
        text_config=text(hf.Qwen2Config, words),
        image_grid_pinpoints=[[SIDE, SIDE], [SIDE, 2 * SIDE], [2 * SIDE, SIDE]],
        **ids(words, True, **PLACES),
    )
    pictures = hf.LlavaOnevisionImageProcessor(size=SQUARE, image_grid_pinpoints=config.image_grid_pinpoints)
    videos = hf.LlavaOnevisionVideoProcessor(size=SQUARE)
    processor = hf.LlavaOnevisionProcessor(
        pictures, words, videos, num_image_tokens=16, vision_feature_select_strategy="full"
    )
    return hf.LlavaOnevisionForConditionalGeneration(config), processor


def llava_next_video():
    words = tokenizer(**PLACES)
    config = hf.LlavaNextVideoConfig(
        vision_config=hf.CLIPVisionConfig(**VISION, image_size=SIDE, patch_size=8),
        text_config=text(hf.LlamaConfig, words),
        image_grid_pinpoints=[[SIDE, 2 * SIDE], [2 * SIDE, SIDE]],
        **ids(words, True, **PLACES),
    )
    processor = hf.LlavaNextVideoProcessor(
        hf.LlavaNextVideoVideoProcessor(**EDGE),
        hf.LlavaNextImageProcessor(**EDGE, image_grid_pinpoints=config.image_grid_pinpoints),
        words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return hf.LlavaNextVideoForConditionalGeneration(config), processor


def video_llava():
    words = tokenizer(**PLACES)
    config = hf.VideoLlavaConfig(
        vision_config=hf.CLIPVisionConfig(**VISION, image_size=SIDE, patch_size=8),
        text_config=text(hf.LlamaConfig, words),
        **ids(words, True, **PLACES),
    )
    processor = hf.VideoLlavaProcessor(
        hf.VideoLlavaImageProcessor(**EDGE), hf.VideoLlavaVideoProcessor(**EDGE), words, patch_size=8
    )
    return hf.VideoLlavaForConditionalGeneration(config), processor


QWEN = ("<|vision_start|>", "<|vision_end|>")
QWEN_PLACES = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
PACKED = {"patch_size": 4, "size": {"shortest_edge": 64, "longest_edge": 24 * 24 * 8}}


def qwen(model: type, config: type, text_kind: type, vision: dict, processor: type, videos: type, **options: object):
    words = tokenizer(*QWEN, **QWEN_PLACES)
    ends = {"vision_start_token": QWEN[0], "vision_end_token": QWEN[1]}
    settings = config(
        vision_config={"depth": 2, "num_heads": 2, "patch_size": 4, **vision},
        text_config=text(text_kind, words, **options).to_dict(),
        **ids(words, **QWEN_PLACES, **ends),
    )
    made = processor(hf.Qwen2VLImageProcessor(**PACKED), words, videos(**PACKED, do_sample_frames=False))
    return model(settings), made


ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}


def qwen2_vl():
    vision = {"embed_dim": 16, "hidden_size": 32}
    classes = (hf.Qwen2VLForConditionalGeneration, hf.Qwen2VLConfig, hf.models.qwen2_vl.Qwen2VLTextConfig)
    return qwen(*classes, vision, hf.Qwen2VLProcessor, hf.Qwen2VLVideoProcessor, rope_parameters=ROPE)


def qwen2_5_vl():
    vision = {"hidden_size": 16, "intermediate_size": 24, "out_hidden_size": 32, "window_size": 16}
    vision["fullatt_block_indexes"] = [1]
    classes = (hf.Qwen2_5_VLForConditionalGeneration, hf.Qwen2_5_VLConfig, hf.models.qwen2_5_vl.Qwen2_5_VLTextConfig)
    return qwen(*classes, vision, hf.Qwen2_5_VLProcessor, hf.Qwen2VLVideoProcessor, rope_parameters=ROPE)


QWEN3 = {"hidden_size": 16, "intermediate_size": 24, "out_hidden_size": 32, "num_position_embeddings": 64}
EXPERTS = {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2}


def qwen3(*classes: type, vision: dict | None = None, **options: object):
    processors = (hf.Qwen3VLProcessor, hf.Qwen3VLVideoProcessor)
    return qwen(*classes, QWEN3 | (vision or {}), *processors, **{"rope_parameters": ROPE, "head_dim": 8, **options})


def qwen3_vl():
    classes = (hf.Qwen3VLForConditionalGeneration, hf.Qwen3VLConfig, hf.Qwen3VLTextConfig)
    return qwen3(*classes, vision={"deepstack_visual_indexes": [0, 1]})


def qwen3_vl_moe():
    classes = (hf.Qwen3VLMoeForConditionalGeneration, hf.Qwen3VLMoeConfig, hf.Qwen3VLMoeTextConfig)
    return qwen3(*classes, vision={"deepstack_visual_indexes": [0, 1]}, **EXPERTS)


LINEAR = {
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "layer_types": ["linear_attention", "full_attention"],
    "rope_parameters": ROPE | {"partial_rotary_factor": 1.0},
}


def qwen3_5():
    return qwen3(hf.Qwen3_5ForConditionalGeneration, hf.Qwen3_5Config, hf.Qwen3_5TextConfig, **LINEAR)


def qwen3_5_moe():
    classes = (hf.Qwen3_5MoeForConditionalGeneration, hf.Qwen3_5MoeConfig, hf.Qwen3_5MoeTextConfig)
    return qwen3(*classes, **LINEAR, **EXPERTS, shared_expert_intermediate_size=16)


def internvl():
    named = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    words = tokenizer(**named, video_token="<video>")
    config = hf.InternVLConfig(
        vision_config=hf.InternVLVisionConfig(**VISION, image_size=[SIDE, SIDE], patch_size=[8, 8]),
        text_config=text(hf.Qwen2Config, words),
        image_seq_length=4,
        **ids(words, image_token="<IMG_CONTEXT>"),
    )
    processor = hf.InternVLProcessor(
        hf.GotOcr2ImageProcessor(size=SQUARE), words, hf.InternVLVideoProcessor(size=SQUARE), image_seq_length=4
    )
    return hf.InternVLForConditionalGeneration(config), processor


AROUND = {
    "image_token": "<image>",
    "fake_image_token": "<fake_token_around_image>",
    "global_image_token": "<global-img>",
    "end_of_utterance_token": "<end_of_utterance>",
}


def smolvlm():
    pieces = [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2, 3)]
    words = tokenizer(*pieces, **AROUND, video_token="<video>")
    config = hf.SmolVLMConfig(
        vision_config=VISION | {"image_size": SIDE, "patch_size": 8},
        text_config=text(hf.LlamaConfig, words).to_dict(),
        scale_factor=2,
        **ids(words, image_token="<image>"),
    )
    size = {"size": {"longest_edge": SIDE}, "max_image_size": {"longest_edge": SIDE}}
    pictures = hf.SmolVLMImageProcessor(**size, do_image_splitting=False)
    processor = hf.SmolVLMProcessor(pictures, words, hf.SmolVLMVideoProcessor(**size), image_seq_len=4)
    return hf.SmolVLMForConditionalGeneration(config), processor


def idefics3():
    words = tokenizer(**AROUND)
    config = hf.Idefics3Config(
        vision_config=VISION | {"image_size": SIDE, "patch_size": 8},
        text_config=text(hf.LlamaConfig, words).to_dict(),
        scale_factor=2,
        **ids(words, image_token="<image>"),
    )
    size = {"size": {"longest_edge": SIDE}, "max_image_size": {"longest_edge": SIDE}}
    processor = hf.Idefics3Processor(
        hf.Idefics3ImageProcessor(**size, do_image_splitting=False), words, image_seq_len=4
    )
    return hf.Idefics3ForConditionalGeneration(config), processor


def video_llama_3():
    words = tokenizer(**QWEN_PLACES)
    config = hf.VideoLlama3Config(
        vision_config=VISION | {"patch_size": 4, "model_type": "video_llama_3_vision"},
        text_config=text(hf.Qwen2Config, words).to_dict(),
        **ids(words, **QWEN_PLACES),
    )
    packed = {"patch_size": 4, "size": {"shortest_edge": 64, "longest_edge": 24 * 24 * 6}}
    videos = hf.VideoLlama3VideoProcessor(**packed, use_token_compression=False)
    processor = hf.VideoLlama3Processor(hf.VideoLlama3ImageProcessor(**packed), words, videos)
    return hf.VideoLlama3ForConditionalGeneration(config), processor


def perception_lm():
    words = tokenizer(**PLACES)
    tower = {"img_size": [SIDE, SIDE], "patch_size": 8, "depth": 2, "embed_dim": 16, "num_heads": 2}
    tower |= {"global_pool": "", "use_post_transformer_norm": False, "ref_feat_shape": [4, 4]}
    vision = {"architecture": "vit_pe_core_base_patch16_224", "model_type": "timm_wrapper", "model_args": tower}
    config = hf.PerceptionLMConfig(
        vision_config=vision | {"do_pooling": False},
        text_config=text(hf.LlamaConfig, words).to_dict(),
        projector_pooling_ratio=2,
        **ids(words, **PLACES),
    )
    pictures = hf.PerceptionLMImageProcessor(tile_size=SIDE, max_num_tiles=2)
    videos = hf.PerceptionLMVideoProcessor(size=SQUARE, do_sample_frames=False)
    processor = hf.PerceptionLMProcessor(videos, pictures, words, patch_size=8, pooling_ratio=2)
    return hf.PerceptionLMForConditionalGeneration(config), processor


def gemma4():
    named = {"boi_token": "<|image>", "eoi_token": "<image|>", "image_token": "<|image|>", "video_token": "<|video|>"}
    named |= {"boa_token": "<|audio>", "eoa_token": "<audio|>", "audio_token": "<|audio|>"}
    words = tokenizer(**named)
    settings = text(
        hf.Gemma4TextConfig,
        words,
        head_dim=8,
        global_head_dim=8,
        vocab_size_per_layer_input=len(words),
        hidden_size_per_layer_input=4,
        layer_types=["sliding_attention", "full_attention"],
        sliding_window=1024,
        use_bidirectional_attention="vision",
    )
    config = hf.Gemma4Config(
        vision_config=VISION
        | {"num_key_value_heads": 2, "head_dim": 8, "patch_size": 2, "position_embedding_size": 64},
        text_config=settings.to_dict(),
        audio_config=None,
        **ids(words, **named),
    )
    packed = {"patch_size": 2, "max_soft_tokens": 70}
    processor = hf.Gemma4Processor(
        hf.Gemma4AudioFeatureExtractor(),
        hf.Gemma4ImageProcessor(**packed),
        words,
        hf.Gemma4VideoProcessor(**packed, do_sample_frames=False),
    )
    return hf.Gemma4ForConditionalGeneration(config), processor


GLM = {"image_token": "<|image|>", "video_token": "<|video|>"}
GLM_ENDS = {
    "image_start_token": "<|begin_of_image|>",
    "image_end_token": "<|end_of_image|>",
    "video_start_token": "<|begin_of_video|>",
    "video_end_token": "<|end_of_video|>",
}


def glm(model: type, config: type, text_kind: type, **options: object):
    words = tokenizer(*GLM_ENDS.values(), **GLM)
    vision = {"depth": 2, "hidden_size": 16, "num_heads": 2, "patch_size": 4, "image_size": SIDE}
    rope = ROPE | {"partial_rotary_factor": 1.0}
    settings = config(
        vision_config=vision | {"intermediate_size": 24, "out_hidden_size": 32},
        text_config=text(text_kind, words, rope_parameters=rope, head_dim=8, **options).to_dict(),
        **ids(words, **GLM, **GLM_ENDS),
    )
    pictures, videos = hf.Glm4vImageProcessor(**PACKED), hf.Glm4vVideoProcessor(**PACKED, do_sample_frames=False)
    return model(settings), hf.Glm4vProcessor(pictures, words, videos)


def glm4v():
    return glm(hf.Glm4vForConditionalGeneration, hf.Glm4vConfig, hf.Glm4vTextConfig)


def glm4v_moe():
    classes = (hf.Glm4vMoeForConditionalGeneration, hf.Glm4vMoeConfig, hf.Glm4vMoeTextConfig)
    return glm(*classes, **EXPERTS, n_routed_experts=4, n_shared_experts=1, first_k_dense_replace=1)


def molmo2():
    marks = {
        "image_start_token": "<im_start>",
        "low_res_image_start_token": "<low_res_im_start>",
        "image_end_token": "<im_end>",
        "image_patch": "<im_patch>",
        "frame_start_token": "<frame_start>",
        "frame_end_token": "<frame_end>",
    }
    words = tokenizer(*marks.values(), "<im_col>", "<im_low>", image_token="<|image|>", video_token="<|video|>")
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}
    adapter = {"hidden_size": 16, "intermediate_size": 24, "text_hidden_size": 32, "vision_feature_layer": [1, 0]}
    config = hf.Molmo2Config(
        vision_config=VISION | heads | {"patch_size": 8, "image_size": [SIDE, SIDE]},
        adapter_config=adapter | heads,
        text_config=text(hf.models.molmo2.Molmo2TextConfig, words, head_dim=8, additional_vocab_size=4).to_dict(),
        **ids(words, **marks),
    )
    size = {"patch_size": 8, "size": SQUARE, "pooling_size": [2, 2]}
    pictures = hf.Molmo2ImageProcessor(**size, overlap_margins=[1, 1])
    videos = hf.Molmo2VideoProcessor(**size, do_sample_frames=False)
    return hf.Molmo2ForConditionalGeneration(config), hf.Molmo2Processor(pictures, videos, words)


def llava():
    words = tokenizer(image_token="<image>")
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**VISION, image_size=SIDE, patch_size=8),
        text_config=text(hf.LlamaConfig, words),
        **ids(words, True, image_token="<image>"),
    )
    processor = hf.LlavaProcessor(
        hf.CLIPImageProcessor(**EDGE),
        words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return hf.LlavaForConditionalGeneration(config), processor


CHAT = (
    "{%% for part in messages[0]['content'] %%}{%% if part['type'] == 'text' %%} {{ part['text'] }} "
    "{%% elif part['type'] == 'video' %%}%s{%% else %%}%s{%% endif %%}{%% endfor %%}"
    "{%% if add_generation_prompt %%} : {%% endif %%}"
)
QWEN_MARKS = {
    "clip": "<|vision_start|><|video_pad|><|vision_end|>",
    "picture": "<|vision_start|><|image_pad|><|vision_end|>",
}
GLM_MARKS = {
    "clip": "<|begin_of_video|><|video|><|end_of_video|>",
    "picture": "<|begin_of_image|><|image|><|end_of_image|>",
}
TINY: dict[str, Tiny] = {
    "llava_onevision": Tiny(llava_onevision),
    "llava_next_video": Tiny(llava_next_video),
    "video_llava": Tiny(video_llava),
    "qwen2_vl": Tiny(qwen2_vl, **QWEN_MARKS),
    "qwen2_5_vl": Tiny(qwen2_5_vl, **QWEN_MARKS),
    "qwen3_vl": Tiny(qwen3_vl, **QWEN_MARKS),
    "qwen3_vl_moe": Tiny(qwen3_vl_moe, **QWEN_MARKS),
    "qwen3_5": Tiny(qwen3_5, **QWEN_MARKS),
    "qwen3_5_moe": Tiny(qwen3_5_moe, **QWEN_MARKS),
    "internvl": Tiny(internvl, picture="<IMG_CONTEXT>"),
    "smolvlm": Tiny(smolvlm),
    "idefics3": Tiny(idefics3, frames_as_pictures=True),
    "video_llama_3": Tiny(video_llama_3, "<|video_pad|>", "<|image_pad|>"),
    "perception_lm": Tiny(perception_lm),
    "gemma4": Tiny(gemma4, "<|video|>", "<|image|>"),
    "glm4v": Tiny(glm4v, **GLM_MARKS),
    "glm4v_moe": Tiny(glm4v_moe, **GLM_MARKS),
    "molmo2": Tiny(molmo2, "<|video|>", "<|image|>"),
    "llava": Tiny(llava, frames_as_pictures=True),
}


@cache
def checkpoint(family: str, layers: int = 2, tower: int = 2) -> Path:
    """Where a family's checkpoint is, written once for all tests of a process."""
    folder = Path(tempfile.mkdtemp(prefix="tiny-checkpoints-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return write(family, folder, layers, tower)


def write(family: str, folder: Path, layers: int = 2, tower: int = 2) -> Path:
    """Write one family's checkpoint, with so many layers in its language model and its tower, and say where."""
    torch.manual_seed(0)
    model, processor = TINY[family].make()
    if (layers, tower) != (2, 2):
        model.config.vision_config.num_hidden_layers = tower
        config = model.config.get_text_config()
        config.num_hidden_layers = layers
        if kinds := getattr(config, "layer_types", None):
            config.layer_types = (kinds * layers)[:layers]
        model = type(model)(model.config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, weight[0].numel() ** -0.5)
    model.save_pretrained(folder / family)
    processor.chat_template = CHAT % (TINY[family].clip, TINY[family].picture)
    processor.save_pretrained(folder / family)
    return folder / family


def prompt(family: str, processor: hf.ProcessorMixin, *rows: tuple, padding_side: str = "left") -> hf.BatchFeature:
    """One batch of prompts; a row is text, clips (T, H, W, 3) and pictures (H, W, 3), in any order."""
    tiny, texts, clips, pictures = TINY[family], [], [], []
    for row in rows:
        words, mine = [], []
        for part in row:
            if isinstance(part, str):
                words.append(part)
            elif part.ndim == 4 and not tiny.frames_as_pictures:
                words.append(tiny.clip)
                clips.append(part)
            else:
                words += [tiny.picture] * len(part.reshape(-1, SIDE, SIDE, 3))
                mine += list(part.reshape(-1, SIDE, SIDE, 3))
        texts.append(" ".join(words))
        pictures.append(mine)
    given = {}
    if clips:
        given["videos"] = clips
        times = {"fps": 2, "total_num_frames": 6, "frames_indices": list(range(6)), "duration": 3}
        given["videos_kwargs"] = {"video_metadata": [dict(times) for _ in clips]}
    if any(pictures):
        flat = [picture for mine in pictures for picture in mine]
        given["images"] = pictures if family in ("smolvlm", "idefics3", "gemma4") else flat
    return processor(text=texts, padding=True, padding_side=padding_side, return_tensors="pt", **given)
