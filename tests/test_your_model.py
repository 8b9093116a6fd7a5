"""Every family by the one way in: load_model, encode, ask, sweep; each compared with the model's own way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tiny_checkpoints
import torch
from conformance_table import EVERY_FAMILY
from safetensors.torch import load_file, save_file
from tiny_checkpoints import TINY, frames

import vtc_lab as vtc
from vtc_lab.clips.reading import ROOT
from vtc_lab.models import loading
from vtc_lab.models.compression import compress, put_back
from vtc_lab.models.families import FAMILIES
from vtc_lab.models.loading import BUNDLED, count_weights
from vtc_lab.models.prompt_clips import encode_prompt
from vtc_lab.models.prompts import ask_processor, rows_of

FRAMES = 6
QUESTIONS = ["what moves first ?", "is the circle red ?", "where ?"]


@pytest.fixture(scope="module")
def loaded():
    """Models by family, each loaded once."""
    return cache(lambda family: vtc.load_model(tiny_checkpoints.checkpoint(family)))


def clip_of(seed: int) -> vtc.Clip:
    return vtc.Clip(frames(seed), np.arange(FRAMES) / 2)


def own_way(model, clip: vtc.Clip, question: str):
    """What a user of this checkpoint writes: the template, the processor with the frames' times."""
    pictures = TINY[model.network.config.model_type].frames_as_pictures
    content = [{"type": "image"}] * len(clip) if pictures else [{"type": "video"}]
    message = {"role": "user", "content": [*content, {"type": "text", "text": question}]}
    text = model.processor.apply_chat_template([message], add_generation_prompt=True)
    if pictures:
        return model.processor(text=text, images=list(clip.frames), return_tensors="pt")
    times = {"fps": 2, "frames_indices": list(range(len(clip))), "total_num_frames": len(clip)}
    times["duration"] = len(clip) / 2
    told = {"video_metadata": [times], "do_sample_frames": False}
    return model.processor(text=text, videos=[clip.frames], videos_kwargs=told, return_tensors="pt")


