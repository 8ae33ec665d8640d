"""What single runs at default settings say of methods that the report tunes and runs over seeds.

Beside the report of a suite `zoo` this is the report of `zoo-default`: methods of the same labels on the same data and base
models, each at one learning rate and with one seed, as many published rankings are made.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import quote

import numpy as np

from lora_bench.report.blocks import Block, Fold, Heading, TextTable
from lora_bench.report.model.comparison import ModelTable, Setting
from lora_bench.report.model.ranking import Rank
from lora_bench.report.model.report import Report
from lora_bench.report.model.rows import Row
from lora_bench.report.sections.verdicts import place_words
from lora_bench.report.text import code, inert, learning_rate, listed, plural, points, score
from lora_bench.stats.items import Floats

DEFAULTS = "-default"
# Fewer methods say nothing of two orders.
FEWEST = 4


@dataclass(frozen=True)
class BothWays:
    """The methods of one task on one base model that have a score tuned, over the same seeds, and one at the defaults.

    Args:
        task: As the page shows it; likewise *model*.
        tuned: Scores, higher is better, shape (methods, seeds).
        default: Likewise, shape (methods,).
        ranks: Rank of each tuned method among all of its table.
    """

    task: str
    model: str
    rows: Sequence[Row]
    tuned: Floats
    default: Floats
    ranks: Sequence[Rank | None]
    sign: int

    @property
    def first(self) -> int:
        """The best method at the defaults."""
        return int(self.default.argmax())

    @property
    def best(self) -> list[int]:
        """The tuned methods that no other is shown to be better than: all, where too few seeds leave no ranks."""
        if not any(self.ranks):
            return [*range(len(self.rows))]
        return [at for at, rank in enumerate(self.ranks) if rank is not None and rank.best == 1]

    @property
    def gains(self) -> Floats:
        """Points that each method's own rate and size give over its defaults, on the mean over seeds."""
        return np.asarray(self.tuned.mean(axis=1) - self.default)


class RankCorrelation(NamedTuple):
    """Kendall's tau of two orders, and the ends of its 95 % interval."""

    tau: float
    low: float
    high: float


def rank_correlation(one: Floats, other: Floats) -> RankCorrelation:
    """Return the rank correlation of two orders of the same objects, with an interval over other objects like these.

    A tie counts as no order. The standard error is that of a U-statistic, from the agreement of each object with all others
    (Hoeffding 1948).
    """
    from scipy.stats import t  # slow to import

    agree = np.sign(np.subtract.outer(one, one)) * np.sign(np.subtract.outer(other, other))
    number = len(one)
    each = agree.sum(axis=1) / (number - 1)
    error = 2 * each.std(ddof=1) / np.sqrt(number)
    width = float(t.ppf(0.975, number - 1) * error)
    tau = float(each.mean())
    return RankCorrelation(tau, max(-1.0, tau - width), min(1.0, tau + width))


def defaults_section(report: Report) -> list[Block]:
    """Return the section; empty where no report beside this one has its methods at their defaults."""
    other = report.beside.get(f"{report.name}{DEFAULTS}")
    if other is None or not other.records or report.judged is None:
        return []
    found = [*_both_ways(report, other)]
    return [*_blocks(found, other.name)] if found else []


def _both_ways(report: Report, other: Report) -> Iterator[BothWays]:
    judged = report.judged
    assert judged is not None
    defaults = {_place(*table): table[1] for table in _tables(other)}
    for setting, table in _tables(report):
        beside = defaults.get(_place(setting, table))
        if beside is None:
            continue
        single = {row.label: row.scores[0].value for row in beside.rows if len(row.scores) == 1}
        by_seed = [{one.seed: one.value for one in row.scores} for row in table.rows]
        seeds = max(by_seed, key=len, default={})
        found = [
            (row, own)
            for row, own in zip(table.rows, by_seed, strict=True)
            if row.label in single and own.keys() == seeds.keys()
        ]
        rows = [row for row, _ in found]
        if len(rows) >= FEWEST:
            yield BothWays(
                task=code(setting.spec.task.name),
                model=inert(table.model.shown),
                rows=rows,
                tuned=setting.sign * np.array([[own[seed] for seed in seeds] for _, own in found]),
                default=setting.sign * np.array([single[row.label] for row in rows]),
                ranks=[judged.rank_of(row) for row in rows],
                sign=setting.sign,
            )


