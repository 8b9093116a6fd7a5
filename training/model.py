"""The bundled model before training: LLaVA-OneVision at toy size, its tokenizer and its processor."""

from __future__ import annotations

import vtc_lab.models.torchvision_ops  # noqa: F401  (before transformers)

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from torch import nn
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)

from vtc_lab.toy.questions import ANSWERS, questions, scene_of
from vtc_lab.toy.world import CELL, SIDE

SPECIAL = ("<pad>", "<unk>", "<bos>", "<eos>", "<video>", "<image>", "<answer>")
PATCH = CELL // 2  # the architecture pools 2x2 patches into a token
TOKENS_PER_FRAME = (SIDE // CELL) ** 2
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}<bos>{% else %}<answer>{% endif %}"
    "{% if message['content'] is string %} {{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %} {{ part['text'] }}{% else %} <{{ part['type'] }}>{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] != 'user' %} <eos>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %} <answer>{% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word; the words are those of the questions and answers of the generated world."""
    words = {word for answers in ANSWERS.values() for word in answers}
    for seed in range(20_000, 20_400):
        scene, rng = scene_of(seed)
        words |= {word for _, question, *_ in questions(scene, rng) for word in question.split()}
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *sorted(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"[?.,!]"), "isolated")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        extra_special_tokens=["<video>", "<image>", "<answer>"],
        padding_side="left",
        model_max_length=8192,
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlavaOnevisionForConditionalGeneration:
    """Random weights: 28x28 patches a frame, pooled to 14x14 tokens by the architecture itself."""
    vision = SiglipVisionConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        vision_use_head=False,
    )
    text = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 2000.0},
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[SIDE, SIDE]],
        tie_word_embeddings=True,
    )
    model = LlavaOnevisionForConditionalGeneration(config)
    nn.init.normal_(model.model.image_newline, std=0.02)
    return model


def build_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaOnevisionProcessor:
    """112x112 pixels scaled to -1..1, every frame of the video, and a template of `<bos> <video> question <answer>`."""
    size = {"height": SIDE, "width": SIDE}
    half = [0.5, 0.5, 0.5]
    return LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(
            size=size, image_mean=half, image_std=half, image_grid_pinpoints=[[SIDE, SIDE]]
        ),
        video_processor=LlavaOnevisionVideoProcessor(
            size=size, image_mean=half, image_std=half, do_sample_frames=False
        ),
        tokenizer=tokenizer,
        num_image_tokens=(SIDE // PATCH) ** 2,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
    )
