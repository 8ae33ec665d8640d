"""An adapter in a folder, in PEFT's format: what a run here keeps, and PEFT's `save_pretrained` writes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_bench.errors import LoraBenchError
from lora_bench.util.hashing import content_hash

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@dataclass(frozen=True)
class KeptAdapter:
    """An adapter in a folder.

    Args:
        folder: Its folder.
        sha256: Hash of its weights and its configuration.
    """

    folder: Path
    sha256: str


def find_adapter(folder: Path) -> KeptAdapter:
    """Return the adapter in a folder.

    Raises:
        LoraBenchError: If the folder has none in safetensors.
    """
    hashes = {}
    for name in (WEIGHTS, CONFIG):
        try:
            with (folder / name).open("rb") as file:
                hashes[name] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            inside = f"; did you mean {folder / 'weights'}?" if (folder / "weights" / name).is_file() else ""
            raise LoraBenchError(
                f"{folder} has no {name}: give the folder of an adapter in PEFT's format{inside}"
            ) from None
    adapter_config(folder)
    return KeptAdapter(folder, content_hash(hashes))


def adapter_config(folder: Path) -> dict[str, Any]:
    """Return the configuration of an adapter.

    Raises:
        LoraBenchError: If it is not a JSON object.
    """
    try:
        found = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise LoraBenchError(f"{folder / CONFIG} is not the configuration of an adapter")
    return found
