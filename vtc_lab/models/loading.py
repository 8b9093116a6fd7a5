"""Load a model: on what and in which precision, whether its files are at hand, and whether memory will do."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path

import psutil
import torch
from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from vtc_lab.clips.reading import ROOT, lfs_pointer
from vtc_lab.models.families import FAMILIES, how_to_add
from vtc_lab.models.video_model import VideoModel
from vtc_lab.tokens import VTCError, suggest

BUNDLED = ROOT / "data" / "models" / "shapes-onevision-2m"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_MARGIN = 1.2  # of the weights' size, for what a short clip takes beside them: our choice
_WAIT = 5.0  # seconds for the hub to answer


def load_model(
    name: str | Path | None = None,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    trust_remote_code: bool = False,
    safetensors_only: bool = True,
) -> VideoModel:
    """Load a Video-QA model: the bundled one, a folder, or a hub id, all by the same code.

    Parameters
    ----------
    name : a folder or hub id of a checkpoint of one of the families in `vtc_lab.models.families.FAMILIES`, to which
        `register_family` adds, or None for the bundled toy model.
    device : "cpu", "cuda", "mps"; by default the best there is.
    dtype : "float32", "bfloat16" or "float16"; by default float32 on a CPU, elsewhere bfloat16, or float16 where the
        device does not compute in that.
    trust_remote_code, safetensors_only : code from a checkpoint is not run and pickled weights are not read, unless
        you say otherwise.

    Returns
    -------
    VideoModel, in evaluation mode.

    Raises
    ------
    VTCError
        If there is no such checkpoint or device, its family is not supported, or, before anything is loaded, if free
        memory is less than 1.2 times what the weights take.

    Examples
    --------
    >>> load_model().network.config.model_type
    'llava_onevision'
    """
    source = _source(name)
    device = choose_device(device)
    dtype = choose_dtype(dtype, device)
    offline, weights = ask_hub(source)
    given = {"trust_remote_code": trust_remote_code, "local_files_only": offline}
    try:
        config = AutoConfig.from_pretrained(source, **given)
        if not any(name.startswith("vision") for name in config.to_dict()):
            raise VTCError(f"{source} is a {config.model_type} model, which has no vision tower; give one that has")
        if config.model_type not in FAMILIES:
            raise VTCError(f"{source} is a {config.model_type} model, and {how_to_add(config.model_type)}")
        demand_memory(source, config, weights, dtype, device)
        network, told = AutoModelForImageTextToText.from_pretrained(
            source, dtype=dtype, use_safetensors=safetensors_only or None, output_loading_info=True, **given
        )
        if lacking := sorted(told["missing_keys"]):
            raise VTCError(
                f"{source} lacks {len(lacking)} of its model's weights, {', '.join(lacking[:3])} among them; "
                "give a checkpoint that is whole"
            )
        processor = AutoProcessor.from_pretrained(source, **given)
    except VTCError:
        raise
    except Exception as error:  # of transformers, of whatever a checkpoint asks for, or of its own code
        raise VTCError(f"no model could be loaded from {source}: {_reason(source, offline, error)}") from error
    local = Path(source).exists()
    label, place = (Path(source).name, str(Path(source).resolve())) if local else (source, source)
    spec = {"name": place, "device": device, "dtype": dtype}
    spec |= {"trust_remote_code": trust_remote_code, "safetensors_only": safetensors_only}
    return VideoModel(network.to(device).eval(), processor, label, spec)


def _source(name: str | os.PathLike | None) -> str:
    """The folder or hub id to load from."""
    if name is None:
        return str(BUNDLED)
    if not isinstance(name, str | os.PathLike) or not str(name):
        raise VTCError(f"model is {name!r:.60}; give a folder or a hub id")
    place = Path(name).expanduser()
    if place.is_file():
        raise VTCError(f"{name} is a file; give the folder in which it is")
    return str(place) if place.exists() else str(name)


def _reason(source: str, offline: bool, error: Exception) -> str:
    """Why a model could not be loaded, in one line."""
    folder, line = Path(source), str(error).strip().split("\n")[0]
    if not folder.exists() and (offline or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source)):
        away = "" if folder.is_absolute() else ", it is not in the cache, and the hub cannot be reached"
        return f"there is no such folder{away}"
    if (folder / "adapter_config.json").is_file():
        return "it is an adapter (LoRA); merge it into its model and save that"
    if folder.is_dir() and not (folder / "config.json").is_file():
        return "there is no config.json in it"
    if any(folder.glob("*.bin")) and not any(folder.glob("*.safetensors")):
        return "its weights are pickled, which can run code; pass safetensors_only=False if you trust them"
    if "size mismatch" in str(error) or "ignore_mismatched_sizes" in str(error):
        return "its weights do not fit its config.json"
    return line if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {line}"


def choose_device(device: str | torch.device | None) -> str:
    """The device asked for, or the best that is there.

    Raises
    ------
    VTCError
        If this machine does not have it.

    Examples
    --------
    >>> choose_device("cpu")
    'cpu'
    """
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    here = [kind for kind, there in here.items() if there]
    device = here[0] if device is None else str(device)
    kind, _, number = device.partition(":")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if kind not in here or (number and not (number.isdecimal() and int(number) < count)):
        there = [name if name != "cuda" else f"cuda (0 to {torch.cuda.device_count() - 1})" for name in here]
        raise VTCError(f"device is {device!r}; this machine has {', '.join(there)}")
    return device


def choose_dtype(dtype: str | torch.dtype | None, device: str) -> torch.dtype:
    """The precision asked for; else float32 on a CPU, bfloat16 on what computes in it, and float16 elsewhere.

    Raises
    ------
    VTCError
        If it is none of the three.

    Examples
    --------
    >>> choose_dtype(None, "cpu"), choose_dtype("float16", "cpu")
    (torch.float32, torch.float16)
    """
    if dtype is None and device.split(":")[0] == "cpu":
        return torch.float32
    if dtype is None:
        kind = device.split(":")[0]
        good = torch.cuda.is_bf16_supported(including_emulation=False) if kind == "cuda" else _mps_has_bfloat16()
        return torch.bfloat16 if good else torch.float16
    found = DTYPES.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise VTCError(f"dtype is {dtype!r}; {suggest(str(dtype), DTYPES)}")
    return found


def _mps_has_bfloat16() -> bool:
    try:
        torch.zeros(1, dtype=torch.bfloat16, device="mps")
    except (TypeError, RuntimeError):  # before macOS 14
        return False
    return True


def ask_hub(source: str) -> tuple[bool, int]:
    """Whether files must come from the cache alone, and how many weights the hub says a model has (0 if it does not).

    Without a network transformers tries for long; this waits 5 seconds for an answer.
    """
    if Path(source).exists():
        return True, 0
    try:
        about = HfApi().model_info(source, timeout=_WAIT).safetensors
    except (HFValidationError, RepositoryNotFoundError, GatedRepoError):
        return False, 0  # transformers says what is wrong
    except Exception:  # no network, an answer that takes too long, HF_HUB_OFFLINE
        return True, 0
    return False, about.total if about else 0


def demand_memory(source: str, config: object, weights: int, dtype: torch.dtype, device: str) -> None:
    """Raise a VTCError if a model's weights will not fit, with a margin of a fifth for what is computed with them.

    Parameters
    ----------
    source : a folder, or the id of a model; what is on disk of it is measured by its index or headers of safetensors.
    config : its configuration. Quantised weights count one byte each.
    weights : how many weights it has, where that is known otherwise; else 0.
    dtype, device : in and on which it is to be loaded.

    Source: our definition of how much room is enough.
    """
    if not weights:
        kept = None if Path(source).exists() else try_to_load_from_cache(source, "config.json")
        weights = count_weights(Path(kept).parent if isinstance(kept, str) else Path(source))
    quantised = getattr(config, "quantization_config", None) is not None
    need = _MARGIN * weights * (1 if quantised else dtype.itemsize)
    # Weights come through the CPU's memory on their way to another device.
    for place in dict.fromkeys(["cpu", device]):
        if need > (free := free_memory(place)):
            half = need / dtype.itemsize * 2
            help_ = ["a smaller checkpoint"]
            if dtype.itemsize > 2 and not quantised and half <= free:
                help_.insert(0, f"dtype='bfloat16' (needs {half / 1e9:.1f} GB)")
            if place != "cpu" and need <= free_memory("cpu"):
                help_.insert(0, "device='cpu'")
            raise VTCError(
                f"{source} needs about {need / 1e9:.1f} GB in {str(dtype).removeprefix('torch.')} and {place} has "
                f"{free / 1e9:.1f} GB free; take {' or '.join(help_)}"
            )


def free_memory(device: str) -> float:
    """Bytes that are free on a device; of the machine, where it shares its memory or nothing better is known.

    >>> 0 < free_memory("cpu") < 1e15
    True
    """
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def count_weights(folder: Path) -> int:
    """How many weights a folder's safetensors hold, by their headers; by the index for files that are not there.

    >>> count_weights(BUNDLED)
    2150912
    """
    index = folder / "model.safetensors.index.json"
    files = sorted(folder.glob("model*.safetensors")) if folder.is_dir() else []
    if index.is_file():
        listed = json.loads(index.read_text())
        shards = {folder / name for name in listed["weight_map"].values()}
        if not shards <= set(files):
            config = json.loads((folder / "config.json").read_text())
            stored = DTYPES.get(str(config.get("dtype") or config.get("torch_dtype")), torch.bfloat16)
            return int(listed["metadata"]["total_size"]) // stored.itemsize
        files = sorted(shards)
    return sum(_in_header(file) for file in files)


def _in_header(file: Path) -> int:
    if pointer := lfs_pointer(file):
        raise VTCError(pointer)
    with file.open("rb") as content:
        length = int.from_bytes(content.read(8), "little")
        header = content.read(length) if length < file.stat().st_size else b""
    try:
        entries = json.loads(header)
    except ValueError as error:
        raise VTCError(f"{file} is cut off or no safetensors file; fetch it again") from error
    return sum(math.prod(entry["shape"]) for name, entry in entries.items() if name != "__metadata__")
