"""Serve a trained fleet: many adapters on one base model answer all test rows in mixed batches, and are held to their own runs.

A fleet is served as `docs/how-to/many-adapters.md` says, so its page can state that its adapters answer together as each did
alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor

from lora_bench.fleet.train_fleet import ADAPTER
from lora_bench.kinds.exercises import exercise
from lora_bench.kinds.exercises.predicting import EVALUATION_BATCH, autocast, evaluating, predict_in_order
from lora_bench.models.loading import load_rounded, load_tokenizer
from lora_bench.models.read_position import read_alone
from lora_bench.records.kept_adapter import checked_adapter
from lora_bench.records.record import Record
from lora_bench.records.spec import PlannedSpec
from lora_bench.records.store import RunFolder, answers_in
from lora_bench.suite.load_suite import Suite
from lora_bench.tasks import load_data
from lora_bench.training.predict import seed_of
from lora_bench.training.prepare import device_of_runs
from lora_bench.training.winner import base_for
from lora_bench.tuners import mix_adapters

# Adapters on a model at once: loading one takes longer beside more.
SLOTS = 64


@dataclass(frozen=True)
class Served:
    """Answers of *adapters* to *rows* in mixed batches; *others* are not those of the adapter's own run."""

    adapters: int
    rows: int
    others: int


def serve_fleet(suite: Suite, records: Sequence[Record], folder: Path) -> Served:
    """Answer the test rows of each group by its adapter in batches of all groups, if the runs in *folder* still have it."""
    kept = [
        record
        for record in records
        if record.spec.method.label == ADAPTER and record.judged_score is not None and _weights(folder, record).is_dir()
    ]
    others = [_wave(suite, kept[start : start + SLOTS], folder) for start in range(0, len(kept), SLOTS)]
    return Served(len(kept), sum(len(wave) for wave in others), sum(sum(wave) for wave in others))


def _wave(suite: Suite, records: Sequence[Record], folder: Path) -> list[bool]:
    """Return for each test row of some groups whether its answer is another than that of its adapter's run."""
    tasks = {task.task: (task, place) for task, place in suite.tasks}
    recorded = answers_in(folder, records)
    spec = PlannedSpec.model_validate(records[0].spec.model_dump())
    base = base_for(spec)
    tokenizer = load_tokenizer(base)
    made = exercise(tasks[spec.task.name][0], tokenizer, spec, seed_of(spec))
    examples: list[dict[str, Any]] = []
    expected: list[Any] = []
    model: Any = None
    for slot, record in enumerate(records):
        weights = _weights(folder, record)
        checked_adapter(weights)
        if model is None:
            loaded = load_rounded(base, spec, "classification")
            loaded.config.pad_token_id = tokenizer.pad_token_id
            model = PeftModel.from_pretrained(cast(Any, loaded), str(weights), adapter_name=_name(slot))
        else:
            model.load_adapter(str(weights), _name(slot))
        answers = recorded(record.run_id)
        assert answers is not None, "a run with a score has answers"
        split = load_data(*tasks[record.spec.task.name]).splits["test"]
        questions, _ = made.questions(split)
        examples += [{**question, "slot": slot} for question in questions]
        expected += answers.predictions
    if spec.training.last_layer == "read_position":
        read_alone(model, base.model_type)
    mix_adapters(model).to(device_of_runs())

    def logits_of(batch: Mapping[str, Tensor]) -> Tensor:
        inputs = {name: tensor.to(model.device) for name, tensor in batch.items() if name != "slot"}
        found: Tensor = model(**inputs, adapter_names=[_name(slot) for slot in batch["slot"].tolist()]).logits
        return found

    torch.set_num_threads(spec.training.threads)
    with evaluating(model), autocast(model, spec):
        answered = predict_in_order(logits_of, examples, made.collate, EVALUATION_BATCH).argmax(-1).tolist()
    return [got != own for got, own in zip(answered, expected, strict=True)]


def _weights(folder: Path, record: Record) -> Path:
    return RunFolder(folder / record.run_id).weights


def _name(slot: int) -> str:
    return f"{slot:03}"
