"""Shared parts of the sections on a paper's claims: the cells that are compared, and how numbers are written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from lora_bench.records.probe_record import ProbeRecord
from lora_bench.report import text
from lora_bench.report.probes.cells import REFERENCE, Probed
from lora_bench.report.text import MISSING, code, inert

# The method of the claims, which adapts a frozen model.
CLAIMED = "lora"

NOTHING = ["Not measured here."]


@dataclass(frozen=True)
class ClaimPair:
    """The same step with all weights trained, and adapted."""

    whole: Probed
    adapted: Probed

    def both(self, of: str | Callable[[ProbeRecord], float | None]) -> tuple[float, float] | None:
        """A value of either, or None where one lacks it."""
        values = (self.whole.value(of), self.adapted.value(of))
        return None if values[0] is None or values[1] is None else (values[0], values[1])


def whole_of(cell: Probed, cells: Sequence[Probed]) -> Probed | None:
    """The cell that trains all weights in the same step."""
    left_out = {"method", "latency_shapes", "wide_tokens"}
    step = cell.spec.model_dump(exclude=left_out)
    same = (one for one in cells if one.spec.method.name == REFERENCE and one.spec.model_dump(exclude=left_out) == step)
    return next(same, None)


def model_of(cell: Probed) -> str:
    """The base model or shape of a cell."""
    return inert(cell.spec.model.shown.removeprefix("shape:"))


def method_of(cell: Probed) -> str:
    """The method of a cell."""
    return code(cell.spec.method.label)


def times(large: float, small: float) -> str:
    """The ratio of the first to the second, in words."""
    return MISSING if not small else times_of(large / small)


def times_of(ratio: float) -> str:
    """A ratio with three figures."""
    return f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.3g}"


def times_sign(shape: tuple[int, int]) -> str:
    """A batch of inputs, such as 4 × 128."""
    return f"{shape[0]} × {shape[1]}"


def percent_of(share: float) -> str:
    """A share in whole per cent."""
    return f"{share:.0%}".replace("%", " %")


def percent(share: float) -> str:
    """A change in per cent, with its sign."""
    return f"{'+' if share >= 0 else '−'}{abs(share):.1%}".replace("%", " %")


def span(values: Iterable[float], shown: Callable[[float], str]) -> str:
    """The least and the greatest of values, or the one."""
    found = sorted(values)
    low, high = shown(found[0]), shown(found[-1])
    return low if low == high else f"{low} to {high}"


def mebibytes(number: float) -> str:
    """Bytes as MiB with three figures, without the unit."""
    value = number / text.MIB
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
