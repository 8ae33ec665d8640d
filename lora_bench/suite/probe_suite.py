"""A suite of probes: shapes × base models × methods, without data. The `probe` block of a suite of runs makes one too."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, JsonValue

from lora_bench.documents import Document, Key, Strict, validate
from lora_bench.errors import BadInput, Fault, collecting, did_you_mean
from lora_bench.kinds import ModelKind
from lora_bench.records.spec import AnyPrecision, Precision
from lora_bench.suite.entries import MethodEntry, read_each, read_method, read_model
from lora_bench.suite.load_suite import Suite, find_suite, is_probe_suite, load_suite
from lora_bench.suite.schema import ModelEntry, Names, Positive, Probe, Shape, without_defaults
from lora_bench.suite.validate_suite import repeated
from lora_bench.util.filenames import Name


class CellSettings(Strict):
    """The step to measure.

    Args:
        kind: Kind of task.
        labels: Number of classes, for classification, tokens and several labels.
        batch_size: Examples per step.
        length: Tokens per example, none of them padding.
        precision: "bfloat16" uses autocast.
        base_precision: Type in which the base model is stored.
        gradient_checkpointing: Compute layers anew in the backward pass.
    """

    kind: ModelKind = "classification"
    labels: Positive = 2
    batch_size: Positive = 16
    length: Positive = 128
    precision: Precision = "float32"
    base_precision: AnyPrecision = "float32"
    gradient_checkpointing: bool = False


class CellShape(CellSettings):
    """The step to measure, and the threads that take it; the other keys are those of `CellSettings`.

    Args:
        threads: CPU threads; all cores by default.
    """

    threads: Positive | None = None


class ProbeCellRecipe(CellSettings):
    """Settings for the cells of some models and methods; the other keys are those of `CellSettings`.

    A key that is left out changes nothing, whatever its default: only `model_fields_set` counts.

    Args:
        models: Names (labels of methods) that the recipe covers; all by default.
        methods: Names (labels of methods) that the recipe covers; all by default.
        latency: Batch size and length of each timed forward pass.
        wide_tokens: Tokens of a second step, bound by arithmetic rather than Python; none by default.
    """

    model_config = ConfigDict(json_schema_extra=without_defaults)

    models: Names = ()
    methods: Names = ()
    latency: tuple[Shape, ...] = ()
    wide_tokens: Positive | None = None


class Size(Strict):
    """The parameter target of a suite of probes, as in `lora_bench.records.budget.Budget`.

    Args:
        adapter_parameters: Trainable parameters without the head.
        tolerance: Share of the target by which a method may miss it.
    """

    adapter_parameters: Positive
    tolerance: float = Field(default=0.05, ge=0, lt=1)


class ProbeFile(Strict):
    """A suite file of probes.

    Args:
        suite: Name of the suite.
        about: Purpose, in a sentence.
        probe: Measurements beside the step.
        cell: Step to measure.
        models: Base models, or shapes such as `shape:roberta-base`.
        methods: Methods, by name or with options.
        budget: Parameter target; by default methods keep the sizes given.
        recipes: Settings for some cells; a later recipe overrides an earlier one.
    """

    suite: Name
    about: str = ""
    probe: Probe = Probe()
    cell: CellShape = CellShape()
    models: tuple[str | dict[str, JsonValue], ...] = Field(min_length=1)
    methods: tuple[str | dict[str, JsonValue], ...] = Field(min_length=1)
    budget: Size | None = None
    recipes: tuple[ProbeCellRecipe, ...] = ()


@dataclass(frozen=True)
class ProbeSuite:
    """A suite of probes with every name resolved."""

    file: Path
    document: Document
    command: tuple[str, ...]
    models: tuple[ModelEntry, ...]
    methods: tuple[MethodEntry, ...]
    content: ProbeFile
    pickles: frozenset[str] = frozenset()
    code: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """The suite's name."""
        return self.content.suite

    def cell(self, model: str, label: str) -> tuple[CellShape, Probe]:
        """Return the step and the measurements for a base model and a label of a method."""
        cell, probe = self.content.cell, self.content.probe
        for recipe in self.content.recipes:
            if (not recipe.models or model in recipe.models) and (not recipe.methods or label in recipe.methods):
                given: dict[str, Any] = {name: getattr(recipe, name) for name in recipe.model_fields_set}
                cell = cell.model_copy(update={name: given[name] for name in given if name in CellShape.model_fields})
                probe = probe.model_copy(update={name: given[name] for name in given if name in Probe.model_fields})
        return cell, probe


def load_probe_suite(name_or_file: str | Path) -> Suite | ProbeSuite:
    """Read a suite of probes, or of runs to probe. Raise LoraBenchError for an unknown name, BadInput with every fault."""
    file, document, argument = find_suite(name_or_file)
    # A suite of probes may leave `cell` out; a file with any key of training is a suite of runs.
    if is_probe_suite(document) or not {"tasks", "seeds", "training"} & document.data.keys():
        return read_probe_suite(file, document, argument)
    return load_suite(name_or_file)


def read_probe_suite(file: Path, document: Document, argument: str) -> ProbeSuite:
    """Resolve a suite of probes, which the user gave as *argument*. Raise BadInput with every fault of the file."""
    faults: list[Fault] = []
    # Parts are read even if the whole is invalid, so that all faults are reported at once.
    models = read_each(document, "models", faults, lambda key, entry: read_model(document, key, entry))
    methods = read_each(document, "methods", faults, lambda key, entry: read_method(document, key, entry))
    content: ProbeFile | None = None
    with collecting(faults):
        content = validate(ProbeFile, document)
    faults += repeated(document, "models", [entry.model for entry in models])
    faults += repeated(document, "methods", [entry.label for entry in methods])
    if content is not None:
        faults += _contradictions(document, content, models, methods)
    if faults or content is None:
        raise BadInput(faults)
    return ProbeSuite(file, document, ("probe", argument), tuple(models), tuple(methods), content)


def _contradictions(
    document: Document, content: ProbeFile, models: list[ModelEntry], methods: list[MethodEntry]
) -> list[Fault]:
    """Return a fault for each name that the suite lacks and each key that is not read."""
    known = {"models": [entry.model for entry in models], "methods": [entry.label for entry in methods]}
    named: list[tuple[Key, str, str]] = []
    faults = []
    if content.probe.twin is not None:
        named.append((("probe", "twin"), "methods", content.probe.twin))
    for index, recipe in enumerate(content.recipes):
        key: Key = ("recipes", index)
        named += [((*key, part), part, name) for part in known for name in getattr(recipe, part)]
    for index, entry in enumerate(content.methods):
        key = ("methods", index)
        given = entry if isinstance(entry, dict) else {}
        unread = [name for name in ("tasks", "learning_rate") if name in given]
        faults += [
            document.fault((*key, name), "is not read in a suite of probes: it trains on no task") for name in unread
        ]
    for place, method in enumerate(methods):
        named += [(("methods", place, "models"), "models", name) for name in method.models]
    return faults + [
        document.fault(key, f"{name!r} is not one of this suite's {part}{did_you_mean(name, known[part])}")
        for key, part, name in named
        if name not in known[part]
    ]
