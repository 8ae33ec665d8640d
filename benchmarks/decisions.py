"""What a user gets who has a table and some minutes: from `lora-bench try`, and from what people use today.

    LORA_BENCH_SHARED=FOLDER python -m benchmarks.decisions --minutes 10 --out decisions    hours; goes on where it stopped
    python -m benchmarks.decisions --minutes 3 --rows 300 --rivals try,optuna               tables cut to 300 rows

Each rival reads `train.csv` and answers `test.csv`, in a process of its own; the labels of the test rows stay here. Seconds go
from the start of that process to the model, the answers not counted. `runs.jsonl` in the folder has a line a run, and a second
start does what has no score there; `page.md` is what it prints. With seed 0 a table of `contest` has the rows that suite trains
on, so its runs, once committed, tell the regret of a method. No data is downloaded: a table without its data is skipped.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.decision_rivals import RIVALS, Given, columns_of, score, write_csv, write_train
from benchmarks.decision_tables import DEFAULTS, TABLES, Table, some
from lora_bench.errors import LoraBenchError
from lora_bench.records.store import has_records, read_records
from lora_bench.report.text import table as markdown

ROOT = Path(__file__).parents[1]
# A share of busy cores beside which a run counts as disturbed; a machine at rest shows a few per cent.
BESIDE = 0.2
# A model within half a point of the best is as good; a run may take a tenth more than its minutes.
AS_GOOD, OVER = 0.5, 1.1
OURS = "try"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One line of `runs.jsonl`.

    Args:
        rows: Training rows that were asked for; None for as many as the table has.
        minutes: Given to a rival that reads them; None to the others.
        score: Metric on the test rows, in points; None if the rival did not answer, and *why* says so.
        seconds: From the start of the process to the model.
        load: Share of the cores that other processes kept busy before the start.
        chosen: Method of the model, of rivals that choose.
    """

    table: str
    rows: int | None
    rival: str
    minutes: float | None
    seed: int
    model: str
    score: float | None = None
    metric: str = ""
    train_rows: int = 0
    test_rows: int = 0
    seconds: float | None = None
    cores: int = 0
    load: float = 0.0
    chosen: str | None = None
    why: str = ""

    @property
    def key(self) -> tuple[Any, ...]:
        """What it is a run of."""
        return self.table, self.rows, self.rival, self.minutes, self.seed, self.model

    @property
    def column(self) -> str:
        """The rival, with its minutes."""
        return self.rival if self.minutes is None else f"{self.rival}, {self.minutes:g} min"


def do(run: Run, table: Table, folder: Path) -> Run:
    """Let a rival read the table and answer, and return the run with its outcome."""
    import psutil

    from lora_bench.models.registry import find_model

    rival = RIVALS[run.rival]
    train = some(table.pool, min(run.rows or table.rows, len(table.pool)), run.seed)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [*range(os.cpu_count() or 1)]
    busy = psutil.cpu_percent(1.0, percpu=True)
    facts = {
        **asdict(run), "metric": table.metric, "train_rows": len(train), "test_rows": len(table.test), "cores": len(cores),
        "load": round(statistics.mean(busy[core] for core in cores) / 100, 2),
    }  # fmt: skip
    if rival.package is not None and find_spec(rival.package) is None:
        return Run(**{**facts, "why": f"{rival.package} is not installed"})
    name = "-".join(str(part) for part in run.key[:5]).replace(" ", "_")
    work, log = folder / "work" / name, folder / "logs" / f"{name}.txt"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    log.parent.mkdir(exist_ok=True)
    columns = columns_of(table.test[0][0])
    write_train(work / "train.csv", train)
    write_csv(work / "test.csv", columns, [texts for texts, _ in table.test])
    model = find_model(run.model, base=Path.cwd()).folder.resolve()
    given = Given(
        rival=run.rival, model=str(model), model_name=str(model if Path(run.model).is_dir() else run.model), columns=columns,
        numbers=isinstance(table.test[0][1], float), metric=table.metric, minutes=run.minutes or 0.0, seed=run.seed,
        begun=time.time(),
    )  # fmt: skip
    why = in_process(work, log, given)
    if why is None:
        found = json.loads((work / "answers.json").read_text(encoding="utf-8"))
        facts |= {"seconds": round(found["seconds"], 1), "chosen": found["chosen"]}
        value = score(table.metric, [label for _, label in table.test], found["answers"])
        facts |= {"score": round(100 * value, 3)}
        shutil.rmtree(work)
    return Run(**{**facts, "why": why or ""})


