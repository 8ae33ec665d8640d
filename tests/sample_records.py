"""Records for the tests of reports: one function with a default for everything, and a suite as a user would have it."""

from __future__ import annotations

import itertools
from typing import Any

from lora_bench.records.budget import Budget
from lora_bench.records.record import DataSummary, Environment, Memory, Parameters, Record, Speed
from lora_bench.records.spec import MethodSpec, ModelSpec, RunSpec, TaskSpec, TrainingSpec

MIB = 2**20

BUDGET = Budget(adapter_parameters=7_680, tolerance=0.05, train_examples=3_200)

METHODS: dict[str, MethodSpec] = {
    "full": MethodSpec(name="full", label="full", size=None, options={}, chosen={}),
    "lora": MethodSpec(
        name="lora", label="lora", size="rank", options={"rank": 4, "scaling": 2.0, "dropout": 0.0}, chosen={"rank": 4}
    ),
    "bottleneck_adapter": MethodSpec(
        name="bottleneck_adapter",
        label="bottleneck_adapter",
        size="bottleneck_size",
        options={"bottleneck_size": 2, "variant": "houlsby"},
        chosen={"bottleneck_size": 2},
    ),
    "prefix_tuning": MethodSpec(
        name="prefix_tuning",
        label="prefix_tuning",
        size="prefix_length",
        options={"prefix_length": 10},
        chosen={"prefix_length": 10},
    ),
}

PARAMETERS: dict[str, Parameters] = {
    "full": Parameters(total=22_714_000, adapter=22_565_000, head=149_000, trained=22_714_000, stored=22_714_000),
    "lora": Parameters(total=22_714_000, adapter=7_680, head=149_000, trained=156_680, stored=156_680),
    "bottleneck_adapter": Parameters(total=22_714_000, adapter=7_776, head=149_000, trained=156_776, stored=156_776),
    "prefix_tuning": Parameters(total=22_714_000, adapter=7_680, head=149_000, trained=950_000, stored=156_680),
}

ENVIRONMENT = Environment(
    device="cpu",
    device_count=0,
    cpu="AMD EPYC 7B13",
    cores=8,
    memory_bytes=32 * 2**30,
    system="Linux x86_64",
    python="3.12.3",
    packages={"lora_bench": "0.1.0", "torch": "2.9.1", "transformers": "5.24.0", "peft": "0.21.2"},
)


def record(
    method: str | MethodSpec = "lora",
    *,
    score: float | None = 0.75,
    seed: int = 0,
    status: str = "ok",
    reason: str | None = None,
    task: str = "vader_film",
    metric: str = "accuracy",
    higher_is_better: bool = True,
    model: str = "MiniLM-L6 in the RoBERTa class",
    model_type: str = "roberta",
    learning_rate: float = 1e-3,
    peak_mib: int = 300,
    step_seconds: float | None = 0.05,
    exclusive: bool = True,
    majority: float | None = 0.5,
    suite: str = "quickstart",
    budget: Budget = BUDGET,
    parameters: Parameters | None = None,
    environment: Environment | None = ENVIRONMENT,
    warnings: tuple[str, ...] = (),
    command: str = "lora-bench run quickstart",
    spec: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    changes: dict[str, Any] | None = None,
) -> Record:
    """A record; one that did not end `ok` has neither scores, speed nor memory."""
    method_spec = METHODS[method] if isinstance(method, str) else method
    run_spec = RunSpec(
        task=TaskSpec(
            name=task, definition={"task": task}, data_sha256=_sha(task), labels=("negative", "positive"),
            metric=metric, higher_is_better=higher_is_better,
        ),
        model=ModelSpec(name=model, shown=model, sha256=_sha(model), revision=None, model_type=model_type),
        method=method_spec,
        training=TrainingSpec(
            **{
                "train_examples": 3_200, "batch_size": 16, "steps": 200, "max_length": 64,
                "learning_rate": learning_rate, "schedule": "linear", "warmup_steps": 20, "weight_decay": 0.0,
                "max_grad_norm": 1.0, "precision": "float32", "threads": 2, "arguments": {},
                **(training or {}),
            }
        ),
        seed=seed,
        **(spec or {}),
    )  # fmt: skip
    ok = status == "ok"
    counted = parameters or PARAMETERS.get(method_spec.name)
    built = Record(
        run_id=run_spec.run_id,
        suite=suite,
        status=status,  # type: ignore[arg-type]
        reason=reason,
        spec=run_spec,
        budget=budget,
        parameters=None if status == "unsupported" else counted,
        memory=_memory(peak_mib, exclusive) if ok else None,
        speed=_speed(step_seconds, exclusive) if ok else None,
        scores={metric: score} if ok and score is not None else None,
        data=DataSummary(
            examples={"train": 8_000, "selection": 800, "test": 1_768},
            truncated_share={"test": 0.0, "train": 0.0},
            majority_score=majority,
        ),
        warnings=warnings,
        command=command,
        started_at="2026-01-02T03:04:05+00:00",
        environment=environment,
    )
    return built.model_copy(update=changes or {})


