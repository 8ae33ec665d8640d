"""Result files of PEFT's method_comparison become records that say what the files say, and what their numbers are not."""

import copy
import json
import re

import pandas
import pytest

from lora_bench.cli import main
from lora_bench.errors import BadInput, LoraBenchError
from lora_bench.exchange.peft_results import import_results, mapping, record_in, result_files
from lora_bench.records.store import read_records
from lora_bench.report import compare, to_frame

# A run of 40 steps of two examples, timed in two stretches of 20 steps: 4 s and 6 s.
LORA = {
    "run_info": {
        "created_at": "2026-02-03T04:05:06+00:00",
        "total_time": 99.0,
        "experiment_name": "lora/tiny-r4",
        "peft_branch": "main",
        "train_config": {
            "model_id": "somebody/tiny",
            "dtype": "bfloat16",
            "max_seq_length": 64,
            "batch_size": 2,
            "max_steps": 40,
            "eval_steps": 20,
            "seed": 0,
            "grad_norm_clip": 1.0,
            "optimizer_type": "AdamW",
            "optimizer_kwargs": {"lr": 0.001, "weight_decay": 0.1, "eps": 1e-6},
            "lr_scheduler": "cosine",
            "attn_implementation": None,
        },
        "peft_config": {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "peft_version": "0.19.1",
            "r": 4,
            "lora_alpha": 8,
            "target_modules": ["v", "q"],
            "modules_to_save": None,
        },
        "error_msg": "",
    },
    "train_info": {
        "accelerator_memory_reserved_avg": 700,
        "accelerator_memory_max": 1000,
        "accelerator_memory_reserved_99th": 900,
        "train_time": 30.0,
        "file_size": 4096,
        "num_trainable_params": 512,
        "num_total_params": 10_512,
        "status": "success",
        "metrics": [
            {
                "step": 20, "valid accuracy": 0.25, "train loss": 2.0, "train samples": 40, "train time": 4.0,
                "eval time": 1.0, "tokens / sec": 100.0, "mem allocated avg": 500.0, "elapsed time": 9.0,
            },
            {
                "step": 40, "valid accuracy": 0.5, "train loss": 1.0, "train samples": 80, "train time": 6.0,
                "eval time": 1.0, "tokens / sec": 50.0, "mem allocated avg": 500.0, "elapsed time": 20.0,
            },
            {
                "step": 40, "test accuracy": 0.375, "train loss": 1.0, "train samples": 80, "train total tokens": 700,
                "forgetting": 0.125,
            },
        ],
    },
    "meta_info": {
        "model_info": {"sha": "abc", "created_at": "2024-01-01"},
        "dataset_info": {"one": {"sha": "111", "created_at": None}, "two": {"sha": "222", "created_at": None}},
        "package_info": {
            "peft-version": "0.19.1", "peft-commit-hash": "0123456789abcdef", "torch-version": "2.9.0",
            "torch-commit-hash": None, "datasets-version": None,
        },
        "system_info": {"system": "Linux", "machine": "x86_64", "accelerator": "Some GPU"},
        "pytorch_info": "built with care",
    },
}  # fmt: skip


def changed(data=LORA, **parts):
    """A copy of a result with keys changed, each named by its part: `train_info={"status": …}`."""
    made = copy.deepcopy(data)
    for part, keys in parts.items():
        made[part].update(keys)
    return made


def full(**parts):
    counts = {"num_trainable_params": 10_000, "num_total_params": 10_000, **parts}
    return changed(run_info={"experiment_name": "full-finetuning/tiny", "peft_config": None}, train_info=counts)


def result(folder, data, name="lora--tiny-r4.json", kind="results", task="MetaMathQA"):
    """A file in PEFT's layout."""
    path = folder / "method_comparison" / task / kind / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def imported(tmp_path, data, **where):
    file = result(tmp_path, data, **where)
    return record_in(file.read_bytes(), file, command=None)