@torch.no_grad()
def first_logits(model, inputs) -> torch.Tensor:
    options = {"max_new_tokens": 1, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    return model.network.generate(**inputs, **options).logits[0][0]


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_ask_is_the_models_own_way(loaded, family) -> None:
    """Alone and together, for methods that prune and that merge, at both kinds of positions."""
    model, clip = loaded(family), clip_of(1)
    tokens = model.encode(clip)
    assert tokens.grid[0] in (FRAMES, FRAMES // 2) and len(FAMILIES) == len(TINY)
    plain = [own_way(model, clip, question) for question in QUESTIONS]
    encoded = [encode_prompt(model.network, inputs) for inputs in plain]
    reductions = [vtc.reduce(tokens, method, ratio=4) for method in ("random", "lftr", "pool")]
    for positions in ("preserve", "compact"):
        how = {"positions": positions, "max_new_tokens": 6}
        rows = model.ask_each(QUESTIONS, clip, reductions, candidates=[None] * 3, **how)
        for reduction, row in zip(reductions, rows, strict=True):
            for prompt, answer in zip(encoded, row, strict=True):
                own = vtc.reduce(prompt.tokens[0], reduction.method, ratio=4)
                expected = first_logits(model, put_back(model.network, prompt, [own], positions))
                torch.testing.assert_close(answer.logits, expected, atol=1e-4, rtol=0)
                assert (answer.entered, answer.total) == (len(reduction), tokens.total)
        for n, (question, reduction) in enumerate(zip(QUESTIONS, reductions, strict=True)):
            alone = model.ask(question, clip, reduction, **how)
            torch.testing.assert_close(alone.logits, rows[n][n].logits, atol=1e-4, rtol=0)
            assert alone.text == rows[n][n].text
    whole = model.ask(QUESTIONS[0], clip, max_new_tokens=1).logits
    torch.testing.assert_close(whole, first_logits(model, plain[0]), atol=1e-4, rtol=0)
    assert not torch.allclose(whole, rows[-1][0].logits, atol=1e-3)


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_how_likely_answers_are(loaded, family) -> None:
    model, clip = loaded(family), clip_of(3)
    texts, tokenizer = ["red circle", "red", "red square moves left"], model.processor.tokenizer
    codes = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    for method, ratio in (("pool", 4), (None, 1)):
        reduced = vtc.reduce(model.encode(clip), method, ratio=ratio) if method else None
        plain, sums = own_way(model, clip, QUESTIONS[0]), []
        for code in codes:
            inputs = dict(plain)
            for name in rows_of(inputs):
                more = torch.tensor([code]) if name == "input_ids" else torch.full((1, len(code)), name[0] == "a")
                inputs[name] = torch.cat([inputs[name], more.to(inputs[name])], 1)
            inputs = compress(model.network, inputs, method, ratio) if method else inputs
            with torch.no_grad():
                logits = model.network(**inputs).logits[0, -len(code) - 1 : -1].log_softmax(-1)
            sums.append(float(logits[range(len(code)), code].sum()))
        answer = model.ask(QUESTIONS[0], clip, reduced, candidates=texts, max_new_tokens=1)
        assert list(answer.scores.values()) == pytest.approx(torch.tensor(sums).softmax(0).tolist(), abs=1e-4)


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_sweep(loaded, family) -> None:
    model = loaded(family)
    samples = [{"clip": clip_of(1), "question": question, "answer": "red"} for question in QUESTIONS[:2]]
    table = vtc.sweep(model, samples, ["lftr", "random"], [1, 3], max_new_tokens=2)
    assert set(table.status) == {"ok"} and table.engaged.all() and len(table) == 8
    whole = table[table.ratio == 1]
    assert (whole.kl == 0).all() and (whole.kept == whole.total).all()
    assert (table[table.ratio == 3].kl > 0).all()


def test_the_explorer_shows_one_frame_of_each_pair(loaded, tmp_path) -> None:
    model = loaded("qwen3_vl")
    explorer = vtc.explore(folder="data/clips", frames=5, encoder="video-qa model", model=model.spec["name"], ratio=4)
    said = "a token is of 2 frames, of which the first is shown"
    assert explorer.message == said and explorer.state["clip"].endswith("bigbuckbunny.mp4")
    assert "of 3 frames" in explorer._strips.layers[0]["ledger"]
    explorer._controls["question"].value = "what ?"
    explorer._ask.click()
    explorer.wait()
    assert explorer.message == said and len(explorer._charts.answer["rows"]) == 3


def test_a_model_that_is_loaded_is_not_loaded_again(loaded, monkeypatch) -> None:
    model = loaded("llava_next_video")
    monkeypatch.setattr("vtc_lab.models.loading.load_model", None)  # whoever calls it gets an error on show
    explorer = vtc.explore(model, clip="data/clips/dog.mp4", frames=4, question="what ?")
    assert explorer.message == "" and explorer._view.tokens.encoder == model.name
    assert (explorer.state["encoder"], explorer.state["model"]) == ("video-qa model", model.spec["name"])
    explorer._ask.click()
    explorer.wait()
    assert explorer.message == "" and len(explorer._charts.answer["rows"]) == 3


@pytest.mark.slow
def test_model_and_folder_can_be_typed(loaded, tmp_path) -> None:
    model = loaded("llava_next_video")
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("b.mp4", "a.mp4"):
        shutil.copy(ROOT / "data" / "clips" / "dog.mp4", folder / name)
    explorer = vtc.explore(frames=4, encoder="video-qa model", ratio=4)
    picture = explorer._strips.sprite

    explorer._folder.value = str(folder)
    explorer.wait()
    assert explorer.message == "" and explorer._strips.sprite != picture
    assert explorer.state["clip"] == str(folder / "a.mp4")
    assert [name for name, _ in explorer._controls["clip"].options] == ["a.mp4", "b.mp4"]
    explorer._folder.value = "no/such/folder"
    explorer.wait()
    assert "no/such/folder" in explorer.message and explorer.state["folder"] == str(folder)

    explorer._controls["model"].value = f" {model.spec['name']} "
    explorer.wait()
    assert explorer.message == "" and explorer._view.tokens.encoder == model.name
    explorer._controls["model"].value = "no/such/checkpoint"
    explorer.wait()
    assert "no/such/checkpoint" in explorer.message and explorer._view.tokens.encoder == model.name


# --- loading -----------------------------------------------------------------------------------------------------


def test_memory_that_will_not_do_is_told_before_anything_is_loaded(monkeypatch) -> None:
    weights = count_weights(BUNDLED)
    for bytes_each, way in ((3, "dtype='bfloat16' (needs"), (1, "a smaller checkpoint")):  # enough for 2 each, or not
        monkeypatch.setattr(loading, "free_memory", lambda device, each=bytes_each: each * weights)
        with pytest.raises(vtc.VTCError, match="needs about .* GB in float32 and cpu has [^\n]+$") as error:
            vtc.load_model()
        assert way in str(error.value) and ("bfloat16" in str(error.value)) == (bytes_each == 3)


def test_weights_are_counted_from_headers(loaded, tmp_path) -> None:
    model = loaded("qwen3_vl")
    count = sum(weight.numel() for weight in model.network.state_dict().values())
    assert count_weights(Path(model.spec["name"])) == count
    model.network.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2 and count_weights(tmp_path) == count


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float16])
def test_dtypes(loaded, dtype) -> None:
    model = vtc.load_model(loaded("llava").spec["name"], dtype=dtype)
    clip = clip_of(1)
    answers = model.ask(QUESTIONS, clip, vtc.reduce(model.encode(clip), "lftr", ratio=2))
    assert all(answer.logits.isfinite().all() for answer in answers)
    assert f"on cpu in {str(dtype).removeprefix('torch.')}" in repr(model) and "16 tokens a frame" in repr(model)


