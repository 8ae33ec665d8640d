"""The verbs of `baseline`: keep records, accept a night, and show what is accepted."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from lora_bench.cli.gate_output import CANNOT_DECIDE, DONE, print_lines
from lora_bench.cli.help import Commands, Group, add_command, add_verbs
from lora_bench.cli.shared_options import file_name, margin, records_at
from lora_bench.errors import LoraBenchError, did_you_mean


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
        _accept,
    ).what
    accept.takes("runs", "RUNS", "folder of runs, or a baseline", type=records_at)
    accept.takes("--name", "NAME", "name of the baseline (default: name of the runs' folder)", type=file_name)
    accept.takes("--reason", "TEXT", "why this night is accepted, for its reviewers")
    night_options(accept)
    change = "why what changed is accepted, in words; or SERIES,... or `all`, whose history begins with this night"
    accept.takes("--change", "WHY", change, default="")
    name = "name of the baseline, or its folder"
    show = add_command(
        verbs, "show NAME", "list the accepted nights of a baseline", "lora-bench baseline show nightly", _show
    )
    show.what.takes("name", "NAME", name)
    diff = add_command(
        verbs,
        "diff NAME [LABEL ...]",
        "show how two accepted nights of a baseline differ",
        "lora-bench baseline diff nightly",
        _diff,
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


def known_baselines() -> dict[str, Path]:
    """Return the folder of each baseline by its name: those of the working folder before those of the package."""
    from lora_bench.util.paths import folders

    return {path.name: path for folder in reversed(folders("baselines")) for path in folder.iterdir() if path.is_dir()}


def baseline_folder(name: str, *, may_begin: bool = False) -> Path:
    """Find the folder of a baseline: in the working folder, in the package, or at a path.

    With *may_begin*, a name that is like no other is that of a baseline without a night yet.

    Raises:
        LoraBenchError: If there is no baseline of that name.
    """
    if os.sep in name or "/" in name:
        if Path(name).is_dir():
            return Path(name)
        raise LoraBenchError(f"there is no baseline at {name}")
    known = known_baselines()
    if name not in known and may_begin and not did_you_mean(name, known):
        return Path("baselines") / name
    if name not in known:
        raise LoraBenchError(
            f"there is no baseline {name!r}{did_you_mean(name, known)}; "
            f"`lora-bench baseline accept RUNS --name {name} --reason TEXT` begins one"
        )
    return known[name]


def _accept(arguments: argparse.Namespace) -> int:
    """Keep the records of runs as a baseline, or a night among the accepted ones."""
    if arguments.reason is not None:
        return _accept_night(arguments)
    from lora_bench.records.baseline_folder import keep_baseline

    folder: Path = arguments.runs
    for option in ("series", "margin", "change"):
        if getattr(arguments, option):
            raise LoraBenchError(f"--{option} is for a night, which is accepted with a --reason")
    target = Path("baselines") / (arguments.name or folder.resolve().name)
    print(*keep_baseline(folder, target), sep="\n")
    return DONE


def _accept_night(arguments: argparse.Namespace) -> int:
    from lora_bench.gate import judge, read_night, read_nights, tonight_in, write_night
    from lora_bench.gate.accepting import accepted_night, series_or_why
    from lora_bench.gate.rerun import read_confirmations
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
    answer = judge(tonight, nights, target.name, read_confirmations(place, tonight.label), margin=arguments.margin)
    series, why = series_or_why(arguments.change) if arguments.change else ((), None)
    night = accepted_night(tonight, nights, answer, arguments.reason, series, why=why, margin=arguments.margin)
    print(f"night {night.number} in {write_night(night, target)}")
    return DONE


def _show(arguments: argparse.Namespace) -> int:
    from lora_bench.gate import read_nights
    from lora_bench.gate.accepting import show_lines

    nights = read_nights(baseline_folder(arguments.name))
    print_lines(show_lines(nights))
    return DONE if nights else CANNOT_DECIDE


def _diff(arguments: argparse.Namespace) -> int:
    from lora_bench.gate import read_nights
    from lora_bench.gate.accepting import diff_lines, two_nights

    print_lines(diff_lines(*two_nights(read_nights(baseline_folder(arguments.name)), arguments.nights)))
    return DONE
