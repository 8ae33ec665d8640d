"""What a method is, and how methods are found.

A method is a frozen `Strict` model: its fields are its options, checked when a suite is read. It names the one option
that a budget may turn (its *size*), suggests a learning rate, and can make a base model trainable. Nothing else is asked
of it; one with something to do at the steps of a run may offer `callbacks()`, a list of transformers' `TrainerCallback`,
and one that trains most of the base says `trains_base = True`, so that no frozen copy of it is kept beside.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from lora_bench.errors import LoraBenchError, unknown

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, TrainerCallback

ENTRY_POINTS = "lora_bench.methods"


class Method(Protocol):
    """A way to make a base model trainable."""

    name: ClassVar[str]
    """PEFT's own name where PEFT has one."""
    size: ClassVar[str | None]
    """The option that a budget may turn, an integer of at least 1; None for a method that has no size."""
    learning_rate: ClassVar[float]
    """The suggested learning rate, used where a suite gives none."""

    def apply(self, model: PreTrainedModel, *, head: list[str]) -> nn.Module:
        """Return *model* with the method's weights and the modules named in *head* trainable, and no others.

        Raises:
            UnsupportedPair: If the method cannot adapt this base model.
        """

    def model_dump(self, *, mode: str = "python") -> dict[str, Any]:
        """The options as plain data."""


def own_callbacks(method: Method) -> list[TrainerCallback]:
    """What a method wants to happen at the steps of a run: its optional `callbacks()`, such as AdaLoRA's allocation."""
    make = getattr(method, "callbacks", None)
    return list(make()) if make is not None else []


def trains_base(method: Method) -> bool:
    """Whether a method trains most weights of the base model; it may say so by a class variable of this name."""
    return bool(getattr(method, "trains_base", False))


_METHODS: dict[str, type[Method]] = {}
# Entry points that could not be imported, and what they raised.
_BROKEN: dict[str, str] = {}

MethodT = TypeVar("MethodT", bound=Method)


def register(method: type[MethodT]) -> type[MethodT]:
    """Make a method known by its name.

    Raises:
        LoraBenchError: If another method has this name, with the place of the first.
    """
    first = _METHODS.get(method.name)
    if first is not None and (first.__module__, first.__qualname__) != (method.__module__, method.__qualname__):
        raise LoraBenchError(
            f"method {method.name!r} is already registered by {first.__module__}.{first.__qualname__}, "
            f"so {method.__module__}.{method.__qualname__} needs another name"
        )
    _METHODS[method.name] = method
    return method


@functools.cache
def _import_all() -> None:
    package = importlib.import_module(__package__ or "lora_bench.methods")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    for entry in entry_points(group=ENTRY_POINTS):
        # What one package gets wrong is said, and costs the methods of that package alone.
        try:
            entry.load()
        except (Exception, SystemExit) as error:
            said = next(iter(str(error).splitlines()), "")
            _BROKEN[f"{entry.name} ({entry.value})"] = (
                f"{type(error).__name__}: {said}" if said else type(error).__name__
            )


def known_methods() -> dict[str, type[Method]]:
    """Every method by name: the built-in ones and those that installed packages add."""
    _import_all()
    return dict(sorted(_METHODS.items()))


def broken_plug_ins() -> dict[str, str]:
    """The entry points of methods that could not be imported, such as `vera (vera_plug_in)`, with the error in a line."""
    _import_all()
    return dict(_BROKEN)


def unknown_method(name: str) -> LoraBenchError:
    """The error for a method that nothing answers to, with the plug-ins that might have."""
    broken = "".join(f"; the plug-in {entry} cannot be imported: {fault}" for entry, fault in broken_plug_ins().items())
    return LoraBenchError(f"{unknown('method', name, known_methods())}{broken}")


def with_size(method: Method, size: int) -> Method:
    """The same method with another size."""
    assert method.size is not None, f"{method.name} has no size"
    options: dict[str, Any] = {**method.model_dump(), method.size: size}
    return type(method)(**options)
