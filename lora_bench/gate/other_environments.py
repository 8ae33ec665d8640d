"""Runs in other environments: tries of a search, with the seeds of the night, and the runs of another commit.

An environment is one package, or one checkout, in front of everything that is installed here. A virtual environment takes a
second to make, since it sees this one's packages through a path file. Pip installs into it only the searched package and
dependencies that need another version. Nothing else differs, and nothing large is installed twice.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from lora_bench.errors import WorkBroken
from lora_bench.gate.bisect import SAID, Candidates, Tried, git, tried
from lora_bench.gate.judge import judge
from lora_bench.gate.night_answer import Answer, SeriesAnswer
from lora_bench.gate.read_night import read_night
from lora_bench.gate.rerun import Way
from lora_bench.gate.series import Night
from lora_bench.records.store import record_files
from lora_bench.report.text import plain, score
from lora_bench.util.child_process import python_command
from lora_bench.util.hashing import content_hash
from lora_bench.util.paths import PACKAGE
from lora_bench.util.regular_files import MIB, read_regular

# Pip's own variables (PIP_INDEX_URL, PIP_FIND_LINKS, PIP_NO_INDEX) set the source of packages.
PATH_FILE = "of_the_environment_that_searches.pth"
# Written when all runs of a commit are done, so that a kept folder needs no environment to tell.
COMPLETE = "complete"


@dataclass
class Tries:
    """Runs a failing cell in environments, and classifies and prints each try.

    Tries are compared with the nights that the cell was compared with. *folder* receives a folder for each environment, with
    the runs and the output of pip and of the runs. *margin* replaces the margins that the suite declares.
    """

    cell: SeriesAnswer
    answer: Answer
    accepted: Sequence[Night]
    way: Way
    folder: Path
    margin: float | None = None

    def at(self, candidates: Candidates, index: int) -> Tried:
        """Try one candidate and print the result."""
        name = candidates.names[index]
        place = self.folder.resolve() / f"{candidates.package or 'commit'}-{name.replace('!', '-').replace('+', '-')}"
        place.mkdir(parents=True, exist_ok=True)
        log = place / "log.txt"
        with ExitStack() as stack:
            target = None if candidates.package is None else f"{candidates.package}=={name}"
            if target is None:
                checkout = stack.enter_context(checked_out(place / "checkout", Path.cwd(), name, log))
                target = None if checkout is None else str(checkout)
            way = None if target is None else stack.enter_context(installed(self.way, place / "venv", target, log))
            if way is None:
                return self._say(
                    name, "skip", f"it cannot be installed, see {log.name} in {place.parent.name}/{place.name}"
                )
            return self._try(name, place, way, log)

    def _try(self, name: str, place: Path, way: Way, log: Path) -> Tried:
        label = self.answer.label
        only = [option for run_id in self.cell.run_ids for option in ("--only", run_id)]
        code = way.do("run", place / "runs", "--series", label, "--no-probes", *only, log=log)
        runs = place / "runs" / self.answer.suite / label
        if code not in (0, 3) or not record_files(runs):
            said = log.read_text(encoding="utf-8", errors="replace").split("\n")
            last = next((f": {line}" for line in reversed(said) if line.strip()), "")
            return self._say(name, "skip", f"its runs could not be done (exit code {code}){last}")
        # Against the same nights that the cell failed against.
        accepted = self.accepted[: self.answer.nights]
        answer = judge(read_night(runs, label), accepted, self.answer.baseline, margin=self.margin)
        one = next((one for one in answer.series if one.name == self.cell.name), None)
        result = tried(one, self.cell)
        findings = "; ".join(finding.text for finding in one.findings) if one is not None else "the cell is not there"
        return self._say(name, result, findings or f"{score(one.observed if one is not None else None)}")

    def _say(self, name: str, result: Tried, why: str) -> Tried:
        print(plain(f"{name}: {SAID[result]}: {why}", 1000), flush=True)
        return result


def commit_of(given: str) -> str:
    """Return the hash of the commit that a git reference of the working folder names. Raise LoraBenchError if there is none."""
    return git(Path.cwd(), "rev-parse", "--verify", "--end-of-options", f"{given}^{{commit}}").strip()


def runs_of_commit(commit: str, runs: Path, suite_name: str, series: str | None, way: Way) -> Path:
    """Do a suite's missing runs with the working folder's project as of a commit, installed in an environment of its own.

    They go beside *runs*, with a log of git, pip and the runs; CI may keep that folder between jobs. The same label of a series
    gives the same seeds. Raise WorkBroken if the commit cannot be checked out or installed, or its runs cannot be started.
    """
    place = runs.resolve().parent / f"{runs.resolve().name}-against" / commit[:12]
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
        there = stack.enter_context(installed(way, place / "venv", str(checkout), log))
        if there is None:
            raise WorkBroken(f"commit {commit[:12]} cannot be installed: see {log}")
        of_series = () if series is None else ("--series", series)
        code = there.do("run", place / "runs", "--no-probes", *of_series, log=log)
    if code not in (0, 3) or not record_files(found):
        raise WorkBroken(f"the runs of commit {commit[:12]} could not be done (exit code {code}): see {log}")
    (place / COMPLETE).write_text(done, encoding="utf-8")
    return found


@contextmanager
def installed(way: Way, folder: Path, requirement: str, log: Path) -> Iterator[Way | None]:
    """Yield *way* in a virtual environment with *requirement*, or None if pip cannot install it; remove it after the block.

    The requirement is `PACKAGE==VERSION` or a folder; *log* receives the output of pip. Remains of a killed search are deleted.
    """
    try:
        python = _made(folder)
        command = python_command("pip", "--python", str(python), "install", "--disable-pip-version-check", requirement)
        with log.open("ab") as file:
            done = subprocess.run(command, env=_variables(), stdout=file, stderr=subprocess.STDOUT, check=False)
        yield replace(way, python=str(python), environment=_variables()) if done.returncode == 0 else None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def checked_out(folder: Path, repository: Path, commit: str, log: Path) -> Iterator[Path | None]:
    """Check out a commit beside the repository, or yield None if git cannot; remove it after the block."""
    # Remains of a killed search; git still knows the checkout, hence --force.
    shutil.rmtree(folder, ignore_errors=True)
    worktree = ["git", "-C", str(repository), "worktree"]
    with log.open("ab") as file:
        done = subprocess.run(
            [*worktree, "add", "--detach", "--force", str(folder.resolve()), commit],
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
        )
    try:
        yield folder if done.returncode == 0 else None
    finally:
        subprocess.run([*worktree, "remove", "--force", str(folder.resolve())], capture_output=True, check=False)
        shutil.rmtree(folder, ignore_errors=True)


def _made(folder: Path) -> Path:
    """Make a virtual environment that sees this one's packages behind its own; return its interpreter."""
    builder = venv.EnvBuilder(clear=True, with_pip=False, symlinks=os.name != "nt")
    builder.create(folder)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    site = sysconfig.get_path("purelib", scheme="venv", vars={"base": str(folder), "platbase": str(folder)})
    given = [str(Path(path).absolute()) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    # A user's own packages, and those of the system that this environment sees, are not where its own are.
    seen = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    own = (sysconfig.get_path(name) for name in ("purelib", "platlib"))
    behind = dict.fromkeys([*given, *seen, *own, str(PACKAGE.parent)])
    # `addsitedir` and not the bare path: packages that are installed for editing lie behind path files of their own.
    lines = [f"import site; site.addsitedir({path!r})" for path in behind]
    (Path(site) / PATH_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return python


def _variables() -> dict[str, str]:
    """Return this process's variables without those that would put other packages before the environment's."""
    without = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    # The working folder may be a checkout of what is searched.
    return {**without, "PYTHONSAFEPATH": "1"}
