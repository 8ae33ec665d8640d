"""The command `check`: a night held against accepted nights, the gate's tests of itself, and the search for a change."""

from __future__ import annotations

import argparse
import shlex
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from lora_bench.cli.against_command import check_against, way_of
from lora_bench.cli.baseline_commands import baseline_folder, night_options
from lora_bench.cli.gate_output import BROKE_OFF, DONE, print_lines, warn, write_answer
from lora_bench.cli.help import Commands, Group, add_command
from lora_bench.cli.shared_options import permission_options, records_at
from lora_bench.errors import LoraBenchError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lora_bench.gate import Answer, Night
    from lora_bench.gate.rerun import Way

# To `git bisect run`, 2 would be a bad commit, and so would Python's 1 of a commit whose code is broken.
ENDS_GIT_BISECT, SKIPPED_BY_GIT_BISECT = 128, 125


def add_check(commands: Commands) -> None:
    """Add the command `check`."""
    check = add_command(
        commands,
        "check RUNS --against WHAT | --baseline NAME",
        "say whether runs regressed: against other runs or a commit, or tonight's against accepted nights",
        "lora-bench check runs/tickets --against main --suite tickets.yaml",
        _check,
        more="Exit codes: 0 pass, 1 regression, 2 bad input, 3 runs failed or are missing,\n"
        "4 cannot decide, as with too few seeds, or fewer than eight accepted nights.",
        resumes=True,
    )
    what, where, how, output = check.what, check.where, check.how, check.output
    what.takes("runs", "RUNS", "runs/SUITE that `run --series` wrote, or one night in it", type=records_at, nargs="?")
    other = Group(what.of.add_mutually_exclusive_group(required=True))
    other.takes(
        "--against",
        "WHAT",
        "hold RUNS against other runs of the suite: a folder, a baseline (its records, else its last night), or a git "
        "reference, whose runs are done in an environment of their own and kept in RUNS-against",
    )
    other.takes("--baseline", "NAME", "baseline with accepted nights: of ./baselines, of the package, or a path")
    night_options(what)
    differ = "why settings of the suite differ from those of the other runs (--against; without it the answer is 4)"
    what.takes("--change", "WHY", differ)
    suite = "suite to run suspect series again with (default: the baseline's), or to run at the git reference"
    what.takes("--suite", "SUITE", suite)
    permission_options(
        what,
        "read this base model's pickled weights in those runs, as `run` does; may be repeated",
        "run this code of the suite in those runs, as `run` does; may be repeated",
    )
    where.takes("--data-dir", "FOLDER", "folder of data sets for those runs, as in `run`", type=Path)
    how.flag("--no-confirm", "run nothing again; suspect series then stay undecided")
    how.takes("--workers", "N", "runs at once when series are run again (default: as `run`)", type=int)
    output.takes("--markdown", "FILE", "write a comment for a pull request (--against)", type=Path)
    output.takes("--json", "FILE", "write the whole answer", type=Path)
    output.takes("--junit", "FILE", "write JUnit XML, one test case per series", type=Path)
    output.flag("--github", "write annotations and a step summary of a GitHub workflow")
    output.takes("--badge", "FILE", "write JSON for the badge endpoint of shields.io", type=Path)
    output.takes("--plot", "FOLDER", "draw one SVG per series: its nights, bounds and tonight", type=Path)
    search = Group(check.parser.add_argument_group("search for the change that made a series fail"))
    search.takes(
        "--bisect", "WHAT", "PACKAGE=OLD,...,NEW for versions, or GOOD..BAD for commits; prints the cost first"
    )
    search.flag("--yes", "do the search (default: only print its cost)")
    search.takes("--cell", "SERIES", "the failing series (default: the worst)")
    search.flag(
        "--step",
        "try the series in this environment, for `git bisect run`: exit with 0 good, 1 bad, 125 neither",
    )


def _check(arguments: argparse.Namespace) -> int:
    try:
        return _checked(arguments)
    except (LoraBenchError, OSError) as error:
        if not arguments.step:
            raise
        warn(str(error))
        return ENDS_GIT_BISECT
    except Exception:
        if not arguments.step:
            raise
        traceback.print_exc()
        return SKIPPED_BY_GIT_BISECT


def mistaken_code(argv: Sequence[str], code: int) -> int:
    """The exit code of a command line that is none: `check --step` says nothing of a commit."""
    # As argparse has it, an option may be cut short, and no other of `check` begins like this one.
    asks = "check" in argv[:1] and any(argument.startswith("--st") for argument in argv)
    return ENDS_GIT_BISECT if asks and code else code


def _checked(arguments: argparse.Namespace) -> int:
    from lora_bench.gate.baseline import read_nights

    if arguments.against is not None:
        return check_against(arguments)
    if arguments.markdown is not None:
        raise LoraBenchError("--markdown goes with --against; a night has --github and --json")
    if arguments.change is not None:
        raise LoraBenchError("--change goes with --against here; `baseline accept` takes it for a night")
    folder = baseline_folder(arguments.baseline, may_begin=True)
    accepted = read_nights(folder)
    if arguments.runs is None:
        raise LoraBenchError("check takes RUNS, the folder of the suite's runs")
    if arguments.step or arguments.bisect is not None:
        return _search(arguments, folder, accepted)
    answer = _answer(arguments, folder, accepted, may_confirm=not arguments.no_confirm)
    whole = write_answer(answer, arguments, _next(answer, arguments.runs))
    # An answer that is known stays what it is; only a pass without all that was asked for is none.
    return answer.exit_code if whole or answer.exit_code != DONE else BROKE_OFF


