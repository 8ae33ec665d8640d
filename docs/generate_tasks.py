"""Write docs/tasks.md from the shipped tasks and the metrics, or check that it is up to date.

    python docs/generate_tasks.py            writes docs/tasks.md
    python docs/generate_tasks.py --check    exits with 1 where it would change

A task's card is its YAML, a metric's is its module's docstring, and the keys of a task are the fields of its class, so none
of them can go stale. The counts of rows are written here: a test holds them against the real files.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import Any

from lora_bench.metrics import known_metrics
from lora_bench.tasks import Task, load_task
from lora_bench.tasks.declaration import Shares, Subsets
from lora_bench.tasks.sources import Data, HubSplits, Label, Local, Part
from lora_bench.util.paths import task_files
from lora_bench.util.pip_assets import find_asset

PAGE = Path(__file__).parent / "tasks.md"

# Rows that are read of each split. For generation, texts, and in brackets the distinct inputs where the files were at hand.
COUNTS: dict[str, dict[str, str]] = {
    "cola": {"train": "8,551", "test": "1,043"},
    "sst2": {"train": "67,349", "test": "872"},
    "mrpc": {"train": "3,668", "test": "408"},
    "stsb": {"train": "5,749", "test": "1,500"},
    "qqp": {"train": "363,846", "test": "40,430"},
    "mnli": {"train": "392,702", "test": "9,815", "mismatched": "9,832", "diagnostic": "1,104"},
    "qnli": {"train": "104,743", "test": "5,463"},
    "rte": {"train": "2,490", "test": "277"},
    "wnli": {"train": "635", "test": "71"},
    "e2e": {"train": "42,061", "selection": "4,672 (547)", "test": "4,693 (630)"},
    "webnlg": {
        "train": "18,025",
        "selection": "2,258 (870)",
        "test": "4,928 (1,862)",
        "seen": "2,495 (971)",
        "unseen": "2,433 (891)",
    },
    "dart": {"train": "62,659", "selection": "6,980 (2,721)", "test": "12,551 (4,159)"},
    "samsum": {"train": "14,732", "selection": "818", "test": "819"},
    "wikisql": {"train": "56,355", "test": "8,421"},
    "movie_reviews": {"all": "10,568"},
    "editorials": {"all": "5,190"},
    "product_reviews": {"all": "3,708"},
    "tweets": {"all": "4,200"},
}

# The libraries under metrics whose package has another name than their module.
PACKAGES = {"sklearn": "scikit-learn", "rouge_score": "rouge-score"}

HEADER = """# Tasks and metrics

A page made by `docs/generate_tasks.py` from `tasks/*.yaml` and the modules in `lora_bench/metrics/`.

A suite names tasks: `tasks: [cola, mrpc]`. Their rows come from the Hugging Face hub at a pinned commit, or from files that you
have: `lora-bench run SUITE --data-dir glue_data` finds the folder of each task by its names, and `data: {cola: my/CoLA}` in the
suite says which one. Files may be gzipped. `webnlg` and `wikisql` name `refs/convert/parquet`, the hub's own conversion, which
may move: the record says which commit it was, and another commit is another run. Rated texts (`movie_reviews`, `editorials`,
`product_reviews`, `tweets`) come from the package index, with a pinned hash.

Where a set has no selection split, a share of the training rows is set aside for it by a hash of their text; the protocol
`paper` sets nothing aside. GLUE keeps the labels of its test files secret: its dev split is what is scored, as in the
published tables. `lora_bench.tasks.load_unlabelled` reads the inputs of the secret files, GLUE's diagnostic set among them.

"""

OWN = """## A task of your own

A file `tasks/NAME.yaml` in the working folder, or the same lines inside a suite's `tasks:`. `lora-bench schema task` is its
JSON Schema. A faulty file or data set is refused before any work, with every fault and its line.

One CSV file, one text a row. The rows are dealt out by a hash of their text, so equal texts never stand in two splits.

```yaml
task: tickets
data: tickets.csv
text: subject
label: queue
```

