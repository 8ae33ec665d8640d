"""Train a fleet: an adapter for each value of a column, by one rule, beside one adapter for all and a linear probe for each.

Three suites, written beside the table and made to be edited, do all the training:

    NAME-rates   the rule: rates tried on the selection rows of a sample of groups, each run until its score stops rising; and
                 rates of the shared adapter, tried on the rows of the sample together
    NAME-shared  one adapter trained on the training rows of all groups, until its score stops rising
    NAME-fleet   an adapter and a linear probe for each group, by the rule

What is shared may see as many examples as the adapters beside it together. A suite that is there already is used as it is, and
its runs resume.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lora_bench.errors import LoraBenchError, WorkBroken
from lora_bench.execute.options import RunOptions
from lora_bench.execute.progress import Display
from lora_bench.execute.run_suite import run_suite
from lora_bench.fleet.find_groups import TableGroups
from lora_bench.records.record import Record
from lora_bench.suite.entries import names_by_value
from lora_bench.suite.from_table import BATCH, name_of, refuse_another, tokens_of
from lora_bench.suite.load_suite import load_suite
from lora_bench.tasks.look import TableFacts
from lora_bench.util.atomic_files import write_atomic
from lora_bench.util.signals import CODES, Stopped

ADAPTER, PROBE, SHARED = "lora", "linear_probe", "shared"
# Ranges that hold the best rates of our searches on small and large base models.
RATES = {ADAPTER: [3e-4, 1e-3, 3e-3, 1e-2], PROBE: [1e-3, 3e-3, 1e-2, 3e-2]}
SAMPLE = 16
# The end of the name of the task that has the rows of the sample together.
TOGETHER = "-sample-together"
MOST_EXAMPLES = 3_200
# Groups are small: a score of their selection rows costs little, and comes often enough to see a plateau in 200 steps. Of the
# shared adapter it costs more.
SELECTION_EVERY, SHARED_SCORES = 10, 40


@dataclass(frozen=True)
class FleetPlan:
    """A fleet to train: the groups of a table, the base model, and the most examples that an adapter sees.

    Args:
        bfloat16_gain: How many times as fast this machine trains in bfloat16; None to train in float32.
    """

    seen: TableFacts
    groups: TableGroups
    model: str
    most_examples: int = MOST_EXAMPLES
    bfloat16_gain: float | None = None

    @property
    def name(self) -> str:
        """Name of its table."""
        return name_of(self.seen.file.name)

    def file(self, part: str) -> Path:
        """Return the file of a suite: of "rates", "shared" or "fleet"."""
        return Path(f"{self.name}-{part}.yaml")

    def write_rates(self, say: Callable[[str], None], given: Mapping[str, str | None]) -> None:
        """Write the suite that chooses the rule. Raise LoraBenchError if one is there for another table."""
        sample = self.groups.sample(SAMPLE)
        until = {"until": "plateau", "at_most": self.most_examples}
        together = {"until": "plateau", "at_most": len(sample) * self.most_examples}
        names = [*names_by_value(self.name, sample).values()]
        content = {
            "about": f"The rule of {self.name}-fleet: learning rates and length, tried on a sample of its groups.",
            "tasks": [self._each(sample), self._all(sample, f"{self.name}{TOGETHER}")],
            "methods": [
                {"method": ADAPTER, "learning_rate": RATES[ADAPTER]},
                {"method": PROBE, "learning_rate": RATES[PROBE], "tasks": names},
            ],
            "seeds": [100],
            "score_on": "selection",
            "selection_every": SELECTION_EVERY,
            "budget": {"train_examples": until},
            "recipes": [
                {
                    "tasks": f"{self.name}{TOGETHER}",
                    "train_examples": together,
                    "selection_every": len(sample) * SELECTION_EVERY,
                }
            ],
        }
        self._write("rates", content, say, given)

    def write_by_rule(self, rule: "FleetRule", say: Callable[[str], None], given: Mapping[str, str | None]) -> None:
        """Write the suites of the shared adapter and of the fleet."""
        tuned = {"trials": len(RATES[ADAPTER]), "tuned_in": f"{self.name}-rates"}
        most = len(self.groups.train) * rule.examples[ADAPTER]
        shared = {
            "about": f"One adapter for all groups of {self.name}-fleet.",
            "tasks": [self._all([*self.groups.train], self.name)],
            "methods": [{"method": ADAPTER, "learning_rate": rule.rates[SHARED]}],
            "seeds": [0],
            "keep_weights": "last",
            "selection_every": max(SELECTION_EVERY, most // (SHARED_SCORES * BATCH)),
            # Scores of all groups' selection rows vary less than those of one, so fewer tell a plateau.
            "budget": {"train_examples": {"until": "plateau", "at_most": most, "patience": 3}, **tuned},
        }
        fleet = {
            "about": f"An adapter and a linear probe for each {self.groups.column} of {self.seen.file.name}.",
            "tasks": [self._each([*self.groups.train])],
            "methods": [{"method": method, "learning_rate": rule.rates[method]} for method in (ADAPTER, PROBE)],
            "seeds": [0],
            "keep_weights": "last",
            "budget": {"train_examples": rule.examples[ADAPTER], **tuned},
            "recipes": [{"methods": PROBE, "train_examples": rule.examples[PROBE]}],
        }
        self._write("shared", shared, say, given)
        self._write("fleet", fleet, say, given)

    def _all(self, values: Sequence[str], task: str) -> dict[str, Any]:
        return {**self.groups.keys, "task": task, "rows": {self.groups.column: [*values]}}

    def _each(self, values: Sequence[str]) -> dict[str, Any]:
        return {**self._all(values, self.name), "by": self.groups.column}

    def _write(
        self, part: str, content: Mapping[str, Any], say: Callable[[str], None], given: Mapping[str, str | None]
    ) -> None:
        file = self.file(part)
        if file.exists():
            refuse_another(file, self.seen.file, given)
            say(f"{file} is there already and is used as it is; delete it to begin anew")
            return
        training: dict[str, Any] = {
            "batch_size": BATCH,
            "max_length": tokens_of(self.seen),
            "precision": "float32" if self.bfloat16_gain is None else "bfloat16",
        }
        training |= {"order": "grouped", "masks": "keyed", "last_layer": "read_position"}
        whole = {"suite": file.stem, **content, "models": [self.model], "training": training}
        text = "# Written by lora-bench fleet; every line can be edited, and docs/suites.md has every key.\n"
        dumped = yaml.safe_dump(_plain(whole), sort_keys=False, allow_unicode=True, width=120)
        write_atomic(file, (text + dumped).encode("utf-8"))
        faster = "" if self.bfloat16_gain is None else f"; in bfloat16, {self.bfloat16_gain:.1f} times as fast here"
        say(f"wrote {file}{faster}")


@dataclass(frozen=True)
class FleetRule:
    """What all groups share, by method, and the same for "shared": the best rate by its mean selection score, and a length.

    Args:
        rates: Chosen rate of each method.
        examples: Examples that the middle run at that rate saw.
        scores: Mean selection score of each rate over the sample; None where a run of it failed.
        sample: Names of the tasks of the sample.
        capped: Runs at the chosen rate that ended by the cap and not by a plateau.
    """

    rates: Mapping[str, float]
    examples: Mapping[str, int]
    scores: Mapping[str, Mapping[float, float | None]]
    sample: Sequence[str]
    capped: Mapping[str, int]


def rule_of(records: Sequence[Record]) -> FleetRule:
    """Return the rule that the trials of a sample choose. Raise LoraBenchError if every rate of a method failed."""
    found: dict[str, dict[float, list[Record]]] = {}
    for record in records:
        assert record.spec.training.learning_rate is not None, "trials are planned"
        together = record.spec.task.name.endswith(TOGETHER)
        of_method = found.setdefault(SHARED if together else record.spec.method.label, {})
        of_method.setdefault(record.spec.training.learning_rate, []).append(record)
    scores = {method: {rate: _mean(tried) for rate, tried in sorted(rates.items())} for method, rates in found.items()}
    chosen, examples, capped = {}, {}, {}
    for method, of_rates in scores.items():
        known = {rate: score for rate, score in of_rates.items() if score is not None}
        if not known:
            raise LoraBenchError(f"no learning rate of {method} gave a score in every group of the sample: see --retry")
        chosen[method] = max(known, key=lambda rate: (known[rate], -rate))
        lengths = [_length(record) for record in found[method][chosen[method]]]
        examples[method] = statistics.median_high(lengths)
        ends = [record.plateau for record in found[method][chosen[method]]]
        capped[method] = sum(end is not None and end.by == "cap" for end in ends)
    names = dict.fromkeys(record.spec.task.name for record in records)
    return FleetRule(chosen, examples, scores, [name for name in names if not name.endswith(TOGETHER)], capped)


def _mean(records: Sequence[Record]) -> float | None:
    scores = [record.judged_score for record in records]
    known = [score for score in scores if score is not None]
    return statistics.fmean(known) if len(known) == len(scores) else None


def _length(record: Record) -> int:
    """Return the examples that a run saw."""
    recipe = record.spec.training
    steps = record.plateau.step if record.plateau is not None else recipe.steps
    assert steps is not None and recipe.batch_size is not None, "trials are planned"
    return steps * recipe.batch_size


def train_fleet(
    fleet: FleetPlan, options: RunOptions, display: Display, given: Mapping[str, str | None]
) -> dict[str, tuple[Record, ...]]:
    """Train a fleet, and return the records of its three suites by "rates", "shared" and "fleet".

    The same call goes on after a stop. Raise Stopped if a signal stopped it; WorkBroken if the disk is full; LoraBenchError if
    no rule can be chosen.
    """
    fleet.write_rates(display.say, given)
    records = {"rates": _done(fleet.file("rates"), options, display)}
    fleet.write_by_rule(rule_of(records["rates"]), display.say, given)
    return records | {part: _done(fleet.file(part), options, display) for part in ("shared", "fleet")}


def _done(file: Path, options: RunOptions, display: Display) -> tuple[Record, ...]:
    outcome = run_suite(load_suite(file), options, display=display)
    if outcome.interrupted in CODES:
        raise Stopped(outcome.interrupted)
    if outcome.interrupted is not None or outcome.undone:
        raise WorkBroken(f"the runs of {file} are not done: {outcome.interrupted or 'a worker was stopped'}")
    return outcome.records


def _plain(value: Any) -> Any:
    """Return keys of a suite as YAML has them: lists in place of tuples."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
