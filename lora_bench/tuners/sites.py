"""Shared base of our PEFT tuners: find sites, create weights beside a frozen base, refuse impossible pairs.

PEFT's base classes assume that an adapted module is a linear layer with a `weight` to merge an update into. Our tuners wrap
dropouts, blocks and whole attention modules, and change no weight. The differences are here, each with its reason. A tuner adds
its sites, weights and formula.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils.other import set_additional_trainable_modules
from torch import nn

from lora_bench.errors import LoraBenchError, UnsupportedPair
from lora_bench.families import Family
from lora_bench.tuners.inferred_family import family_of_model
from lora_bench.tuners.mixed_batches import mixed_rows

_IMPORT_NOTE = """\
## Loading this adapter

Its method is not part of PEFT. Importing `{module}` adds it:

```python
import {module}
from peft import PeftModel

model = PeftModel.from_pretrained(base_model, "path/to/this/adapter")
```"""


def module_of(config: type) -> str:
    """Return the module to import before PEFT knows a method, by the class of its config; "" if PEFT has it."""
    module = config.__module__
    if module.split(".")[0] == "peft":
        return ""
    return "lora_bench.tuners" if module.startswith("lora_bench.tuners.") else module


@dataclass(kw_only=True)
class TunerConfig(PeftConfig):
    """Settings of every tuner here.

    Args:
        target_modules: Modules to wrap in place of the family's, as PEFT reads them: a list of name endings, or one regular
            expression over whole paths. None is filled in from the family.
        modules_to_save: Names of modules to train in full and save with the adapter, such as the head.
    """

    target_modules: list[str] | str | None = field(default=None)
    modules_to_save: list[str] | None = field(default=None)

    def refuse_below(self, least: int, *options: str) -> None:
        """Raise LoraBenchError for a setting below *least*."""
        for name in options:
            if getattr(self, name) < least:
                raise LoraBenchError(f"{name} must be at least {least}, got {getattr(self, name)}")

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Write `adapter_config.json`, and the import that loading needs at the beginning of the README beside it."""
        super().save_pretrained(save_directory, **kwargs)
        readme = Path(save_directory) / "README.md"
        text = readme.read_text(encoding="utf-8") if readme.exists() else ""
        note = _IMPORT_NOTE.format(module=module_of(type(self)))
        if note not in text:
            head, line, rest = text.partition("\n---\n") if text.startswith("---\n") else ("", "", text)
            readme.write_text(f"{head}{line}{note}\n\n{rest.lstrip()}", encoding="utf-8")


