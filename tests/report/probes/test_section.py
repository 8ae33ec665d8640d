"""What a report says of probes: medians, ratios, the noise floor and what is missing, whatever strings the records have."""

import json
import math
import random
import re
import statistics
from pathlib import Path

import pytest
import scipy.stats

from lora_bench.cli import main
from lora_bench.records.probe_record import Energy, StepBytes
from lora_bench.records.probe_store import read_probes
from lora_bench.records.sealed_records import to_json
from lora_bench.report.blocks import to_markdown
from lora_bench.report.probes.cells import noise_floor, probed_cells, unchanged_difference
from lora_bench.report.probes.probe_section import probe_section, probes_page
from tests.probe.records import probe_record, sample_probes
from tests.report.test_markdown import tables
from tests.sample_records import MIB, sample_suite


def line_of(page: str, title: str, label: str) -> dict[str, list[str]]:
    """The cells of a method's first line in a titled table, by column; columns of one name are in order, those of all parts."""
    section = page[page.index(f"**{title}**") + 2 :].partition("\n**")[0]
    found: dict[str, list[str]] = {}
    for header, _, *lines in tables(section):
        line = next(line for line in lines if line[0] == f"`{label}`")
        named = {name for name in header[:2] if name in found}  # each part of a wide table names its lines
        for name, cell in zip(header, line, strict=True):
            if name not in named:
                found.setdefault(name, []).append(cell)
    return found


# The noise floor.


def processes(*seconds: float, method: str = "lora", twin: bool = False):
    return [probe_record(method, repeat, step_seconds=step, twin=twin) for repeat, step in enumerate(seconds)]


def test_the_noise_floor_of_two_processes_by_hand():
    # Logs 0 and 0.02 around 0.01: squares 2e-4, one degree of freedom, so s = 0.01414; two means of two differ by s.
    floor = noise_floor(probed_cells(processes(1.0, math.exp(0.02))))
    t = 12.7062  # 0.975 quantile of Student's t with 1 degree of freedom
    assert floor == pytest.approx(math.exp(t * math.sqrt(2e-4)) - 1, rel=1e-4)


def test_the_noise_floor_pools_cells_and_twins_and_not_what_lies_between_them():
    one, again = (1.0, 1.02, 1.05), (2.0, 2.1, 1.9)
    other = (30.0, 30.5, 31.0)
    cells = probed_cells([*processes(*one), *processes(*again, twin=True), *processes(*other, method="full")])
    logs = [[math.log(value) for value in group] for group in (one, again, other)]
    pooled = statistics.fmean(statistics.variance(group) for group in logs)  # all have two degrees of freedom
    width = scipy.stats.t.ppf(0.975, df=6) * math.sqrt(pooled * 2 / 3)
    assert noise_floor(cells) == pytest.approx(math.exp(width) - 1)


def test_single_processes_show_no_noise():
    assert noise_floor(probed_cells([*processes(1.0), *processes(2.0, twin=True)])) is None
    assert noise_floor([]) is None


@pytest.mark.parametrize("count", [3, 5])
@pytest.mark.parametrize("methods", [("lora",), ("lora", "full", "prefix_tuning")])
def test_nineteen_of_twenty_unchanged_pairs_lie_inside_the_noise_floor(count, methods):
    """A/A by simulation: processes vary by 2 % around their cell, and the pair is looked at as the report does."""
    draw, inside, trials = random.Random(0), 0, 800
    templates = {method: probe_record(method) for method in methods}

    def drawn(method: str, twin: bool) -> list:
        record = templates[method]
        return [
            record.model_copy(
                update={
                    "repeat": repeat,
                    "twin": twin,
                    "speed": record.speed.model_copy(update={"step_seconds_median": math.exp(draw.gauss(0, 0.02))}),
                }
            )
            for repeat in range(count)
        ]

    for _ in range(trials):
        records = [record for method in methods for record in drawn(method, False)] + drawn(methods[0], True)
        cells = probed_cells(records)
        (change,) = (change for cell in cells if (change := unchanged_difference(cell)) is not None)
        inside += abs(math.log1p(change)) <= math.log1p(noise_floor(cells))
    # 95 %, give or take 2.6 standard errors of 800 trials
    assert abs(inside / trials - 0.95) < 0.02


def test_the_difference_of_a_second_measurement_is_of_geometric_means():
    (cell,) = probed_cells([*processes(1.0, 4.0), *processes(2.0, 4.5, twin=True)])
    # 2 and 3: half as much again
    assert unchanged_difference(cell) == pytest.approx(0.5)


