"""Average precision: the area below the steps of precision over recall, as a threshold falls, in [0, 1].

With two classes, of the second. With more, the unweighted mean over classes, each against all others, that have rows and are
not all of them. As in scikit-learn, nothing is interpolated. Undefined if no class is such.
"""

from collections.abc import Sequence

from lora_bench.metrics.support.by_class import mean_over_classes
from lora_bench.metrics.support.metric_facts import HALF_A_POINT, Metric


def average_precision(
    predictions: Sequence[Sequence[float]], references: Sequence[int], classes: int = 2
) -> float | None:
    """Return the mean of precision at each rise of recall, in [0, 1]; None if it is undefined."""
    from sklearn.metrics import average_precision_score

    return mean_over_classes(average_precision_score, predictions, references, classes)


METRIC = Metric(average_precision, kind="probabilities", takes_classes=True, margin=HALF_A_POINT)
