"""Runs that stand apart: when they are seen, and what verdicts then leave unsaid."""

import math

import numpy as np
import pytest

from lora_bench.stats import judge, paired_difference
from lora_bench.stats.apart import fewest_apart, fewest_unseen, gaps, least_p, stand_apart, unseen

NORMAL = np.random.default_rng(0).standard_normal((200, 16, 3))


def family_of(first, second, **options):
    """The verdicts on rows, each against the row of the same place, of shape (rows, runs)."""
    family = {
        place: paired_difference(dict(enumerate(one)), dict(enumerate(other)), draw_seed=0)
        for place, (one, other) in enumerate(zip(np.asarray(first).tolist(), np.asarray(second).tolist(), strict=True))
    }
    return judge(family, **{"margin": None, "power": None, "fewest": 3, **options})


def test_one_family_of_normal_scores_in_ten_is_taken_for_one_that_stands_apart():
    assert sum(stand_apart(rows) for rows in NORMAL) / len(NORMAL) == pytest.approx(0.1, abs=0.05)


def test_rows_of_which_every_second_has_a_run_far_below_stand_apart_whatever_their_unit():
    rows = NORMAL[0].copy()
    rows[::2, 0] -= 20
    spreads = 10.0 ** np.arange(-8, 8)[:, None]
    assert stand_apart(rows) and stand_apart(rows * spreads + 100 * spreads)


def test_the_evidence_of_a_row_is_its_widest_gap_over_what_is_left_within_both_parts():
    # 0, 1 | 11: a gap of 10 where the least is 1, and squares of .5 within; (n − 2) is 1.
    assert gaps(np.array([11.0, 0.0, 1.0])) == pytest.approx(math.log(1 + 9**2 / 0.5))
    # Scores in steps, with every gap of one step, are no evidence, equal ones among them.
    assert gaps(np.array([[0.5, 0.5, 0.75], [0.0, 0.25, 0.5]])) == pytest.approx([0.0, 0.0])


def test_scores_in_steps_of_a_standard_deviation_are_no_sign():
    assert sum(stand_apart(np.round(rows)) for rows in NORMAL) / len(NORMAL) < 0.1


def test_rows_that_say_nothing_are_no_sign():
    assert not stand_apart([])
    assert not stand_apart([[0.1, 0.9], [0.5, 0.5, 0.5]])
    # 0.3 − 0.2 and 0.2 − 0.1 are the same but for rounding.
    assert not stand_apart([[0.3 - 0.2, 0.2 - 0.1, 0.1]] * 9)


def test_a_row_that_is_given_for_every_comparison_counts_once():
    """A reference with one run far away is no more evidence against twelve methods than against one."""
    rows = [row.tolist() for row in NORMAL[1]]
    assert not stand_apart(rows)
    assert not stand_apart([*rows, *([[0.1, 0.2, 4.0]] * 12)])


def test_two_like_methods_differ_in_kind_in_all_pairs_most_often_if_half_of_their_runs_are_of_each():
    rates = np.linspace(0, 1, 1001)
    for pairs in (3, 5, 10):
        assert least_p(pairs) == pytest.approx(max(2 * (rates * (1 - rates)) ** pairs))
    assert (fewest_apart(0.05), fewest_apart(0.05 / 45)) == (3, 6)
    assert least_p(fewest_apart(0.05 / 45)) <= 0.05 / 45 < least_p(fewest_apart(0.05 / 45) - 1)


def test_twenty_nine_runs_without_a_collapse_exclude_one_in_ten():
    assert unseen(3) == pytest.approx(0.729)
    assert (fewest_unseen(0.05), fewest_unseen(0.05 / 12)) == (29, 53)
    assert unseen(29) <= 0.05 < unseen(28)


def test_three_runs_that_all_fell_and_three_that_did_not_show_no_difference_in_a_family_that_falls():
    """Twelve like methods, three in ten of whose runs end far below: all of one may, and none of the reference."""
    first, second = NORMAL[2][:12].copy(), NORMAL[3][:12].copy()
    first[0] -= 50
    alone = family_of(first, second)
    assert alone[0].verdict == "worse" and not alone[0].apart
    first[1::2, 0] -= 50
    second[::3, 1] -= 50
    second[0] = NORMAL[3][0]
    found = family_of(first, second)
    assert found[0].apart and found[0].verdict == "inconclusive"
    assert found[0].p_value == least_p(3) and found[0].adjusted_p == pytest.approx(12 * least_p(3))
    assert found[0].adjusted is None and found[0].simultaneous is None and not found[0].beyond_margin
    # The interval of the comparison alone is at a level that three pairs do reach.
    assert found[0].interval is not None
    # A look that has a quarter of the error level has a quarter of it for such families too.
    assert family_of(first, second, shares=0.25)[0].p_value == pytest.approx(4 * least_p(3))


def test_with_more_pairs_a_difference_is_shown_among_runs_that_stand_apart():
    generator = np.random.default_rng(5)
    first, second = generator.standard_normal((2, 12, 10))
    first[0] -= 50
    first[1:, 0] -= 50
    found = family_of(first, second)
    assert found[0].apart and found[0].verdict == "worse" and 0 not in found[0].adjusted


def test_a_known_collapse_takes_the_margin_claims_and_the_least_p_of_its_comparison_alone():
    generator = np.random.default_rng(6)
    shape = (2, 60)
    first, second = generator.standard_normal(shape), generator.standard_normal(shape)
    found = family_of(first, second, margin=1.0)
    assert [one.verdict for one in found.values()] == ["equivalent", "equivalent"]
    found = family_of(first, second, margin=1.0, collapsed=[1])
    assert [(one.verdict, one.apart) for one in found.values()] == [("equivalent", False), ("inconclusive", True)]
    assert found[1].equivalence_p is None and found[1].noninferiority_p is None and found[1].unless_collapse is None


@pytest.mark.parametrize(("pairs", "said"), [(10, "inconclusive"), (28, "inconclusive"), (29, "equivalent")])
def test_fewer_pairs_than_exclude_a_collapse_in_ten_say_equivalent_only_unless_runs_collapse(pairs, said):
    first, second = np.random.default_rng(0).standard_normal((2, 1, 29))[..., :pairs]
    (found,) = family_of(first, second, margin=10.0, power=0.8).values()
    assert found.verdict == said and not found.apart
    assert found.equivalence_p == pytest.approx(unseen(pairs))
    assert found.unless_collapse == (None if said == "equivalent" else "equivalent")
    if said == "inconclusive":
        assert (found.needed.seeds, found.needed.by) == (29, "equivalence")


def test_a_difference_within_the_margin_unless_runs_collapse_is_better_and_no_more():
    generator = np.random.default_rng(4)
    second = generator.standard_normal((1, 10))
    (found,) = family_of(second + 3 + generator.standard_normal((1, 10)) / 10, second, margin=10.0).values()
    assert (found.verdict, found.unless_collapse, found.beyond_margin) == ("better", "equivalent", False)


def test_seeds_that_would_decide_are_no_fewer_than_those_with_which_anything_can_be_said():
    generator = np.random.default_rng(8)
    first, second = generator.standard_normal((2, 45, 5))
    first[:, 0] -= 40
    first[0] = second[0] - 40 + generator.standard_normal(5)
    found = family_of(first, second, power=0.8)
    assert found[0].apart and (found[0].verdict, found[0].needed.seeds) == ("inconclusive", 6)
