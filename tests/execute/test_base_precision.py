"""Runs with a base in sixteen bits: from a suite to records, kept weights, a resumption, and what is refused."""

import json

import pandas
import pytest

from lora_bench.cli import main
from lora_bench.errors import BadInput
from lora_bench.execute.run_suite import run_suite
from lora_bench.plan.make_plan import make_plan
from lora_bench.suite.load_suite import load_suite
from lora_bench.tasks import load_data
from lora_bench.training.run import run_job
from lora_bench.training.winner import find_winner, merge_winner
from tests.project import SUITE, write_project

ALL = "[full, lora, bottleneck_adapter, prefix_tuning]"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))


def write(
    folder, training, methods="[full, lora, bitfit, prefix_tuning]", rest="keep_weights: last\n", family="roberta"
):
    suite = SUITE.replace(ALL, methods).replace("train_examples: 48", "train_examples: 800") + rest
    return write_project(folder, f"{suite}training: {{{training}}}\n", family)


def test_the_default_is_no_part_of_a_run_id_and_another_is(tmp_path):
    ids = [
        {
            cell.job.run_id
            for cell in make_plan(load_suite(write(tmp_path, training, "[lora]")), tmp_path / "runs").cells
        }
        for training in ("threads: 1", "base_precision: float32", "base_precision: bfloat16")
    ]
    assert ids[0] == ids[1] and not ids[0] & ids[2]


@pytest.mark.parametrize("family", ["roberta", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_runs_learn_and_keep_weights_that_answer_as_they_did(tmp_path, monkeypatch, family):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, "base_precision: bfloat16", family=family)
    outcome = run_suite(path.name, runs="runs", workers=0)
    records = {record.spec.method.label: record for record in outcome.records}
    assert {record.status for record in records.values()} == {"ok"}, [record.reason for record in records.values()]
    lora = records["lora"]
    assert lora.memory.gradient_bytes == 4 * lora.parameters.trained
    head, total = records["full"].parameters.head, records["full"].parameters.total
    assert records["full"].memory.gradient_bytes == 2 * (total - head) + 4 * head
    (runs,) = (tmp_path / "runs").iterdir()
    ((task, base),) = load_suite(path).tasks
    held_out = [int(name) - 1 for name in load_data(task, base).splits["test"].ids]
    rows = path.with_name("tickets.csv").read_text(encoding="utf-8").splitlines()
    (tmp_path / "new.csv").write_text("\n".join([rows[0], *(rows[1 + place] for place in held_out)]), encoding="utf-8")
    for label, record in records.items():
        assert main(["predict", str(runs), "new.csv", label, "--out", f"{label}.csv"]) == 0
        given = pandas.read_csv(tmp_path / f"{label}.csv")[
            [f"p({name})" for name in record.spec.task.labels]
        ].to_numpy()
        kept = json.loads((runs / record.run_id / "probabilities.json").read_text(encoding="utf-8"))["probabilities"]
        # In float32 over the rounded base: near the answers of the run, whose activations were rounded too.
        assert abs(given - kept).max() < 0.03, label
    for label in ("lora", "bitfit"):
        merge_winner(find_winner(runs, label), tmp_path / f"merged-{label}")


@pytest.mark.parametrize(
    ("training", "fault"),
    [
        ("base_precision: float16, precision: bfloat16", "take the same type for both"),
        ("base_precision: bfloat16, parallelism: fsdp, processes: 2", "parallelism: ddp"),
        ("base_precision: int8", "float32"),
    ],
)
def test_what_cannot_go_together_is_said_before_anything_is_read(tmp_path, training, fault):
    with pytest.raises(BadInput, match=fault):
        load_suite(write(tmp_path, training))


def test_layers_computed_anew_change_no_id_and_no_answer(tmp_path):
    """Runs of the same id, in folders of their own, end with the same answers."""
    found = []
    for training in ("threads: 1", "gradient_checkpointing: true"):
        path = write(tmp_path / training[:4], training, "[lora]", "")
        (cell,) = make_plan(load_suite(path), tmp_path / training[:4] / "runs").cells
        record = run_job(cell.job)
        assert record.spec.training.gradient_checkpointing == ("gradient" in training)
        kept = (cell.job.folder.path / "predictions.json").read_bytes()
        found.append((record.run_id, record.scores, record.curve, kept))
    assert found[0] == found[1]


def test_full_in_float16_is_a_row_that_says_so(tmp_path):
    plan = make_plan(load_suite(write(tmp_path, "base_precision: float16", "[full, lora]")), tmp_path / "runs")
    assert {cell.job.spec.method.label: cell.reason is not None for cell in plan.cells} == {"full": True, "lora": False}
    assert any("float16" in (cell.reason or "") for cell in plan.cells)


@pytest.mark.parametrize("optimiser", ["adamw_8bit", "paged_adamw_8bit"])
def test_full_keeps_the_optimisers_states_in_eight_bits(tmp_path, optimiser):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    path = write(tmp_path, "threads: 1", "[full]", f"training_arguments: {{optim: {optimiser}}}\n")
    suite = (
        path.read_text()
        .replace("models: [base]", "models: [gpt2-mini]")
        .replace("train_examples: 800", "train_examples: 32")
    )
    path.write_text(suite)
    (record,) = run_suite(path, runs=tmp_path / "runs", workers=0).records
    assert (record.status, record.spec.training.arguments) == ("ok", {"optim": optimiser})
    # Two bytes a weight, but for the embeddings, which bitsandbytes keeps at eight.
    assert record.memory.optimizer_bytes < 0.6 * 8 * record.parameters.trained
