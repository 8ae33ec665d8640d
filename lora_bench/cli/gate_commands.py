"""The commands of the gate: `check`, of a night or of runs against others, and the verbs of `baseline`."""

import argparse
import contextlib
import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from lora_bench.cli.help import CANNOT_DECIDE, DONE, SOME_FAILED, warn
from lora_bench.cli.shared_options import baseline_folder, records_at
from lora_bench.errors import LoraBenchError
from lora_bench.gate import Answer, Night, bisect, judge, outputs, read_night, read_nights, tonight_in, write_night
from lora_bench.gate.accepting import accepted_night, diff_lines, open_findings, series_or_why, show_lines, two_nights
from lora_bench.gate.against import Against, judge_against, plan_of, runs_of_night
from lora_bench.gate.against_text import comment_lines
from lora_bench.gate.baseline import before
from lora_bench.gate.gate_summary import summary_lines, terminal_lines
from lora_bench.gate.other_environments import Tries, commit_of, runs_of_commit
from lora_bench.gate.plot import plots
from lora_bench.gate.read_night import night_of
from lora_bench.gate.rerun import Way, confirm, read_confirmations
from lora_bench.records.baseline_folder import keep_baseline
from lora_bench.records.record import Record
from lora_bench.records.store import answers_in, has_records, read_records, write_atomic
from lora_bench.report.sections.compare_runs import RunSet
from lora_bench.stats.gate import CONFIRMATIONS
from lora_bench.util.filenames import file_name
from lora_bench.util.redaction import message


def check(arguments: argparse.Namespace) -> int:
    """Judge a night or runs, or search for the change that made a series fail, and return the exit code."""
    if arguments.runs is None:
        raise LoraBenchError("check takes RUNS, the folder of the suite's runs")
    if arguments.against is not None:
        return _check_against(arguments)
    if arguments.markdown is not None:
        raise LoraBenchError("--markdown goes with --against; a night has --github and --json")
    if arguments.change is not None:
        raise LoraBenchError("--change goes with --against here; `baseline accept` takes it for a night")
    folder = baseline_folder(arguments.baseline, may_begin=True)
    accepted = read_nights(folder)
    if arguments.bisect is not None:
        return _search(arguments, folder, accepted)
    answer = _answer(arguments, folder, accepted, may_confirm=not arguments.no_confirm)
    return _write_answer(answer, arguments, _next(answer, arguments.runs))


def _answer(arguments: argparse.Namespace, folder: Path, accepted: Sequence[Night], *, may_confirm: bool) -> Answer:
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
    return None if suite is None else _way_of(arguments, suite)


def _next(answer: Answer, runs: Path) -> list[str]:
    """The two commands that a user may need after an answer other than a pass."""
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
    answer = _answer(arguments, folder, accepted, may_confirm=False)
    one = bisect.failing_cell(answer, arguments.cell)
    way = _way(arguments, folder)
    if way is None:
        raise LoraBenchError(
            f"the suite to run is not known: {folder / 'suite.yaml'} is not there; name it with --suite"
        )
    place = tonight_in(arguments.runs, accepted, arguments.series)[1].resolve()
    # Beside the night: the same command run again does only the missing runs.
    tries = Tries(one, answer, accepted, way, place.parent / f"{place.name}-bisect", arguments.margin)
    found = bisect.candidates(arguments.bisect, Path())
    _print_lines(bisect.cost_lines(found, one))
    if not arguments.yes:
        print("the same with --yes does it")
        return DONE
    ended = bisect.search(len(found.names), lambda index: tries.at(found, index))
    _print_lines(bisect.found_lines(ended, found))
    return DONE


def _check_against(arguments: argparse.Namespace) -> int:
    """Judge the runs of a folder against others, write what is asked for, and return the exit code."""
    for option in ("bisect", "cell", "plot", "series"):
        if getattr(arguments, option):
            raise LoraBenchError(f"--{option} is for nights: it goes with --baseline, and not with --against")
    now = _runs_in(arguments.runs, arguments.runs.resolve().name)
    other, place, night = _other(arguments, now.records)
    found = judge_against(other, now, night=night, margin=arguments.margin, change=arguments.change)
    commands = _next_of_two(found, arguments, None if night is not None else place)
    return _write_answer(found.answer, arguments, commands, comment_lines(found, commands))


def _runs_in(folder: Path, name: str) -> RunSet:
    records = read_records(folder)
    return RunSet(name, records, answers_in(folder, records))


