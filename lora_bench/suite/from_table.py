"""A suite file for a table: methods with tuned learning rates, written with comments and made to be edited."""

import hashlib
import math
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lora_bench.documents import read_yaml
from lora_bench.errors import LoraBenchError
from lora_bench.kinds import find_kind
from lora_bench.methods import rates_to_try
from lora_bench.records.analysis import REFERENCES
from lora_bench.tasks.look import TableFacts
from lora_bench.tasks.source_tables import format_of
from lora_bench.util.paths import PACKAGE
from lora_bench.util.regular_files import read_regular

TRIAL_SEEDS = (100, 101, 102)
BATCH = 16
LONGEST = 256
# Scores are first judged after so many seeds, so that a method that is worse everywhere gets no more of them.
FIRST_LOOK = 4
# Folds that a table is dealt into; fewer seeds have one test split.
FOLDS = 5

# Editors read YAML 1.2, where 1_000 is a text, so numbers are plain.
_TEMPLATE = PACKAGE / "suite" / "table_suite.template"

_BFLOAT16 = "  precision: bfloat16  # float32 took {gain:.1f} times as long where this was written\n"

# Of three rates the better half gets all seeds of trials; of two the first seed alone chooses.
_TUNING = {
    3: f"""\
tuning:
  seeds: {list(TRIAL_SEEDS)}
  search: halve_seeds  # every rate with the first seed, the better half with all; their mean chooses
  extend: true  # a best rate at the edge of its list: one more is tried beyond it
""",
    2: f"tuning: {{seeds: [{TRIAL_SEEDS[0]}], extend: false}}\n",
    1: "",
}
MOST_RATES = max(_TUNING)
# Before the hash of a suite that was written.
_MARK = "# Without an edit the lines above have the hash "
_TRIED = "# Learning rates are tried on the selection split; each method's best one runs on the test split."
_GIVEN = "# One learning rate each, the likeliest of our searches; a list and `tuning` try several."

# More rows of a split show no more that matters, and take time to score.
ENOUGH_SELECTION, ENOUGH_TESTS = 1_000, 4_000


@dataclass(frozen=True)
class Draft:
    """The facts in the suite file of a table.

    Args:
        rates: Number of learning rates that each tries, 1 to `MOST_RATES`.
        seeds: Number of seeds, at most.
        train_examples: Examples that each run sees, at most.
        plateau: True if a run ends when its score stops rising.
        large: True for a base model of more weights than `plan.fit_minutes.SMALL_MODEL`, which needs smaller learning rates.
        final_seconds: Time that a run on all rows is likely to take.
        measured_seconds: Time that it took to measure this machine.
        slowdowns: How many times its estimate a run of each method takes, if that was measured.
        bfloat16_gain: How many times as fast this machine trains in bfloat16; None to train in float32.
        folds: Number of folds, of which each seed tests one; None for one test split.
    """

    seen: TableFacts
    model: str
    methods: tuple[str, ...]
    rates: int
    seeds: int
    train_examples: int
    plateau: bool
    large: bool
    minutes: float
    final_seconds: float = 0.0
    measured_seconds: float = 0.0
    slowdowns: Mapping[str, float] = field(default_factory=dict)
    bfloat16_gain: float | None = None
    folds: int | None = None

    @property
    def said(self) -> str:
        """What is compared, in words."""
        seeds = f"{'up to ' if self.seeds > FIRST_LOOK else ''}{self.seeds} seed{'s' if self.seeds > 1 else ''}"
        if self.folds is not None:
            some = _until_decided(self.seeds, self.folds)
            seeds = (
                f"{'up to ' if some else ''}{self.folds} folds, which test every row {'at most ' if some else ''}once"
            )
        rates = f"{self.rates} learning rates" if self.rates > 1 else "one learning rate"
        until = "until a plateau, at most " if self.plateau else ""
        left_out = [label for label in rates_of(large=self.large) if label not in self.methods]
        without = f" (no time for {', '.join(left_out)})" if left_out else ""
        faster = f"; in bfloat16, {self.bfloat16_gain:.1f} times as fast here" if self.bfloat16_gain is not None else ""
        work = f"{rates}, {seeds}, {until}{self.train_examples:,} examples a run"
        return f"{', '.join(self.methods)}{without}; {work}{faster}"

    @property
    def name(self) -> str:
        """Name of the suite and of its task: that of the table."""
        return name_of(self.seen.file.name)

    def text(self, folder: Path) -> str:
        """Return the suite as YAML with comments, for a file in *folder*."""
        known = rates_of(large=self.large)
        share = shares_of(self.seen.rows)[2] if self.folds is None else 1.0
        tests = self.seen.test_rows or max(1, round(self.seen.rows * share))
        return _TEMPLATE.read_text(encoding="utf-8").format(
            schema=_schema(folder),
            name=self.name,
            tests=tests,
            about="Up to" if self.folds is not None and _until_decided(self.seeds, self.folds) else "About",
            smallest=smallest_difference(tests),
            task="\n".join(_task_lines(self.name, self.seen, folder, self.folds)),
            model=as_yaml(self.model),
            methods="\n".join(_method_line(label, known[label][: self.rates]) for label in self.methods),
            tuning=_TUNING[self.rates],
            of_rates=_TRIED if self.rates > 1 else _GIVEN,
            seeds=_seeds_line(self.seeds, self.folds),
            minutes=self.minutes,
            work=_work_line(self.train_examples, plateau=self.plateau),
            batch=BATCH,
            max_length=tokens_of(self.seen),
            precision="" if self.bfloat16_gain is None else _BFLOAT16.format(gain=self.bfloat16_gain),
            reference=next(name for name in (*REFERENCES, *self.methods) if name in self.methods),
        )


