"""The commands that take records and adapters on: `compare`, `export` and `import`."""

import argparse
import sys
from pathlib import Path

from lora_bench.cli.help import DONE
from lora_bench.errors import BadInput, LoraBenchError, refuse
from lora_bench.exchange import adapters
from lora_bench.exchange import export as export_records
from lora_bench.exchange.peft_results import import_results
from lora_bench.exchange.peft_results.experiments import import_experiments
from lora_bench.exchange.peft_results.history_page import history_page
from lora_bench.records.analysis import Analysis
from lora_bench.records.baseline_folder import keep_baseline, make_runs_folder
from lora_bench.records.store import answers_in, read_records, write_atomic
from lora_bench.report.blocks import answers, to_markdown
from lora_bench.report.html import PageFacts, render_page
from lora_bench.report.sections.compare_runs import RunSet, hold_against, two_sets_page
from lora_bench.report.text import unmarked
from lora_bench.suite.load_suite import load_suite
from lora_bench.util.redaction import message


def compare(arguments: argparse.Namespace) -> int:
    """Compare two sets of runs, on a page."""
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
    return DONE


def _name(folder: Path, folders: tuple[Path, Path]) -> str:
    first, second = (one.resolve().parts for one in folders)
    lengths = range(1, max(len(first), len(second)) + 1)
    apart = next((length for length in lengths if first[-length:] != second[-length:]), 1)
    return "/".join(folder.resolve().parts[-apart:])


def export(arguments: argparse.Namespace) -> int:
    """Write records as other tools have them."""
    runs: Path = arguments.runs
    if arguments.to in ("baseline", "runs"):
        make = keep_baseline if arguments.to == "baseline" else make_runs_folder
        print(*make(runs, Path(arguments.out or f"{runs}-{arguments.to}")), sep="\n")
        return DONE
    beside = runs if runs.is_dir() else runs.parent
    print(export_records(read_records(runs), arguments.to, beside=beside, out=arguments.out))
    return DONE


def import_adapter(arguments: argparse.Namespace) -> int:
    """Convert an adapter into one of our tuners."""
    adapter = adapters.import_adapter(
        arguments.folder,
        arguments.out,
        base=arguments.base,
        allow_pickle=arguments.allow_pickle,
        progress=lambda said: print(message(said), file=sys.stderr),
    )
    print(arguments.out, "", *map(message, adapter.loading_lines(arguments.out)), sep="\n")
    return DONE


def import_peft_results(arguments: argparse.Namespace) -> int:
    """Read result files of PEFT as records."""
    target, history = arguments.runs / "peft-results", arguments.history
    imported = import_results(arguments.folder, target, history=history)
    of = "runs of {files} versions of" if history else "of {files}"
    print(f"{len(imported.records)} {of.format(files=imported.files)} result files are records in {target}")
    if history:
        page = target / "history.md"
        write_atomic(page, to_markdown(history_page(imported.records)).encode("utf-8"))
        print(page)
    if imported.faults:
        raise BadInput(imported.faults)
    return DONE


def import_peft_experiments(arguments: argparse.Namespace) -> int:
    """Write the suite that runs PEFT's experiments."""
    folder: Path = arguments.folder
    out: Path = arguments.out or Path(f"peft-{folder.resolve().name}.yaml")
    suite = import_experiments(folder, out, task=arguments.task, model=arguments.model)
    try:
        load_suite(out)
    except LoraBenchError:
        out.unlink()
        raise
    print(*map(message, suite.notes), sep="\n", end="\n" if suite.notes else "")
    why = f" ({suite.base.why})" if suite.base.why else ""
    print(message(f"{out}: {len(suite.entries)} of {suite.count} experiments, on {suite.base.name}{why}"))
    refuse(suite.faults)
    return DONE
