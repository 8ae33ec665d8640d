"""The scores of a row by seed, the test items behind them, and the difference of two rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lora_bench import stats
from lora_bench.metrics import default_margin, find
from lora_bench.metrics.support.item_weights import item_metric
from lora_bench.metrics.support.label_arrays import are_label_sets
from lora_bench.records.analysis import Analysis
from lora_bench.records.store import Answers
from lora_bench.report.model.comparison import Setting
from lora_bench.report.model.ranking import GainsAndP, each_pair
from lora_bench.report.model.rows import KeyT, Row, Score, fallen_runs
from lora_bench.stats.apart import least_p
from lora_bench.stats.crossed import with_items
from lora_bench.stats.items import FoldItems, same_groups
from lora_bench.stats.paired import paired_p
from lora_bench.stats.verdict import FEWEST_PAIRS

# Resamples of test items, for a metric that is no mean over them: they give its variance to 2 %.
DRAWS = 2_000

AnswersOf = Callable[[str], Answers | None]
References = Sequence[Any] | dict[int, Sequence[Any]]


def no_answers(run_id: str) -> Answers | None:
    """Return the predictions of a report that is given none."""
    return None


@dataclass(frozen=True, eq=False)
class Scored:
    """A row with its scores.

    Args:
        scores: Scores by seed; runs of unknown seed have no partner and are left out.
        items: Scores as functions of the test items, where the predictions of all runs are stored and the metric has that
            form.
        expected: The references of these items, by seed where each tests a fold of its own; two rows must share them.
        choice: Error of the choice of its learning rate; None if no trials at hand chose it.
    """

    row: Row
    setting: Setting
    scores: dict[int, float]
    items: stats.Items | None
    expected: References | None
    choice: stats.ChoiceError | None = None


def scored(row: Row, setting: Setting, answers: AnswersOf, choice: stats.ChoiceError | None = None) -> Scored:
    """Return the scores of a row of *setting*, with their items where *answers* has them."""
    by_seed = {score.seed: score.value for score in row.scores if score.seed is not None}
    found = _items(row, setting, answers)
    items, expected = found or (None, None)
    return Scored(row, setting, by_seed, items, expected, choice)


def has_items(setting: Setting) -> bool:
    """Tell if the metric of a setting is a function of single test items."""
    declared = find(setting.spec.task.metric)
    return declared is not None and declared.of_items


def _items(row: Row, setting: Setting, answers: AnswersOf) -> tuple[stats.Items, References] | None:
    if not row.overlap:
        return _items_of(row.scores, setting, answers)
    parts = {score.seed: _items_of([score], setting, answers) for score in row.scores}
    known = {seed: part for seed, part in parts.items() if part is not None and seed is not None}
    if len(known) < len(row.scores) or not known:
        return None
    return FoldItems(tuple(items for items, _ in known.values())), {seed: right for seed, (_, right) in known.items()}


def _items_of(
    scores: Sequence[Score], setting: Setting, answers: AnswersOf
) -> tuple[stats.Items, Sequence[Any]] | None:
    """Return the scores of runs on the same test items as functions of these, with their references."""
    metric = setting.spec.task.metric
    if metric is None or not has_items(setting):
        return None
    predictions: dict[int, Sequence[Any]] = {}
    expected: list[Any] | None = None
    declared = find(metric)
    of_item = None if declared is None else declared.of_item
    by_item = groups = None
    for score in scores:
        found = answers(score.run_id)
        if found is None or score.seed is None:
            return None
        expected = found.references if expected is None else expected
        by_item = (found.item_scores or {}).get(metric)
        if found.references != expected or (by_item is None) != (of_item is None):
            return None
        # Runs from before groups were recorded have none.
        groups = groups or found.groups
        if found.groups not in (None, groups):
            return None
        predictions[score.seed] = found.predictions if by_item is None else by_item
    if expected and by_item is not None:
        return stats.in_groups(
            stats.ItemScores(tuple(predictions), np.array([*predictions.values()])), groups
        ), expected
    if not expected:
        return None
    classes = len(setting.spec.task.labels or ())
    if declared is not None and declared.kind == "multilabel":
        if not all(are_label_sets(values, classes) for values in (expected, *predictions.values())):
            return None
    elif isinstance(expected[0], str | list) and (declared is None or declared.item_parts is None):
        return None
    return stats.in_groups(item_metric(metric, expected, predictions, classes=classes or None), groups), expected


def items_of(one: Scored, other: Scored) -> tuple[stats.Items, stats.Items] | None:
    """Return the items of two rows, where both have them and they are the same."""
    mine, theirs = one.items, other.items
    if mine is None or theirs is None:
        return None
    right, same = one.expected, one.expected == other.expected
    if isinstance(right, dict) and isinstance(other.expected, dict):
        shared = [seed for seed in right if seed in other.expected]
        same = bool(shared) and all(right[seed] == other.expected[seed] for seed in shared)
        mine, theirs = (mine.select(shared), theirs.select(shared)) if shared else (mine, theirs)
    return (mine, theirs) if same and same_groups(mine, theirs) else None


def overlap_of(*rows: Scored) -> float:
    """Return the test rows for each training row where seeds test folds of their own; 0 where all test the same rows."""
    return max(one.row.overlap for one in rows)


@dataclass(frozen=True, eq=False)
class Compared:
    """A row less another, with or without test items."""

    one: Scored
    other: Scored
    difference: stats.PairedDifference
    with_items: bool


def difference_of(one: Scored, other: Scored) -> Compared | str:
    """Return the first row less the second, or why they cannot be compared."""
    for side in (one, other):
        if not side.scores:
            return f"no run of {side.row.label} has a score"
    if not one.scores.keys() & other.scores.keys():
        return "they share no seed"
    items = items_of(one, other)
    difference = stats.paired_difference(
        one.scores,
        other.scores,
        draw_seed=_draw_seed(one, other),
        items=items,
        draws=DRAWS,
        choices=(one.choice, other.choice),
        overlap=overlap_of(one, other),
    )
    return Compared(one, other, difference, items is not None)


def judge_rows(family: Mapping[KeyT, Compared], **declared: Any) -> dict[KeyT, stats.Verdict]:
    """Return the verdicts on differences of rows, as one family; *declared* are further arguments of `judge`."""
    seen = [key for key, of in family.items() if collapse_seen(of.one, of.other)]
    return stats.judge(
        {key: of.difference for key, of in family.items()},
        higher_is_better={key: bool(of.one.setting.spec.task.higher_is_better) for key, of in family.items()},
        **{"collapsed": seen, **declared},
    )


def collapse_seen(one: Scored, other: Scored) -> bool:
    """Tell if a run of either row diverged, or learned no more than a constant answer to the first one's rows."""
    floor = one.row.least_learned if one.row.least_learned is not None else other.row.least_learned
    better = one.setting.spec.task.higher_is_better
    return any(
        any(record.status == "diverged" for record in row.failures) or fallen_runs(row, better, floor) > 0
        for row in (one.row, other.row)
    )


