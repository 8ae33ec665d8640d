"""The options of `check` and of the verbs of `baseline`."""

from pathlib import Path

from lora_bench.cli.help import Commands, Group, add_command, add_verbs
from lora_bench.cli.shared_options import file_name, margin, permission_options, records_at


def add_check(commands: Commands) -> None:
    """Add the command `check`."""
    check = add_command(
        commands,
        "check RUNS --against WHAT | --baseline NAME",
        "say whether runs regressed: against other runs or a commit, or tonight's against accepted nights",
        "lora-bench check runs/tickets --against main --suite tickets.yaml",
        "gate_commands:check",
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
    between = "PACKAGE=OLD,...,NEW for versions, or GOOD..BAD for commits; prints the cost first"
    search.takes("--bisect", "WHAT", between)
    search.flag("--yes", "do the search (default: only print its cost)")
    search.takes("--cell", "SERIES", "the failing series (default: the worst)")


def add_baseline(commands: Commands) -> None:
    """Add the command `baseline` with its verbs."""
    verbs = add_verbs(
        commands,
        "baseline VERB",
        "keep records as a baseline, or accept a night into one",
        "lora-bench baseline accept runs/quickstart",
        "verbs",
    )
    accept = add_command(
        verbs,
        "accept RUNS",
        "keep records in ./baselines/NAME, or with --reason accept a night into ./baselines/NAME/nights",
        'lora-bench baseline accept runs/nightly --reason "passed"',
        "gate_commands:accept",
    ).what
    accept.takes("runs", "RUNS", "folder of runs, or a baseline", type=records_at)
    accept.takes("--name", "NAME", "name of the baseline (default: name of the runs' folder)", type=file_name)
    accept.takes("--reason", "TEXT", "why this night is accepted, for its reviewers")
    night_options(accept)
    change = "why what changed is accepted, in words; or SERIES,... or `all`, whose history begins with this night"
    accept.takes("--change", "WHY", change, default="")
    name = "name of the baseline, or its folder"
    show = add_command(
        verbs,
        "show NAME",
        "list the accepted nights of a baseline",
        "lora-bench baseline show nightly",
        "gate_commands:show",
    )
    show.what.takes("name", "NAME", name)
    diff = add_command(
        verbs,
        "diff NAME [LABEL ...]",
        "show how two accepted nights of a baseline differ",
        "lora-bench baseline diff nightly",
        "gate_commands:diff",
    )
    diff.what.takes("name", "NAME", name)
    diff.what.takes("nights", "LABEL", "two labels, or one and the last night (default: the last two)", nargs="*")


def night_options(what: Group) -> None:
    """Add the options that name a night and its margin."""
    what.takes("--series", "LABEL", "label of the night (default: the one that is not accepted yet)", type=file_name)
    what.takes(
        "--margin",
        "X",
        "difference of scores that does not matter, in place of the suite's; if accepted nights declare another, "
        "`check` exits with 4 and `baseline accept` needs --change",
        type=margin,
    )
