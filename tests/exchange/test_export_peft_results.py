"""Records as PEFT's result files: in their layout, with every number their table needs, and the same when read back."""

import copy
import json
import math

import pytest

from lora_bench.cli import main
from lora_bench.errors import LoraBenchError
from lora_bench.exchange import export
from lora_bench.exchange.peft_results import import_results, record_in
from lora_bench.records.record import CurvePoint, Memory, Weights
from lora_bench.records.sealed_records import to_json
from tests.exchange.test_peft_results import LORA, result
from tests.sample_records import record

# Columns that their table converts to whole numbers, and fails on null; and those that it looks up.
WHOLE = ("accelerator_memory_reserved_avg", "accelerator_memory_max", "accelerator_memory_reserved_99th", "train_time",
         "file_size", "num_trainable_params")  # fmt: skip
LAST = ("test accuracy", "train loss", "train samples", "train total tokens")
PACKAGES = ("peft", "transformers", "datasets", "torch", "bitsandbytes")

CURVE = (CurvePoint(step=10, loss=0.5), CurvePoint(step=10, scores={"accuracy": 0.25}), CurvePoint(step=20, loss=0.25))


def written(tmp_path, *records):
    """The sentence, and the files as data by path."""
    out = tmp_path / "exported"
    said = export(records, "peft-results", beside=tmp_path, out=str(out))
    return said, {file.relative_to(out).as_posix(): json.loads(file.read_text()) for file in out.rglob("*.json")}


def test_a_file_for_each_run_in_their_layout(tmp_path):
    said, files = written(
        tmp_path,
        record("lora", seed=0, model="my/base"),
        record("lora", seed=1, model="my/base"),
        record("full", model="my/base"),
        record("full", task="other", model="my/base", status="failed", reason="it broke"),
    )
    assert set(files) == {
        "vader_film/results/lora--base-lora-seed0.json", "vader_film/results/lora--base-lora-seed1.json",
        "vader_film/results/full-finetuning--base-full-seed0.json",
        "other/cancelled_results/full-finetuning--base-full.json",
    }  # fmt: skip
    assert said == f"4 result files in {tmp_path / 'exported'}; 1 of them failed runs, in cancelled_results"
    failed = files["other/cancelled_results/full-finetuning--base-full.json"]
    assert failed["train_info"]["status"] == "failed" and failed["run_info"]["error_msg"] == "it broke"


def test_their_table_finds_every_number_it_needs(tmp_path):
    bare = record("lora", changes={"speed": None, "memory": None, "parameters": None, "environment": None})
    for content in written(tmp_path, bare, record("full", changes={"curve": CURVE}))[1].values():
        train, run = content["train_info"], content["run_info"]
        for number in (
            *(train[name] for name in WHOLE),
            run["total_time"],
            *(train["metrics"][-1][n] for n in LAST[2:]),
        ):
            assert isinstance(number, int | float) and math.isfinite(number)
        assert set(LAST) < set(train["metrics"][-1]) and train["status"] == "success"
        assert {f"{name}-version" for name in PACKAGES} <= set(content["meta_info"]["package_info"])
        assert run["peft_config"] is None or isinstance(run["peft_config"]["peft_type"], str)


def test_what_was_not_measured_is_null_or_stands_for_nothing(tmp_path):
    resident = record("lora", changes={"speed": None})
    ((_, content),) = written(tmp_path, resident)[1].items()
    train = content["train_info"]
    # memory of the process is not what an accelerator's allocator reserved
    assert [train[name] for name in WHOLE[:4]] == [-1, -1, -1, -1] and train["file_size"] == 99_999_999
    assert content["run_info"]["peft_branch"] is train["metrics"][-1]["forgetting"] is train["num_total_params"] is None
    back = record_in(json.dumps(content).encode(), tmp_path / "x.json", command=None)
    assert back.memory is back.weights is back.speed is None


