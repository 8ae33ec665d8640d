"""Nights for the tests of the gate, from records that were never run: scores around a level, reproducible from a seed."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from lora_bench.gate.read_night import night_of
from lora_bench.gate.series import Night
from lora_bench.records.record import Record
from tests.sample_records import PARAMETERS, record

LEVEL = {"full": 0.80, "lora": 0.78, "prefix_tuning": 0.70}
SD = 0.006


def night_records(
    label: str,
    *,
    shift: Mapping[str, float] | None = None,
    sd: float = SD,
    seeds: Sequence[int] = (0, 1, 2),
    methods: Sequence[str] = tuple(LEVEL),
    **changes: Any,
) -> list[Record]:
    """The records of one night: three methods with three seeds each, drawn from the label.

    Args:
        label: Its series label, from which the noise is drawn.
        shift: What is added to a method's level.
        changes: Of every record: arguments of `tests.sample_records.record`.
    """
    made = []
    for method in methods:
        for seed in seeds:
            noise = random.Random(f"{label} {method} {seed}").gauss(0, sd)
            given: dict[str, Any] = {"score": LEVEL[method] + (shift or {}).get(method, 0.0) + noise, **changes}
            # One rate a method, as a suite has it.
            given["learning_rate"] = 1e-4 if method == "full" else 1e-3
            command = f"lora-bench run tickets --series {label}"
            suite = {"suite": "tickets", "command": command, **given}
            made.append(record(method, seed=seed, spec={"series": label}, **suite))
    return made


def night(label: str, **changes: Any) -> Night:
    """The night of these records."""
    return night_of(night_records(label, **changes), label)


def repeated(**changes: Any) -> list[Night]:
    """The two further sets of seeds of a night that is labelled `tonight`."""
    return [night(f"tonight{'-confirm' * number}", **changes) for number in (1, 2)]


def accepted(count: int, **changes: Any) -> list[Night]:
    """Accepted nights of an unchanged system."""
    return [number_of(night(f"n{number}", **changes), number) for number in range(1, count + 1)]


def number_of(one: Night, number: int, **more: Any) -> Night:
    """A night as it stands in a baseline."""
    return one.model_copy(update={"number": number, "reason": "an unchanged system", **more})


def changed(records: list[Record], method: str, **changes: Any) -> list[Record]:
    """The records with those of a method changed."""
    return [one.model_copy(update=changes) if one.spec.method.name == method else one for one in records]


def more_parameters(method: str, by: int) -> Any:
    """A method's parameters with more of them in its adapter."""
    counted = PARAMETERS[method]
    assert counted.adapter is not None
    return counted.model_copy(update={"adapter": counted.adapter + by})
