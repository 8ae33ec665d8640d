"""A folder of runs → the analysis of the weights that they kept."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations_with_replacement
from pathlib import Path

import torch
from torch import Tensor

from lora_bench.analyse import subspaces
from lora_bench.analyse.deltas import Delta, NoDelta, Place, deltas_of, load_base, weights_of
from lora_bench.errors import LoraBenchError
from lora_bench.models.registry import BaseModel
from lora_bench.records.record import Record
from lora_bench.records.spec import PlannedSpec
from lora_bench.records.store import RunFolder, read_records
from lora_bench.records.weight_analysis import ModelChanges, Of, Overlap, RunChanges, WeightAnalysis, WeightChange
from lora_bench.report.model.rows import canonical, grouped
from lora_bench.training.winner import base_for

# Numbers of directions at which φ is kept, beside all of them.
STEPS = (1, 2, 4, 8, 16, 32, 64)

Say = Callable[[str], None]


@dataclass
class _Run:
    """A run with its changes, and with the directions of A and of ΔW (right singular vectors), by place."""

    record: Record
    group: str
    changes: dict[Place, WeightChange] = field(default_factory=dict)
    directions: dict[tuple[Of, Place], Tensor] = field(default_factory=dict)

    @property
    def seed(self) -> int | None:
        return self.record.spec.seed


def analyse_runs(runs: Path, bases: Sequence[Path] = (), say: Say = lambda text: None) -> WeightAnalysis:
    """Analyse the weights that the runs of a folder kept; *say* gets a line for each run.

    *bases* are folders of base models whose names do not lead to them from here. Raise LoraBenchError if no run kept weights,
    no method changed any, or a base model is missing.
    """
    records = [
        record
        for record in read_records(runs)
        if record.weights is not None and RunFolder(runs / record.run_id).weights.is_dir()
    ]
    if not records:
        raise LoraBenchError(
            f"no run in {runs} kept its weights; set `keep_weights: last` in the suite, and run it again"
        )
    left_out: dict[str, str] = {}
    models = [_of_model(runs, own, bases, left_out, say) for own in _by_model(records)]
    changed = [model for model in models if model.runs]
    if not changed:
        reasons = "; ".join(f"{label}: {reason}" for label, reason in left_out.items())
        raise LoraBenchError(f"no method of {runs} changed a weight of a layer ({reasons})")
    suites = tuple(sorted({record.suite for record in records}))
    return WeightAnalysis(suites=suites, models=tuple(changed), left_out=left_out)


def _by_model(records: Sequence[Record]) -> Iterator[list[Record]]:
    groups = grouped(records, lambda one: (one.spec.task.name, one.spec.model.shown, one.spec.model.sha256 or ""))
    for _, own in sorted(groups.items()):
        yield sorted(own, key=lambda record: (record.spec.method.label, record.spec.seed or 0, record.run_id))


def _of_model(
    runs: Path, records: Sequence[Record], bases: Sequence[Path], left_out: dict[str, str], say: Say
) -> ModelChanges:
    spec = PlannedSpec.model_validate(records[0].spec.model_dump())
    base_model = _base(records[0], bases)
    base = load_base(spec, base_model)
    weights = {place: (W, subspaces.of_matrix(W)) for place, W in weights_of(base)}
    done: list[_Run] = []
    for record, group in zip(records, _groups(records), strict=True):
        label = record.spec.method.label
        if label in left_out:
            continue
        say(f"{spec.task.name}, {spec.model.shown}, {group}, seed {record.spec.seed}")
        try:
            deltas = deltas_of(base, RunFolder(runs / record.run_id).weights, partial(load_base, spec, base_model))
        except NoDelta as reason:
            left_out[label] = str(reason)
            continue
        done.append(_changes(_Run(record, group), deltas, weights))
    return ModelChanges(
        task=spec.task.name,
        model=spec.model.shown,
        runs=tuple(
            RunChanges(run_id=run.record.run_id, group=run.group, seed=run.seed, changes=tuple(run.changes.values()))
            for run in done
        ),
        overlaps=tuple(_overlaps(done)),
    )


def _base(record: Record, bases: Sequence[Path]) -> BaseModel:
    """Return a record's base model: one of the given folders, or what its name leads to."""
    for folder in bases:
        try:
            return base_for(record.spec, folder)
        except LoraBenchError:
            continue
    return base_for(record.spec)


