"""Serve a trained fleet: many adapters on one base model answer all test rows in mixed batches, and are held to each alone.

Float32 throughout, so that a difference is one of the ways to answer and not of rounding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lora_bench.fleet.train_fleet import ADAPTER
from lora_bench.kinds.exercises import exercise
from lora_bench.kinds.exercises.predicting import EVALUATION_BATCH, evaluating, predict_in_order
from lora_bench.models.loading import load_rounded, load_tokenizer
from lora_bench.records.kept_adapter import checked_adapter
from lora_bench.records.record import Record
from lora_bench.records.spec import PlannedSpec
from lora_bench.records.store import RunFolder
from lora_bench.suite.load_suite import Suite
from lora_bench.tasks import load_data
from lora_bench.training.kept_weights import open_adapter
from lora_bench.training.predict import seed_of
from lora_bench.training.prepare import device_of_runs
from lora_bench.training.winner import base_for
from lora_bench.tuners import mix_adapters

# Adapters on a model at once: loading one takes longer beside more.
SLOTS = 64


@dataclass(frozen=True)
class Served:
    """Answers of *adapters* to *rows* in mixed batches: *others* are not those of the adapter alone.

    *difference* is the greatest of a logit.
    """

    adapters: int
    rows: int
    others: int
    difference: float


def serve_fleet(suite: Suite, records: Sequence[Record], folder: Path) -> Served:
    """Answer the test rows of each group by its adapter in batches of all groups, if the runs in *folder* still have it."""
    kept = [
        record
        for record in records
        if record.spec.method.label == ADAPTER and RunFolder(folder / record.run_id).weights.is_dir()
    ]
    if not kept:
        return Served(0, 0, 0, 0.0)
    waves = [_wave(suite, kept[start : start + SLOTS], folder) for start in range(0, len(kept), SLOTS)]
    mixed, alone = (torch.cat(logits) for logits in zip(*waves, strict=True))
    return Served(
        adapters=len(kept),
        rows=len(mixed),
        others=int((mixed.argmax(-1) != alone.argmax(-1)).sum()),
        difference=float((mixed - alone).abs().max()),
    )


def _wave(suite: Suite, records: Sequence[Record], folder: Path) -> tuple[Tensor, Tensor]:
    """Return the logits of the test rows of some groups, shape (rows, labels), in mixed batches and by each adapter alone."""
    tasks = {task.task: (task, place) for task, place in suite.tasks}
    spec = PlannedSpec.model_validate(records[0].spec.model_dump())
    base = base_for(spec)
    tokenizer = load_tokenizer(base)
    made = exercise(tasks[spec.task.name][0], tokenizer, spec, seed_of(spec))
    loaded: Any = load_rounded(base, spec, "classification")
    loaded.config.pad_token_id = tokenizer.pad_token_id
    model: Any = None
    of_slot: list[list[dict[str, Any]]] = []
    for slot, record in enumerate(records):
        weights = RunFolder(folder / record.run_id).weights
        if model is None:
            model = open_adapter(loaded, weights)
        else:
            checked_adapter(weights)
            model.load_adapter(str(weights), _name(slot))
        questions, _ = made.questions(load_data(*tasks[record.spec.task.name]).splits["test"])
        of_slot.append([{**question, "slot": slot} for question in questions])
    mix_adapters(model).to(device_of_runs())

    def logits_of(batch: Mapping[str, Tensor], *, mixed: bool) -> Tensor:
        inputs = {name: tensor.to(model.device) for name, tensor in batch.items() if name != "slot"}
        names = {"adapter_names": [_name(slot) for slot in batch["slot"].tolist()]} if mixed else {}
        found: Tensor = model(**inputs, **names).logits
        return found

    def answers(questions: list[dict[str, Any]], *, mixed: bool) -> Tensor:
        return predict_in_order(partial(logits_of, mixed=mixed), questions, made.collate, EVALUATION_BATCH)

    torch.set_num_threads(spec.training.threads)
    with evaluating(model):
        together = answers([question for questions in of_slot for question in questions], mixed=True)
        alone = []
        for slot, questions in enumerate(of_slot):
            model.set_adapter(_name(slot))
            alone.append(answers(questions, mixed=False))
    return together, torch.cat(alone)


def _name(slot: int) -> str:
    return "default" if slot == 0 else f"{slot:03}"  # PEFT's name for the first
