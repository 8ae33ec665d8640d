"""Facts of metrics by name, without a library of metrics."""

import importlib
import importlib.util
import pkgutil
import re
import typing
from functools import cache
from pathlib import Path

from lora_bench.errors import unknown
from lora_bench.metrics.support.metric_facts import HALF_A_POINT, Metric, MetricKind

HUB = "hub:"
# Before the name of a share of 1 that another program computed, or its result on an item.
SHARE = "share:"
# Each module of this folder is a metric.
FOLDER = Path(__file__).parents[1]


_GIVEN = Metric(kind="generation", margin=HALF_A_POINT, of_item=lambda references, result: result)


def known_metrics() -> dict[str, MetricKind]:
    """Return every metric of this package with the kind of task it scores, kind by kind and then by name."""
    kinds = {name: _read(name).kind for name in sorted(_names())}
    return {name: kind for each in typing.get_args(MetricKind) for name, kind in kinds.items() if kind == each}


def find(name: str | None) -> Metric | None:
    """Return the facts of a metric of this package or of a share that another program computed; None for any other name."""
    if name is not None and name.startswith(SHARE):
        return _GIVEN
    return _read(name) if name is not None and name in _names() else None


def declared(name: str) -> Metric | None:
    """Return the facts of a metric, None for one from the hub. Raise LoraBenchError with the nearest name if none has it."""
    if name.startswith(HUB) and len(name) > len(HUB):
        return None
    if name not in _names():
        raise unknown("metric", name, [*known_metrics(), f"{HUB}NAME"])
    return _read(name)


def default_margin(name: str | None) -> float | None:
    """Return the margin for suites that declare none; None if the metric has none."""
    found = find(name)
    return None if found is None else found.margin


def kind_of(name: str) -> MetricKind | None:
    """Return the kind of task that a metric scores, or None, as `declared` does."""
    found = declared(name)
    return found.kind if found is not None else None


def higher_is_better(name: str) -> bool | None:
    """Return the direction of a metric, or None, as `declared` does."""
    found = declared(name)
    return found.higher_is_better if found is not None else None


def unavailable(name: str) -> str | None:
    """Return why this machine cannot compute a metric, and what to do; None if it can, or if only trying would tell."""
    found = declared(name)
    if found is None or found.library is None:
        return None
    if importlib.util.find_spec(found.library) is None:
        return f"metric {name!r} needs the package {found.library!r}, which is not installed; install lora_bench[nlg]"
    if found.java:
        from lora_bench.metrics.support.java import missing_java

        reason = missing_java()
        return f"metric {name!r} {reason}" if reason is not None else None
    return None


def unpinned(name: str) -> str | None:
    """Return why a metric's script is refused, or None. Our own, local ones, and those of the hub at a commit may run."""
    path = name.removeprefix(HUB)
    if not name.startswith(HUB) or path.startswith((".", "/", "~", "\\")) or re.match(r"[A-Za-z]:[\\/]", path):
        return None
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?@[0-9a-f]{40}(:\w[\w.-]*)?", path):
        return None
    bare = path.partition("@")[0].partition(":")[0]
    return (
        f"is a script that would run on this machine: pin it as {HUB}{bare}@COMMIT with all 40 digits, or name a folder of "
        f"yours as {HUB}./{bare}"
    )


@cache
def _names() -> frozenset[str]:
    return frozenset(module.name for module in pkgutil.iter_modules([str(FOLDER)]) if not module.ispkg)


def _read(name: str) -> Metric:
    found: Metric = importlib.import_module(f"lora_bench.metrics.{name}").METRIC
    return found
