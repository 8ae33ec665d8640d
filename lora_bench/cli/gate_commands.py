"""The commands of the nightly gate: `check`, and the verbs of `baseline`, as the command line has them."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from lora_bench.cli.help import add_command, add_verbs
from lora_bench.errors import LoraBenchError, did_you_mean
from lora_bench.util.redaction import message

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from lora_bench.cli.help import Commands
    from lora_bench.gate import Answer, Night
    from lora_bench.gate.rerun import Way

DONE, BROKE_OFF, CANNOT_DECIDE = 0, 3, 4
# To `git bisect run`, 2 would be a bad commit, and so would Python's 1 of a commit whose code is broken.
ENDS_GIT_BISECT, SKIPPED_BY_GIT_BISECT = 128, 125


def add_check(commands: Commands) -> None:
    """Add the commands of the gate."""
    check = add_command(
        commands,
        "check",
        "say whether runs regressed: against other runs or a commit, or tonight's against accepted nights",
        "lora-bench check runs/tickets --against main --suite tickets.yaml",
        more="Exit codes: 0 pass, 1 regression, 2 bad input, 3 runs failed or are missing,\n"
        "4 cannot decide, as with too few seeds, or fewer than eight accepted nights.",
        takes="RUNS --against WHAT | --baseline NAME",
    )
    what, where, how, output = check.what, check.where, check.how, check.output
    what.add_argument(
        "runs", metavar="RUNS", type=Path, nargs="?", help="runs/SUITE that `run --series` wrote, or one night in it"
    )
    other = what.add_mutually_exclusive_group(required=True)
    other.add_argument(
        "--against",
        metavar="WHAT",
        help="hold RUNS against other runs of the suite: a folder, a baseline with records, or a git reference, whose runs "
        "are done in an environment of their own and kept in RUNS-against",
    )
    other.add_argument(
        "--baseline",
        metavar="NAME",
        help="baseline with accepted nights: of ./baselines, of the package, or a path",
    )
    _night_options(what)
    what.add_argument(
        "--suite",
        metavar="SUITE",
        help="suite to run suspect series again with (default: the baseline's), or to run at the git reference",
    )
    what.add_argument(
        "--allow-pickle",
        action="append",
        default=[],
        metavar="MODEL",
        help="read this base model's pickled weights in those runs, as `run` does; may be repeated",
    )
    what.add_argument(
        "--allow-code",
        action="append",
        default=[],
        metavar="NAME@HASH",
        help="run this code of the suite in those runs, as `run` does; may be repeated",
    )
    where.add_argument(
        "--data-dir", type=Path, metavar="FOLDER", help="folder of data sets for those runs, as in `run`"
    )
    how.add_argument("--no-confirm", action="store_true", help="run nothing again; suspect series then stay undecided")
    how.add_argument(
        "--workers", type=int, metavar="N", help="runs at once when series are run again (default: as `run`)"
    )
    output.add_argument("--markdown", type=Path, metavar="FILE", help="write a comment for a pull request (--against)")
    output.add_argument("--json", type=Path, metavar="FILE", help="write the whole answer")
    output.add_argument("--junit", type=Path, metavar="FILE", help="write JUnit XML, one test case per series")
    output.add_argument(
        "--github", action="store_true", help="write annotations and a step summary of a GitHub workflow"
    )
    output.add_argument("--badge", type=Path, metavar="FILE", help="write JSON for the badge endpoint of shields.io")
    output.add_argument(
        "--plot", type=Path, metavar="FOLDER", help="draw one SVG per series: its nights, bounds and tonight"
    )
    tests = check.parser.add_argument_group("tests of the gate on your own accepted nights, without RUNS")
    tests.add_argument("--replay", action="store_true", help="count the false alarms that the gate would have raised")
    tests.add_argument("--inject", metavar="LOSS", help="say whether the gate would see a loss, such as 5%% or 0.01")
    search = check.parser.add_argument_group("search for the change that made a series fail")
    search.add_argument(
        "--bisect",
        metavar="WHAT",
        help="PACKAGE=OLD,...,NEW for versions, or GOOD..BAD for commits; prints the cost first",
    )
    search.add_argument("--yes", action="store_true", help="do the search (default: only print its cost)")
    search.add_argument("--cell", metavar="SERIES", help="the failing series (default: the worst)")
    search.add_argument(
        "--step",
        action="store_true",
        help="try the series in this environment, for `git bisect run`: exit with 0 good, 1 bad, 125 neither",
    )
    check.parser.set_defaults(command=_check, resumes=True)
    _add_baseline(commands)


def _add_baseline(commands: Commands) -> None:
    verbs = add_verbs(
        commands,
        "baseline",
        "keep records as a baseline, or accept a night into one",
        "lora-bench baseline accept runs/quickstart",
        title="verbs",
        metavar="VERB",
    )
    accepts = add_command(
        verbs,
        "accept",
        "copy records into ./baselines/NAME/records, or with --reason accept a night into ./baselines/NAME/nights",
        'lora-bench baseline accept runs/nightly --reason "passed"',
        takes="RUNS",
    )
    accept = accepts.what
    accept.add_argument("runs", metavar="RUNS", type=Path, help="folder of runs")
    accept.add_argument(
        "--name", type=_name, metavar="NAME", help="name of the baseline (default: name of the runs' folder)"
    )
    accept.add_argument("--reason", metavar="TEXT", help="why this night is accepted, for its reviewers")
    _night_options(accept)
    accept.add_argument(
        "--change",
        default="",
        metavar="WHY",
        help="why what changed is accepted, in words; or SERIES,... or `all`, whose history begins with this night",
    )
    accepts.parser.set_defaults(command=_accept)
    show = add_command(
        verbs, "show", "list the accepted nights of a baseline", "lora-bench baseline show nightly", takes="NAME"
    )
    show.what.add_argument("name", metavar="NAME", help="name of the baseline, or its folder")
    show.parser.set_defaults(command=_show)
    diff = add_command(
        verbs,
        "diff",
        "show how two accepted nights of a baseline differ",
        "lora-bench baseline diff nightly",
        takes="NAME [LABEL ...]",
    )
    diff.what.add_argument("name", metavar="NAME", help="name of the baseline, or its folder")
    diff.what.add_argument(
        "nights", nargs="*", metavar="LABEL", help="two labels, or one and the last night (default: the last two)"
    )
    diff.parser.set_defaults(command=_diff)


def _night_options(parser: argparse._ArgumentGroup) -> None:
    parser.add_argument(
        "--series", type=_name, metavar="LABEL", help="label of the night (default: the one that is not accepted yet)"
    )
    parser.add_argument(
        "--margin",
        type=_above_zero,
        metavar="X",
        help="difference of scores that does not matter, in place of the suite's; if accepted nights declare another, "
        "`check` exits with 4 and `baseline accept` needs --change",
    )


def _name(text: str) -> str:
    from lora_bench.util.filenames import file_name

    try:
        return file_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _above_zero(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text}")
    return value


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        print(message(line))


def baseline_folder(name: str, *, may_begin: bool = False) -> Path:
    """Find the folder of a baseline: in the working folder, in the package, or at a path.

    With *may_begin*, a name that is like no other is that of a baseline without a night yet.

    Raises:
        LoraBenchError: If there is no baseline of that name.
    """
    from lora_bench.util.paths import folders

    if os.sep in name or "/" in name:
        if Path(name).is_dir():
            return Path(name)
        raise LoraBenchError(f"there is no baseline at {name}")
    known = {path.name: path for folder in reversed(folders("baselines")) for path in folder.iterdir() if path.is_dir()}
    if name not in known and may_begin and not did_you_mean(name, known):
        return Path("baselines") / name
    if name not in known:
        raise LoraBenchError(
            f"there is no baseline {name!r}{did_you_mean(name, known)}; "
            f"`lora-bench baseline accept RUNS --name {name} --reason TEXT` begins one"
        )
    return known[name]


def _warn(text: str) -> None:
    """Print a message to standard error; ignore a closed stream."""
    with contextlib.suppress(OSError):
        print(message(f"lora-bench: {text}"), file=sys.stderr)


def _check(arguments: argparse.Namespace) -> int:
    try:
        return _checked(arguments)
    except (LoraBenchError, OSError) as error:
        if not arguments.step:
            raise
        _warn(str(error))
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
        from lora_bench.cli.against_command import check_against

        return check_against(arguments)
    if arguments.markdown is not None:
        raise LoraBenchError("--markdown goes with --against; a night has --github and --json")
    folder = baseline_folder(arguments.baseline, may_begin=True)
    accepted = read_nights(folder)
    if arguments.replay or arguments.inject is not None:
        return _self_tests(arguments, accepted)
    if arguments.runs is None:
        raise LoraBenchError("check takes RUNS, the folder of the suite's runs; only --replay and --inject go without")
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
    from lora_bench.gate.rerun import confirm, read_confirmation

    label, place = tonight_in(arguments.runs, accepted, arguments.series)
    tonight = read_night(place, label)
    earlier = before(accepted, tonight.label)
    if any(night.label == tonight.label for night in accepted):
        last = f"the last of which is {earlier[-1].label}" if earlier else "so against none"
        _warn(f"{tonight.label} is accepted already; it is held against the {len(earlier)} nights before it, {last}")
    again = read_confirmation(place, tonight.label)
    answer = judge(tonight, earlier, folder.name, again, margin=arguments.margin)
    if answer.suspects and may_confirm:
        way = _way(arguments, folder)
        if way is None:
            _warn(
                f"{len(answer.suspects)} series are suspect, and no suite is known to run them again: "
                f"{folder / 'suite.yaml'} is not there; name it with --suite"
            )
            return answer
        _warn(f"{len(answer.suspects)} series are suspect; they are run again with new seeds")
        try:
            again = confirm(place, tonight.label, tonight.suite, answer.suspects, way)
        except LoraBenchError as error:
            # The night has an answer all the same: what was not confirmed is not decided.
            _warn(str(error))
            return answer
        answer = judge(tonight, earlier, folder.name, again, margin=arguments.margin)
    return answer


def _way(arguments: argparse.Namespace, folder: Path) -> Way | None:
    """Return a way to run series again, or None without a known suite; a record's own command is not trusted."""
    suite = arguments.suite or (str(folder / "suite.yaml") if (folder / "suite.yaml").is_file() else None)
    return None if suite is None else way_of(arguments, suite)


