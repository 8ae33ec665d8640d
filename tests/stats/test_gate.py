"""The nightly gate: prediction intervals by hand and by scipy, what each answer takes, and what simulations promise."""

import math
import re
from dataclasses import replace
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


def test_the_simulation_judges_as_the_gate_does():
    generator = np.random.default_rng(0)
    world = simulation.World("by hand", night=0.3, memory=0.5, floor=0.2, margin=0.4)
    runs = generator.standard_normal((1, 4, 30, 3))
    second = generator.standard_normal((1, 4, 30)) / math.sqrt(3)
    # Few and large enough that every answer occurs, and half of them in the second set of seeds too.
    change = generator.choice([0, -8, 8], (4, 18), p=[0.9, 0.05, 0.05])
    runs[0, :, 12:] += change[..., None]
    second[0, :, 12:] += change * generator.integers(0, 2, (4, 18))
    first = runs.mean(axis=-1)
    drawn = simulation.Drawn(first, runs.var(axis=-1, ddof=1) / 3, second, 3)
    found = simulation.judged(drawn, 12, world, loss=2.0)
    answers = set()
    for night in range(18):
        histories = {
            key: History(
                nights=first[0, key, night : night + 12],
                seeds=runs[0, key, night : night + 12].tolist(),
                higher_is_better=True, margin=0.4, floor=0.2,
            )
            for key in range(4)
        }  # fmt: skip
        tonight, again = first[0, :, night + 12].copy(), second[0, :, night + 12].copy()
        tonight[0] -= 2.0
        again[0] -= 2.0
        for key, one in judge_night(dict(enumerate(tonight)), histories).items():
            assert (one.answer == "suspect") == found.suspect[0, key, night]
            assert (one.answer == "improved") == found.better[0, key, night]
            answers.add(one.answer)
            if one.answer != "pass":
                sure = confirm(histories[key], again[key], direction=one.level.direction, first=one.level).answer
                assert (sure == "regression") == found.regression[0, key, night]
                assert (one.answer == sure == "improved") == found.improved[0, key, night]
                answers.add(sure)
    assert answers == {"pass", "suspect", "improved", "regression", "flaky"}


def test_the_simulated_drift_is_that_of_the_gate():
    generator = np.random.default_rng(1)
    world = simulation.World("by hand", floor=0.5)
    means = world.draw(generator, 1, 3, 40, 3).first
    means[0, 0, 8:] -= 0.3 * np.arange(32)
    lost, error = simulation.trailing_losses(means, 8, world)
    drifted, _ = simulation.moved(lost, error, 7, 0.0, DRIFT_ALPHA)
    for night in range(12, 40):
        histories = {
            key: History(
                nights=means[0, key, 8:night], anchor=means[0, key, :8], higher_is_better=True, margin=0.0, floor=0.5
            )
            for key in range(3)
        }
        for key, one in judge_night(dict(enumerate(means[0, :, night])), histories).items():
            assert one.drift.loss == pytest.approx(lost[0, key, night - 12])
            assert (one.drift.direction == "worse") == drifted[0, key, night - 12]
    assert drifted[0, 0].any() and not drifted[0, 0].all()


def test_worlds_have_a_variance_of_one():
    generator = np.random.default_rng(2)
    for world in simulation.WORLDS:
        if "collapses" in world.name:
            continue
        drawn = world.draw(generator, 1000, 4, 10, 1)
        first, second = drawn.first, drawn.second
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
@pytest.mark.parametrize("nights", simulation.NIGHTS)
def test_an_unchanged_system_alarms_in_at_most_one_night_of_a_hundred(nights):
    # A night a history, so that the nights are independent.
    found = simulation.alarms(simulation.INDEPENDENT, nights, 2000, judge=1, seed=1)
    assert found.either <= at_most(0.01, 2000)
    # One-sided, before confirmation: the level that is stated, and no less for fifty independent series.
    assert found.suspect == pytest.approx(LEVEL_ALPHA, abs=3 * math.sqrt(LEVEL_ALPHA / 2000))


@pytest.mark.slow
@pytest.mark.parametrize(("nights", "aim"), [(8, 0.7), (12, 0.8), (20, 0.85)])
def test_a_loss_of_three_deviations_is_found_in_its_first_night(nights, aim):
    suspect, confirmed = simulation.losses_found(simulation.INDEPENDENT, nights, 500, judge=2, seed=1)
    error = 3 * math.sqrt(aim * (1 - aim) / 1000)
    assert suspect >= confirmed >= aim - error
    # More than the nights of a series alone find, by the noncentral t.
    alone = stats.nct.sf(
        stats.t.isf(LEVEL_ALPHA / 50, nights - 1), nights - 1, 3 * math.sqrt(3) / math.sqrt(1 + 1 / nights)
    )
    assert suspect > alone