def test_an_unknown_dtype_is_told() -> None:
    with pytest.raises(vtc.VTCError, match="did you mean 'bfloat16'"):
        vtc.load_model(dtype="bfloat")


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_the_line_says_what_it_is(loaded, family) -> None:
    model = loaded(family)
    clip = vtc.Clip(np.zeros((16, 360, 640, 3), np.uint8), np.arange(16.0))
    each = model.encode(clip).total / 16
    size = sum(weight.numel() for weight in model.network.parameters()) / 1e6
    assert repr(model).startswith(f"<{FAMILIES[family].name}, {size:.1f} million")
    assert repr(model).endswith(f", {each:g} tokens a frame (16 of 640x360)>")


def test_what_cannot_be_loaded_is_told_in_one_sentence(loaded, tmp_path) -> None:
    folder = Path(shutil.copytree(loaded("llava_next_video").spec["name"], tmp_path / "odd"))
    weights = load_file(folder / "model.safetensors")
    projector = {name: weight for name, weight in weights.items() if "projector" in name}
    rest = {name: weight for name, weight in weights.items() if name not in projector}
    save_file(rest, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(vtc.VTCError, match=f"lacks {len(projector)} of its model's weights, .*projector.* whole"):
        vtc.load_model(folder)
    narrow = {name: weight[:1] if name in projector else weight for name, weight in weights.items()}
    save_file(narrow, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(vtc.VTCError, match="odd: its weights do not fit its config.json"):
        vtc.load_model(folder)
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(vtc.VTCError, match="pickled, .*safetensors_only=False"):
        vtc.load_model(folder)
    assert vtc.load_model(folder, safetensors_only=False).family.name == "LLaVA-NeXT-Video"
    whole = Path(loaded("llava_next_video").spec["name"], "model.safetensors").read_bytes()
    for content, words in (
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
            "is a git-LFS pointer .*git lfs pull",
        ),
        (whole[:2000], "is cut off or no safetensors file"),
        (b"", "is cut off or no safetensors file"),
    ):
        (folder / "model.safetensors").write_bytes(content)
        with pytest.raises(vtc.VTCError, match=words):
            vtc.load_model(folder)
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(vtc.VTCError, match="is a gpt2 model, which has no vision tower; give one that has"):
        vtc.load_model(folder)
    (folder / "config.json").unlink()
    with pytest.raises(vtc.VTCError, match="odd: there is no config.json in it"):
        vtc.load_model(folder)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(vtc.VTCError, match=r"odd: it is an adapter \(LoRA\); merge it"):
        vtc.load_model(folder)
    config = Path(loaded("llava_next_video").spec["name"], "config.json")
    for wrong, words in (
        (config, "config.json is a file; give the folder"),
        (loaded("llava_next_video"), "model is <LLaVA-NeXT-Video.*; give a folder or a hub id"),
        ("/no/such/folder", "could be loaded from /no/such/folder: there is no such folder$"),
    ):
        with pytest.raises(vtc.VTCError, match=words):
            vtc.load_model(wrong)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "pytorch_model.bin", "tokenizer.json"])
