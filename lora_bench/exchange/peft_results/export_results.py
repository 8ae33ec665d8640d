"""Write records as result files of PEFT's method_comparison, which its own scripts and app load.

Their table fails on null where it needs a number: `NOT_MEASURED` stands there, and their own number where the size of the
stored weights is missing. Everything else that no record has is null.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lora_bench.errors import LoraBenchError
from lora_bench.exchange.peft_results.mapping import SIZE_NOT_FOUND
from lora_bench.exchange.peft_results.result_file import NOT_MEASURED
from lora_bench.methods import known_methods
from lora_bench.records.record import Record
from lora_bench.records.spec import MethodSpec
from lora_bench.records.store import write_atomic
from lora_bench.report.model.rows import grouped

# Packages that their table reads.
PACKAGES = ("transformers", "peft", "datasets", "bitsandbytes", "torch")
# Keys of their training parameters of which a record says nothing.
UNKNOWN = ("batch_size_eval", "compile", "query_template", "autocast_adapter_dtype", "attn_implementation")
SHOWN_METRIC = "accuracy"
# Scores of theirs that are not of a test split.
NO_TEST = ("forgetting", "drift")
MAX_NAME = 150


def to_peft_results(records: Sequence[Record], out: Path) -> str:
    """Write OUT/TASK/results/METHOD--NAME.json for each run, or `cancelled_results` for a failed one. Return a sentence.

    Trials of learning rates, which have no test score, and scores whose run is not known are left out. Raise LoraBenchError if
    nothing else is there.
    """
    runs = [one for one in records if not one.spec.scores_alone and one.spec.score_on != "selection"]
    if not runs:
        raise LoraBenchError("there are no runs scored on a test split, which PEFT's results are")
    for task, own in grouped(runs, lambda record: record.spec.task.name).items():
        for name, record in _named(own).items():
            folder = "results" if record.status == "ok" else "cancelled_results"
            content = json.dumps(_result(record, name), indent=2, ensure_ascii=False, allow_nan=False)
            write_atomic(out / _safe(task) / folder / f"{_safe(name)}.json", f"{content}\n".encode())
    failed = sum(record.status != "ok" for record in runs)
    unseen = {one.spec.task.name: None for one in runs if one.status == "ok" and SHOWN_METRIC not in (one.scores or {})}
    said = [f"{len(runs)} result files in {out}"]
    said += [f"{failed} of them failed runs, in cancelled_results"] if failed else []
    said += [f"{len(records) - len(runs)} trials and scores alone left out"] if len(records) > len(runs) else []
    said += [f"PEFT's table has {SHOWN_METRIC} alone, which {', '.join(unseen)} lacks"] if unseen else []
    return "; ".join(said)


def _named(records: Sequence[Record]) -> dict[str, Record]:
    """Return records by their experiment's name, METHOD/NAME: with seed and run id where these tell them apart."""

    def name(record: Record, *more: str) -> str:
        label = record.spec.method.label
        if "/" not in label:
            method = {"full": "full-finetuning"}.get(record.spec.method.name, record.spec.method.name)
            label = f"{method}/{record.spec.model.name.rstrip('/').rpartition('/')[2]}-{label}"
        return "-".join([label[:MAX_NAME], *more])

    levels = (lambda one: (), lambda one: (f"seed{one.spec.seed}",), lambda one: (f"seed{one.spec.seed}", one.run_id))
    for more in levels:
        named = {name(record, *more(record)): record for record in records}
        if len({_safe(one).lower() for one in named}) == len(records):
            break
    return named


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+=-]", "_", name.replace("/", "--")).lstrip(".") or "_"


