"""Convert a result file of PEFT's method_comparison to a record, with warnings about numbers of another meaning."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, JsonValue

from lora_bench.exchange.peft_results.result_file import (
    MetaInfo,
    Metrics,
    Result,
    RunInfo,
    TrainConfig,
    TrainInfo,
    number_in,
    text_in,
)
from lora_bench.records.record import CurvePoint, Environment, Memory, Parameters, Record, Speed, Status, Weights
from lora_bench.records.spec import AnyPrecision, MethodSpec, ModelSpec, RunSpec, TaskSpec, TrainingSpec
from lora_bench.util.hashing import content_hash

PartT = TypeVar("PartT", bound=BaseModel)

SOURCE = "PEFT's method_comparison"
MAX_OPTION = 1000

ONE_SEED = "one run with one seed: nothing says how far its score would move with another"
TRAIN_TIME = (
    "train_seconds is the file's train_time, which besides the training steps covers preparing the data and the evaluation "
    "before the first and after the last step; examples and tokens per second are of the steps alone"
)
MEMORY = (
    "memory is the most that the allocator had reserved over training and evaluation together, less what it had reserved "
    "at the start"
)
COUNTS = (
    "parameters are those that PEFT counts as trainable, packed four-bit weights twice; its total is of the base model and "
    "the method together, and is left out"
)
ESTIMATED_SIZE = "the bytes of the stored weights are the file's estimate: a whole model was not saved"
NO_SIZE = (
    "the bytes of the stored weights are not known: the file has the number that stands for a failure to find them"
)
NOT_A_NUMBER = "numbers that are NaN or infinite in the file are missing here"
BRANCH = "made on another branch of PEFT than main"
DIRTY = "made with changes of PEFT that are in no commit"

# Number in a file whose size of the stored weights was not found.
SIZE_NOT_FOUND = 99_999_999

# Keys of PEFT's configs that do not change the method, and keys whose values are sets.
NOT_OPTIONS = {
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "peft_type",
    "peft_version",
    "revision",
    "task_type",
}
SETS = {"target_modules", "exclude_modules", "feedforward_modules", "modules_to_save", "layers_to_transform"}

HIGHER_IS_BETTER = {"accuracy": True, "dino_similarity": True}
NOT_SCORES = {"step", "train loss", "train samples", "train total tokens", "train time", "eval time", "elapsed time"}
NOT_SCORES |= {"tokens / sec", "mem allocated avg", "mem reserved avg"}


def record_of(
    result: Result, content: bytes, *, task: str | None, complete: bool, command: str | None, series: str | None = None
) -> Record:
    """Return the record of a result; the hash of *content* enters its run id.

    *complete* is False if some numbers of the file are not finite. A *series* tells results of one experiment at different
    dates apart.
    """
    run, train, meta = result.run_info, result.train_info, result.meta_info
    method, left_out = _method(run, train)
    spec = RunSpec(
        task=_task(result, task),
        model=_known(
            ModelSpec,
            name=run.train_config.model_id,
            shown=run.train_config.model_id,
            revision=text_in(meta.model_info.get("sha")),
        ),
        method=method,
        training=_training(run.train_config, train.metrics),
        seed=run.train_config.seed,
        protocol=None,
        score_on="test",
        selection_every=run.train_config.eval_steps,
        keep_weights=None,
        series=series,
        rules=None,
        source=SOURCE,
        source_sha256=hashlib.sha256(content).hexdigest(),
    )
    status, reason = _ending(run, train)
    whole = run.peft_config is None
    size = train.file_size if train.file_size != SIZE_NOT_FOUND else None
    peak = train.accelerator_memory_max  # less the memory reserved at the start, which is its zero
    warnings = {
        ONE_SEED: True,
        TRAIN_TIME: train.train_time is not None,
        MEMORY: peak is not None,
        COUNTS: not whole,
        ESTIMATED_SIZE: whole and size is not None,
        NO_SIZE: train.file_size == SIZE_NOT_FOUND,
        NOT_A_NUMBER: not complete,
        BRANCH: run.peft_branch not in ("main", None),
        DIRTY: bool(run.peft_worktree_is_dirty),
        f"options of more than {MAX_OPTION:,} characters are left out: {', '.join(left_out)}": bool(left_out),
    }
    return Record(
        run_id=spec.run_id,
        suite="peft-results",
        status=status,
        reason=reason,
        spec=spec,
        budget=None,
        parameters=_parameters(run, train),
        memory=_known(Memory, kind="reserved", start_bytes=0, steady_bytes=peak) if peak is not None else None,
        speed=_speed(train),
        scores=_scores(train.metrics) or None,
        curve=_curve(train.metrics),
        weights=Weights(folder=None, stored_bytes=size, step=_last(train.metrics, "step") or 0)
        if size is not None
        else None,
        warnings=tuple(text for text, holds in warnings.items() if holds),
        command=command,
        started_at=run.created_at,
        environment=_environment(meta),
    )


def _known(part: type[PartT], **facts: Any) -> PartT:
    """Return a part of a record with the facts that a file tells; the others are null."""
    unknown = {name: None for name, field in part.model_fields.items() if field.is_required()}
    return part(**{**unknown, **facts})


def _task(result: Result, name: str | None) -> TaskSpec:
    """Return the task, named by its folder or else its data; the data's commits stand for the content."""
    info = result.meta_info.dataset_info
    config = result.run_info.train_config
    # A single data set is given itself, several are given by name.
    commits = {config.dataset_id: info} if "sha" in info else info
    named = [key for key in commits if key]
    shas = {key: commit.get("sha") for key, commit in commits.items() if isinstance(commit, dict)}
    known = len(named) == len(commits) == len(shas) > 0 and all(shas.values())
    metrics = [key for entry in result.train_info.metrics for key in entry]
    metric = next((key[5:] for key in metrics if key.startswith("test ")), None)
    metric = metric or next((key[6:] for key in metrics if key.startswith("valid ")), None)
    return _known(
        TaskSpec,
        name=name or "+".join(sorted(named)) or "method_comparison",
        data_sha256=content_hash(shas) if known else None,
        metric=metric,
        higher_is_better=HIGHER_IS_BETTER.get(metric) if metric is not None else None,
    )


