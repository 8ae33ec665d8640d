"""The loss of one member of a pack, equal to the Trainer's loss on the model's outputs."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from lora_bench.metrics import Kind
from lora_bench.pack.stack import Loss


def loss_for(kind: Kind, label_smoothing: float = 0.0) -> Loss:
    """Return the mean loss over rows or tokens that count.

    Args:
        kind: Cross entropy over the rows of a classifier, the labelled words of one of words, or the completion tokens of a
            causal model; the squared error of a regressor; the binary cross entropy of each of several labels.
        label_smoothing: Share of the target's probability spread over all labels.
    """
    if kind == "regression":
        return _squared_error
    if kind == "multilabel":
        return _binary_cross_entropy

    def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
        if kind == "generation":
            # As in transformers: the loss of a language model is in float32, whatever the precision of the weights.
            logits, labels = logits[..., :-1, :].float(), labels[..., 1:]
        counts = labels >= 0
        logs = _whole(logits).log_softmax(-1)
        missed = -logs.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        if label_smoothing:
            missed = (1 - label_smoothing) * missed - label_smoothing * logs.mean(-1)
        return (missed * counts).sum() / counts.sum()

    return cross_entropy


def _squared_error(logits: Tensor, labels: Tensor) -> Tensor:
    counts = ~labels.isnan()
    return ((_whole(logits).squeeze(-1) - labels.nan_to_num()) ** 2 * counts).sum() / counts.sum()


def _binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    counts = ~labels.isnan()
    missed = binary_cross_entropy_with_logits(_whole(logits), labels.nan_to_num(), reduction="none")
    return (missed * counts).sum() / counts.sum()


def _whole(logits: Tensor) -> Tensor:
    """Return logits in at least float32, in which autocast computes every loss."""
    return logits.float() if logits.dtype.itemsize < 4 else logits
