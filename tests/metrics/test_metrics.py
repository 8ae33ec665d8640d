"""Each metric gives the number that its definition gives by hand, and None where it has none."""

import importlib.util
import math
import subprocess
import sys

import pytest

from lora_bench.errors import LoraBenchError
from lora_bench.metrics import (
    declared,
    default_margin,
    find,
    higher_is_better,
    kind_of,
    known_metrics,
    metric,
    unavailable,
)


def value(name: str, references: list, predictions: list, **options: int) -> float | None:
    return metric(name).compute(references=references, predictions=predictions, **options)[name]


def test_accuracy_is_the_share_of_right_predictions():
    assert value("accuracy", [0, 1, 2, 1], [0, 1, 1, 1]) == 3 / 4


def test_f1_of_two_classes_is_that_of_the_second():
    # class 1: 2 right of 3 predicted, 2 found of 4: precision 2/3, recall 1/2, so F1 = 2 * (1/3) / (7/6) = 4/7
    assert value("f1", [1, 1, 1, 1, 0], [1, 1, 0, 0, 1]) == pytest.approx(4 / 7)


def test_f1_of_more_classes_is_their_mean():
    # class 0: 1 of 1 predicted, 1 of 2 found: 2/3; class 1: 1 of 2 predicted, 1 of 1 found: 2/3; class 2: 1
    assert value("f1", [0, 0, 1, 2], [0, 1, 1, 2], classes=3) == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)


def test_f1_leaves_out_a_class_that_occurs_nowhere():
    assert value("f1", [0, 1], [0, 1], classes=3) == 1


def test_f1_is_undefined_where_the_second_class_occurs_nowhere():
    assert value("f1", [0, 0], [0, 0]) is None


def test_macro_f1_is_the_mean_of_both_of_two_classes():
    # class 1 as above: 4/7; class 0: 0 right of 2 predicted: 0
    assert value("macro_f1", [1, 1, 1, 1, 0], [1, 1, 0, 0, 1]) == pytest.approx(2 / 7)
    assert value("macro_f1", [0, 0, 1, 2], [0, 1, 1, 2]) == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert value("macro_f1", [0, 0], [0, 0]) == 1


def test_errors_of_numbers_by_hand():
    # errors 0, 3, -4: 7 / 3 and sqrt(25 / 3)
    assert value("mae", [1.0, 2.0, 3.0], [1.0, 5.0, -1.0]) == pytest.approx(7 / 3)
    assert value("rmse", [1.0, 2.0, 3.0], [1.0, 5.0, -1.0]) == pytest.approx(math.sqrt(25 / 3))
    assert value("mae", [1.0], [math.inf]) is None and value("rmse", [1.0], [math.nan]) is None


def test_matthews_correlation_of_a_two_by_two_table():
    # tp 2, tn 1, fp 1, fn 0: (2*1 - 1*0) / sqrt(3 * 2 * 2 * 1) = 2 / sqrt(12)
    assert value("matthews_correlation", [1, 1, 0, 0], [1, 1, 1, 0]) == pytest.approx(2 / math.sqrt(12))


def test_matthews_correlation_of_one_class_only_is_zero():
    assert value("matthews_correlation", [0, 1, 1], [1, 1, 1]) == 0


def test_pearson_is_one_on_any_rising_line():
    assert value("pearson", [1.0, 2.0, 4.0], [10.0, 12.0, 16.0]) == pytest.approx(1)


def test_pearson_by_hand():
    # deviations (-1, 0, 1) and (-1, 1, 0): 1 / (sqrt(2) * sqrt(2))
    assert value("pearson", [1.0, 2.0, 3.0], [0.0, 2.0, 1.0]) == pytest.approx(1 / 2)


def test_spearman_looks_at_the_order_only():
    assert value("spearman", [1.0, 2.0, 3.0], [1.0, 10.0, 1000.0]) == pytest.approx(1)
    # squared rank differences 0, 1, 1: 1 - 6 * 2 / (3 * 8)
    assert value("spearman", [1.0, 2.0, 3.0], [1.0, 3.0, 2.0]) == pytest.approx(1 / 2)


@pytest.mark.parametrize("name", ["pearson", "spearman"])
@pytest.mark.parametrize("predictions", [[1.0, 1.0, 1.0], [1.0, math.nan, 2.0], [1.0, math.inf, 2.0]])
def test_a_correlation_with_a_constant_or_with_no_number_is_undefined(name, predictions):
    assert value(name, [1.0, 2.0, 3.0], predictions) is None


@pytest.mark.parametrize("name", sorted(known_metrics()))
def test_every_metric_is_undefined_without_examples(name):
    if (reason := unavailable(name)) is not None:
        pytest.skip(reason)
    assert value(name, [], []) is None


