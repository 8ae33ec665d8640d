"""`lora-bench check RUNS --against WHAT`: runs held against other runs, a baseline, or those of a commit."""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from lora_bench.cli.baseline_commands import baseline_folder
from lora_bench.cli.gate_output import BROKE_OFF, DONE, warn, write_answer
from lora_bench.cli.shared_options import records_at
from lora_bench.errors import LoraBenchError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lora_bench.gate.against import Against
    from lora_bench.gate.rerun import Way
    from lora_bench.gate.series import Night
    from lora_bench.records.record import Record
    from lora_bench.report.sections.compare_runs import RunSet


def check_against(arguments: argparse.Namespace) -> int:
    """Judge the runs of a folder against others, write what is asked for, and return the exit code."""
    from lora_bench.gate.against import judge_against
    from lora_bench.gate.against_text import comment_lines

    for option in ("bisect", "step", "cell", "plot", "series"):
        if getattr(arguments, option):
            raise LoraBenchError(f"--{option} is for nights: it goes with --baseline, and not with --against")
    if arguments.runs is None:
        raise LoraBenchError("check takes RUNS, the folder of the suite's runs")
    now = _runs_in(arguments.runs, arguments.runs.resolve().name)
    before, place, night = _other(arguments, now.records)
    found = judge_against(before, now, night=night, margin=arguments.margin, change=arguments.change)
    commands = _next(found, arguments, None if night is not None else place)
    whole = write_answer(found.answer, arguments, commands, comment_lines(found, commands))
    code = found.answer.exit_code
    return code if whole or code != DONE else BROKE_OFF


def _runs_in(folder: Path, name: str) -> RunSet:
    from lora_bench.records.store import answers_in, read_records
    from lora_bench.report.sections.compare_runs import RunSet

    records = read_records(folder)
    return RunSet(name, records, answers_in(folder, records))


def _other(arguments: argparse.Namespace, records: Sequence[Record]) -> tuple[RunSet, Path, Night | None]:
    """The runs to hold against, and the accepted night that they are: a folder, then a baseline, then a git reference."""
    from lora_bench.gate.against import plan_of
    from lora_bench.gate.base_runs import commit_of, kept_runs, runs_of_commit
    from lora_bench.gate.baseline import read_nights
    from lora_bench.gate.night_runs import runs_of_night
    from lora_bench.gate.read_night import night_of
    from lora_bench.records.store import has_records

    given: str = arguments.against
    folder = records_at(given)
    if folder.is_dir():
        return _runs_in(folder, given), folder, None
    try:
        baseline = baseline_folder(given)
    except LoraBenchError as none_of_that_name:
        try:
            commit = commit_of(given)
        except LoraBenchError:
            raise LoraBenchError(
                f"--against {given}: there is no such folder, baseline or git reference"
            ) from none_of_that_name
    else:
        if has_records(baseline):
            return _runs_in(baseline, given), baseline, None
        if not (nights := read_nights(baseline)):
            raise LoraBenchError(f"baseline {given} has neither records nor accepted nights")
        return runs_of_night(nights[-1], given, records), baseline, nights[-1]
    suite = records[0].suite
    series = records[0].spec.series
    way = way_of(arguments, arguments.suite or (f"{suite}.yaml" if Path(f"{suite}.yaml").is_file() else suite))
    # Said before the other half of the runs is done.
    warn(
        f"{commit[:12]}: {plan_of(night_of(records, 'now').cells, arguments.margin).text}, by the runs of {arguments.runs}"
    )
    folder = runs_of_commit(commit, kept_runs(arguments.runs, commit), suite, series, way)
    return _runs_in(folder, f"{given} at {commit[:12]}"), folder, None


def _next(found: Against, arguments: argparse.Namespace, place: Path | None) -> list[str]:
    """The two commands that a reader may need next; *place* has the records of the runs held against."""
    suite = shlex.quote(arguments.suite or found.answer.suite)
    show = ["baseline", "show", found.answer.baseline]
    runs = os.path.relpath(arguments.runs)
    compare = shlex.join(["lora-bench", *(show if place is None else ["compare", os.path.relpath(place), runs])])
    if found.answer.verdict == "undecided":
        more = "with more seeds" if found.seeds is None else f"with {found.seeds} seeds"
        return [f"lora-bench run {suite}  # {more} in the suite, before and after the change", compare]
    if found.answer.verdict == "failed":
        return [f"lora-bench run {suite} --retry", compare]
    return [compare, shlex.join(["lora-bench", "report", os.path.relpath(arguments.runs)])]


def way_of(arguments: argparse.Namespace, suite: str) -> Way:
    """Return the way to run a suite with the options of `check`."""
    from lora_bench.gate.rerun import Way

    options = [option for model in arguments.allow_pickle for option in ("--allow-pickle", model)]
    options += [option for permission in arguments.allow_code for option in ("--allow-code", permission)]
    if arguments.data_dir is not None:
        options += ["--data-dir", str(arguments.data_dir)]
    return Way(suite, tuple(options), workers=arguments.workers)
