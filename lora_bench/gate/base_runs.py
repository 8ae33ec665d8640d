"""The runs of another commit, done once and kept: what runs are held against where a git reference is named."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from lora_bench.errors import WorkBroken
from lora_bench.gate.bisect import git
from lora_bench.gate.bisect_environments import checked_out, installed
from lora_bench.gate.rerun import Way
from lora_bench.records.store import record_files
from lora_bench.util.hashing import content_hash
from lora_bench.util.regular_files import MIB, read_regular

# Written when all runs of a commit are done, so that a kept folder needs no environment to tell.
COMPLETE = "complete"


def commit_of(given: str) -> str:
    """Return the hash of the commit that a git reference of the working folder names.

    Raises:
        LoraBenchError: If there is none.
    """
    return git(Path.cwd(), "rev-parse", "--verify", "--end-of-options", f"{given}^{{commit}}").strip()


def kept_runs(runs: Path, commit: str) -> Path:
    """Return the folder of a commit's runs, beside *runs*: CI may keep it between jobs."""
    own = runs.resolve()
    return own.parent / f"{own.name}-against" / commit[:12]


def runs_of_commit(commit: str, place: Path, suite_name: str, series: str | None, way: Way) -> Path:
    """Do a suite's missing runs with the working folder's project as of a commit, installed in an environment of its own.

    *place* receives the runs, and a log of git, pip and the runs. The same label of a series gives the same seeds.

    Raises:
        WorkBroken: If the commit cannot be checked out or installed, or its runs cannot be started.
    """
    found = place / "runs" / suite_name / (series or "")
    # A suite that changed has other runs at the same commit.
    file = Path(way.suite)
    done = f"{commit} {content_hash(read_regular(file, MIB).decode('utf-8') if file.is_file() else way.suite)}\n"
    if (
        (place / COMPLETE).is_file()
        and read_regular(place / COMPLETE, MIB) == done.encode("utf-8")
        and record_files(found)
    ):
        return found
    place.mkdir(parents=True, exist_ok=True)
    log = place / "log.txt"
    with ExitStack() as stack:
        checkout = stack.enter_context(checked_out(place / "checkout", Path.cwd(), commit, log))
        if checkout is None:
            raise WorkBroken(f"commit {commit[:12]} cannot be checked out: see {log}")
        environment = stack.enter_context(installed(place / "venv", str(checkout), log))
        if environment is None:
            raise WorkBroken(f"commit {commit[:12]} cannot be installed: see {log}")
        way = replace(way, python=environment.python, environment=environment.environment)
        of_series = () if series is None else ("--series", series)
        code = way.do("run", place / "runs", "--no-probes", *of_series, log=log)
    if code not in (0, 3) or not record_files(found):
        raise WorkBroken(f"the runs of commit {commit[:12]} could not be done (exit code {code}): see {log}")
    (place / COMPLETE).write_text(done, encoding="utf-8")
    return found
