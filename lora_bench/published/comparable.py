"""Comparison of a run's recipe, field by field, with the recipe that a published number needs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_bench.families import hub_name
from lora_bench.published.table import PublishedCell
from lora_bench.records.record import Record
from lora_bench.records.spec import RunSpec, without_shown
from lora_bench.report.model.comparison import flat
from lora_bench.report.model.rows import grouped
from lora_bench.tasks import Release

Expected = Mapping[str, Any] | None
EXAMPLES, CONTENT = "data.examples.", "data.sha256"


@dataclass(frozen=True)
class Differing:
    """A field, named as in a run spec, in which the runs differ; None is asked where the source does not say."""

    field: str
    asked: Any
    run: Any


def fields(spec: RunSpec) -> dict[str, Any]:
    """The recipe of a run as a flat mapping such as ``{"training.learning_rate": 5e-4, ...}``.

    It leaves out the base model, which a published cell names itself. It also leaves out parts that are no recipe: seed,
    threads, labels, and the number of parts of a batch.
    """
    content = spec.model_dump(mode="json")
    for name in ("model", "seed", "series", "keep_weights", "spec_version", "protocol", "start", "retention"):
        del content[name]
    method, task = content["method"], content["task"]
    content["method"] = {"name": method["name"], "options": method["options"]}
    del task["name"], content["training"]["threads"]
    content["training"]["arguments"].pop("gradient_accumulation_steps", None)
    task["definition"] = without_shown(spec.task.definition)
    return {**flat(content), "start": None if spec.start is None else spec.start.shown}


def place_of(spec: RunSpec) -> tuple[str, str, str]:
    """The method, base model and task of a run, by which it finds its published cells."""
    return spec.method.label, hub_name(spec.model.name), spec.task.name


def place_of_cell(cell: PublishedCell, stand_ins: Mapping[str, str] | None = None) -> tuple[str, str, str]:
    """The method, base model and task of the runs of a published cell; for *stand_ins* see `expected_from`."""
    model = (stand_ins or {}).get(cell.model, cell.model)
    return cell.method or "", hub_name(model), cell.task


def expected_from(
    specs: Iterable[RunSpec],
    stand_ins: Mapping[str, str] | None = None,
    releases: Mapping[str, Release | None] | None = None,
) -> Callable[[PublishedCell], Expected]:
    """A function from a cell to the run that the table's own suite asks for, made from the run specs of its plan.

    Trials among these are passed over. *stand_ins* has, for a base model of the table, the name of the model that the plan has
    in its stead, and *releases* the data release of each task.
    """
    asked = {
        place_of(spec): fields(spec) | _released((releases or {}).get(spec.task.name), spec)
        for spec in specs
        if spec.score_on == "test"
    }
    return lambda cell: asked.get(place_of_cell(cell, stand_ins))


def _released(release: Release | None, spec: RunSpec) -> dict[str, Any]:
    """The counts of a run's data that a release requires, and its hash if known."""
    if release is None:
        return {}
    facts: dict[str, Any] = {EXAMPLES + split: count for split, count in release.examples.items()}
    data = (spec.task.definition or {}).get("data")
    hub = data.get("hub") if isinstance(data, dict) else None
    # Data of the hub is named by its commit, which the definition has.
    if release.sha256 and hub is None:
        facts[CONTENT] = list(release.sha256)
    return facts


def _found(record: Record, expected: Mapping[str, Any]) -> dict[str, Any]:
    """The same facts of a run's own data; a hash that is known is given as those that are asked for."""
    counts = dict(record.data.examples) if record.data is not None else {}
    if EXAMPLES + "selection" not in expected and "train" in counts:
        counts["train"] += counts.pop("selection", 0)  # set aside from the training rows
    facts: dict[str, Any] = {name: counts.get(name.removeprefix(EXAMPLES)) for name in expected if EXAMPLES in name}
    if CONTENT in expected:
        own = record.spec.task.data_sha256
        facts[CONTENT] = expected[CONTENT] if own in expected[CONTENT] else own
    return {name: "unknown" if value is None else value for name, value in facts.items()}


def nearest(
    cell: PublishedCell, records: Sequence[Record], expected: Expected
) -> tuple[Sequence[Record], tuple[Differing, ...]]:
    """The runs of one recipe that differ least from the expected fields, and their differences."""

    def recipe(record: Record) -> str:
        counts = sorted(record.data.examples.items()) if record.data is not None else None
        return repr((record.spec.model.name, sorted(fields(record.spec).items()), counts))

    pairs = [(group, _differing(cell, group, expected)) for group in grouped(records, recipe).values()]
    pairs.sort(key=lambda pair: (len(pair[1]), -len(pair[0]), min(record.run_id for record in pair[0])))
    return pairs[0] if pairs else ((), ())


def _differing(cell: PublishedCell, records: Sequence[Record], expected: Expected) -> tuple[Differing, ...]:
    spec = records[0].spec
    apart: dict[str, tuple[Any, Any]] = {}  # what is asked and what was run, by field
    # Only the hub gives a base model a revision: a folder may have any name and hold any weights.
    if spec.model.revision is None or hub_name(spec.model.name) != cell.model:
        apart["model"] = cell.model, spec.model.shown
    counted = [record.parameters.adapter for record in records if record.parameters is not None]
    counts = {count for count in counted if count is not None}
    if cell.adapter_parameters is not None and counts - {cell.adapter_parameters}:
        apart["adapter parameters"] = cell.adapter_parameters, min(counts)
    if cell.printed_metric is not None:
        apart["metric"] = cell.printed_metric, cell.score
    apart |= {field: (theirs, ours) for field, theirs, ours in cell.unlike}
    if expected is None:
        apart["recipe"] = "that of the table's suite", "not held against it"
    else:
        run = fields(spec) | _found(records[0], expected)
        for name in dict.fromkeys((*expected, *run)):
            if expected.get(name) != run.get(name):
                apart[name] = expected.get(name, "nothing"), run.get(name, "nothing")
    aggregation = spec.rules.aggregation if spec.rules is not None else None
    if cell.statistic not in (None, aggregation):
        apart["rules.aggregation"] = cell.statistic, aggregation
    return tuple(Differing(name, "nothing" if asked is None else asked, run) for name, (asked, run) in apart.items())


def unpublished(cell: PublishedCell) -> tuple[Differing, ...]:
    """The recipe fields that the sources leave out; the statistic apart, as it is then the protocol's."""
    return tuple(Differing(field, None, "the suite's choice") for field in cell.unpublished if field != "statistic")
