"""From a trained model to scores, and what is kept of it: predictions beside the record, and weights where they are wanted."""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import DataCollatorWithPadding

from lora_bench.card import model_card
from lora_bench.job import Job
from lora_bench.loop import Diverged
from lora_bench.record import Predictions, Weights
from lora_bench.spec import RunSpec, content_hash
from lora_bench.store import PREDICTIONS, write_atomic
from lora_bench.tasks import Split, Task, score

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Example = dict[str, Any]

# Padding changes no logit by more than 1e-6 in float32, so the size of an evaluation batch is no part of the spec.
EVALUATION_BATCH = 64


@torch.no_grad()
def predict(model: nn.Module, examples: list[Example], collate: DataCollatorWithPadding, spec: RunSpec) -> torch.Tensor:
    """The logits of every example in order, shape (examples, labels), in float32 on the CPU."""
    device = next(model.parameters()).device
    autocast = (
        torch.autocast(device.type, dtype=torch.bfloat16)
        if spec.training.precision == "bfloat16"
        else contextlib.nullcontext()
    )
    # Batches of like lengths hold little padding.
    by_length = sorted(range(len(examples)), key=lambda index: len(examples[index]["input_ids"]))
    was_training = model.training
    model.eval()
    logits: list[torch.Tensor] = []
    with quiet():
        for start in range(0, len(by_length), EVALUATION_BATCH):
            batch = collate([examples[index] for index in by_length[start : start + EVALUATION_BATCH]])
            batch.pop("labels", None)
            with autocast:
                logits.append(model(**{name: tensor.to(device) for name, tensor in batch.items()}).logits.float().cpu())
    model.train(was_training)
    joined = torch.cat(logits)
    in_order = torch.empty_like(joined)
    in_order[torch.tensor(by_length)] = joined
    return in_order


def scores_of(task: Task, split: Split, logits: torch.Tensor) -> dict[str, float]:
    """What logits are worth on a split.

    Raises:
        Diverged: If they are not finite.
    """
    if not torch.isfinite(logits).all():
        raise Diverged("the trained model's outputs are not finite")
    return score(task, split.labels, _predictions(task, logits))


def _predictions(task: Task, logits: torch.Tensor) -> list[Any]:
    """The class index, or the predicted number, of each example."""
    if task.kind == "regression":
        return [round(value, 6) for value in logits.squeeze(-1).tolist()]
    return list(logits.argmax(-1).tolist())


def keep_predictions(job: Job, split: Split, logits: torch.Tensor) -> Predictions:
    """Write the predictions beside the record: numbers and a hash of the ids, no text of the data."""
    ids_sha256 = content_hash(list(split.ids))
    content = {
        "ids_sha256": ids_sha256,
        "predictions": _predictions(job.task, logits),
        "references": list(split.labels),
    }
    raw = (json.dumps(content, separators=(",", ":"), allow_nan=False) + "\n").encode("utf-8")
    write_atomic(job.folder.path / PREDICTIONS, raw)
    return Predictions(
        file=PREDICTIONS, sha256=hashlib.sha256(raw).hexdigest(), count=len(split.ids), ids_sha256=ids_sha256
    )


def keep_weights(job: Job, model: nn.Module, tokenizer: PreTrainedTokenizerBase, step: int) -> Weights | None:
    """Leave the trained weights in PEFT's format (or transformers', for a whole model), with a model card."""
    if job.spec.keep_weights == "none":
        return None
    folder = job.folder.weights
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    labels = job.spec.task.labels
    base.config.id2label = dict(enumerate(labels)) or base.config.id2label
    base.config.label2id = {label: index for index, label in enumerate(labels)} or base.config.label2id
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(model_card(job.spec, step), encoding="utf-8")
    stored = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return Weights(folder=folder.name, stored_bytes=stored, step=step)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' advice off the screen: our own log says what a reader needs."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
