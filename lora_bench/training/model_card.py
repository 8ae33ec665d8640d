"""The model card of kept weights, with the metadata that the Hugging Face hub reads, and the Python lines that load them."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lora_bench.kinds import find_kind
from lora_bench.kinds.support.task_kind import ModelNames, TaskKind
from lora_bench.metrics.support.item_weights import item_metric, metrics_of_items
from lora_bench.models.library_errors import in_a_sentence
from lora_bench.models.loading import reads_apart
from lora_bench.models.registry import LOCAL, known_models
from lora_bench.models.shapes import PREFIX
from lora_bench.records.budget import amount_of
from lora_bench.records.spec import ModelSpec, PlannedSpec, RunSpec
from lora_bench.records.store import Answers
from lora_bench.report.model.given_answers import NeverFound, given_in, never_found
from lora_bench.stats import ItemMetric, ItemScores, in_groups
from lora_bench.stats.items import interval_of_mean
from lora_bench.util.atomic_files import let_all_read
from lora_bench.util.item_groups import groups_of_text
from lora_bench.util.redaction import visible
from lora_bench.util.regular_files import read_regular
from lora_bench.version import __version__

PLACE = "THIS FOLDER"


@dataclass(frozen=True)
class ItemFacts:
    """95 % intervals of a run's scores by metric, where that is of single items, and the classes it never answers rightly."""

    intervals: Mapping[str, tuple[float, float]]
    never_found: NeverFound | None


def model_card(
    spec: PlannedSpec,
    step: int,
    tuner: str | None,
    scores: Mapping[str, float] | None = None,
    examples: int = 0,
    items: ItemFacts | None = None,
    threshold: float | None = None,
    base: str | None = None,
    note: str | None = None,
) -> str:
    """Return the card as Markdown with metadata.

    *tuner* is the module to import before the weights load: "" for PEFT alone, None for a whole model. *items* are the facts
    of so many scored examples. *threshold* and *base* are as for `loading_lines`. *note* is a
    sentence on the weights.
    """
    items = items or ItemFacts({}, None)
    options = _code(json.dumps(spec.method.options, sort_keys=True))
    answer = kind_of_run(spec).answer_words
    answers = f"Answer: {answer}" if answer else f"Labels in order: {_words(', '.join(spec.task.labels))}"
    beside = _is_folder(spec.model) and tuner is not None and base is None
    revision = f" at revision `{spec.model.revision}`" if spec.model.revision else ""
    never = "" if items.never_found is None else items.never_found.words(shown=_words)
    metadata = yaml.safe_dump(
        _metadata(spec, tuner, scores or {}, examples, items.intervals), sort_keys=False, allow_unicode=True, width=1000
    )
    return "\n".join(
        [
            "---",
            metadata.rstrip("\n"),
            "---",
            "",
            f"# {_words(spec.method.label)} on {_words(spec.model.shown)} for {_words(spec.task.name)}",
            "",
            *_first_lines(spec, tuner, base),
            *([_words(note), ""] if note is not None else []),
            *([f"**{never[0].upper()}{never[1:]}.**", ""] if never else []),
            f"Trained by lora_bench {__version__} (run `{spec.run_id}`): method `{spec.method.name}` with `{options}`, "
            f"learning rate {spec.training.learning_rate:g}, {amount_of(*spec.training.target)}, "
            f"seed {spec.seed}, weights after step {step}. {answers}.",
            "",
            f"Base model: `{_code(public_name(spec.model))}`{revision} (content {spec.model.sha256[:16]})."
            + (" Run these lines beside its folder." if beside else ""),
            "",
            "```python",
            *loading_lines(spec, PLACE if base is None else f"{PLACE}/adapter", tuner, threshold, base),
            "```",
            "",
        ]
    )


def _first_lines(spec: PlannedSpec, tuner: str | None, base: str | None) -> list[str]:
    """Return what a reader must know before loading an adapter: the import of its method, and where its base model is."""
    lines = [f"**`import {tuner}` before loading**: PEFT alone does not know this method."] if tuner else []
    if tuner is not None and base is None and spec.model.name in known_models():
        lines.append(
            "Its base model is on no hub: load it as below, or write both into one folder with `lora-bench use RUNS --share`."
        )
    return [*lines, ""] if lines else []


