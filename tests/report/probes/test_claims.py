"""A paper's claims beside what probes found: every number by hand from made records, and files that say what was printed."""

import csv
import re
from collections import Counter
from typing import get_args

import pytest
from markdown_it import MarkdownIt

from lora_bench.errors import BadInput
from lora_bench.records.probe_record import Flops, Inference, Latency
from lora_bench.records.spec import MethodSpec
from lora_bench.report.blocks import to_markdown
from lora_bench.report.probes.claims import Claim, Claims, Quantity, claims_section, known_claims, read_claims
from lora_bench.report.probes.probe_section import probes_page
from lora_bench.suite.probe_suite import load_probe_suite
from tests.probe.records import probe_record
from tests.report.test_markdown import tables
from tests.shared import shared

SUITES = ("system-claims", "system-claims-gpu")
MODEL = "shape:gpt2-medium"
ADAPTER = MethodSpec(
    name="bottleneck_adapter", label="adapter_h", size="bottleneck_size", options={"bottleneck_size": 2}, chosen={}
)


def passes(base: float, adapted: float, merged: float | None = None) -> Inference:
    states = {"unadapted": base, "adapted": adapted, "merged": merged}
    return Inference(
        latencies=tuple(
            Latency(batch_size=1, length=128, state=state, passes=9, seconds_median=seconds, seconds_p90=seconds)
            for state, seconds in states.items()
            if seconds is not None
        ),
        merged_difference=None if merged is None else 2.5e-7,
        adapters_in_batch=None,
        mixed_batch_seconds=None,
        one_adapter_seconds=None,
    )


def measured():
    """Two processes of three methods on one model; an adapter's pass takes 10 and 20 % longer, a merged one −1 and +2 %."""
    records = []
    for repeat in range(2):
        records += [
            probe_record("full", repeat, model=MODEL, inference=passes(0.1, 0.1)),
            probe_record("lora", repeat, model=MODEL, inference=passes(0.1, 0.11, (0.099, 0.102)[repeat])),
            probe_record(
                ADAPTER, repeat, model=MODEL, inference=passes(0.1, (0.11, 0.12)[repeat]),
                flops=Flops(forward=103 * 10**9, step=2 * 10**11),
            ),
        ]  # fmt: skip
    return records


def claims(*quantities: str, **narrowed) -> Claims:
    made = [
        Claim(quantity=quantity, where="abstract", of="GPT-3", printed="much less", **narrowed)
        for quantity in quantities
    ]
    return Claims(paper="A paper", claims=tuple(made))


def here(quantity: str, records=None, **narrowed) -> str:
    """The last cell of a section's only row."""
    page = to_markdown(claims_section(claims(quantity, **narrowed), records or measured()))
    ((_, _, line),) = tables(page)
    return line[-1]


def test_counts_are_of_adapters_without_heads():
    found = {record.spec.method.name: record.parameters.adapter for record in measured()}
    times = float(here("trained_weights").removesuffix(" times fewer").replace(",", ""))
    assert times == pytest.approx(found["full"] / found["lora"], rel=0.01)


def test_each_claim_stands_beside_what_was_measured():
    page = to_markdown(claims_section(claims("step_memory", "stored_weights", "step_speed"), measured()))
    assert "Claims of A paper, beside the least and the greatest number here." in page
    ((header, _, *rows),) = tables(page)
    assert header == ["claim", "in the paper", "of", "here, on 1 base model"]
    # Peaks of 480 and 300 MiB; 90 MiB against 30,720 bytes; 100 and 60 ms.
    assert rows == [
        ["memory in training", "much less", "GPT-3 (abstract)", "1.6 times less"],
        ["stored weights, without heads", "much less", "GPT-3 (abstract)", "3,072 times smaller"],
        ["speed of training", "much less", "GPT-3 (abstract)", "67 % faster"],
    ]


def test_latency_of_merged_models_is_paired_within_processes():
    assert here("merged_latency") == "+0.5 %"


def test_the_table_of_forward_passes_takes_the_same_ratios_with_their_span():
    pairs = ((0.1, 0.099), (0.2, 0.206), (0.4, 0.4))
    records = [
        probe_record("lora", repeat, model=MODEL, inference=passes(base, base * 1.1, merged))
        for repeat, (base, merged) in enumerate(pairs)
    ]
    # The medians, 200 and 206 ms, would make it +3 %.
    assert here("merged_latency", records) == "+0.0 %"
    page = to_markdown(probes_page([*records, *measured()[2::3]]))
    header, _, *lines = next(table for table in tables(page) if "adapted" in table[0])
    own = next(line for line in lines if line[0] == "`lora`")
    assert own[header.index("merged") + 1] == "+0.0 % (−1.0 % to +3.0 %)"
    assert own[header.index("adapted") + 1] == "+10.0 %"


