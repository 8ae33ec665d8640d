"""Loss and perplexity of right texts, over all tokens, and over resampled items."""

import math

import numpy as np
import pytest

from lora_bench.metrics import metric
from lora_bench.metrics.support.item_weights import item_metric

NATS, TOKENS = [2.0, 9.0], [2, 3]


def test_the_loss_is_the_mean_over_all_tokens():
    assert metric("loss").compute(predictions=NATS, references=TOKENS) == {"loss": 11 / 5}


def test_the_perplexity_is_its_exponential():
    found = metric("perplexity").compute(predictions=NATS, references=TOKENS)
    assert found["perplexity"] == pytest.approx(math.exp(11 / 5))
    assert metric("perplexity").compute(predictions=[1e6], references=[1]) == {"perplexity": None}


@pytest.mark.parametrize(("name", "of"), [("loss", lambda mean: mean), ("perplexity", np.exp)])
def test_items_that_repeat_count_again(name, of):
    items = item_metric(name, TOKENS, {0: NATS, 1: [4.0, 3.0]})
    # The first item twice and the second once: 4 + 9 nats for 4 + 3 tokens.
    weighted = items.on(np.array([[2.0, 1.0]]))
    assert weighted[0] == pytest.approx([of(13 / 7), of(11 / 7)])