def test_the_same_when_read_back(tmp_path):
    weights = Weights(folder=None, stored_bytes=4_096, step=20)
    memory = Memory(
        kind="reserved", exclusive=None, start_bytes=0, load_bytes=None, first_step_bytes=None, steady_bytes=1_000,
        evaluation_bytes=None, weight_bytes=None, gradient_bytes=None, optimizer_bytes=None,
    )  # fmt: skip
    changes = {"curve": CURVE, "weights": weights, "memory": memory, "scores": {"f1": 0.5, "matthews": 0.25}}
    ours = [
        record("lora", seed=3, learning_rate=3e-4, metric="matthews", training={"steps": 20}, changes=changes),
        record("full", score=0.625, training={"steps": 20}, changes={"curve": CURVE}),
    ]
    said, _ = written(tmp_path, *ours)
    assert "PEFT's table has accuracy alone, which vader_film lacks" in said
    back = import_results(tmp_path / "exported", tmp_path / "runs")
    assert not back.faults
    for one in ours:
        (twin,) = (other for other in back.records if other.spec.seed == one.spec.seed)
        assert (twin.scores, twin.score) == (one.scores, one.score)
        assert twin.spec.training.learning_rate == one.spec.training.learning_rate
        assert (twin.spec.task.name, twin.spec.model.name) == (one.spec.task.name, one.spec.model.name)
        assert twin.spec.training.schedule == "linear" and twin.spec.training.batch_size == 16
        assert twin.parameters.trained == one.parameters.trained
        assert twin.speed.train_seconds == one.speed.train_seconds
        # points of one step are one point there
        assert [(p.step, p.loss, p.scores) for p in twin.curve] == [(10, 0.5, {"accuracy": 0.25}), (20, 0.25, None)]
    lora = next(one for one in back.records if one.spec.seed == 3)
    assert lora.weights.stored_bytes == 4_096 and lora.memory.train_peak_bytes == 1_000
    assert lora.spec.method.options["type"] == "LORA" and lora.spec.method.options["options"]["r"] == 4
    assert {one.spec.method.name for one in back.records} == {"peft", "full"}


def test_their_own_file_comes_back_as_it_was(tmp_path):
    file = result(tmp_path, LORA)
    theirs = record_in(file.read_bytes(), file, command=None)
    _, files = written(tmp_path, theirs)
    ((path, content),) = files.items()
    assert path == "MetaMathQA/results/lora--tiny-r4.json"
    for part, names in {
        "run_info": ("created_at", "experiment_name", "error_msg"),
        "train_info": ("accelerator_memory_max", "train_time", "file_size", "num_trainable_params", "status"),
    }.items():
        assert {name: content[part][name] for name in names} == {name: LORA[part][name] for name in names}
    config = copy.deepcopy(LORA["run_info"]["peft_config"])
    assert content["run_info"]["peft_config"] == {
        "peft_type": "LORA", "r": config["r"], "lora_alpha": config["lora_alpha"], "target_modules": ["q", "v"],
    }  # fmt: skip
    last = LORA["train_info"]["metrics"][-1]
    assert last.items() <= content["train_info"]["metrics"][-1].items()


def test_names_of_strangers_stay_in_the_folder_and_apart(tmp_path):
    odd = record("lora", task="../../up", model="..")
    alike = [record("full", task="a b", learning_rate=rate) for rate in (1e-4, 1e-3)]
    _, files = written(tmp_path, odd, *alike)
    assert len(files) == 3 and [path.name for path in tmp_path.iterdir()] == ["exported"]
    assert {path.split("/")[0] for path in files} == {"--..--up", "a_b"}


def test_trials_are_left_out_and_nothing_else_is_an_error(tmp_path, capsys):
    trial = record("lora", spec={"score_on": "selection"})
    said, files = written(tmp_path, trial, record("lora"))
    assert len(files) == 1 and "1 trials and scores alone left out" in said
    (tmp_path / "record.json").write_bytes(to_json(trial))
    with pytest.raises(LoraBenchError, match="no runs scored on a test split"):
        export([trial], "peft-results", beside=tmp_path)
    assert main(["export", str(tmp_path / "record.json"), "--to", "peft-results"]) == 2
    assert "no runs scored on a test split" in capsys.readouterr().err
