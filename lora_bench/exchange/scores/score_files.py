"""Files of scores, by the tools that write them: rows of method, task, base model, seed, item and score.

Read are tables of any names; result files of PEFT's method_comparison; samples of lm-evaluation-harness, a file a model and
task; and Every Eval Ever's logs and items.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lora_bench.errors import LoraBenchError, unknown
from lora_bench.exchange.peft_results import FOLDERS, record_in
from lora_bench.exchange.scores.collect import LIBRARIES, Source, TaskFacts
from lora_bench.exchange.scores.columns import AskedColumns, choose, lower_is_better
from lora_bench.exchange.scores.every_eval import is_items, items_or_logs, items_source, log_source
from lora_bench.exchange.scores.tables import MAX_BYTES, SUFFIXES, GivenTable, fault, load, read_table, table_of
from lora_bench.report.model.rows import grouped
from lora_bench.report.text import inert, learning_rate, listed
from lora_bench.util.regular_files import open_regular, read_regular

_SAMPLES = re.compile(r"samples_(.+?)_(\d{4}-\d\d-\d\dT[\d.:-]+)\.jsonl")


def sources_of(given: Sequence[Any], asked: AskedColumns) -> list[Source]:
    """Return the rows of files, folders and frames. Raise BadInput with what is wrong with one."""
    files = items_or_logs([file for one in given if isinstance(one, str | Path) for file in _files(Path(one))])
    frames = [source for one in given if not isinstance(one, str | Path) for source in _of_table(table_of(one), asked)]
    samples = [file.resolve() for file in files if _SAMPLES.fullmatch(file.name)]
    return [*frames, *(source for file in files for source in _of_file(file, asked, _run_names(samples)))]


def _run_names(samples: Sequence[Path]) -> dict[Path, tuple[str, str]]:
    """Return the name of the run of each file of samples, and by what it is told.

    Each folder of outputs has one of the model's name. Runs of a model in several are told apart by these folders, and runs in
    one by their dates.
    """
    names = {}
    for model, own in grouped(samples, lambda file: file.parent.name).items():
        folders = [[file.parent.parent.name for file in of] for of in grouped(own, _task).values()]
        alone, apart = all(len(of) == 1 for of in folders), all(len({*of}) == len(of) for of in folders)
        for file in own:
            if alone:
                names[file] = model, "the folder"
            elif apart:
                names[file] = f"{file.parent.parent.name}/{model}", "the folder in that of the outputs"
            else:
                names[file] = f"{model} {_parts(file)[1]}", "the folder with the date"
    return names


def _task(file: Path) -> str:
    return _parts(file)[0]


def _parts(file: Path) -> tuple[str, str]:
    """Return the task and the date of a file of samples."""
    match = _SAMPLES.fullmatch(file.name)
    assert match is not None
    return match[1], match[2]


def _files(path: Path) -> list[Path]:
    """Return the files of scores at a path: of a folder samples, PEFT's results, or tables."""
    if not path.is_dir():
        if not path.exists():
            raise fault("there is no such file", str(path))
        return [path]
    found = [file for file in path.rglob("*.jsonl") if _SAMPLES.fullmatch(file.name)]
    for patterns in ([f"**/{name}/*" for name in FOLDERS], ["**/*"]):
        every = (file for pattern in patterns for file in path.glob(pattern))
        found = found or [file for file in every if file.suffix.lower() in SUFFIXES and file.is_file()]
    if not found:
        raise fault(f"has no file of scores ({', '.join(SUFFIXES)})", str(path))
    return sorted(found)


def _of_file(path: Path, asked: AskedColumns, runs: Mapping[Path, tuple[str, str]]) -> Iterator[Source]:
    if _SAMPLES.fullmatch(path.name) is not None:
        _refuse_columns(path, asked, but=("score", "lower_is_better"))
        yield _samples(path, *runs[path.resolve()], asked)
        return
    if is_items(path):
        _refuse_columns(path, asked)
        yield items_source(path)
        return
    log = None
    if path.suffix.lower() == ".json":
        log = load(read_regular(path, MAX_BYTES), str(path))
    if not isinstance(log, dict):
        yield from _of_table(read_table(path), asked)
    elif {"run_info", "train_info"} <= log.keys():
        _refuse_columns(path, asked)
        yield _peft(path)
    elif {"model_info", "evaluation_results"} <= log.keys():
        _refuse_columns(path, asked)
        yield log_source(path, log)
    else:
        known = "a list of objects, a result of PEFT's method_comparison, and a log of Every Eval Ever"
        samples = "; lm-evaluation-harness writes `samples_*.jsonl` with --log_samples" if "results" in log else ""
        raise fault(f"is JSON of no known form ({known}){samples}", str(path))


def _refuse_columns(path: Path, asked: AskedColumns, but: Sequence[str] = ()) -> None:
    """Raise BadInput if the user names a column, or the direction, of a file that says these itself."""
    for name in (name for name, value in vars(asked).items() if name not in but and value not in (None, ())):
        option = ("higher_is_better" if asked.lower_is_better is False else name).replace("_", "-")
        raise fault(f"is no table, and says itself what --{option} names: leave it out", str(path))