@pytest.mark.parametrize("special", ["pipe", "/dev/zero"])
def test_a_pipe_or_a_device_in_a_checkpoint_is_refused(tmp_path, name, special) -> None:
    folder = Path(shutil.copytree(BUNDLED, tmp_path / "odd"))
    (folder / name).unlink(missing_ok=True)
    if special == "pipe":
        os.mkfifo(folder / name)
    else:
        (folder / name).symlink_to(special)
    with pytest.raises(vtc.VTCError, match=f"{name} is a pipe or a device; give a checkpoint"):
        vtc.load_model(folder, safetensors_only=False)


@pytest.mark.parametrize("index", ["model.safetensors.index.json", "pytorch_model.bin.index.json"])
@pytest.mark.parametrize("shard", ["../../{}", "/dev/zero", "{}", "a/b/c/d.safetensors"])
def test_shards_lie_in_the_folder_of_their_index(tmp_path, index, shard) -> None:
    folder = Path(shutil.copytree(BUNDLED, tmp_path / "one" / "two" / "three"))
    elsewhere = (folder / "model.safetensors").rename(tmp_path / "one" / "elsewhere.safetensors")
    name = shard.format(elsewhere if shard == "{}" else elsewhere.name)
    told = {"metadata": {"total_size": 8}, "weight_map": dict.fromkeys(load_file(elsewhere), name)}
    (folder / index).write_text(json.dumps(told))
    with pytest.raises(vtc.VTCError, match=f"{index} names .*; give a checkpoint whose shards lie beside"):
        vtc.load_model(folder, safetensors_only=False)


