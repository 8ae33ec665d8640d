"""A protocol: the rules by which a run becomes a score, kept in each record.

`strict` is ours: a selection split taken from the training data, one use of the test split, the last weights, the mean over
seeds, a start from the pretrained checkpoint. `paper` is what the papers did: all training data, an evaluation after every
epoch on the reported split, the best of these, the median over seeds. Scores under different rules are not comparable, and a
report does not rank them together.
"""

from typing import Literal

from lora_bench.documents import Strict


class Protocol(Strict):
    """The rules by which a run becomes a score.

    Args:
        checkpoint: Weights to score: the "last", or the "best" of those evaluated during training.
        choose_on: Split for choosing the best weights, and the best run to start from.
        selection_from_train: Take a missing selection split from the training data; else train on all of it.
        aggregation: Summary of several seeds.
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