def _groups(records: Sequence[Record]) -> list[str]:
    """Return the name of each record's group: its label, with the size or the learning rate if the label has several."""
    names = []
    for record in records:
        method, rate = record.spec.method, record.spec.training.learning_rate
        alike = [other.spec for other in records if other.spec.method.label == method.label]
        name = method.label
        if method.size is not None:
            size = method.options[method.size]
            if len({spec.method.options[method.size] for spec in alike}) > 1:
                name += f", {method.size} {size}"
            alike = [spec for spec in alike if spec.method.options[method.size] == size]
        if len({canonical([spec.method.options, spec.training.learning_rate]) for spec in alike}) > 1:
            name += f", rate {rate:g}"
        names.append(name)
    return names


def _changes(
    run: _Run, deltas: Mapping[Place, Delta], weights: Mapping[Place, tuple[Tensor, subspaces.Singular]]
) -> _Run:
    """Measure each change of a run, and keep its directions."""
    for place, change in deltas.items():
        (layer, part), (W, before) = place, weights[place]
        delta = change.delta.first(subspaces.MOST_DIRECTIONS)
        r = len(delta.values)
        run.changes[place] = WeightChange(
            layer=layer,
            part=part,
            shape=(W.shape[0], W.shape[1]),
            weight_norm=before.norm,
            delta_norm=change.delta.norm,
            delta_spectral_norm=change.delta.spectral_norm,
            directions=r,
            along_delta=subspaces.along(W, delta),
            along_weight=before.first(r).norm,
            similarities=tuple(subspaces.intruder_similarities(before, subspaces.of_matrix(change.added_to(W)))),
        )
        if r:
            run.directions["delta", place] = delta.right
        if change.A is not None:
            run.directions["A", place] = subspaces.of_matrix(change.A).right[:, : subspaces.MOST_DIRECTIONS]
    return run


def _overlaps(runs: Sequence[_Run]) -> Iterator[Overlap]:
    """Yield φ between the seeds of each group, and between groups of one method that differ in their size."""
    groups = grouped(sorted(runs, key=_size), lambda run: run.group)
    for first, second in combinations_with_replacement(groups, 2):
        if first != second and not _differ_in_size(groups[first][0], groups[second][0]):
            continue
        for same in (True, False):
            pairs = [
                (left, right)
                for left in groups[first]
                for right in groups[second]
                if (left.seed == right.seed) is same
                and (first != second or (left.seed is not None and right.seed is not None and left.seed < right.seed))
            ]
            if pairs:
                yield from _overlaps_of(first, second, pairs, same)


def _overlaps_of(first: str, second: str, pairs: Sequence[tuple[_Run, _Run]], same: bool) -> Iterator[Overlap]:
    kinds: list[tuple[Of, str]] = [(of, place[1]) for of, place in pairs[0][0].directions]
    for of, part in dict.fromkeys(sorted(kinds, key=lambda kind: kind[0])):
        by_layer: dict[int, list[tuple[Tensor, Tensor]]] = {}
        for run, other in pairs:
            for place in sorted(key[1] for key in run.directions if key[0] == of and key[1][1] == part):
                if (of, place) in other.directions:
                    both = run.directions[of, place], other.directions[of, place]
                    by_layer.setdefault(place[0], []).append(both)
        every = [vectors for layer in by_layer.values() for vectors in layer]
        if not every:
            continue
        rows = _steps(min(run.shape[1] for run, _ in every))
        columns = _steps(min(other.shape[1] for _, other in every))
        layers = [
            torch.stack([subspaces.similarities(*vectors, rows, columns) for vectors in by_layer[layer]]).mean(0)
            for layer in sorted(by_layer)
        ]
        yield Overlap(
            first=first,
            second=second,
            seeds="same" if same else "different",
            part=part,
            of=of,
            pairs=len(pairs),
            width=every[0][0].shape[0],
            rows=rows,
            columns=columns,
            similarity=tuple(tuple(_rounded(row)) for row in torch.stack(layers).mean(0)),
            by_layer=tuple(_rounded(torch.stack([grid[-1, -1] for grid in layers]))),
        )


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 6) for value in values.tolist()]


def _steps(directions: int) -> tuple[int, ...]:
    return (*(step for step in STEPS if step < directions), directions)


def _size(run: _Run) -> float:
    method = run.record.spec.method
    size = method.options[method.size] if method.size is not None else 0
    return float(size) if isinstance(size, int | float) else 0.0


def _differ_in_size(run: _Run, other: _Run) -> bool:
    """Return True if two runs have one method with the same options but for its size."""
    first, second = run.record.spec.method, other.record.spec.method
    if first.size is None or (first.name, first.size) != (second.name, second.size):
        return False
    without = [{**method.options, method.size: None} for method in (first, second) if method.size is not None]
    return without[0] == without[1] and first.options[first.size] != second.options[first.size]