def write_card(folder: Path, card: str) -> None:
    """Write the card of a folder of weights, and give all files the usual permissions, unlike safetensors' own."""
    (folder / "README.md").write_text(card, encoding="utf-8")
    for path in folder.iterdir():
        let_all_read(path)


def item_facts(
    answers: Path, spec: PlannedSpec, scores: Mapping[str, float], groups: str | None = None
) -> ItemFacts | None:
    """Return facts of a run's test items, with intervals from resampled items or *groups*; None without the file *answers*."""
    if not answers.is_file():
        return None
    found: dict[str, tuple[float, float]] = {}
    with in_a_sentence(f"{answers} cannot be read"):
        kept = json.loads(read_regular(answers))
        for metric in {*scores}.intersection(metrics_of_items()):
            if metric in kept.get("item_scores", {}):
                items: ItemScores | ItemMetric = ItemScores((0,), np.array([kept["item_scores"][metric]]))
            else:
                right, given = kept["references"], kept["predictions"]
                items = item_metric(metric, right, {0: given}, classes=len(spec.task.labels) or None)
            if groups is not None:
                items = in_groups(items, groups_of_text(groups, items.items))
            if (interval := interval_of_mean(items)) is not None:
                found[metric] = interval
        given = given_in([Answers(kept["predictions"], kept["references"])], spec.task)
    return ItemFacts(found, never_found(given) if given is not None else None)


def loading_lines(
    spec: RunSpec, folder: str, tuner: str | None, threshold: float | None = None, base: str | None = None
) -> list[str]:
    """Return the Python lines that make `model` and `tokenizer` of kept weights, and that answer a text where two suffice.

    *tuner* is as for `model_card`. Of several labels those above the *threshold* are answered, by `labels_of`. *base* is a
    folder with the base model, its head and its labels; by default it is found by its name.
    """
    auto = f"For{names_of(spec).auto}"
    known = spec.model.name in known_models()
    place, named = repr(folder), kind_of_run(spec).head_arguments(spec.task.labels or ())
    lines = []
    if tuner is None:
        lines += [f"from transformers import AutoModel{auto}, AutoTokenizer", ""]
        lines += [f"model = AutoModel{auto}.from_pretrained({place})"]
    elif base is not None or known or names_of(spec).task_type is None:
        known = known and base is None
        place_of_base = (
            f"known_models()[{spec.model.name!r}].folder(None)" if known else repr(base or public_name(spec.model))
        )
        lines += ["from lora_bench.models.registry import known_models"] if known else []
        lines += [f"import {tuner}  # registers the method with PEFT"] if tuner else []
        lines += ["from peft import PeftModel", f"from transformers import AutoModel{auto}, AutoTokenizer", ""]
        lines += [] if base else _labels(spec)
        lines += [f"base = {place_of_base}", f"base = AutoModel{auto}.from_pretrained(base{'' if base else named})"]
        lines += [f"model = PeftModel.from_pretrained(base, {place})"]
    else:
        lines += [f"import {tuner}  # registers the method with PEFT"] if tuner else []
        lines += [f"from peft import AutoPeftModel{auto}", "from transformers import AutoTokenizer", "", *_labels(spec)]
        lines += [f"model = AutoPeftModel{auto}.from_pretrained({place}{named})"]
    lines += [f"tokenizer = AutoTokenizer.from_pretrained({place})"]
    if tuner is not None and kind_of_run(spec).has_head:
        # A causal classifier reads the last token that is not padding.
        lines += ["model.config.pad_token_id = tokenizer.pad_token_id"]
    if threshold is not None:
        lines += _LABELS_OF.format(threshold=threshold).splitlines()
    answer = kind_of_run(spec).python_answer
    if answer is not None:
        texts = ", ".join(['"a new text"', '"its second text"'][: len(_texts(spec))])
        longest = spec.training.max_length
        cut = "truncation=True" + (f", max_length={longest}" if longest is not None else "")
        lines += ["", f'inputs = tokenizer({texts}, {cut}, return_tensors="pt")', f"print({answer})"]
    return lines


