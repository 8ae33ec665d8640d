"""Choices from records while a suite runs: the learning rate of its trials, and the runs that others start from."""

from collections.abc import Sequence

from lora_bench.records.protocol import Protocol
from lora_bench.records.record import Record
from lora_bench.report.model.rows import least_learned, overlap_of, unique
from lora_bench.stats import Trials, trials_of
from lora_bench.stats.rates import Search


def trials_among(records: Sequence[Record | None], search: Search) -> Trials | None:
    """Return the trials of a search, those of the first rate first, or None while a record is missing."""
    found = [record for record in records if record is not None]
    if len(found) < len(records):
        return None
    by_rate: dict[float, dict[int, float | None]] = {}
    for record in found:
        rate, seed = record.spec.training.learning_rate, record.spec.seed
        assert rate is not None and seed is not None, "trials are planned"
        by_rate.setdefault(rate, {})[seed] = record.judged_score
    leasts = [(record.spec.seed, least_learned(record)) for record in found]
    own = {seed: least for seed, least in leasts if seed is not None and least is not None}
    floor = own if overlap_of(found) else unique(least for _, least in leasts)
    better = bool(found[0].spec.task.higher_is_better)
    return trials_of(by_rate, floor=floor, higher_is_better=better, search=search)


def rate_beyond(rates: Sequence[float], chosen: float) -> float | None:
    """Return the next rate, of three digits, beyond a *chosen* one at an end of *rates*, by their mean factor; else None."""
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