Pairs of texts in JSON Lines, in three files. F1 is that of the second class, so the classes are named in order.

```yaml
task: duplicates
data: {train: train.jsonl, selection: dev.jsonl, test: test.jsonl}
text: [question, other_question]
label: same
labels: [different, same]
metric: f1
metrics: [accuracy, matthews_correlation]
```

Numbers in a Parquet file, with all rows of an author in one split.

```yaml
task: stars
kind: regression
data: stars.parquet
text: review
label: stars
split: {train: 0.7, selection: 0.1, test: 0.2, by: author}
metric: spearman
```

Texts to write, one or several for an input: the label's column holds a text or a list of texts, and inputs that stand in
several rows are one input with all their texts where they are scored. In training each text is an example.

```yaml
task: facts
kind: generation
data: {train: train.jsonl, test: test.jsonl}
text: facts
label: sentences
metric: bleu
metrics: [chrf, "hub:./coverage"]
```

A data set on the hub. A record names the commit that a branch stood for; a task that others are to repeat gives the commit.

```yaml
task: emotion
data:
  hub: dair-ai/emotion
  name: split
  revision: main
  splits: {train: train, selection: validation, test: test}
text: text
label: label
metric: accuracy
```

`metric: hub:./FOLDER` is a script of yours in the way of `evaluate`, and `hub:NAME@COMMIT` one of the hub at a commit of 40
digits: both run on your machine. Of several numbers that it returns, `hub:NAME@COMMIT:NUMBER` is the one that is compared;
give `higher_is_better: false` where less is better, since a script does not say.

"""


def main() -> int:
    """Write or check the page."""
    made = page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(made, encoding="utf-8")
        return 0
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == made:
        return 0
    print(f"{PAGE.name} differs from what the code says; run python docs/generate_tasks.py")
    return 1


def page() -> str:
    """The whole page."""
    tasks = [load_task(name) for name in COUNTS]
    assert sorted(COUNTS) == sorted(task_files()), "every shipped task has its counts here"
    return "".join(
        [
            HEADER,
            "## The tasks\n\n",
            *overview(tasks),
            *map(card, tasks),
            OWN,
            "### Every key of a task\n\n",
            *map(keys, (Task, Data, HubSplits, Label, Shares, Subsets, Local, Part)),
            metrics_part(),
        ]
    )


def overview(tasks: list[Task]) -> list[str]:
    """A row a task."""
    rows = [
        "| task | kind | input | metric | beside it | to learn from | scored |\n",
        f"|{' --- |' * 7}\n",
    ]
    for task in tasks:
        counts = dict(COUNTS[task.task])
        learned = counts.pop("train", None) or counts["all"]
        scored = counts.get("test", "a tenth of them")
        texts = "pair" if len(task.text) == 2 and task.kind != "generation" else "text"
        beside = ", ".join(f"`{name}`" for name in task.metrics) or "–"
        rows.append(
            f"| [`{task.task}`](#{task.task}) | {task.kind} | {texts} | `{task.metric}` | {beside} | {learned} | {scored} |\n"
        )
    return [*rows, "\n"]


def card(task: Task) -> str:
    """Markdown for one task: what it is, and a table of where it comes from."""
    what = {"all": "in one file", "train": "to learn from", "selection": "to choose by", "test": "scored"}
    counts = "; ".join(f"{number} {what.get(name, name)}" for name, number in COUNTS[task.task].items())
    name = f", `{task.data.name}`," if task.data.name else ""
    asset = find_asset(task.data.asset).requirement if task.data.asset else ""
    unlabelled = task.local.unlabelled if task.local is not None else {}
    rows = {
        "texts (distinct inputs)" if task.kind == "generation" else "rows": counts,
        "set aside": set_aside(task),
        "classes": ", ".join(task.labels or ()),
        "hub": f"`{task.data.hub}`{name} at `{task.data.revision}`" if task.data.hub else "",
        "package index": f"`{asset}`" if asset else "",
        "folder": layout(task.local) if task.local is not None else "",
        "without labels": ", ".join(f"{split}: `{file_of(part)}`" for split, part in unlabelled.items()),
        "licence": task.licence,
        "credit": task.citation,
    }
    table = "".join(f"| {name} | {_inert(text)} |\n" for name, text in rows.items() if text)
    return f"### {task.task}\n\n{task.about}\n\n| | |\n| --- | --- |\n{table}\n"


def set_aside(task: Task) -> str:
    """How the splits that the data lacks are made."""
    shares = task.shares
    if shares is None:
        return ""
    by = "the text" if shares.by is None else f"`{shares.by}`" + (f" before `{shares.before}`" if shares.before else "")
    if task.data.has_splits:
        return f"{shares.selection:.0%} of the training rows for selection, by a hash of {by}"
    return f"{shares.train:.0%} to learn from, {shares.selection:.0%} to choose by, {shares.test:.0%} scored, by a hash of {by}"


def layout(local: Local) -> str:
    """The names of a task's folder and files."""
    files = [local.train, *([local.selection] if local.selection else []), local.test]
    named = [" or ".join(f"`{name}`" for name in names) for names in files]
    for part in local.also.values():
        optional = not isinstance(part, str) and part.optional
        named.append(f"`{file_of(part)}`{' (optional)' if optional else ''}")
    return f"{' or '.join(f'`{name}`' for name in local.folders)}, with {', '.join(named)}"


