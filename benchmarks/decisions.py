"""What a user gets who has a table and some minutes: from `lora-bench try`, and from what people use today.

    LORA_BENCH_SHARED=FOLDER python -m benchmarks.decisions --minutes 10 --out decisions    hours; goes on where it stopped
    python -m benchmarks.decisions --minutes 3 --rows 300 --rivals try,optuna               tables cut to 300 rows
    python -m benchmarks.decisions --rivals try --busy 2                                    beside two busy loops
    python -m benchmarks.decisions --rivals autogluon --python autogluon=ag/bin/python      in an environment of its own

Each rival reads `train.csv` and answers `test.csv`, in a process of its own; the labels of the test rows stay here. Seconds go
from the start of that process to the model, the answers not counted. `runs.jsonl` in the folder has a line a run, and a second
start does what has no score there; the page, also printed, is beside the folder. With seed 0 a table of `contest` has the rows
that suite trains on, so its runs tell the regret of a method. No data is downloaded: a table without its data is skipped.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path

from benchmarks.decision_page import Run, page, points, read_runs
from benchmarks.decision_rivals import RIVALS, Given, columns_of, score, write_csv, write_train
from benchmarks.decision_tables import DEFAULTS, TABLES, Table, some
from lora_bench.errors import LoraBenchError

ROOT = Path(__file__).parents[1]


def do(run: Run, table: Table, folder: Path, python: str = sys.executable) -> Run:
    """Let a rival read the table and answer, under an interpreter, and return the run with its outcome."""
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
    if rival.package is not None and not has(python, rival.package):
        return Run(**{**facts, "why": f"{rival.package} is not installed"})
    name = "-".join(str(part) for part in run.key[:-1]).replace(" ", "_")
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
    with busy_loops(run.busy):
        why = in_process(work, log, given, python)
    if why is None:
        found = json.loads((work / "answers.json").read_text(encoding="utf-8"))
        value = score(table.metric, [label for _, label in table.test], found.pop("answers"))
        facts |= {**found, "score": round(100 * value, 3)}
        shutil.rmtree(work)
    return Run(**{**facts, "why": why or ""})


def has(python: str, package: str) -> bool:
    """Return True if an interpreter finds a package."""
    code = "import sys; from importlib.util import find_spec; sys.exit(find_spec(sys.argv[1]) is None)"
    return subprocess.run([python, "-P", "-c", code, package], capture_output=True, check=False).returncode == 0


@contextlib.contextmanager
def busy_loops(number: int) -> Iterator[None]:
    """Keep so many cores busy, until the block is left or this process is gone."""
    code = "import os\nparent = os.getppid()\nwhile True:\n    sum(range(100_000))\n    os.getppid() == parent or os._exit(0)"
    loops: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(number):
            loops.append(subprocess.Popen([sys.executable, "-S", "-c", code], start_new_session=True))
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def in_process(work: Path, log: Path, given: Given, python: str) -> str | None:
    """Run a rival to its end, and return why it failed, or None."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    code = "import sys; from benchmarks.decision_rivals import answer; answer(sys.argv[1])"
    command = [python, "-P", "-c", code, json.dumps(asdict(given))]
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
    parser.add_argument("--busy", type=int, default=0, help="busy loops beside each rival")
    parser.add_argument(
        "--python", action="append", default=[], metavar="RIVAL=FILE", help="interpreter of a rival that has its own"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("decisions"), help="folder of runs.jsonl; the page is FOLDER.md"
    )
    given = parser.parse_args(arguments)
    pythons = dict(word.partition("=")[::2] for word in given.python)
    if not {*pythons} <= {*RIVALS} or not all(Path(python).is_file() for python in pythons.values()):
        parser.error(f"--python is RIVAL=FILE, the file there, the rival one of {', '.join(RIVALS)}")
    file = given.out / "runs.jsonl"
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.tables.split(","):
        wanted = [
            Run(
                table=name, rows=given.rows, rival=rival, minutes=given.minutes if RIVALS[rival].timed else None,
                seed=int(seed), model=given.model, busy=given.busy,
            )
            for seed in given.seeds.split(",")
            for rival in given.rivals.split(",")
        ]  # fmt: skip
        done = read_runs(file)
        wanted = [run for run in wanted if run.key not in done or done[run.key].score is None]
        try:
            # Read only where something is missing.
            tables = [TABLES[name](given.data_dir)] if wanted else []
        except LoraBenchError as error:
            print(f"{name}: skipped: {error}", file=sys.stderr)
            continue
        for run, table in product(wanted, tables):
            # Not resolved: a link to an interpreter is what makes an environment of it.
            run = do(run, table, given.out, str(Path(pythons.get(run.rival, sys.executable)).absolute()))
            with file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(asdict(run)) + "\n")
            print(f"{name}: {run.column}: {run.why or points(run.score)}", file=sys.stderr, flush=True)
    text = "\n".join(page([run for run in read_runs(file).values() if run.model == given.model], given.out))
    place = given.out.resolve()
    place.with_name(f"{place.name}.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    # As Ctrl-C does, `kill` ends the rival, which has a session of its own.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main()
