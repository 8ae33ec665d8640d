"""What the gate says of itself on a history: how often it would have cried, and what it would have seen."""

import pytest

from benchmarks.gate_selftests import inject, inject_lines, replay, replay_lines
from lora_bench.errors import LoraBenchError
from tests.gate.histories import LEVEL, accepted, night, number_of
from tests.gate.test_judge import probed


def test_a_quiet_history_has_cried_in_no_night():
    found = replay(accepted(20), "nightly")
    assert [answer.label for answer in found.answers] == [f"n{n}" for n in range(9, 21)]
    assert replay_lines(found) == [
        "0 of 12 nights with enough history would have cried (0.0%), over 36 means held against their history; before "
        "suspects are run again with new seeds"
    ]


def test_a_night_that_fell_is_told_and_one_whose_change_was_acknowledged_is_not():
    fell = night("n12", shift={"lora": -0.05})
    history = [number_of(fell, 12) if one.number == 12 else one for one in accepted(14)]
    lines = replay_lines(replay(history, "nightly"))
    assert lines[0].startswith("n12: vader_film") and "lora" in lines[0] and lines[-1].startswith("1 of 6 nights")
    lora = next(series for series, cell in fell.by_series().items() if cell.name.method == "lora")
    history = [
        one.model_copy(update={"acknowledged": (lora,)}) if one.number == 12 else one for one in history
    ]  # fmt: skip
    assert replay_lines(replay(history, "nightly"))[-1].startswith("0 of 6 nights")


def test_too_short_a_history_says_nothing():
    assert "cannot decide" in replay_lines(replay(accepted(8), "nightly"))[0]
    assert "cannot decide" in inject_lines(inject(accepted(8), 0.05, relative=True), "5%")[0]


def test_a_great_loss_is_seen_everywhere_and_one_within_the_margin_nowhere():
    history = accepted(20)
    great = inject(history, 0.2, relative=True)
    assert [(one.nights, one.seen) for one in great] == [(12, 12)] * len(LEVEL)
    # A thousandth of .80 is .0008: the margin is half a point, and no night is that near to the bound.
    assert [one.seen for one in inject(history, 0.001, relative=True)] == [0] * len(LEVEL)
    assert inject_lines(great, "20%")[-1] == (
        "a loss of 20% would have been suspect in the same night in 100.0% of 36 tries"
    )


def test_the_smallest_loss_is_on_the_edge_of_being_seen():
    history = accepted(20)
    (one,) = (one for one in inject(history, 0.01, relative=False) if one.name.method == "lora")
    # Injected into nights that stand above their mean it takes a little more, and below it a little less: about half are seen.
    (at,) = (seen for seen in inject(history, one.smallest, relative=False) if seen.name.method == "lora")
    assert 3 <= at.seen <= 9
    (above,) = (seen for seen in inject(history, 2 * one.smallest, relative=False) if seen.name.method == "lora")
    assert above.seen == 12


def test_a_loss_of_a_time_is_a_share():
    history = [probed(number) for number in range(1, 13)]
    (one,) = inject(history, 0.2, relative=True)
    assert (one.nights, one.seen) == (4, 4) and one.scale == "log"
    with pytest.raises(LoraBenchError, match="share"):
        inject(history, 0.01, relative=False)
    with pytest.raises(LoraBenchError, match="above 0"):
        inject(history, 0.0, relative=True)
