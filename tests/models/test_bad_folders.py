"""A base model's folder that cannot be used: exit code 2, with the file and what is wrong with it, before any work."""

import json

import pytest
from safetensors.torch import load_file, save_file

from lora_bench.cli import main
from tests.project import SUITE, write_project

ONE = SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[lora]")


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Plans a project whose model folder was changed, and gives the message of the refusal."""
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)

    def plan(change, suite=ONE):
        write_project(tmp_path, suite)
        change(tmp_path / "base")
        code = main(["plan", "tickets.yaml"])
        said = capsys.readouterr().err
        assert code == 2, said
        return said.splitlines()[-1]

    return plan


def config(**changed):
    def change(folder):
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))

    return change


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"model_type": "robberta"}, ["'robberta', which transformers", "did you mean 'roberta'?", "xlm-roberta"]),
        ({"hidden_size": "32"}, ["config.json (roberta)", "'hidden_size' expected int, got str (value: '32')"]),
        ({"hidden_size": 0}, ["config.json (roberta)"]),
        ({"hidden_act": "nope"}, ["config.json (roberta)", "KeyError: 'nope'"]),
        ({"vocab_size": 10**12}, ["word_embeddings.weight the shape (1000000000000, 32)", "(100, 32)"]),
        ({"num_hidden_layers": 10**9}, ["num_hidden_layers 1,000,000,000", "37 tensors of 22,464 numbers"]),
        ({"max_position_embeddings": 10**9}, ["max_position_embeddings 1,000,000,000", "37 tensors of 22,464 numbers"]),
        ({"layer_norm_eps": float("inf")}, ["config.json cannot be read"]),
        (
            {"quantization_config": {"quant_method": "awq", "bits": 4}},
            ["weights quantised by awq", "float32, float16 or bfloat16", "requires gptqmodel"],
        ),
    ],
)
def test_a_configuration_that_cannot_be_used_is_named_with_what_it_says(refused, changed, words):
    said = refused(config(**changed))
    assert "model 'base'" in said and "config.json" in said
    for part in words:
        assert part in said


def test_weights_that_lack_some_of_the_base_model_are_no_head(refused):
    def halve(folder):
        weights = load_file(folder / "model.safetensors")
        kept = {name: weights[name] for name in sorted(weights)[::2]}
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})

    assert "its weights lack 18 of the 37 that its config.json (roberta) needs" in refused(halve)


@pytest.mark.parametrize("content", [b"\x10\0\0\0\0\0\0\0garbage", b"", None])
def test_weights_that_are_not_whole_are_named_by_their_file(refused, content):
    def damage(folder):
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-1000] if content is None else content)

    assert "model 'base': model.safetensors is not a complete safetensors file" in refused(damage)


def test_a_t5_has_its_decoder_and_says_how_it_begins(refused):
    from transformers import T5Config, T5EncoderModel, T5Model

    def write(model_class):
        shape = T5Config(vocab_size=100, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
        return lambda folder: model_class(shape).save_pretrained(folder)

    assert "config.json (t5): it does not say the decoder_start_token_id" in refused(write(T5Model))
    assert "that its config.json (t5) needs, such as transformer.decoder." in refused(write(T5EncoderModel))


@pytest.mark.parametrize("rank", [10**9, 9 * 10**18])
def test_a_size_beyond_the_memory_of_the_machine_is_refused_before_it_is_made(refused, rank):
    said = refused(lambda folder: None, ONE.replace("[lora]", f"[{{method: lora, rank: {rank}}}]"))
    # Query and value in two layers, each with two matrices of the width 32.
    assert f"lora with rank {rank:,} comes to about {2 * 2 * 2 * 32 * rank:,} parameters on model 'base'" in said


def test_a_size_is_refused_from_the_first_byte_beyond_the_memory_of_the_machine(refused, monkeypatch):
    # Query and value in two layers, each with two matrices of the width 32: 256 parameters of 4 bytes a rank.
    bytes_needed = 2 * 2 * 2 * 32 * 5_000 * 4
    suite = ONE.replace("[lora]", "[{method: lora, rank: 5000}]")
    monkeypatch.setattr("lora_bench.plan.size_fitting.installed_bytes", lambda: bytes_needed - 1)
    assert f"comes to about {bytes_needed // 4:,} parameters" in refused(lambda folder: None, suite)
    monkeypatch.setattr("lora_bench.plan.size_fitting.installed_bytes", lambda: bytes_needed)
    assert main(["plan", "tickets.yaml"]) == 0