def _of_table(table: GivenTable, asked: AskedColumns) -> Iterator[Source]:
    try:
        chosen = choose(table.head(), asked)
    except LoraBenchError as error:
        raise fault(str(error), table.file) from None
    places = [table.names.index(name) for name in chosen.columns.values()]
    for name in chosen.scores:
        lower = lower_is_better(name) if asked.lower_is_better is None else asked.lower_is_better
        direction, by = "lower" if lower else "higher", f"name `{name}`"
        if "measure" in chosen.columns and not lower and asked.lower_is_better is None:
            direction, by = "higher or lower", f"names in `{chosen.columns['measure']}`"
        own = [*places, table.names.index(name)]
        several = len(chosen.scores) > 1
        yield Source(
            file=table.file,
            named={**chosen.columns, "score": name},
            rows=_picked(table, own),
            constant={"task": name} if several else {},
            facts={"": TaskFacts("score" if several else name, not lower, given=asked.lower_is_better is not None)},
            said=[*chosen.said, f"{direction} is better: by the {by}"],
        )


def _picked(
    table: GivenTable, places: Sequence[int], only: tuple[int, Any] | None = None
) -> Iterator[tuple[int, list[Any]]]:
    for line, row in table.rows():
        if only is None or row[only[0]] == only[1]:
            yield line, [row[place] for place in places]


def _samples(path: Path, name: str, told_by: str, asked: AskedColumns) -> Source:
    """Return the results of a model on the items of a task: the metric asked for or one, and of several filters the first."""
    task = _task(path)
    table = read_table(path)
    head = table.head()
    known = {name: of[0] for name, of in head.items() if "." not in name and name != "doc_id"}
    numbers = [name for name, value in known.items() if isinstance(value, int | float)]
    if "doc_id" not in head or not numbers:
        with open_regular(path) as stream:
            first = load(stream.readline(), str(path))
        metrics = first.get("metrics")
        named = {*map(str, metrics)} if isinstance(metrics, list) else set()
        if lists := [f"`{name}`" for name, of in first.items() if name in named and isinstance(of, list)]:
            why = f"{listed(lists)} is a list, of which a score is made over all items"
            raise fault(f"has no result on an item: {why}", str(path))
        raise fault("has no `doc_id` with a number a metric, as lm-evaluation-harness writes", str(path))
    wanted = asked.score or ("acc", "exact_match", numbers[-1])  # metrics are the last keys of a line
    metric = next((name for name in wanted if name in numbers), None)
    if metric is None:
        raise fault(str(unknown("result", wanted[0], numbers)), str(path))
    lower = lower_is_better(metric) if asked.lower_is_better is None else asked.lower_is_better
    said = [f"samples: the method is {told_by}, the item `doc_id`, the score `{metric}`"]
    only = None
    if "filter" in head:
        only = table.names.index("filter"), head["filter"][0]
        said += [f"of several filters: `{only[1]}`"] if len({*head["filter"]}) > 1 else []
    return Source(
        file=str(path),
        named={"item": "doc_id", "score": metric},
        rows=_picked(table, [table.names.index("doc_id"), table.names.index(metric)], only),
        constant={"method": name, "task": task},
        facts={task: TaskFacts(metric, not lower, given=asked.lower_is_better is not None)},
        said=said,
    )


def _peft(path: Path) -> Source:
    """Return the one score of a result file of PEFT's method_comparison."""
    record = record_in(read_regular(path, MAX_BYTES), path, command=None)
    spec, metric = record.spec, record.spec.task.metric or "score"
    higher = not lower_is_better(metric) if spec.task.higher_is_better is None else spec.task.higher_is_better
    row = {"method": spec.method.label, "task": spec.task.name, "base_model": spec.model.shown, "seed": spec.seed}
    seconds = record.speed.train_seconds if record.speed is not None else None
    training, rate = spec.training, spec.training.learning_rate
    settings = {
        "steps": training.steps, "examples a step": training.batch_size,
        "learning rate": None if rate is None else learning_rate(rate), "weight decay": training.weight_decay,
        "schedule": training.schedule, "gradient norm": training.max_grad_norm,
        "optimizer": training.arguments.get("optimizer_type"),
    }  # fmt: skip
    packages = record.environment.packages if record.environment is not None else {}
    settings |= {name: packages[name] for name in LIBRARIES if name in packages}
    others = [f"`{name}`" for name in record.scores or {} if name != metric]
    return Source(
        file=str(path),
        named={**{name: name for name in row}, "cost": "train_seconds", "score": "score"},
        rows=[(1, [*row.values(), seconds, record.score])],
        facts={spec.task.name: TaskFacts(metric, higher)},
        trained={**row, **{name: inert(str(value), 80) for name, value in settings.items() if value is not None}},
        said=[
            "PEFT's result files: the method is the experiment's name, the score that of the test set, and the cost its "
            "`train_time` in seconds; no verdict is about it",
            *([f"measures not read: {listed(others)}"] if others else []),
        ],
    )
