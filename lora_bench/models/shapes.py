"""Shapes of models: their configurations, without their weights.

Speed, memory and counts depend on a model's shape and not on the values of its weights. So a plan or a probe of
`shape:roberta-base` needs no download, and one of `shape:owner/name@revision` only that of a config.json: weights are drawn at
random.
"""

from collections.abc import Iterable
from pathlib import Path

from lora_bench.errors import LoraBenchError, unknown
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


def shape_folder(name: str, base: Path) -> tuple[Path, str | None]:
    """Return the folder with the config.json of a shape, and its commit on the hub.

    A shape is a known one, such as `shape:roberta-base`, a folder (relative to *base*), or `shape:owner/name@revision` on the
    hub. Raise LoraBenchError if there is none of this name.
    """
    shape, known = name.removeprefix(PREFIX), known_shapes()
    if shape in known:
        return known[shape], None
    try:
        folder = base / Path(shape).expanduser()
        if (folder / "config.json").is_file():
            return folder, None
    except (OSError, RuntimeError, ValueError):  # an overlong name, or the home folder of an unknown user
        pass
    if shape.count("/") != 1 or shape.startswith(("/", ".", "~")):
        raise LoraBenchError(
            f"{unknown('shape', name, [f'{PREFIX}{one}' for one in known])}; or {PREFIX}FOLDER with a config.json, or "
            f"{PREFIX}OWNER/NAME@REVISION on the hub"
        )
    from lora_bench.util.hub import snapshot

    owner, _, revision = shape.partition("@")
    copy = snapshot("model", owner, revision or None, ("config.json",))
    if not (copy.folder / "config.json").is_file():
        raise LoraBenchError(f"model {owner!r} has no config.json on the hub")
    return copy.folder, copy.commit


def refuse_shapes(names: Iterable[str]) -> None:
    """Refuse base models that are shapes where weights are needed. Raise LoraBenchError."""
    for name in names:
        if name.startswith(PREFIX):
            raise LoraBenchError(
                f"model {name!r} is a shape without weights, which cannot be trained: `lora-bench plan`, `fits` and `probe` "
                "take it; name the model itself"
            )
