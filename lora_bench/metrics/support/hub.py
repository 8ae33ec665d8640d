"""Metrics from elsewhere: ``hub:NAME`` is an `evaluate` script that runs on this machine.

NAME is a metric on the Hugging Face hub at a commit of 40 digits (`rouge@COMMIT`, `owner/name@COMMIT`), or a local folder
(`./mine` with `mine.py`). Values are the numbers that the script returns, by name. A number that is not finite is None; lists
and texts are left out. The metric's own value, also kept under its full name, is its only number or the one named like the
metric. Of several others, ``hub:NAME:NUMBER`` picks one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from numbers import Real
from typing import Any

import datasets
import evaluate

from lora_bench.errors import LoraBenchError, unknown
from lora_bench.metrics import HUB, known_metrics, unpinned

NUMBER = re.compile(r"(?P<path>.+):(?P<number>\w[\w.-]*)")
PINNED = re.compile(r"(?P<name>[\w.-]+(?:/[\w.-]+)?)@(?P<commit>[0-9a-f]{40})")
# The owner of the metrics that have none in their name.
OWNER = "evaluate-metric"


class HubMetric:
    """A metric from the hub, with the `compute` of the others.

    Args:
        name: ``hub:NAME`` or ``hub:NAME:NUMBER``; NAME is a folder or ends in a commit.

    Raises:
        LoraBenchError: If it cannot be loaded.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        named = NUMBER.fullmatch(name.removeprefix(HUB))
        self.path = named["path"] if named else name.removeprefix(HUB)
        self.number = named["number"] if named else None
        if (reason := unpinned(name)) is not None:
            raise LoraBenchError(f"metric {name!r} {reason}")
        self.module = _load(self.path)

    def compute(
        self, *, predictions: Sequence[Any], references: Sequence[Any], **options: Any
    ) -> dict[str, float | None]:
        """Return its numbers by name, and its own value under its full name.

        Raises:
            LoraBenchError: If it takes one reference and gets more, or returns several numbers and none was named.
        """
        if not _takes_lists(self.module):
            references = self._single(references)
        found = self.module.compute(predictions=predictions, references=references, **options)
        values = {
            name: float(value) if math.isfinite(value) else None
            for name, value in (found or {}).items()
            if isinstance(value, Real)
        }
        return {**values, self.name: values[self._own(values)]}

    def _single(self, references: Sequence[Any]) -> list[Any]:
        """Return the single reference of each list."""
        most = max((len(each) for each in references if isinstance(each, list | tuple)), default=1)
        if most > 1:
            raise LoraBenchError(f"metric {self.name!r} takes one reference for a prediction, got up to {most}")
        return [each[0] if isinstance(each, list | tuple) and each else each for each in references]

    def _own(self, values: Mapping[str, float | None]) -> str:
        """Return the name of the metric's own number."""
        if self.number is not None:
            if self.number not in values:
                raise unknown(f"number of metric {HUB}{self.path}:", self.number, values)
            return self.number
        last = self.path.partition("@")[0].replace("\\", "/").rstrip("/").rpartition("/")[2].removesuffix(".py")
        if last in values or len(values) == 1:
            return last if last in values else next(iter(values))
        if not values:
            raise LoraBenchError(f"metric {self.name!r} returns no number")
        first = next(iter(values))
        raise LoraBenchError(
            f"metric {self.name!r} returns several numbers ({', '.join(values)}); say which, as {self.name}:{first}"
        )


@cache
def _load(path: str) -> evaluate.EvaluationModule:
    pinned = PINNED.fullmatch(path)
    try:
        # In memory, like the package's own.
        return evaluate.load(path if pinned is None else _downloaded(**pinned.groupdict()), keep_in_memory=True)
    except LoraBenchError:
        raise
    except FileNotFoundError as error:
        raise LoraBenchError(
            f"metric '{HUB}{path}' is no folder with a script (without one: {', '.join(known_metrics())})"
        ) from error
    except Exception as error:  # whatever a script raises, or a package that it needs
        raise LoraBenchError(f"metric '{HUB}{path}' cannot be loaded: {error}") from error


def _downloaded(name: str, commit: str) -> str:
    """Return the path of a hub metric's script at its commit."""
    from lora_bench.util.hub import snapshot

    repository = name if "/" in name else f"{OWNER}/{name}"
    script = f"{repository.partition('/')[2]}.py"
    found = snapshot("metric", repository, commit, ["*.py"], leave=["*/*"])
    if not (found.folder / script).is_file():
        raise LoraBenchError(f"metric '{HUB}{name}@{commit}' has no script {script}")
    return str(found.folder / script)


def _takes_lists(module: evaluate.EvaluationModule) -> bool:
    """Return True if the metric takes several references for a prediction."""
    ways = module.features if isinstance(module.features, list) else [module.features]
    return any(not isinstance(way.get("references"), datasets.Value) for way in ways)
