"""Matthews correlation: agreement of predicted and right classes beyond chance, in [-1, 1].

A constant prediction gives 0, as in scikit-learn and GLUE's tables. Undefined without examples.
"""

from collections.abc import Sequence

from lora_bench.metrics.support.metric_facts import HALF_A_POINT, Floats, Metric, Weighted


def matthews_correlation(predictions: Sequence[int], references: Sequence[int]) -> float:
    """Return the agreement beyond chance, in [-1, 1]."""
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(references, predictions))


def weighted_matthews(*, references: Floats, predictions: Floats, classes: int = 2) -> Weighted:
    """Return Matthews correlation for any number of classes; 0 if all predictions or references are of one class.

    Shapes are those of `Metric.weighted`. Gorodkin 2004, https://doi.org/10.1016/j.compbiolchem.2004.09.006
    """
    import numpy as np

    right = (predictions == references).astype(np.float64).T
    are = [(references == label).astype(np.float64) for label in range(classes)]
    said = [(predictions == label).astype(np.float64).T for label in range(classes)]

    def metric(weights: Floats) -> Floats:
        n = weights.sum(axis=1, keepdims=True)
        covariance = n * (weights @ right)
        of_truth, of_answers = n**2, n**2 + np.zeros_like(covariance)
        for truth, answer in zip(are, said, strict=True):
            true, named = (weights @ truth)[:, None], weights @ answer
            covariance = covariance - true * named
            of_truth, of_answers = of_truth - true**2, of_answers - named**2
        both = of_truth * of_answers
        return np.asarray(np.divide(covariance, np.sqrt(both), out=np.zeros_like(covariance), where=both > 0))

    return metric


METRIC = Metric(
    matthews_correlation, kind="classification", margin=HALF_A_POINT, constant=0.0, weighted=weighted_matthews
)