def _tables(report: Report) -> Iterator[tuple[Setting, ModelTable]]:
    for setting in report.comparison.settings:
        if not setting.trials:
            yield from ((setting, table) for table in setting.tables)


def _place(setting: Setting, table: ModelTable) -> tuple[str, str | None, str | None]:
    return setting.spec.task.name, setting.spec.task.data_sha256, table.model.sha256


def _blocks(found: Sequence[BothWays], name: str) -> Iterator[Block]:
    yield Heading(2, "At the defaults, a run each")
    most = max(len(one.rows) for one in found)
    among = [one.first in one.best for one in found]
    yield (
        f"[{code(name)}]({quote(name)}.md) has {plural(most, 'method')} of this page at default settings and one learning "
        f"rate, a seed each, as many published rankings are made. The first of that order is among the best here in "
        f"{sum(among)} of {plural(len(found), 'table')}; its own rate and size give the median method "
        f"{listed([points(float(np.median(one.gains))) for one in found])} points."
    )
    header = ["task", "base model", "methods", "rank correlation", "first", "its places here", "best here", "gains"]
    yield TextTable(header, [_row(one) for one in found], numbers_from=2)
    yield (
        "*Rank correlation*: Kendall's τ of the two orders of means, with a 95 % interval over other methods like these; 1 is "
        "the same order and 0 none. *Best here*: methods that no other is shown to be better than. *Gains*: points over the "
        "defaults of a quarter, the median and three quarters of the methods; one seed's chance is in them."
    )
    if any(one.tuned.shape[1] > 1 for one in found):
        yield "What one seed of this page would have printed:"
        header = ["task", "base model", "first by seed", "of these among the best", "rank correlation of two seeds"]
        yield TextTable(header, [_seeds(one) for one in found if one.tuned.shape[1] > 1], numbers_from=3)
    header = ["task", "base model", "method", "rate", "here", "places", "default", "place", "gain"]
    yield Fold("Each method", [TextTable(header, [row for one in found for row in _each(one)], numbers_from=3)])


def _row(one: BothWays) -> list[str]:
    found = rank_correlation(one.tuned.mean(axis=1), one.default)
    quarters = np.quantile(one.gains, [0.25, 0.5, 0.75]).tolist()
    return [
        one.task,
        one.model,
        str(len(one.rows)),
        f"{found.tau:.2f} ({found.low:.2f} to {found.high:.2f})",
        code(one.rows[one.first].label),
        place_words([rank for rank in [one.ranks[one.first]] if rank is not None]),
        str(len(one.best)),
        ", ".join(map(points, quarters)),
    ]


def _seeds(one: BothWays) -> list[str]:
    firsts = one.tuned.argmax(axis=0).tolist()
    number = one.tuned.shape[1]
    pairs = [(a, b) for a in range(number) for b in range(a)]
    correlations = [rank_correlation(one.tuned[:, a], one.tuned[:, b]).tau for a, b in pairs]
    return [
        one.task,
        one.model,
        ", ".join(code(one.rows[first].label) for first in firsts),
        f"{sum(first in one.best for first in firsts)} of {number}",
        f"{np.mean(correlations):.2f} ({min(correlations):.2f} to {max(correlations):.2f})",
    ]


def _each(one: BothWays) -> Iterator[list[str]]:
    places = [1 + int((one.default > value).sum()) for value in one.default]
    means = one.tuned.mean(axis=1)
    for at in np.argsort(-means, kind="stable").tolist():
        yield [
            one.task,
            one.model,
            code(one.rows[at].label),
            learning_rate(one.rows[at].learning_rate),
            score(one.sign * means[at]),
            place_words([rank for rank in [one.ranks[at]] if rank is not None]),
            score(one.sign * one.default[at]),
            f"{places[at]} of {len(one.rows)}",
            points(one.gains[at]),
        ]
