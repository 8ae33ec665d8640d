"""The commands for the time after a comparison.

`choose` a method, `use` its weights, `predict` with them, and `analyse` the weights of all.
"""

import argparse
import shlex
import sys

from lora_bench.cli.help import DONE
from lora_bench.errors import LoraBenchError
from lora_bench.records.outcomes import at_work
from lora_bench.records.weight_analysis import write_analysis
from lora_bench.report import text
from lora_bench.report.model.choose_method import choose_method, loss_words
from lora_bench.report.sections.method_tables import target_name
from lora_bench.report.sections.weight_changes import weight_answer
from lora_bench.training.kept_task import ADAPTER, BASE, KeptModel, kept_model
from lora_bench.training.model_card import loading_lines
from lora_bench.training.winner import find_winner, merge_winner, share_winner
from lora_bench.util.redaction import message


def choose(arguments: argparse.Namespace) -> int:
    """Name the method to take, and what each may lose."""
    choices = choose_method(
        arguments.runs, margin=arguments.margin, prefer=arguments.prefer, task=arguments.task, model=arguments.model
    )
    for doubt in dict.fromkeys(choice.doubt for choice in choices if choice.doubt is not None):
        print(doubt)
    for choice in choices:
        where = f"{choice.setting.spec.task.name}, {choice.table.model.shown}"
        if choice.setting.parameter_target is not None:
            where += f", {target_name(choice.setting)}"
        if choice.setting.distinct_examples is not None:
            where += f", {choice.setting.distinct_examples:,} rows"
        loss = "the best mean" if choice.loss is None else f"expected to lose {loss_words(choice.loss, choice.unit)}"
        loss += choice.by_usual
        print(message(f"{where}: {choice.method}, {loss}"))
        for reason in choice.reasons:
            print(message(f"  {reason}"))
    return DONE


def use(arguments: argparse.Namespace) -> int:
    """Show where the winner's weights are, or write them as a model."""
    winner = find_winner(arguments.runs, arguments.method, task=arguments.task, model=arguments.model)
    score, row = winner.record.score, winner.row
    assert row.score is not None
    print(winner.folder)
    if winner.others is not None:
        print(message(winner.others))
    of_seed = f"seed {winner.record.spec.seed}, {text.score(score)}; expect the mean over {row.score.n} seeds, "
    said = f"{of_seed if row.score.n > 1 else ''}{winner.expected}"
    print(message(f"{row.label} on {winner.record.spec.model.shown}: {winner.note or said}"))
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
    return DONE


def predict(arguments: argparse.Namespace) -> int:
    """Answer the rows of a table."""
    from lora_bench.training.predict import default_out, format_to_write, predict_table

    out = arguments.out or default_out(arguments.table)
    format_to_write(out)  # before weights are looked for
    kept = kept_model(arguments.runs)
    if kept is not None and (arguments.method, arguments.task, arguments.model) != (None, None, None):
        raise LoraBenchError(f"{arguments.runs} has the weights of one method; leave METHOD, --task and --model out")
    if kept is None:
        winner = find_winner(arguments.runs, arguments.method, task=arguments.task, model=arguments.model)
        kept = KeptModel.of_run(winner.record, winner.folder)
        if winner.others is not None:
            print(message(winner.others), file=sys.stderr)
    done = predict_table(kept, arguments.table, out, arguments.base, lambda said: print(message(said), file=sys.stderr))
    spec = kept.spec
    print(message(f"{spec.method.label} on {spec.model.shown} (seed {spec.seed}): {done.rows:,} rows in {done.out}"))
    if done.unanswered:
        print(f"{done.unanswered:,} of them have no answer, as their text cannot be read")
    return DONE


def analyse(arguments: argparse.Namespace) -> int:
    """Show what training did to kept weights."""
    from lora_bench.analyse import analyse_runs

    analysis = analyse_runs(arguments.runs, arguments.base, say=lambda said: print(message(said), file=sys.stderr))
    with at_work():
        print(write_analysis(analysis, arguments.runs))
    print(message(text.unmarked(weight_answer(analysis))))
    print(f"tables and heat maps: lora-bench report {shlex.quote(str(arguments.runs))}")
    return DONE
