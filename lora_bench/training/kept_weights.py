"""The weights that a run keeps: an adapter in PEFT's format or a whole model in transformers', with tokenizer and card."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from peft.utils import get_peft_model_state_dict
from torch import nn
from transformers import PreTrainedTokenizerBase

from lora_bench.errors import LoraBenchError
from lora_bench.kinds.exercises.predicting import quiet
from lora_bench.methods.contract import import_tuners
from lora_bench.models.library_errors import in_a_sentence
from lora_bench.models.registry import check_folder
from lora_bench.records.kept_adapter import WEIGHTS, checked_adapter
from lora_bench.records.layout import PREDICTIONS
from lora_bench.records.record import Predictions, Weights
from lora_bench.records.spec import PlannedSpec
from lora_bench.training.distributed.fsdp import whole_state
from lora_bench.training.job import Job
from lora_bench.training.kept_task import write_task
from lora_bench.training.model_card import item_facts, loadable_name, model_card, names_of, write_card
from lora_bench.tuners.sites import module_of
from lora_bench.tuners.trial import inside_peft
from lora_bench.util.atomic_files import sync_tree
from lora_bench.util.regular_files import read_object


def keep_weights(
    job: Job,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    step: int,
    scores: Mapping[str, float],
    answers: Predictions,
    threshold: float | None = None,
) -> Weights | None:
    """Leave the trained weights in PEFT's format (or transformers', for a whole model), with a model card.

    *step* is the one after which the weights were taken, *answers* the predictions that gave the scores, and *threshold*
    the probability above which a label is answered, of several labels a text.
    """
    if job.spec.keep_weights == "none":
        return None
    folder = job.folder.weights
    base = inside_peft(model)
    labels = job.spec.task.labels
    base.config.id2label = dict(enumerate(labels)) or base.config.id2label
    base.config.label2id = {label: index for index, label in enumerate(labels)} or base.config.label2id
    state = whole_state(model)
    with quiet():
        if tokenizer.is_fast:
            # Its last truncation and padding settings belong to a data set, not to the tokenizer.
            tokenizer.backend_tokenizer.no_truncation()
            tokenizer.backend_tokenizer.no_padding()
        model.save_pretrained(folder, **({} if state is None else {"state_dict": state}))
        if job.task.chat_template is not None:
            tokenizer = copy.copy(tokenizer)
            tokenizer.chat_template = job.task.chat_template
        tokenizer.save_pretrained(folder)
    tuner = None
    if hasattr(model, "peft_config"):
        publish_adapter_config(folder / "adapter_config.json", job.spec)
        (config,) = model.peft_config.values()
        tuner = module_of(type(config))
    items = item_facts(job.folder.path / PREDICTIONS, job.spec, scores, answers.groups)
    card = model_card(job.spec, step, tuner, scores, answers.count, items, threshold)
    write_task(folder, job.spec, threshold)
    write_card(folder, card)
    sync_tree(folder)  # the record that names them is on the disk when they are
    stored = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return Weights(folder=folder.name, stored_bytes=stored, step=step)


def open_adapter(model: nn.Module, folder: Path) -> PeftModel:
    """Return a base model with a kept adapter, maybe a stranger's. Raise LoraBenchError if it is of another, or has code."""
    import_tuners()
    _, headers = checked_adapter(folder)
    with in_a_sentence(f"{folder} cannot be loaded"):
        adapted = PeftModel.from_pretrained(cast(Any, model), str(folder)).eval()
        wanted = get_peft_model_state_dict(adapted, save_embedding_layers=False).keys()
    for fault, names in (("lacks", wanted - headers.keys()), ("also has", headers.keys() - wanted)):
        if names:
            raise LoraBenchError(
                f"{folder}: {WEIGHTS} {fault} {min(names)}, so it is not of this base model and method"
            )
    return adapted


def open_whole(base: nn.Module, folder: Path) -> nn.Module:
    """Return the whole model that a run kept, of its base's class. Raise LoraBenchError for other weights, or a pickle."""
    check_folder(str(folder), folder)
    loaded: Any = type(base)
    with in_a_sentence(f"{folder} cannot be loaded"):
        trained, report = loaded.from_pretrained(
            folder,
            config=base.config,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            use_kernels=False,  # as `load_model`
        )
    if report["missing_keys"]:
        raise LoraBenchError(f"{folder}: its weights lack {min(report['missing_keys'])}")
    return cast(nn.Module, trained)


def publish_adapter_config(path: Path, spec: PlannedSpec) -> None:
    """Give a saved adapter's configuration its task type and the base's public name, for which PEFT would ask the hub."""
    config = read_object(path, path.name)
    config |= {
        "task_type": names_of(spec).task_type,
        "auto_mapping": None,
        "base_model_name_or_path": loadable_name(spec.model),
        "revision": spec.model.revision,
    }
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