def rates_of(*, large: bool) -> dict[str, tuple[str, ...]]:
    """Return the rates that each method chooses from, likely ones and usual references first; see `Draft` for *large*."""
    rates = rates_to_try()
    first = [name for name in (*REFERENCES, "lora_all") if name in rates]
    return {name: rates[name][large] for name in dict.fromkeys([*first, *rates])}


def shares_of(rows: int) -> tuple[float, float, float]:
    """Return the shares of train, selection and test of a table: the model handed over is trained on its test rows too."""
    selection, test = min(0.1, ENOUGH_SELECTION / rows), min(0.25, ENOUGH_TESTS / rows)
    selection, test = float(f"{selection:.2g}"), float(f"{test:.2g}")
    return round(1 - selection - test, 6), selection, test


def may_fold(seen: TableFacts, folds: int) -> bool:
    """Tell if each seed can test a fold of a table: it names no test rows, and a fold has no more than are worth scoring."""
    return not seen.files and not {"column", "in_order"} & seen.split.keys() and seen.rows / folds <= ENOUGH_TESTS


def _split(seen: TableFacts, folds: int | None) -> dict[str, str | float]:
    """Return the key `split`: the shares of splits that have no file of their own, and the columns that deal rows out."""
    train, selection, test = shares_of(seen.rows)
    shares = (
        {"train": train, "selection": selection, "test": test}
        if folds is None
        else {"folds": folds, "selection": selection}
    )
    own_files = {*seen.files, *(["train"] if seen.files else [])}
    split = {part: share for part, share in shares.items() if part not in own_files} | dict(seen.split)
    return split | ({"stratify": True} if split and "in_order" not in seen.split else {})


def _method_line(label: str, rates: tuple[str, ...]) -> str:
    shown = ", ".join(sorted(rates, key=float))
    return f"  - {{method: {label}, learning_rate: {f'[{shown}]' if len(rates) > 1 else shown}}}"


def _work_line(examples: int, *, plateau: bool) -> str:
    if plateau:
        return f"train_examples: {{until: plateau, at_most: {examples}}}  # until the score on selection stops rising"
    return f"train_examples: {examples}  # that each run sees, counted again when they come round"


def _schema(folder: Path) -> str:
    """Return where editors find the schema of suites: relative to *folder* if the environment lies in it, else an address."""
    file, here = PACKAGE / "schemas" / "suite.schema.json", folder.absolute()
    return file.relative_to(here).as_posix() if file.is_relative_to(here) else file.as_uri()


