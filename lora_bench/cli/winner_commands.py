"""The commands for the time after a comparison: `choose` a method, `use` its weights, and `analyse` the weights of all."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lora_bench.cli.exchange_commands import margin
from lora_bench.cli.help import add_command
from lora_bench.util.redaction import message

if TYPE_CHECKING:
    from lora_bench.cli.help import Commands, Groups

_STRENGTH = {
    None: "nothing could be judged",
    "exploratory": "exploratory: too few seeds to rely on",
    "indicative": "indicative: worth a repeat with ten seeds",
    "recommendation": "a recommendation",
}


def add_winner(commands: Commands) -> None:
    """Add the commands; each returns 0, or raises LoraBenchError."""
    choose = add_command(
        commands,
        "choose",
        "name the cheapest method shown to lose at most --margin to the best; if none is shown, name the best",
        "lora-bench choose runs/tickets --margin 0.01 --prefer memory",
        more="With fewer than 29 seeds the choice of a cheaper method is at most indicative.",
        takes="RUNS",
    )
    _what(choose)
    choose.how.add_argument(
        "--margin",
        type=margin,
        metavar="X",
        help="loss of score that does not matter: 0.01 is one point of accuracy (default: the suite's margin)",
    )
    choose.how.add_argument(
        "--prefer",
        choices=["storage", "memory", "time"],
        default="storage",
        metavar="COST",
        help="cost to keep small: storage (the file to ship), memory or time of training (default: storage)",
    )
    choose.parser.set_defaults(command=_choose)

    use = add_command(
        commands,
        "use",
        "show the folder of the winner's weights and the Python lines that load them",
        "lora-bench use runs/tickets --merge tickets-model",
        more="The suite must keep weights: `keep_weights: last`, which the suite of `try` has.",
        takes="RUNS [METHOD]",
    )
    _what(use)
    use.what.add_argument(
        "method", nargs="?", metavar="METHOD", help="method by its label (default: the one that `choose` names)"
    )
    use.where.add_argument(
        "--merge", type=Path, metavar="OUT", help="write a plain model folder, with the adapter merged into the base"
    )
    use.where.add_argument(
        "--base", type=Path, metavar="FOLDER", help="base model for --merge (default: found by its name from here)"
    )
    use.parser.set_defaults(command=_use)

    analyse = add_command(
        commands,
        "analyse",
        "show what training did to kept weights: norms, amplification, intruder dimensions and shared subspaces",
        "lora-bench analyse runs/tickets",
        more="The suite must keep weights (`keep_weights: last`); later reports show it too.",
        takes="RUNS",
    )
    analyse.what.add_argument("runs", metavar="RUNS", type=Path, help="folder of a suite's runs, such as runs/tickets")
    analyse.where.add_argument(
        "--base",
        action="append",
        default=[],
        type=Path,
        metavar="FOLDER",
        help="a base model (default: found by its name from here); may be repeated",
    )
    analyse.parser.set_defaults(command=_analyse)


def _what(groups: Groups) -> None:
    groups.what.add_argument("runs", metavar="RUNS", type=Path, help="folder of a suite's runs, such as runs/tickets")
    groups.what.add_argument("--task", metavar="TASK", help="one task, if the runs have several")
    groups.what.add_argument("--model", metavar="MODEL", help="one base model, if the runs have several")


def _choose(arguments: argparse.Namespace) -> int:
    from lora_bench.report.model.choose_method import choose_method

    choices = choose_method(
        arguments.runs,
        margin=arguments.margin,
        prefer=arguments.prefer,
        task=arguments.task,
        model=arguments.model,
    )
    for choice in choices:
        where = f"{choice.setting.spec.task.name}, {choice.table.model.shown}"
        if choice.setting.target is not None:
            where += f", {choice.setting.target:,} adapter parameters"
        if choice.setting.distinct_examples is not None:
            where += f", {choice.setting.distinct_examples:,} rows"
        print(message(f"{where}: {choice.method} ({_STRENGTH[choice.grade]})"))
        for reason in choice.reasons:
            print(message(f"  {reason}"))
    return 0


def _use(arguments: argparse.Namespace) -> int:
    from lora_bench.report import text
    from lora_bench.training.winner import find_winner, merge_winner

    winner = find_winner(arguments.runs, arguments.method, task=arguments.task, model=arguments.model)
    score, row = winner.record.score, winner.row
    assert row.score is not None
    print(winner.folder)
    seed = f"seed {winner.record.spec.seed}, {text.score(score)}" if row.score.n > 1 else text.score(score)
    mean = f"; expect the mean over {row.score.n} seeds, {text.score(row.score.mean)}" if row.score.n > 1 else ""
    print(message(f"{row.label} on {winner.record.spec.model.shown}: {seed}{mean}"))
    lines = winner.lines
    if arguments.merge is not None:
        from lora_bench.training.model_card import loading_lines

        merge_winner(winner, arguments.merge, arguments.base)
        lines = loading_lines(winner.record.spec, str(arguments.merge), None, winner.record.threshold)
        print(f"merged into {arguments.merge}")
    print("", *lines, sep="\n")
    return 0


def _analyse(arguments: argparse.Namespace) -> int:
    from lora_bench.analyse import analyse_runs
    from lora_bench.records.outcomes import at_work
    from lora_bench.records.weight_analysis import write_analysis
    from lora_bench.report import write_weight_page

    analysis = analyse_runs(arguments.runs, arguments.base, say=lambda said: print(message(said), file=sys.stderr))
    with at_work():
        written = [write_analysis(analysis, arguments.runs), *write_weight_page(analysis, arguments.runs)]
    print(*(path for path in written if path.suffix != ".svg"), sep="\n")
    print(f"`lora-bench report {arguments.runs}` adds it to the report")
    return 0