def in_process(work: Path, log: Path, given: Given) -> str | None:
    """Run a rival to its end, and return why it failed, or None."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    code = "import sys; from benchmarks.decision_rivals import answer; answer(sys.argv[1])"
    command = [sys.executable, "-P", "-c", code, json.dumps(asdict(given))]
    with log.open("w", encoding="utf-8") as file:
        child = subprocess.Popen(
            command, cwd=work, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            ended = child.wait(timeout=max(3_600, 360 * given.minutes))
        except BaseException as error:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return "it took longer than an hour and six times its minutes"
    lines = log.read_text(encoding="utf-8").strip().splitlines() or [f"exit code {ended}"]
    return None if ended == 0 else lines[-1][:200]


def page(runs: Sequence[Run]) -> list[str]:
    """Return the tables of these runs, apart for whole and for cut tables."""
    lines = ["Scores in points of 100. Intervals of 95 % cover new tables."]
    for rows in sorted({run.rows for run in runs}, key=lambda rows: (rows is not None, rows)):
        of_rows = [run for run in runs if run.rows == rows]
        lines += ["", f"## Tables {'whole' if rows is None else f'cut to {rows} rows'}"]
        lines += _scores(of_rows)
        for own in dict.fromkeys(run.column for run in of_rows if run.rival == OURS):
            lines += _beside(of_rows, own)
        lines += _times(of_rows)
        lines += _regrets(of_rows) if rows is None else []
    return [*lines, ""]


def _means(runs: Sequence[Run]) -> dict[str, dict[str, float]]:
    """Return the mean score over seeds of each column that has one, by table."""
    scores: dict[str, dict[str, list[float]]] = {run.table: {} for run in runs}
    for run in runs:
        if run.score is not None:
            scores[run.table].setdefault(run.column, []).append(run.score)
    return {name: {column: statistics.mean(of) for column, of in found.items()} for name, found in scores.items()}


def _scores(runs: Sequence[Run]) -> list[str]:
    columns, metrics = [*dict.fromkeys(run.column for run in runs)], {run.table: run.metric for run in runs}
    rows = [
        [name, metrics[name], *(_points(found.get(column)) for column in columns)]
        for name, found in _means(runs).items()
    ]
    missing = Counter((run.column, run.why) for run in runs if run.score is None)
    without = [f"Without a score: {column} on {number}: {why}" for (column, why), number in missing.items()]
    lines = ["", "### Score of the delivered model", "", *markdown(["table", "metric", *columns], rows, 2)]
    return [*lines, *(line for one in without for line in ("", one))]


def _beside(runs: Sequence[Run], own: str) -> list[str]:
    """Return how far a column of ours is from the best rival and from each with as many minutes.

    Where `try` wrote no model it is behind the best, and no difference is known.
    """
    tried = {run.table: run.minutes for run in runs if run.column == own}
    minutes = {None, *tried.values()}
    gaps: dict[str, list[float]] = {run.column: [] for run in runs if run.rival != OURS and run.minutes in minutes}
    behind: list[float] = []
    for name, found in _means(runs).items():
        rivals = {column: value for column, value in found.items() if column in gaps}
        if name in tried and rivals:
            behind.append(max(rivals.values()) - found.get(own, -math.inf))
            for column, value in rivals.items() if own in found else ():
                gaps[column].append(found[own] - value)
    close = sum(gap <= AS_GOOD for gap in behind)
    return [
        "", f"### {own}, beside the others", "",
        f"Within {AS_GOOD} points of the best, or better: on {close} of {len(behind)} tables.", "",
        *markdown(["less", "tables", "mean difference", "interval"], [_gap(*one) for one in gaps.items() if one[1]]),
    ]  # fmt: skip


def _points(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}".replace("-", "−")


def _gap(other: str, gaps: Sequence[float]) -> list[str]:
    from scipy import stats

    mean, number = statistics.mean(gaps), len(gaps)
    if number < 2:
        return [other, str(number), _points(mean), "–"]
    half = float(stats.t.ppf(0.975, number - 1)) * statistics.stdev(gaps) / number**0.5
    return [other, str(number), _points(mean), f"{_points(mean - half)} to {_points(mean + half)}"]


def _times(runs: Sequence[Run]) -> list[str]:
    rows = [
        [
            run.column, run.table, str(run.seed), "–" if run.seconds is None else f"{run.seconds / 60:.1f}", str(run.cores),
            _kept(run), "yes" if run.load > BESIDE else "no",
        ]
        for run in runs
        if run.seconds is not None or run.rival == OURS
    ]  # fmt: skip
    header = ["run", "table", "seed", "minutes", "cores", "kept its time", "beside other work"]
    return ["", "### Time", "", *markdown(header, rows, 2)]


def _kept(run: Run) -> str:
    if run.seconds is None:
        return "no model"
    return "–" if run.minutes is None else "yes" if run.seconds <= 60 * OVER * run.minutes else "no"


def _regrets(runs: Sequence[Run]) -> list[str]:
    """Return what the chosen methods lose to the best by the runs of `contest`, where these are committed."""
    folder = ROOT / "baselines" / "contest"
    scores: dict[str, dict[str, list[float]]] = {}
    for record in read_records(folder) if has_records(folder) else ():
        if record.spec.score_on == "test" and record.judged_score is not None:
            of_task = scores.setdefault(record.spec.task.name.removesuffix("_1000"), {})
            of_task.setdefault(record.spec.method.label, []).append(100 * record.judged_score)
    means = {name: {label: statistics.mean(of) for label, of in found.items()} for name, found in scores.items()}
    rows = [
        [run.column, run.table, str(run.chosen), _points(max(means[run.table].values()) - means[run.table][run.chosen])]
        for run in runs
        if run.rival == OURS and run.chosen is not None and run.chosen in means.get(run.table, {})
    ]
    header = ["run", "table", "method", "regret"]
    return ["", "### Regret of the adopted method", "", *markdown(header, rows, 3)] if rows else []


def read_runs(file: Path) -> dict[tuple[Any, ...], Run]:
    """Return the last run of each kind; a line that a kill cut short is none."""
    found = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        with contextlib.suppress(json.JSONDecodeError):
            run = Run(**json.loads(line))
            found[run.key] = run
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what is missing, and print the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(os.environ.get("LORA_BENCH_SHARED", ROOT.parent / "shared"))
    parser.add_argument("--data-dir", type=Path, default=shared / "data", help="folder with glue/ and corpus/")
    parser.add_argument("--tables", default=",".join(DEFAULTS), help=f"of {', '.join(TABLES)}")
    parser.add_argument("--rivals", default=",".join(RIVALS), help=f"of {', '.join(RIVALS)}")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument(
        "--rows", type=int, help="training rows (default: 1,000, or 1,500 of tables that contest lacks)"
    )
    parser.add_argument("--seeds", default="0", help="draws of the training rows, such as 0,1,2")
    parser.add_argument("--model", default="minilm-l6-roberta", help="base model")
    parser.add_argument("--out", type=Path, default=Path("decisions"), help="folder of runs.jsonl, logs/ and page.md")
    given = parser.parse_args(arguments)
    file = given.out / "runs.jsonl"
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.tables.split(","):
        wanted = [
            Run(
                table=name, rows=given.rows, rival=rival, minutes=given.minutes if RIVALS[rival].timed else None,
                seed=int(seed), model=given.model,
            )
            for seed in given.seeds.split(",")
            for rival in given.rivals.split(",")
        ]  # fmt: skip
        done = read_runs(file)
        wanted = [run for run in wanted if run.key not in done or done[run.key].score is None]
        try:
            table = TABLES[name](given.data_dir) if wanted else None
        except LoraBenchError as error:
            print(f"{name}: skipped: {error}", file=sys.stderr)
            continue
        for run in wanted if table is not None else ():
            run = do(run, table, given.out)
            with file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(asdict(run)) + "\n")
            print(f"{name}: {run.column}: {run.why or _points(run.score)}", file=sys.stderr, flush=True)
    text = "\n".join(page([run for run in read_runs(file).values() if run.model == given.model]))
    (given.out / "page.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
