"""Metrics of tagged words, by hand, against seqeval where it is installed, and on resampled sentences."""

import random

import numpy as np
import pytest

from lora_bench.metrics import find, metric
from lora_bench.metrics.support.as_evaluate import value_of
from lora_bench.metrics.support.item_weights import item_metric
from lora_bench.metrics.support.tags import entities, is_tag
from lora_bench.stats.items import draw_weights

# The example of seqeval's own page, which gives F1 0.5 for it.
SEQEVAL = (
    [["O", "O", "O", "B-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]],
    [["O", "O", "B-MISC", "I-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]],
)


def value(name, right, given):
    return metric(name).compute(references=right, predictions=given)[name]


def test_the_example_of_seqeval_has_its_f1():
    assert value("seqeval_f1", *SEQEVAL) == 0.5
    # An entity that begins a word too early makes two of ten labels wrong.
    assert value("token_accuracy", *SEQEVAL) == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("B-PER I-PER O B-LOC", {("PER", 0, 1), ("LOC", 3, 3)}),
        ("B-PER B-PER", {("PER", 0, 0), ("PER", 1, 1)}),
        ("I-PER I-PER O I-PER", {("PER", 0, 1), ("PER", 3, 3)}),  # IOB1
        ("I-PER I-LOC", {("PER", 0, 0), ("LOC", 1, 1)}),
        ("B-PER I-LOC I-LOC", {("PER", 0, 0), ("LOC", 1, 2)}),
        ("B-PER I-PER E-PER S-PER O", {("PER", 0, 2), ("PER", 3, 3)}),  # IOBES
        ("B I O B", {("", 0, 1), ("", 3, 3)}),
        ("B-a-b I-a-b", {("a-b", 0, 1)}),
        ("O O", set()),
    ],
)
def test_entities_by_hand(tags, found):
    assert entities(tags.split()) == found


def test_which_labels_are_tags():
    assert all(map(is_tag, ["O", "B-PER", "I-a-b", "E-x", "S-x", "B"]))
    assert not any(map(is_tag, ["NOUN", "PER", "U-PER", "L-PER", "b-PER", "B-", "", "OUT"]))


def sentences(draw, count, tags):
    return [[draw.choice(tags) for _ in range(draw.randint(1, 12))] for _ in range(count)]


def noisy(draw, right, tags):
    return [[tag if draw.random() < 0.7 else draw.choice(tags) for tag in each] for each in right]


@pytest.mark.parametrize("prefixes", ["BI", "BIES"])
def test_f1_is_that_of_seqeval_on_any_tags_in_any_order(prefixes):
    seqeval = pytest.importorskip("seqeval.metrics")
    tags = ["O", *(f"{prefix}-{kind}" for prefix in prefixes for kind in ("PER", "LOC", "a-b"))]
    draw = random.Random(0)
    for _ in range(50):
        right = sentences(draw, 20, tags)
        given = noisy(draw, right, tags)
        assert value("seqeval_f1", right, given) == pytest.approx(seqeval.f1_score(right, given), abs=1e-12)
        assert value("token_accuracy", right, given) == pytest.approx(seqeval.accuracy_score(right, given), abs=1e-12)


@pytest.mark.parametrize("name", ["seqeval_f1", "token_accuracy"])
def test_as_a_function_of_items_it_is_the_metric_of_the_resampled_sentences(name):
    tags = ["O", "B-PER", "I-PER", "B-LOC"]
    draw = random.Random(1)
    right = sentences(draw, 30, tags)
    given = {seed: noisy(draw, right, tags) for seed in (3, 1)}
    scored = item_metric(name, right, given)
    weights = draw_weights(np.random.default_rng(0), 10, len(right))
    for row, found in zip(weights.astype(int), scored.on(weights), strict=True):
        chosen = np.repeat(np.arange(len(right)), row)
        expected = [
            value_of(find(name), [answers[place] for place in chosen], [right[place] for place in chosen])
            for answers in given.values()
        ]
        assert found == pytest.approx(expected, abs=1e-12)
    assert scored.scores() == pytest.approx([value(name, right, answers) for answers in given.values()])


def test_without_any_entity_it_is_zero_as_in_seqeval():
    assert value("seqeval_f1", [["O", "O"]], [["O", "O"]]) == 0.0
    assert item_metric("seqeval_f1", [["O"], ["B-x"]], {0: [["O"], ["B-x"]]}).on(np.array([[2.0, 0.0]])) == 0.0
