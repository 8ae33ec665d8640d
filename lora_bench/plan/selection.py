"""Choices from records while a suite runs: the learning rate of its trials, and the runs that others start from."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from lora_bench.records.protocol import Protocol
from lora_bench.records.record import Record


def chosen_rate(trials: Sequence[Record | None], higher_is_better: bool) -> float | None:
    """Return the learning rate with the best mean score over the seeds of its trials, or None while a trial is missing.

    A rate with a trial without a score is chosen only if all rates have one; of equal rates the first wins. If no trial has a
    score, the first rate is run, and its rows show how it ends.
    """
    chosen = best_rates(trials, higher_is_better, 1)
    return None if chosen is None else chosen[0]


def best_rates(trials: Sequence[Record | None], higher_is_better: bool, number: int) -> tuple[float, ...] | None:
    """Return the learning rates with the best mean scores over the seeds of their trials, or None while a trial is missing.

    A rate with a trial without a score comes after all others, and of equal rates the first comes first. So a method with too
    few scored trials still continues with as many rates as the others.

    Args:
        trials: Records of the trials, those of the first rate first.
        higher_is_better: Direction of the metric.
        number: Number of rates wanted.

    Returns:
        The rates, in their order of trial.
    """
    records = [record for record in trials if record is not None]
    if len(records) < len(trials):
        return None
    by_rate: dict[float, list[float | None]] = {}
    for record in records:
        rate = record.spec.training.learning_rate
        assert rate is not None, "trials are planned"
        by_rate.setdefault(rate, []).append(record.judged_score)
    means = {
        rate: statistics.fmean(score for score in scores if score is not None)
        for rate, scores in by_rate.items()
        if None not in scores
    }
    sign = 1 if higher_is_better else -1
    # Sorting keeps the order of equal rates.
    best = sorted(by_rate, key=lambda rate: -sign * means[rate] if rate in means else math.inf)[:number]
    return tuple(rate for rate in by_rate if rate in best)


def rate_beyond(rates: Sequence[float], chosen: float) -> float | None:
    """Return the next learning rate beyond *chosen*, or None if it is neither the smallest nor the greatest of *rates*.

    Its factor to the chosen rate is the mean factor between neighbours, so an even grid continues. It has three digits.
    """
    tried = sorted(rates)
    factor = (tried[-1] / tried[0]) ** (1 / (len(tried) - 1))
    if chosen not in (tried[0], tried[-1]):
        return None
    return float(f"{chosen * factor if chosen == tried[-1] else chosen / factor:.3g}")


def start_records(sources: Sequence[Record | None], rules: Protocol, seeds: Sequence[int]) -> dict[int, str] | None:
    """Return by seed the id of the run that it starts from, or None while a source is missing.

    If the protocol chooses on the reported split, as the papers do, every seed starts from the best source; else from the
    source with its own seed. A seed whose source has no score has no entry.
    """
    records = [record for record in sources if record is not None]
    if len(records) < len(sources):
        return None
    scored = [record for record in records if record.status == "ok" and record.score is not None]
    if rules.choose_on == "selection" or not scored:
        return {record.spec.seed: record.run_id for record in scored if record.spec.seed is not None}
    sign = 1 if scored[0].spec.task.higher_is_better else -1
    best = max(scored, key=lambda record: (sign * (record.score or 0.0), -(record.spec.seed or 0)))
    return dict.fromkeys(seeds, best.run_id)
