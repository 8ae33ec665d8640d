"""The command that judges other people's scores."""

import argparse
import json
import sys
from dataclasses import asdict
from typing import Any

from lora_bench.cli.help import DONE
from lora_bench.exchange.scores import Judgement
from lora_bench.exchange.scores import judge as judge_scores
from lora_bench.report import terminal_answer
from lora_bench.report.frames.verdict_frame import to_over_tasks_frame
from lora_bench.util.redaction import message


def judge(arguments: argparse.Namespace) -> int:
    """Judge scores, print the answer, and write the page if it is asked for."""
    from lora_bench.cli.commands import terminal

    columns = ("method", "task", "base_model", "seed", "item", "cost", "score", "lower_is_better")
    asked = (*columns, "scale", "reference", "margin", "alpha")
    found = judge_scores(*arguments.scores, **{name: getattr(arguments, name) for name in asked})
    if arguments.json:
        print(json.dumps(_as_json(found), indent=2, ensure_ascii=False))
    else:
        print(*map(message, found.said), sep="\n", file=sys.stderr)
        terminal().print(terminal_answer(found.report), highlight=False)
    if arguments.out is not None:
        written = found.write_report(arguments.out, latex=arguments.latex, figures=arguments.figures)
        if not arguments.json:
            print(*(path for path in written if path.suffix not in (".svg", ".pdf")), sep="\n")
    return DONE


def _as_json(found: Judgement) -> dict[str, Any]:
    report = found.report
    loss = report.overview.taken.loss if report.overview.taken is not None else None
    given = report.given_costs
    costs = {line.label: line.cost for line in report.overview.methods}
    claims = report.pooled.claims if report.pooled is not None else ()
    frames = {"over_tasks": to_over_tasks_frame(report.judged), "tasks": found.verdicts}
    return {
        "answer": found.answer,
        "said": found.said,
        "take": found.winner,
        "expected_loss": None if loss is None else asdict(loss),
        "cost": None if given is None else {"column": given.name, "mean": costs},
        "level": report.decision.level,
        "new_tasks": [{**asdict(claim), "shown": claim.shown} for claim in claims],
        **{name: json.loads(frame.to_json(orient="records")) for name, frame in frames.items()},
    }
