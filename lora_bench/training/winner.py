"""The weights that a suite's winner left: found beside the records, and merged into a plain model, if that answers alike."""

import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from lora_bench.errors import LoraBenchError, UnsupportedPair, first_line, unknown
from lora_bench.families import Family
from lora_bench.methods.contract import import_tuners
from lora_bench.models.find_family import with_family
from lora_bench.models.loading import load_rounded, load_tokenizer, open_tokenizer
from lora_bench.models.registry import BaseModel, find_model
from lora_bench.records.again import again
from lora_bench.records.kept_adapter import CONFIG, WEIGHTS, adapter_config
from lora_bench.records.layout import PREDICTIONS
from lora_bench.records.record import Record
from lora_bench.records.spec import PlannedSpec, RunSpec
from lora_bench.records.store import RunFolder, answers_in, read_records
from lora_bench.report import text
from lora_bench.report.model.choose_method import Choice, choose_among
from lora_bench.report.model.comparison import ModelTable, Setting
from lora_bench.report.model.rows import Row, canonical
from lora_bench.report.model.seed_scores import AnswersOf, scored
from lora_bench.stats.items import interval_of_mean
from lora_bench.training.kept_task import ADAPTER, BASE, write_task
from lora_bench.training.model_card import PLACE, item_facts, kind_of_run, loading_lines, model_card, write_card
from lora_bench.util.atomic_files import let_all_read, whole_folder
from lora_bench.util.regular_files import read_regular

if TYPE_CHECKING:
    from torch import Tensor, nn

# Rounding alone moves a logit of a merged model less.
MERGED_TOLERANCE = 1e-4
# Of so few folds the spread says less of new rows than their test rows do.
FEWEST_FOLDS = 3


@dataclass(frozen=True)
class Winner:
    """The best seed of a method, with the folder of the weights that it kept, and the row of its method over all seeds.

    *expected* is its mean score over seeds, with the interval that its test rows give. *choice* named the method; None if the
    user did. *others* says which settings of the same task and base model were not
    taken, and that the runs learned next to nothing, if so; *note* where its weights are from, in place of the scores.
    """

    record: Record
    folder: Path
    row: Row
    expected: str
    choice: Choice | None
    note: str | None = None
    others: str | None = None

    @property
    def spec(self) -> PlannedSpec:
        """Spec of its run."""
        return PlannedSpec.model_validate(self.record.spec.model_dump())

    @property
    def tuner(self) -> str | None:
        """Module to import before the weights load; "" for PEFT alone, None for a whole model."""
        if not (self.folder / CONFIG).is_file():
            return None
        return _tuner_of(str(adapter_config(self.folder).get("peft_type")))

    @property
    def lines(self) -> list[str]:
        """The Python lines that load it."""
        return loading_lines(self.record.spec, str(self.folder), self.tuner, self.record.threshold)


def find_winner(
    runs: Path,
    method: str | None = None,
    *,
    task: str | None = None,
    model: str | None = None,
    among: Collection[str] | None = None,
) -> Winner:
    """Return the best seed of the recommended method, or of *method*, for a task and a base model.

    *among* names the runs that count, all by default. Of several settings of a suite, such as before and after an edit, that
    with the newest runs is taken. Raise LoraBenchError if several tasks or base models are left, there is no such method, or it
    kept no weights.
    """
    records = [record for record in read_records(runs) if among is None or record.run_id in among]
    answers = answers_in(runs, records)
    choices = choose_among(records, answers, task=task, model=model)
    if len({(choice.setting.spec.task.name, choice.table.model.name) for choice in choices}) > 1:
        raise LoraBenchError(_which(choices))
    by_id = {record.run_id: record for record in records}
    having = [one for one in choices if method is None or method in (row.label for row in one.rows)] or choices
    choice = max(having, key=lambda one: _begun(one, by_id))
    row = choice.chosen if method is None else _row(choice.table, method)
    kept = [
        (score.value, by_id[score.run_id], folder)
        for score in row.scores
        if (folder := RunFolder(runs / score.run_id).weights).is_dir() and by_id[score.run_id].weights is not None
    ]
    if not kept:
        raise LoraBenchError(_none_kept(row, choice.setting, by_id[row.run_ids[0]]))
    higher = choice.setting.spec.task.higher_is_better is not False
    _, record, folder = max(kept, key=lambda one: one[0] if higher else -one[0])
    others = _others(choice, having) if len(having) > 1 else None
    if method is None and choice.doubt is not None:
        others = " ".join(filter(None, [others, choice.doubt, f"{row.label}."]))
    note = RunFolder(folder.parent).note
    said = read_regular(note).decode("utf-8") if note.is_file() else None
    expected = _expected(row, choice.setting, answers)
    return Winner(record, folder, row, expected, choice if method is None else None, said, others)


