"""What holds of the metrics of generated texts whatever the texts are."""

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lora_bench.metrics import metric

NO_JAVA = ["exact_match", "bleu", "bleu_webnlg", "nist", "ter", "chrf", "rouge_1", "rouge_2", "rouge_l_summary"]
SHARES = [name for name in NO_JAVA if name not in ("nist", "ter")]

words = st.sampled_from(["green", "Cats", "cat", "sang", "it's", "3.5", "-", ".", "(so)", "é", "&amp;", "\u2028"])
texts = st.lists(words, max_size=8).map(" ".join) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12
)
inputs = st.lists(st.tuples(texts, st.lists(texts, min_size=1, max_size=4)), min_size=1, max_size=4)

quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def value(name: str, rows: list[tuple[str, list[str]]]) -> float | None:
    predictions, references = [text for text, _ in rows], [each for _, each in rows]
    return metric(name).compute(predictions=predictions, references=references)[name]


@quick
@given(rows=inputs)
@pytest.mark.parametrize("name", NO_JAVA)
def test_a_value_is_in_its_range(name, rows):
    found = value(name, rows)
    if name == "nist" and found is None:
        assert not any(text.strip() for _, each in rows for text in each)
        return
    assert math.isfinite(found)
    assert found >= 0
    if name in SHARES:
        assert found <= 1 + 1e-12


@quick
@given(rows=inputs, data=st.data())
@pytest.mark.parametrize("name", NO_JAVA)
def test_the_order_of_inputs_changes_nothing(name, rows, data):
    assert value(name, data.draw(st.permutations(rows))) == pytest.approx(value(name, rows), abs=1e-12)


@quick
@given(rows=inputs, data=st.data())
@pytest.mark.parametrize(
    "name", [name for name in NO_JAVA if name != "chrf"]
)  # which takes the first of equally near ones
def test_the_order_of_references_changes_nothing(name, rows, data):
    shuffled = [(text, data.draw(st.permutations(each))) for text, each in rows]
    assert value(name, shuffled) == pytest.approx(value(name, rows), abs=1e-12)


@quick
@given(rows=inputs)
@pytest.mark.parametrize("name", ["exact_match", "rouge_1", "rouge_2", "rouge_l_summary"])
def test_one_reference_more_never_lowers_a_mean_over_inputs(name, rows):
    more = [(text, [*each, text]) for text, each in rows]
    assert value(name, more) >= value(name, rows) - 1e-12


@quick
@given(rows=inputs)
def test_nist_without_a_shared_word_is_zero(rows):
    assert value("nist", [("unheard", each) for _, each in rows]) in (0, None)
