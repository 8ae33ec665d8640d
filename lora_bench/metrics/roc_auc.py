"""ROC AUC: chance that a row of a class gets a higher probability of it than a row of another class, in [0, 1].

With two classes, of the second. With more, the unweighted mean over classes, each against all others, that have rows and are
not all of them. Equal probabilities count half. Undefined if no class is such.
"""

from collections.abc import Sequence

from lora_bench.metrics.support.by_class import mean_over_classes
from lora_bench.metrics.support.metric_facts import HALF_A_POINT, Metric


def roc_auc(predictions: Sequence[Sequence[float]], references: Sequence[int], classes: int = 2) -> float | None:
    """Return the chance of a higher probability, in [0, 1]; None if it is undefined."""
    from sklearn.metrics import roc_auc_score

    return mean_over_classes(roc_auc_score, predictions, references, classes)


METRIC = Metric(roc_auc, kind="probabilities", takes_classes=True, margin=HALF_A_POINT)
