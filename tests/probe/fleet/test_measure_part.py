"""Parts of `lora-bench probe fleet` on tiny models: exact answers, and answers that are wrong counted as such."""

from pathlib import Path

import pytest
import torch

from lora_bench.cli import main
from lora_bench.errors import WorkBroken
from lora_bench.execute import run_fleet_probe
from lora_bench.probe.fleet import storage
from lora_bench.probe.fleet.many_adapters import EQUAL, UNEQUAL, Fleet, Request, gap
from lora_bench.probe.fleet.measure_part import count_answers, measure
from lora_bench.probe.fleet.products import products
from lora_bench.records.fleet_record import MIXED, FleetRecord, fleet_file, fleets_in, read_fleet, write_fleet_part
from lora_bench.report.probes.fleet_page import fleet_files
from lora_bench.training.measure.bare_step import Window
from tests.sample_records import ENVIRONMENT
from tests.tiny import CLASSIFIERS

TINY = {
    "speed": {"adapters": {1: (1, 4, 6), 3: (1, 4)}, "rows": 4, "rounds": Window(1, 1, 0.0)},
    "latency": {"adapters": 6, "number": 30, "rows": 4},
    "storage": {"stored": 12, "slots": 4, "misses": 8},
    "answers": {"number": 64, "adapters": 6},
}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def maker(family="roberta", device="cpu"):
    def make(ranks):
        torch.manual_seed(0)
        return Fleet(CLASSIFIERS[family](), ranks, torch.device(device))

    return make


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("family", ["roberta", "gpt2"])
def test_every_part_is_measured_and_every_answer_is_the_lone_adapters(family, device):
    found = {part: measure(part, maker(family, device), **scale) for part, scale in TINY.items()}
    speeds = found["speed"]["speeds"]
    assert [(speed.tokens, speed.active) for speed in speeds if len(speed.ranks) == 1] == [
        (1, 1),
        (3, 1),
        (1, 4),
        (3, 4),
        (1, 6),
    ]
    assert [(speed.tokens, speed.active) for speed in speeds if speed.ranks == UNEQUAL] == [(1, 4), (3, 4)]
    assert next(speed for speed in speeds if speed.active == 6).rows == 6
    assert all(min(speed.rows_per_second.values()) > 0 for speed in speeds)
    assert all(set(speed.others.values()) == {0} and max(speed.difference.values()) < 1e-5 for speed in speeds)
    latencies = found["latency"]["latencies"]
    assert len(latencies) == 2 * 3 * 4
    storage, answers = found["storage"]["storage"], found["answers"]["answers"]
    for compared in (*latencies, storage, answers):
        assert compared.others == 0 and compared.difference < 1e-5
    # Queries and values (GPT-2: the three projections in one) of two layers, with A and B of rank 8, in float32.
    widths = {"roberta": 2 * (32 + 32), "gpt2": 32 + 3 * 32}[family]
    assert storage.tensor_bytes == 2 * 4 * 8 * widths and answers.rows == 64


def test_the_answers_of_another_adapter_are_counted(monkeypatch):
    answer = Fleet.answer

    def answer_by_others(self, way, requests):
        others = [Request(of.adapter, one.row) for of, one in zip(requests[::-1], requests, strict=True)]
        return answer(self, way, others if way == MIXED else requests)

    monkeypatch.setattr(Fleet, "answer", answer_by_others)
    with torch.no_grad():
        assert count_answers(maker()(UNEQUAL), **TINY["answers"]).difference > 1e-3
    compared = gap(torch.tensor([[0.0, 1.0], [0.0, 1.0]]), torch.tensor([[0.0, 1.5], [2.0, 1.0]]))
    assert compared == {"difference": 2.0, "others": 1}


def test_a_swap_that_leaves_the_former_adapter_shows(monkeypatch):
    monkeypatch.setattr(storage, "hotswap_adapter_from_state_dict", lambda *swapped: None)
    with torch.no_grad():
        assert storage.measure_storage(maker()(EQUAL), **TINY["storage"]).difference > 1e-4


@pytest.mark.parametrize("way", ["stacked", "grouped", "looped"])
def test_a_product_has_the_weight_of_each_row(way):
    x, weights = torch.tensor([[[1.0] * 8], [[2.0] * 8], [[3.0] * 8]]), [torch.full((4, 8), k) for k in (1.0, 10.0)]
    # Eight products each: 1 and 3 by the first weight, 2 by the second.
    assert products(x, weights)[way]()[:, 0, 0].tolist() == [8.0, 160.0, 24.0]


def record(part, model="gpt2-mini", **fields):
    return FleetRecord(model=model, part=part, command="lora-bench probe fleet", environment=ENVIRONMENT, **fields)


def test_only_missing_parts_are_measured_and_the_page_is_written(tmp_path, monkeypatch, capsys):
    asked = []

    def child(module, folder, model, part):
        asked.append((model, part))
        write_fleet_part(Path(folder), record(part, model))
        return ["true"]

    monkeypatch.setattr(run_fleet_probe, "our_command", child)
    folder = tmp_path / "fleet"
    write_fleet_part(folder, record("speed"))
    damaged = fleet_file(folder, "gpt2-mini", "answers")
    damaged.write_text("{")
    assert main(["probe", "fleet", "--runs", str(tmp_path)]) == 0
    assert len(asked) == 7 and ("gpt2-mini", "speed") not in asked and ("gpt2-mini", "answers") in asked
    assert fleets_in(tmp_path) == {"fleet": folder} == fleets_in(folder) and len(read_fleet(folder)) == 8
    assert (folder / "report.md").read_bytes() == fleet_files(folder, "report")["report.md"]
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "out"), "--check"]) == 0
    (tmp_path / "out" / "fleet.md").write_text("changed")
    assert main(["report", str(folder), "--out", str(tmp_path / "out"), "--check"]) == 1
    assert "fleet.md differs from its records from line 1 on" in capsys.readouterr().out


def test_a_process_that_ends_without_a_record_breaks_the_work_off(tmp_path, monkeypatch):
    monkeypatch.setattr(run_fleet_probe, "our_command", lambda *words: ["false"])
    with pytest.raises(WorkBroken, match="measuring speed of minilm-l6-roberta ended with 1"):
        run_fleet_probe.run_fleet_probe(tmp_path, print)
    assert main(["probe", "fleet", "--retry", "--runs", str(tmp_path)]) == 2
