"""Run a model over examples: batches of like lengths, precision, and quiet libraries."""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lora_bench.records.spec import PlannedSpec
from lora_bench.util.failpoints import reach
from lora_bench.util.heartbeat import beat

Example = dict[str, Any]

# Padding changes no logit by more than 1e-6 in float32, so the size of an evaluation batch is not in the spec.
EVALUATION_BATCH = 64


def autocast(model: nn.Module, spec: PlannedSpec) -> contextlib.AbstractContextManager[Any]:
    """Return the precision context of a run's forward passes."""
    device = next(model.parameters()).device
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=spec.training.precision == "bfloat16")  # type: ignore[no-any-return]


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluate a model in this block, without dropout and gradients."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def predict(
    model: nn.Module,
    examples: Sequence[Example],
    collate: Callable[[list[Example]], Mapping[str, torch.Tensor]],
    spec: PlannedSpec,
    read: Callable[[torch.Tensor], torch.Tensor] = lambda logits: logits,
) -> torch.Tensor:
    """Return what *read* returns of the logits of every example in order, shape (examples, values), in float32 on the CPU."""
    device = next(model.parameters()).device

    def logits_of(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        found = model(**{name: tensor.to(device) for name, tensor in batch.items()})
        # Of answers in a text a model gives the logits of their first and of their last token.
        return read(found.logits if "logits" in found else torch.stack([found.start_logits, found.end_logits], -1))

    with evaluating(model), autocast(model, spec):
        return predict_in_order(logits_of, examples, collate, EVALUATION_BATCH)


def predict_in_order(
    logits_of: Callable[[Mapping[str, torch.Tensor]], torch.Tensor],
    examples: Sequence[Example],
    collate: Callable[[list[Example]], Mapping[str, torch.Tensor]],
    rows: int,
) -> torch.Tensor:
    """Return the logits of every example in order, shape (..., examples, labels), float32 on the CPU, by batches of *rows*."""
    # Batches of similar lengths contain little padding.
    by_length = sorted(range(len(examples)), key=lambda index: len(examples[index]["input_ids"]))
    found: list[torch.Tensor] = []
    with quiet():
        for start in range(0, len(by_length), rows):
            reach("run.evaluation")
            beat()
            found.append(
                logits_of(collate([examples[index] for index in by_length[start : start + rows]])).float().cpu()
            )
    joined = torch.cat(found, dim=-2)
    in_order = torch.empty_like(joined)
    in_order[..., torch.tensor(by_length), :] = joined
    return in_order


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the libraries' advice: our own log says what a reader needs."""
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