def _expected(row: Row, setting: Setting, answers: AnswersOf) -> str:
    """Return a row's mean score over seeds, with an interval: over folds if they are enough, else of its test rows."""
    assert row.score is not None
    items, of_folds = scored(row, setting, answers).items, row.score.interval
    mean = text.score(row.score.mean)
    if row.overlap and row.score.n > FEWEST_FOLDS and of_folds is not None:
        return f"{mean} (95 % interval on new rows: {text.score(of_folds.low)} to {text.score(of_folds.high)})"
    found = interval_of_mean(items) if items is not None and items.independent > 1 else None
    if items is None or found is None:
        return mean
    return f"{mean} (95 % by {items.items:,} test rows: {text.score(found[0])} to {text.score(found[1])})"


def merge_winner(winner: Winner, out: Path, base: Path | None = None) -> None:
    """Write a plain transformers folder of the base model with the adapter merged into its weights.

    *base* is the base model's folder, if its name does not lead there from here. Raise LoraBenchError if *out* exists, the base
    model is not the one of the record, or the method cannot be merged.
    """
    import torch

    from lora_bench.kinds.exercises.predicting import quiet
    from lora_bench.training.kept_weights import open_adapter

    label = winner.row.label
    with quiet(), torch.no_grad():
        model = _base_for(winner, out, base)
        adapted = open_adapter(model, winner.folder)
        tokenizer = open_tokenizer(str(winner.folder), winner.folder)
        before = _logits(adapted, model.config.vocab_size)
        merged = _merged(adapted, label)
        difference = float((_logits(merged.eval(), model.config.vocab_size) - before).abs().max())
        if not difference <= MERGED_TOLERANCE * max(1.0, float(before.abs().max())):
            raise LoraBenchError(f"{label} cannot be merged: the merged model gives other answers, by {difference:.2g}")
        with whole_folder(out) as made:
            merged.save_pretrained(made)
            tokenizer.save_pretrained(made)
            write_task(made, winner.spec, winner.record.threshold)
            write_card(made, _card(winner, None))


