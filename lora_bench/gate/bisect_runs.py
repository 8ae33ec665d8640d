"""Tries of a search: run the failing cell in each environment with the seeds of the night."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from lora_bench.gate.bisect import SAID, Candidates, Tried, tried
from lora_bench.gate.bisect_environments import checked_out, installed
from lora_bench.gate.judge import judge
from lora_bench.gate.night_answer import Answer, SeriesAnswer
from lora_bench.gate.read_night import read_night
from lora_bench.gate.rerun import Way
from lora_bench.gate.series import Night
from lora_bench.records.store import record_files
from lora_bench.report.text import plain, score


@dataclass
class Tries:
    """Runs a failing cell in environments and classifies each try; `told` has a line for each.

    Tries are compared with the nights that the cell was compared with. *folder* receives a folder for each environment, with
    the runs and the output of pip and of the runs. *margin* replaces the margins that the suite declares.
    """

    cell: SeriesAnswer
    answer: Answer
    accepted: Sequence[Night]
    way: Way
    folder: Path
    margin: float | None = None
    told: list[str] = field(default_factory=list)

    def at(self, candidates: Candidates, index: int) -> Tried:
        """Try one candidate and print the result."""
        name = candidates.names[index]
        place = self.folder.resolve() / f"{candidates.package or 'commit'}-{name.replace('!', '-').replace('+', '-')}"
        place.mkdir(parents=True, exist_ok=True)
        log = place / "log.txt"
        with ExitStack() as stack:
            target: str | None = candidates.requirement(name)
            if target is None:
                checkout = stack.enter_context(checked_out(place / "checkout", Path.cwd(), name, log))
                target = None if checkout is None else str(checkout)
            environment = None if target is None else stack.enter_context(installed(place / "venv", target, log))
            if environment is None:
                return self._say(
                    name, "skip", f"it cannot be installed, see {log.name} in {place.parent.name}/{place.name}"
                )
            way = replace(self.way, python=environment.python, environment=environment.environment)
            return self._try(name, place, way, log)

    def here(self) -> Tried:
        """Try the environment of this process; keep nothing, since its code may change before the next search."""
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            return self._try("this environment", Path(folder), self.way, None)

    def _try(self, name: str, place: Path, way: Way, log: Path | None) -> Tried:
        label = self.answer.label
        only = [option for run_id in self.cell.run_ids for option in ("--only", run_id)]
        code = way.do("run", place / "runs", "--series", label, "--no-probes", *only, log=log)
        runs = place / "runs" / self.answer.suite / label
        if code not in (0, 3) or not record_files(runs):
            said = log.read_text(encoding="utf-8", errors="replace").split("\n") if log is not None else []
            last = next((f": {line}" for line in reversed(said) if line.strip()), "")
            return self._say(name, "skip", f"its runs could not be done (exit code {code}){last}")
        one = self._judged(read_night(runs, label))
        result = tried(one, self.cell)
        findings = "; ".join(finding.text for finding in one.findings) if one is not None else "the cell is not there"
        return self._say(name, result, findings or f"{score(one.observed if one is not None else None)}")

    def _judged(self, night: Night) -> SeriesAnswer | None:
        """Judge the cell of a try against the same nights that it failed against."""
        answer = judge(night, self.accepted[: self.answer.nights], self.answer.baseline, margin=self.margin)
        return next((one for one in answer.series if one.name == self.cell.name), None)

    def _say(self, name: str, result: Tried, why: str) -> Tried:
        self.told.append(plain(f"{name}: {SAID[result]}: {why}", 1000))
        print(self.told[-1], flush=True)
        return result