def way_of(arguments: argparse.Namespace, suite: str) -> Way:
    """Return the way to run a suite with the options of `check`."""
    from lora_bench.gate.rerun import Way

    options = [option for model in arguments.allow_pickle for option in ("--allow-pickle", model)]
    options += [option for permission in arguments.allow_code for option in ("--allow-code", permission)]
    if arguments.data_dir is not None:
        options += ["--data-dir", str(arguments.data_dir)]
    return Way(suite, tuple(options), workers=arguments.workers)


def _next(answer: Answer, runs: Path) -> list[str]:
    """The two commands that a user may need after an answer other than a pass."""
    from lora_bench.gate.accepting import open_findings

    here = f"lora-bench check {runs} --baseline {answer.baseline}"
    accept = f"lora-bench baseline accept {runs} --name {answer.baseline} --reason"
    accept_change = f'{accept} "it is meant" --change "why"'
    if answer.verdict == "regression":
        return [f"{here} --bisect GOOD..BAD", accept_change]
    if answer.verdict == "failed":
        return [f"lora-bench run {answer.suite} --series {answer.label} --retry", here]
    show = f"lora-bench baseline show {answer.baseline}"
    if answer.suspects:
        return [f"{here} --suite SUITE", show]
    if any(open_findings(one) for one in answer.series):
        return [show, accept_change]  # without a reason for the change it would be refused
    return [f'{accept} "no history yet"', f"lora-bench run {answer.suite} --series NEXT-LABEL"]


