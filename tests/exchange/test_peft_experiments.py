"""The suite of PEFT's experiments says what their files say, and names what a suite cannot say."""

import json
import re

import pytest
import yaml

from lora_bench.cli import main
from lora_bench.errors import LoraBenchError
from lora_bench.exchange.peft_results.experiments import OURS, import_experiments
from lora_bench.records.kept_adapter import FILES
from lora_bench.records.store import read_records
from lora_bench.suite.load_suite import load_suite
from tests.project import write_project

DEFAULTS = {
    "model_id": "large", "dtype": "float32", "max_seq_length": 64, "batch_size": 4, "batch_size_eval": 50,
    "max_steps": 12, "eval_steps": 6, "compile": False, "use_gc": False, "seed": 0, "grad_norm_clip": 1.0,
    "optimizer_type": "AdamW", "optimizer_kwargs": {"lr": 1e-4, "weight_decay": 0.1}, "lr_scheduler": "cosine",
    "use_amp": False, "autocast_adapter_dtype": True, "attn_implementation": None, "query_template": "{query}",
    "init_kv_cache_prefix": None,
}  # fmt: skip
LORA = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": None, "bias": "none", "lora_alpha": 64,
    "lora_dropout": 0.0, "r": 32, "target_modules": None, "init_lora_weights": True, "rank_pattern": {},
}  # fmt: skip


def benchmark(folder, **experiments):
    """Files in PEFT's layout; an experiment is its adapter_config and its training_params, each None for no file."""
    files = {"default_training_params.json": DEFAULTS}
    for name, (config, training) in experiments.items():
        files[f"experiments/{name.replace('__', '/')}/adapter_config.json"] = config
        files[f"experiments/{name.replace('__', '/')}/training_params.json"] = training
    for name, content in files.items():
        if content is not None:
            path = folder / "MetaMathQA" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder / "MetaMathQA"


def imported(tmp_path, **experiments):
    """What was read, and the written suite as plain data, its methods by label."""
    out = tmp_path / "suite.yaml"
    found = import_experiments(benchmark(tmp_path, **experiments), out)
    load_suite(out)
    suite = yaml.safe_load(out.read_text())
    return found, suite, {entry["label"]: entry for entry in suite["methods"]}


def test_lora_is_ours_where_it_is_the_same_and_pefts_where_it_is_not(tmp_path):
    _, _, methods = imported(
        tmp_path,
        lora__r32=(LORA, None),
        lora__mlp=({**LORA, "target_modules": ["gate_proj", "up_proj", "down_proj"], "use_rslora": True}, None),
        lora__mica=({**LORA, "init_lora_weights": "mica"}, None),
    )
    rate = {"learning_rate": 1e-4}
    # alpha 64 over rank 32; rsLoRA divides by the root itself
    assert methods["lora/r32"] == {
        "method": "lora", "rank": 32, "scaling": 2.0, "targets": ["query", "value"], "label": "lora/r32", **rate,
    }  # fmt: skip
    assert methods["lora/mlp"] == {
        "method": "lora", "rank": 32, "scaling": 64.0, "targets": ["ffn"], "use_rslora": True, "label": "lora/mlp", **rate,
    }  # fmt: skip
    assert methods["lora/mica"] == {
        "method": "peft", "type": "LORA", "options": {"init_lora_weights": "mica", "lora_alpha": 64, "r": 32},
        "label": "lora/mica", **rate,
    }  # fmt: skip


def test_settings_are_the_commonest_and_recipes_say_who_differs(tmp_path):
    _, suite, methods = imported(
        tmp_path,
        lora__a=(LORA, None),
        lora__b=({**LORA, "r": 8}, None),
        full__a=(None, {"optimizer_kwargs": {"lr": 1e-5}, "max_steps": 6, "use_gc": True}),
    )
    assert methods["full/a"] == {"method": "full", "label": "full/a", "learning_rate": 1e-5}
    assert (suite["seeds"], suite["budget"], suite["selection_every"]) == ([0], {"train_examples": 48}, 6)
    assert suite["training"] == {
        "batch_size": 4, "max_length": 64, "schedule": "cosine", "warmup": 0.1, "weight_decay": 0.1, "max_grad_norm": 1.0,
        "base_precision": "float32", "gradient_checkpointing": False,
    }  # fmt: skip
    # own optimizer_kwargs replace the default ones whole, so weight decay is that of torch's AdamW
    assert suite["recipes"] == [
        {"methods": ["full/a"], "train_examples": 24, "weight_decay": 0.01, "gradient_checkpointing": True}
    ]