# Tables.


def test_a_line_of_training_speed():
    page = to_markdown(probes_page(sample_probes()))
    found = line_of(page, "Training speed", "lora")
    assert found["trained"] == ["156,680"]
    # The geometric mean of 59.4, 60 and 60.6 ms is 59.998.
    assert found["step, ms"] == ["60.0"] and found["quartiles"] == ["59.7 to 60.3"]
    assert found["of `full`"] == ["0.6", "0.667"]  # step, and FLOPs: 2 of 3
    assert (found["forward, ms"], found["backward, ms"], found["optimiser, ms"]) == (["24.0"], ["30.0"], ["6.00"])
    assert found["tokens/s"] == ["34,133"] and found["GFLOP"] == ["200"]
    assert found["host-bound"] == ["–"]
    assert line_of(page, "Training speed", "full")["of `full`"] == ["1", "1"]


def test_a_line_of_memory_is_above_what_the_process_held_before():
    found = line_of(to_markdown(probes_page(sample_probes())), "Memory of a training step, MiB", "full")
    assert [found[name][0] for name in ("weights", "gradients", "optimiser", "activations", "peak", "predicted")] == [
        "90", "90", "180", "200", "480", "480",
    ]  # fmt: skip
    assert (found["resident peak"], found["first step"], found["saving"]) == (["480"], ["500"], ["200"])
    assert line_of(to_markdown(probes_page(sample_probes())), "Memory of a training step, MiB", "lora")[
        "of `full`"
    ] == ["0.625"]


def test_a_line_of_what_is_stored():
    found = line_of(to_markdown(probes_page(sample_probes())), "Stored", "lora")
    # 91 MiB over 700,000 bytes
    assert found["`full` is"] == ["136 times as large"]
    assert (found["adapter, MiB"], found["switched, ms"], found["base model loaded, ms"]) == (
        ["0.0293"],
        ["0.20"],
        ["500"],
    )
    assert line_of(to_markdown(probes_page(sample_probes())), "Stored", "full")["switched, ms"] == ["–"]


def test_a_line_of_forward_passes():
    found = line_of(to_markdown(probes_page(sample_probes())), "Forward passes, ms", "lora")
    assert (found["shape"], found["base model"], found["adapted"], found["merged"]) == (
        ["1 × 128"], ["10.0"], ["12.0"], ["10.0"],
    )  # fmt: skip
    assert found["more"] == ["+20.0 %", "+0.0 %"]
    assert found["merged differs by"] == ["2.5e−07"] and found["two adapters in a batch"] == ["+50.0 %"]
    full = line_of(to_markdown(probes_page(sample_probes())), "Forward passes, ms", "full")
    assert full["merged"] == ["–"] and full["two adapters in a batch"] == ["–"]


def test_the_introduction_says_how_it_was_measured_and_how_far_to_trust_it():
    page = to_markdown(probes_page(sample_probes()))
    said = "each of the 2 other methods needs at most 0.80 of the training time and at most 0.62 of the peak memory; its file"
    assert page.startswith(f"# costs\n\n**Compared with `full`, {said} is at least ")
    assert re.search(r"Range: MiniLM-L6 in the RoBERTa class; steps of \d+ × \d+ tokens in float32 on ", page)
    assert "forward, backward and optimiser need not add up to the step" in page
    assert "\n\n## What each method costs\n\nEvery cell was measured in 3 fresh processes on" in page
    assert "AMD EPYC 7B13 (2 threads), each alone on its device:" in page
    floor = noise_floor(probed_cells(sample_probes()))
    assert f"**Noise floor: {floor * 100:.1f} %.** Step times that differ by less are not told apart here." in page
    # 102 against the geometric mean of 99, 100 and 101
    assert (
        "Measured a second time unchanged, the step differed by +2.0 % (`full` on MiniLM-L6 in the RoBERTa class)."
        in page
    )


@pytest.mark.parametrize(
    ("exclusive", "words"),
    [
        ([True, True], "each alone on its device"),
        ([True, False], "**1 of 2 with other work beside it**, so times are rough"),
        ([True, None], "where it is not recorded whether other work ran"),
    ],
)
def test_company_is_said(exclusive, words):
    page = to_markdown(
        probes_page([probe_record(repeat=number, exclusive=alone) for number, alone in enumerate(exclusive)])
    )
    assert words in page


