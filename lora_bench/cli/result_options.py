"""The options of the commands that begin with a table of the user's, or take the outcome of a comparison on."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from lora_bench.cli import shared_options as options
from lora_bench.cli.help import Commands, Groups, add_command, add_verbs
from lora_bench.cli.shared_options import margin, records_at, runs_argument, runs_option

Parse = Callable[[Sequence[str]], argparse.Namespace]


def add_try(commands: Commands, parse: Parse) -> None:
    """Add the commands; *parse* reads a whole command line, as `try` ends in the commands that a user would give next."""
    tries = add_command(
        commands,
        "try TABLE",
        "compare methods on your own table for --minutes, name the one to take, and train it on nearly all rows",
        "lora-bench try tickets.csv --text subject --label queue --minutes 10",
        "try_commands:try_methods",
        parse=parse,
        resumes=True,
    )
    _table_options(tries)
    options.runs_option(tries)
    tries.how.switch("--no-final", "final", "do not train the chosen method on all rows (default: into ./NAME-model)")
    tries.how.flag("--dry-run", "write the suite and show its plan; train no more than the steps that tell the speed")
    options.quiet_option(tries, "failures and the answer only")

    init = add_command(
        commands,
        "init TABLE",
        "write the suite that `try` would run on a table, with comments, and train nothing",
        "lora-bench init tickets.csv --text subject --label queue",
        "try_commands:init",
    )
    _table_options(init)

    fleet = add_command(
        commands,
        "fleet TABLE --by COLUMN",
        "train an adapter for each value of a column, and say which gain by one of their own",
        "lora-bench fleet tickets.csv --by customer",
        "fleet_command:fleet",
        resumes=True,
    )
    _column_options(fleet)
    fleet.what.takes("--by", "COLUMN", "column whose values get an adapter each, 4 to 1,000 of them", required=True)
    most = "examples that an adapter sees, at most (default: 3200)"
    fleet.what.takes("--examples", "N", most, type=options.positive, default=3200)
    options.runs_option(fleet)
    fleet.where.takes("--workers", "N", "runs at once (default: from cores, GPUs and memory)", type=options.count)
    fleet.how.flag("--dry-run", "write the suite that tries learning rates, and train nothing")
    options.how_options(fleet)


def _column_options(groups: Groups) -> None:
    what = groups.what
    what.takes("table", "TABLE", "CSV, TSV, JSONL or Parquet file, one example a row", type=Path)
    what.takes("--text", "COLUMN", "column of the text (default: guessed)")
    what.takes("--text-pair", "COLUMN", "column of a second text, for pairs")
    what.takes("--label", "COLUMN", "column of what to predict, or columns of 0 and 1: A,B,C (default: guessed)")
    what.takes("--split", "COLUMN", "column that says which rows are train, valid and test")
    what.takes("--group", "COLUMN", "keep rows with equal values of this column in one split, such as a customer's")
    what.takes("--model", "MODEL", "base model (default: minilm-l6-roberta, which needs no hub)")


def _table_options(groups: Groups) -> None:
    _column_options(groups)
    what = groups.what
    what.takes("--kind", "KIND", "kind of task, such as regression or tokens (default: guessed)")
    what.takes("--metric", "METRIC", "metric to compare by, such as macro_f1 (default: guessed)")
    what.takes("--valid", "FILE", "file of the selection rows (default: a share of the table)", type=Path)
    what.takes("--test", "FILE", "file of the test rows (default: a share of the table)", type=Path)
    what.takes("--time", "COLUMN", "column of dates or numbers: test on the last rows")
    minutes = "minutes that all of it may take (default: 10)"
    groups.how.takes("--minutes", "N", minutes, type=options.minutes)


def add_winner(commands: Commands) -> None:
    """Add the commands for the time after a comparison."""
    choose = add_command(
        commands,
        "choose RUNS",
        "name the cheapest method that is expected to lose at most --margin to the best, and what each may lose",
        "lora-bench choose runs/tickets --margin 0.01 --prefer memory",
        "winner_commands:choose",
        more="Methods with a failed run are named only if all have one.",
    )
    _what(choose)
    loss = "loss of score that does not matter: 0.01 is one point of accuracy (default: the suite's margin)"
    choose.how.takes("--margin", "X", loss, type=margin)
    cost = "cost to keep small: storage (the file to ship), memory or time of training (default: storage)"
    choose.how.takes("--prefer", "COST", cost, choices=["storage", "memory", "time"], default="storage")

    use = add_command(
        commands,
        "use RUNS [METHOD]",
        "show the folder of the winner's weights and the Python lines that load them",
        "lora-bench use runs/tickets --merge tickets-model",
        "winner_commands:use",
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
        "winner_commands:predict",
        more="RUNS may also be a folder of weights that `use` wrote. No label is needed.",
    )
    _what(predict)
    predict.what.takes("table", "TABLE", "rows with the columns of the task: csv, tsv, jsonl or parquet", type=Path)
    predict.what.takes("method", "METHOD", "method by its label (default: the one that `choose` names)", nargs="?")
    predict.where.takes("--base", "FOLDER", "base model (default: found by its name from here)", type=Path)
    answers = "new file, .csv, .tsv or .jsonl (default: ./TABLE.predicted.csv, like the table)"
    predict.output.takes("--out", "FILE", answers, type=Path)

    score = add_command(
        commands,
        "score ADAPTERS... --task TASK",
        "score adapters of one base model on a task, with the base loaded once",
        "lora-bench score runs/tickets adapters/ --task tickets.yaml --out scores.csv",
        "score_command:score",
        more="A bad adapter is a line, the others are scored, and the exit code is 3.",
    )
    folders = (
        "folders of runs with weights, of a model that `try` or `use` wrote, of a PEFT adapter, or of several of these"
    )
    score.what.takes("adapters", "ADAPTERS", folders, nargs="+", type=Path)
    score.what.takes("--task", "TASK", "task by name, its YAML file, or a suite that has it alone", required=True)
    splits = "rows to answer: test or selection (default: test)"
    score.what.takes("--split", "SPLIT", splits, choices=["test", "selection"], default="test")
    score.where.takes("--base", "MODEL", "base model, by name or folder (default: the first adapter's)")
    options.data_option(score)
    length = (
        "tokens after which a text is cut, for adapters made elsewhere (default: as in the runs beside them, or 128)"
    )
    score.how.takes("--max-length", "N", length, type=options.positive)
    items = "file for `judge`, .csv or .jsonl: a row for each test item, or for each adapter if no item has a score"
    score.output.takes("--out", "FILE", items, type=Path)
    options.quiet_option(score, "the table and what could not be scored only")

    analyse = add_command(
        commands,
        "analyse RUNS",
        "show what training did to kept weights: norms, amplification, intruder dimensions and shared subspaces",
        "lora-bench analyse runs/tickets",
        "winner_commands:analyse",
        more="The suite must keep weights (`keep_weights: last`); reports then show it.",
    )
    runs_argument(analyse)
    base = "a base model (default: found by its name from here); may be repeated"
    analyse.where.several("--base", "FOLDER", base, type=Path)


def add_judge(commands: Commands) -> None:
    """Add the command for scores of runs that lora_bench did not train."""
    judge = add_command(
        commands,
        "judge SCORES...",
        "judge anybody's scores: the method to take, verdicts, and places as intervals",
        "lora-bench judge scores.csv --out report",
        "judge_commands:judge",
        more="Columns are guessed by their names; each guess is printed.",
    )
    what, how, output = judge.what, judge.how, judge.output
    files = (
        "a table (CSV, TSV, JSONL, Parquet) with a row for each score or test item, samples of lm-evaluation-harness, JSON "
        "of Every Eval Ever, PEFT's result files, or a folder of these"
    )
    what.takes("scores", "SCORES", files, nargs="+", type=Path)
    for name, of in (
        ("method", "column of the method"),
        ("task", "column of the task"),
        ("base-model", "column of the base model"),
        ("seed", "column that tells the runs of a method apart"),
        ("item", "column of the test item, if a row is the result on one item"),
        ("cost", "column of a run's cost, such as seconds: the cheapest method within the margin is taken"),
    ):
        what.takes(f"--{name}", "COLUMN", f"{of} (default: guessed)")
    several = "column of the score, or of each task's: A,B,C; of samples, the first that a task has (default: guessed)"
    what.takes("--score", "COLUMNS", several, type=options.names, default=())
    what.flag("--lower-is-better", "a lower score is better (default: guessed)", default=None)
    what.switch("--higher-is-better", "lower_is_better", "a higher score is better (default: guessed)", default=None)
    scales = "share of 1, percent, or own for a unit of its own (default: guessed)"
    what.takes("--scale", "SCALE", scales, choices=["share", "percent", "own"])
    what.takes("--reference", "METHOD", "compare with this method (default: full or lora, or the first)")
    loss = "difference that does not matter: 0.01 is one point of accuracy (default: half a point)"
    how.takes("--margin", "X", loss, type=margin)
    how.takes(
        "--alpha", "A", "chance of a false claim in each family of comparisons (default: 0.05)", type=options.alpha
    )
    judge.where.takes("--out", "FOLDER", "folder for the page (default: print the answer alone)", type=Path)
    output.flag("--json", "print one JSON object in place of the answer")
    options.paper_options(judge, "with --out: ")


def _what(groups: Groups) -> None:
    runs_argument(groups)
    groups.what.takes("--task", "TASK", "one task, if the runs have several")
    groups.what.takes("--model", "MODEL", "one base model, if the runs have several")


def add_exchange(commands: Commands) -> None:
    """Add the commands that take records and adapters on."""
    compare = add_command(
        commands,
        "compare RUNS_A RUNS_B",
        "compare two sets of runs, and name what differs between them",
        "lora-bench compare runs/before runs/after",
        "exchange_commands:compare",
    )
    compare.what.takes("first", "RUNS_A", "folder of runs, or a baseline", type=records_at)
    compare.what.takes("second", "RUNS_B", "folder or baseline to compare with it", type=records_at)
    pages = "folder for compare.md and compare.html (default: .)"
    compare.where.takes("--out", "FOLDER", pages, type=Path, default=Path())
    small = (
        "difference that does not matter, in the metric's unit (default: the metric's own, such as 0.005 for accuracy)"
    )
    compare.how.takes("--margin", "X", small, type=margin)

    exports = add_command(
        commands,
        "export RUNS --to FORMAT",
        "write records as a table, into a tracker, or as files to commit",
        "lora-bench export runs/quickstart --to csv",
        "exchange_commands:export",
    )
    exports.what.takes("runs", "RUNS", "folder of runs, a baseline, or one record", type=records_at)
    place = "file, tracker's folder or URI (default: beside the runs, or the tracker's own)"
    exports.where.takes("--out", "PATH", place)
    exports.output.takes(
        "--to",
        "FORMAT",
        "csv, parquet, json, mlflow or trackio; baseline (two files), runs (a folder a run), or peft-results (PEFT's)",
        required=True,
        choices=["csv", "parquet", "json", "mlflow", "trackio", "baseline", "runs", "peft-results"],
    )

    verbs = add_verbs(
        commands,
        "import SOURCE",
        "read other people's results as records, and their adapters as those of our tuners",
        "lora-bench import peft-results peft/method_comparison",
        "sources",
    )
    peft_results = add_command(
        verbs,
        "peft-results DIR",
        "read the result files of PEFT's method_comparison as records",
        "lora-bench import peft-results peft/method_comparison",
        "exchange_commands:import_peft_results",
    )
    peft_results.what.takes("folder", "DIR", "method_comparison, or a folder in it", type=Path)
    runs_option(peft_results, "peft-results/RUN_ID")
    peft_results.what.flag("--history", "read results of all dates in the git history of DIR; writes history.md")

    experiments = add_command(
        verbs,
        "peft-experiments FOLDER",
        "write the suite that runs the experiments of PEFT's method_comparison here",
        "lora-bench import peft-experiments peft/method_comparison/MetaMathQA",
        "exchange_commands:import_peft_experiments",
        more="What a suite cannot say is a line that names the experiment and the key.",
    )
    experiments.what.takes("folder", "FOLDER", "folder with experiments/ and default_training_params.json", type=Path)
    experiments.what.takes("--task", "TASK", "task to run them on, by name (default: sst2)", default="sst2")
    on = "base model (default: theirs if it is a local folder or on a hub that answers, else minilm-l6-roberta)"
    experiments.what.takes("--model", "MODEL", on)
    experiments.where.takes("--out", "FILE", "suite to write (default: ./peft-FOLDER.yaml)", type=Path)

    adapter = add_command(
        verbs,
        "adapter FOLDER --out OUT",
        "convert an adapter of AdapterHub, or a prefix of PEFT, into a folder that PeftModel loads with our tuners",
        "lora-bench import adapter sst2-houlsby --out sst2-adapter",
        "exchange_commands:import_adapter",
        more="It is refused where the two compute something else, with what differs.",
    )
    adapter.what.takes("folder", "FOLDER", "folder of the adapter, as its library saved it", type=Path)
    adapter.where.takes("--out", "OUT", "folder to write", required=True, type=Path)
    adapter.where.takes("--base", "MODEL", "its base model (default: the one that FOLDER names)")
    adapter.how.flag("--allow-pickle", "read weights that are only in a .bin file; know who made it")
