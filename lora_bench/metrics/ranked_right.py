"""Ranked right: the share of pairs whose chosen answer gained more than the rejected one, in [0, 1].

A gain is the log-likelihood less that under the starting model. Equal gains, as of an untrained model, count as wrong.
"""

from collections.abc import Sequence

from lora_bench.metrics.support.metric_facts import HALF_A_POINT, Metric


def ranked_right(references: Sequence[int], prediction: Sequence[float]) -> float:
    """Return 1 for a pair that is ranked right, else 0."""
    chosen, rejected, chosen_before, rejected_before = prediction
    return float(chosen - chosen_before > rejected - rejected_before)


METRIC = Metric(kind="preference", margin=HALF_A_POINT, of_item=ranked_right)
