"""Tables for the terminal of the names that a suite can use."""

import re
import sys
from pathlib import Path
from typing import Any

import yaml
from pydantic.fields import FieldInfo
from rich.table import Table
from rich.text import Text

from lora_bench.documents import read_yaml
from lora_bench.families import given_keys, installed_family
from lora_bench.methods import Method, broken_plug_ins, known_methods
from lora_bench.models.find_family import infer
from lora_bench.models.registry import find_model, known_models
from lora_bench.report.text import MISSING, learning_rate
from lora_bench.util.paths import suite_files, task_files


def family_yaml(model: str, revision: str | None) -> str:
    """Return the names of the parts of a base model as YAML, for `family:` beside the model of a suite.

    A comment says if they are of a known family. Raise UnsupportedPair if they are neither known nor can be worked out.
    """
    found = find_model(model, base=Path(), revision=revision)
    family = installed_family(found.model_type)
    source = f"the family {family.name}" if family is not None else "worked out from its structure"
    return f"# {source}\n" + yaml.safe_dump({"family": given_keys(family or infer(found))}, sort_keys=False, width=120)


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _methods() -> Table:
    broken = [f"the plug-in {entry} cannot be imported: {fault}" for entry, fault in broken_plug_ins().items()]
    caption = Text("\n".join(broken)) if broken else None
    table = Table("method", "size, and sizes to try", "learning rate, and rates to try", "what it is", caption=caption)
    for name, method in known_methods().items():
        card = (sys.modules[method.__module__].__doc__ or "").strip()
        size = " ".join([method.size, *_default_size(method)]) if method.size else "–"
        rate = learning_rate(method.learning_rate)
        table.add_row(
            Text(name),
            Text(_with_range(size, card, "Sizes")),
            Text(_with_range(rate, card, "Learning rates")),
            Text(card.partition("\n")[0]),
        )
        for preset, found in getattr(method, "presets", {}).items():
            rate = MISSING if found.learning_rate is None else learning_rate(found.learning_rate)
            if found.first_rates is not None:
                tried = sorted({*found.first_rates[0], *found.first_rates[1]}, key=float)
                rate = f"{rate}; {tried[0]} to {tried[-1]}"
            given = ", ".join(f"{option}: {_words(value)}" for option, value in found.options.items())
            table.add_row(Text(f"  {preset}"), Text(given), Text(rate), Text(f"preset of {name}: {found.source}"))
    return table


def _default_size(method: type[Method]) -> list[str]:
    fields: dict[str, FieldInfo] = method.model_fields  # type: ignore[attr-defined]  # a Strict model
    field = fields[str(method.size)]
    return [] if field.is_required() else [str(field.default)]


def _with_range(usual: str, card: str, of: str) -> str:
    """The default of a method, with the range that its card gives, such as "Learning rates: 1e-4 to 4e-3."."""
    found = re.search(rf"\b{of}: (.+?)(?:;|\.(?:\s|$))", " ".join(card.split()))
    return usual if found is None else f"{usual}; {found[1]}"


def _models() -> Table:
    table = Table("model", "here", "what it is", caption="or a folder in Hugging Face's layout, or a model on the hub")
    for name, model in known_models().items():
        table.add_row(name, "yes" if model.is_here else "to be obtained", model.about)
    return table


def _tasks() -> Table:
    table = Table("task", "kind", "metric", "what it is", caption="or your own CSV, JSONL or Parquet file in a suite")
    for name, file in task_files().items():
        data = read_yaml(file).data
        kind = str(data.get("kind", "classification"))
        parts = (name, kind, str(data.get("metric", "")), " ".join(str(data.get("about", "")).split()))
        table.add_row(*map(Text, parts))
    return table


def _suites() -> Table:
    table = Table("suite", "what it is")
    for name, file in suite_files().items():
        table.add_row(Text(name), Text(" ".join(str(read_yaml(file).data.get("about", "")).split())))
    return table


# Tables of all that has a name, methods with their presets.
LISTINGS = {"methods": _methods, "models": _models, "tasks": _tasks, "suites": _suites}
