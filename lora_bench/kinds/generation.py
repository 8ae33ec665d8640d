"""Generation: a model writes a text for an input."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, ClassVar

from lora_bench.documents import Key
from lora_bench.errors import Fault
from lora_bench.kinds.support.linearise import INPUT_COLUMNS, as_tokens, linearise
from lora_bench.kinds.support.row_values import LEAVE_OUT, Declared, Examples, Split, Table, Texts
from lora_bench.kinds.support.table_view import LABEL_NAMES, GuessedTask, Stage, View
from lora_bench.kinds.support.task_kind import ModelNames, TaskKind

_ONLY = "is only for generation; the kind is {kind}"

_WRITTEN_NAMES = re.compile(
    r"(?i)outputs?|completions?|responses?|summar(y|ies)|highlights|ref(erence)?s?|translations?|headlines?|target_text"
)


class Generation(TaskKind):
    """An answer is the text by which a causal model continues its input, or a decoder answers an encoder."""

    model_names = ModelNames("CausalLM", "CAUSAL_LM", "text-generation")
    model_names_apart = ModelNames("Seq2SeqLM", "SEQ_2_SEQ_LM", "text-generation")
    exercise = "writing.Writing"
    metric_kinds = ("generation", "likelihood")
    usual_metric = "bleu"
    writes = True
    answer_words = "a text that it writes"
    label_axes = ("rows", "length")
    own_keys: ClassVar[Mapping[Key, str]] = {("label", "where"): _ONLY, ("linearise",): _ONLY}

    def seen_in(self, view: View, stage: Stage) -> GuessedTask | None:
        return _named_output(view) if stage == "names" else _to_write(view) if stage == "texts" else None

    def head_options(self, labels: int) -> dict[str, int | str]:
        """Return none: a model that writes has no head."""
        return {}

    def head_arguments(self, labels: Sequence[str]) -> str:
        return ""

    def faults_of_text(self, task: Declared) -> Iterator[tuple[Key, str]]:
        if task.linearise is None:
            if len(task.text) != 1:
                yield ("text",), f"must be one column for {self.name}, got {len(task.text)}"
            return
        needed = INPUT_COLUMNS[task.linearise]
        if len(task.text) != len(needed):
            columns = "the column" if len(needed) == 1 else f"{len(needed)} columns"
            yield ("text",), f"must be {columns} of {' and '.join(needed)} for {task.linearise!r}, got {len(task.text)}"

    def texts(self, task: Declared, table: Table, faults: list[Fault]) -> Texts:
        if task.linearise is None:
            return super().texts(task, table, faults)
        texts: Texts = []
        wrong: dict[int, str] = {}
        for row, values in enumerate(zip(*(table.columns[name] for name in task.text), strict=True)):
            try:
                texts.append((linearise(task.linearise, values),))
            except ValueError as error:
                wrong[row] = str(error)
                texts.append(("",))
        if wrong:
            first = next(iter(wrong.values()))
            faults.append(
                table.rows_fault(f"has no {task.linearise} input in {', '.join(task.text)}: {first}", list(wrong))
            )
        return texts

    def labels(self, task: Declared, table: Table, texts: Texts, faults: list[Fault]) -> list[Any]:
        """Return the texts to write for each row; none if `where` leaves none.

        Empty texts are left out beside others. A row of a published set that has no other keeps one.
        """
        found: Texts = []
        wrong: list[int] = []
        without: list[int] = []
        given = table.columns[task.label.column]
        for row, value in enumerate(given):
            several = isinstance(value, Sequence) and not isinstance(value, str)
            written = list(value) if several else [value]
            if several and task.label.where:
                kept = [_fits(table, row, place, task.label.where) for place in range(len(written))]
                written = [text for text, fits in zip(written, kept, strict=True) if fits]
            if not all(text is None or isinstance(text, str) for text in written):
                wrong.append(row)
                written = []
            full = tuple(text for text in written if text and text.strip())
            if task.spelling == "tokens":
                full = tuple(map(as_tokens, full))
            if not full and written and table.own and task.empty_texts == "refuse":
                without.append(row)
            found.append(full or (("",) if written else ()))
        table.note(faults, f"has no text in column {task.label.column!r}", without, LEAVE_OUT)
        if wrong:
            kind = type(given[wrong[0]]).__name__
            faults.append(
                table.rows_fault(f"has values in column {task.label.column!r} that are no text but {kind}", wrong)
            )
        return found

    def inputs(self, split: Split, *, apart: bool) -> Iterable[tuple[str, ...]] | None:
        """Return each input with each text to write, or beside them where an encoder reads it apart."""
        right: Sequence[Any] = split.labels
        if not apart:
            pairs = zip(split.texts, right, strict=True)
            return ((f"{text[0]} {written}",) for text, several in pairs for written in several)
        return chain(split.texts, ((written,) for several in right for written in several))

    def makes_example(self, label: Any) -> bool:
        return bool(label)

    def dealt(self, examples: Examples, split: str) -> Examples:
        """Return in `train` an example for each text to write, and elsewhere one for each distinct input."""
        if split == "train":
            rows = [(place, number) for place, texts in enumerate(examples.labels) for number in range(len(texts))]
            each = examples.at([place for place, _ in rows])
            ids = [
                name if number == 0 else f"{name}.{number + 1}"
                for name, (_, number) in zip(each.ids, rows, strict=True)
            ]
            return replace(each, ids=ids, labels=[(examples.labels[place][number],) for place, number in rows])
        texts_of: dict[tuple[str, ...], list[str]] = {}
        first: dict[tuple[str, ...], int] = {}
        for place, (text, texts) in enumerate(zip(examples.texts, examples.labels, strict=True)):
            first.setdefault(text, place)
            texts_of.setdefault(text, []).extend(texts)
        return replace(examples.at(list(first.values())), labels=list(texts_of.values()))

    def numbered(self, labels: Sequence[Any], classes: Sequence[str]) -> list[Any]:
        return [tuple(texts) for texts in labels]

    def constant(self, train: Split, split: Split) -> Sequence[Any] | None:
        """Return None: no text is written without a look at its input."""
        return None


def _fits(table: Table, row: int, place: int, where: Mapping[str, str]) -> bool:
    for column, value in where.items():
        beside = table.columns[column][row]
        if not isinstance(beside, Sequence) or len(beside) <= place or beside[place] != value:
            return False
    return True


def _named_output(view: View) -> GuessedTask | None:
    """Find a text to write by its name, where no column is named like a label."""
    if view.asked.label is not None or any(map(LABEL_NAMES.fullmatch, view.possible)):
        return None
    written = [name for name in view.texts() if _WRITTEN_NAMES.fullmatch(name) and view.all_differ(name)]
    return _written(view, written[0]) if written else None


def _to_write(view: View) -> GuessedTask | None:
    """Find two columns of texts that are nearly all different: the input, and the text to write."""
    asked = view.asked
    if asked.label is not None:
        return _written(view, asked.label)
    texts = view.texts()
    # The input is the longest, unless it alone is different in nearly all rows: several texts may be written for an input.
    prose = [name for name in (texts if asked.text is not None else [*texts[1:], *texts[:1]]) if view.is_prose(name)]
    named = [name for name in texts if _WRITTEN_NAMES.fullmatch(name) and view.all_differ(name)]
    written = [*named, *(name for name in prose if LABEL_NAMES.fullmatch(name)), *prose]
    if asked.kind is not None:
        written += texts[1:] or texts
    return _written(view, written[0]) if written and len(texts) + (asked.text is not None) > 1 else None


def _written(view: View, label: str) -> GuessedTask | None:
    texts = [view.asked.text] if view.asked.text is not None else view.texts(label)
    if not texts or (view.asked.kind is None and not any(" " in str(value) for value in view.values(texts[0]))):
        return None
    view.say_text(texts[0])
    return GuessedTask(text=(texts[0],), label=label, why=f"{label} has texts that nearly all differ")


KIND = Generation()