def _other(arguments: argparse.Namespace, records: Sequence[Record]) -> tuple[RunSet, Path, Night | None]:
    """The runs to hold against, and the accepted night that they are: a folder, then a baseline, then a git reference."""
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
    way = _way_of(arguments, arguments.suite or (f"{suite}.yaml" if Path(f"{suite}.yaml").is_file() else suite))
    # Said before the other half of the runs is done.
    warn(
        f"{commit[:12]}: {plan_of(night_of(records, 'now').cells, arguments.margin).text}, by the runs of {arguments.runs}"
    )
    folder = runs_of_commit(commit, arguments.runs, suite, series, way)
    return _runs_in(folder, f"{given} at {commit[:12]}"), folder, None


def _next_of_two(found: Against, arguments: argparse.Namespace, place: Path | None) -> list[str]:
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


def _way_of(arguments: argparse.Namespace, suite: str) -> Way:
    options = [option for model in arguments.allow_pickle for option in ("--allow-pickle", model)]
    options += [option for permission in arguments.allow_code for option in ("--allow-code", permission)]
    if arguments.data_dir is not None:
        options += ["--data-dir", str(arguments.data_dir)]
    return Way(suite, tuple(options), workers=arguments.workers)


def accept(arguments: argparse.Namespace) -> int:
    """Keep the records of runs as a baseline, or a night among the accepted ones."""
    if arguments.reason is not None:
        return _accept_night(arguments)
    folder: Path = arguments.runs
    for option in ("series", "margin", "change"):
        if getattr(arguments, option):
            raise LoraBenchError(f"--{option} is for a night, which is accepted with a --reason")
    target = Path("baselines") / (arguments.name or folder.resolve().name)
    print(*keep_baseline(folder, target), sep="\n")
    return DONE


def _accept_night(arguments: argparse.Namespace) -> int:
    # RUNS is named like its suite, or is a night in such a folder; the baseline tells which of its nights is new.
    guess = Path("baselines") / (arguments.name or arguments.runs.resolve().name)
    label, place = tonight_in(arguments.runs, read_nights(guess), arguments.series)
    tonight = read_night(place, label)
    try:
        target = Path("baselines") / (arguments.name or file_name(tonight.suite))
    except ValueError as error:
        raise LoraBenchError(f"name the baseline with --name, as its suite is no name of a folder: {error}") from None
    nights = read_nights(target)
    answer = judge(tonight, nights, target.name, read_confirmations(place, tonight.label), margin=arguments.margin)
    series, why = series_or_why(arguments.change) if arguments.change else ((), None)
    night = accepted_night(tonight, nights, answer, arguments.reason, series, why=why, margin=arguments.margin)
    print(f"night {night.number} in {write_night(night, target)}")
    return DONE


def show(arguments: argparse.Namespace) -> int:
    """List the accepted nights."""
    nights = read_nights(baseline_folder(arguments.name))
    _print_lines(show_lines(nights))
    return DONE if nights else CANNOT_DECIDE


def diff(arguments: argparse.Namespace) -> int:
    """Show how two accepted nights differ."""
    _print_lines(diff_lines(*two_nights(read_nights(baseline_folder(arguments.name)), arguments.nights)))
    return DONE


def _write_answer(
    answer: Answer, arguments: argparse.Namespace, commands: Sequence[str], comment: Sequence[str] = ()
) -> int:
    """Write every requested output, the terminal's last, and return the exit code; a pass whose output failed is none.

    *commands* come next for a user. *comment* is what `--markdown` writes, and the summary of a GitHub step too.
    """
    broken = []

    @contextlib.contextmanager
    def output(what: object) -> Iterator[None]:
        """Limit an error to the output that caused it."""
        try:
            yield
        except (OSError, LoraBenchError) as error:
            broken.append(what)
            warn(f"{what} could not be written: {error}")

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
        with output(arguments.plot):
            for name, content in plots(answer).items():
                write_atomic(arguments.plot / name, content)
    summary = os.environ.get("GITHUB_STEP_SUMMARY") if arguments.github else None
    if summary:
        with output("the step summary"), Path(summary).open("a", encoding="utf-8") as opened:
            opened.write("\n".join(comment or summary_lines(answer)) + "\n")
    # A reader such as `| head` may close the pipe early; the exit code stays the answer's.
    with output("standard output"), contextlib.suppress(BrokenPipeError):
        if arguments.github:
            print(*outputs.annotation_lines(answer), sep="\n")
        *lines, headline = terminal_lines(answer)
        _print_lines([*lines, *(f"next: {command}" for command in commands if answer.verdict != "pass"), headline])
    return SOME_FAILED if broken and answer.exit_code == DONE else answer.exit_code


def _print_lines(lines: Iterable[str]) -> None:
    # Their strings may come from records.
    for line in lines:
        print(message(line))
