"""Infer the spec of a user's own script from its objects: the method in our words, the recipe, the numbers of weights.

A model, its PEFT config and `TrainingArguments` tell much but not all. Unknown facts stay null: the data, the split of the
scores, and their rules.
"""

import dataclasses
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from torch import nn
from transformers import PreTrainedModel, TrainerState, TrainingArguments

from lora_bench.methods import method_of_peft, options_of
from lora_bench.records.record import Parameters
from lora_bench.records.spec import AnyPrecision, MethodSpec, ModelSpec, RunSpec, TaskSpec, TrainingSpec
from lora_bench.training.measure.counters import stored_weights
from lora_bench.tuners.trial import inside_peft, is_in

OWN_SCRIPT = "own script"
PARTLY_FROZEN = "partly_frozen"

# Fields of a PEFT config that tell its origin and nothing about the method.
_PROVENANCE = {
    "auto_mapping", "base_model_name_or_path", "inference_mode", "modules_to_save", "peft_type", "peft_version", "revision",
    "runtime_config", "task_type", "tokenizer_name_or_path",
}  # fmt: skip

# Arguments of the Trainer that change an answer or its cost, and are no field of a recipe.
_TELLING = (
    "adam_beta1", "adam_beta2", "adam_epsilon", "auto_find_batch_size", "average_tokens_across_devices", "bf16", "data_seed",
    "dataloader_drop_last", "fp16", "full_determinism", "gradient_accumulation_steps", "gradient_checkpointing",
    "group_by_length", "ignore_data_skip", "load_best_model_at_end", "lr_scheduler_kwargs", "metric_for_best_model",
    "neftune_noise_alpha", "optim", "optim_args", "tf32", "torch_compile", "torch_compile_backend", "torch_compile_mode",
    "train_sampling_strategy", "use_liger_kernel",
)  # fmt: skip


def script_sha256() -> str | None:
    """Return the hash of the running script and its arguments, or None without a file, as in a notebook."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    if file is None or not Path(file).is_file():
        return None
    return hashlib.sha256(Path(file).read_bytes() + json.dumps(sys.argv[1:]).encode("utf-8")).hexdigest()


def script_command() -> str | None:
    """Return the command of the script, without folders and without its arguments, which may contain a password."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    if file is None:
        return None
    return f"python {PurePath(file).name}{' …' if len(sys.argv) > 1 else ''}"


def spec_of(
    args: TrainingArguments,
    state: TrainerState,
    model: nn.Module,
    in_split: int | None,
    *,
    task: str,
    label: str | None,
) -> RunSpec:
    """Return the run spec, but for the metric, of a training with *in_split* examples; *label* replaces the method's name."""
    return RunSpec(
        task=TaskSpec(name=task, definition=None, data_sha256=None, labels=None, metric=None, higher_is_better=None),
        model=model_of(model),
        method=method_of(model, label),
        training=training_of(args, state, model, in_split),
        seed=args.seed,
        protocol=None,
        score_on=None,
        selection_every=int(state.eval_steps) if _plain(args.eval_strategy) == "steps" else None,
        keep_weights=None,
        rules=None,
        source=OWN_SCRIPT,
        source_sha256=script_sha256(),
    )


def method_of(model: nn.Module, label: str | None) -> MethodSpec:
    """Return the method that makes a model trainable, named *label* in reports, or by its own name."""
    if not isinstance(model, PeftModel):
        whole = all(weight.requires_grad for weight in model.parameters())
        name = "full" if whole else PARTLY_FROZEN
        return MethodSpec(name=name, label=label or name, size=None, options={}, chosen={})
    config = model.peft_config[model.active_adapter]
    peft_type = str(getattr(config.peft_type, "value", config.peft_type))
    told = _told(config)
    method = method_of_peft(peft_type)
    if method is None:
        options: dict[str, Any] = {"type": peft_type, "options": told}
        return MethodSpec(name="peft", label=label or peft_type.lower(), size=None, options=options, chosen=options)
    options = options_of(method, config, told)
    return MethodSpec(name=method.name, label=label or method.name, size=method.size, options=options, chosen=options)


def _told(config: PeftConfig) -> dict[str, Any]:
    """Return the settings of a PEFT config that differ from its defaults."""
    found = {}
    for field in dataclasses.fields(config):
        value = _plain(getattr(config, field.name))
        if field.name not in _PROVENANCE and value != _plain(_default(field)):
            found[field.name] = value
    return found


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _plain(value: Any) -> Any:
    """Return a setting as plain data in a fixed order; other objects become the name of their class."""
    value = getattr(value, "value", value)  # the value of an enum
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((_plain(item) for item in value), key=str)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    return value if value is None or isinstance(value, bool | int | float | str) else type(value).__name__


