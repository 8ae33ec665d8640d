"""The commands that show what is there: reports of records, published tables, names and schemas.

What a report does without is imported only where it is shown.
"""

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel

from lora_bench.cli.help import DIFFERS, DONE, warn
from lora_bench.errors import LoraBenchError
from lora_bench.exchange import data_files
from lora_bench.records.fleet_record import fleets_in
from lora_bench.records.layout import PROBES_FILE, RUNS_FILE
from lora_bench.records.probe_record import ProbeRecord
from lora_bench.records.probe_store import has_probes, probe_files, read_probes
from lora_bench.records.record import Record
from lora_bench.records.store import answers_in, has_records, read_records, record_files, stopped_runs
from lora_bench.records.suite_about import about_in
from lora_bench.records.weight_analysis import read_analysis
from lora_bench.report import Report, check_files, check_report, write_report
from lora_bench.report.blocks import Block
from lora_bench.report.index_page import write_index
from lora_bench.report.model.comparison import each_once
from lora_bench.report.model.pool import pool as pooled
from lora_bench.report.model.reference import Question
from lora_bench.report.model.report import TextsOf, no_data, no_texts
from lora_bench.report.model.seed_scores import AnswersOf
from lora_bench.report.probes.fleet_page import fleet_files
from lora_bench.report.sections.pool_page import pool_page
from lora_bench.report.text import listed
from lora_bench.util.atomic_files import write_atomic
from lora_bench.util.redaction import message
from lora_bench.util.signals import Stopped

# Seconds between two looks at a folder that is watched, and between two loads of its page.
WATCH_SECONDS = 10


def report(arguments: argparse.Namespace) -> int:
    """Render records as Markdown with figures, and as one page; of several suites with an index."""
    if not (arguments.watch and all(folder.exists() for folder in arguments.runs)):
        return _write_reports(arguments)
    if arguments.check:
        raise LoraBenchError("--watch writes reports and --check writes none; leave one of the two out")
    watched = listed([*map(str, arguments.runs)])
    print(f"watching {watched}: its page follows the records and reloads itself; Ctrl-C ends it", flush=True)
    known, wrong = None, ""
    try:
        while True:
            try:
                there = _versions(arguments.runs)
                if there and there != known:
                    _write_reports(arguments, reload_seconds=WATCH_SECONDS)
                    known, wrong = there, ""
            except BrokenPipeError:
                raise
            except (LoraBenchError, OSError) as error:
                # What ends next may mend it.
                if str(error) != wrong:
                    print(message(f"lora-bench: {error}"), file=sys.stderr, flush=True)
                wrong = str(error)
            time.sleep(WATCH_SECONDS)
    except Stopped:
        return _write_reports(arguments) if _versions(arguments.runs) else DONE


def _versions(folders: Sequence[Path]) -> dict[Path, tuple[int, int]]:
    """Return the inode and size of each file of records and probes in folders; a file written anew has another inode."""
    found: dict[Path, tuple[int, int]] = {}
    for source in (source for folder in folders for source in _suites_in(folder).values()):
        whole = [file for file in (source / RUNS_FILE, source / PROBES_FILE) if file.is_file()]
        for file in (*record_files(source), *probe_files(source), *whole):
            now = file.stat()
            found[file] = now.st_ino, now.st_size
    return found


def _write_reports(arguments: argparse.Namespace, reload_seconds: int = 0) -> int:
    folder: Path = arguments.runs[0]
    fleets = fleets_in(folder) if len(arguments.runs) == 1 else {}
    suites = _suites_in(folder)
    if fleets:
        suites = {name: source for name, source in suites.items() if has_records(source) or has_probes(source)}
    sources = {name: [source] for name, source in suites.items()}
    if len(arguments.runs) > 1:
        if arguments.out is None:
            raise LoraBenchError("a report of several folders needs one of its own: give --out FOLDER")
        sources = {"report": [source for one in arguments.runs for source in _suites_in(one).values()]}
    several = folder not in (*suites.values(), *fleets.values()) and len(arguments.runs) == 1
    differences: list[str] = []
    texts = _texts(arguments.texts)
    reports: dict[str, Report] = {}
    for name, of_report in sources.items():
        probes = each_once([probe for source in of_report for probe in read_probes(source)])
        read = [read_records(source) if has_records(source) or not probes else [] for source in of_report]
        found = list(zip(of_report, read, strict=True))
        records = each_once([record for of_source in read for record in of_source])
        analyses = [analysis for source in of_report if (analysis := read_analysis(source)) is not None]
        if len(analyses) > 1:
            warn(f"the changes of weights of {len(analyses)} folders are left out; report these folders apart for them")
        reports[name] = Report(
            records,
            # Beside its records a report has the name that `run` gives it.
            name="report" if arguments.out is None else name,
            probes=probes,
            answers=_first_of([answers_in(*one) for one in found]),
            undone=[stopped.spec for one in found for stopped in stopped_runs(*one)],
            reference=arguments.reference,
            asked=Question(arguments.margin, arguments.alpha),
            about=" ".join(filter(None, (about_in(*one) for one in found))),
            sections=_published_sections(arguments, of_report, records),
            data=data_files if arguments.data else no_data,
            texts=no_texts if arguments.check else texts,
            analysis=analyses[0] if len(analyses) == 1 else None,
            beside={} if arguments.out is None else reports,
            reload_seconds=reload_seconds,
            latex=arguments.latex,
            figures=arguments.figures,
        )
    for name, made in reports.items():
        out = arguments.out or sources[name][0]
        if arguments.check:
            differences += check_report(made, out)
        else:
            written = write_report(made, out)
            print(*(path for path in written if path.suffix not in (".svg", ".pdf")), sep="\n")
    for name, source in fleets.items():
        out, files = arguments.out or source, fleet_files(source, "report" if arguments.out is None else name)
        differences += check_files(files, out) if arguments.check else []
        for path, page in () if arguments.check else files.items():
            write_atomic(out / path, page)
            print(out / path)
    place = arguments.out or (folder if several else folder.parent)
    if not arguments.check:
        index = write_index(place, only_refresh=not several)
        if index is not None:
            print(index)
    for difference in differences:
        print(difference)
    return DIFFERS if differences else DONE