def _risk_of(places: Sequence[Scored], excluded: float) -> stats.Risk | None:
    """Return the cost of collapses of a method, as the mean over its places; None where one has no known floor."""
    losses, fallen = [], []
    for row, task in ((place.row, place.setting.spec.task) for place in places):
        share = default_margin(task.metric) is not None
        floor = row.majority_score if row.majority_score is not None or not share else 0.0
        if floor is None or row.score is None:
            return None
        number = fallen_runs(row, task.higher_is_better, row.least_learned)
        sign = 1 if task.higher_is_better else -1
        sound = sorted((sign * score.value for score in row.scores), reverse=True)[: row.score.n - number]
        losses.append(float(np.mean(sound)) - sign * floor if sound else 0.0)
        fallen.append(number / row.score.n)
    loss = float(np.mean(losses))
    if loss <= 0:
        return None
    # A floor of 0 is assumed, so no run can be seen to have fallen to it.
    seen = all(place.row.least_learned is not None for place in places)
    lost = float(np.mean(np.multiply(losses, fallen)))
    return stats.Risk(loss=loss, share=lost / loss, excluded=excluded if seen else None)


def both_risks(*sides: tuple[Sequence[Scored], float]) -> tuple[stats.Risk, stats.Risk] | None:
    """Return the costs of collapses of two methods; None unless both are known.

    A side has the rows that enter a comparison, and the rate of collapses that all runs of the method exclude.
    """
    one, other = (_risk_of(places, excluded) for places, excluded in sides)
    return (one, other) if one is not None and other is not None else None


