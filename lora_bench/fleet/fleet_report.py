"""The page of a fleet and its table: for whom an adapter of its own pays, from how many rows on, and each group's scores."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas

from lora_bench.exchange.table_files import to_csv
from lora_bench.fleet.find_groups import TableGroups
from lora_bench.fleet.judge_fleet import (
    ALPHA,
    RIVALS,
    FleetResult,
    GroupResult,
    OwnLess,
    Rival,
    RowRange,
    shared_run,
)
from lora_bench.fleet.serve_fleet import SLOTS, Served
from lora_bench.fleet.train_fleet import ADAPTER, SHARED, FleetRule
from lora_bench.records.record import Record
from lora_bench.report.blocks import Block, Commands, Fold, Heading, Lead, TextList, TextTable
from lora_bench.report.html import page_files
from lora_bench.report.text import (
    MISSING,
    code,
    inert,
    learning_rate,
    listed,
    mebibytes,
    percent,
    plural,
    points,
    probability,
)
from lora_bench.stats.estimate import Interval
from lora_bench.util.atomic_files import write_atomic

NAMES: Mapping[Rival, str] = {"shared": "the shared adapter", "probe": "its linear probe"}


@dataclass(frozen=True)
class FleetPage:
    """What the page of a fleet says.

    Args:
        records: Runs of its suites, by "rates", "shared" and "fleet".
        command: The command line that makes all of it again.
    """

    result: FleetResult
    groups: TableGroups
    rule: FleetRule
    records: Mapping[str, Sequence[Record]]
    served: Served
    command: str

    def write(self, folder: Path) -> list[Path]:
        """Write the page as Markdown and HTML and the table as CSV into *folder*; return the files."""
        table = to_csv(pandas.DataFrame([_line(group) for group in self.result.groups]))
        files = {**page_files("fleet", [*self.blocks()]), "fleet.csv": table}
        for name, content in files.items():
            write_atomic(folder / name, content)
        return [folder / name for name in files]

    def blocks(self) -> Iterator[Block]:
        """Yield the blocks of the page."""
        result = self.result
        yield Heading(1, f"An adapter for each {inert(result.column)}")
        yield f"*Does each {inert(result.column)} gain by an adapter of its own, beside one shared by all and a linear probe?*"
        yield Lead(answer(result))
        yield Heading(2, "By training rows")
        yield from _ranges(result)
        yield Heading(2, "Each group")
        shown = [one for one in result.groups if any(of.verdict != "inconclusive" for of in one.against.values())]
        if shown and len(shown) < len(result.groups):
            yield f"Groups for which a difference is shown, {len(shown)} of {len(result.groups)}:"
            yield _table(shown)
        yield Fold(f"All {len(result.groups)} groups", [_table(result.groups)])
        if failed := [inert(group.value) for group in result.groups if None in group.scores.values()]:
            yield f"Without a score of all three models: {', '.join(failed)}."
        yield TextList(
            [
                "Scores are accuracies on the test rows of the group, which are the same for the three models. Differences "
                "are in points of 100; **bold** ones are shown.",
                f"*p*: of no difference, by McNemar's exact test on test rows, after Holm's procedure over all "
                f"{2 * len(result.groups)} claims of this page: at most 1 of {1 / ALPHA:.0f} such pages shows a wrong one.",
                "Each model is one run, so a claim is on these weights and new rows of the group. The interval of a mean "
                "covers other groups like these, drawn one by one.",
            ]
        )
        if self.served.adapters:
            yield Heading(2, "Served together")
            yield _served(self.served)
        yield Heading(2, "How they were trained")
        yield TextList([*self._training()])
        if self.groups.left_out:
            left_out = [f"{inert(value)}: {inert(why)}" for value, why in self.groups.left_out.items()]
            yield Fold(f"Left out, {plural(len(left_out), 'group')}", [TextList(left_out)])
        yield Heading(2, "Make it again")
        yield Commands([self.command])

    def _training(self) -> Iterator[str]:
        shared = shared_run(self.records["shared"])
        own = [record for record in self.records["fleet"] if record.spec.method.label == ADAPTER]
        rule = self.rule
        chosen = [
            f"{code(method)} {_chosen(rate, rule.scores[method])}, {rule.examples[method]:,} examples"
            f"{_capped(rule.capped[method])}"
            for method, rate in rule.rates.items()
            if method != SHARED
        ]
        yield (
            f"*The rule*, tried on the selection rows of {len(rule.sample)} groups of all sizes: for each method the rate "
            "with the best mean score, and the middle number of examples that its runs saw until they stopped rising. "
            f"{'; '.join(chosen)}."
        )
        seen = shared.plateau.step * (shared.spec.training.batch_size or 0) if shared.plateau is not None else None
        examples = "" if seen is None else f"; it saw {seen:,} examples"
        tried = _chosen(shared.spec.training.learning_rate, rule.scores[SHARED])
        yield (
            f"*The shared adapter*: rate {tried}, tried on the rows of that sample together{examples}"
            f"{' and had not stopped rising' if shared.plateau is not None and shared.plateau.by == 'cap' else ''}, of "
            f"{sum(self.groups.train.values()):,} training rows."
        )
        stored = sum(record.weights.stored_bytes for record in own if record.weights is not None)
        spent = sum(record.speed.train_seconds or 0.0 for record in own if record.speed is not None)
        one = shared.weights.stored_bytes if shared.weights is not None else None
        yield (
            f"*Cost*: {len(own)} own adapters have {mebibytes(stored)} MiB in files and took {spent / 60:,.0f} minutes of "
            f"training; the shared one has {mebibytes(one)} MiB."
        )
        yield f"*Base model*: {inert(shared.spec.model.shown)}. `fleet.csv` beside this page has the run ids."


def answer(result: FleetResult) -> str:
    """Return for whom an adapter of its own pays, in a paragraph."""
    return " ".join(_answer(result))


def _answer(result: FleetResult) -> Iterator[str]:
    judged = result.judged("shared")
    if not judged:
        yield "Nothing can be said: no group has a score of its own adapter and of the shared one."
        return
    mean, interval = result.mean("shared").value, result.mean("shared").interval(1 - ALPHA)
    each = f"each of the {len(judged)} its own adapter"
    if interval is not None and interval.low > 0:
        yield f"Give {each}: {_mean(mean, interval)} on the shared one"
    elif interval is not None and interval.high < 0:
        lost, least, most = (f"{-100 * value:.1f}" for value in (mean, interval.high, interval.low))
        yield f"Share one adapter: to give {each} costs {lost} points ({least} to {most})"
    else:
        yield f"Not shown that it pays to give {each}: {_mean(mean, interval)} on the shared one"
    yield f"on average; {_counted(result, 'shared')}."
    if result.judged("probe"):
        mean, interval = result.mean("probe").value, result.mean("probe").interval(1 - ALPHA)
        yield f"Against its linear probe: {_mean(mean, interval)}; {_counted(result, 'probe')}."
    yield _begins(result, "shared")


def _begins(result: FleetResult, rival: Rival) -> str:
    found = result.begins(rival)
    if found is None:
        if shown := [f"{one.least:,} to {one.most:,}" for one in result.worse(rival)]:
            rows = f"With {listed(shown)} training rows"
            return f"{rows} its own is shown to be worse than {NAMES[rival]}, and with no number to be better."
        return f"In no range of training rows up to the largest is its own shown to be better than {NAMES[rival]}."
    worse, better = found
    if result.ranges(rival)[0].least == better:
        return f"It is better than {NAMES[rival]} from the fewest training rows here on, {better:,}."
    since = f" (and maybe from {worse + 1:,} on)" if worse is not None else " (and maybe from fewer)"
    return f"It is better than {NAMES[rival]} from {better:,} training rows on{since}."


def _mean(mean: float, interval: Interval | None) -> str:
    between = "" if interval is None else f" ({points(interval.low)} to {points(interval.high)})"
    return f"{points(mean)} points{between}"


def _counted(result: FleetResult, rival: Rival) -> str:
    better, worse = (len(result.verdicts(rival, verdict)) for verdict in ("better", "worse"))
    if not better and not worse:
        return "for no group alone is a difference shown"
    return f"shown for {plural(better, 'group')}, the reverse for {worse}"


def _ranges(result: FleetResult) -> Iterator[Block]:
    found = {rival: result.ranges(rival) for rival in RIVALS}
    rows = [_range(rival, one) for rival in RIVALS for one in found[rival]]
    if not rows:
        yield "There are too few groups for ranges."
        return
    yield TextTable(["own adapter less", "training rows", "groups", "mean", "interval"], rows, numbers_from=1)
    yield (
        f"Ranges have about as many groups each; with {percent(1 - ALPHA, 0)} the intervals of a rival hold together. "
        f"{_begins(result, 'shared')} {_begins(result, 'probe')}"
    )


def _range(rival: Rival, one: RowRange) -> list[str]:
    interval = MISSING if one.interval is None else f"{points(one.interval.low)} to {points(one.interval.high)}"
    shown = one.interval is not None and not one.interval.low <= 0 <= one.interval.high
    mean = f"**{points(one.mean)}**" if shown else points(one.mean)
    return [NAMES[rival], f"{one.least:,} to {one.most:,}", f"{one.groups:,}", mean, interval]


def _table(groups: Sequence[GroupResult]) -> TextTable:
    header = ["group", "rows", "own", "shared", "probe", "own − shared", "own − probe", "p"]
    rows = [
        [
            inert(group.value),
            f"{group.train:,} + {group.test:,}",
            *(MISSING if score is None else f"{100 * score:.1f}" for score in group.scores.values()),
            *(_difference(group.against.get(rival)) for rival in RIVALS),
            ", ".join(probability(of.adjusted_p) for of in group.against.values()) or MISSING,
        ]
        for group in sorted(groups, key=lambda group: (-group.train, group.value))
    ]
    return TextTable(header, rows)


def _difference(one: OwnLess | None) -> str:
    if one is None:
        return MISSING
    return points(one.difference) if one.verdict == "inconclusive" else f"**{points(one.difference)}**"


def _served(served: Served) -> str:
    alike = "every answer is" if not served.others else f"all answers but {served.others:,} are"
    return (
        f"The {served.adapters:,} adapters, up to {SLOTS} at a time on one base model, answered the {served.rows:,} test rows "
        f"in batches with an adapter for each row, by `mix_adapters`: {alike} that of the adapter alone, and logits differ by "
        f"{served.difference:.1g} at most, in float32."
    )


def _capped(runs: int) -> str:
    return f" ({plural(runs, 'run')} had not stopped rising at the most examples)" if runs else ""


def _chosen(rate: float | None, scores: Mapping[float, float | None]) -> str:
    """Return a chosen rate of those tried with their scores, and whether a further one might be better."""
    tried = [
        f"{learning_rate(one)} ({'no score' if score is None else f'{100 * score:.1f}'})"
        for one, score in scores.items()
    ]
    edge = " (the lowest)" if rate == min(scores) else " (the highest)" if rate == max(scores) else ""
    return f"{learning_rate(rate)}{edge} of {', '.join(tried)}"


def _line(group: GroupResult) -> dict[str, Any]:
    against = {
        f"{name}_{rival}": value
        for rival in RIVALS
        if (one := group.against.get(rival)) is not None
        for name, value in {
            "less": one.difference, "gained_on": one.gained, "lost_to": one.lost, "p": one.p_value,
            "adjusted_p": one.adjusted_p, "against": one.verdict,
        }.items()
    }  # fmt: skip
    runs = {f"run_{name}": run_id for name, run_id in group.run_ids.items()}
    rows = {"group": group.value, "task": group.task, "train_rows": group.train, "test_rows": group.test}
    return {**rows, **group.scores, **against, **runs}