def test_what_the_file_says_is_in_the_record(tmp_path):
    record = imported(tmp_path, LORA)
    assert (record.status, record.reason, record.suite) == ("ok", None, "peft-results")
    assert record.scores == {"accuracy": 0.375, "forgetting": 0.125} and record.score == 0.375
    assert (record.spec.task.name, record.spec.task.metric, record.spec.task.higher_is_better) == (
        "MetaMathQA", "accuracy", True,
    )  # fmt: skip
    assert record.spec.model.name == "somebody/tiny" and record.spec.model.revision == "abc"
    assert record.spec.method.label == "lora/tiny-r4"
    assert record.spec.method.options == {
        "type": "LORA", "options": {"r": 4, "lora_alpha": 8, "target_modules": ["q", "v"]},
    }  # fmt: skip
    training = record.spec.training
    assert (training.learning_rate, training.weight_decay, training.schedule) == (0.001, 0.1, "cosine")
    assert (training.steps, training.batch_size, training.train_examples, training.max_length) == (40, 2, 80, 64)
    assert training.arguments == {"dtype": "bfloat16", "optimizer_type": "AdamW", "optimizer_kwargs": {"eps": 1e-6}}
    assert record.weights.stored_bytes == 4096
    assert record.started_at == "2026-02-03T04:05:06+00:00"
    assert record.environment.device == "Some GPU" and record.environment.system == "Linux x86_64"
    assert record.environment.packages == {"peft": "0.19.1 (commit 0123456789ab)", "torch": "2.9.0"}


def test_speed_is_of_the_steps_and_train_time_is_said_to_be_more(tmp_path):
    record = imported(tmp_path, LORA)
    # 80 examples in 4 + 6 seconds; 4 s of 100 tokens a second and 6 s of 50 are 700 tokens in 10 s
    assert record.speed.examples_per_second == 8.0
    assert record.speed.real_tokens_per_second == 70.0
    assert (record.speed.timed_steps, record.speed.train_real_tokens) == (40, 700)
    assert record.speed.train_seconds == 30.0 and mapping.TRAIN_TIME in record.warnings


def test_a_stretch_without_its_time_leaves_no_rate(tmp_path):
    broken = copy.deepcopy(LORA)
    broken["train_info"]["metrics"][0]["train time"] = None
    record = imported(tmp_path, broken)
    assert record.speed.examples_per_second is record.speed.real_tokens_per_second is record.speed.timed_steps is None
    assert record.speed.train_seconds == 30.0


def test_the_curve_has_each_step_once_with_the_scores_of_the_validation_split(tmp_path):
    curve = imported(tmp_path, LORA).curve
    assert [(point.step, point.loss, point.scores) for point in curve] == [
        (20, 2.0, {"accuracy": 0.25}),
        (40, 1.0, {"accuracy": 0.5}),
    ]


def test_what_the_file_does_not_say_is_null(tmp_path):
    record = imported(tmp_path, LORA)
    assert record.budget is record.data is record.predictions is record.spec.protocol is record.spec.rules is None
    assert record.spec.training.warmup_steps is record.spec.training.threads is record.spec.model.sha256 is None
    assert record.parameters.total is record.parameters.head is record.parameters.stored is None
    assert record.memory.exclusive is record.speed.exclusive is record.speed.step_seconds_median is None
    assert record.memory.weight_bytes is record.environment.python is record.environment.cores is None


def test_the_limits_of_its_numbers_are_warnings(tmp_path):
    record = imported(tmp_path, LORA)
    assert record.warnings == (mapping.ONE_SEED, mapping.TRAIN_TIME, mapping.MEMORY, mapping.COUNTS)
    assert record.memory.kind == "reserved" and record.memory.train_peak_bytes == 1000
    assert (record.parameters.trained, record.parameters.adapter) == (512, 512)
    odd = imported(tmp_path, changed(run_info={"peft_branch": "mine", "peft_worktree_is_dirty": True}))
    assert odd.warnings[-2:] == (mapping.BRANCH, mapping.DIRTY)