def gain_and_p(one: Scored, other: Scored, analysis: Analysis, *, apart: bool = False) -> tuple[float, float | None]:
    """Return the first row's gain over the second, and the p-value of no difference, from which ranks are made.

    As for verdicts, the p-value is the larger of two: over seeds, and over seeds and test items. It is None for fewer than 3
    pairs of seeds. Items are resampled only where seeds alone do not settle that nothing is shown at alpha. If runs of the
    family stand *apart*, or one of these collapsed, it has the least value that verdicts have.
    """
    seeds = sorted(one.scores.keys() & other.scores.keys())
    if not seeds:
        return 0.0, None
    values = np.array([one.scores[seed] - other.scores[seed] for seed in seeds])
    size = max(abs(side.scores[seed]) for side in (one, other) for seed in seeds)
    share = analysis.share(len(seeds))
    choices, items = (one.choice, other.choice), items_of(one, other)
    overlap = overlap_of(one, other)
    # Beside items, seeds alone give the lesser p-value.
    alone = with_items(values, None, size, overlap if items is None else 0.0)
    estimate = replace(alone, share=share).widened(choices)
    p_value = estimate.p_value()
    if items is not None and (p_value is None or p_value <= analysis.alpha):
        difference = stats.item_difference(*items, seeds)
        crossed = stats.crossed_bootstrap(difference, draw_seed=_draw_seed(one, other), draws=DRAWS)
        p_value = replace(with_items(values, crossed, size, overlap), share=share).widened(choices).p_value()
    if p_value is not None and (apart or collapse_seen(one, other)):
        p_value = max(p_value, min(1.0, least_p(len(seeds)) / share))
    return one.setting.sign * estimate.value, p_value if len(seeds) >= FEWEST_PAIRS else None


def all_gains_and_p(rows: Sequence[Scored], analysis: Analysis, *, apart: bool) -> GainsAndP:
    """As `gain_and_p`, of all pairs of rows: together where they share their seeds, and these alone tell."""
    alone = all(one.items is None and one.choice is None and not one.row.overlap for one in rows)
    kinds = {(one.row.least_learned, *sorted(one.scores)) for one in rows}
    if not alone or len(kinds) != 1 or len(rows[0].scores) < FEWEST_PAIRS:
        return each_pair(len(rows), lambda one, other: gain_and_p(rows[one], rows[other], analysis, apart=apart))
    seeds = [*rows[0].scores]
    share = analysis.share(len(seeds))
    scores = np.array([[one.scores[seed] for seed in seeds] for one in rows])
    least = np.array([least_p(len(seeds)) / share if apart or collapse_seen(one, one) else 0.0 for one in rows])
    found = [(np.empty(0), np.empty(0))]
    for place in range(len(rows) - 1):
        mean, p_value = paired_p(scores[place], scores[place + 1 :], share)
        bound = np.minimum(1.0, np.maximum(least[place], least[place + 1 :]))
        found.append((rows[place].setting.sign * mean, np.maximum(p_value, bound)))
    gains, p_values = map(np.concatenate, zip(*found, strict=True))
    return gains, p_values


def at_floor(row: Row, reference: Row) -> float | None:
    """Return the mean difference where runs that failed count at the majority's score; None if none failed or it is unknown."""
    floor = row.majority_score if row.majority_score is not None else reference.majority_score
    if floor is None or not (row.failures or reference.failures):
        return None
    means = []
    for one in (row, reference):
        failed = [record.spec.seed for record in one.failures if record.spec.seed is not None]
        by_seed = {score.seed: score.value for score in one.scores if score.seed is not None}
        values = stats.with_failures_at_floor(by_seed, failed, floor)
        means.append(sum(values.values()) / len(values))
    return means[0] - means[1]


def _draw_seed(one: Scored, other: Scored) -> int:
    return stats.seed_from(*sorted(one.row.run_ids), *sorted(other.row.run_ids))