def _answer(arguments: argparse.Namespace, folder: Path, accepted: Sequence[Night], *, may_confirm: bool) -> Answer:
    """Judge tonight's run, and run suspect series again if allowed."""
    from lora_bench.gate import judge, read_night, tonight_in
    from lora_bench.gate.baseline import before
    from lora_bench.gate.rerun import confirm, read_confirmations
    from lora_bench.stats.gate import CONFIRMATIONS

    label, place = tonight_in(arguments.runs, accepted, arguments.series)
    tonight = read_night(place, label)
    earlier = before(accepted, tonight.label)
    if any(night.label == tonight.label for night in accepted):
        last = f"the last of which is {earlier[-1].label}" if earlier else "so against none"
        warn(f"{tonight.label} is accepted already; it is held against the {len(earlier)} nights before it, {last}")
    again = read_confirmations(place, tonight.label)
    answer = judge(tonight, earlier, folder.name, again, margin=arguments.margin)
    for number in range(1, CONFIRMATIONS + 1):
        done = again[number - 1].by_series() if number <= len(again) else {}
        suspects = [one for one in answer.suspects if one.series not in done]
        if not suspects or not may_confirm:
            continue
        way = _way(arguments, folder)
        if way is None:
            warn(
                f"{len(suspects)} series are suspect, and no suite is known to run them again: "
                f"{folder / 'suite.yaml'} is not there; name it with --suite"
            )
            return answer
        warn(f"{len(suspects)} series are suspect; they are run again with new seeds")
        try:
            again = confirm(place, tonight.label, tonight.suite, suspects, way, number)
        except LoraBenchError as error:
            # The night has an answer all the same: what was not confirmed is not decided.
            warn(str(error))
            return answer
        answer = judge(tonight, earlier, folder.name, again, margin=arguments.margin)
    return answer


def _way(arguments: argparse.Namespace, folder: Path) -> Way | None:
    """Return a way to run series again, or None without a known suite; a record's own command is not trusted."""
    suite = arguments.suite or (str(folder / "suite.yaml") if (folder / "suite.yaml").is_file() else None)
    return None if suite is None else way_of(arguments, suite)


def _next(answer: Answer, runs: Path) -> list[str]:
    """The two commands that a user may need after an answer other than a pass."""
    from lora_bench.gate.accepting import open_findings

    place, suite = shlex.quote(str(runs)), shlex.quote(answer.suite)
    here = f"lora-bench check {place} --baseline {answer.baseline}"
    accept = f"lora-bench baseline accept {place} --name {answer.baseline} --reason"
    accept_change = f'{accept} "it is meant" --change "why"'
    if answer.verdict == "regression":
        return [f"{here} --bisect GOOD..BAD", accept_change]
    if answer.verdict == "failed":
        return [f"lora-bench run {suite} --series {answer.label} --retry", here]
    show = f"lora-bench baseline show {answer.baseline}"
    if answer.suspects:
        return [f"{here} --suite SUITE", show]
    if any(open_findings(one) for one in answer.series):
        return [show, accept_change]  # without a reason for the change it would be refused
    return [f'{accept} "no history yet"', f"lora-bench run {suite} --series NEXT-LABEL"]


def _search(arguments: argparse.Namespace, folder: Path, accepted: Sequence[Night]) -> int:
    """Search versions or commits for the change that made a cell fail, or try the cell in this environment."""
    from lora_bench.gate import bisect
    from lora_bench.gate.bisect_runs import Tries

    answer = _answer(arguments, folder, accepted, may_confirm=False)
    one = bisect.failing_cell(answer, arguments.cell)
    way = _way(arguments, folder)
    if way is None:
        raise LoraBenchError(
            f"the suite to run is not known: {folder / 'suite.yaml'} is not there; name it with --suite"
        )
    tries = Tries(one, answer, accepted, way, _tries_folder(arguments, accepted), arguments.margin)
    if arguments.step:
        result = tries.here()
        print(bisect.SAID[result])
        return bisect.EXIT_CODES[result]
    found = bisect.candidates(arguments.bisect, Path())
    print_lines(bisect.cost_lines(found, one))
    if not arguments.yes:
        print("the same with --yes does it")
        return DONE
    ended = bisect.search(len(found.names), lambda index: tries.at(found, index))
    print_lines(bisect.found_lines(ended, found))
    return DONE


def _tries_folder(arguments: argparse.Namespace, accepted: Sequence[Night]) -> Path:
    """The folder of a search's runs, beside the night: the same command run again does only the missing ones."""
    from lora_bench.gate import tonight_in

    _, place = tonight_in(arguments.runs, accepted, arguments.series)
    return place.resolve().parent / f"{place.resolve().name}-bisect"
