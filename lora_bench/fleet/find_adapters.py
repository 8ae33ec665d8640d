"""Adapters in folders: weights that runs kept, models that `try` and `use` write, and adapters that PEFT saved elsewhere."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from lora_bench.errors import LoraBenchError
from lora_bench.models.registry import LOCAL, BaseModel
from lora_bench.records.kept_adapter import CONFIG, checked_adapter
from lora_bench.records.layout import RECORD
from lora_bench.records.store import RunFolder
from lora_bench.training.kept_task import ADAPTER, FILE, KeptModel, kept_model

# The option that says how large an adapter is, by the keys of PEFT's and our configurations.
_SIZES = {"r": "rank", "bottleneck_size": "size", "num_virtual_tokens": "tokens"}


@dataclass(frozen=True)
class FoundAdapter:
    """An adapter in a folder. *kept* says of which run and task it is; None for one made elsewhere.

    Args:
        folder: Folder of its weights.
        given: Its folder as the user named it.
        method: Its method by the label of its run, or the name of its folder.
        seed: Seed of its run; 0 for one made elsewhere.
        size: Its rank or size in words, or "".
        weights: Numbers in its file; None for a whole model.
    """

    folder: Path
    given: str
    kept: KeptModel | None
    method: str
    seed: int
    size: str
    weights: int | None
    config: dict[str, Any]

    @property
    def name(self) -> str:
        """Its name in messages and tables."""
        return self.method if self.kept is None else f"{self.method} (seed {self.seed})"

    def check_base(self, base: BaseModel, *, vouched: bool) -> None:
        """Raise LoraBenchError if it is of another base model; a name alone counts unless the user has *vouched* for it."""
        if self.kept is not None:
            model = self.kept.spec.model
            if model.sha256 != base.sha256 and self.kept.beside != base.folder:
                raise LoraBenchError(
                    f"is of the base model {model.shown}, and {base.shown} is loaded: score it by itself"
                )
            return
        named = str(self.config.get("base_model_name_or_path") or "")
        if not vouched and _last(named) not in (_last(base.name), base.folder.name):
            raise LoraBenchError(
                f"is of the base model {named or 'that it does not name'}, and {base.name} is loaded: score it by itself, or "
                "name its base with --base"
            )


def find_adapters(folders: Sequence[Path]) -> Iterator[FoundAdapter | tuple[str, str]]:
    """Yield the adapters in folders and in the folders right below them, or a folder and what is wrong with it.

    Adapters of one method and seed that were trained on different tasks, as in a fleet, have the task in their names.
    """
    found = [*_found(folders)]
    tasks: dict[tuple[str, int], set[str]] = {}
    for one in found:
        if isinstance(one, FoundAdapter) and one.kept is not None:
            tasks.setdefault((one.method, one.seed), set()).add(one.kept.spec.task.name)
    names: dict[tuple[str, int], str] = {}
    for one in found:
        if isinstance(one, tuple):
            yield one
            continue
        if one.kept is not None and len(tasks[one.method, one.seed]) > 1:
            one = replace(one, method=f"{one.method} of {one.kept.spec.task.name}")
        if (first := names.setdefault((one.method, one.seed), one.given)) is not one.given:
            yield one.given, f"has the name {one.name}, as {first} has: score them apart"
        else:
            yield one


def _found(folders: Sequence[Path]) -> Iterator[FoundAdapter | tuple[str, str]]:
    for place in folders:
        inside = (
            [place] if _holds(place) or not place.is_dir() else [one for one in sorted(place.iterdir()) if _holds(one)]
        )
        if not inside:
            yield str(place), f"has no {CONFIG} of an adapter and no run that kept weights, and none of its folders has"
        for folder in inside:
            try:
                yield _read(folder)
            except LoraBenchError as error:
                yield str(folder), str(error).removeprefix(f"{folder}").lstrip(": ")


def _holds(folder: Path) -> bool:
    files = (folder / CONFIG, folder / ADAPTER / CONFIG, folder / FILE)
    return any(file.is_file() for file in files) or ((folder / RECORD).is_file() and RunFolder(folder).weights.is_dir())


def _read(folder: Path) -> FoundAdapter:
    if not folder.is_dir():
        raise LoraBenchError("is no folder")
    alone = (folder / CONFIG).is_file() and not (folder / FILE).is_file() and not (folder.parent / RECORD).is_file()
    kept = None if alone else kept_model(folder)
    weights = folder if kept is None else kept.folder
    if kept is not None and not kept.is_adapter:
        return FoundAdapter(weights, str(folder), kept, kept.spec.method.label, kept.spec.seed, "", None, {})
    config, headers = checked_adapter(weights)
    rank, patterns = config.get("r"), config.get("rank_pattern")
    of_weights = {header.shape[0] for name, header in headers.items() if name.endswith(".lora_A.weight")}
    if of_weights - {rank} and not patterns:
        raise LoraBenchError(f"says rank {rank} in its {CONFIG}, and its weights have rank {min(of_weights - {rank})}")
    size = next((f"{word} {config[key]}" for key, word in _SIZES.items() if isinstance(config.get(key), int)), "")
    return FoundAdapter(
        folder=weights,
        given=str(folder),
        kept=kept,
        method=folder.name if kept is None else kept.spec.method.label,
        seed=0 if kept is None else kept.spec.seed,
        size=size,
        weights=sum(prod(header.shape) for header in headers.values()),
        config=config,
    )


def _last(name: str) -> str:
    return name.removeprefix(LOCAL).rstrip("/").rpartition("/")[2]