def test_adapter_parameters_are_not_known_where_other_weights_are_trained_too(tmp_path):
    config = {**LORA["run_info"]["peft_config"], "modules_to_save": ["lm_head"]}
    record = imported(tmp_path, changed(run_info={"peft_config": config}))
    assert (record.parameters.trained, record.parameters.adapter) == (512, None)


def test_full_fine_tuning_is_what_trains_every_weight_and_not_what_has_no_config(tmp_path):
    whole = imported(tmp_path, full())
    assert whole.spec.method.name == "full" and whole.parameters.total == 10_000
    assert mapping.ESTIMATED_SIZE in whole.warnings and mapping.COUNTS not in whole.warnings
    part = imported(tmp_path, full(num_trainable_params=12))
    assert part.spec.method.name == "full-finetuning"


def test_a_number_that_stands_for_none_and_one_that_is_none_are_missing(tmp_path):
    text = json.dumps(changed(train_info={"file_size": 99_999_999})).replace("0.125", "NaN").replace("2.0,", "1e999,")
    record = imported(tmp_path, text)
    assert record.weights is None and mapping.NO_SIZE in record.warnings
    assert record.scores == {"accuracy": 0.375} and mapping.NOT_A_NUMBER in record.warnings
    assert record.curve[0].loss is None


def test_options_too_long_to_keep_are_named(tmp_path):
    config = {**LORA["run_info"]["peft_config"], "rank_pattern": {f"layer.{index}": [True] for index in range(100)}}
    record = imported(tmp_path, changed(run_info={"peft_config": config}))
    assert "rank_pattern" not in record.spec.method.options["options"]
    assert record.warnings[-1] == "options of more than 1,000 characters are left out: rank_pattern"


@pytest.mark.parametrize(
    ("said", "message", "status", "reason"),
    [
        ("canceled", "CUDA out of memory. Tried to allocate 2 GiB", "out_of_memory", "CUDA out of memory. Tried"),
        ("canceled", "manually canceled", "failed", "manually canceled"),
        ("canceled", "", "failed", "the file says 'canceled' and no reason"),
        ("failed", "boom", "failed", "boom"),
    ],
)
def test_a_run_that_was_cancelled_is_a_failure_with_its_reason(tmp_path, said, message, status, reason):
    info = {"status": said, "metrics": LORA["train_info"]["metrics"][:1]}
    record = imported(tmp_path, changed(run_info={"error_msg": message}, train_info=info), kind="cancelled_results")
    assert record.status == status and record.reason.startswith(reason)
    assert record.scores is None and record.spec.task.metric == "accuracy"


def test_a_task_of_images_has_one_data_set_and_its_own_scores(tmp_path):
    metrics = [{"step": 30, "test dino_similarity": 0.5, "drift": 0.25, "train loss": 1.0, "train samples": 60}]
    data = changed(train_info={"metrics": metrics}, meta_info={"dataset_info": {"sha": "333", "created_at": None}})
    data["run_info"]["train_config"] |= {"dataset_id": "somebody/cats", "lr_scheduler": None}
    record = imported(tmp_path, data, task="image-gen")
    assert record.scores == {"dino_similarity": 0.5, "drift": 0.25} and record.score == 0.5
    assert record.spec.task.name == "image-gen" and record.spec.task.data_sha256 is not None
    assert [(point.step, point.loss) for point in record.curve] == [(30, 1.0)]
    assert record.speed.examples_per_second is None


