"""Scores of classes and of probabilities, in closed form: confusion, precision, recall, F1 and calibration."""

import numpy as np
import numpy.typing as npt

from lora_bench.stats.items import Floats

# Bins of confidence, as in Guo et al. 2017, https://arxiv.org/abs/1706.04599
BINS = 15

Classes = npt.NDArray[np.int64]


def confusion(references: Classes, predictions: Classes, classes: int) -> Classes:
    """Return how often each class was answered for items of each class, shape (right class, answered class).

    *references* are the right classes of the items, shape (items,), like *predictions*; *classes* is their number.
    """
    counts = np.bincount(references * classes + predictions, minlength=classes**2)
    return counts.reshape(classes, classes)


def precision_recall_f1(counts: Classes) -> tuple[Floats, Floats, Floats]:
    """Return precision, recall and F1 of each class, each of shape (classes,), from a confusion matrix.

    As in scikit-learn, a ratio of nothing to nothing is 0, such as the precision of a class that is never answered.
    """
    hits, answered, items = np.diagonal(counts), counts.sum(axis=0), counts.sum(axis=1)
    return _ratio(hits, answered), _ratio(hits, items), _ratio(2 * hits, answered + items)


def mean_of_classes(f1: Floats, counts: Classes) -> float:
    """Return macro F1: the mean over the classes that are predicted or right anywhere, of at least one item."""
    occurs = counts.sum(axis=0) + counts.sum(axis=1) > 0
    return float(f1[occurs].mean())


def calibration_error(references: Classes, probabilities: Floats) -> float:
    """Return the expected calibration error, in [0, 1].

    It is the mean distance of confidence and accuracy in equal bins of confidence, weighted by their items. Confidence is the
    probability of the likeliest class. *references* are the right classes, shape (items,), at least one; *probabilities* have
    the shape (items, classes).
    """
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == references
    # Confidence 1 belongs to the last bin.
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(bins, weights=confidence - right, minlength=BINS)
    return float(np.abs(gaps).sum() / len(references))


def brier_score(references: Classes, probabilities: Floats) -> float:
    """Return the Brier score: the mean squared error of the probabilities, as scikit-learn scales it.

    With two classes it is of the second, in [0, 1]; with more the sum over classes, in [0, 2]. The arguments are those of
    `calibration_error`.
    """
    classes = probabilities.shape[1]
    errors = ((probabilities - np.eye(classes)[references]) ** 2).sum(axis=1)
    return float(errors.mean() / (2 if classes == 2 else 1))


def _ratio(part: Classes, whole: Classes) -> Floats:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)
