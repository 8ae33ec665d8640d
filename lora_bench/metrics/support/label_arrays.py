"""Sets of labels as arrays of 0 and 1, from which metrics of several labels are counted."""

from collections.abc import Sequence
from typing import Any

from lora_bench.metrics.support.metric_facts import Floats

LabelSets = Sequence[Sequence[int]]
"""Label indexes of each item; an item may have none."""


def are_label_sets(values: Sequence[Any], labels: int) -> bool:
    """Return True if every value is a list of label indexes below *labels*."""
    return all(
        isinstance(value, list) and all(type(label) is int and 0 <= label < labels for label in value)
        for value in values
    )


def label_arrays(
    references: LabelSets, predictions: Sequence[LabelSets], width: int | None = None
) -> tuple[Floats, Floats]:
    """Return right labels, shape (items, labels), and each seed's, (seeds, items, labels), of this *width* or what occurs."""
    import numpy as np

    every = (references, *predictions)
    if width is None:
        width = max((label + 1 for sets in every for labels in sets for label in labels), default=1)
    found = np.zeros((len(every), len(references), width))
    for place, sets in enumerate(every):
        for item, labels in enumerate(sets):
            found[place, item, list(labels)] = 1.0
    return found[0], found[1:]