def _method(run: RunInfo, train: TrainInfo) -> tuple[MethodSpec, list[str]]:
    """Return the method under the experiment's name, and its overlong options (AdaLoRA's ranks of every weight)."""
    config, label = run.peft_config, run.experiment_name
    if config is None:
        # A run without a config may train a part of the weights; only the counts tell.
        everything = train.num_trainable_params is not None and train.num_trainable_params == train.num_total_params
        name = "full" if everything else label.split("/")[0]
        return MethodSpec(name=name, label=label, size=None, options={}, chosen={}), []
    settings = {key: value for key, value in sorted(config.items()) if value is not None and key not in NOT_OPTIONS}
    left_out = [key for key, value in settings.items() if len(json.dumps(value)) > MAX_OPTION]
    kept: dict[str, JsonValue] = {
        key: sorted(value, key=str) if key in SETS and isinstance(value, list) else value
        for key, value in settings.items()
        if key not in left_out
    }
    options: dict[str, JsonValue] = {"type": config.get("peft_type"), "options": kept}
    return MethodSpec(name="peft", label=label, size=None, options=options, chosen=options), left_out


def _training(config: TrainConfig, metrics: Sequence[Metrics]) -> TrainingSpec:
    optimizer = dict(config.optimizer_kwargs)
    rate, decay = number_in(optimizer.pop("lr", None)), number_in(optimizer.pop("weight_decay", None))
    # Settings with a field in a record are not repeated. The type of the weights is not the precision of arithmetic; both stay.
    read = TrainConfig.model_fields.keys() - {"dtype"}
    settings = config.model_dump(mode="json")
    rest = {key: value for key, value in settings.items() if key not in read and value is not None}
    precision = config.dtype if config.dtype in get_args(AnyPrecision) else None
    return _known(
        TrainingSpec,
        train_examples=_last(metrics, "train samples"),
        batch_size=config.batch_size,
        steps=config.max_steps,
        max_length=config.max_seq_length,
        learning_rate=rate,
        schedule=config.lr_scheduler,
        weight_decay=decay,
        max_grad_norm=config.grad_norm_clip,
        precision=precision,
        arguments={**rest, **({"optimizer_kwargs": optimizer} if optimizer else {})},
    )