def test_one_process_is_said_to_show_no_noise():
    page = to_markdown(probes_page([probe_record()]))
    assert "in 1 fresh process on" in page
    assert "**Noise floor: not known**" in page and "no difference can be told from noise" in page


def test_cells_that_differ_in_their_step_are_never_in_one_table():
    others = [
        {"batch_size": 8},
        {"length": 64},
        {"precision": "bfloat16"},
        {"threads": 1},
        {"labels": 3},
        {"attention": "eager"},
    ]
    for other in others:
        page = to_markdown(probes_page([probe_record("full"), probe_record("lora", spec=other)]))
        headings = [line for line in page.splitlines() if line.startswith("### MiniLM")]
        assert len(set(headings)) == 2, other
    together = to_markdown(probes_page([probe_record("full"), probe_record("lora", spec={"wide_tokens": 4096})]))
    assert sum(line.startswith("### MiniLM") for line in together.splitlines()) == 1


# What is missing.


def test_failures_are_listed_with_their_reason_and_what_their_step_was_to_hold():
    held = StepBytes(weight_bytes=1, gradient_bytes=1, optimizer_bytes=1, activation_bytes=1, peak_bytes=2048 * MIB)
    page = to_markdown(
        probes_page(
            [
                *sample_probes(),
                probe_record("prefix_tuning", 7, status="out_of_memory", reason="3 GiB asked for", predicted=held),
            ]
        )
    )
    assert "- `bottleneck_adapter`: **unsupported**: it does not work here" in page
    assert "- `prefix_tuning`: **out of memory**: 3 GiB asked for; its step was to hold 2,048 MiB" in page


def test_a_suite_in_which_nothing_could_be_measured_has_its_reasons():
    page = to_markdown(probes_page([probe_record(status="failed", reason="no")]))
    assert "No cell could be measured." in page and "- `lora`: **failed**: no" in page
    assert "–" not in page and "| method" not in page


def test_what_is_null_is_a_dash_and_its_reason_is_listed():
    bare = probe_record(
        "lora", phases=None, measured=None, predicted=None, inference=None, checkpoint=None, flops=None, parameters=None,
        unmeasured={"checkpoint": "the disk is full", "inference": "no shape", "measured": "no"},
    )  # fmt: skip
    page = to_markdown(probes_page([bare, *processes(0.1, method="full")]))
    speed = line_of(page, "Training speed", "lora")
    assert speed["trained"] == speed["GFLOP"] == ["–"] and speed["of `full`"] == ["0.6", "–"]
    memory = line_of(page, "Memory of a training step, MiB", "lora")
    assert {cell for name, cells in memory.items() if name != "method" for cell in cells} == {"–"}
    for reason in ("- `checkpoint` of `lora`: the disk is full", "- `measured` of `lora`: no"):
        assert reason in page
    assert "- `energy` and `wide` of `full`: " not in page and "- `energy` of `full`: host and device are one" in page


def test_one_reason_of_one_method_is_said_once():
    reasons = {"inference.mixed_batch_seconds": "not here", "inference.one_adapter_seconds": "not here"}
    lora = [record.model_copy(update={"unmeasured": reasons}) for record in processes(0.1, 0.1)]
    page = to_markdown(probes_page([*processes(0.1, method="full"), *lora]))
    assert page.count("not here") == 1
    assert "- `inference.mixed_batch_seconds` and `inference.one_adapter_seconds` of `lora`: not here" in page


def test_no_probes_are_no_section():
    assert to_markdown(probe_section([])).splitlines() == []


def test_the_order_of_records_changes_nothing():
    records = sample_probes()
    assert to_markdown(probes_page(records)) == to_markdown(probes_page(records[::-1]))


def test_a_host_bound_share_is_a_percentage():
    cuda = probe_record(device="cuda", energy=Energy(joules=10.0, joules_per_step=0.2))
    assert line_of(to_markdown(probes_page([cuda])), "Training speed", "lora")["host-bound"] == ["40%"]


# The command.


def write(folder: Path, probes=(), records=()) -> None:
    for record in probes:
        path = folder / "probes" / f"{record.run_id}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(to_json(record))
    for record in records:
        (folder / record.run_id).mkdir(parents=True)
        (folder / record.run_id / "record.json").write_bytes(to_json(record))