def model_of(model: nn.Module) -> ModelSpec:
    """Return the base model: its name without folders of this machine, and its commit if it came from the hub."""
    base = inside_peft(model)
    config = getattr(base, "config", None)
    source = str(getattr(config, "_name_or_path", "") or "")
    name = (PurePath(source).name if Path(source).exists() else source) or type(base).__name__
    return ModelSpec(
        name=name,
        shown=name,
        sha256=None,
        revision=getattr(config, "_commit_hash", None),
        model_type=getattr(config, "model_type", None),
    )


def training_of(args: TrainingArguments, state: TrainerState, model: nn.Module, in_split: int | None) -> TrainingSpec:
    """Return the recipe of a run that begins; the arguments are those of `spec_of`."""
    batch = (state.train_batch_size or args.train_batch_size) * args.gradient_accumulation_steps * args.world_size
    examples: int | None = None  # of a stream they are known when it has ended
    if in_split is not None:
        examples = state.max_steps * batch
        if args.max_steps <= 0:
            # The last batch of an epoch may be smaller.
            examples = min(examples, round(args.num_train_epochs * in_split))
    longest = getattr(args, "max_length", None)
    return TrainingSpec(
        train_examples=examples,
        batch_size=batch,
        steps=state.max_steps,
        max_length=longest if isinstance(longest, int) else None,
        learning_rate=args.learning_rate,
        schedule=str(_plain(args.lr_scheduler_type)),
        warmup_steps=args.get_warmup_steps(state.max_steps),
        weight_decay=args.weight_decay,
        max_grad_norm=args.max_grad_norm,
        precision=_precision(args, model),
        threads=torch.get_num_threads(),
        arguments=_arguments(args),
        label_smoothing=args.label_smoothing_factor,
        processes=args.world_size,
        parallelism="fsdp" if args.fsdp else "ddp" if args.deepspeed is None else None,
    )


def _precision(args: TrainingArguments, model: nn.Module) -> AnyPrecision | None:
    if args.bf16 or args.fp16:
        return "bfloat16" if args.bf16 else "float16"
    counts: Counter[torch.dtype] = Counter()
    for weight in model.parameters():
        counts[weight.dtype] += weight.numel()
    known: dict[torch.dtype, AnyPrecision] = {
        torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16",
    }  # fmt: skip
    return known.get(counts.most_common(1)[0][0])


def _arguments(args: TrainingArguments) -> dict[str, Any]:
    """Return the telling arguments that differ from the Trainer's defaults, and the numbers and switches of a subclass."""
    plain = {field.name: field for field in dataclasses.fields(TrainingArguments)}
    found = {}
    for field in dataclasses.fields(args):
        value = _plain(getattr(args, field.name))
        if field.name in plain:
            default = _plain(_default(plain[field.name]))
            # Some switches are None until the arguments are made, and False from then on.
            told = field.name in _TELLING and value != default and (value, default) != (False, None)
        else:
            # Texts are left out, because they may be paths or secrets.
            told = isinstance(value, bool | int | float) and value != _plain(_default(field))
        if told and field.name != "max_length":
            found[field.name] = value
    return found


def head_of(model: nn.Module) -> list[str] | None:
    """Return the modules on top of the base model, without a language model's output; None if the base is not marked."""
    base = inside_peft(model)
    if isinstance(base, PreTrainedModel) and base.get_output_embeddings() is not None:
        return []
    if not isinstance(base, PreTrainedModel) or not hasattr(base, base.base_model_prefix):
        return None
    named = base.named_children()
    return [name for name, child in named if name != base.base_model_prefix and any(True for _ in child.parameters())]


def parameters_of(model: nn.Module, warnings: list[str]) -> Parameters:
    """Count the weights of a model that is about to train; a count that fails is null with a warning."""
    trained = {name: _count(weight) for name, weight in model.named_parameters() if weight.requires_grad}
    everything, head = sum(trained.values()), head_of(model)
    in_head = None if head is None else sum(count for name, count in trained.items() if is_in(name, head))
    stored: int | None = everything
    if isinstance(model, PeftModel):
        try:
            stored = stored_weights(model)
        except Exception as error:  # sharded and exotic models; training must not stop over a count
            stored = None
            warnings.append(f"the stored weights could not be counted: {type(error).__name__}")
    return Parameters(
        total=_total(model),
        adapter=None if in_head is None else everything - in_head,
        head=in_head,
        trained=everything,
        stored=stored,
    )


def _total(model: nn.Module) -> int:
    added = ["prompt_encoder.", "modules_to_save."]
    if isinstance(model, PeftModel):
        prefix = getattr(model.base_model, "prefix", None)
        added += [prefix] if prefix else []
    weights = ((f".{name}", weight) for name, weight in model.named_parameters())
    return sum(_count(weight) for name, weight in weights if not any(f".{part}" in name for part in added))


def _count(weight: nn.Parameter) -> int:
    """Return the number of elements of a weight, also if DeepSpeed shards it or bitsandbytes packs two in a byte."""
    count = int(getattr(weight, "ds_numel", None) or weight.numel())
    return 2 * count * weight.element_size() if type(weight).__name__ == "Params4bit" else count