def _result(record: Record, name: str) -> dict[str, Any]:
    """Return the content of a result file."""
    training, speed, memory, weights = record.spec.training, record.speed, record.memory, record.weights
    parameters, environment = record.parameters, record.environment
    reserved = memory.train_peak_bytes if memory is not None and memory.kind == "reserved" else None
    trained = parameters.trained if parameters is not None else None
    whole = record.spec.method.name == "full" and parameters is not None and trained == parameters.total
    system, _, machine = ((environment.system if environment is not None else None) or "").partition(" ")
    versions = environment.packages if environment is not None else {}
    decoding = record.spec.decoding
    return {
        "run_info": {
            "created_at": record.started_at,
            "total_time": speed.seconds if speed is not None else NOT_MEASURED,
            "experiment_name": name,
            "peft_branch": None,
            "peft_worktree_is_dirty": None,
            "train_config": {
                "model_id": record.spec.model.name,
                "dtype": training.base_precision,
                "max_seq_length": training.max_length,
                "batch_size": training.batch_size,
                "max_steps": _steps(record),
                "eval_steps": record.spec.selection_every,
                "use_gc": training.gradient_checkpointing,
                "seed": record.spec.seed,
                "grad_norm_clip": training.max_grad_norm,
                "optimizer_type": training.arguments.get("optim", "AdamW"),
                "optimizer_kwargs": {"lr": training.learning_rate, "weight_decay": training.weight_decay},
                "lr_scheduler": training.schedule,
                "use_amp": None if training.precision is None else training.precision != "float32",
                "generation_kwargs": decoding.model_dump(mode="json") if decoding is not None else {},
                **dict.fromkeys(UNKNOWN),
            },
            "peft_config": _config(record.spec.method),
            "error_msg": record.reason or "",
        },
        "train_info": {
            "accelerator_memory_reserved_avg": NOT_MEASURED,
            "accelerator_memory_max": _or_not_measured(reserved),
            "accelerator_memory_reserved_99th": NOT_MEASURED,
            "train_time": _or_not_measured(speed.train_seconds if speed is not None else None),
            "file_size": weights.stored_bytes if weights is not None else SIZE_NOT_FOUND,
            "num_trainable_params": _or_not_measured(trained),
            "num_total_params": trained if whole else None,
            "status": "success" if record.status == "ok" else "failed",
            "metrics": [*_curve(record), _last(record)],
        },
        "meta_info": {
            "model_info": {"sha": record.spec.model.revision, "created_at": None},
            "dataset_info": {record.spec.task.name: {"sha": None, "created_at": None}},
            "package_info": {f"{one}-version": versions.get(one) for one in (*PACKAGES, *versions)},
            "system_info": {
                "system": system or None,
                "machine": machine or None,
                "accelerator": environment.device if environment is not None else None,
            },
            "pytorch_info": None,
        },
    }


def _or_not_measured(value: float | None) -> float:
    return NOT_MEASURED if value is None else value


def _steps(record: Record) -> int | None:
    done = record.speed.train_steps if record.speed is not None else None
    return done if done is not None else record.spec.training.steps


def _config(method: MethodSpec) -> dict[str, Any] | None:
    """Return a method's options under its PEFT type, LoRA's by PEFT's names; None for full fine-tuning."""
    options: Mapping[str, Any] = method.options
    if method.name == "full" and options.get("top_layers") is None:
        return None
    if method.name == "peft":
        sized = {options["size_option"]: options["size_value"]} if options.get("size_option") else {}
        targets = {} if options.get("targets") is None else {"targets": options["targets"]}
        return {"peft_type": options.get("type"), **targets, **(options.get("options") or {}), **sized}
    if method.name == "lora" and {"rank", "scaling", "dropout"} <= options.keys():
        rank, scaling = options["rank"], options["scaling"]
        rest = {name: value for name, value in options.items() if name not in ("rank", "scaling", "dropout")}
        alpha = scaling if options.get("use_rslora") else scaling * rank
        return {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "lora_dropout": options["dropout"], **rest}
    types = getattr(known_methods().get(method.name), "peft_types", ()) or (method.name.upper(),)
    return {"peft_type": types[-1], **options}


def _curve(record: Record) -> list[dict[str, Any]]:
    """Return an entry for each step of the curve, with its loss and its scores on the selection split."""
    entries: dict[int, dict[str, Any]] = {}
    for point in record.curve:
        entry = entries.setdefault(point.step, {"step": point.step})
        if point.loss is not None:
            entry["train loss"] = point.loss
        entry |= {f"valid {name}": score for name, score in (point.scores or {}).items()}
    return list(entries.values())


def _last(record: Record) -> dict[str, Any]:
    """Return the entry after the last step: the task's metric first, and accuracy, which their table reads, null without."""
    scores, metric, speed = record.scores or {}, record.spec.task.metric, record.speed
    names = sorted(scores, key=lambda name: name != metric)
    losses = {point.step: point.loss for point in record.curve if point.loss is not None}
    examples = speed.train_examples if speed is not None else None
    return {
        "step": _steps(record),
        **{name if name in NO_TEST else f"test {name}": scores[name] for name in names},
        **({} if SHOWN_METRIC in names else {f"test {SHOWN_METRIC}": None}),
        "train loss": losses.get(_steps(record) or 0),
        "train samples": _or_not_measured(examples if examples is not None else record.spec.training.train_examples),
        "train total tokens": _or_not_measured(speed.train_real_tokens if speed is not None else None),
        "forgetting": scores.get("forgetting"),
    }