def test_data_is_known_by_the_commits_of_all_its_sets(tmp_path):
    def sha(info):
        return imported(tmp_path, changed(meta_info={"dataset_info": info})).spec.task.data_sha256

    one, two = {"sha": "111"}, {"sha": "222"}
    assert sha({"one": one, "two": two}) == imported(tmp_path, LORA).spec.task.data_sha256
    assert sha({"one": one, "two": {"sha": "223"}}) != sha({"one": one, "two": two})
    assert sha({"one": one, "two": {"sha": None}}) is sha({}) is None


def test_another_result_of_the_same_experiment_is_another_record(tmp_path):
    again = changed(train_info={"train_time": 31.0})
    assert imported(tmp_path, LORA).run_id != imported(tmp_path, again).run_id
    assert imported(tmp_path, LORA).run_id == imported(tmp_path, LORA, name="copy.json").run_id


def test_results_of_both_kinds_are_found_below_the_folder_and_temporary_ones_where_asked(tmp_path):
    root = tmp_path / "method_comparison"
    for kind in ("results", "cancelled_results", "temporary_results"):
        result(tmp_path, LORA, kind=kind)
    (root / "MetaMathQA" / "default_training_params.json").write_text("{}")
    assert [file.parent.name for file in result_files(root)] == ["cancelled_results", "results"]
    assert len(result_files(root / "MetaMathQA" / "temporary_results")) == 1
    with pytest.raises(LoraBenchError, match="is not a folder"):
        result_files(root / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(LoraBenchError, match="has no result files"):
        result_files(tmp_path / "empty")


BROKEN = {
    "empty.json": "",
    "list.json": "[]",
    "cut.json": json.dumps(LORA)[:200],
    "deep.json": "[" * 200_000,
    "other.json": json.dumps({"run_info": {}}),
    "status.json": json.dumps(changed(train_info={"status": "fine"})),
    "count.json": json.dumps(changed(train_info={"num_trainable_params": "512"})),
    "huge.json": json.dumps(changed(train_info={"num_trainable_params": 2**63})),
    "surrogate.json": json.dumps(changed(run_info={"experiment_name": "\ud800"})),
    "digits.json": json.dumps(LORA).replace("10512", "9" * 5000),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_result_file_is_a_fault_with_its_name(tmp_path, name):
    with pytest.raises(BadInput, match=rf"{name}: is not a result file of method_comparison: ."):
        imported(tmp_path, BROKEN[name], name=name)


def test_a_number_too_large_for_a_score_is_none(tmp_path):
    text = json.dumps(LORA).replace("0.125", "1" + "0" * 400)
    assert imported(tmp_path, text).scores == {"accuracy": 0.375}


def test_the_command_imports_what_it_can_and_names_the_rest(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    result(tmp_path, LORA)
    result(tmp_path, full(), name="full.json")
    assert main(["import", "peft-results", "method_comparison"]) == 0
    assert capsys.readouterr().out == "2 of 2 result files are records in runs/peft-results\n"
    result(tmp_path, "{", name="broken.json")
    (tmp_path / "method_comparison" / "MetaMathQA" / "results" / "folder.json").mkdir()
    assert main(["import", "peft-results", "method_comparison", "--runs", "others"]) == 2
    said = capsys.readouterr()
    assert said.out == "2 of 4 result files are records in others/peft-results\n"
    assert "results/broken.json: is not a result file" in said.err and "results/folder.json: is not" in said.err
    assert len(read_records(tmp_path / "others" / "peft-results")) == 2
    assert main(["import", "peft-results", "absent"]) == 2


def test_an_import_made_again_gives_the_same_files(tmp_path):
    result(tmp_path, LORA)
    target = tmp_path / "runs" / "peft-results"
    import_results(tmp_path / "method_comparison", target)
    before = {file: file.read_bytes() for file in target.rglob("*") if file.is_file()}
    import_results(tmp_path / "method_comparison", target)
    assert {file: file.read_bytes() for file in target.rglob("*") if file.is_file()} == before and len(before) == 1


def write_many(folder):
    """37 methods as the real files have them: full fine-tuning trained otherwise, and LoRA in some forms among the rest."""
    names = ["lora/llama-3.2-3B-rank64", "lora/llama-3.2-3B-rank32", "lora/llama-3.2-3B-rank32-dora"]
    names += [f"ptuning/llama-3.2-3B-vt50-MLP-lr{number}e-{end}" for number in range(1, 5) for end in range(1, 9)]
    for index, name in enumerate(["adalora/llama-3.2-3B-rank32", *names]):
        made = {"experiment_name": name, "peft_config": {**LORA["run_info"]["peft_config"], "r": index + 1}}
        result(folder, changed(run_info=made), name=f"{index}.json")
    other = {**LORA["run_info"]["train_config"], "batch_size": 4}
    result(
        folder, changed(full(), run_info={"train_config": other, "experiment_name": "full-finetuning/x"}), name="f.json"
    )


def test_many_methods_are_compared_with_plain_lora_and_drawn_without_legends(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    write_many(tmp_path)
    assert main(["import", "peft-results", "method_comparison"]) == 0
    assert main(["report", "runs/peft-results"]) == 0
    assert "Warning" not in capfd.readouterr().err
    folder = tmp_path / "runs" / "peft-results"
    page = (folder / "report.md").read_text()
    # The largest table has no full fine-tuning; of its three LoRAs the plain one has the shortest name and the lower rank.
    assert re.search(r"\| `lora/llama-3.2-3B-rank32`, rate \S+ \(reference\) \|", page) and not re.search(
        r"adalora/llama-3.2-3B-rank32`[^|]*\(reference\)", page
    )
    assert "Figures with a legend are left out where there are more than 14 methods." in page
    assert not [path.name for path in (folder / "report").glob("metamathqa-trade-offs.svg")]


def test_the_reference_is_the_one_that_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_many(tmp_path)
    assert main(["import", "peft-results", "method_comparison"]) == 0
    assert main(["report", "runs/peft-results", "--reference", "adalora/llama-3.2-3B-rank32", "--data"]) == 0
    page = (tmp_path / "runs" / "peft-results" / "report.md").read_text()
    assert re.search(r"\| `adalora/llama-3.2-3B-rank32`, rate \S+ \(reference\) \|", page)
    frame = pandas.read_csv(tmp_path / "runs" / "peft-results" / "report" / "comparisons.csv")
    assert set(frame["against"].dropna()) == {"adalora/llama-3.2-3B-rank32"}
    assert main(["report", "runs/peft-results", "--reference", "adalora/llama-3.2-3B-rank33"]) == 2
    assert "did you mean 'adalora/llama-3.2-3B-rank32'?" in capsys.readouterr().err


def test_a_report_shows_them_and_says_whose_they_are(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = {**LORA["run_info"]["peft_config"], "peft_type": "IA3"}
    other = {"experiment_name": "ia3/tiny", "peft_config": config}
    lower = [*LORA["train_info"]["metrics"][:2], {**LORA["train_info"]["metrics"][2], "test accuracy": 0.25}]
    result(tmp_path, LORA)
    result(tmp_path, changed(run_info=other, train_info={"metrics": lower}), name="ia3.json")
    result(
        tmp_path,
        changed(run_info={"error_msg": "CUDA out of memory"}, train_info={"status": "canceled"}),
        name="o.json",
    )
    assert main(["import", "peft-results", "method_comparison"]) == 0
    assert main(["report", "runs/peft-results"]) == 0
    page = (tmp_path / "runs" / "peft-results" / "report.md").read_text()
    for words in ("PEFT's method\\_comparison", "ia3/tiny", "0.3750", "0.2500", "out_of_memory", "with one seed"):
        assert words in page
    assert str(tmp_path) not in page
    records = read_records(tmp_path / "runs" / "peft-results")
    assert len(compare(records).settings) == 1
    assert sorted(to_frame(records)["status"]) == ["ok", "ok", "out_of_memory"]