def _texts(spec: RunSpec) -> Sequence[Any]:
    columns: Any = (spec.task.definition or {}).get("text")
    return columns if isinstance(columns, list | tuple) else [columns]


_LABELS_OF = """

def labels_of(text, threshold={threshold}):
    probabilities = model(**tokenizer(text, truncation=True, return_tensors="pt")).logits.sigmoid()[0].tolist()
    return [model.config.id2label[place] for place, one in enumerate(probabilities) if one > threshold]


print(labels_of("a new text"))
"""


def public_name(model: ModelSpec) -> str:
    """Return the name of a base model without a path of this machine: a folder is `./` and its own name."""
    return f"./{Path(visible(model.name)).name}" if _is_folder(model) else visible(model.name)


def loadable_name(model: ModelSpec) -> str:
    """Return the name of a base model for other programs: that of a known model is one that no hub has."""
    return f"{LOCAL}{model.name}" if model.name in known_models() else public_name(model)


def writes(spec: RunSpec) -> bool:
    """Return True if the model of a run writes texts."""
    return kind_of_run(spec).writes


def kind_of_run(spec: RunSpec) -> TaskKind:
    """Return the kind of task of a run."""
    return find_kind(str((spec.task.definition or {}).get("kind", "classification")))


def names_of(spec: RunSpec) -> ModelNames:
    """Return the names of models of a run's kind of task."""
    return kind_of_run(spec).names_of(apart=reads_apart(spec.model.model_type or ""))


def _is_folder(model: ModelSpec) -> bool:
    return model.revision is None and model.name not in known_models() and not model.name.startswith(PREFIX)


def _labels(spec: RunSpec) -> list[str]:
    """Return the line that lists the labels; repr keeps each exact, and escapes what a reader cannot see."""
    return [f"labels = {list(spec.task.labels)!r}"] if spec.task.labels else []


def _metadata(
    spec: PlannedSpec,
    tuner: str | None,
    scores: Mapping[str, float],
    examples: int,
    intervals: Mapping[str, tuple[float, float]],
) -> dict[str, Any]:
    pipeline = names_of(spec).pipeline
    name = _bare(spec.task.name)
    metrics = [
        {
            "type": _bare(metric),
            "value": value,
            "name": f"{_bare(metric)} on {examples} {spec.score_on} examples, 1 seed{_within(intervals.get(metric))}",
        }
        for metric, value in scores.items()
    ]
    results = [{"task": {"type": pipeline}, "dataset": {"name": name, "type": name}, "metrics": metrics}]
    title = f"{_bare(spec.method.label)} on {_bare(spec.model.shown)}"
    known = spec.model.name in known_models()
    base = {} if known else {"base_model": _bare(public_name(spec.model).removeprefix("./"))}
    return {
        "library_name": "transformers" if tuner is None else "peft",
        **base,
        "pipeline_tag": pipeline,
        "tags": ["lora_bench", _bare(spec.method.name)],
        **({"model-index": [{"name": title, "results": results}]} if metrics else {}),
    }


def _within(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f", 95 % interval over examples {interval[0]:.4f} to {interval[1]:.4f}"


def _words(text: str) -> str:
    """Return a name as words of a page, whatever marks are in it."""
    line = " ".join(visible(text).split())
    return re.sub(r"([\\`*_\[\]<>|#~$&!@])", r"\\\1", line)


def _bare(text: str) -> str:
    """Return a name without marks: a page that does not know metadata shows them as Markdown."""
    return " ".join(re.sub(r"[^\w./ -]|\b_+|_+\b", " ", visible(text)).split())


def _code(text: str) -> str:
    """Return a text that can stand between backticks."""
    return " ".join(visible(text).split()).replace("`", "'")
