"""Write docs/tasks.md from the shipped tasks and the metrics, or check that it is up to date.

    python docs/generate_tasks.py            writes docs/tasks.md
    python docs/generate_tasks.py --check    exits with 1 if it would change

A task's card is its YAML, a metric's is its module's docstring, and the keys of a task are the fields of its class.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

from entries import merged
from metric_cards import metrics_part
from pydantic import BaseModel
from task_counts import COUNTS

from lora_bench.docstrings import arguments
from lora_bench.kinds import known_kinds
from lora_bench.kinds.support.row_values import Label
from lora_bench.tasks import Task, load_task
from lora_bench.tasks.declaration import Shares, Subsets
from lora_bench.tasks.sources import Data, Local, Part, Release
from lora_bench.util.paths import task_files
from lora_bench.util.pip_assets import find_asset

PAGE = Path(__file__).parent / "tasks.md"
UNCOUNTED = {"train": "–", "selection": "–", "test": "–"}

HEADER = """# Tasks and metrics

Made by `docs/generate_tasks.py` from `tasks/*.yaml` and `lora_bench/metrics/`.

A suite names tasks: `tasks: [cola, mrpc]`. Rows come from the Hugging Face hub at a pinned commit, the package index with a
pinned hash, or your files, plain or gzipped. `--data-dir glue_data` finds each task's folder by name; `data: {cola: my/CoLA}`
in the suite names one.

- Without a selection split, a share of the training rows is set aside by a hash of their text, except by the protocol
  `paper`.
- GLUE's test labels are secret: its dev split is scored, as in published tables. `lora_bench.tasks.load_unlabelled` reads the
  unlabelled files.
- `refs/convert/parquet` is the hub's own conversion, which may move. A record names the commit; another is another run.
- Loading the generation tasks from the hub is untested.

"""

OWN = """## A task of your own

Write `tasks/NAME.yaml` in the working folder, or the same lines in a suite's `tasks:`. Faults of file and data are reported
with their lines before any work. JSON Schema: `lora-bench schema task`.

One CSV file, split by a hash of the text, so that equal texts stay together:

```yaml
task: tickets
data: tickets.csv
text: subject
label: queue
```

Pairs of texts in three JSON Lines files; F1 is of the second class:

```yaml
task: duplicates
data: {train: train.jsonl, selection: dev.jsonl, test: test.jsonl}
text: [question, other_question]
label: same
labels: [different, same]
metric: f1
metrics: [accuracy, matthews_correlation]
```

Numbers in a Parquet file, with all rows of an author in one split:

```yaml
task: stars
kind: regression
data: stars.parquet
text: review
label: stars
split: {train: 0.7, selection: 0.1, test: 0.2, by: author}  # rows of an author stay together
metric: spearman
```

Several labels a row, as a list in JSON Lines or Parquet; an empty list has none:

```yaml
task: topics
kind: multilabel
data: {train: train.jsonl, selection: dev.jsonl, test: test.jsonl}
text: title
label: topics
labels: [science, art, sport]
metric: multilabel_micro_f1
metrics: [multilabel_macro_f1]
```

In CSV the label is `{column: topics, separator: "|"}`, a list in JSON (`["art", "sport"]`), or columns of 0 and 1: `label:
[science, art, sport]`. A list of 0 and 1 for each row, on the hub for example, needs `labels`. Each label has a binary cross
entropy. One threshold for all labels is chosen on the selection split, as few examples of a rare label would choose its own by
chance: the hundredth with the best value of the metric, or .5 without a selection split. It stands in the record, and
`lora-bench use` prints a function `labels_of` that uses it. A score on the selection split itself is at the threshold that is
best there.

Texts to write, one or a list for each row. Rows with equal inputs are one input in scores; in training each text is an
example. A causal model continues the input, and both fit into `max_length`. T5 and BART read the input by their encoder and
write by their decoder: input and text may have `max_length` tokens each.

```yaml
task: facts
kind: generation
data: {train: train.jsonl, test: test.jsonl}
text: facts
label: sentences
metric: bleu
metrics: [chrf, "hub:./coverage"]
```

Labels of words, such as named entities: lists in JSON Lines or Parquet, JSON lists or words with spaces in CSV, or a `.conll`
file. The first token of a word has its label, and a word that is cut off counts as `O`. Without tags such as B-PER, say
`metric: token_accuracy`.

```yaml
task: entities
kind: tokens
data: {train: train.jsonl, test: test.jsonl}
text: words
label: tags
metric: seqeval_f1
metrics: [token_accuracy]
```

Conversations: a column of messages, each with `role` and `content` (in CSV as JSON), or `text` and `label` as prompt and
completion. They go through the tokenizer's chat template, or one of yours. The loss is over each answer (`assistant`) and
the mark of its end. Scores are of all answers for `loss` and `perplexity`, and of the last one, written anew, for metrics of
texts.