def test_a_pass_of_an_adapter_stands_beside_its_operations():
    page = to_markdown(probes_page(measured()))
    header, _, *lines = next(table for table in tables(page) if "adapted" in table[0])
    more = {line[0]: line[header.index("operations, to `full`")] for line in lines}
    assert more["`full`"] == "+0.0 %" and more["`adapter_h`"] == "+3.0 %"


def test_latency_of_an_adapter_is_held_against_its_own_claim():
    narrowed = {"model": MODEL, "method": "adapter_h", "shape": (1, 128)}
    assert here("adapted_latency", **narrowed) == "+15.0 % on gpt2-medium"
    assert here("adapted_latency", model=MODEL, method="adapter_h") == "+15.0 % on gpt2-medium"
    page = to_markdown(claims_section(claims("adapted_latency", model=MODEL, method="adapter_h"), measured()))
    assert "| latency of `adapter_h` |" in page
    # What was not measured is a dash, and the claim stays.
    assert here("adapted_latency", **{**narrowed, "method": "adapter_l"}) == "–"


def test_a_switch_of_tasks():
    # 500 ms to load the base model, 0.2 ms in memory.
    assert here("task_switch") == "2,500 times as quick as to load the base model, from memory"


def test_storage_of_a_hundred_tasks():
    # 100 × 91 MiB against 90 MiB and 100 × 700,000 bytes.
    times = float(here("hundred_tasks").removesuffix(" times less"))
    assert times == pytest.approx(9100 * 2**20 / (90 * 2**20 + 7e7), rel=0.01)


@pytest.mark.parametrize("quantity", get_args(Quantity))
def test_what_nobody_measured_is_said_to_be_so(quantity):
    bare = [
        probe_record(method, model=MODEL, parameters=None, speed=None, measured=None, inference=None, checkpoint=None)
        for method in ("full", "lora")
    ]
    assert here(quantity, bare) == "–"
    failed = [probe_record(status="failed", reason="it ended")]
    assert claims_section(claims(quantity), failed) == []


def test_cells_are_held_against_the_same_step_alone():
    other = [probe_record("full", model=MODEL, spec={"batch_size": 4}), probe_record("lora", model=MODEL)]
    assert here("step_speed", other) == "–"


def test_a_hostile_file_is_text_and_nothing_else():
    hostile = "<script>alert(1)</script> | [x](http://example.com)"
    made = Claim(quantity="task_switch", where=hostile, of=hostile, printed=hostile)
    page = to_markdown(claims_section(Claims(paper=hostile, claims=(made,)), measured()))
    rendered = MarkdownIt("commonmark").enable("table").render(page)
    assert "alert(1)" in rendered
    assert "<script" not in rendered
    assert re.findall(r"<a href=\"([^\"]*)\"", rendered) == ["/docs/probes.md#the-lora-papers-claims"]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("paper: A\nclaims: []\n", "claims.yaml:2"),
        ("paper: A\nclaims:\n  - {quantity: step_memroy, where: a, of: b, printed: c}\n", "step_memory"),
        ("paper: A\nclaim: []\n", "claims"),
    ],
)
def test_a_mistake_in_the_file_is_named_with_its_place(tmp_path, content, fault):
    file = tmp_path / "claims.yaml"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(BadInput, match=fault):
        read_claims(file)


@pytest.mark.parametrize("name", SUITES)
def test_claims_name_what_their_suite_measures(name):
    suite, held = load_probe_suite(name), known_claims(name)
    assert {claim.quantity for claim in held.claims} == set(get_args(Quantity))
    labels = {entry.label for entry in suite.methods}
    for claim in held.claims:
        if claim.quantity == "adapted_latency":
            assert claim.method in labels
            assert claim.model in {entry.model for entry in suite.models}
            assert claim.shape in suite.content.probe.latency


def test_the_suite_of_a_cpu_claims_what_that_of_a_gpu_does():
    small, large = ({claim.model_dump_json() for claim in known_claims(name).claims} for name in SUITES)
    assert small < large


def test_latencies_are_those_that_the_paper_printed():
    file = shared("published") / "lora_table01_gpt2m_inference_latency.csv"
    with file.open(encoding="utf-8", newline="") as lines:
        printed = [line for line in csv.DictReader(lines) if line["metric"] == "slowdown_pct_vs_no_adapter"]
    expected = Counter(f"+{line['value']} % {line['method_variant']} {line['method']}" for line in printed)
    held = [claim for claim in known_claims("system-claims-gpu").claims if claim.quantity == "adapted_latency"]
    found = Counter(
        f"{claim.printed} bs{claim.shape[0]}_len{claim.shape[1]} {claim.method.removesuffix('_0.5M')}" for claim in held
    )
    assert found == expected


def test_the_report_of_such_a_suite_has_the_claims_and_that_of_another_has_not():
    records = [record.model_copy(update={"suite": "system-claims"}) for record in measured()]
    assert "## The paper's claims" in to_markdown(probes_page(records))
    assert "## The paper's claims" not in to_markdown(probes_page(measured()))