def test_other_methods_keep_their_options_and_modules_become_roles(tmp_path):
    _, _, methods = imported(
        tmp_path,
        vera__a=({"peft_type": "VERA", "r": 64, "d_initial": 0.1, "peft_version": "0.1"}, None),
        oft__flux=({"peft_type": "OFT", "r": 0, "oft_block_size": 32, "target_modules": ["to_q", "to_v"]}, None),
        prompt__a=({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 20, "token_dim": 3072, "num_layers": 28}, None),
        ia3__ffn=(
            {"peft_type": "IA3", "target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}, None,
        ),
    )  # fmt: skip
    assert methods["vera/a"]["options"] == {"r": 64}
    assert methods["oft/flux"]["targets"] == ["query", "value"]
    assert methods["prompt/a"]["options"] == {"num_virtual_tokens": 20}
    # a part of the feed-forward block is no role, so both are expressions over this model's names
    ia3 = methods["ia3/ffn"]["options"]
    layer = "roberta.encoder.layer.3"
    assert re.fullmatch(ia3["feedforward_modules"], f"{layer}.output.dense")
    assert re.fullmatch(ia3["target_modules"], f"{layer}.attention.self.key")
    assert not re.fullmatch(ia3["target_modules"], f"{layer}.intermediate.dense")


def test_what_a_suite_cannot_say_is_a_line_and_leaves_out_what_would_be_another_method(tmp_path):
    found, _, methods = imported(
        tmp_path,
        lora__a=(LORA, {"use_amp": True, "num_workers": 3, "seed": 1}),
        lora__b=(LORA, None),
        lora__c=(LORA, None),
        lora__fa=(LORA, {"optimizer_type": "lora-fa"}),
        lora__four=(LORA, {"dtype": "int4"}),
        prefix__text=({"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 5}, {"init_kv_cache_prefix": "You " * 40}),
        ln__a=({"peft_type": "LN_TUNING", "target_modules": ["norm_q"]}, None),
        new__a=({"peft_type": "NOT_YET"}, None),
        new__b=({"peft_type": "VERA", "not_yet": 3}, None),
    )
    assert set(methods) == {"lora/a", "lora/b", "lora/c"} and (found.count, found.faults) == (9, [])
    assert found.base.name == OURS and "large is not here" in found.base.why
    assert sorted(found.notes) == [
        "default_training_params.json: batch_size_eval, query_template: of their task, and not used",
        f"ln/a: left out: target_modules: {OURS} has no norm_q",
        "lora/a: num_workers: no key of a suite, and not used",
        "lora/a: seed: 1; a suite has the same seeds for all",
        "lora/a: use_amp: True has no key in a suite, and is not used",
        "lora/fa: left out: optimizer_type: 'lora-fa' is a part of the method, and no suite has it",
        "lora/four: left out: dtype: 'int4' is none of float32, bfloat16, float16",
        "new/a: left out: peft_type: the installed PEFT has no NOT_YET",
        "new/b: left out: not_yet: the installed PEFT has no such option of VERA",
        "prefix/text: left out: init_kv_cache_prefix: 'You You You You You You You You You… "
        "is a part of the method, and no suite has it",
    ]


@pytest.mark.parametrize("name", FILES)
def test_a_configuration_that_names_files_or_code_is_refused_and_the_others_are_written(name, tmp_path, capsys):
    folder = benchmark(tmp_path, lora__a=(LORA, None), lora__bad=({**LORA, name: {"x": "y"}}, None))
    out = tmp_path / "suite.yaml"
    assert main(["import", "peft-experiments", str(folder), "--out", str(out)]) == 2
    said = capsys.readouterr()
    assert f"lora/bad: its adapter_config.json may not have {name}: " in said.err
    assert f"{out}: 1 of 2 experiments, on {OURS}" in said.out
    assert [entry.label for entry in load_suite(out).methods] == ["lora/a"]


@pytest.mark.parametrize(
    ("config", "training", "said"),
    [
        ("{", None, "cannot be read"),
        ([1], None, "must be an object, got list"),
        (LORA, "nonsense", "cannot be read"),
        (LORA, {"optimizer_kwargs": {"lr": "fast"}}, "lr must be a number, got 'fast'"),
        (LORA, {"max_steps": True}, "max_steps must be a number, got True"),
        ({**LORA, "lora_dropout": "much"}, None, "dropout: Input should be a valid number"),
        ({**LORA, "target_modules": [{}]}, None, "target_modules must be a list of names"),
        ({"r": 8}, None, "peft_type must be a text, got None"),
    ],
)
def test_a_bad_file_is_a_fault_with_the_experiment(config, training, said, tmp_path):
    found, _, methods = imported(tmp_path, lora__a=(LORA, None), lora__bad=(config, training))
    (fault,) = found.faults
    assert set(methods) == {"lora/a"} and str(fault).startswith("lora/bad: ") and said in str(fault)


def test_what_cannot_begin_is_refused(tmp_path, capsys):
    out = tmp_path / "suite.yaml"
    folder = benchmark(tmp_path, lora__a=(LORA, None))
    with pytest.raises(LoraBenchError, match=r"has no experiments/METHOD/NAME.*did you mean .*MetaMathQA"):
        import_experiments(folder.parent, out)
    with pytest.raises(LoraBenchError, match="no-such-model"):
        import_experiments(folder, out, model="./no-such-model")
    assert main(["import", "peft-experiments", str(folder), "--task", "sst3", "--out", str(out)]) == 2
    assert "unknown task 'sst3'" in capsys.readouterr().err
    assert not out.exists()
    import_experiments(folder, out)
    with pytest.raises(LoraBenchError, match="is there already"):
        import_experiments(folder, out)
    (folder / "default_training_params.json").write_text("[]")
    with pytest.raises(LoraBenchError, match=r"default_training_params\.json must be an object"):
        import_experiments(folder, tmp_path / "other.yaml")
    only = benchmark(tmp_path / "only", lora__fa=(LORA, {"optimizer_type": "lora-fa"}))
    with pytest.raises(LoraBenchError, match="none of 1 experiments can run here"):
        import_experiments(only, tmp_path / "other.yaml")


def test_their_base_model_is_used_where_it_is_a_local_folder(tmp_path):
    write_project(tmp_path)
    folder = benchmark(tmp_path, adaption__a=(LORA, {}))
    (folder / "default_training_params.json").write_text(json.dumps({**DEFAULTS, "model_id": "base"}))
    found = import_experiments(folder, tmp_path / "suite.yaml")
    assert (found.base.name, found.base.why) == ("base", "")
    assert yaml.safe_load((tmp_path / "suite.yaml").read_text())["models"] == ["base"]


@pytest.mark.slow
def test_the_written_suite_trains(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_project(tmp_path)
    folder = benchmark(
        tmp_path,
        lora__a=(LORA, None),
        lora__dora=({**LORA, "use_dora": True}, None),
        vera__a=({"peft_type": "VERA", "r": 8}, {"optimizer_kwargs": {"lr": 1e-3}}),
        hira__a=({"peft_type": "HIRA", "r": 4, "target_modules": ["q_proj", "v_proj"]}, None),
        ia3__a=({"peft_type": "IA3", "target_modules": ["down_proj"], "feedforward_modules": ["down_proj"]}, None),
        full__a=(None, {"optimizer_kwargs": {"lr": 1e-5}}),
    )
    out = tmp_path / "suite.yaml"
    import_experiments(folder, out, model="base")
    suite = yaml.safe_load(out.read_text())
    suite["tasks"] = [{"task": "tickets", "data": "tickets.csv", "text": "subject", "label": "queue"}]
    out.write_text(yaml.safe_dump(suite))
    assert main(["run", str(out), "--quiet"]) == 0
    records = read_records(tmp_path / "runs" / "peft-MetaMathQA")
    assert len(records) == 6 and {record.status for record in records} == {"ok"}
    assert {record.spec.training.learning_rate for record in records} == {1e-3, 1e-4, 1e-5}