```yaml
task: helpdesk
kind: chat
data: {train: train.jsonl, validation: dev.jsonl, test: test.jsonl}
text: messages
chat_template: chat.jinja
metric: loss
metrics: [perplexity, exact_match]
```

Answers that stand in a text, as in SQuAD (`unanswerable: true` for 2.0; `format: squad` reads its files). A long text is read
in windows of `max_length` tokens that overlap. Epochs, `batch_size` and `distinct_examples` count questions: a batch has all
windows of its questions. An answer is a mapping of `text` and `answer_start`, or a text: the first place where it stands, or
that of `label: {column: answer, start: start}`.

```yaml
task: questions
kind: spans
data: {train: train.csv, test: test.csv}
text: [question, context]
label: answer
metric: squad_f1
metrics: [squad_exact_match]
```

One right ending of several, as in SWAG: `text` names the start and a column for each ending, or one with lists of them. The
label is the place of the right ending, from 0, or one of the names in `labels`. Each row needs as many endings. A batch of
`batch_size` texts has all of their endings, and each may have `max_length` tokens with its start.

```yaml
task: stories
kind: multiple_choice
data: {train: train.jsonl, selection: dev.jsonl, test: test.jsonl}
text: [start, ending0, ending1, ending2, ending3]
label: label
metric: accuracy
```

Pairs of answers to a prompt, for DPO: texts, or messages in a chat template (an answer is one message, or its text). The base
model is a causal one. Pairs of one prompt stay in one split. `beta` is the factor on the log-ratio to the starting model: the
base model, the same for every method (for `qlora` not in 4 bits), or with `start` the weights of the other run. Its
log-likelihoods are computed once, before the first step, and cost no budget. A batch of `batch_size` pairs has two rows of
`max_length` tokens for each.

```yaml
task: helpful
kind: preference
data: {train: train.jsonl, test: test.jsonl}
prompt: question
chosen: better
rejected: worse
beta: 0.1
```

A data set on the hub; name a commit if others should repeat the task:

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

`metric: hub:./FOLDER` is your own `evaluate` script, and `hub:NAME@COMMIT` one on the hub at a commit of 40 digits. Both run
only if you allow it with `--allow-code NAME@HASH` (see `lora-bench plan`). `hub:NAME@COMMIT:NUMBER` picks one of several
numbers.

"""


def main() -> int:
    """Write or check the page."""
    made = page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(made, encoding="utf-8")
        return 0
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == made:
        return 0
    print(f"{PAGE.name} differs from the code; run python docs/generate_tasks.py")
    return 1


def page() -> str:
    """Return the whole page."""
    tasks = [load_task(name) for name in [*COUNTS, *sorted(task_files().keys() - COUNTS.keys())]]
    return "".join(
        [
            HEADER,
            "## The tasks\n\n",
            *overview(tasks),
            *cards(tasks),
            *kinds(),
            OWN,
            "### Every key of a task\n\n",
            keys(Task),
            *(keys(part) for part in WHERE),
            metrics_part(),
        ]
    )


def overview(tasks: list[Task]) -> list[str]:
    """Return a list of the tasks of each kind."""
    found = [OVERVIEW]
    for kind in dict.fromkeys(task.kind for task in tasks):
        found.append(f"{kind.capitalize()}:\n\n")
        for task in tasks:
            metrics = ", ".join(f"`{name}`" for name in task.all_metrics)
            if task.kind == kind:
                found.append(f"- [`{task.task}`](#{task.task}): {'; '.join(counts(task))}; {metrics}\n")
        found.append("\n")
    return found


def kinds() -> list[str]:
    """Return the card of each kind of task: the docstring of its module, and its usual metric."""
    cards = []
    for name, kind in known_kinds().items():
        card = " ".join((sys.modules[type(kind).__module__].__doc__ or "").split())
        cards.append(f"- `{name}`: {card} By default `{kind.usual_metric}`.\n")
    return ["## Kinds of task\n\nThe key `kind` says what a row has and what a model answers.\n\n", *cards, "\n"]


OVERVIEW = """Rows of train, selection and test (a number, or a share of the training rows or the file); metrics, of which the
first compares runs. For generation: texts (distinct inputs). Full references and further folder names: `tasks/NAME.yaml`.

