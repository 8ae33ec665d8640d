"""The contract of a method, and the registry of methods.

A method is a frozen `Strict` model. Its fields are its options, checked when a suite is read. It names the option that a
budget may turn (its *size*), suggests a learning rate, and makes a base model trainable.

The rest is optional. `callbacks()` returns transformers' `TrainerCallback` objects for the steps of a run.
`trains_base = True` says that the method trains or rewrites most of the base, so that no frozen copy is kept.
`rate_factor(name)` returns the factor on the learning rate of a weight, by its name. `packed_options` names the options in
which runs of a pack may differ, if packed runs are tested against isolated ones. `peft_types` names the PEFT types of its
adapters, and `tuner` the module that makes them known to PEFT. `options_of(config, given)` reads its options from a PEFT config
whose fields have other names. `first_rates` are the learning rates to try on a table, the one to begin with first: those for a
small base model, and those for a larger one. `searched_rates` are those that our searches found best. `presets` are options
under a name of their own, as its best users run it.
"""

import contextlib
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, TypeVar

from lora_bench.documents import Strict
from lora_bench.errors import LoraBenchError, typed_line, unknown

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn
    from transformers import PreTrainedModel, TrainerCallback

# By name, so that reading a method imports neither torch nor transformers: a base model, the same with a method's weights, and
# the settings by which PEFT puts them on.
Pretrained: TypeAlias = "PreTrainedModel"
Adapted: TypeAlias = "nn.Module"
AdapterConfig: TypeAlias = "PeftConfig"

ENTRY_POINTS = "lora_bench.methods"

FirstRates = tuple[tuple[str, ...], tuple[str, ...]]
"""Learning rates to try on a table, as a suite writes them, the most likely first: for a small base model, and a larger one."""

SearchedRates = dict[int, tuple[float, float, float]]
"""Median, least and greatest of the best rates in our searches, by width of the base model: see `benchmarks/rate_rule.py`."""


@dataclass(frozen=True)
class Preset:
    """Options of a method under a name that a suite may give in place of the method's.

    Args:
        source: Who runs it so, with an address.
        options: The options that differ from the method's defaults.
        learning_rate: Learning rate if a suite gives none; None for the method's.
        first_rates: Learning rates to try on a table; None for a preset that `try` leaves out.
    """

    source: str
    options: dict[str, Any] = field(default_factory=dict)
    learning_rate: float | None = None
    first_rates: FirstRates | None = None


class Method(Protocol):
    """A way to make a base model trainable."""

    name: ClassVar[str]
    """Name of the method; PEFT's own where PEFT has one."""
    size: ClassVar[str | None]
    """Option that a budget may turn, an integer of at least 1; None if the method has no size."""
    learning_rate: ClassVar[float]
    """Learning rate used if a suite gives none."""

    def apply(self, model: Pretrained, *, head: list[str]) -> Adapted:
        """Return *model* with the method's weights and the modules named in *head* trainable, and no others.

        Raise UnsupportedPair if the method cannot adapt this base model.
        """

    def model_dump(self, *, mode: str = "python") -> dict[str, Any]:
        """Return the options as plain data."""


class OfConfig(Strict):
    """A method that one PEFT config of `lora_bench.tuners` puts on a model; its fields are the method's options."""

    peft_types: ClassVar[tuple[str, ...]]

    def config(self, model: Pretrained, head: Sequence[str] = ()) -> AdapterConfig:
        """Return the config for *model*, with the modules of *head* trained whole."""
        from lora_bench.tuners.registration import known_configs

        (peft_type,) = self.peft_types
        return known_configs()[peft_type](**self.model_dump(mode="json"), modules_to_save=list(head))

    def apply(self, model: Pretrained, *, head: list[str]) -> Adapted:
        """Return *model* with only the config's weights and the head trainable. Raise UnsupportedPair as the class says."""
        from peft import get_peft_model

        return get_peft_model(model, self.config(model, head))


class SizeIfGiven:
    """The size `size_value` of a method that has one only if the suite gives it *option*."""

    def __init__(self, option: str = "size_value") -> None:
        self.option = option

    def __get__(self, method: Any, owner: type) -> str | None:
        return "size_value" if getattr(method, self.option, None) is not None else None


def own_callbacks(method: Method) -> "list[TrainerCallback]":
    """Return the callbacks that a method adds to a run, such as AdaLoRA's allocation; empty if it has no `callbacks()`."""
    make = getattr(method, "callbacks", None)
    return list(make()) if make is not None else []


def trains_base(method: Method) -> bool:
    """Return whether a method trains or rewrites most of the base model, as its class variable `trains_base` says."""
    return bool(getattr(method, "trains_base", False))


def rate_factors(method: Method, weights: Iterable[str]) -> dict[str, float]:
    """Return the factors other than 1 on the learning rates of *weights*, by name; a method may have a `rate_factor(name)`."""
    factor = getattr(method, "rate_factor", None)
    found = {name: float(factor(name)) for name in weights} if factor is not None else {}
    return {name: one for name, one in found.items() if one != 1.0}


def loss_term(method: Method) -> str | None:
    """Return what a method adds to the model's own loss, as its property `loss_term` says; None if nothing."""
    term: str | None = getattr(method, "loss_term", None)
    return term


