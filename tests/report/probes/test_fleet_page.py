"""The page of a fleet: gains, aims and the end of the gain by hand from made records; and what the guide quotes."""

import re
from pathlib import Path

from lora_bench.records.fleet_record import (
    FleetAnswers,
    FleetLatency,
    FleetRecord,
    FleetSpeed,
    FleetStorage,
    HitRate,
    read_fleet,
)
from lora_bench.report.blocks import to_markdown
from lora_bench.report.probes.fleet_page import fleet_page
from tests.report.test_markdown import tables
from tests.sample_records import ENVIRONMENT

ROOT = Path(__file__).parents[3]


def table(page, heading):
    """The first table below a heading."""
    return tables(page.partition(f"## {heading}\n")[2])[0]


def record(part, **fields):
    return FleetRecord(model="tiny", part=part, command="lora-bench probe fleet", environment=ENVIRONMENT, **fields)


def speed(tokens, active, mixed, peft, alone, **ways):
    of_way = {"mixed": mixed, "PEFT's": peft, "one by one": alone, "base": 1000.0} | ways
    return FleetSpeed(
        tokens=tokens, active=active, ranks=(8,), rows=64, rounds=2, rows_per_second=of_way, difference={"mixed": 2e-6},
        others={"mixed": 0},
    )  # fmt: skip


SPEEDS = (
    speed(1, 4, 600.0, 590.0, 50.0, **{"by adapter": 300.0}),
    speed(1, 64, 600.0, 200.0, 60.0),  # ten times one by one, three times PEFT's
    speed(8, 64, 100.0, 80.0, 50.0),  # twice, and 1.25 times
    speed(128, 64, 30.0, 20.0, 40.0),  # slower than one by one
)
STORAGE = FleetStorage(
    stored=1000, slots=64, file_bytes=1000, tensor_bytes=990, layer_bytes=1300, waiting_bytes=1100, modules=12,
    activate_seconds=0.001, load_seconds=0.02, delete_seconds=0.002, swap_seconds=0.003, request_seconds=0.004,
    first_from_file_seconds=0.03, first_from_memory_seconds=0.007, difference=0.0, others=0,
    hit_rates=(HitRate(traffic="uniform", slots=64, rate=0.064), HitRate(traffic="zipf", slots=64, rate=0.5)),
)  # fmt: skip


def test_the_lead_says_for_whom_it_pays_and_where_the_gain_ends():
    page = to_markdown(fleet_page([record("speed", speeds=SPEEDS)]))
    lead = re.search(r"\*\*(Mixed batches.*)\*\*", page)[1]
    # With 4 adapters 600 / 590 is no gain, so 64 are the fewest.
    assert "few tokens a step, as in writing, from 64 adapters on." in lead
    assert "`tiny` gains × 3.00 at 1 token a row and nothing from 128 tokens on" in lead
    assert ["`tiny`", "1", "× 1.02", "× 3.00"] in table(page, "Gain over the fastest other way")
    assert ["`tiny`", "128", "–", "× 0.75"] in table(page, "Gain over the fastest other way")


def test_aims_are_met_or_missed_by_their_figures():
    wrong = FleetAnswers(rows=60_000, adapters=64, ranks=(4, 8), difference=3e-6, others=1)
    right = wrong.model_copy(update={"others": 0})
    parts = [record("speed", speeds=SPEEDS), record("storage", storage=STORAGE)]
    for answers, met in (([right, right], "**met**"), ([right, wrong], "missed"), ([right], "missed")):
        page = to_markdown(fleet_page([*parts, *(record("answers", answers=one) for one in answers)]))
        rows = table(page, "Aims")
        assert [row[-1] for row in rows[-5:]] == ["**met** at 1", "**met** at 1", "**met**", "missed", met]
    assert rows[-3][2] == "10.0 % more than the file" and rows[-2][2] == "30.0 % more than the file"


def test_a_queue_that_falls_behind_has_no_quantiles():
    fine = FleetLatency(
        traffic="zipf", way="mixed", share=0.2, arrivals_per_second=100.0, requests=400, behind=128, p50=0.01, p90=0.02,
        p99=0.03, difference=0.0, others=0,
    )  # fmt: skip
    behind = fine.model_copy(update={"way": "one by one", "p50": None, "p90": None, "p99": None})
    page = to_markdown(fleet_page([record("latency", latencies=(fine, behind))]))
    assert "| zipf | 20 % | 100 | 10.0, 20.0, 30.0 | falls behind |" in page


def test_the_table_of_the_guide_quotes_the_committed_records():
    guide = (ROOT / "docs/how-to/many-adapters.md").read_text(encoding="utf-8")
    speeds = {part.model: part.speeds for part in read_fleet(ROOT / "baselines" / "fleet") if part.speeds}
    rows = re.findall(
        r"^\| (\S+) \| (\d+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|", guide, flags=re.MULTILINE
    )
    assert len(rows) == 8
    for model, tokens, *figures in rows:
        name = {"MiniLM-L6": "minilm-l6-roberta"}.get(model, model)
        (one,) = (s for s in speeds[name] if (s.tokens, s.active, s.ranks) == (int(tokens), 64, (8,)))
        ways = ("mixed", "PEFT's", "one by one", "base")
        assert figures == [f"{one.rows_per_second[way]:,.0f}" for way in ways]