def _first_of(answers: Sequence[AnswersOf]) -> AnswersOf:
    """Return what gives the predictions of a run from the first folder that has them."""
    return lambda run_id: next((found for of in answers if (found := of(run_id)) is not None), None)


def _suites_in(folder: Path) -> dict[str, Path]:
    """Return the folders of suites by name: those inside, such as of the baselines folder, where it has no records itself."""
    found: dict[str, Path] = {}
    if folder.is_dir() and not (has_records(folder) or has_probes(folder)):
        found = {path.name: path for path in sorted(folder.iterdir()) if has_records(path) or has_probes(path)}
    # Of a name that no file can have, resolving would raise.
    return found or {Path(os.path.normpath(folder.absolute())).name: folder}


def pool(arguments: argparse.Namespace) -> int:
    """Analyse the records of several suites as one, and print the page or write it."""
    sources: dict[str, Path] = {}
    for folder in arguments.folders:
        for name, source in _suites_in(folder).items():
            # Two folders may have one name, as two runs of a suite have.
            sources[name if sources.get(name, source) == source else str(source)] = source
    suites = []
    for name, source in sources.items():
        records = read_records(source) if has_records(source) or not has_probes(source) else []
        suites.append(Report(records, name=name, answers=answers_in(source, records)))
    page = pool_page(pooled(suites), "lora-bench pool " + " ".join(map(shlex.quote, map(str, arguments.folders))))
    if arguments.out is None:
        print(page, end="")
    else:
        write_atomic(arguments.out, page.encode("utf-8"))
        print(arguments.out)
    return DONE


def _texts(suite: str | None) -> TextsOf:
    """Return what gives the texts of a suite's test items, where they may be shown."""
    if suite is None:
        return no_texts
    from lora_bench.plan.item_texts import item_texts
    from lora_bench.suite.load_suite import load_suite

    return item_texts(load_suite(suite))


def _published_sections(
    arguments: argparse.Namespace, sources: Sequence[Path], records: Sequence[Record]
) -> list[list[Block]]:
    """Return the section that compares the records with a published table: the named one, or the one beside them."""
    beside = [source.resolve().name for source in sources if (source / "published.csv").is_file()]
    name = arguments.published or (beside[0] if len(sources) == 1 and beside else None)
    if name is None:
        return []
    from lora_bench.published.reproduce import published_blocks

    return [published_blocks(name, records, arguments.role)]


def published(arguments: argparse.Namespace) -> int:
    """List the published tables that are known, or the cells of one."""
    from lora_bench.cli.commands import terminal
    from lora_bench.published import load_table
    from lora_bench.published.table_terminal import cells_listing, orders_listing, tables_listing

    found = None if arguments.table is None else load_table(arguments.table)
    shown = [tables_listing()] if found is None else [cells_listing(found), *orders_listing(found)]
    terminal().print(*shown, sep="\n", highlight=False)
    return DONE


def list_names(arguments: argparse.Namespace) -> int:
    """List the names that a suite can use."""
    from lora_bench.cli.commands import terminal
    from lora_bench.cli.listing import LISTINGS, family_yaml

    if (arguments.what == "family") != (arguments.model is not None):
        raise LoraBenchError("give a MODEL with `list family`, and with no other list")
    if arguments.what == "family":
        print(family_yaml(arguments.model, arguments.revision), end="")
    else:
        terminal().print(LISTINGS[arguments.what](), highlight=False)
    return DONE


def print_schema(arguments: argparse.Namespace) -> int:
    """Print the JSON Schema of a suite, a task, a record or a file of the gate."""
    from lora_bench.gate import Answer, Night
    from lora_bench.suite.probe_suite import ProbeFile
    from lora_bench.suite.schema import SuiteFile
    from lora_bench.tasks import Task

    models: dict[str, type[BaseModel]] = {
        "suite": SuiteFile, "probe-suite": ProbeFile, "record": Record, "probe": ProbeRecord, "task": Task,
        "night": Night, "answer": Answer,
    }  # fmt: skip
    model = models[arguments.what]
    print(json.dumps(model.model_json_schema(), indent=2, sort_keys=True))
    return DONE
