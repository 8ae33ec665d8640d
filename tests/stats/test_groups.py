"""Methods that cannot be told apart share a letter, and exactly these."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from lora_bench.stats import tie_letters


def test_what_is_not_transitive_is_not_made_so():
    # The first is like the second, the second like the third, and the first better than the third.
    assert tie_letters(3, [(0, 2)]) == ["a", "ab", "b"]


def test_nothing_shown_is_one_group_and_everything_shown_an_order():
    assert tie_letters(3, []) == ["a", "a", "a"]
    assert tie_letters(3, [(0, 1), (0, 2), (1, 2)]) == ["a", "b", "c"]
    assert tie_letters(28, itertools.combinations(range(28), 2))[25:] == ["z", "(aa)", "(ab)"]


methods = st.integers(1, 7).flatmap(
    lambda n: st.tuples(st.just(n), st.sets(st.sampled_from(list(itertools.combinations(range(n), 2)) or [()])))
)


@given(methods)
def test_two_methods_share_a_letter_exactly_if_they_are_not_told_apart(drawn):
    number, apart = drawn
    apart = {pair for pair in apart if pair}
    letters = [set(found) for found in tie_letters(number, apart)]
    for one, other in itertools.combinations(range(number), 2):
        assert bool(letters[one] & letters[other]) == ((one, other) not in apart)
    groups = [{place for place in range(number) if letter in letters[place]} for letter in set().union(*letters)]
    # No group can be made larger, and none is there twice.
    for group in groups:
        for other in set(range(number)) - group:
            assert any(tuple(sorted((other, member))) in apart for member in group)
    assert len({frozenset(group) for group in groups}) == len(groups)
