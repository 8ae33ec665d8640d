"""An adapter on its way to our format: its config, its weights by their place in the base model, and its head.

Our side is a folder as PEFT saves it. The base model is needed as a skeleton without weights: it names the attention modules,
and tells before anything is written whether the weights are those that the tuner will look for.
"""

import copy
import re
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import transformers
from peft import get_peft_model, get_peft_model_state_dict
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from lora_bench.errors import LoraBenchError
from lora_bench.families import family_of
from lora_bench.kinds import known_kinds
from lora_bench.models.library_errors import in_a_sentence
from lora_bench.models.registry import LOCAL, known_models
from lora_bench.models.safety import pickled_tensors
from lora_bench.records.kept_adapter import harmful_option
from lora_bench.tuners.selected import PEFT_PREFIX
from lora_bench.tuners.sites import TunerConfig
from lora_bench.util.regular_files import MIB, read_object

ADAPTER_CONFIG = "adapter_config.json"

TASK_KINDS = {
    kind.model_names.task_type: kind.model_names.auto
    for kind in known_kinds().values()
    if kind.model_names.task_type is not None
}
"""Part of the name of transformers' class, by PEFT's type of task."""

LABEL_WEIGHTS = ("classifier.out_proj.weight", "classifier.weight", "score.weight", "qa_outputs.weight")
"""Weights with a row for each label, by their names in transformers' models."""


@dataclass(frozen=True, kw_only=True)
class PortableAdapter:
    """An adapter of one of our tuners, apart from any file.

    Args:
        weights: Its weights, by their names in the base model without a head.
        inside: Path of that base model in the model that loads the adapter, with a dot at its end; empty if they are one.
        head: Weights of the head, by their names in the model with the head.
        model_class: transformers' class of the model that loads it; None if the files do not say.
    """

    config: TunerConfig
    weights: dict[str, Tensor]
    inside: str
    head: dict[str, Tensor] = field(default_factory=dict)
    model_class: str | None = None

    @property
    def labels(self) -> int | None:
        """Number of labels of the head; None if it has none."""
        return next((len(self.head[name]) for name in LABEL_WEIGHTS if name in self.head), None)

    def loading_lines(self, out: Path) -> list[str]:
        """Return the Python lines that load the adapter from our folder *out*."""
        lines = ["import lora_bench.tuners", "from peft import PeftModel"]
        if self.model_class is not None:
            labels = "" if self.labels is None else f", num_labels={self.labels}"
            base = str(self.config.base_model_name_or_path)
            name = base.removeprefix(LOCAL)
            local = base.startswith(LOCAL) or name in known_models()
            lines += ["from lora_bench.models.registry import known_models"] if local else []
            given = f"known_models()[{name!r}].folder(None)" if local else repr(base)
            lines += [f"from transformers import {self.model_class}", ""]
            lines.append(f"base_model = {self.model_class}.from_pretrained({given}{labels})")
        return [*lines, f"model = PeftModel.from_pretrained(base_model, {str(out)!r})"]


def read_settings(folder: Path, name: str = ADAPTER_CONFIG) -> dict[str, Any]:
    """Return a JSON object of an adapter's folder. Raise LoraBenchError if it is missing, none, or harmful."""
    settings = read_object(folder / name, f"{folder}: its {name}", MIB)
    if (fault := harmful_option(settings)) is not None:
        raise LoraBenchError(f"{folder}: its {name} {fault}")
    return settings


def read_weights(
    folder: Path, name: str, pickle: str | None = None, *, allow_pickle: bool = False
) -> dict[str, Tensor]:
    """Return the tensors of an adapter's file of safetensors; else those of *pickle*, by torch's restricted reader.

    Raise LoraBenchError if there is neither, or only a pickle that is not allowed.
    """
    if (folder / name).is_file():
        with in_a_sentence(f"{folder}: its {name} cannot be read"):
            tensors: dict[str, Tensor] = load_file(folder / name)
        return tensors
    if pickle is None or not (folder / pickle).is_file():
        raise LoraBenchError(f"{folder} has no {' or '.join(filter(None, (name, pickle)))} with the weights")
    if not allow_pickle:
        raise LoraBenchError(
            f"{folder} has its weights in {pickle}, which can run code when read; if you trust its author, add --allow-pickle"
        )
    return pickled_tensors(str(folder), folder / pickle)


