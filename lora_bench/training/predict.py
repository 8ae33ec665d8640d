"""Answer the rows of a new table with kept weights, as those of the test split were, and write them with the answers."""

import csv
import json
import tempfile
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TextIO

import torch
from torch import nn

from lora_bench.errors import LoraBenchError, did_you_mean
from lora_bench.kinds.exercises import exercise, exercise_class
from lora_bench.kinds.exercises.base_exercise import Exercise
from lora_bench.kinds.exercises.labelling import USUAL, labels_above
from lora_bench.kinds.exercises.predicting import quiet
from lora_bench.models.loading import load_rounded, load_tokenizer, open_tokenizer
from lora_bench.models.read_position import read_alone
from lora_bench.models.registry import find_model
from lora_bench.records.spec import Decoding, PlannedSpec
from lora_bench.tasks.new_rows import NewRows, read_new_rows
from lora_bench.tasks.source_tables import SEPARATED, Layout, format_of
from lora_bench.training.kept_task import KeptModel
from lora_bench.training.kept_weights import open_adapter, open_whole
from lora_bench.training.model_card import kind_of_run
from lora_bench.training.prepare import device_of_runs
from lora_bench.training.scoring import PROBABILITY_DECIMALS
from lora_bench.training.winner import base_for
from lora_bench.util.atomic_files import TEMPORARY, check_writable, let_all_read, make_folder
from lora_bench.util.regular_files import read_regular
from lora_bench.util.seeding import seed_for

PREDICTED = "predicted"
# Rows that are encoded and answered at once.
BLOCK = 4096
WRITTEN = ("csv", "tsv", "jsonl")

Answer = dict[str, Any]


@dataclass(frozen=True)
class Predicted:
    """What was written: where, how many rows, and how many of them have no answer."""

    out: Path
    rows: int
    unanswered: int


def default_out(table: Path) -> Path:
    """Return the file of the answers to a table: in the working folder, in the same format where that is written."""
    format = format_of(table.name)
    return Path(f"{table.name.split('.')[0]}.{PREDICTED}.{format if format in WRITTEN else 'jsonl'}")


def predict_table(
    kept: KeptModel, table: Path, out: Path, base: Path | None = None, say: Callable[[str], None] = lambda said: None
) -> Predicted:
    """Write a table with its columns and the answers to its rows.

    *base* is the base model's folder, if its name does not lead there from here. *say* takes lines about the form of the table,
    rows without an answer, and progress. Raise LoraBenchError if the table cannot be read, *out* exists or has another suffix,
    or the weights cannot be loaded.
    """
    format = format_to_write(out)
    task, labels = kept.task, kept.spec.task.labels
    rows = read_new_rows(task, table, labels)
    added = [PREDICTED, *(map(_share_column, labels) if exercise_class(task.kind).weighs_classes else ())]
    taken = [name for name in added if name in rows.columns]
    if taken:
        raise LoraBenchError(f"{table} has a column {taken[0]!r}, as the answers have; rename it")
    check_writable(out.absolute().parent, "--out")
    for note in rows.notes:
        say(note)
    with quiet():
        answering = Predictor.opened(kept, base)
        answers = answering.answers(rows, say)
        own = rows.layout if format in SEPARATED and format == format_of(table.name) else None
        with _whole_file(out, _encoding(own, table), say) as file:
            write = _line_writer(file, format, None if own is None else own.delimiter)
            if format != "jsonl":
                write(dict(zip([*rows.columns, *added], [*rows.columns, *added], strict=True)))
            for row in _joined(rows, dict.fromkeys(added), answers):
                write(row)
    return Predicted(out, rows.count, rows.count - len(rows.readable) + answering.unread)


def format_to_write(out: Path) -> str:
    """Return the format of a new file. Raise LoraBenchError if it exists, or is of no format of `WRITTEN`."""
    _refuse_existing(out)
    suffix = out.suffix.lower().removeprefix(".")
    if suffix not in WRITTEN:
        known = [f".{one}" for one in WRITTEN]
        raise LoraBenchError(f"{out}: end its name in {', '.join(known)}{did_you_mean(f'.{suffix}', known)}")
    return suffix


def _share_column(label: str) -> str:
    return f"p({label})"


