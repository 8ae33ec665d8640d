"""F1 of entities, as seqeval and conlleval compute it, in [0, 1].

An entity is right if its type, its first and its last word are. Counts are over all sentences together (micro average). Labels
must be tags such as B-PER, I-PER and O (IOB1, IOB2 or IOBES). Where neither side has an entity it is 0, as in seqeval.
"""

from collections.abc import Sequence

from lora_bench.metrics.support.metric_facts import HALF_A_POINT, Metric
from lora_bench.metrics.support.tags import entities


def seqeval_f1(reference: Sequence[str], prediction: Sequence[str]) -> tuple[float, float]:
    """Return twice the number of right entities of a sentence, and the number of predicted and of real ones together."""
    real, given = entities(reference), entities(prediction)
    return 2 * len(real & given), len(real) + len(given)


METRIC = Metric(kind="tokens", margin=HALF_A_POINT, item_parts=seqeval_f1, entities=True)
