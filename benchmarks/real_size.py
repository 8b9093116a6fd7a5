"""Speed at real size: public configurations with random weights, from file to last token, against the ideal.

Speed does not depend on the values of weights, and nothing is downloaded; what the models answer means nothing. Where
there is a GPU the 7B and 8B models run on 8 to 128 frames, elsewhere LLaVA-OneVision-0.5B on 8. `--toy` shrinks every
model, to try the script in seconds.
"""

import argparse
import math
import sys
from itertools import product
from pathlib import Path

import pandas as pd
import torch
import transformers as hf

import vtc_lab as vtc
from vtc_lab.models.video_model import VideoModel

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests")]
from throughput import chosen, show, write  # noqa: E402
from tiny_checkpoints import CHAT, TINY, tokenizer  # noqa: E402

METHODS = ["lftr", *vtc.variants("lftr", stage=["both", "pixels"])]
METHODS += ["earlytom", "holitom", "fastvid", "visionzip", "fastv"]
IN_TOWER = vtc.variants("earlytom", stage=["both"])  # for towers that run frames as a batch
SIGLIP = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 26, "num_attention_heads": 16}
SIGLIP |= {"image_size": 384, "patch_size": 14, "vision_use_head": False, "model_type": "siglip_vision_model"}
QWEN2 = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28}
QWEN2 |= {
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"},
}
SMALL = {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14}
SMALL |= {"num_key_value_heads": 2, "vocab_size": 152000, "tie_word_embeddings": True}
TOWER = {"patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "num_heads": 16}
TOWER25 = TOWER | {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 3584}
TOWER25 |= {"window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31]}
TOWER3 = TOWER | {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "out_hidden_size": 4096}
TOWER3 |= {"patch_size": 16, "num_position_embeddings": 2304, "deepstack_visual_indexes": [8, 16, 24]}
QWEN3 = {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32}
QWEN3 |= {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936}
QWEN3 |= {"rope_parameters": {"rope_theta": 5e6, "rope_type": "default", "mrope_section": [24, 20, 20]}}
MROPE = {"rope_parameters": {"rope_theta": 1e6, "rope_type": "default", "mrope_section": [16, 24, 24]}}
MODELS = {  # family, vision tower and language model, as the checkpoints' configurations have them
    "LLaVA-OneVision-0.5B": ("llava_onevision", SIGLIP, QWEN2 | SMALL),
    "LLaVA-OneVision-7B": ("llava_onevision", SIGLIP, QWEN2),
    "Qwen2.5-VL-7B": ("qwen2_5_vl", TOWER25, QWEN2 | MROPE),
    "Qwen3-VL-8B": ("qwen3_vl", TOWER3, QWEN3),
}
TOY = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
TOY |= {"num_key_value_heads": 2, "head_dim": 8, "vocab_size": 1000}
TOY_ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
TOY_TOWER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
TOY_TOWER |= {"depth": 2, "num_heads": 2, "out_hidden_size": 32}
TOY_TOWER |= {"fullatt_block_indexes": [1], "deepstack_visual_indexes": [0, 1]}


def build(name: str, device: str, toy: bool) -> VideoModel:
    """Return a model of this configuration with random weights, bfloat16 on a GPU."""
    family, vision, text = MODELS[name]
    if toy:
        vision = {key: TOY_TOWER.get(key, value) for key, value in vision.items()}
        text = text | TOY | ({"rope_parameters": TOY_ROPE} if family != "llava_onevision" else {})
    words, config, processor = _parts(family, vision, text)
    processor.chat_template = CHAT % (TINY[family].clip, TINY[family].picture)
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    with torch.device(device):
        network = hf.AutoModelForImageTextToText.from_config(config, dtype=dtype)
    return VideoModel(network.eval(), processor, f"{name}{' (toy size)' if toy else ''}, random weights")


def _parts(family: str, vision: dict, text: dict) -> tuple:
    """The tokenizer, the configuration and the processor of a family."""
    if family == "llava_onevision":
        places = {"image_token": "<image>", "video_token": "<video>"}
        words = tokenizer(**places)
        ids = {f"{kind}_token_index": words.convert_tokens_to_ids(f"<{kind}>") for kind in ("image", "video")}
        config = hf.LlavaOnevisionConfig(vision_config=vision, text_config=text | {"model_type": "qwen2"}, **ids)
        videos = hf.LlavaOnevisionVideoProcessor(size={"height": 384, "width": 384})
        given = {"num_image_tokens": 729, "vision_feature_select_strategy": "full"}
        return words, config, hf.LlavaOnevisionProcessor(hf.LlavaOnevisionImageProcessor(), words, videos, **given)
    places = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
    words = tokenizer("<|vision_start|>", "<|vision_end|>", **places)
    ids = {f"{kind}_token_id": words.convert_tokens_to_ids(f"<|{kind}_pad|>") for kind in ("image", "video")}
    ids |= {f"vision_{end}_token_id": words.convert_tokens_to_ids(f"<|vision_{end}|>") for end in ("start", "end")}
    new = family == "qwen3_vl"
    config = (hf.Qwen3VLConfig if new else hf.Qwen2_5_VLConfig)(vision_config=vision, text_config=text, **ids)
    size = {"patch_size": vision["patch_size"]}
    videos = (hf.Qwen3VLVideoProcessor if new else hf.Qwen2VLVideoProcessor)(**size, do_sample_frames=False)
    kind = hf.Qwen3VLProcessor if new else hf.Qwen2_5_VLProcessor
    return words, config, kind(hf.Qwen2VLImageProcessor(**size), words, videos)


def on_paper(frames: list[int]) -> pd.DataFrame:
    """Return TFLOPs, the cache, and ideal speed-ups of the time to the first token, from the configurations alone."""
    rows = []
    for (name, (family, vision, text)), count in product(MODELS.items(), frames):
        grid = (count, 14, 14) if family == "llava_onevision" else (count // 2, 16, 16)  # 448 or 512 pixels square
        config = _parts(family, vision, text)[1]
        config.dtype = torch.bfloat16
        full = vtc.stage_costs(config, grid)
        sums = full.groupby("stage").sum()
        row = {"model": name, "frames": count, "tokens": math.prod(grid), "billion weights": sums.parameters / 1e9}
        row["billion weights"] = row["billion weights"].drop("decode").sum()
        row |= {
            "encoder TFLOPs": sums.flops[["vision", "projector"]].sum() / 1e12,
            "cache MB": sums.kv_bytes.prefill / 1e6,
        }
        row["prefill TFLOPs"] = (sums.flops - sums.attention / 2).prefill / 1e12
        seconds = {"encode": row["encoder TFLOPs"], "prefill": row["prefill TFLOPs"]}
        each = math.prod(grid[1:])
        for ratio in (4, 10):
            stages = {
                "": None,
                " both": [round(1.5 * each / ratio)] * grid[0],
                " pixels": [round(each / ratio)] * grid[0],
            }
            for stage, encoded in stages.items():
                reduced = vtc.stage_costs(config, grid, math.prod(grid) // ratio, encoded=encoded)
                row[f"ideal {ratio}x{stage}"] = vtc.ideal_speedup(full, reduced, seconds)
        rows.append(row)
    return pd.DataFrame(rows).round(2)


def main() -> None:
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS)
    parser.add_argument("--methods", nargs="+", type=chosen)
    parser.add_argument("--frames", nargs="+", type=int, default=[8, 32, 64, 128] if gpu else [8])
    parser.add_argument("--ratios", nargs="+", type=float, default=[2, 4, 8, 10, 16] if gpu else [4, 10])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4, 16] if gpu else [1])
    parser.add_argument("--repeats", type=int, default=5 if gpu else 2)
    parser.add_argument("--new-tokens", type=int, default=16 if gpu else 4)
    parser.add_argument("--toy", action="store_true", help="models of a few layers and channels")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--on-paper", action="store_true", help="no model: what the configurations alone say")
    given = parser.parse_args()
    if given.on_paper:
        print(on_paper(given.frames).to_string(index=False))
        return
    tables = []
    for name in given.models or (list(MODELS)[1:] if gpu or given.toy else list(MODELS)[:1]):
        model = build(name, "cuda" if gpu else "cpu", given.toy)
        methods = given.methods or METHODS + IN_TOWER * (MODELS[name][0] == "llava_onevision")
        for frames in given.frames:
            table = vtc.measure(
                model,
                ROOT / "data" / "clips" / "bikes.mp4",
                methods,
                given.ratios,
                frames=frames,
                batches=given.batches,
                new_tokens=given.new_tokens,
                repeats=given.repeats,
            )
            tables.append(table)
            print(table.attrs, show([table]), sep="\n", flush=True)
            if given.out:  # after each, so that a run that is cut short leaves what it has
                write(tables, given.out)
        del model


if __name__ == "__main__":
    main()