def write_adapter(adapter: PortableAdapter, out: Path) -> None:
    """Write an adapter as PEFT saves it."""
    adapter.config.save_pretrained(str(out))
    weights = {adapter.inside + name: tensor for name, tensor in adapter.weights.items()}
    tensors = {f"{PEFT_PREFIX}{name}": tensor.contiguous() for name, tensor in (weights | adapter.head).items()}
    save_file(tensors, out / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})


def check_fits(adapter: PortableAdapter, model: PreTrainedModel) -> None:
    """Refuse weights that differ in name or shape from those of the tuner on this base model, given as a skeleton.

    Raise UnsupportedPair if the tuner refuses the model; LoraBenchError if the weights are others.
    """
    plain: dict[str, Any] = {
        "task_type": None, "modules_to_save": None, "base_model_name_or_path": None, "inference_mode": False,
    }  # fmt: skip
    alone = replace(adapter.config, **plain)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # warnings of one library about another
        adapted = get_peft_model(copy.deepcopy(model), alone)
    wanted = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    want = {name.removeprefix(PEFT_PREFIX): tuple(tensor.shape) for name, tensor in wanted.items()}
    got = {name: tuple(tensor.shape) for name, tensor in adapter.weights.items()}
    for name in sorted(want.keys() | got.keys()):
        if want.get(name) != got.get(name):
            raise LoraBenchError(
                f"the adapter does not fit {model.config.model_type} as its config.json describes it: {name} has the shape "
                f"{got.get(name, 'of no weight')}, expected {want.get(name, 'none')}"
            )


def settings_of(
    head: dict[str, Tensor], base: str | None, model: PreTrainedModel, model_class: str | None
) -> dict[str, Any]:
    """Return those keys of a tuner's config that follow from the model and the head."""
    names = list(dict.fromkeys(name.partition(".")[0] for name in head))
    mapping = None
    if model_class is not None:
        mapping = {"base_model_class": model_class, "parent_library": type(model).__module__}
    return {
        "base_model_name_or_path": base,
        "inference_mode": True,
        "modules_to_save": names or None,
        "auto_mapping": mapping,
    }


def class_name(
    model: PreTrainedModel, inside: str, mapping: dict[str, Any] | None, task_type: str | None
) -> str | None:
    """Return the class of the model that PEFT saved an adapter of; None if its config does not say."""
    named = (mapping or {}).get("base_model_class")
    if named in known_classes(model):
        return str(named)
    if not inside:
        return type(model).__name__
    return head_class(model.config, TASK_KINDS[task_type]) if task_type in TASK_KINDS else None


def known_classes(model: PreTrainedModel) -> set[str]:
    """Return transformers' classes for a base model of this type, alone or with a head."""
    with_head = (head_class(model.config, kind) for kind in TASK_KINDS.values())
    return {type(model).__name__, *(name for name in with_head if name is not None)}


def head_class(config: PretrainedConfig, kind: str) -> str | None:
    """Return transformers' class of models with a head of this kind, such as "TokenClassification"; None if there is none."""
    mapping = getattr(transformers, f"AutoModelFor{kind}")._model_mapping
    return mapping[type(config)].__name__ if type(config) in mapping else None


def prefix_weights(table: Tensor, model: PreTrainedModel) -> dict[str, Tensor]:
    """Return a prefix's weights under our names, from keys and values of shape (prefix_tokens, 2 * layers * width).

    These are the key of the first layer, its value, and so on. Raise LoraBenchError if the model has another number of layers.
    """
    family = family_of(model.config.model_type)
    pattern = family.pattern(family.self_attention)
    paths = [path for path, _ in model.named_modules() if re.fullmatch(pattern, path)]
    if not paths or table.shape[-1] % (2 * len(paths)):
        raise LoraBenchError(f"{table.shape[-1]:,} numbers a token are no keys and values of {len(paths)} layers")
    parts = table.unflatten(-1, (2 * len(paths), -1)).unbind(1)
    keys = {f"{path}.prefix_key": parts[2 * number] for number, path in enumerate(paths)}
    return keys | {f"{path}.prefix_value": parts[2 * number + 1] for number, path in enumerate(paths)}
