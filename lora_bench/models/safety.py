"""Prevent code in a base model's folder from running.

A pickle runs code when it is read, so weights come from safetensors. A pickle that the user names on the command line is read
once, by torch's restricted reader, which makes only tensors, and is kept as safetensors. Code that comes with a model runs if a
suite names its commit and the user allows it; see `lora_bench.suite.consent`.
"""

import hashlib
import math
import re
import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lora_bench.errors import SHOWN_CHARACTERS, LoraBenchError, did_you_mean, first_line
from lora_bench.families import FAMILIES
from lora_bench.util.atomic_files import whole_folder
from lora_bench.util.paths import cache_folder
from lora_bench.util.regular_files import read_object, sha256_of, tensor_headers

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
# Files that a user may allow: the form in which transformers wrote weights before safetensors, and its parts.
PICKLED_WEIGHTS, PICKLED_INDEX = "pytorch_model*.bin", "pytorch_model.bin.index.json"
# Numbers of a configuration that say how many layers and positions a model has.
# Qwen's max_window_layers bounds an index, and counts no layers.
_LAYERS, _POSITIONS = re.compile(r"(?!max_window_)(.*_)?layers?"), re.compile(r"max_position_embeddings|n_positions")
_MANY_POSITIONS = 2**20
_COUNTS = re.compile(
    r"num_.*(heads|layers)|n_(head|layer|embd)|(hidden|intermediate|vocab|embedding)_size|.*_eps(ilon)?"
)
# Types of safetensors that only a quantisation, or no model at all, has.
_UNTRAINED_TYPES = {"I8", "F4", "F6_E2M3", "F6_E3M2", "F8_E8M0", "F8_E4M3", "F8_E5M2", "C64"}
# Before this release torch's restricted reader could be made to write outside its buffers (CVE-2026-24747).
SAFE_TORCH = (2, 10)


def pickles(folder: Path) -> list[str]:
    """Return the files of a folder that can run code when they are read."""
    return sorted({path.name for pattern in PICKLES for path in folder.glob(pattern)})


def read_config(name: str, folder: Path) -> dict[str, Any]:
    """Return a model's configuration. Raise LoraBenchError if it is unreadable, or loads an adapter or code from elsewhere."""
    config = read_object(folder / "config.json", f"model {name!r}: its config.json")
    if (folder / "adapter_config.json").exists():
        # transformers would load the base model that it names, from anywhere, and a pickled adapter on top.
        raise LoraBenchError(
            f"model {name!r} is an adapter on another model (it has an adapter_config.json): merge it with PEFT's "
            "merge_and_unload(), save the result with save_pretrained(FOLDER), and name FOLDER"
        )
    kernel = next((value for key, value in _texts(config) if key.endswith("_implementation") and "/" in value), None)
    if kernel is not None:
        raise LoraBenchError(
            f"model {name!r}: its config.json asks for code from {kernel!r} on the hub, which lora_bench does not run"
        )
    return config


def check_weights(name: str, folder: Path, config: dict[str, Any]) -> None:
    """Refuse a model's folder that would make transformers read weights from another file than safetensors.

    Raise LoraBenchError if its configuration names a file of weights, an index of safetensors names another kind of file, or a
    file of safetensors is incomplete.
    """
    if config.get("transformers_weights") is not None:
        raise LoraBenchError(
            f"model {name!r}: its config.json names its file of weights ({config['transformers_weights']!r}), which may be a "
            "pickle; remove transformers_weights, and rename the file to model.safetensors"
        )
    for index in sorted(folder.glob("*.safetensors.index.json")):
        try:
            shards = read_object(index, index.name)["weight_map"].values()
        except (LoraBenchError, KeyError, AttributeError):
            raise LoraBenchError(f"model {name!r}: {index.name} is not an index of weights") from None
        for shard in shards:
            plain = isinstance(shard, str) and shard.endswith(".safetensors") and not set(shard) & {"/", "\\", "\0"}
            if not plain or not (folder / shard).is_file():
                raise LoraBenchError(
                    f"model {name!r}: {index.name} names {shard!r}, and may only name files beside it that end in .safetensors"
                )

    headers = [tensor_headers(path, f"model {name!r}: {path.name}") for path in sorted(folder.glob("*.safetensors"))]
    odd = {tensor.dtype for header in headers for tensor in header.values()} & _UNTRAINED_TYPES
    if odd and not config.get("quantization_config"):
        raise LoraBenchError(
            f"model {name!r}: weights of the type {min(odd)} are not read; float32, float16 and bfloat16 are"
        )
    sizes = [math.prod(tensor.shape) for header in headers for tensor in header.values()]
    for key, value in config.items():
        # Layers and positions that are only shapes take time too: a million of them are hours of counting.
        # Rotary positions need no weights, so a tiny model may have more of them.
        positions = max(_MANY_POSITIONS, sum(sizes)) if _POSITIONS.fullmatch(key) else None
        most = len(sizes) if _LAYERS.fullmatch(key) else positions
        if _COUNTS.fullmatch(key) and isinstance(value, int | float) and value < 0:
            raise LoraBenchError(f"model {name!r}: its config.json has {key} {value!r}, which must be 0 or more")
        if sizes and most is not None and isinstance(value, int) and value > most:
            raise LoraBenchError(
                f"model {name!r}: its config.json has {key} {value:,}, and its weights are {len(sizes):,} tensors of "
                f"{sum(sizes):,} numbers"
            )


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text in a configuration, with its key."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for inner, part in value.items():
            yield from _texts(part, key if key.endswith("_implementation") else str(inner))
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part, key)