@pytest.mark.slow
def test_scores_with_heavy_tails_alarm_in_at_most_one_night_of_a_hundred():
    heavy = next(world for world in simulation.WORLDS if "heavy tails" in world.name)
    assert simulation.alarms(heavy, 8, 1000, judge=1, seed=3).either <= at_most(0.01, 1000)


@pytest.mark.slow
def test_a_tenth_of_a_deviation_a_night_is_found_within_sixty_nights():
    found = simulation.drifts(simulation.INDEPENDENT, 20, 100, rate=0.1, seed=1)
    assert found.found == 1.0 and found.median < 30
    # The level test, whose history sinks along, sees about half of them.
    assert found.level < 0.65


@pytest.mark.slow
def test_a_year_of_an_unchanged_system_seldom_drifts():
    loss, either, _ = simulation.years(simulation.INDEPENDENT, 20, 100, seed=1)
    assert loss <= either <= at_most(0.03, 100)


@pytest.mark.slow
def test_alarms_where_the_floor_is_at_work_are_none():
    floored = next(world for world in simulation.WORLDS if world.name == "floor twice the spread")
    assert simulation.alarms(floored, 8, 100, seed=1).suspect < 0.001


# ── the page


def stated(heading):
    """The rows of the table of the page whose header begins so, as lists of cells."""
    (table,) = re.findall(rf"^\| {re.escape(heading)}.*\n\|[- :|]+\n((?:\|.*\n)+)", PAGE, flags=re.MULTILINE)
    return unfolded(table.splitlines())


@pytest.mark.slow
def test_the_page_has_every_table_that_the_benchmark_prints(capsys, monkeypatch):
    monkeypatch.setattr(simulation, "QUICK", 1)
    simulation.main(["--quick"])
    printed = re.findall(r"^\| ([^|]+) \|.*\n\| ---", capsys.readouterr().out, flags=re.MULTILINE)
    assert len(printed) == 7
    for heading in printed:
        assert stated(heading)


@pytest.mark.slow
@pytest.mark.parametrize("world", simulation.WORLDS, ids=lambda world: world.name)
def test_the_page_states_the_alarms_and_the_losses_found(world):
    rows = {(name, int(nights)): shares for name, nights, *shares in stated("nights of an unchanged system with")}
    assert len(rows) == len(simulation.WORLDS) * len(simulation.NIGHTS)
    found = simulation.alarms(world, 8, 500, judge=1, seed=2)
    *shares, _, _ = rows[world.name, 8]
    for said, measured in zip(shares, (found.suspect, found.regression, found.either), strict=True):
        assert measured == pytest.approx(float(said), abs=3.5 * math.sqrt(max(float(said), 0.002) / 500))
    losses = rows[world.name, 20][3:]
    for said, measured in zip(losses, simulation.losses_found(world, 20, 200, judge=1, seed=2), strict=True):
        assert measured == pytest.approx(float(said), abs=3.5 * math.sqrt(0.25 / 200))


def test_the_example_of_the_page_gives_what_it_says():
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    names = {}
    exec(example, names)
    assert "'suspect'" in example and names["findings"]["sst2"].answer == "suspect"
    assert "'regression'" in example and confirm(names["history"], 0.818).answer == "regression"


def test_the_targets_are_met_by_the_figures_of_the_page():
    for name, _, suspect, regression, either, *_ in stated("nights of an unchanged system with"):
        if name == simulation.INDEPENDENT.name:
            assert float(regression) <= float(either) <= 0.01 < float(suspect) < 0.04
        if "heavy tails" in name or "questions" in name:
            assert float(either) <= 0.01
    (levels,) = [row for row in stated("level test, confirmation") if row[0] == f"{LEVEL_ALPHA}, {CONFIRM_ALPHA}"]
    assert [float(found) >= aim for found, aim in zip(levels[1:4], (0.7, 0.8, 0.85), strict=True)] == [True] * 3
    for name, anchored, found, *_ in stated("slow loss a night, found within 60 nights"):
        if name == "0.1 SD of a run" and anchored == "20":
            assert float(found) == 1.0


def test_every_level_of_the_page_is_the_one_in_the_code():
    for name, value in {"level test": LEVEL_ALPHA, "confirmation": CONFIRM_ALPHA, "drift test": DRIFT_ALPHA}.items():
        assert f"{name}: {value}" in PAGE


def test_a_loss_is_of_one_night_alone():
    # The nights that follow are judged by a history that the loss has not touched.
    world = replace(simulation.INDEPENDENT, name="none")
    drawn = world.draw(np.random.default_rng(3), 2, 3, 30, 3)
    without, with_loss = (simulation.judged(drawn, 20, world, loss) for loss in (0.0, 100.0))
    assert with_loss.regression[:, 0].all() and not without.regression[:, 0].any()
