"""Metrics that need no network: `evaluate.Metric` classes over scikit-learn, scipy, sacrebleu and others.

`evaluate.load("accuracy")` fetches a script from a hub and runs it; these come with the package and give the same
numbers. One file a metric, named like it. A value that is undefined, such as the correlation with a constant, is None
and never NaN. Asking which metrics there are imports nothing. Anything else is reached as ``hub:NAME@COMMIT``.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lora_bench.errors import unknown

if TYPE_CHECKING:
    import evaluate

    from lora_bench.metrics.hub import HubMetric

Kind = Literal["classification", "regression", "generation"]

HUB = "hub:"


@dataclass(frozen=True)
class _Metric:
    """What is known of a metric before its module is imported.

    Args:
        kind: The kind of task that it scores.
        class_name: Its class, in the module named like the metric.
        higher_is_better: Its direction.
        library: The module of the extra `nlg` that it rests on, or None.
        java: Whether that library runs Java.
    """

    kind: Kind
    class_name: str
    higher_is_better: bool = True
    library: str | None = None
    java: bool = False


_METRICS = {
    "accuracy": _Metric("classification", "Accuracy"),
    "f1": _Metric("classification", "F1"),
    "accuracy_f1_mean": _Metric("classification", "AccuracyF1Mean"),
    "matthews_correlation": _Metric("classification", "MatthewsCorrelation"),
    "pearson": _Metric("regression", "Pearson"),
    "spearman": _Metric("regression", "Spearman"),
    "pearson_spearman_mean": _Metric("regression", "PearsonSpearmanMean"),
    "exact_match": _Metric("generation", "ExactMatch"),
    "bleu": _Metric("generation", "Bleu", library="sacrebleu"),
    "bleu_webnlg": _Metric("generation", "BleuWebnlg", library="sacrebleu"),
    "nist": _Metric("generation", "Nist", library="sacrebleu"),
    "ter": _Metric("generation", "Ter", higher_is_better=False, library="sacrebleu"),
    "chrf": _Metric("generation", "Chrf", library="sacrebleu"),
    "rouge_l": _Metric("generation", "RougeL", library="pycocoevalcap", java=True),
    "cider": _Metric("generation", "Cider", library="pycocoevalcap", java=True),
    "meteor": _Metric("generation", "Meteor", library="pycocoevalcap", java=True),
    "rouge_1": _Metric("generation", "Rouge1", library="rouge_score"),
    "rouge_2": _Metric("generation", "Rouge2", library="rouge_score"),
    "rouge_l_summary": _Metric("generation", "RougeLSummary", library="rouge_score"),
}


def known_metrics() -> dict[str, Kind]:
    """Every metric of this package by name, with the kind of task it scores."""
    return {name: entry.kind for name, entry in _METRICS.items()}


def kind_of(name: str) -> Kind | None:
    """The kind of task that a metric scores; None for one from the hub, which may fit any.

    Raises:
        LoraBenchError: If there is no such metric, with the nearest name.
    """
    entry = _entry(name)
    return entry.kind if entry is not None else None


def higher_is_better(name: str) -> bool | None:
    """The direction of a metric; None for one from the hub, which does not tell.

    Raises:
        LoraBenchError: If there is no such metric, with the nearest name.
    """
    entry = _entry(name)
    return entry.higher_is_better if entry is not None else None


def unavailable(name: str) -> str | None:
    """Why a metric cannot be computed on this machine, with what to do; None if it can, or if only trying would tell.

    Raises:
        LoraBenchError: If there is no such metric, with the nearest name.
    """
    entry = _entry(name)
    if entry is None or entry.library is None:
        return None
    if importlib.util.find_spec(entry.library) is None:
        return f"metric {name!r} needs the package {entry.library!r}, which is not installed; install lora_bench[nlg]"
    if entry.java:
        from lora_bench.metrics.java import missing_java

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
    it is `compute` that raises the reason.

    Raises:
        LoraBenchError: If there is none, with the nearest name; if one from the hub cannot be loaded.
    """
    entry = _entry(name)
    if entry is None:
        from lora_bench.metrics.hub import HubMetric

        return HubMetric(name)
    module = importlib.import_module(f"{__name__}.{name}")
    # In memory: evaluate otherwise writes every prediction to a file in the user's cache, and locks it.
    return getattr(module, entry.class_name)(keep_in_memory=True)


def _entry(name: str) -> _Metric | None:
    """What is known of a metric; None for one from the hub."""
    if name.startswith(HUB) and len(name) > len(HUB):
        return None
    if name not in _METRICS:
        raise unknown("metric", name, [*_METRICS, f"{HUB}NAME"])
    return _METRICS[name]
