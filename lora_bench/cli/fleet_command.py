"""The command that trains an adapter for each value of a column: `lora-bench fleet`."""

import argparse
import shlex
from dataclasses import fields
from pathlib import Path

from lora_bench.cli.commands import options_of, terminal
from lora_bench.cli.help import DONE, SOME_FAILED
from lora_bench.execute.progress import display
from lora_bench.kinds.support.table_view import LookOptions
from lora_bench.plan.fit_minutes import DEFAULT_MODEL, worthwhile_bfloat16
from lora_bench.report.text import unmarked
from lora_bench.tasks.look import look
from lora_bench.util.redaction import message


def fleet(arguments: argparse.Namespace) -> int:
    """Train a fleet, judge it, and write its page."""
    from lora_bench.execute.run_suite import runs_folder
    from lora_bench.fleet.find_groups import find_groups
    from lora_bench.fleet.fleet_report import FleetPage, answer
    from lora_bench.fleet.judge_fleet import judge_fleet
    from lora_bench.fleet.serve_fleet import serve_fleet
    from lora_bench.fleet.train_fleet import FleetPlan, rule_of, train_fleet
    from lora_bench.suite.load_suite import load_suite

    seen = look(
        arguments.table, LookOptions(**{key.name: vars(arguments).get(key.name) for key in fields(LookOptions)})
    )
    groups = find_groups(seen, arguments.by, Path())
    for sentence in (*seen.sentences, *groups.sentences):
        print(message(sentence), flush=True)
    given = {
        f"--{name.replace('_', '-')}": getattr(arguments, name)
        for name in ("text", "text_pair", "label", "split", "group", "by", "model")
    }
    planned = FleetPlan(seen, groups, arguments.model or DEFAULT_MODEL, arguments.examples, worthwhile_bfloat16())
    if arguments.dry_run:
        planned.write_rates(lambda said: print(message(said)), given)
        print(f"next: lora-bench plan {shlex.quote(str(planned.file('rates')))}, or this command without --dry-run")
        return DONE
    with display(terminal(), quiet=arguments.quiet) as screen:
        records = train_fleet(planned, options_of(arguments), screen, given)
    suites = {part: load_suite(planned.file(part)) for part in records}
    folders = {part: runs_folder(suite, arguments.runs) for part, suite in suites.items()}
    result = judge_fleet(arguments.by, suites, records, folders)
    options = [part for name, value in given.items() if value is not None for part in (name, value)]
    words = ["lora-bench", "fleet", arguments.table.name, *options, "--examples", str(arguments.examples)]
    served = serve_fleet(suites["fleet"], records["fleet"], folders["fleet"])
    page = FleetPage(result, groups, rule_of(records["rates"]), records, served, shlex.join(words))
    written = page.write(folders["fleet"])
    print(message(unmarked(answer(result))))
    print(f"report: {written[0]}, {written[1].name} and {written[2].name}")
    print(f"adapters: {folders['fleet']}/RUN_ID/weights, with the run ids of each group in {written[2].name}")
    failed = [one for of_part in records.values() for one in of_part if one.status not in ("ok", "unsupported")]
    return SOME_FAILED if failed else DONE