def test_the_mean_of_accuracy_and_f1():
    # 2 of 5 right; F1 4/7 as above
    assert value("accuracy_f1_mean", [1, 1, 1, 1, 0], [1, 1, 0, 0, 1]) == pytest.approx((2 / 5 + 4 / 7) / 2)
    # 3 of 4 right; F1 of three classes (2/3 + 2/3 + 1) / 3 as above
    assert value("accuracy_f1_mean", [0, 0, 1, 2], [0, 1, 1, 2], classes=3) == pytest.approx((3 / 4 + 7 / 9) / 2)
    assert value("accuracy_f1_mean", [0, 0], [0, 0]) is None


def test_the_mean_of_pearson_and_spearman():
    # deviations (-1, 0, 1) and (-4, -3, 7): 11 / sqrt(2 * 74); the order is the same: 1
    expected = (11 / math.sqrt(148) + 1) / 2
    assert value("pearson_spearman_mean", [1.0, 2.0, 3.0], [0.0, 1.0, 11.0]) == pytest.approx(expected)
    assert value("pearson_spearman_mean", [1.0, 2.0], [1.0, 1.0]) is None


@pytest.mark.parametrize("name", ["accuracy", "f1", "matthews_correlation", "pearson", "spearman"])
def test_every_metric_equals_the_library_it_rests_on(name):
    import scipy.stats
    import sklearn.metrics

    library = {
        "accuracy": sklearn.metrics.accuracy_score,
        "f1": sklearn.metrics.f1_score,
        "matthews_correlation": sklearn.metrics.matthews_corrcoef,
        "pearson": lambda references, predictions: scipy.stats.pearsonr(references, predictions)[0],
        "spearman": lambda references, predictions: scipy.stats.spearmanr(references, predictions)[0],
    }
    references, predictions = [0, 1, 1, 0, 1, 0, 1, 1], [0, 1, 0, 0, 1, 1, 1, 1]
    assert value(name, references, predictions) == pytest.approx(library[name](references, predictions), abs=1e-15)


def test_an_unknown_metric_is_named_with_the_nearest_one():
    with pytest.raises(LoraBenchError, match="unknown metric 'acuracy'; did you mean 'accuracy'"):
        metric("acuracy")


def test_errors_alone_are_better_when_lower():
    assert [name for name in known_metrics() if not higher_is_better(name)] == [
        "mae", "rmse", "ter", "loss", "perplexity", "rejected_log_likelihood",
    ]  # fmt: skip


def test_the_kind_of_a_metric_is_that_of_the_task_it_scores():
    assert {name: kind_of(name) for name in known_metrics()} == known_metrics()
    assert (kind_of("accuracy_f1_mean"), kind_of("pearson"), kind_of("nist")) == (
        "classification",
        "regression",
        "generation",
    )


@pytest.mark.parametrize("ask", [kind_of, higher_is_better, unavailable])
def test_asking_about_an_unknown_metric_names_the_nearest_one(ask):
    with pytest.raises(LoraBenchError, match="unknown metric 'blue'; did you mean 'bleu'"):
        ask("blue")


def test_a_metric_whose_library_is_missing_says_what_to_install(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sacrebleu" else find_spec(name))
    reason = "metric 'bleu' needs the package 'sacrebleu', which is not installed; install lora_bench[nlg]"
    assert unavailable("bleu") == reason
    with pytest.raises(LoraBenchError) as caught:
        value("bleu", [["a"]], ["a"])
    assert str(caught.value) == reason
    assert unavailable("exact_match") is None


def test_asking_about_metrics_imports_nothing_heavy():
    code = (
        "import sys, lora_bench.metrics as metrics;"
        "[(metrics.kind_of(name), metrics.higher_is_better(name), metrics.unavailable(name))"
        " for name in metrics.known_metrics()];"
        "heavy = ('evaluate', 'datasets', 'sklearn', 'scipy', 'numpy', 'sacrebleu', 'pycocoevalcap', 'rouge_score', 'nltk');"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_facts_of_a_metric_are_in_its_module():
    f1 = declared("f1")
    assert (f1.kind, f1.takes_classes, f1.margin, f1.points) == ("classification", True, 0.005, True)
    assert f1.options(3) == {"classes": 3} and declared("accuracy").options(3) == {}
    assert find("hub:rouge") is None and find("support") is None and find(None) is None
    assert [name for name in known_metrics() if not find(name).points] == [
        "mae", "rmse", "cider", "nist", "loss", "perplexity", "chosen_log_likelihood", "rejected_log_likelihood",
    ]  # fmt: skip


def test_a_default_margin_is_of_shares_and_correlations():
    assert [name for name in known_metrics() if default_margin(name) is not None] == [
        "accuracy", "accuracy_f1_mean", "f1", "macro_f1", "matthews_correlation", "average_precision", "roc_auc", "pearson",
        "pearson_spearman_mean", "spearman", "exact_match", "seqeval_f1", "token_accuracy", "multilabel_macro_f1",
        "multilabel_micro_f1", "squad_exact_match", "squad_f1", "ranked_right",
    ]  # fmt: skip
    assert default_margin("bleu") is None and default_margin("loss") is None
