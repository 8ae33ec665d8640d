"""Runs that the gate starts in child processes: suspect runs with new seeds, or a failing cell in another environment.

The suite is the one that the user names, or the one beside the baseline; commands in records are never executed.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from lora_bench.errors import LoraBenchError
from lora_bench.gate.baseline import CONFIRMATION
from lora_bench.gate.night_answer import SeriesAnswer
from lora_bench.gate.read_night import night_of
from lora_bench.gate.series import Night
from lora_bench.records.outcomes import at_work
from lora_bench.records.probe_record import ProbeRecord
from lora_bench.records.probe_store import probe_files, read_probes
from lora_bench.records.record import Record
from lora_bench.records.store import read_records, record_files
from lora_bench.stats.gate import CONFIRMATIONS
from lora_bench.util.paths import PACKAGE
from lora_bench.util.signals import CODES, Stopped, stopping_on_signals

NAMES = {code: name for name, code in CODES.items()}

# Seconds that a child has to end at once; its workers take up to ten.
INSIST_SECONDS = 15.0
AGAIN = "probed-again"


@dataclass(frozen=True)
class Way:
    """Settings for repeating runs.

    *options* are further ones of `lora-bench run` and `probe`, such as `--data-dir FOLDER`; *workers* are for runs alone.
    """

    suite: str
    options: tuple[str, ...] = ()
    python: str = sys.executable
    environment: dict[str, str] | None = None
    workers: int | None = None

    def command(self, verb: str, runs: Path, *arguments: str) -> list[str]:
        """Return the command that writes its runs to *runs*."""
        workers = ["--workers", str(self.workers)] if self.workers is not None and verb == "run" else []
        given = ["--runs", str(runs), *arguments, *self.options, *workers, "--quiet"]
        return [self.python, "-m", "lora_bench.cli", verb, self.suite, *given]

    @at_work()
    def do(self, verb: str, runs: Path, *arguments: str, log: Path | None = None) -> int:
        """Start the runs, wait for them and return the exit code.

        *verb* is `run` or `probe`; *runs* receives `SUITE/...`, and *log* the output, by default the terminal. Raise Stopped if
        a signal ended them, whose progress is saved, and WorkBroken if they cannot be started.
        """
        command = self.command(verb, runs, *arguments)
        environment = self.environment or own_environment()
        with ExitStack() as stack:
            file = None if log is None else stack.enter_context(log.open("ab"))
            # In its own session, so that a terminal's signal reaches it once, from this process: a second one ends it at once.
            child = subprocess.Popen(
                command,
                env=environment,
                start_new_session=True,
                stdout=file,
                stderr=None if file is None else subprocess.STDOUT,
            )
            try:
                with stopping_on_signals(lambda name: child.send_signal(signal.Signals[name])) as stopped:
                    code = child.wait()
            except Stopped as stop:
                _insist(child, stop.name)
                raise
        if stopped or code in NAMES:
            raise Stopped(stopped[0] if stopped else NAMES[code])
        return code


def _insist(child: subprocess.Popen[bytes], name: str) -> None:
    """Pass on a repeated signal, and kill a child that does not end on it."""
    try:
        child.send_signal(signal.Signals[name])
        with suppress(subprocess.TimeoutExpired):
            child.wait(INSIST_SECONDS)
    finally:
        # Also if a third signal came meanwhile.
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL) if hasattr(os, "killpg") else child.kill()
            child.wait()


def own_environment() -> dict[str, str]:
    """Return this process's variables, set so that a child imports this same lora_bench."""
    path = os.pathsep.join([str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    # `-m` puts the working folder first, which may be a checkout of what is installed; the script `lora-bench` does not.
    alike = {} if {"", str(Path.cwd())} & set(sys.path) else {"PYTHONSAFEPATH": "1"}
    return {**os.environ, "PYTHONPATH": path, **alike}


def read_confirmations(folder: Path, label: str) -> list[Night]:
    """Read the sets of repeated runs of a night: the series LABEL-confirm and LABEL-confirm-confirm beside it."""
    found = []
    for number in range(1, CONFIRMATIONS + 1):
        series = f"{label}{CONFIRMATION * number}"
        # Resolved, since the night may be given as `.`, which has no parent.
        place = folder.resolve().parent / series
        records = read_records(place) if record_files(place) else []
        probes: list[ProbeRecord] = []
        for probed in filter(probe_files, sorted(place.glob(f"{AGAIN}/*"))):
            probes += read_probes(probed)
        if not records and not probes:
            break
        found.append(night_of(records, series, probes))
    return found


def confirm(
    folder: Path, label: str, suite_name: str, suspects: Sequence[SeriesAnswer], way: Way, number: int = 1
) -> list[Night]:
    """Repeat the runs of suspect series of a night, `RUNS/SUITE/LABEL`, in a fresh process with new seeds.

    *number* is that of this set of runs, from 1. Return all sets of repeated runs. Raise LoraBenchError if there is no place
    for a second series beside the night's folder, and Stopped if a signal ended the runs.
    """
    resolved = folder.resolve()
    if resolved.parent.name != suite_name:
        raise LoraBenchError(
            f"{folder} is not RUNS/{suite_name}/LABEL, so what is suspect cannot be run again beside it; "
            "run the suite with --series LABEL, or leave it undecided with --no-confirm"
        )
    records = {record.run_id: record for record in read_records(folder)} if record_files(folder) else {}
    again = [records[run_id] for one in suspects for run_id in one.run_ids if run_id in records]
    series = f"{label}{CONFIRMATION * number}"
    if again:
        _checked(way.do("run", resolved.parents[1], "--series", series, "--no-probes", *_only(again, series)))
    if any(one.name.task is None for one in suspects):
        _checked(way.do("probe", resolved.parent / series / AGAIN))
    return read_confirmations(folder, label)


def _only(records: Sequence[Record], series: str) -> list[str]:
    """Return options that select the runs of *records* in another series, whose ids follow from their specs."""
    if any(record.spec.start is not None for record in records):
        return []  # runs that they start from have other ids in another series too: the whole suite is run
    ids = (record.spec.model_copy(update={"series": series}).run_id for record in records)
    return [option for run_id in ids for option in ("--only", run_id)]


def _checked(code: int) -> None:
    if code not in (0, 3):
        raise LoraBenchError(f"what is suspect could not be run again: the child ended with exit code {code}")