def _sha(text: str) -> str:
    return text.encode().hex().ljust(64, "0")[:64]


def _memory(peak_mib: int, exclusive: bool) -> Memory:
    start = 400 * MIB
    return Memory(
        kind="resident", exclusive=exclusive, start_bytes=start, load_bytes=start + 100 * MIB,
        first_step_bytes=start + (peak_mib - 1) * MIB, steady_bytes=start + peak_mib * MIB,
        evaluation_bytes=start + 120 * MIB, weight_bytes=90_856_000, gradient_bytes=626_720, optimizer_bytes=1_253_440,
    )  # fmt: skip


def _speed(step_seconds: float | None, exclusive: bool) -> Speed:
    per_second = None if step_seconds is None else 16 / step_seconds
    return Speed(
        exclusive=exclusive, warmup_steps=10, timed_steps=190, step_seconds_median=step_seconds,
        step_seconds_p90=step_seconds, examples_per_second=per_second,
        real_tokens_per_second=None if per_second is None else per_second * 25, train_real_tokens=80_000,
        train_seconds=200 * (step_seconds or 0.05), evaluation_seconds=2.5, load_seconds=0.4,
    )  # fmt: skip


MODELS = {
    "MiniLM-L6 in the RoBERTa class": "roberta",
    "MiniLM-L6 in the DeBERTa class": "deberta-v2",
    "gpt2-mini": "gpt2",
}


def sample_suite(seeds: int = 2) -> list[Record]:
    """One task, three base models, four methods: one run diverged and one pair is unsupported."""
    level = {"full": 0.742, "lora": 0.731, "bottleneck_adapter": 0.734, "prefix_tuning": 0.712}
    records = []
    for (index, (model, family)), method, seed in itertools.product(enumerate(MODELS.items()), METHODS, range(seeds)):
        of_pair: dict[str, Any] = {"model": model, "model_type": family, "seed": seed}
        of_pair["learning_rate"] = 1e-4 if method == "full" else 1e-3
        if method == "prefix_tuning" and family == "deberta-v2":
            reason = "prefixes have no position, and this model's attention has only position terms"
            records.append(record(method, status="unsupported", reason=reason, **of_pair))
        elif method == "lora" and family == "gpt2" and seed == 1:
            records.append(record(method, status="diverged", reason="the loss was nan at step 37", **of_pair))
        else:
            score = level[method] - 0.04 * index + 0.006 * (seed - 0.5) * (1 + index)
            records.append(
                record(
                    method,
                    score=round(score, 4),
                    peak_mib=(620 if method == "full" else 300 + 5 * len(method)) - 40 * index + seed,
                    step_seconds=(0.09 if method == "full" else 0.05 + 0.001 * len(method)) + 0.001 * seed,
                    warnings=("0.4% of the train inputs are longer than 64 tokens and were cut",),
                    **of_pair,
                )
            )
    return records
