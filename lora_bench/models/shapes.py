"""Shapes of well-known models: their public configurations, without their weights.

Speed, memory and counts depend on a model's shape and not on the values of its weights. So a probe of `shape:roberta-base`
needs no download: its weights are drawn at random.
"""

from __future__ import annotations

from pathlib import Path

from lora_bench.errors import unknown
from lora_bench.families import hub_name
from lora_bench.util.paths import PACKAGE

PREFIX = "shape:"
# A model of another owner may have the same name and any shape.
OWNERS = ("FacebookAI", "microsoft", "openai-community")


def known_shapes() -> dict[str, Path]:
    """Return the folder of each shape's configuration, by the name of its model."""
    return {path.parent.name: path.parent for path in sorted((PACKAGE / "data" / "shapes").glob("*/config.json"))}


def shape_of_hub(name: str) -> str | None:
    """Return the name of the shape of a model on the hub, such as `FacebookAI/roberta-base`; None if it is not known."""
    owner, _, last = hub_name(name).rpartition("/")
    return f"{PREFIX}{last}" if owner in OWNERS and last in known_shapes() else None


def shape_folder(name: str) -> Path:
    """Return the folder of a shape such as `shape:roberta-base`. Raise LoraBenchError if the name is unknown."""
    known = {f"{PREFIX}{shape}": folder for shape, folder in known_shapes().items()}
    if name not in known:
        raise unknown("shape", name, known)
    return known[name]