def test_a_pipe_is_no_checkpoint(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(vtc.VTCError, match="^no model could be loaded from"):
        vtc.load_model(tmp_path / "pipe")


def test_a_numbered_cpu_is_a_cpu(loaded) -> None:
    assert vtc.load_model(loaded("llava").spec["name"], device="cpu:0").network.dtype == torch.float32


@pytest.mark.parametrize("device", ["cpu:1", "cpu:x", "gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_told(device) -> None:
    with pytest.raises(vtc.VTCError, match=f"device is '{device}'; this machine has .*cpu"):
        vtc.load_model(device=device)


@pytest.mark.slow
def test_models_can_be_loaded_in_several_threads_at_once() -> None:
    """As a panel and a cell do in a fresh kernel; transformers alone loses weights then."""
    lines = """
import concurrent.futures as futures, vtc_lab as vtc
load = vtc.load_model
with futures.ThreadPoolExecutor(3) as executor:
    print(*[job.result().name for job in [executor.submit(load) for _ in range(3)]])
"""
    run = subprocess.run([sys.executable, "-c", lines], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout.split() == [BUNDLED.name] * 3, run.stderr[-500:]


def test_a_folder_in_the_home(loaded, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(Path(loaded("llava").spec["name"]).parent))
    assert vtc.load_model("~/llava").family.name == "LLaVA"


def test_what_is_no_reduction_is_told(loaded) -> None:
    with pytest.raises(vtc.VTCError, match="reduction is 'lftr'; give what vtc.reduce returns"):
        loaded("llava").ask("what ?", clip_of(1), "lftr")


# --- chat templates ----------------------------------------------------------------------------------------------


def test_without_a_chat_template_nobody_knows_how_to_ask(tmp_path) -> None:
    model = vtc.load_model(tiny_checkpoints.write("llava", tmp_path))
    model.processor.chat_template = None
    with pytest.raises(vtc.VTCError, match="no chat template; set model.processor.chat_template"):
        model.encode(clip_of(1))
    model.processor.chat_template = (
        "{{ messages[0]['content'][-1]['text'] }} {% for part in messages[0]['content'][:-1] %}<image>{% endfor %} :"
    )
    for _ in range(2):  # the second time as well
        with pytest.raises(vtc.VTCError, match="question behind the clip"):
            model.ask("what ?", clip_of(1))
    model.processor.chat_template = "{{ raise_exception('no such role') }}"
    with pytest.raises(vtc.VTCError, match="a chat template that fails .*no such role"):
        model.encode(clip_of(1))
    assert repr(model).startswith("<LLaVA, ") and "chat template that fails" in repr(model)


def test_a_chat_template_with_nothing_behind_the_question(loaded) -> None:
    model = vtc.load_model(loaded("llava_onevision").spec["name"])
    template = "<video> {{ messages[0]['content'][-1]['text'] }}"
    model.processor.chat_template = template
    asked = [model.ask(question, clip_of(1)).logits for question in QUESTIONS]
    for question, logits in zip(QUESTIONS, asked, strict=True):
        inputs = model.processor(text=f"<video> {question}", videos=[clip_of(1).frames], return_tensors="pt")
        torch.testing.assert_close(logits, first_logits(model, inputs), atol=1e-4, rtol=0)
    model.processor.chat_template = "{{ messages[0]['content'][-1]['text'] }} <video>"
    with pytest.raises(vtc.VTCError, match="question behind the clip"):
        model.ask("what ?", clip_of(1))


HUB = """
import json, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
config = open(sys.argv[1], "rb").read()
class Hub(BaseHTTPRequestHandler):
    def log_message(self, *_): pass
    def do_HEAD(self): self.do_GET()
    def do_GET(self):
        about = self.path.startswith("/api/models/somebody/huge")
        known = about or self.path.endswith("/config.json")
        weights = {"parameters": {"BF16": 10**15}, "total": 10**15}
        found = json.dumps({"id": "somebody/huge", "safetensors": weights}).encode() if about else config
        self.send_response(200 if known else 404)
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", '"1"')
        if not known: self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("Content-Length", str(len(found) if known else 0))
        self.end_headers()
        if known and self.command == "GET": self.wfile.write(found)
server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
import os
os.environ |= {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": sys.argv[2]}
import vtc_lab as vtc
def load(name):
    begun = time.perf_counter()
    try:
        vtc.load_model(name)
    except vtc.VTCError as error:
        print(time.perf_counter() - begun, error)
load("somebody/huge")
import socket
def closed(*_, **__):
    raise OSError("no network")
socket.socket.connect = socket.getaddrinfo = closed
load("somebody/some-model-7b")
"""


@pytest.mark.slow
def test_the_hub_says_how_large_a_model_is_and_without_a_network_loading_fails_within_seconds(tmp_path) -> None:
    run = [sys.executable, "-c", HUB, str(BUNDLED / "config.json"), str(tmp_path)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=120)
    (_, huge), (seconds, away) = (line.split(" ", 1) for line in done.stdout.splitlines())  # one line each
    assert huge.startswith("somebody/huge needs about 4800000.0 GB in float32 and cpu has"), done.stderr
    assert float(seconds) < 8 and "hub cannot be reached" in away


def test_timestamps_are_those_of_the_clip(loaded) -> None:
    model = loaded("qwen3_vl")
    clip = vtc.Clip(frames(1), np.array([0.0, 0.4, 3.0, 3.1, 5.25, 6.25]))
    inputs = ask_processor(model.processor, model.family, clip, "what ?")
    words = model.processor.tokenizer.decode(inputs["input_ids"][0]).replace(" ", "")
    assert [part.split("seconds")[0] for part in words.split("<")[1:] if "seconds" in part] == ["0.2", "3.0", "5.8"]