class TunerLayer(nn.Module, BaseTunerLayer):
    """A module of the base model with the weights of any number of adapters beside it.

    Containers named in `adapter_layer_names` are keyed by adapter name; PEFT saves, loads, freezes and deletes their entries
    by that contract.
    """

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self._disable_adapters = False
        self.merged_adapters: list[str] = []

    def live_adapters(self) -> list[str]:
        """Return the names of the adapters that act on the next forward pass here, in the order they were set active."""
        if self.disable_adapters:
            return []
        available = self._get_available_adapters()
        return [name for name in self.active_adapters if name in available]

    def place(self, adapter_name: str, device: torch.device, dtype: torch.dtype | None) -> None:
        """Move an adapter's weights to *device* and, if given, *dtype*; weights on the meta device stay there."""
        for container in (getattr(self, name) for name in self.adapter_layer_names):
            if adapter_name not in container:  # a part that only some settings have, such as a LayerNorm
                continue
            entry = container[adapter_name]
            weights = [entry] if isinstance(entry, nn.Parameter) else list(entry.parameters())
            target = None if any(weight.is_meta for weight in weights) else device
            if isinstance(entry, nn.Parameter):
                container[adapter_name] = nn.Parameter(entry.detach().to(device=target, dtype=dtype))
            else:
                entry.to(device=target, dtype=dtype)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Raise LoraBenchError: this layer has no weight to merge an adapter into."""
        raise LoraBenchError(f"{type(self).__name__} has no weight to merge an adapter into")


class _Replacing(BaseTuner):
    """A tuner that puts a new module in place of another, and nothing more."""

    target_module_mapping: ClassVar[dict[str, list[str]]] = {}

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # PEFT's own goes on to copy `child.weight`, which a dropout, a block or a classification head of two
        # layers does not have, and to move the new module, which is created in its place here.
        setattr(parent, child_name, new_module)


class OnlyTuner(_Replacing):
    """A tuner whose adapter is the only one of its model, and is put on it as a whole."""

    tuner_layer_cls = BaseTunerLayer
    alone: ClassVar[str]
    """Begin of the error message for a second adapter."""

    def put_on(self, model: nn.Module, adapter_name: str, config: Any) -> None:
        """Put the adapter on the model, and make it trainable."""
        raise NotImplementedError

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Put the adapter on the model, with the modules to save. Raise UnsupportedPair if it has one already."""
        config = self.peft_config[adapter_name]
        if len(self.peft_config) > 1:
            raise UnsupportedPair(f"{self.alone} one adapter of a model: load another base for the next")
        self.put_on(model, adapter_name, config)
        model_config = self.get_model_config(model)
        set_additional_trainable_modules(
            model=model, peft_config=config, model_config=model_config, adapter_name=adapter_name
        )

    def _create_and_replace(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: `put_on` has done it."""


class Tuner(_Replacing):
    """A tuner that wraps modules of every layer, as the model's family names them."""

    title: ClassVar[str]
    """Name of the method in error messages."""

    def site_pattern(self, config: Any, family: Family, model_config: dict[str, Any]) -> str:
        """Return a regular expression of the modules to wrap. Raise UnsupportedPair if the method cannot act on this model."""
        raise NotImplementedError

    def new_layer(
        self, base_layer: nn.Module, config: Any, family: Family, model_config: dict[str, Any], path: str
    ) -> Any:
        """Return a `TunerLayer` around *base_layer*, the base model's module at *path*, without an adapter."""
        raise NotImplementedError

    def _family(self) -> Family:
        try:
            return family_of_model(self.model)
        except LoraBenchError as error:
            raise UnsupportedPair(f"{self.title} does not know where to act: {error}") from error

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        # Always asked, also for the user's own target modules: it is where an impossible pair is refused.
        sites = self.site_pattern(peft_config, self._family(), model_config)
        if peft_config.target_modules is None:
            peft_config.target_modules = sites
        return peft_config

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        device, dtype = _device_and_dtype(getattr(target, "base_layer", target), parent)
        layer: Any = target
        if not isinstance(target, self.tuner_layer_cls):  # a further adapter finds the wrapper of the first
            model_config = self.get_model_config(self.model)
            layer = self.new_layer(target, peft_config, self._family(), model_config, current_key)
            self._replace_module(parent, target_name, layer, target)
        # On the CPU the numbers are the same whatever device trains them. On the meta device nothing is drawn: sizing a method
        # would otherwise fill millions of weights to count them.
        layer.update_layer(adapter_name, peft_config, device if device.type == "meta" else torch.device("cpu"))
        layer.place(adapter_name, device, dtype)
        layer.set_adapter(self.active_adapters)

    def _check_merge_allowed(self) -> None:
        raise LoraBenchError(
            f"{self.title} is no change of a weight and cannot be merged: keep the adapter, or call unload() for "
            "the base model without it"
        )

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Pass `adapter_names`, one name for each row of the batch, to every layer during one call."""
        with nullcontext() if kwargs.get("adapter_names") is None else mixed_rows(self, *args, **kwargs):
            yield


def _device_and_dtype(module: nn.Module, parent: nn.Module) -> tuple[torch.device, torch.dtype | None]:
    """Return device and floating type of the frozen weights at a site; a dropout has none and takes its parent's."""
    weights = list(chain(module.parameters(), parent.parameters()))
    floating = next((weight for weight in weights if weight.is_floating_point()), None)
    if floating is not None:
        return floating.device, floating.dtype
    return (weights[0].device if weights else torch.device("cpu")), None
