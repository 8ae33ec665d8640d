"""The kinds of task: each module of this folder is one, with its object as `KIND`. `support` holds what kinds share.

A kind says how rows become examples, what its labels look like, which metrics read its answers, and what a model of it is
called elsewhere. `exercises` has the half beside it that works with a model. Reading a kind loads no torch.
"""

import importlib
import pkgutil
from functools import cache
from typing import TYPE_CHECKING, Literal

from lora_bench.errors import unknown
from lora_bench.kinds.support.task_kind import TaskKind


@cache
def known_kinds() -> dict[str, TaskKind]:
    """Return every kind of task by its name, in the order of the names."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg)
    return {name: importlib.import_module(f"{__name__}.{name}").KIND for name in names}


def find_kind(name: str) -> TaskKind:
    """Return the kind of a name. Raise LoraBenchError if no kind has this name, with the nearest one."""
    if name not in known_kinds():
        raise unknown("kind of task", name, known_kinds())
    return known_kinds()[name]


def kind_of_class(name: str) -> TaskKind | None:
    """Return a kind whose models have a class of transformers, as "BertForTokenClassification"; None for other classes."""
    return next((kind for kind in known_kinds().values() if name.endswith(f"For{kind.model_names.auto}")), None)


if TYPE_CHECKING:
    KindName = str
    ModelKind = str
else:
    KindName = Literal[tuple(known_kinds())]
    """Name of a kind, as the key `kind` of a task has it."""

    ModelKind = Literal[tuple(name for name, kind in known_kinds().items() if kind.model_kind == name)]
    """Name of a kind whose model is its own: a chat trains the model of generation."""