def check_code(name: str, folder: Path, config: dict[str, Any], *, trusted: bool) -> None:
    """Refuse a model that needs code which its suite does not name.

    *trusted* says that its suite names it with a commit and sets `trust_remote_code: true`. Raise LoraBenchError if it cannot
    be loaded without code of its own, or if the code is in another repository.
    """
    named = [value for key, value in _code(config)]
    if not trusted:
        if named and not _is_known(str(config.get("model_type"))):
            raise LoraBenchError(
                f"model {name!r} comes with code of its own ({', '.join(dict.fromkeys(named))}), which is not run; if you "
                "have read and trust it, name it in the suite as {model: …, revision: COMMIT, trust_remote_code: true}, "
                "with all 40 digits of the commit, and give --allow-code NAME@COMMIT"
            )
        return
    tokenizer = folder / "tokenizer_config.json"
    if tokenizer.is_file():
        named += [value for key, value in _code(read_object(tokenizer, f"model {name!r}: its tokenizer_config.json"))]
    elsewhere = [value for value in named if "--" in value]
    if elsewhere:
        raise LoraBenchError(
            f"model {name!r} runs code of another repository ({elsewhere[0]}), which the suite's revision does not pin"
        )


def _code(config: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the classes that a configuration takes from files beside it."""
    return [(key, value) for name in ("auto_map", "custom_pipelines") for key, value in _texts(config.get(name), name)]


def check_type(name: str, config: dict[str, Any], *, trusted: bool) -> str:
    """Return the `model_type` of a configuration. Raise LoraBenchError if neither transformers nor *trusted* code has it."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise LoraBenchError(f"model {name!r}: its config.json has no model_type")
    if not trusted and not _is_known(model_type):
        known = [known for family in FAMILIES for known in family.model_types]
        shown = model_type if len(model_type) <= SHOWN_CHARACTERS else f"{model_type[:SHOWN_CHARACTERS]}…"
        raise LoraBenchError(
            f"model {name!r}: its config.json has the model_type {shown!r}, which transformers {version('transformers')} does "
            f"not know{did_you_mean(model_type, known)} (types that methods adapt: {', '.join(known)})"
        )
    return model_type


def _is_known(model_type: str) -> bool:
    """Return True if transformers has a class for it, so that it needs no code."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return model_type in CONFIG_MAPPING_NAMES


def as_safetensors(name: str, folder: Path) -> Path:
    """Return a copy of a folder with weights as safetensors. Raise LoraBenchError for other pickles, or an old torch."""
    import torch
    from safetensors.torch import save_file

    parts = sorted(folder.glob(PICKLED_WEIGHTS))
    if not parts:
        raise LoraBenchError(
            f"model {name!r} has no weights in safetensors and none in {PICKLED_WEIGHTS}, the only pickles that are read"
        )
    digest = hashlib.sha256()
    beside = [path for path in sorted(folder.iterdir()) if path.suffix in (".json", ".txt", ".model")]
    for path in [*parts, *beside]:
        digest.update(f"{path.name} {sha256_of(path)}\n".encode())
    made = cache_folder("unpickled") / digest.hexdigest()[:32]
    if made.is_dir():
        return made
    weights: dict[str, torch.Tensor] = {}
    for path in parts:
        weights |= pickled_tensors(f"model {name!r}", path)
    try:
        with whole_folder(made) as target:
            for path in beside:
                if path.name != PICKLED_INDEX:
                    shutil.copyfile(path, target / path.name)
            save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    except OSError:
        if not made.is_dir():  # another process was faster
            raise
    return made


def pickled_tensors(owner: str, path: Path) -> dict[str, Any]:
    """Return the tensors of a pickle, each with memory of its own, by torch's restricted reader.

    *owner* is what the pickle belongs to, for messages. Raise LoraBenchError if the pickle has anything but tensors, or torch
    is too old to read one safely.
    """
    import torch

    release = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if release < SAFE_TORCH:
        raise LoraBenchError(
            f"{owner} has pickled weights, and torch {torch.__version__} does not read a pickle safely "
            f"(CVE-2026-24747); use torch {'.'.join(map(str, SAFE_TORCH))} or later"
        )
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the file may be anything, and so may the reader's error
        first = first_line(error)
        raise LoraBenchError(f"{owner}: {path.name} cannot be read safely: {first}") from None
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise LoraBenchError(f"{owner}: {path.name} contains other objects than named tensors")
    return {str(key): value.detach().clone().contiguous() for key, value in found.items()}