@pytest.mark.parametrize("with_runs", [False, True], ids=["probes alone", "probes and runs"])
def test_a_baseline_with_probes_renders_to_the_same_report(tmp_path, monkeypatch, capsys, with_runs):
    monkeypatch.chdir(tmp_path)
    write(Path("runs/costs"), sample_probes(), sample_suite() if with_runs else ())
    assert main(["baseline", "accept", "runs/costs"]) == 0
    said = capsys.readouterr().out
    assert f"{len(sample_probes())} records in baselines/costs/probes.json" in said
    assert ("baselines/costs/runs.json" in said) is with_runs
    assert main(["report", "baselines", "--out", "reports"]) == 0
    assert main(["report", "baselines", "--out", "reports", "--check"]) == 0
    page = Path("reports/costs.md").read_text()
    assert "## What each method costs" in page and ("## Failures" in page) is with_runs
    assert [one.run_id for one in read_probes(Path("baselines/costs"))] == sorted(one.run_id for one in sample_probes())
    # Another number in a record is another report.
    file = next(Path("runs/costs/probes").glob("*-0.json"))
    content = json.loads(file.read_text())
    if content["speed"] is None:
        content["reason"] = "another"
    else:
        content["speed"]["step_seconds_median"] *= 2
    file.write_text(json.dumps(content))
    assert main(["baseline", "accept", "runs/costs"]) == 0
    assert main(["report", "baselines", "--out", "reports", "--check"]) == 1


def test_accepting_again_replaces_probes_and_a_record_that_cannot_be_read_costs_none(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(Path("runs/costs"), sample_probes())
    assert main(["baseline", "accept", "runs/costs"]) == 0
    before = read_probes(Path("baselines/costs"))
    broken = next(Path("runs/costs/probes").iterdir())
    broken.write_text("{}")
    assert main(["baseline", "accept", "runs/costs"]) == 2
    assert "is no probe record: " in capsys.readouterr().err
    assert read_probes(Path("baselines/costs")) == before
    broken.unlink()
    assert main(["baseline", "accept", "runs/costs"]) == 0
    assert len(read_probes(Path("baselines/costs"))) == len(before) - 1


def test_a_run_of_the_suite_keeps_the_probes_in_its_report(tmp_path, monkeypatch, capsys):
    from tests.project import SUITE, write_project

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    methods = "[full, lora, bottleneck_adapter, prefix_tuning]"
    write_project(tmp_path, SUITE.replace(methods, "[lora]").replace("48", "16"))
    write(Path("runs/tickets"), sample_probes())
    assert main(["run", "tickets.yaml", "--workers", "0", "--quiet"]) == 0
    assert "## What each method costs" in Path("runs/tickets/report.md").read_text()
    assert main(["report", "runs/tickets", "--check"]) == 0


def run_probed_suite(folder, monkeypatch, others, *options: str) -> int:
    """Run a suite of two runs that asks for probes, while *others* are at work on the machine."""
    from tests.project import SUITE, write_project

    monkeypatch.chdir(folder)
    monkeypatch.setenv("LORA_BENCH_CACHE", str(folder / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("lora_bench.execute.run_probes.company", lambda device: others)
    methods = "[full, lora, bottleneck_adapter, prefix_tuning]"
    asked = "probe: {latency: [[1, 8]], seconds: 0.1, processes: 1}\n"
    write_project(folder, SUITE.replace(methods, "[lora]").replace("48", "16") + asked)
    return main(["run", "tickets.yaml", "--workers", "0", *options])


@pytest.mark.slow
def test_a_run_measures_the_probes_that_its_suite_asks_for(tmp_path, monkeypatch, capsys):
    assert run_probed_suite(tmp_path, monkeypatch, [], "--no-probes") == 0
    assert "## What each method costs" not in Path("runs/tickets/report.md").read_text()
    assert run_probed_suite(tmp_path, monkeypatch, []) == 0
    assert "probes: 2 of 2 processes to do" in capsys.readouterr().out  # lora, and again unchanged
    assert "## What each method costs" in Path("runs/tickets/report.md").read_text()
    assert run_probed_suite(tmp_path, monkeypatch, []) == 0
    assert "probes: none of 2 processes to do" in capsys.readouterr().out


def test_a_run_beside_other_work_keeps_its_scores_and_says_why_nothing_was_probed(tmp_path, monkeypatch, capsys):
    assert run_probed_suite(tmp_path, monkeypatch, ["blender (process 7)"]) == 0
    said = capsys.readouterr().out
    assert "were not measured:" in said and "blender" in said
    assert "## Scores" in Path("runs/tickets/report.md").read_text()
