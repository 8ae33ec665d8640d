"""The losses of members of a pack, each equal to the Trainer's loss on the model's outputs."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

Loss = Callable[[Tensor, Tensor], Tensor]
"""Computes a member's loss from its logits and labels; rows or tokens labelled -100 (or NaN) do not count."""


def cross_entropy(label_smoothing: float = 0.0, *, shifted: bool = False, weights: Tensor | None = None) -> Loss:
    """Return the mean cross entropy over rows or tokens that count, whose label is the next token if *shifted*.

    *label_smoothing* is the share of the target's probability that is spread over all labels; *weights* has a factor for each
    label.
    """

    def mean(logits: Tensor, labels: Tensor) -> Tensor:
        if shifted:
            # As in transformers: the loss of a language model is in float32, whatever the precision of the weights.
            logits, labels = logits[..., :-1, :].float(), labels[..., 1:]
        counts = labels >= 0
        logs = _whole(logits).log_softmax(-1)
        missed = -logs.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        if label_smoothing:
            missed = (1 - label_smoothing) * missed - label_smoothing * logs.mean(-1)
        if weights is not None:
            missed = missed * weights[labels.clamp(min=0)]
        return (missed * counts).sum() / counts.sum()

    return mean


def squared_error(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean squared error over rows whose label is a number."""
    counts = ~labels.isnan()
    return ((_whole(logits).squeeze(-1) - labels.nan_to_num()) ** 2 * counts).sum() / counts.sum()


def binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean binary cross entropy over labels that are numbers."""
    counts = ~labels.isnan()
    missed = binary_cross_entropy_with_logits(_whole(logits), labels.nan_to_num(), reduction="none")
    return (missed * counts).sum() / counts.sum()


def _whole(logits: Tensor) -> Tensor:
    """Return logits in at least float32, in which autocast computes every loss."""
    return logits.float() if logits.dtype.itemsize < 4 else logits
