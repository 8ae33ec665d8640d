"""`lora-bench fits`: which methods fit a card, from a config.json alone."""

import json

import pytest

from lora_bench.cli import main
from lora_bench.models.registry import find_model
from lora_bench.models.shapes import known_shapes
from lora_bench.plan.what_fits import cache_bytes, named_method, needed, step_traces, what_fits
from lora_bench.training.measure.step_costs import card_bytes, find_card

TINY = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 5, "vocab_size": 100,
        "num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2,
        "tie_word_embeddings": True}  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "config.json").write_text(json.dumps(TINY))
    return tmp_path


def test_a_card_has_a_published_speed_and_a_size_alone_has_none():
    assert (find_card("t4"), find_card("80GB"), find_card("my card 22 GiB")) == ("T4 16GB", None, None)


@pytest.mark.slow
def test_what_fits_is_said_by_method_base_and_checkpointing(here, capsys):
    base_model = find_model("shape:own", base=here)
    fits = [*what_fits(base_model, "4090", length=16, rows=2, progress=print)]
    found = {(fit.method, fit.base, fit.checkpointing): fit.step for fit in fits}
    largest = {(fit.method, fit.base, fit.checkpointing): fit.largest for fit in fits}
    assert len(found) == 18
    # Keys and values of 5 layers, 2 heads of width 16 and 16 tokens, in 2 bytes.
    assert cache_bytes(base_model, 16) == 2 * 5 * 2 * 16 * 16 * 2
    # 4 attention and 3 feed-forward matrices a layer, two norms, a last one, and embeddings that are the output too.
    weights = 5 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128 + 2 * 64) + 64 + 100 * 64
    full = found["full", "bfloat16", False]
    assert (full.trained, full.gradients) == (weights, 2 * weights)
    assert full.states == pytest.approx(4 * weights, rel=0.01)
    assert found["full", "float32", False].gradients == 4 * weights
    assert found["lora_all", "4 bits", False].weights < found["lora_all", "bfloat16", False].weights
    for (method, base, checkpointing), step in found.items():
        if checkpointing:
            assert step.activations < found[method, base, False].activations
            assert largest[method, base, True] >= largest[method, base, False]
    # Another card is answered from the same traces: the largest batch fits, and one more row does not.
    room = 800_000_000
    (lora,) = [
        fit
        for fit in what_fits(base_model, "0.8GB", length=16, rows=1, progress=print)
        if (fit.method, fit.base, fit.checkpointing) == ("lora_all", "bfloat16", False)
    ]
    traces = step_traces(base_model, named_method("lora_all"), "bfloat16", 16, checkpointing=False)
    assert needed(traces.at(lora.largest)) <= room < needed(traces.at(lora.largest + 1))
    assert lora.seconds is None  # a size alone has no speed
    assert main(["fits", "own", "--device", "T4", "--length", "16"]) == 0
    assert "checkpointed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "device", "words"),
    [
        ("own", "H10", "unknown device 'H10': use one of T4 16GB, V100 16GB"),
        ("own", "A100", "device 'A100' could be any of A100 40GB, A100 80GB: name one"),
        ("none", "T4", "unknown shape 'shape:none'"),
        ("owner/name", "T4", "model 'owner/name' is missing or incomplete in the cache, and HF_HUB_OFFLINE forbids"),
        ("packed", "T4", "model 'shape:packed' has quantised weights, which no method here trains"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_a_line(here, capsys, model, device, words):
    (here / "packed").mkdir()
    (here / "packed" / "config.json").write_text(json.dumps({**TINY, "quantization_config": {"quant_method": "gptq"}}))
    assert main(["fits", model, "--device", device]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


# Weights of the published checkpoints, each counted once.
PUBLISHED = {
    "Qwen2.5-0.5B": 494_032_768, "Llama-3.2-1B": 1_235_814_400, "gemma-2-2b": 2_614_341_888, "Llama-3.2-3B": 3_212_749_824,
    "Qwen3-4B": 4_022_468_096, "Mistral-7B-v0.1": 7_241_732_096, "Llama-3.1-8B": 8_030_261_248, "phi-4": 14_659_507_200,
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_shape_has_the_weights_of_the_published_checkpoint(name):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(known_shapes()[name]))
    assert sum(weight.numel() for weight in model.parameters()) == PUBLISHED[name]
    assert card_bytes("T4") < 2 * 2 * PUBLISHED["Mistral-7B-v0.1"]