def _until_decided(most: int, folds: int | None) -> bool:
    return most > FIRST_LOOK and not most == folds == FOLDS


def _seeds_line(most: int, folds: int | None) -> str:
    """Return the key of the seeds: a list, or added until decided where there are more than at the first look."""
    if not _until_decided(most, folds):
        return f"seeds: {list(range(most))}"
    return f"seeds: {{until: decided, at_least: {FIRST_LOOK}, at_most: {most}}}  # or a list, such as [0, 1, 2]"


def name_of(file: str) -> str:
    """Return the name of the task that a file becomes."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(file).name.split(".")[0]).strip("-._")[:60] or "table"
    return name if as_yaml(name) == name else f"table-{name}"  # YAML reads 2026 and null as no text


class OtherOptions(LoraBenchError):
    """The suite of a table is there already, for other options."""


def marked(suite: str) -> str:
    """Return the text of a suite with a last line by which `is_unedited` knows it."""
    return f"{suite}{_MARK}{_mark(suite)}\n"


def is_unedited(file: Path) -> bool:
    """Return True for a file with the text that `marked` returned."""
    suite, _, mark = read_regular(file).decode("utf-8").rpartition(_MARK)
    return mark == f"{_mark(suite)}\n"


def _mark(suite: str) -> str:
    return hashlib.sha256(suite.encode("utf-8")).hexdigest()[:16]


def refuse_another(file: Path, table: Path, given: Mapping[str, str | None]) -> None:
    """Refuse to take a suite that is there for another table, or for other options than those *given* by name.

    Raise OtherOptions for the latter, LoraBenchError for another table.
    """
    document = read_yaml(file)
    tasks = document.data.get("tasks")
    own = [task for task in (tasks if isinstance(tasks, list) else []) if isinstance(task, dict)]
    data = [task["data"] if isinstance(task.get("data"), dict) else {"train": task.get("data")} for task in own]
    named = [str(files["train"]) for files in data if files.get("train") is not None]
    places = [file.parent / str(files.get("train")) for files in data]
    same = [place for place, path in enumerate(places) if path.resolve() == table.resolve()]
    if not same:
        raise LoraBenchError(
            f"{file} is there already and compares methods on {' and '.join(named) or 'no table'}, not on {table}: run it with "
            f"`lora-bench run {shlex.quote(str(file))}`, or delete or rename it to begin with {table}"
        )
    task, files = own[same[0]], data[same[0]]
    text, label = task.get("text"), task.get("label")
    if several := isinstance(label, list):  # columns of 0 and 1, which the command line names with commas
        label = ",".join(map(str, label))
    texts = [*(text if isinstance(text, list) else [text]), None]
    split = task["split"] if isinstance(task.get("split"), dict) else {}
    kind = str(task.get("kind", "classification"))
    made = re.search(r"^# Made for about (\S+) minutes", read_regular(file).decode("utf-8"), re.MULTILINE)
    has = {
        "--text": [texts[0]],
        "--text-pair": [column for column in texts[1:2] if column is not None],
        "--label": [label.get("column") if isinstance(label, dict) else label],
        "--kind": [kind],
        "--metric": [task.get("metric", find_kind(kind).usual_metric)],
        "--split": [split.get("column")],
        "--group": [split.get("by")],
        "--time": [split.get("in_order")],
        "--valid": [files.get("selection", files.get("validation"))],
        "--test": [files.get("test")],
        "--by": [*task["rows"]] if isinstance(task.get("rows"), dict) else [],
        "--model": document.data.get("models"),
        "--minutes": [made[1]] if made is not None else [],
    }
    for option, value in given.items():
        if option == "--label" and value is not None and several:
            value = ",".join(part.strip() for part in value.split(","))
        if value is not None and has[option] != [value]:
            shown = ", ".join(str(one) for one in has[option] or [] if one is not None) or "none"
            raise OtherOptions(
                f"{file} is there already with {shown} for {option}, and the command gives {value}: change it there, or delete "
                "the file to begin anew"
            )


def task_flow(seen: TableFacts, folder: Path) -> str:
    """Return the task of a table as YAML on one line, for a suite in *folder*."""
    keys = task_keys(name_of(seen.file.name), seen, folder, None)
    # Shares alone are `try`'s; a column that deals rows out is the user's.
    return _flow({key: value for key, value in keys.items() if key != "split" or seen.split})


def smallest_difference(tests: int) -> float:
    """Return the smallest difference that a test split shows, if two models differ on a tenth of its rows."""
    return float(1.96 * (0.1 / tests) ** 0.5)


def rows_needed(difference: float) -> int:
    """Return the rows of a test split that shows a difference, if two models differ on a tenth of them."""
    return math.ceil(0.1 * (1.96 / difference) ** 2)


def as_yaml(text: str) -> str:
    """Return a text as YAML that may stand in a list on one line."""
    plain = re.fullmatch(r"[A-Za-z_./][\w./-]*", text) is not None and yaml.safe_load(text) == text
    return text if plain else str(yaml.safe_dump(text, default_style='"', allow_unicode=True, width=10**6)).strip()


def _flow(value: Any) -> str:
    """Return a text, a number, or a list or mapping of such as YAML on one line."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_flow(inner)}' for key, inner in value.items())}}}"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_flow, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return as_yaml(value) if isinstance(value, str) else f"{value:g}"