def write_answer(
    answer: Answer, arguments: argparse.Namespace, commands: Sequence[str], comment: Sequence[str] = ()
) -> bool:
    """Write every requested output, the terminal's last; return False if any failed.

    *commands* come next for a user. *comment* is what `--markdown` writes, and the summary of a GitHub step too.
    """
    from lora_bench.gate import outputs
    from lora_bench.records.store import write_atomic

    broken = []

    @contextlib.contextmanager
    def output(what: object) -> Iterator[None]:
        """Limit an error to the output that caused it."""
        try:
            yield
        except (OSError, LoraBenchError) as error:
            broken.append(what)
            _warn(f"{what} could not be written: {error}")

    files = (
        (arguments.json, outputs.to_answer_json),
        (arguments.junit, outputs.to_junit),
        (arguments.badge, outputs.to_badge),
        (arguments.markdown, lambda _: ("\n".join(comment) + "\n").encode("utf-8")),
    )
    for file, make in files:
        if file is not None:
            with output(file):
                write_atomic(file, make(answer))
    if arguments.plot is not None:
        from lora_bench.gate.plot import plots

        with output(arguments.plot):
            for name, content in plots(answer).items():
                write_atomic(arguments.plot / name, content)
    summary = os.environ.get("GITHUB_STEP_SUMMARY") if arguments.github else None
    if summary:
        from lora_bench.gate.gate_summary import summary_lines

        with output("the step summary"), Path(summary).open("a", encoding="utf-8") as opened:
            opened.write("\n".join(comment or summary_lines(answer)) + "\n")
    # A reader such as `| head` may close the pipe early; the exit code stays the answer's.
    with output("standard output"), contextlib.suppress(BrokenPipeError):
        _tell(answer, commands, github=arguments.github)
    return not broken


