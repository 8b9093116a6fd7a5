"""Load a model: choose device and precision, find its files, and refuse what memory will not hold."""

import json
import os
import re
import threading
from pathlib import Path
from typing import Any

import psutil
import torch
from huggingface_hub import HfApi, parse_local_safetensors_file_metadata, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, SafetensorsParsingError
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from vtc_lab.clips.reading import ROOT, given_path, unfit
from vtc_lab.models.families import FAMILIES, how_to_add
from vtc_lab.models.video_model import VideoModel
from vtc_lab.tokens import VTCError, demand_one_of

BUNDLED = ROOT / "data" / "models" / "shapes-onevision-3m"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_MARGIN = 1.2  # of the weights' size, for what a short clip takes beside them: our choice
_ONE_AT_A_TIME = threading.Lock()  # while transformers loads weights in one thread, it loses some in another
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
        device does not compute in bfloat16.
    trust_remote_code, safetensors_only : change them to run code from a checkpoint or to read pickled weights, which
        can run code too.

    Returns
    -------
    VideoModel, in evaluation mode. If free memory is less than 1.2 times what the weights take, a VTCError says so
        before anything is loaded.

    Examples
    --------
    >>> load_model().network.config.model_type
    'llava_onevision'
    """
    source = _source(name)
    device = _device(device)
    dtype = _dtype(dtype, device)
    offline, weights = _ask_hub(source)
    given: dict[str, Any] = {"trust_remote_code": trust_remote_code, "local_files_only": offline}
    try:
        _demand_files(Path(source))
        config = AutoConfig.from_pretrained(source, **given)
        if not any(name.startswith("vision") for name in config.to_dict()):
            raise VTCError(f"{source} is a {config.model_type} model, which has no vision tower; give one that has")
        if config.model_type not in FAMILIES:
            raise VTCError(f"{source} is a {config.model_type} model, and {how_to_add(config.model_type)}")
        _demand_memory(source, config, weights, dtype, device)
        reading = given | {"dtype": dtype, "use_safetensors": safetensors_only or None, "output_loading_info": True}
        with _ONE_AT_A_TIME:
            loaded: Any = AutoModelForImageTextToText.from_pretrained(source, **reading)
        network, told = loaded
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


def _demand_files(folder: Path) -> None:
    """Raise a VTCError for a pipe, which would be waited for, a device, which has no end, and a shard elsewhere."""
    for file in (*folder.glob("*"), *folder.glob("*/*")):
        if file.exists() and not (file.is_file() or file.is_dir()):
            raise VTCError(f"{file} is a pipe or a device; give a checkpoint that is made of files")
    for index in folder.glob("*.index.json"):
        for path in map(Path, set(json.loads(index.read_text())["weight_map"].values())):
            if path.is_absolute() or len(path.parts) > 2 or ".." in path.parts:
                raise VTCError(f"{index} names {str(path)!r:.60}; give a checkpoint whose shards lie beside its index")


def _source(name: str | os.PathLike | None) -> str:
    """The folder or hub id to load from."""
    if name is None:
        return str(BUNDLED)
    if not isinstance(name, str | os.PathLike) or not str(name):
        raise VTCError(f"model is {name!r:.60}; give a folder or a hub id")
    place = given_path(name)
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


def _device(asked: str | torch.device | None) -> str:
    """The device asked for, or the best that is there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    here = [kind for kind, is_there in there.items() if is_there]
    device = here[0] if asked is None else str(asked)
    kind, _, number = device.partition(":")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if kind not in here or (number and not (number.isdecimal() and int(number) < count)):
        names = [name if name != "cuda" else f"cuda (0 to {torch.cuda.device_count() - 1})" for name in here]
        raise VTCError(f"device is {device!r}; this machine has {', '.join(names)}")
    return device


def _dtype(asked: str | torch.dtype | None, device: str) -> torch.dtype:
    """The precision asked for; else float32 on a CPU, bfloat16 on what computes in it, and float16 elsewhere."""
    if asked is not None:
        name = str(asked).removeprefix("torch.")
        demand_one_of("dtype", name, DTYPES)
        return DTYPES[name]
    kind = device.split(":")[0]
    if kind == "cpu":
        return torch.float32
    if kind == "cuda":
        good = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        good = torch.backends.mps.is_macos_or_newer(14, 0)
    return torch.bfloat16 if good else torch.float16


def _ask_hub(source: str) -> tuple[bool, int]:
    """True if files must come from the cache alone, and how many weights the hub says a model has (0 if it does not).

    Without a network transformers would try for much longer than `_WAIT`.
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


def _demand_memory(source: str, config: Any, weights: int, dtype: torch.dtype, device: str) -> None:
    """Raise a VTCError if a model's weights will not fit with a margin; quantised ones count one byte each."""
    if not weights:
        kept = None if Path(source).exists() else try_to_load_from_cache(source, "config.json")
        weights = count_weights(Path(kept).parent if isinstance(kept, str) else Path(source))
    quantised = getattr(config, "quantization_config", None) is not None
    need = _MARGIN * weights * (1 if quantised else dtype.itemsize)
    # Weights come through the CPU's memory on their way to another device.
    for place in dict.fromkeys(["cpu", device]):
        if need > (free := free_memory(place)):
            half = need / dtype.itemsize * 2
            ways = ["a smaller checkpoint"]
            if dtype.itemsize > 2 and not quantised and half <= free:
                ways.insert(0, f"dtype='bfloat16' (needs {half / 1e9:.1f} GB)")
            if place != "cpu" and need <= free_memory("cpu"):
                ways.insert(0, "device='cpu'")
            raise VTCError(
                f"{source} needs about {need / 1e9:.1f} GB in {str(dtype).removeprefix('torch.')} and {place} has "
                f"{free / 1e9:.1f} GB free; take {' or '.join(ways)}"
            )


def free_memory(device: str) -> float:
    """Return the free bytes of a GPU, or of the machine."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def count_weights(folder: Path) -> int:
    """Return the number of weights in a folder's safetensors, by their headers."""
    return sum(_in_header(file) for file in folder.glob("model*.safetensors"))


def _in_header(file: Path) -> int:
    if words := unfit(file):
        raise VTCError(words)
    try:
        return sum(parse_local_safetensors_file_metadata(file).parameter_count.values())
    except SafetensorsParsingError as error:
        raise VTCError(f"{file} is cut off or no safetensors file; fetch it again") from error
