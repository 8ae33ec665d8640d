"""Class weights: a row counts in the loss by how rare its class is among the training rows, as scikit-learn's "balanced".

The loss of a batch is the mean over its rows of weight times cross entropy, so that steps add up to scikit-learn's objective.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer

from lora_bench.kinds.exercises.losses import cross_entropy


def balanced_weights(labels: Sequence[int], classes: int) -> Tensor:
    """Return rows / (classes with a row * rows of the class) for each class, shape (classes,); 0 for one without a row."""
    counts = torch.bincount(torch.tensor(labels), minlength=classes).double()
    weights = len(labels) / ((counts > 0).sum() * counts)
    return torch.where(counts > 0, weights, 0.0).float()


def weigh_classes(trainer: Trainer, weights: Tensor, label_smoothing: float) -> None:
    """Make a Trainer weight the loss of each row by its class."""
    weights = weights.to(trainer.args.device)
    loss = cross_entropy(label_smoothing, weights=weights)

    def weighed(model: Any, inputs: dict[str, Any], return_outputs: bool = False, **options: Any) -> Any:
        outputs = model(**{name: value for name, value in inputs.items() if name != "labels"})
        found = loss(outputs["logits"], inputs["labels"])
        return (found, outputs) if return_outputs else found

    trainer.compute_loss = weighed