def _ending(run: RunInfo, train: TrainInfo) -> tuple[Status, str | None]:
    if train.status == "success":
        return "ok", None
    reason = run.error_msg or f"the file says {train.status!r} and no reason"
    return ("out_of_memory" if "out of memory" in reason.lower() else "failed"), reason


def _parameters(run: RunInfo, train: TrainInfo) -> Parameters | None:
    trained = train.num_trainable_params
    if trained is None:
        return None
    whole = run.peft_config is None
    with_others = not whole and bool((run.peft_config or {}).get("modules_to_save"))
    total = train.num_total_params if whole else None
    return _known(Parameters, total=total, adapter=None if with_others else trained, trained=trained)


def _speed(train: TrainInfo) -> Speed | None:
    """Return rates from the seconds of the steps alone, which the file gives between each two evaluations."""
    stretches = [entry for entry in train.metrics if "train time" in entry]
    seconds = _all(stretches, "train time")
    rates = _all(stretches, "tokens / sec")
    examples = _last(stretches, "train samples")
    if train.train_time is None and not stretches:
        return None
    total = math.fsum(seconds)
    tokens = math.fsum(rate * length for rate, length in zip(rates, seconds, strict=False))
    return _known(
        Speed,
        warmup_steps=0 if seconds else None,
        timed_steps=_last(stretches, "step") if seconds else None,
        examples_per_second=examples / total if examples is not None and total else None,
        real_tokens_per_second=tokens / total if rates and total else None,
        train_real_tokens=_last(train.metrics, "train total tokens"),
        train_seconds=train.train_time,
        train_steps=_last(train.metrics, "step"),
        train_examples=_last(train.metrics, "train samples"),
    )


def _all(entries: Sequence[Metrics], key: str) -> list[float]:
    """Return the numbers of *entries* at *key*; empty if one of them has none."""
    numbers = [number for entry in entries if (number := number_in(entry.get(key))) is not None]
    return numbers if len(numbers) == len(entries) else []


def _scores(metrics: Sequence[Metrics]) -> dict[str, float]:
    """Return the measurements after the last step: the test split's scores, and other metrics of the task."""
    scored = [entry for entry in metrics if any(key.startswith("test ") for key in entry)][-1:]
    return {
        key.removeprefix("test "): number
        for entry in scored
        for key, value in entry.items()
        if key not in NOT_SCORES and not key.startswith("valid ") and (number := number_in(value)) is not None
    }


def _curve(metrics: Sequence[Metrics]) -> tuple[CurvePoint, ...]:
    """Return the training loss, and the scores on the validation split, after each step that has an entry."""
    points: dict[int, CurvePoint] = {}
    for entry in metrics:
        step = _last([entry], "step")
        if step is None:
            continue
        valid = {key[6:]: number_in(value) for key, value in entry.items() if key.startswith("valid ")}
        scores = {name: value for name, value in valid.items() if value is not None}
        point = CurvePoint(step=step, loss=number_in(entry.get("train loss")), scores=scores or None)
        if point.loss is not None or scores:
            points.setdefault(step, point)
    return tuple(point for _, point in sorted(points.items()))


def _last(metrics: Sequence[Metrics], key: str) -> int | None:
    values = [entry[key] for entry in metrics if key in entry]
    value = values[-1] if values else None
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 else None


def _environment(meta: MetaInfo) -> Environment:
    system = [text_in(meta.system_info.get(name)) for name in ("system", "machine")]
    return _known(
        Environment,
        device=text_in(meta.system_info.get("accelerator")),
        system=" ".join(part for part in system if part) or None,
        packages=_packages(meta.package_info),
    )


def _packages(info: Mapping[str, JsonValue]) -> dict[str, str]:
    """Return versions by package, with the commit of a package installed from one."""
    versions = {}
    for key in info:
        name, version = key.removesuffix("-version"), text_in(info[key])
        if key.endswith("-version") and version is not None:
            commit = text_in(info.get(f"{name}-commit-hash"))
            versions[name] = f"{version} (commit {commit[:12]})" if commit else version
    return versions
