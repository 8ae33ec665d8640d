"""Metrics that need no network, over scikit-learn, scipy, sacrebleu and others.

`evaluate.load("accuracy")` downloads a script and runs it. These come with the package, give the same numbers, and have the
form of `evaluate.Metric`. Every module of this folder is one metric: its name is the metric's, `METRIC` its facts. What the
metrics share is in `support`. A value that is undefined, such as the correlation with a constant, is None and never NaN.
Asking for facts imports no library of metrics. Metrics of others are reached as ``hub:NAME@COMMIT``.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
import typing
from functools import cache
from typing import TYPE_CHECKING

from lora_bench.errors import unknown
from lora_bench.metrics.support.declaration import HALF_A_POINT, Kind, Metric

if TYPE_CHECKING:
    import evaluate

    from lora_bench.metrics.support.hub import HubMetric

__all__ = [
    "HALF_A_POINT", "HUB", "Kind", "Metric", "declared", "default_margin", "find", "higher_is_better", "kind_of",
    "known_metrics", "metric", "unavailable", "unpinned",
]  # fmt: skip

HUB = "hub:"


def known_metrics() -> dict[str, Kind]:
    """Every metric of this package by name, with the kind of task it scores; kind by kind, then by name."""
    kinds = {name: _read(name).kind for name in sorted(_names())}
    return {name: kind for each in typing.get_args(Kind) for name, kind in kinds.items() if kind == each}


def find(name: str | None) -> Metric | None:
    """The facts of a metric of this package; None for every other name."""
    return _read(name) if name is not None and name in _names() else None


def declared(name: str) -> Metric | None:
    """The facts of a metric of this package; None for one from the hub.

    Raises:
        LoraBenchError: If there is no such metric, with the nearest name.
    """
    if name.startswith(HUB) and len(name) > len(HUB):
        return None
    if name not in _names():
        raise unknown("metric", name, [*known_metrics(), f"{HUB}NAME"])
    return _read(name)


def default_margin(name: str | None) -> float | None:
    """The difference that is disregarded where a suite declares none; None for no such default."""
    found = find(name)
    return None if found is None else found.margin


def kind_of(name: str) -> Kind | None:
    """The kind of task that a metric scores; None for one from the hub, which may fit any.

    Raises:
        LoraBenchError: If there is no such metric, with the nearest name.
    """
    found = declared(name)
    return found.kind if found is not None else None


def higher_is_better(name: str) -> bool | None:
    """The direction of a metric; None for one from the hub, which does not tell.

    Raises:
        LoraBenchError: If there is no such metric, with the nearest name.
    """
    found = declared(name)
    return found.higher_is_better if found is not None else None


def unavailable(name: str) -> str | None:
    """Why a metric cannot be computed on this machine, with what to do; None if it can, or if only trying would tell.

    Raises:
        LoraBenchError: If there is no such metric, with the nearest name.
    """
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
    """Why a metric's script is not run: it is somebody else's, and nothing says which one was meant. None where it may be.

    The package's own metrics and scripts in a folder of the user's may be, and those of the hub at a commit.
    """
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


def metric(name: str) -> evaluate.Metric | HubMetric:
    """A metric by name, ready for `compute(references=..., predictions=...)`.

    For generation, predictions are texts and references lists of one or more texts. Where the metric is unavailable,
    `compute` raises the reason.

    Raises:
        LoraBenchError: If there is none, with the nearest name; if one from the hub cannot be loaded.
    """
    if declared(name) is None:
        from lora_bench.metrics.support.hub import HubMetric

        return HubMetric(name)
    from lora_bench.metrics.support.as_evaluate import PackageMetric

    return PackageMetric(name)


@cache
def _names() -> frozenset[str]:
    return frozenset(module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg)


def _read(name: str) -> Metric:
    found: Metric = importlib.import_module(f"{__name__}.{name}").METRIC
    return found