@dataclass
class Predictor:
    """A model with its weights, and what makes questions of texts; *unread* counts texts without a token that it needs."""

    model: nn.Module
    made: Exercise
    kept: KeptModel
    unread: int = 0

    @classmethod
    def opened(cls, kept: KeptModel, base: Path | None) -> Self:
        """Load the weights onto the device of runs. Raise LoraBenchError if that fails, or the base model is not here."""
        spec, kind = kept.spec, kind_of_run(kept.spec)
        torch.set_num_threads(spec.training.threads)  # another number adds floats in another order
        whole = kept.beside or (None if kept.is_adapter else kept.folder)
        found = base_for(spec, base) if whole is None else find_model(str(whole.absolute()), base=Path())
        tokenizer = load_tokenizer(found) if kept.beside is None else open_tokenizer(str(kept.folder), kept.folder)
        loaded = load_rounded(found, spec, kind.model_kind)
        loaded.config.pad_token_id = tokenizer.pad_token_id
        model = open_adapter(loaded, kept.folder) if kept.is_adapter else open_whole(loaded, kept.folder)
        if spec.training.last_layer == "read_position" and kind.reads_one_token:
            read_alone(model, found.model_type)
        if kept.task.writes and spec.decoding is None:  # no metric read its texts
            new = min(Decoding().max_new_tokens, spec.training.max_length // 2)
            spec = spec.model_copy(update={"decoding": Decoding(max_new_tokens=new)})
        # As the lines that load the model answer; a run in bfloat16 answers its test rows in bfloat16.
        spec = spec.model_copy(update={"training": spec.training.model_copy(update={"precision": "float32"})})
        return cls(model.to(device_of_runs()).eval(), exercise(kept.task, tokenizer, spec, seed_of(spec)), kept)

    def answers(self, rows: NewRows, say: Callable[[str], None]) -> Iterator[tuple[int, Answer]]:
        """Yield the index of each row that can be answered, with the values of its answer."""
        for start in range(0, len(rows.readable), BLOCK):
            texts = rows.texts[start : start + BLOCK]
            yield from zip(rows.readable[start : start + BLOCK], self._block(texts), strict=True)
            if len(rows.readable) > BLOCK:
                say(f"{min(start + BLOCK, len(rows.readable)):,} of {len(rows.readable):,} rows")

    def _block(self, texts: Sequence[tuple[str, ...]]) -> list[Answer]:
        """Return the values of the answer to each text; none to one without tokens that a head would read."""
        questions = self.made.to_answer(list(texts))
        answered = list(range(len(texts)))
        if self.kept.task.kind_of.reads_one_token:
            answered = [place for place in answered if questions[place]["input_ids"]]
            questions = [questions[place] for place in answered]
        self.unread += len(texts) - len(answered)
        found: list[Answer] = [{} for _ in texts]
        if not questions:
            return found
        labels = self.kept.spec.task.labels
        replies = self.made.answers(self.model, questions)
        answers, shares = replies.answers, list[list[float]]()
        if replies.logits is not None:
            shares = self.made.probabilities(replies.logits.double()).tolist()
            if self.kept.task.kind_of.takes_threshold:
                answers = labels_above(replies.logits, USUAL if self.kept.threshold is None else self.kept.threshold)
        for number, place in enumerate(answered):
            found[place] = {PREDICTED: self.kept.task.kind_of.answer_value(answers[number], texts[place], labels)}
            if shares:
                names = map(_share_column, labels)
                rounded = (round(share, PROBABILITY_DECIMALS) for share in shares[number])
                found[place] |= dict(zip(names, rounded, strict=True))
        return found


def seed_of(spec: PlannedSpec) -> int:
    """Return the seed of what a run draws, which its series changes."""
    return spec.seed if spec.series is None else seed_for(spec.series, spec.seed)


def _joined(rows: NewRows, no_answer: Answer, answers: Iterator[tuple[int, Answer]]) -> Iterator[dict[str, Any]]:
    """Yield every row of a table in order, with the answer to it or with *no_answer*."""
    place, answer = next(answers, (rows.count, no_answer))
    for row, values in enumerate(zip(*rows.columns.values(), strict=True)):
        own = dict(zip(rows.columns, values, strict=True))
        if row < place:
            yield own | no_answer
            continue
        yield own | no_answer | answer
        place, answer = next(answers, (rows.count, no_answer))


def _line_writer(file: TextIO, format: str, delimiter: str | None) -> Callable[[Mapping[str, Any]], None]:
    """Return a function that writes a row to a file."""
    if format == "jsonl":
        return lambda row: print(json.dumps(row, ensure_ascii=False, default=str), file=file)
    separated = csv.writer(file, delimiter=delimiter or ("," if format == "csv" else "\t"), lineterminator="\n")
    return lambda row: separated.writerow(map(_cell, row.values()))


def _cell(value: Any) -> str:
    """Return a value as text for csv: lists and objects as JSON, and nothing for None."""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False, default=str)


def _encoding(own: Layout | None, table: Path) -> str:
    """Return the encoding of a table, with its mark where it has one, by which spreadsheets know UTF-8."""
    if own is None or own.encoding is not None:
        return "utf-8" if own is None or own.encoding is None else own.encoding
    return "utf-8-sig" if read_regular(table).startswith(BOM_UTF8) else "utf-8"


@contextmanager
def _whole_file(path: Path, encoding: str, say: Callable[[str], None]) -> Iterator[TextIO]:
    """Give a new file to write, named only after the block, in an *encoding* that has all its characters, else in UTF-8."""
    make_folder(path.absolute().parent)
    with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=path.absolute().parent) as folder:
        made = Path(folder, path.name)
        with made.open("w", encoding="utf-8", newline="") as file:
            yield file
        if encoding != "utf-8":
            text = made.read_bytes().decode("utf-8")
            try:
                made.write_bytes(text.encode(encoding))
            except UnicodeEncodeError as error:
                say(f"{path} is in UTF-8, as {encoding} lacks {text[error.start]!r}")
                made.write_bytes(text.encode("utf-8-sig"))
        let_all_read(made)
        _refuse_existing(path)
        made.rename(path)


def _refuse_existing(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise LoraBenchError(f"{path} is there already; name a new file with --out")
