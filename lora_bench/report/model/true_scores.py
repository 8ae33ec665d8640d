"""Draws of the true scores of a table's methods, from its runs: what a choice among them may lose is counted on these."""

import math
from collections.abc import Sequence

import numpy as np

from lora_bench.metrics import default_margin
from lora_bench.report.model.rows import fell
from lora_bench.report.model.seed_scores import Scored, items_of, overlap_of
from lora_bench.stats import seed_from
from lora_bench.stats.expected_loss import USUAL_SD, Contender, draw_scores, item_covariance
from lora_bench.stats.items import Floats

# Of methods that learned at all. Where more of their runs are no better than a constant answer, those are no kind of their own:
# the scores are low, and the test rows too few to tell them from none.
MOST_FALLEN = 0.5


def draws_of(of_table: Sequence[Scored]) -> tuple[Floats | None, bool]:
    """Return draws of the true gains, shape (draws, methods), and whether they have the usual spread of runs.

    They are of the sound runs, by the spread of these; else by the usual one of scores between 0 and 1, of the seeds that all
    have and their test rows; else likewise of all runs. None where no spread is known.
    """
    for gains in (_sound(of_table), [_gains(one, fallen=True) for one in of_table]):
        for usual in (False, True):
            drawn = _drawn(of_table, gains, usual)
            if drawn is not None:
                return drawn, usual
    return None, False


def _drawn(of_table: Sequence[Scored], gains: Sequence[dict[int | str, float]], usual: bool) -> Floats | None:
    """Return what `draws_of` does, of these gains of each method by seed; the other runs fell."""
    setting = of_table[0].setting
    share = default_margin(setting.spec.task.metric) is not None
    fell_of = [len(one.row.scores) - len(of_one) for one, of_one in zip(of_table, gains, strict=True)]
    if usual:
        shared = set.intersection(*map(set, gains))
        gains = [{name: value for name, value in of_one.items() if name in shared} for of_one in gains]
    names = [*dict.fromkeys(name for of_one in gains for name in of_one)]
    if not names:
        return None
    draw_seed = seed_from(*(run_id for one in of_table for run_id in one.row.run_ids))
    contenders = [
        Contender(
            gains=tuple(of_one.get(name, np.nan) for name in names),
            fallen=fallen + sum(fail.status == "diverged" for fail in one.row.failures),
            floor=None if one.row.majority_score is None else one.setting.sign * one.row.majority_score,
            choice_sd=one.choice.sd if one.choice is not None else 0.0,
        )
        for one, of_one, fallen in zip(of_table, gains, fell_of, strict=True)
    ]
    on_folds = overlap_of(*of_table) > 0
    items = [
        pair[0].select([name for name in of_one if isinstance(name, int)])
        for one, of_one in zip(of_table, gains, strict=True)
        if (usual or not on_folds) and (pair := items_of(one, of_table[0])) is not None
    ]
    covariance = item_covariance(items, draw_seed) if len(items) == len(of_table) else None
    if usual and (covariance is None or not share or len(of_table) == 1):
        return None
    highest = 1.0 if setting.sign > 0 and share else math.inf
    return draw_scores(contenders, covariance, draw_seed, highest, USUAL_SD if usual else None)


def _sound(of_table: Sequence[Scored]) -> list[dict[int | str, float]]:
    """Return the gains of each method's runs that did not collapse, by seed; of all with a score if every one did.

    Of all runs of every method where more than `MOST_FALLEN` would have.
    """
    every = [_gains(one, fallen=True) for one in of_table]
    sound = [_gains(one, fallen=False) for one in of_table]
    learned = [(len(of_one), len(all_of)) for of_one, all_of in zip(sound, every, strict=True) if of_one]
    if sum(kept for kept, _ in learned) < (1 - MOST_FALLEN) * sum(number for _, number in learned):
        return every
    return [of_one or all_of for of_one, all_of in zip(sound, every, strict=True)]


def _gains(of: Scored, *, fallen: bool) -> dict[int | str, float]:
    """Return the gains of a method's runs by seed, with or without those that are no better than a constant answer."""
    sign, floor = of.setting.sign, of.row.least_learned
    return {
        score.run_id if score.seed is None else score.seed: sign * score.value
        for score in of.row.scores
        if fallen or not fell(score, floor, higher_is_better=sign > 0)
    }
