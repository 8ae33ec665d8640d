"""An adapter in a folder, in PEFT's format: what a run here keeps, and PEFT's `save_pretrained` writes.

The folder may be a stranger's, so its configuration is read with the limits of `lora_bench.util.regular_files`, and may not
have PEFT read code or pickles.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from lora_bench.errors import LoraBenchError
from lora_bench.util.endless_work import slow_part
from lora_bench.util.hashing import content_hash
from lora_bench.util.regular_files import TensorHeader, check_regular, read_object, sha256_of, tensor_headers

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"

# What would have PEFT read pickles or run code.
FILES = {
    "adapters": "adapters are loaded from wherever they lie",
    "tokenizer_kwargs": "they can have code of a repository run",
    "prompt_tuning_init_state_dict_path": "the file may be a pickle, which can run code when read",
    "corda_config": "its files are pickles, which can run code when read",
    "lora_ga_config": "its file is a pickle, which can run code when read",
    "megatron_config": "it has a module imported by name",
}

# Sizes up to this are made whatever the weights are; AdaLoRA's steps are no size.
_SMALL, _NO_SIZE = 1_000_000, {"total_step"}


@dataclass(frozen=True)
class KeptAdapter:
    """An adapter in a folder, with the hash of its weights and its configuration."""

    folder: Path
    sha256: str


def find_adapter(folder: Path) -> KeptAdapter:
    """Return the adapter in a folder. Raise LoraBenchError if it has none in safetensors."""
    hashes = {}
    for name in (WEIGHTS, CONFIG):
        try:
            hashes[name] = sha256_of(folder / name)
        except OSError:
            inside = f"; did you mean {folder / 'weights'}?" if (folder / "weights" / name).is_file() else ""
            raise LoraBenchError(
                f"{folder} has no {name}: give the folder of an adapter in PEFT's format{inside}"
            ) from None
    adapter_config(folder)
    return KeptAdapter(folder, content_hash(hashes))


def adapter_config(folder: Path) -> dict[str, Any]:
    """Return the configuration of an adapter. Raise LoraBenchError for one that is no JSON object or a `harmful_option`."""
    config = read_object(folder / CONFIG, f"{folder}: its {CONFIG}")
    fault = harmful_option(config)
    if fault is not None:
        raise LoraBenchError(f"{folder}: its {CONFIG} {fault}")
    return config


def harmful_option(options: Mapping[str, Any]) -> str | None:
    """Return why options of PEFT may read code or pickles or take for ever, or None."""
    named = next((name for name in FILES if options.get(name) is not None), None)
    fault = slow_part(options) if named is None else f"{named}: {FILES[named]}"
    return None if fault is None else f"may not have {fault}"


def checked_adapter(folder: Path) -> tuple[dict[str, Any], dict[str, TensorHeader]]:
    """Return an adapter's configuration and headers. Raise LoraBenchError for a missing, incomplete or oversized file."""
    check_regular(folder, str(folder))
    if not (folder / WEIGHTS).is_file():
        raise LoraBenchError(f"{folder} has no {WEIGHTS}: weights are read from safetensors only")
    config, headers = adapter_config(folder), tensor_headers(folder / WEIGHTS, str(folder / WEIGHTS))
    if not isinstance(config.get("peft_type"), str):
        raise LoraBenchError(f"{folder}: its {CONFIG} has no peft_type")
    most = max(_SMALL, sum(prod(header.shape) for header in headers.values()))
    for name, value in config.items():
        if isinstance(value, int) and value > most and name not in _NO_SIZE:
            raise LoraBenchError(f"{folder}: its {CONFIG} has {name} {value:,}, and its weights are fewer numbers")
    if config.get("layer_replication") is not None:
        raise LoraBenchError(f"{folder}: its {CONFIG} may not have layer_replication, which makes layers without end")
    return config, headers
