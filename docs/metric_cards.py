"""The part of docs/tasks.md about metrics: a card for each, made of its module's docstring."""

from __future__ import annotations

import importlib
import inspect
import re

from lora_bench.metrics import higher_is_better, known_metrics

# The libraries under metrics whose package has another name than their module.
PACKAGES = {"sklearn": "scikit-learn", "rouge_score": "rouge-score"}

METRICS_HEADER = """## The metrics

Higher is better, except for {lower}. Metrics are `evaluate.Metric` modules without network:
`lora_bench.metrics.metric("bleu").compute(predictions=["a b"], references=[["a b", "b a"]])`. Those of texts need the extra
`lora_bench[nlg]`, some also Java 8 or newer. A run leaves out undefined values, and metrics that its machine cannot compute;
its record names these. In italics: the library.

"""


def metrics_part() -> str:
    """Return the list of metrics and a card for each."""
    kinds: dict[str, list[str]] = {}
    found = []
    for name, kind in known_metrics().items():
        kinds.setdefault(kind, []).append(f"[`{name}`](#{name})")
        module = importlib.import_module(f"lora_bench.metrics.{name}")
        found.append(f"### {name}\n\n{inspect.cleandoc(module.__doc__ or '')} *{sources(name)}*\n\n")
    lower = ", ".join(f"`{name}`" for name in known_metrics() if not higher_is_better(name))
    lists = "".join(f"- {kind}: {', '.join(names)}\n" for kind, names in kinds.items())
    return f"{METRICS_HEADER.format(lower=lower)}{lists}\n{''.join(found)}".rstrip() + "\n"


def sources(name: str) -> str:
    """Return the libraries that a metric uses, itself or through the metrics it is made of."""
    module = importlib.import_module(f"lora_bench.metrics.{name}")
    source = inspect.getsource(module)
    found = [*re.findall(r"from (sklearn|scipy)\b", source), module.METRIC.library]
    libraries = [PACKAGES.get(library, library) for library in found if library is not None]
    for other in re.findall(r"from lora_bench\.metrics\.(\w+) import", source):
        libraries += sources(other).split(", ") if other in known_metrics() else []
    libraries += ["Java"] if module.METRIC.java else []
    if "sacrebleu.tokenizers" in source or not libraries:
        libraries = ["written here", *(f"words by {library}" for library in libraries)]
    return ", ".join(dict.fromkeys(libraries))