def share_winner(winner: Winner, out: Path, base: Path | None = None) -> None:
    """Write the base model and the adapter beside each other, with a card whose lines load both on any machine.

    *base* is as for `merge_winner`. Raise LoraBenchError if *out* exists, the base model is not the one of the record, or the
    adapter is not of it.
    """
    from lora_bench.kinds.exercises.predicting import quiet
    from lora_bench.training.kept_weights import open_adapter

    with quiet(), whole_folder(out) as made:
        model = _base_for(winner, out, base)
        model.save_pretrained(made / BASE)
        open_adapter(model, winner.folder)  # refuses one that is not of this model
        open_tokenizer(str(winner.folder), winner.folder).save_pretrained(made / ADAPTER)
        # No other file of the folder: it may be a stranger's.
        shutil.copyfile(winner.folder / WEIGHTS, made / ADAPTER / WEIGHTS)
        config = adapter_config(winner.folder) | {"base_model_name_or_path": f"./{BASE}", "revision": None}
        (made / ADAPTER / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        write_task(made, winner.spec, winner.record.threshold)
        (made / "README.md").write_text(_card(winner, winner.tuner, f"{PLACE}/{BASE}"), encoding="utf-8")
        for path in made.rglob("*.*"):
            let_all_read(path)


def copy_winner(winner: Winner, out: Path) -> None:
    """Write a plain transformers folder of a winner that is a whole model. Raise LoraBenchError if *out* exists."""
    with whole_folder(out) as made:
        for path in sorted(winner.folder.iterdir()):
            shutil.copyfile(path, made / path.name)
        write_card(made, _card(winner, None))


def _base_for(winner: Winner, out: Path, base: Path | None) -> Any:
    """Return a winner's base model with its labels, to write to *out*. Raise LoraBenchError if that or no adapter is there."""
    if out.exists():
        raise LoraBenchError(f"{out} is there already; name a new folder")
    if winner.tuner is None:
        raise LoraBenchError(f"{winner.row.label} is a whole model already, and loads from {winner.folder}")
    spec = winner.spec
    found = base_for(spec, base)
    model = load_rounded(found, spec, kind_of_run(spec).model_kind)
    model.config.pad_token_id = load_tokenizer(found).pad_token_id
    if spec.task.labels:
        model.config.id2label = dict(enumerate(spec.task.labels))
        model.config.label2id = {name: index for index, name in enumerate(spec.task.labels)}
    return model


def _card(winner: Winner, tuner: str | None, base: str | None = None) -> str:
    """Return the card of a winner's weights; *tuner* and *base* are as for `loading_lines`."""
    record = winner.record
    assert record.weights is not None
    spec = winner.spec
    step, threshold = record.weights.step, record.threshold
    if winner.note is not None:
        return model_card(spec, step, tuner, threshold=threshold, base=base, note=winner.note)
    named = record.predictions
    examples, groups = (named.count, named.groups) if named is not None else (0, None)
    items = item_facts(winner.folder.parent / PREDICTIONS, spec, record.scores or {}, groups)
    return model_card(spec, step, tuner, record.scores, examples, items, threshold, base)


def base_for(spec: RunSpec, base: Path | None = None) -> BaseModel:
    """Return a run's base model here, by name or in the folder *base*. Raise LoraBenchError if that is missing or another."""
    model = spec.model
    given = model.name if base is None else str(base)
    found = find_model(given, base=Path(), revision=model.revision if base is None else None)
    if isinstance(model.family, dict):
        found = with_family(found, TypeAdapter(Family).validate_python(model.family))
    if found.sha256 != model.sha256:
        raise LoraBenchError(f"{given} is not the base model of run {spec.run_id}: its files differ; name it by --base")
    return found


# Raised by adapters that are no change of weights.
UNMERGEABLE = (AttributeError, NotImplementedError, TypeError, ValueError, UnsupportedPair)


def _merged(adapted: Any, label: str) -> Any:
    try:
        return adapted.merge_and_unload()
    except UNMERGEABLE as error:
        raise LoraBenchError(
            f"{label} cannot be merged into the base model's weights ({first_line(error)}); use --share, which writes both"
        ) from None


def _logits(model: "nn.Module", vocabulary: int) -> "Tensor":
    """Return what a model answers to two rows of tokens."""
    import torch

    from lora_bench.tuners.trial import decoder_inputs

    tokens = torch.arange(3, 27).reshape(2, 12) % vocabulary
    real = torch.ones_like(tokens)
    logits: Tensor = model(input_ids=tokens, attention_mask=real, **decoder_inputs(model, tokens))[0]
    return logits


def _tuner_of(peft_type: str) -> str:
    from lora_bench.tuners.registration import known_configs
    from lora_bench.tuners.sites import module_of

    import_tuners()
    config = known_configs().get(peft_type)
    return "" if config is None else module_of(config)


def _row(table: ModelTable, method: str) -> Row:
    rows = {row.label: row for row in reversed(table.rows) if row.score is not None}
    if method not in rows:
        raise unknown("method", method, rows)
    return rows[method]


def _begun(choice: Choice, by_id: Mapping[str, Record]) -> str:
    """Return when the newest run of a setting began."""
    return max(by_id[run_id].started_at or "" for row in choice.rows for run_id in row.run_ids)


def _others(taken: Choice, choices: Sequence[Choice]) -> str:
    """Return a sentence on the settings that were not taken, with what they differ in."""
    names = dict.fromkeys(name for choice in choices for name in choice.setting.differs)
    differ = []
    for name in names:
        own, *others = dict.fromkeys(canonical(one.setting.differs.get(name))[:40] for one in [taken, *choices])
        if others:
            differ.append(f"{name.rpartition('.')[2]} {own}, not {' or '.join(others)}")
    shown = f", with {'; '.join(differ[:3])}{'; …' if len(differ) > 3 else ''}" if differ else ""
    return f"these runs have {len(choices)} settings; the newest is taken{shown}"


def _which(choices: Sequence[Choice]) -> str:
    tasks = sorted({choice.setting.spec.task.name for choice in choices})
    models = sorted({choice.table.model.name for choice in choices})
    asked = [f"--task ({', '.join(tasks)})"] if len(tasks) > 1 else []
    asked += [f"--model ({', '.join(models)})"] if len(models) > 1 else []
    return f"these runs have {len(choices)} winners; name one with {' and '.join(asked)}"


def _none_kept(row: Row, setting: Setting, record: Record) -> str:
    command = (again(record.command) or "lora-bench run SUITE").replace(f" --only {record.run_id}", "")
    return (
        f"no weights of {row.label} were kept; set `keep_weights: last` in the suite, then `{command}` trains "
        f"its reported runs again and keeps them"
    )