def packed_options(method: Method) -> tuple[str, ...] | None:
    """Return the options in which runs of a pack may differ; None for a run that no pack may have."""
    options: tuple[str, ...] | None = getattr(method, "packed_options", None)
    return options


def import_tuners() -> None:
    """Make the adapters of all methods known to PEFT: import our tuners, and the module that a method names as `tuner`."""
    importlib.import_module("lora_bench.tuners")
    for method in known_methods().values():
        module = getattr(method, "tuner", None)
        if module is not None:
            # A broken one costs its own adapters alone: PEFT then does not know their type.
            with contextlib.suppress(Exception):
                importlib.import_module(module)


def rates_to_try() -> dict[str, FirstRates]:
    """Return the `first_rates` of the methods and presets that have some, by name."""
    methods = {name: method.first_rates for name, method in known_methods().items() if hasattr(method, "first_rates")}
    presets = {
        name: rates for name, (_, preset) in known_presets().items() if (rates := preset.first_rates) is not None
    }
    return methods | presets


def known_presets() -> dict[str, tuple[type[Method], Preset]]:
    """Return every preset by name, with its method."""
    return {
        name: (method, preset)
        for method in known_methods().values()
        for name, preset in getattr(method, "presets", {}).items()
    }


def method_of_peft(peft_type: str) -> type[Method] | None:
    """Return the method whose adapters have this PEFT type, or None."""
    return next((method for method in known_methods().values() if peft_type in getattr(method, "peft_types", ())), None)


def options_of(method: type[Method], config: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a method's options of an adapter, from its PEFT config and those settings that differ from PEFT's defaults."""
    read = getattr(method, "options_of", None)
    if read is not None:
        return dict(read(config, given))
    return {**given, **({} if method.size is None else {method.size: getattr(config, method.size)})}


_METHODS: dict[str, type[Method]] = {}
# Entry points that could not be imported, and what they raised.
_BROKEN: dict[str, str] = {}

MethodT = TypeVar("MethodT", bound=Method)


def register(method: type[MethodT]) -> type[MethodT]:
    """Register a method. Raise LoraBenchError if it lacks what `Method` asks, or another, whose place is told, has its name."""
    lacks = _lacks(method)
    if lacks:
        raise LoraBenchError(
            f"{getattr(method, '__qualname__', method)!r} is no method: it lacks {' and '.join(lacks)}"
        )
    first = _METHODS.get(method.name)
    if first is not None and (first.__module__, first.__qualname__) != (method.__module__, method.__qualname__):
        raise LoraBenchError(
            f"method {method.name!r} is already registered by {first.__module__}.{first.__qualname__}, "
            f"so {method.__module__}.{method.__qualname__} needs another name"
        )
    _METHODS[method.name] = method
    return method


def _lacks(method: Any) -> list[str]:
    """Return what a class lacks of the contract; a plan or a list of methods would fail on it later."""
    if not hasattr(method, "model_fields"):
        return ["options: make it a subclass of lora_bench.documents.Strict"]
    lacks = []
    name, rate = getattr(method, "name", None), getattr(method, "learning_rate", None)
    if not isinstance(name, str) or not name:
        lacks.append("a name (a text)")
    size = getattr(method, "size", False)
    if size is not None and size not in method.model_fields:
        lacks.append(f"a size that is None or one of its options ({', '.join(method.model_fields) or 'it has none'})")
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < float("inf"):
        lacks.append("a learning_rate (a number above 0)")
    if not _takes_model_and_head(getattr(method, "apply", None)):
        lacks.append("apply(model, *, head)")
    if not callable(getattr(method, "callbacks", list)):
        lacks.append("callbacks() as a method, if it has any")
    return lacks


def _takes_model_and_head(apply: Any) -> bool:
    try:
        inspect.signature(apply).bind("self", "model", head=[])
    except (TypeError, ValueError):
        return False
    return True


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
            _BROKEN[f"{entry.name} ({entry.value})"] = typed_line(error)


def known_methods() -> dict[str, type[Method]]:
    """Return every method by name: built-in methods and those of installed packages."""
    _import_all()
    return dict(sorted(_METHODS.items()))


def broken_plug_ins() -> dict[str, str]:
    """Return the entry points that failed to import, such as `vera (vera_plug_in)`, each with one line of its error."""
    _import_all()
    return dict(_BROKEN)


def unknown_method(name: str) -> LoraBenchError:
    """Return the error for an unknown method name, with the nearest name and the plug-ins that failed to import."""
    broken = "".join(f"; the plug-in {entry} cannot be imported: {fault}" for entry, fault in broken_plug_ins().items())
    return LoraBenchError(f"{unknown('method', name, [*known_methods(), *known_presets()])}{broken}")


def with_size(method: Method, size: int) -> Method:
    """Return a copy of *method* with another size."""
    assert method.size is not None, f"{method.name} has no size"
    along: dict[str, Any] = getattr(method, "along_with", lambda _: {})(size)
    options: dict[str, Any] = {**method.model_dump(), **along, method.size: size}
    return type(method)(**options)