def _tell(answer: Answer, commands: Sequence[str], *, github: bool) -> None:
    from lora_bench.gate import outputs
    from lora_bench.gate.gate_summary import terminal_lines

    if github:
        print(*outputs.annotation_lines(answer), sep="\n")
    *lines, headline = terminal_lines(answer)
    _print([*lines, *(f"next: {command}" for command in commands if answer.verdict != "pass"), headline])


def _self_tests(arguments: argparse.Namespace, accepted: Sequence[Night]) -> int:
    from lora_bench.gate.selftests import inject, inject_lines, replay, replay_lines

    decided = True
    if arguments.replay:
        found = replay(accepted, arguments.baseline, arguments.margin)
        _print(replay_lines(found))
        decided = bool(found.answers)
    if arguments.inject is not None:
        relative = arguments.inject.endswith("%")
        try:
            loss = float(arguments.inject.removesuffix("%")) / (100 if relative else 1)
        except ValueError:
            raise LoraBenchError(f"--inject takes a loss such as 5% or 0.01, got {arguments.inject!r}") from None
        seen = inject(accepted, loss, relative=relative, margin=arguments.margin)
        _print(inject_lines(seen, arguments.inject))
        decided = decided and bool(seen)
    return DONE if decided else CANNOT_DECIDE


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
    _print(bisect.cost_lines(found, one))
    if not arguments.yes:
        print("the same with --yes does it")
        return DONE
    ended = bisect.search(len(found.names), lambda index: tries.at(found, index))
    _print(bisect.found_lines(ended, found))
    return DONE


def _tries_folder(arguments: argparse.Namespace, accepted: Sequence[Night]) -> Path:
    """The folder of a search's runs, beside the night: the same command run again does only the missing ones."""
    from lora_bench.gate import tonight_in

    _, place = tonight_in(arguments.runs, accepted, arguments.series)
    return place.resolve().parent / f"{place.resolve().name}-bisect"


def _accept(arguments: argparse.Namespace) -> int:
    """Keep the records of runs as a baseline, or a night among the accepted ones."""
    if arguments.reason is not None:
        return _accept_night(arguments)
    from lora_bench.records.probe_store import PROBES, accept_probes, probe_files
    from lora_bench.records.store import accept, record_files
    from lora_bench.records.weight_analysis import accept_analysis

    folder: Path = arguments.runs
    for option in ("series", "margin", "change"):
        if getattr(arguments, option):
            raise LoraBenchError(f"--{option} is for a night, which is accepted with a --reason")
    target = Path("baselines") / (arguments.name or folder.resolve().name)
    if record_files(folder) or not probe_files(folder):
        print(f"{len(accept(folder, target))} records in {target / 'records'}")
        if (analysis := accept_analysis(folder, target)) is not None:
            print(f"the analysis of their weights in {analysis}")
    if probe_files(folder):
        print(f"{len(accept_probes(folder, target))} records in {target / PROBES}")
    return DONE


def _accept_night(arguments: argparse.Namespace) -> int:
    from lora_bench.gate import judge, read_night, read_nights, tonight_in, write_night
    from lora_bench.gate.accepting import accepted_night, series_or_why
    from lora_bench.gate.rerun import read_confirmation
    from lora_bench.util.filenames import file_name

    # RUNS is named like its suite, or is a night in such a folder; the baseline tells which of its nights is new.
    guess = Path("baselines") / (arguments.name or arguments.runs.resolve().name)
    label, place = tonight_in(arguments.runs, read_nights(guess), arguments.series)
    tonight = read_night(place, label)
    try:
        target = Path("baselines") / (arguments.name or file_name(tonight.suite))
    except ValueError as error:
        raise LoraBenchError(f"name the baseline with --name, as its suite is no name of a folder: {error}") from None
    nights = read_nights(target)
    answer = judge(tonight, nights, target.name, read_confirmation(place, tonight.label), margin=arguments.margin)
    series, why = series_or_why(arguments.change) if arguments.change else ((), None)
    night = accepted_night(tonight, nights, answer, arguments.reason, series, why=why, margin=arguments.margin)
    print(f"night {night.number} in {write_night(night, target)}")
    return DONE


def _show(arguments: argparse.Namespace) -> int:
    from lora_bench.gate import read_nights
    from lora_bench.gate.accepting import show_lines

    nights = read_nights(baseline_folder(arguments.name))
    _print(show_lines(nights))
    return DONE if nights else CANNOT_DECIDE


def _diff(arguments: argparse.Namespace) -> int:
    from lora_bench.gate import read_nights
    from lora_bench.gate.accepting import diff_lines, two_nights

    _print(diff_lines(*two_nights(read_nights(baseline_folder(arguments.name)), arguments.nights)))
    return DONE