"""


def counts(task: Task) -> tuple[str, str, str]:
    """Return the rows of train, selection and test."""
    rows, shares = COUNTS.get(task.task, UNCOUNTED), task.shares
    if shares is None:
        return rows["train"], rows["selection"], rows["test"]
    if "all" in rows:
        return f"{shares.train:.0%} of {rows['all']}", f"{shares.selection:.0%}", f"{shares.test:.0%}"
    more = f" and {shares.more_test:.0%}" if shares.more_test else ""
    return rows["train"], f"{shares.selection:.0%}", rows["test"] + more


def cards(tasks: list[Task]) -> list[str]:
    """Return Markdown for each task; facts that most tasks of one source share stand once, before the first of them."""
    groups: dict[str | None, list[Task]] = {}
    for task in tasks:
        groups.setdefault(task.data.hub or task.data.asset, []).append(task)
    found = []
    for group in groups.values():
        of_each = [facts(task) for task in group]
        several = Counter(fact for own in of_each for fact in own)
        shared = [fact for fact, times in several.items() if len(group) > 1 and 2 * times > len(group)]
        if shared:
            found.append(f"`{group[0].task}` to `{group[-1].task}`, if a card says no other: {listed(shared)}\n\n")
        for task, facts_of in zip(group, of_each, strict=True):
            own = listed([fact for fact in facts_of if fact not in shared])
            found.append("\n\n".join([f"### {task.task}", task.about, *([own] if own else [])]) + "\n\n")
    return found


def listed(facts: list[tuple[str, str]]) -> str:
    """Return named facts as one line; facts of one name stand together."""
    by_name: dict[str, list[str]] = {}
    for name, text in facts:
        by_name.setdefault(name, []).append(text)
    return " ".join(f"*{name.capitalize()}:* {'; '.join(texts)}." for name, texts in by_name.items())


def facts(task: Task) -> list[tuple[str, str]]:
    """Return where a task comes from and what else its YAML says of its data, as names and texts."""
    data, local, by = task.data, task.local, task.shares.by if task.shares is not None else None
    before = f" before `{task.shares.before}`" if task.shares is not None and task.shares.before else ""
    further = {
        name: rows
        for name, rows in COUNTS.get(task.task, {}).items()
        if name not in ("train", "selection", "test", "all")
    }
    name = f", configuration `{data.name}`," if data.name not in (None, task.task) else ""
    found = [
        ("classes", ", ".join(task.labels or ())),
        ("also scored", ", ".join(f"{name} {rows}" for name, rows in further.items())),
        ("split", f"by a hash of `{by}`{before}" if by is not None else ""),
        ("split", "phrases stay with their sentence" if task.shares is not None and task.shares.phrases else ""),
        ("hub", f"`{data.hub}`{name} at `{data.revision}`" if data.hub else ""),
        ("package", f"`{find_asset(data.asset).requirement}`" if data.asset else ""),
        ("folder", f"`{local.folders[0]}`" if local is not None else ""),
        ("files", files(local) if local is not None else ""),
        (
            "unlabelled",
            ", ".join(f"`{file_of(part)}`" for part in local.unlabelled.values()) if local is not None else "",
        ),
        ("licence", task.licence),
        *(("credit", short(reference)) for reference in re.split(r"(?<=\.) (?=[A-Z][\w-]+, [A-Z]\.)", task.citation)),
    ]
    return [(name, text) for name, text in found if text]


def short(reference: str) -> str:
    """Return a reference's first author and year, with the venue if it names one; whole if it has no year."""
    parts = re.split(r" \((\d{4})\)\. ", reference.removesuffix("."))
    if len(parts) != 3:
        return reference
    authors, year, rest = parts
    first = authors.partition(",")[0] + (" et al." if " and " in authors or "et al." in authors else "")
    title, _, venue = rest.rpartition(". ")
    if not title:
        return f"{first} {year}"
    return f"{first}, {venue}" if venue.endswith(year) else f"{first} {year}, {venue}"


def files(local: Local) -> str:
    """Return the names of a task's files."""
    splits = [local.train, *([local.selection] if local.selection else []), local.test]
    named = [" or ".join(f"`{name}`" for name in names) for names in splits]
    for part in local.also.values():
        optional = not isinstance(part, str) and part.optional
        named.append(f"`{file_of(part)}`{' (optional)' if optional else ''}")
    return ", ".join(named)


def file_of(part: str | Part) -> str:
    """Return the file of a further split."""
    return part if isinstance(part, str) else part.file


# Where the keys of a class stand in a task, and the class whose keys mean the same.
WHERE: dict[type[BaseModel], tuple[str, type[BaseModel] | None]] = {
    Data: ("data", None),
    Label: ("label", None),
    Shares: ("split", None),
    Subsets: ("subsets", None),
    Local: ("local", Task),
    Part: ("also.NAME", Task),
    Release: ("release", None),
}


def keys(part: type[BaseModel]) -> str:
    """Return a list of the keys of a class; those that mean the same in a task are only named."""
    where, same = WHERE.get(part, ("", None))
    about, like = arguments(part.__doc__), arguments(same.__doc__) if same is not None else {}
    title = f"In `{where}`:\n\n" if where else ""
    own = merged(about, (name for name in part.model_fields if name not in like))
    rows = "".join(f"- {names}: {text}\n" for names, text in own)
    others = ", ".join(f"`{name}`" for name in part.model_fields if name in like)
    return f"{title}{rows}{f'- {others}: as for the task.{chr(10)}' if others else ''}\n"


if __name__ == "__main__":
    sys.exit(main())
