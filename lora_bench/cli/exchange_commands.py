"""The commands that take records and adapters on: `compare`, `export` and `import`, as the command line has them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lora_bench.cli.help import Commands, add_command, add_verbs
from lora_bench.cli.shared_options import margin, records_at, runs_option
from lora_bench.errors import BadInput
from lora_bench.util.redaction import message

ADAPTER_FORMATS = ("adapterhub", "peft")


def add_exchange(commands: Commands) -> None:
    """Add the commands; each returns 0, or raises an error that the user can fix."""
    compare = add_command(
        commands,
        "compare RUNS_A RUNS_B",
        "compare two sets of runs, and name what differs between them",
        "lora-bench compare runs/before runs/after",
        _compare,
    )
    compare.what.takes("first", "RUNS_A", "folder of runs, or a baseline", type=records_at)
    compare.what.takes("second", "RUNS_B", "folder or baseline to compare with it", type=records_at)
    pages = "folder for compare.md and compare.html (default: .)"
    compare.where.takes("--out", "FOLDER", pages, type=Path, default=Path())
    compare.how.takes(
        "--margin",
        "X",
        "difference that does not matter, in the metric's unit (default: the metric's own, such as 0.005 for accuracy)",
        type=margin,
    )

    exports = add_command(
        commands,
        "export RUNS --to FORMAT",
        "write records as a table, into a tracker, or as files to commit, or an adapter as another library saves it",
        "lora-bench export runs/quickstart --to csv",
        _export,
        more="An adapter is one of our tuners, as PEFT saved it:\n  lora-bench export FOLDER --to adapterhub",
    )
    sources = "folder of runs, a baseline, one record, or the folder of an adapter"
    exports.what.takes("runs", "RUNS", sources, type=records_at)
    exports.where.takes(
        "--out", "PATH", "file, tracker's folder or URI (default: beside the runs, or the tracker's own)"
    )
    exports.where.takes("--base", "MODEL", "base model of the adapter (default: the one that its folder names)")
    exports.output.takes(
        "--to",
        "FORMAT",
        "csv, parquet, json, mlflow or trackio; baseline (two files) or runs (a folder a run); adapterhub or peft for an "
        "adapter",
        required=True,
        choices=["csv", "parquet", "json", "mlflow", "trackio", "baseline", "runs", *ADAPTER_FORMATS],
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
        _import_peft_results,
    )
    peft_results.what.takes("folder", "DIR", "method_comparison, or a folder in it", type=Path)
    runs_option(peft_results, "peft-results/RUN_ID")
    peft_results.what.flag(
        "--history",
        "read results of all dates: in the git history of DIR, in dated snapshots, or in its files; writes history.md",
    )

    adapter = add_command(
        verbs,
        "adapter FOLDER --out OUT",
        "convert an adapter of AdapterHub, or a prefix of PEFT, into a folder that PeftModel loads with our tuners",
        "lora-bench import adapter sst2-houlsby --out sst2-adapter",
        _import_adapter,
        more="It is refused where the two compute something else, with what differs.",
    )
    adapter.what.takes("folder", "FOLDER", "folder of the adapter, as its library saved it", type=Path)
    adapter.where.takes("--out", "OUT", "folder to write", required=True, type=Path)
    adapter.where.takes("--base", "MODEL", "its base model (default: the one that FOLDER names)")
    adapter.how.flag("--allow-pickle", "read weights that are only in a .bin file; know who made it")


def _compare(arguments: argparse.Namespace) -> int:
    from lora_bench.records.analysis import Analysis
    from lora_bench.records.store import answers_in, read_records, write_atomic
    from lora_bench.report.blocks import answers, to_markdown
    from lora_bench.report.html import PageFacts, render_page
    from lora_bench.report.sections.compare_runs import RunSet, hold_against, two_sets_page
    from lora_bench.report.text import unmarked

    folders: tuple[Path, Path] = (arguments.first, arguments.second)
    sets = []
    for folder in folders:
        records = read_records(folder)
        # The folders' own names, or where these are the same as many of their parents' as tell them apart.
        sets.append(RunSet(_name(folder, folders), records, answers_in(folder, records)))
    first, second = sets
    settings = Analysis(reference=first.name, margin=arguments.margin)
    blocks = two_sets_page(hold_against(first, second, settings))
    answer = unmarked(answers(blocks)[0])
    page = render_page(blocks, {}, PageFacts(description=answer))
    for name, content in (("compare.md", to_markdown(blocks)), ("compare.html", page)):
        write_atomic(arguments.out / name, content.encode("utf-8"))
        print(arguments.out / name)
    print(answer)
    return 0


def _name(folder: Path, folders: tuple[Path, Path]) -> str:
    parts = [one.resolve().parts for one in folders]
    own = folder.resolve().parts
    for length in range(1, max(map(len, parts)) + 1):
        if parts[0][-length:] != parts[1][-length:]:
            return "/".join(own[-length:])
    return folder.name


def _export(arguments: argparse.Namespace) -> int:
    from lora_bench.exchange import export
    from lora_bench.records.store import read_records

    runs: Path = arguments.runs
    if arguments.to in ADAPTER_FORMATS:
        from lora_bench.exchange.adapters import export_adapter

        out = Path(arguments.out or f"{runs}-{arguments.to}")
        export_adapter(runs, arguments.to, out, base=arguments.base, progress=_say)
        print(out)
        return 0
    if arguments.to in ("baseline", "runs"):
        from lora_bench.records.baseline_folder import keep_baseline, make_runs_folder

        make = keep_baseline if arguments.to == "baseline" else make_runs_folder
        print(*make(runs, Path(arguments.out or f"{runs}-{arguments.to}")), sep="\n")
        return 0
    beside = runs if runs.is_dir() else runs.parent
    print(export(read_records(runs), arguments.to, beside=beside, out=arguments.out))
    return 0


def _say(said: str) -> None:
    print(message(said), file=sys.stderr)


def _import_adapter(arguments: argparse.Namespace) -> int:
    from lora_bench.exchange.adapters import import_adapter

    adapter = import_adapter(
        arguments.folder, arguments.out, base=arguments.base, allow_pickle=arguments.allow_pickle, progress=_say
    )
    print(arguments.out, "", *map(message, adapter.loading_lines(arguments.out)), sep="\n")
    return 0


def _import_peft_results(arguments: argparse.Namespace) -> int:
    from lora_bench.exchange.peft_results import import_results

    target, history = arguments.runs / "peft-results", arguments.history
    imported = import_results(arguments.folder, target, history=history)
    of = "runs of {files} versions of" if history else "of {files}"
    print(f"{len(imported.records)} {of.format(files=imported.files)} result files are records in {target}")
    if history:
        from lora_bench.exchange.peft_results.history_page import history_page
        from lora_bench.records.store import write_atomic
        from lora_bench.report.blocks import to_markdown

        page = target / "history.md"
        write_atomic(page, to_markdown(history_page(imported.records)).encode("utf-8"))
        print(page)
    if imported.faults:
        raise BadInput(imported.faults)
    return 0
