"""A protocol: the rules by which a run becomes a score, as data that a record carries.

`strict` is ours: a selection split carved from the training data, the test split touched once, the last weights, the mean
over seeds, every run from the pretrained checkpoint. `paper` is what the papers did: all training data, an evaluation after
every epoch on the split that is reported, the best of these, the median over seeds. Scores under different rules are not
comparable, and a report refuses to rank them together.
"""

from __future__ import annotations

from typing import Literal

from lora_bench.documents import Strict


class Protocol(Strict):
    """The rules by which a run becomes a score.

    Args:
        checkpoint: Which weights are scored: the "last", or the "best" of those evaluated on the way.
        choose_on: The split on which the best weights, and the best run to start from, are chosen.
        selection_from_train: Whether a selection split is set aside from the training data where the data has none; else
            all of it is trained on.
        aggregation: What stands for several seeds: their "mean" or their "median".
    """

    checkpoint: Literal["last", "best"] = "last"
    choose_on: Literal["selection", "test"] = "selection"
    selection_from_train: bool = True
    aggregation: Literal["mean", "median"] = "mean"


STRICT = Protocol()

PROTOCOLS: dict[str, Protocol] = {
    "strict": STRICT,
    "paper": Protocol(checkpoint="best", choose_on="test", selection_from_train=False, aggregation="median"),
}
