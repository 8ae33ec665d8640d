"""Methods that cannot be told apart share a letter, and exactly these."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_bench.errors import LoraBenchError
from lora_bench.stats import rank


def ranked(order, apart, **options):
    """Methods with falling means, of which the pairs *apart* are told apart."""
    means = {name: -place for place, name in enumerate(order)}
    p_values = {
        pair: 0.001 if set(pair) in [set(one) for one in apart] else 0.7 for pair in itertools.combinations(order, 2)
    }
    return rank(means, p_values, **options)


def test_what_is_not_transitive_is_not_made_so():
    # The first is like the second, the second like the third, and the first better than the third.
    found = ranked("ABC", ["AC"])
    assert found.groups == (("A", "B"), ("B", "C"))
    assert found.letters == {"A": "a", "B": "ab", "C": "b"}
    assert found.ranks == {"A": (1, 2), "B": (1, 3), "C": (2, 3)}


def test_nothing_shown_is_one_group_and_everything_shown_an_order():
    nothing, everything = ranked("ABC", []), ranked("ABC", ["AB", "AC", "BC"])
    assert nothing.groups == (("A", "B", "C"),) and set(nothing.ranks.values()) == {(1, 3)}
    assert everything.letters == {"A": "a", "B": "b", "C": "c"}
    assert everything.ranks == {"A": (1, 1), "B": (2, 2), "C": (3, 3)}


def test_less_may_be_better():
    found = rank({"a": 1.0, "b": 2.0}, {("b", "a"): 0.01}, higher_is_better=False)
    assert found.order == ("a", "b") and found.ranks == {"a": (1, 1), "b": (2, 2)}


def test_what_has_no_p_value_is_not_told_apart():
    assert rank({"a": 1.0, "b": 2.0}, {("a", "b"): None}).groups == (("b", "a"),)


def test_a_missing_pair_is_an_error():
    with pytest.raises(LoraBenchError, match="there is no comparison of b with a"):
        rank({"a": 1.0, "b": 2.0}, {})


methods = st.integers(1, 7).flatmap(
    lambda n: st.tuples(
        st.just("ABCDEFG"[:n]), st.sets(st.sampled_from(list(itertools.combinations("ABCDEFG"[:n], 2)) or [()]))
    )
)


@given(methods)
def test_two_methods_share_a_letter_exactly_if_they_are_not_told_apart(drawn):
    order, apart = drawn
    apart = {pair for pair in apart if pair}
    found = ranked(order, apart)
    for pair in itertools.combinations(order, 2):
        assert bool(set(found.letters[pair[0]]) & set(found.letters[pair[1]])) == (pair not in apart)
    # No group can be made larger, and none is there twice.
    for group in found.groups:
        for other in set(order) - set(group):
            assert any(tuple(sorted((other, member))) in apart for member in group)
    assert len(set(found.groups)) == len(found.groups)
    for place, name in enumerate(found.order, start=1):
        best, worst = found.ranks[name]
        assert best <= place <= worst
