"""Metrics as functions of item weights are the metrics of scikit-learn and scipy on the resampled data itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    matthews_corrcoef,
    mean_absolute_error,
    root_mean_squared_error,
)

from lora_bench.errors import LoraBenchError
from lora_bench.metrics import kind_of, metric
from lora_bench.metrics.support.item_weights import item_metric, metrics_of_items
from lora_bench.stats import ItemScores
from lora_bench.stats.items import draw_weights

SEEDS = (3, 1, 4)
OF_NUMBERS = [name for name in metrics_of_items() if kind_of(name) in ("classification", "regression", "likelihood")]


def classes(generator, items, count):
    """Right classes, and predictions of three seeds of which four in five are right."""
    right = generator.integers(count, size=items)
    given = {
        seed: np.where(generator.random(items) < 0.8, right, generator.integers(count, size=items)) for seed in SEEDS
    }
    return right, given


def numbers(generator, items):
    """Numbers with ties, and predictions of three seeds that follow them."""
    right = np.round(generator.normal(3, 1, items), 1)
    return right, {seed: np.round(right + generator.normal(100, 0.5, items), 1) for seed in SEEDS}


def sums(generator, items):
    """Numbers of tokens, and the sums of their losses for three seeds."""
    tokens = generator.integers(1, 9, size=items)
    return tokens, {seed: tokens * generator.uniform(0.1, 2, items) for seed in SEEDS}


def data_for(name, generator, items):
    """Data of the kind of a metric."""
    makers = {"regression": numbers, "likelihood": sums}
    maker = makers.get(kind_of(name))
    return maker(generator, items) if maker is not None else classes(generator, items, 2)


def on_resamples(reference, right, given, scored, draws=20):
    """A reference on the resampled data, and what is claimed of it."""
    weights = draw_weights(np.random.default_rng(1), draws, len(right))
    expected = []
    for row in weights.astype(int):
        chosen = np.repeat(np.arange(len(right)), row)
        expected.append([reference(right[chosen], given[seed][chosen]) for seed in SEEDS])
    return np.array(expected), scored.on(weights)


REFERENCES = {
    "accuracy": accuracy_score,
    "f1": f1_score,
    "macro_f1": lambda right, given: f1_score(right, given, average="macro"),
    "mae": mean_absolute_error,
    "rmse": root_mean_squared_error,
    "matthews_correlation": matthews_corrcoef,
    "accuracy_f1_mean": lambda right, given: (accuracy_score(right, given) + f1_score(right, given)) / 2,
    "pearson": lambda right, given: stats.pearsonr(right, given)[0],
    "spearman": lambda right, given: stats.spearmanr(right, given)[0],
    "pearson_spearman_mean": lambda right, given: (
        (stats.pearsonr(right, given)[0] + stats.spearmanr(right, given)[0]) / 2
    ),
    "loss": lambda right, given: given.sum() / right.sum(),
    "perplexity": lambda right, given: np.exp(given.sum() / right.sum()),
}


@pytest.mark.parametrize("name", OF_NUMBERS)
def test_a_weighted_metric_is_the_metric_of_the_resampled_data(name):
    generator = np.random.default_rng(0)
    right, given = data_for(name, generator, 60)
    scored = item_metric(name, right, given)
    expected, found = on_resamples(REFERENCES[name], right, given, scored)
    assert found == pytest.approx(expected, rel=1e-11, abs=1e-13)
    assert scored.scores() == pytest.approx([REFERENCES[name](right, given[seed]) for seed in SEEDS], rel=1e-11)


@pytest.mark.parametrize("name", ["f1", "macro_f1", "matthews_correlation", "accuracy_f1_mean"])
def test_so_it_is_with_three_classes(name):
    right, given = classes(np.random.default_rng(2), 40, 3)

    def macro(truth, said):
        return f1_score(truth, said, average="macro", labels=sorted({*truth, *said}))

    reference = {
        "f1": macro,
        "macro_f1": macro,
        "matthews_correlation": matthews_corrcoef,
        "accuracy_f1_mean": lambda truth, said: (accuracy_score(truth, said) + macro(truth, said)) / 2,
    }[name]
    expected, found = on_resamples(reference, right, given, item_metric(name, right, given, classes=3))
    assert found == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("name", OF_NUMBERS)
def test_on_all_items_it_is_the_score_that_a_record_has(name):
    generator = np.random.default_rng(3)
    right, given = data_for(name, generator, 50)
    scores = [metric(name).compute(predictions=given[seed].tolist(), references=right.tolist())[name] for seed in SEEDS]
    assert item_metric(name, right, given).scores() == pytest.approx(scores, rel=1e-11)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 30).flatmap(lambda n: st.tuples(*[st.lists(st.integers(0, 4), min_size=n, max_size=n)] * 2)))
def test_ties_of_any_kind_have_scipys_ranks(pair):
    right, given = np.array(pair[0]), np.array(pair[1])
    weights = draw_weights(np.random.default_rng(0), 5, len(right))
    found = item_metric("spearman", right, {0: given}).on(weights)[:, 0]
    for row, value in zip(weights.astype(int), found, strict=True):
        x, y = np.repeat(right, row), np.repeat(given, row)
        if len(set(x)) > 1 and len(set(y)) > 1:
            assert value == pytest.approx(stats.spearmanr(x, y)[0], abs=1e-12)
        elif len(set(given)) == 1:
            assert value == 0
        else:
            assert np.isnan(value)


def test_constant_predictions_follow_the_conventions_of_the_metrics():
    right, constant = np.array([0, 1, 0, 1, 1, 0]), {0: np.ones(6)}
    everything = np.ones((1, 6))
    assert item_metric("matthews_correlation", right, constant).on(everything) == 0
    # Beside a seed whose answers follow the labels: one answer for all has no correlation, and counts as none.
    both = item_metric("pearson", right + 0.1, {0: np.full(6, 0.1), 1: 2.0 * right}).on(everything)
    assert both == pytest.approx(np.array([[0.0, 1.0]]))
    # Items 0, 2 and 5 alone: no item is of the second class and none is said to be, so there is no F1 of it.
    without = np.array([[2.0, 0, 2, 0, 0, 2]])
    assert np.isnan(item_metric("f1", right, {0: np.zeros(6)}).on(without)).all()


def test_seeds_are_chosen_by_name():
    right, given = classes(np.random.default_rng(6), 30, 2)
    for name in ("accuracy", "f1"):
        scored = item_metric(name, right, given)
        assert scored.select((4, 3)).scores() == pytest.approx(scored.scores()[[2, 0]])


def test_what_does_not_fit_is_refused():
    with pytest.raises(LoraBenchError, match="unknown metric of single items 'bleu'"):
        item_metric("bleu", [1], {0: [1]})
    with pytest.raises(LoraBenchError, match="seed 7: the prediction of item 1 is nan"):
        item_metric("pearson", [1.0, 2.0], {7: [0.5, float("nan")]})
    with pytest.raises(LoraBenchError, match="seed 7 has 2 predictions for 3 items"):
        item_metric("f1", [1, 0, 1], {7: [1, 0]})
    with pytest.raises(LoraBenchError, match=r"per-item scores have shape \(3,\); expected \(1, items\)"):
        ItemScores((0,), np.zeros(3))
    with pytest.raises(LoraBenchError, match="item 2 of seed 5 scores nan"):
        ItemScores((4, 5), np.array([[0, 0, 0], [0, 0, np.nan]]))
    with pytest.raises(LoraBenchError, match="contain one twice"):
        ItemScores((1, 1), np.zeros((2, 3)))
