"""The commands for the time after a comparison.

`choose` a method, `use` its weights, `predict` with them, and `analyse` the weights of all.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from lora_bench.cli.help import Commands, Groups, add_command
from lora_bench.cli.shared_options import margin, runs_argument
from lora_bench.errors import LoraBenchError
from lora_bench.util.redaction import message


def add_winner(commands: Commands) -> None:
    """Add the commands; each returns 0, or raises LoraBenchError."""
    choose = add_command(
        commands,
        "choose RUNS",
        "name the cheapest method that is expected to lose at most --margin to the best, and what each may lose",
        "lora-bench choose runs/tickets --margin 0.01 --prefer memory",
        _choose,
        more="Methods with a failed run are named only if all have one.",
    )
    _what(choose)
    loss = "loss of score that does not matter: 0.01 is one point of accuracy (default: the suite's margin)"
    choose.how.takes("--margin", "X", loss, type=margin)
    choose.how.takes(
        "--prefer",
        "COST",
        "cost to keep small: storage (the file to ship), memory or time of training (default: storage)",
        choices=["storage", "memory", "time"],
        default="storage",
    )

    use = add_command(
        commands,
        "use RUNS [METHOD]",
        "show the folder of the winner's weights and the Python lines that load them",
        "lora-bench use runs/tickets --merge tickets-model",
        _use,
        more="The suite must keep weights: `keep_weights: last`, which the suite of `try` has.",
    )
    _what(use)
    use.what.takes("method", "METHOD", "method by its label (default: the one that `choose` names)", nargs="?")
    merged = "write a plain model folder, with the adapter merged into the base"
    use.where.takes("--merge", "OUT", merged, type=Path)
    shared = "write the base model and the adapter into one folder, to load on any machine"
    use.where.takes("--share", "OUT", shared, type=Path)
    use.where.takes("--base", "FOLDER", "base model for these (default: found by its name from here)", type=Path)

    predict = add_command(
        commands,
        "predict RUNS TABLE [METHOD]",
        "answer the rows of a new table with the winner's weights, and write it with the answers",
        "lora-bench predict runs/tickets new.csv",
        _predict,
        more="RUNS may also be a folder of weights that `use` wrote. No label is needed.",
    )
    _what(predict)
    predict.what.takes("table", "TABLE", "rows with the columns of the task: csv, tsv, jsonl or parquet", type=Path)
    predict.what.takes("method", "METHOD", "method by its label (default: the one that `choose` names)", nargs="?")
    predict.where.takes("--base", "FOLDER", "base model (default: found by its name from here)", type=Path)
    answers = "new file, .csv, .tsv or .jsonl (default: ./TABLE.predicted.csv, like the table)"
    predict.output.takes("--out", "FILE", answers, type=Path)

    analyse = add_command(
        commands,
        "analyse RUNS",
        "show what training did to kept weights: norms, amplification, intruder dimensions and shared subspaces",
        "lora-bench analyse runs/tickets",
        _analyse,
        more="The suite must keep weights (`keep_weights: last`); later reports show it too.",
    )
    runs_argument(analyse)
    base = "a base model (default: found by its name from here); may be repeated"
    analyse.where.several("--base", "FOLDER", base, type=Path)


def _what(groups: Groups) -> None:
    runs_argument(groups)
    groups.what.takes("--task", "TASK", "one task, if the runs have several")
    groups.what.takes("--model", "MODEL", "one base model, if the runs have several")


def _choose(arguments: argparse.Namespace) -> int:
    from lora_bench.report.model.choose_method import choose_method, loss_words

    choices = choose_method(
        arguments.runs, margin=arguments.margin, prefer=arguments.prefer, task=arguments.task, model=arguments.model
    )
    for choice in choices:
        where = f"{choice.setting.spec.task.name}, {choice.table.model.shown}"
        if choice.setting.target is not None:
            where += f", {choice.setting.target:,} adapter parameters"
        if choice.setting.distinct_examples is not None:
            where += f", {choice.setting.distinct_examples:,} rows"
        loss = "the best mean" if choice.loss is None else f"expected to lose {loss_words(choice.loss, choice.unit)}"
        print(message(f"{where}: {choice.method}, {loss}"))
        for reason in choice.reasons:
            print(message(f"  {reason}"))
    return 0


def _use(arguments: argparse.Namespace) -> int:
    from lora_bench.report import text
    from lora_bench.training.kept_task import ADAPTER, BASE
    from lora_bench.training.model_card import loading_lines
    from lora_bench.training.winner import find_winner, merge_winner, share_winner

    winner = find_winner(arguments.runs, arguments.method, task=arguments.task, model=arguments.model)
    score, row = winner.record.score, winner.row
    assert row.score is not None
    print(winner.folder)
    if winner.others is not None:
        print(message(winner.others))
    seed = f"seed {winner.record.spec.seed}, {text.score(score)}" if row.score.n > 1 else text.score(score)
    mean = f"; expect the mean over {row.score.n} seeds, {text.score(row.score.mean)}" if row.score.n > 1 else ""
    print(message(f"{row.label} on {winner.record.spec.model.shown}: {seed}{mean}"))
    lines, place = winner.lines, [str(arguments.runs), "new.csv", *filter(None, [arguments.method])]
    for name, value in (("--task", arguments.task), ("--model", arguments.model), ("--base", arguments.base)):
        place += [name, str(value)] if value is not None else []
    if arguments.merge is not None:
        merge_winner(winner, arguments.merge, arguments.base)
        lines = loading_lines(winner.record.spec, str(arguments.merge), None, winner.record.threshold)
        print(f"merged into {arguments.merge}")
        place = [str(arguments.merge), "new.csv"]
    if arguments.share is not None:
        share_winner(winner, arguments.share, arguments.base)
        places = str(arguments.share / ADAPTER), str(arguments.share / BASE)
        lines = loading_lines(winner.record.spec, places[0], winner.tuner, winner.record.threshold, places[1])
        print(f"base model and adapter are in {arguments.share}")
        place = [str(arguments.share), "new.csv"]
    print(message(f"to answer new rows: {shlex.join(['lora-bench', 'predict', *place])}"))
    print("", *lines, sep="\n")
    return 0


def _predict(arguments: argparse.Namespace) -> int:
    from lora_bench.training.kept_task import KeptModel, kept_model
    from lora_bench.training.predict import default_out, predict_table
    from lora_bench.training.winner import find_winner

    kept = kept_model(arguments.runs)
    if kept is not None and (arguments.method, arguments.task, arguments.model) != (None, None, None):
        raise LoraBenchError(f"{arguments.runs} has the weights of one method; leave METHOD, --task and --model out")
    if kept is None:
        winner = find_winner(arguments.runs, arguments.method, task=arguments.task, model=arguments.model)
        kept = KeptModel.of_run(winner.record, winner.folder)
        if winner.others is not None:
            print(message(winner.others), file=sys.stderr)
    out = arguments.out or default_out(arguments.table)
    done = predict_table(kept, arguments.table, out, arguments.base, lambda said: print(message(said), file=sys.stderr))
    spec = kept.spec
    print(message(f"{spec.method.label} on {spec.model.shown} (seed {spec.seed}): {done.rows:,} rows in {done.out}"))
    if done.unanswered:
        print(f"{done.unanswered:,} of them have no answer, as their text cannot be read")
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
    print(f"`lora-bench report {shlex.quote(str(arguments.runs))}` adds it to the report")
    return 0