def file_of(part: str | Part) -> str:
    """The file of a further split."""
    return part if isinstance(part, str) else part.file


def keys(part: Any) -> str:
    """A table of the keys of a part of a task, from its class."""
    about = _arguments(part.__doc__ or "")
    title = "" if part is Task else f"`{WHERE[part.__name__]}`: {(part.__doc__ or '').partition(chr(10))[0]}\n\n"
    rows = "".join(f"| `{name}` | {_inert(about[name])} |\n" for name in part.model_fields)
    return f"{title}| key | |\n| --- | --- |\n{rows}\n"


WHERE = {
    "Data": "data",
    "HubSplits": "data.splits",
    "Label": "label",
    "Shares": "split",
    "Subsets": "subsets",
    "Local": "local",
    "Part": "also.NAME",
}


def metrics_part() -> str:
    """A table of all metrics, and what each one is."""
    rows = ["| metric | for | better is | what it is | from |\n", "| --- | --- | --- | --- | --- |\n"]
    cards = []
    for name, kind in known_metrics().items():
        module = importlib.import_module(f"lora_bench.metrics.{name}")
        title, _, text = inspect.cleandoc(module.__doc__ or "").partition("\n")
        better = "higher" if module.METRIC.higher_is_better else "lower"
        what = inspect.getdoc(module.METRIC.value)
        rows.append(f"| [`{name}`](#{name}) | {kind} | {better} | {what} | {sources(name)} |\n")
        cards.append(f"### {name}\n\n{title}\n{text}".rstrip() + "\n\n")
    return f"{METRICS_HEADER}{''.join(rows)}\n{''.join(cards)}".rstrip() + "\n"


METRICS_HEADER = """## The metrics

All are fractions, not percent, and `evaluate.Metric` modules that need no network:
`lora_bench.metrics.metric("bleu").compute(predictions=["a b"], references=[["a b", "b a"]])`. Those of texts need the extra
`lora_bench[nlg]`, and some of them Java 8 or newer; a run leaves out what its machine cannot compute, and says so in its
record. A value that is undefined is left out too, and never a number that stands for nothing.

"""


def sources(name: str) -> str:
    """The libraries that a metric rests on, itself or through the metrics it is made of."""
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


def _arguments(docstring: str) -> dict[str, str]:
    """The descriptions under `Args:` of a Google docstring, by argument."""
    _, _, after = inspect.cleandoc(docstring).partition("Args:\n")
    found: dict[str, str] = {}
    name = ""
    for line in after.splitlines():
        if not line.startswith("    "):
            break
        if line.startswith("     ") and name:
            found[name] += f" {line.strip()}"
        else:
            name, _, text = line.strip().partition(": ")
            found[name] = text
    return found


def _inert(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
