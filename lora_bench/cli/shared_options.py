"""Options that several commands share, the values that options take, and where baselines are."""

import argparse
import math
import os
from pathlib import Path

from lora_bench.cli.help import Group, Groups
from lora_bench.errors import LoraBenchError, did_you_mean
from lora_bench.records.layout import PROBES_FILE, RUNS_FILE
from lora_bench.util.paths import folders

MOST_MINUTES = 1e6


def records_at(text: str) -> Path:
    """Return the folder of records that a user named: by its path, or by that of the file that holds them."""
    path = Path(text)
    return path.parent if path.name in (RUNS_FILE, PROBES_FILE) and path.is_file() else path


def baseline_folder(name: str, *, may_begin: bool = False) -> Path:
    """Find the folder of a baseline: in the working folder, in the package, or at a path.

    With *may_begin*, a name that is like no other is that of a baseline without a night yet. Raise LoraBenchError if there
    is no baseline of that name.
    """
    if os.sep in name or "/" in name:
        if Path(name).is_dir():
            return Path(name)
        raise LoraBenchError(f"there is no baseline at {name}")
    # A baseline of the working folder hides one of the package.
    known = {path.name: path for of in reversed(folders("baselines")) for path in of.iterdir() if path.is_dir()}
    if name not in known and may_begin and not did_you_mean(name, known):
        return Path("baselines") / name
    if name not in known:
        raise LoraBenchError(
            f"there is no baseline {name!r}{did_you_mean(name, known)}; "
            f"`lora-bench baseline accept RUNS --name {name} --reason TEXT` begins one"
        )
    return known[name]


def names(text: str) -> tuple[str, ...]:
    """Return the names in a list with commas."""
    return tuple(filter(None, text.split(",")))


def file_name(text: str) -> str:
    """Return a text that can name a folder."""
    from lora_bench.util import filenames

    try:
        return filenames.file_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def count(text: str, least: int = 0) -> int:
    """Return a whole number of at least *least*."""
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, got {text!r}")
    return int(text)


def positive(text: str) -> int:
    """Return a whole number of at least 1."""
    return count(text, 1)


def minutes(text: str) -> float:
    """Return a number of minutes."""
    return _number(text, 1e-9, MOST_MINUTES, f"a number above 0 and below {MOST_MINUTES:,.0f}")


def margin(text: str) -> float:
    """Return a margin for scores."""
    from lora_bench.records.analysis import LEAST_MARGIN

    return _number(text, LEAST_MARGIN, math.inf, f"at least {LEAST_MARGIN:g}")


def alpha(text: str) -> float:
    """Return an error level."""
    return _number(text, 1e-9, 0.5, "above 0 and below 0.5")


def _number(text: str, least: float, below: float, range_words: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value < below:
        raise argparse.ArgumentTypeError(f"must be {range_words}, got {text}")
    return value


def runs_argument(groups: Groups) -> None:
    """Add the folder of the runs of a suite."""
    groups.what.takes("runs", "RUNS", "folder of a suite's runs, such as runs/tickets", type=Path)


def seeds_option(groups: Groups) -> None:
    """Add the number of seeds."""
    seeds = "seeds of every method: the suite's and the next ones (default: as the suite says)"
    groups.what.takes("--seeds", "N", seeds, type=positive)


def series_option(groups: Groups) -> None:
    """Add the label of a repeat."""
    repeat = "repeat the suite with new seeds under this label, such as night-42"
    groups.what.takes("--series", "LABEL", repeat, type=file_name)


def runs_option(groups: Groups, holds: str = "SUITE/RUN_ID and SUITE/report.md") -> None:
    """Add the folder that *holds* the runs of all suites."""
    groups.where.takes("--runs", "FOLDER", f"folder for {holds} (default: ./runs)", type=Path, default=Path("runs"))


def data_option(groups: Groups) -> None:
    """Add the folder of data sets."""
    circulate = "folder of data sets as they circulate, such as FOLDER/CoLA/train.tsv"
    groups.where.takes("--data-dir", "FOLDER", circulate, type=Path)


def permission_options(
    what: Group,
    pickle: str = "read this base model's pickled weights; a pickle can run code, so know who made it; may be repeated",
    code: str = "allow this code of the suite, as `plan` lists it; it runs with your rights, so read it first; may be repeated",
) -> None:
    """Add the user's permissions."""
    what.several("--allow-pickle", "MODEL", pickle)
    what.several("--allow-code", "NAME@HASH", code)


def quiet_option(groups: Groups, prints: str = "failures only") -> None:
    """Add the quiet mode, and what it prints."""
    groups.output.flag("--quiet", f"print {prints}")


def paper_options(groups: Groups, when: str = "") -> None:
    """Add what a paper takes of a report, and *when* there is one."""
    form = f"{when}svg, or pdf for SVG and PDF (default: svg)"
    groups.output.takes("--figures", "FORMAT", form, choices=["svg", "pdf"], default="svg")
    groups.output.flag("--latex", f"{when}also write tables and methods as LaTeX, for a paper")


def how_options(groups: Groups) -> None:
    """Add the ways to train."""
    how = groups.how
    how.flag("--retry", "also repeat runs that failed, timed out or ran out of memory")
    stalls = "end a run that makes no progress for SECONDS; 0: never (default: the run's estimated time, at least 1800)"
    how.takes("--timeout", "SECONDS", stalls, type=count)
    together = "train every run alone (default: runs that can share a base model take their steps together)"
    how.switch("--no-pack", "pack", together)
    positions = "compute all relative positions at every step (default: only those within the inputs' length)"
    how.switch("--no-cut", "cut", f"DeBERTa: {positions}")
    quiet_option(groups)
