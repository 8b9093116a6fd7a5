"""Tell whether a model is still what it was when it was loaded."""

import hashlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vtc_lab.models.families import Model

_SAMPLE = 1000  # values of each tensor
_MADE_OF = (".safetensors", ".bin", ".json", ".txt", ".model", ".jinja", ".py")
_OF_WARNING = ("verbose", "deprecation_warnings")  # a tokenizer keeps there what it has warned of


def model_files(spec: dict[str, Any] | None) -> list[Path]:
    """Return the files of the folder that a model was loaded from, sorted; none for a model of the hub."""
    folder = Path(spec["name"]) if spec else None
    if folder is None or not folder.is_dir():
        return []
    return sorted(file for file in folder.iterdir() if file.suffix in _MADE_OF and file.is_file())


def weights_sample(network: nn.Module) -> str:
    """Return a hash of some values of each weight, the same in any process with the same weights on the same device."""
    words = hashlib.sha256()
    for name, tensor in _tensors(network):
        words.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        if type(tensor) in (Tensor, nn.Parameter) and not tensor.is_meta:  # neither packed by a quantiser nor offloaded
            flat = tensor.detach().reshape(-1)
            some = flat[:: max(1, len(flat) // _SAMPLE)].contiguous().view(torch.uint8)
            words.update(some.cpu().numpy().tobytes())
    return words.hexdigest()


def model_state(network: Model, processor: object, spec: dict[str, Any] | None) -> str:
    """Return text that changes, within this process, when weights, settings, chat template or files do."""
    # Torch does not count changes through `.data`, hence also a sample of values.
    words = [weights_sample(network), str(network.training)]
    for name, tensor in _tensors(network):
        lasting = isinstance(tensor, nn.Parameter) and not tensor.is_meta  # a forward pass may replace the others
        words.append(f"{name} {id(tensor) * lasting} {0 if tensor.is_inference() else tensor._version}")
    config = network.config
    parts = [config, *(getattr(config, name, None) for name in config.sub_configs)]
    words += [str(getattr(part, "_attn_implementation", "")) for part in parts]
    generation = getattr(network, "generation_config", None)
    words += [repr(config.to_dict()), repr(generation.to_dict() if generation else None)]
    for part in (processor, getattr(processor, "tokenizer", None)):
        settings = vars(part) if part is not None else {}
        words += [f"{key}={value!r}" for key, value in settings.items() if key[0] != "_" and key not in _OF_WARNING]
    for file in model_files(spec):
        facts = file.stat()
        words.append(f"{file.name} {facts.st_size} {facts.st_mtime_ns}")
    return hashlib.sha256("\0".join(words).encode()).hexdigest()


def _tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return chain(network.named_parameters(), network.named_buffers())
