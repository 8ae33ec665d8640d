"""The nightly gate: prediction intervals by hand and by scipy, what each answer takes, and what simulations promise."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks import gate_simulation as simulation
from benchmarks.tables import unfolded
from lora_bench.errors import LoraBenchError
from lora_bench.stats import History, confirm, judge_night
from lora_bench.stats.gate import CONFIRM_ALPHA, DRIFT_ALPHA, LEVEL_ALPHA

DOCS = Path(__file__).parents[2] / "docs"
PAGE = "\n".join((DOCS / name).read_text(encoding="utf-8") for name in ("gate.md", "error-rates.md"))
NIGHTS = (0.90, 0.91, 0.89, 0.92, 0.90, 0.88, 0.91, 0.89)


def history(nights=NIGHTS, **changes):
    values = {"higher_is_better": True, "margin": 0.0, "floor": 1e-6, **changes}
    return History(nights=nights, **values)


def finding(tonight, one, **levels):
    return judge_night({"series": tonight}, {"series": one}, **levels)["series"]


def test_the_level_test_by_hand():
    # 1 to 8: mean 4.5, variance 6. Tonight's −5 is 9.5 below, in errors of √6 · √(1 + 1/8).
    one = finding(-5.0, history(range(1, 9))).level
    t = 9.5 / math.sqrt(6 * 9 / 8)
    assert (one.expected, one.sd, one.loss, one.nights) == (4.5, pytest.approx(math.sqrt(6)), 9.5, 8)
    assert one.p_worse == pytest.approx(stats.t.sf(t, 7)) and one.p_better == pytest.approx(stats.t.cdf(t, 7))
    assert one.worst == pytest.approx(4.5 - stats.t.isf(LEVEL_ALPHA, 7) * math.sqrt(6 * 9 / 8))
    assert one.best == pytest.approx(9 - one.worst)


@given(st.lists(st.floats(-1, 1), min_size=8, max_size=20), st.floats(-2, 2))
def test_it_is_the_two_sample_t_test_of_one_night_against_the_others(nights, tonight):
    assume(np.std(nights) > 1e-3)
    less, more = (
        stats.ttest_ind([tonight], nights, alternative=alternative).pvalue for alternative in ("less", "greater")
    )
    one = finding(tonight, history(nights)).level
    assert (one.p_worse, one.p_better) == pytest.approx((less, more), abs=1e-9)


def test_a_lower_metric_is_worse_where_it_rises():
    rise = finding(1.0, history(higher_is_better=False))
    assert rise.answer == "suspect" and rise.level.direction == "worse" and rise.level.worst > rise.level.expected
    assert rise.level.loss == pytest.approx(0.1)
    assert finding(0.8, history(higher_is_better=False)).answer == "improved"


def test_both_directions_are_flagged():
    found = [finding(tonight, history()) for tonight in (0.8, 0.9, 1.0)]
    assert [one.answer for one in found] == ["suspect", "pass", "improved"]
    assert [one.level.direction for one in found] == ["worse", None, "better"]


@given(st.floats(-0.2, 0.2).filter(lambda x: abs(x) > 1e-6))
def test_the_bounds_are_where_the_answer_turns(beyond):
    for one in (history(), history(margin=0.08)):
        calm = finding(0.9, one).level
        assert (finding(calm.worst + beyond, one).answer == "suspect") == (beyond < 0)
        assert (finding(calm.best + beyond, one).answer == "improved") == (beyond > 0)


def test_a_night_is_judged_by_holms_procedure_over_its_series():
    # One-sided p-values of .0004, .002 and .3 at a level of .003: the first is tested at .001, the second at .0015.
    errors = np.std(NIGHTS, ddof=1) * math.sqrt(9 / 8)
    tonight = {key: 0.9 - stats.t.isf(p, 7) * errors for key, p in {"a": 0.3, "b": 0.0004, "c": 0.002}.items()}
    found = judge_night(tonight, dict.fromkeys(tonight, history()), alpha=0.003)
    assert [found[key].answer for key in "abc"] == ["pass", "suspect", "pass"]
    assert found["b"].level.adjusted_worse == pytest.approx(0.0012)
    assert found["c"].level.adjusted_worse == pytest.approx(0.004)
    assert finding(tonight["c"], history(), alpha=0.003).answer == "suspect"


def test_a_series_without_history_does_not_weaken_the_test_of_the_others():
    alone = finding(0.85, history())
    both = judge_night({"old": 0.85, "new": 0.85}, {"old": history(), "new": history(())})
    assert both["old"] == alone
    assert both["new"].answer == "insufficient_history" and both["new"].level is None
    assert both["new"].reason == "0 nights of history, and the level test takes at least 8"


def test_seven_nights_are_too_few_and_eight_are_enough():
    seven = finding(0.0, history(NIGHTS[:7]))
    assert (seven.answer, seven.level) == ("insufficient_history", None) and "7 nights" in seven.reason
    assert finding(0.0, history()).answer == "suspect"


def test_only_the_last_twenty_nights_are_looked_at():
    old, recent = [0.2] * 30, [*NIGHTS, *NIGHTS, *NIGHTS[:4]]
    assert finding(0.85, history([*old, *recent])) == finding(0.85, history(recent))
    assert finding(0.85, history(recent)).level.nights == 20


def test_a_change_within_the_margin_passes_however_sure_it_is():
    # Powers of two, so that the loss is the margin to the last digit.
    nights = [0.5, 0.5 + 2**-20] * 4
    margin = 0.125 + 2**-21
    certain = finding(0.375, history(nights, margin=margin))
    assert certain.level.adjusted_worse < 1e-9 and certain.level.loss == margin and certain.answer == "pass"
    assert certain.level.worst == 0.375
    assert finding(0.374, history(nights, margin=margin)).answer == "suspect"
    assert finding(0.626, history(nights, margin=margin)).answer == "improved"


def test_nights_that_all_agree_have_the_floor_for_a_spread():
    same = history([0.9] * 12, margin=0.004, floor=0.001)
    assert finding(0.9, same).level.p_worse == pytest.approx(0.5)
    assert finding(0.9, same).answer == "pass"
    one = finding(0.89, same).level
    assert one.sd == pytest.approx(0, abs=1e-12) and one.spread == 0.001
    assert one.p_worse == pytest.approx(stats.t.sf(0.01 / (0.001 * math.sqrt(1 + 1 / 12)), 11))
    assert one.direction == "worse"
    # A quarter of the margin: whatever of a single series is beyond the margin counts.
    assert finding(0.8959, same).answer == "suspect" and finding(0.8961, same).answer == "pass"


def test_what_is_no_number_is_refused():
    with pytest.raises(LoraBenchError, match="the mean of night 2 is nan"):
        history([0.9, math.nan, 0.9])
    with pytest.raises(LoraBenchError, match="the mean of anchored night 1 is inf"):
        history(anchor=[math.inf])
    with pytest.raises(LoraBenchError, match="tonight's mean of sst2 is nan"):
        judge_night({"sst2": math.nan}, {"sst2": history()})
    with pytest.raises(LoraBenchError, match="the second set of seeds is nan"):
        confirm(history(), math.nan)


def test_what_cannot_be_judged_is_refused_with_what_was_expected():
    with pytest.raises(LoraBenchError, match=r"floor is 0; expected a standard deviation above 0"):
        history(floor=0)
    with pytest.raises(LoraBenchError, match=r"margin is -0\.1; expected a number from 0 on"):
        history(margin=-0.1)
    with pytest.raises(LoraBenchError, match="there is no history for rte; expected one, without nights"):
        judge_night({"rte": 0.7}, {})
    for levels in ({"alpha": 0.0}, {"drift_alpha": 0.7}, {"alpha": math.nan}):
        with pytest.raises(LoraBenchError, match=r"expected a number between 0 and 0\.5"):
            finding(0.9, history(), **levels)
    with pytest.raises(LoraBenchError, match=r"expected a number between 0 and 0\.5"):
        confirm(history(), 0.9, alpha=1.0)


def test_a_second_set_of_seeds_confirms_or_not():
    one = history(margin=0.01)
    assert confirm(one, 0.8).answer == "regression"
    assert confirm(one, 0.895).answer == "flaky"
    assert confirm(one, 1.0).answer == "flaky"
    assert confirm(one, 1.0, direction="better").answer == "improved"
    assert confirm(one, 0.8, direction="better").answer == "flaky"
    # Beyond the prediction interval, and not beyond the margin.
    assert confirm(history(margin=0.11), 0.8).answer == "flaky"


def test_the_second_test_is_at_its_own_level_and_not_corrected():
    reach = stats.t.isf(CONFIRM_ALPHA, 7) * np.std(NIGHTS, ddof=1) * math.sqrt(9 / 8)
    assert confirm(history(), 0.9 - 1.001 * reach).answer == "regression"
    found = confirm(history(), 0.9 - 0.999 * reach)
    assert found.answer == "flaky" and found.shift.worst == pytest.approx(0.9 - reach)
    assert found.shift.adjusted_worse == found.shift.p_worse > CONFIRM_ALPHA


def test_nothing_is_confirmed_without_history():
    with pytest.raises(LoraBenchError, match=r"7 nights of history.*nothing to confirm"):
        confirm(history(NIGHTS[:7]), 0.8)


def test_the_drift_test_by_hand():
    # The anchored 1 to 8 again; the last four nights and tonight have a mean of −2, so a loss of 6.5.
    one = finding(-2.0, history([9.0, 9.0, 9.0, 9.0, -1.0, -3.0, -2.5, -1.5], anchor=range(1, 9))).drift
    error = math.sqrt(6) * math.sqrt(1 / 5 + 1 / 8)
    assert (one.observed, one.expected, one.loss) == (-2.0, 4.5, 6.5)
    assert one.p_worse == pytest.approx(stats.t.sf(6.5 / error, 7))
    assert one.worst == pytest.approx(4.5 - stats.t.isf(DRIFT_ALPHA, 7) * error)
    assert one.direction is None
    assert finding(-2.0, history([-2.0] * 8, anchor=range(1, 9)), drift_alpha=0.01).drift.direction == "worse"


def test_a_slow_loss_is_seen_from_the_anchor_alone():
    wobble = [0.003 * (-1) ** night for night in range(60)]
    nights = [0.9 + one - 0.0005 * night for night, one in enumerate(wobble)]
    found = finding(0.9 - 0.0005 * 60, history(nights, anchor=[0.9 + one for one in wobble[:20]], margin=0.005))
    assert found.answer == "pass" and found.drift.direction == "worse"
    gain = [1.8 - night for night in nights]
    found = finding(0.9 + 0.0005 * 60, history(gain, anchor=[0.9 + one for one in wobble[:20]], margin=0.005))
    assert found.answer == "pass" and found.drift.direction == "better"
    assert finding(0.87, history(nights, anchor=nights[:20], margin=0.05)).drift.direction is None


def test_why_there_is_no_drift_test():
    assert finding(0.9, history()).drift_reason == "no release is anchored"
    few = finding(0.9, history(anchor=NIGHTS[:7]))
    assert few.drift is None and few.drift_reason.startswith("7 nights of the anchored release")
    young = finding(0.9, history(NIGHTS[:3], anchor=NIGHTS))
    assert young.drift_reason == "4 nights with tonight, and the drift test takes the mean of 5"
    assert finding(0.9, history(NIGHTS[:4], anchor=NIGHTS)).drift is not None


@given(st.floats(0.01, 100), st.floats(-10, 10), st.floats(0.5, 1.3))
def test_another_unit_changes_no_p_value(scale, origin, tonight):
    one = finding(tonight, history(floor=0.001, anchor=NIGHTS))
    other = finding(
        origin + scale * tonight,
        history(
            [origin + scale * night for night in NIGHTS],
            floor=0.001 * scale,
            anchor=[origin + scale * night for night in NIGHTS],
        ),
    )
    for shift, scaled in ((one.level, other.level), (one.drift, other.drift)):
        assert scaled.p_worse == pytest.approx(shift.p_worse, rel=1e-5, abs=1e-12)
        assert scaled.worst == pytest.approx(origin + scale * shift.worst, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.permutations(list("abcdefgh")))
def test_the_order_of_the_series_changes_nothing(order):
    generator = np.random.default_rng(0)
    histories = {key: history(generator.normal(0.9, 0.01, 12).tolist()) for key in "abcdefgh"}
    tonight = dict(zip("abcdefgh", generator.normal(0.9, 0.03, 8).tolist(), strict=True))
    found = judge_night({key: tonight[key] for key in order}, histories)
    assert list(found) == order
    assert found == judge_night(tonight, histories)


# ── simulations


def answered(past, tonight, sets):
    """What the package answers on one night of several series: suspect, confirmed, and which set cleared, by direction."""
    histories = {
        key: History(
            nights=[mean for mean, _ in kept],
            seeds=[runs for _, runs in kept],
            anchor=[mean for mean, _ in kept[: min(20, len(kept) - 4)]] if len(kept) >= 12 else None,
            higher_is_better=True,
            margin=0.4,
            floor=0.2,
        )
        for key, kept in past.items()
    }
    found = {}
    for key, one in judge_night(tonight, histories).items():
        for kind, shift in (("level", one.level), ("drift", one.drift)):
            if shift is None or shift.direction is None or (kind == "drift" and one.level.direction is not None):
                continue
            second = [
                confirm(histories[key], mean, direction=shift.direction, first=shift, drift=kind == "drift").answer
                for mean in sets[key]
            ]
            cleared = next((number for number, said in enumerate(second, start=1) if said == "flaky"), 0)
            found[key, kind, shift.direction] = cleared
    return found


def test_the_simulation_judges_and_accepts_as_the_gate_does():
    generator = np.random.default_rng(0)
    world = simulation.World("by hand", night=0.3, memory=0.5, floor=0.2, margin=0.4)
    runs = generator.standard_normal((3, 1, 4, 60, 3))
    # Few and large enough that every answer occurs, and part of them in the further sets of seeds too.
    change = generator.choice([0, -8, 8], (4, 52), p=[0.94, 0.04, 0.02])
    for number in range(3):
        runs[number, 0, :, 8:] += (change * (generator.random((4, 52)) < (1.0, 0.7, 0.7)[number]))[..., None]
    runs[:, 0, 0, 24:] -= 0.07 * np.arange(36)[:, None]
    drawn = simulation.Drawn(runs.mean(axis=-1), runs.var(axis=-1, ddof=1) / 3, 3)
    past = {
        key: [(drawn.means[0, 0, key, night], runs[0, 0, key, night].tolist()) for night in range(8)]
        for key in range(4)
    }
    seen = set()
    for night, one in enumerate(simulation.in_a_row(world, drawn), start=8):
        tonight, again = drawn.means[0, 0, :, night], drawn.means[1:, 0, :, night].T
        found = answered(past, dict(enumerate(tonight)), again)
        for kind, (worse, better) in (("level", (one.worse, one.better)), ("drift", one.drifts)):
            for direction, moved in (("worse", worse), ("better", better)):
                suspects = {key: cleared for (key, *what), cleared in found.items() if what == [kind, direction]}
                assert np.flatnonzero(moved.suspect[0]).tolist() == sorted(suspects)
                assert {key: moved.cleared_by[0, key] for key in suspects} == suspects
                assert np.flatnonzero(moved.confirmed[0]).tolist() == sorted(
                    key for key in suspects if not suspects[key]
                )
                seen |= {(kind, direction, cleared) for cleared in suspects.values()}
        if all(found.values()):
            for key in past:
                if all(key != suspect for suspect, *_ in found):
                    past[key].append((tonight[key], runs[0, 0, key, night].tolist()))
    assert {
        ("level", "worse", 0),
        ("level", "worse", 1),
        ("level", "worse", 2),
        ("level", "better", 1),
        ("drift", "worse", 0),
    } <= seen


def test_worlds_have_a_variance_of_one():
    generator = np.random.default_rng(2)
    for world in simulation.WORLDS:
        if "collapses" in world.name:  # their variance is that of the other runs
            continue
        first, second, _ = world.draw(generator, 1000, 4, 10, 1).means
        # Rounding to whole numbers adds a twelfth; the tails of t are heavy.
        wide = 0.25 if "tails" in world.name else 0.06
        assert first.var() == pytest.approx(13 / 12 if "steps" in world.name else 1, abs=wide)
        share = world.night / world.every
        assert np.corrcoef(first.ravel(), second.ravel())[0, 1] == pytest.approx(share, abs=0.04)
        between = np.corrcoef(first[..., 1:].ravel(), first[..., :-1].ravel())[0, 1]
        assert between == pytest.approx(share * world.memory, abs=0.04)
        alike = world.alike + world.night * world.together
        assert np.corrcoef(first[:, 0].ravel(), first[:, 1].ravel())[0, 1] == pytest.approx(alike, abs=0.05)


def at_most(share, count):
    """Three standard errors above a share of *count*."""
    return share + 3 * math.sqrt(share * (1 - share) / count)


@pytest.mark.slow
def test_an_unchanged_system_alarms_in_at_most_one_night_of_a_hundred():
    # A night a history, so that the nights are independent.
    for nights in simulation.NIGHTS:
        found = simulation.shares(
            simulation.INDEPENDENT, 1000, 1, simulation.of_nights(nights), accepted=nights, seed=1
        )
        assert found.either <= at_most(0.01, 1000)
        # One-sided, before confirmation: the level that is stated, and no less for fifty independent series.
        assert found.suspect == pytest.approx(LEVEL_ALPHA, abs=3 * math.sqrt(LEVEL_ALPHA / 1000))


@pytest.mark.slow
@pytest.mark.parametrize(("nights", "aim"), [(8, 0.7), (12, 0.8), (20, 0.85)])
def test_a_loss_of_three_deviations_is_found_in_its_first_night(nights, aim):
    gate = simulation.of_nights(nights)
    found = simulation.shares(simulation.INDEPENDENT, 500, 1, gate, accepted=nights, losses=(3.0,), seed=1).found
    suspect, confirmed = found[3.0]
    assert suspect >= confirmed >= aim - 3 * math.sqrt(aim * (1 - aim) / 500)
    # More than the nights of a series alone find, by the noncentral t.
    alone = stats.nct.sf(
        stats.t.isf(LEVEL_ALPHA / 50, nights - 1), nights - 1, 3 * math.sqrt(3) / math.sqrt(1 + 1 / nights)
    )
    assert suspect > alone


@pytest.mark.slow
@pytest.mark.parametrize("world", [*simulation.COLLAPSES, simulation.HEAVY], ids=lambda world: world.name)
def test_runs_that_collapse_now_and_then_make_few_nights_red(world):
    """Before, the first flaky night was followed by red ones for good."""
    found, before = (simulation.shares(world, 20, 25, gate, seed=3) for gate in (simulation.Gate(), simulation.BEFORE))
    assert found.regression <= at_most(0.005, 500)
    if world is simulation.COLLAPSES[-1]:
        assert before.regression > 0.15


@pytest.mark.slow
def test_a_tenth_of_a_deviation_a_night_is_found_within_sixty_nights():
    found = simulation.slow_losses(simulation.INDEPENDENT, 20, rate=0.1, accepted=24, seed=1)
    assert found.found == 1.0 and found.median < 35


@pytest.mark.slow
def test_a_year_of_an_unchanged_system_seldom_drifts():
    loss, either = simulation.years(simulation.INDEPENDENT, 20, 60, seed=1)
    assert loss <= either <= 0.05


@pytest.mark.slow
def test_alarms_where_the_floor_is_at_work_are_none():
    floored = next(world for world in simulation.WORLDS if world.name == "floor twice the spread")
    assert simulation.shares(floored, 20, 20, seed=1).suspect == 0


# ── the page


def stated(heading):
    """The rows of the table of the page whose header begins so, as lists of cells."""
    (table,) = re.findall(rf"^\| {re.escape(heading)}.*\n\|[- :|]+\n((?:\|.*\n)+)", PAGE, flags=re.MULTILINE)
    return unfolded(table.splitlines())


@pytest.mark.slow
def test_the_page_has_every_table_that_the_benchmark_prints(capsys):
    simulation.main(["--quick"])
    printed = re.findall(r"^\| ([^|]+) \|.*\n\| ---", capsys.readouterr().out, flags=re.MULTILINE)
    assert len(printed) == 6
    for heading in printed:
        assert stated(heading)


@pytest.mark.slow
def test_the_page_states_the_alarms_and_the_losses_found():
    rows = {name: shares for name, *shares in stated("nights of an unchanged system with")}
    assert set(rows) == {world.name for world in simulation.WORLDS}
    for world in (simulation.INDEPENDENT, simulation.NIGHT, simulation.HUNDRED, simulation.HEAVY):
        found = simulation.shares(world, 20, 25, accepted=20, losses=(2.0, 3.0), seed=2)
        measured = found.suspect, found.regression, found.either, *(one for _, one in found.found.values())
        for said, share in zip(map(float, rows[world.name]), measured, strict=True):
            assert share == pytest.approx(said, abs=4 * math.sqrt(max(said * (1 - said), 0.002) / 500) + 0.04)


def test_the_example_of_the_page_gives_what_it_says():
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    names = {}
    exec(example, names)
    assert "'suspect'" in example and names["findings"]["sst2"].answer == "suspect"
    assert "'regression'" in example and confirm(names["history"], 0.818).answer == "regression"


def test_the_targets_are_met_by_the_figures_of_the_page():
    for name, suspect, regression, either, two, three in stated("nights of an unchanged system with"):
        if "collapse" in name or "tails" in name or "questions" in name or name == simulation.INDEPENDENT.name:
            assert float(regression) <= float(either) <= 0.01 < float(suspect)
        if name == simulation.INDEPENDENT.name:
            assert float(two) >= 0.26 and float(three) >= 0.85
    rules = {name: shares for name, *shares in stated("rule for suspect series")}
    assert set(rules) == set(simulation.RULES)
    losses = {(name, seeds): list(map(float, found)) for name, seeds, *found in stated("loss of one series of 50")}
    assert [found >= aim for found, aim in zip(losses["3 SD", "3"], (0.7, 0.8, 0.85), strict=True)] == [True] * 3
    for name, _, found, *_ in stated("slow loss a night, found within 60 nights"):
        if name == "0.1 SD of a run":
            assert float(found) == 1.0


def test_every_level_of_the_page_is_the_one_in_the_code():
    for name, value in {"level test": LEVEL_ALPHA, "confirmation": CONFIRM_ALPHA, "drift test": DRIFT_ALPHA}.items():
        assert f"{name}: {value}" in PAGE


def test_a_loss_is_of_one_night_alone():
    # The nights that follow are judged by a history that the loss has not touched.
    drawn = simulation.INDEPENDENT.draw(np.random.default_rng(3), 2, 3, 30, 3)
    nights = list(simulation.in_a_row(simulation.INDEPENDENT, drawn, accepted=20, losses=(100.0,)))
    assert len(nights) == 10
    for night in nights:
        assert night.with_loss[100.0][1].all() and not night.regression[:, 0].any()
