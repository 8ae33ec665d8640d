"""F1 of several labels: what a hand counts, what scikit-learn gives, and the same on resampled items."""

import numpy as np
import pytest
from sklearn.metrics import f1_score
from sklearn.preprocessing import MultiLabelBinarizer

from lora_bench.errors import LoraBenchError
from lora_bench.metrics import metric
from lora_bench.metrics.support.item_weights import item_metric
from lora_bench.stats.items import draw_weights

NAMES = {"multilabel_micro_f1": "micro", "multilabel_macro_f1": "macro"}
RIGHT, SAID = [[0, 1], [0], [2], []], [[0], [0, 1], [1], []]


def value(name, references, predictions):
    return metric(name).compute(references=references, predictions=predictions)[name]


def test_micro_f1_counts_pairs_of_a_text_and_a_label():
    # 2 pairs are right of 4 that are and 4 that are said: 2 * 2 / 8
    assert value("multilabel_micro_f1", RIGHT, SAID) == 1 / 2


def test_macro_f1_is_the_mean_over_labels_that_are_right_or_said_anywhere():
    # label 0: 2 of 2 and 2; label 1: 0 of 1 and 2; label 2: 0 of 1 and 0; label 3 is nowhere
    assert value("multilabel_macro_f1", RIGHT, SAID) == pytest.approx((1 + 0 + 0) / 3)


@pytest.mark.parametrize("name", NAMES)
def test_without_any_label_it_is_undefined_and_with_wrong_ones_zero(name):
    assert value(name, [[], []], [[], []]) is None
    assert value(name, [[], []], [[0], []]) == 0 == value(name, [[1], []], [[], []])


def drawn(items=60, labels=5, seeds=(3, 1, 4)):
    """Sets of labels, of which some items have none, and predictions that are right in three of four places."""
    generator = np.random.default_rng(0)
    right = generator.random((items, labels)) < np.linspace(0.1, 0.6, labels)
    given = {seed: right ^ (generator.random(right.shape) < 0.25) for seed in seeds}
    return right, given


def sets(matrix):
    return [np.flatnonzero(row).tolist() for row in matrix]


def reference(name, right, given):
    # Labels that are nowhere leave the mean, as everywhere here.
    return f1_score(right, given, average=NAMES[name], zero_division=np.nan)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_scikit_learns_on_the_same_arrays(name):
    right, given = drawn()
    for said in given.values():
        assert value(name, sets(right), sets(said)) == pytest.approx(reference(name, right, said), abs=1e-15)
        assert reference(name, right, said) == f1_score(right, said, average=NAMES[name])
    binary = MultiLabelBinarizer(classes=range(3)).fit(RIGHT)
    theirs = f1_score(binary.transform(RIGHT), binary.transform(SAID), average=NAMES[name])
    assert value(name, RIGHT, SAID) == pytest.approx(theirs)


@pytest.mark.parametrize("name", NAMES)
def test_with_item_weights_it_is_that_of_the_resampled_data(name):
    right, given = drawn(items=25)
    scored = item_metric(name, sets(right), {seed: sets(said) for seed, said in given.items()})
    weights = draw_weights(np.random.default_rng(1), 20, len(right))
    chosen = [np.repeat(np.arange(len(right)), row) for row in weights.astype(int)]
    expected = [[reference(name, right[rows], said[rows]) for said in given.values()] for rows in chosen]
    assert scored.seeds == tuple(given) and scored.on(weights) == pytest.approx(np.array(expected), rel=1e-12)
    assert scored.scores() == pytest.approx([value(name, sets(right), sets(said)) for said in given.values()])


def test_a_prediction_too_few_is_refused():
    with pytest.raises(LoraBenchError, match="seed 0 has 1 predictions for 2 items"):
        item_metric("multilabel_micro_f1", [[0], []], {0: [[0]]})