def task_keys(name: str, seen: TableFacts, folder: Path, folds: int | None) -> dict[str, Any]:
    """Return the keys of a table's task that differ from their defaults."""
    layout, files = seen.layout, {"train": seen.file, **seen.files}
    data = {split: os.path.relpath(path, folder) for split, path in files.items()}
    of_label = {"column": seen.label, "separator": seen.separator, "start": seen.start}
    label = {key: column for key, column in of_label.items() if column is not None}
    kind = find_kind(seen.kind)
    metric = seen.metric or kind.usual_metric
    given = {
        "task": name,
        "data": data if seen.files else data["train"],
        "format": layout.format if layout.format != format_of(seen.file.name) else None,
        "quoting": None if layout.quoting else False,
        "delimiter": layout.delimiter,
        "encoding": layout.encoding,
        "uneven_rows": "leave_out" if seen.uneven else None,
        "unlabelled_rows": "leave_out" if seen.unlabelled else None,
        "kind": seen.kind if seen.kind != "classification" else None,
        "empty_texts": "keep" if seen.empty else None,
        "text": seen.text[0] if len(seen.text) == 1 else seen.text,
        "label": seen.columns or (label if len(label) > 1 else seen.label if (seen.label,) != seen.text else None),
        "labels": seen.labels or None,
        "id": seen.id,
        "unanswerable": seen.unanswerable or None,
        "metric": metric,
        "metrics": tuple(name for name in kind.guessed_metrics if name != metric) or None,
        "split": _split(seen, folds) or None,
    }
    return {key: value for key, value in given.items() if value is not None}


def _task_lines(name: str, seen: TableFacts, folder: Path, folds: int | None) -> list[str]:
    comments = {
        "quoting": "quotation marks belong to the text",
        "uneven_rows": "rows with too few or too many values",
        "unlabelled_rows": "rows without a label",
        "empty_texts": "rows with an empty text",
        "split": "shares of the rows, and of each class"
        if folds is None
        else "seed k tests fold k; even in each class",
    }
    lines = [
        f"{key}: {_flow(value)}" + (f"  # {comments[key]}" if key in comments else "")
        for key, value in task_keys(name, seen, folder, folds).items()
    ]
    return [f"  - {lines[0]}", *(f"    {line}" for line in lines[1:])]


def tokens_of(seen: TableFacts) -> int:
    """Return the tokens that 95 % of the texts have, rounded up to a multiple of 32."""
    tokens = int(1.4 * seen.words[1]) + 2 + len(seen.text)
    return min(LONGEST, max(32, -(-tokens // 32) * 32))
