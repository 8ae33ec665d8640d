"""The peak of a deep model, put together from steps of two and three layers, is what torch's allocator says of a real step."""

import json

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig

from lora_bench.kinds import find_kind
from lora_bench.methods import known_methods
from lora_bench.models.chunked_loss import chunk_loss, tokens_in_chunks
from lora_bench.models.loading import load_model
from lora_bench.models.registry import find_model
from lora_bench.plan.what_fits import largest_batch, needed
from lora_bench.training.measure.bare_step import TrainingStep
from lora_bench.training.measure.layer_traces import DEPTHS, ROWS, StepTraces, trace_step
from lora_bench.training.measure.step_bytes import static_bytes
from lora_bench.tuners.inferred_family import family_of_model
from lora_bench.tuners.trial import inside_peft

# Shrunken shapes of twelve architectures: wide enough that numbers, and not tables of a few bytes, make the peak.
SIZES = {"hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 4, "vocab_size": 300,
         "max_position_embeddings": 80, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
OWN = {
    "gpt2": {"n_embd": 64, "n_head": 4, "n_positions": 80, "vocab_size": 300},
    "llama": {**SIZES, "num_key_value_heads": 2},
    "mistral": {**SIZES, "num_key_value_heads": 2},
    "qwen2": {**SIZES, "num_key_value_heads": 2},
    "qwen3": {**SIZES, "num_key_value_heads": 2, "head_dim": 24},
    "gemma2": {**SIZES, "num_key_value_heads": 2, "head_dim": 24},
    "gemma3_text": {**SIZES, "num_key_value_heads": 2, "head_dim": 24},
    "phi3": {**SIZES, "num_key_value_heads": 2},
    "gpt_neox": SIZES,
    "opt": {**SIZES, "ffn_dim": 160, "word_embed_proj_dim": 64},
    "roberta": SIZES,
    "bert": SIZES,
}
LAYERS, BATCH, LENGTH = 6, 5, 48


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))


def model_of(folder, model_type, layers, method, *, on_meta, **sizes):
    own = folder / f"{model_type}-{layers}"
    own.mkdir(exist_ok=True)
    config = AutoConfig.for_model(model_type, **{**OWN[model_type], **sizes}).to_dict()
    key = "n_layer" if model_type == "gpt2" else "num_hidden_layers"
    kinds = config.pop("layer_types", None)
    (own / "config.json").write_text(
        json.dumps({**config, key: layers, **({} if kinds is None else {"layer_types": (kinds * 9)[:layers]})})
    )
    kind = "classification" if model_type in ("roberta", "bert") else "generation"
    model, head = load_model(find_model(f"shape:{own}", base=folder), kind=kind, labels=2, on_meta=on_meta)
    layer = family_of_model(model).layer
    name, options = method
    return known_methods()[name](**options).apply(model, head=head), layer, find_kind(kind)


def traced(folder, model_type, method, *, checkpointing, numbers=ROWS, least=None, **sizes):
    """Steps of so many rows; from *least* logits on in chunks."""
    steps = []
    for rows in numbers:
        for depth in DEPTHS:
            model, layer, kind = model_of(folder, model_type, depth, method, on_meta=True, **sizes)
            assert least is None or chunk_loss(model, rows * LENGTH, least=least)
            batch = kind.batch_shapes(rows, LENGTH, 2)
            step = trace_step(model, layer, batch, "float32", fused_attention=False, checkpointing=checkpointing)
            steps.append((rows, depth, step))
    return tuple(steps)


def measured(folder, model_type, method, *, checkpointing, least=None, **sizes):
    """The peak of a step by the events of torch's own allocator, with weights and states."""
    torch.manual_seed(0)
    model, _, kind = model_of(folder, model_type, LAYERS, method, on_meta=False, **sizes)
    assert least is None or chunk_loss(model, BATCH * LENGTH, least=least)
    if checkpointing:
        inside_peft(model).gradient_checkpointing_enable({"use_reentrant": False})
    shapes = kind.batch_shapes(BATCH, LENGTH, 2)
    batch = {name: torch.ones(shape, dtype=torch.long) for name, shape in shapes.items()}
    batch["attention_mask"][0, LENGTH // 2 :] = 0  # a mask that hides something, as batches have
    step = TrainingStep(model, batch, "float32")
    step.whole()  # makes the optimiser's states
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step.whole()
    held = peak = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    states = sum(value.nbytes for state in step.optimizer.state.values() for value in state.values())
    return static_bytes(model)[0] + states + peak


FULL, LORA = ("full", {}), ("lora", {"targets": ("all",)})


@pytest.mark.parametrize(
    ("method", "checkpointing"), [(FULL, False), (LORA, True)], ids=["full", "lora with checkpointed layers"]
)
@pytest.mark.parametrize(
    "model_type", [one if one in ("llama", "roberta") else pytest.param(one, marks=pytest.mark.slow) for one in OWN]
)
def test_the_peak_of_a_deep_model_is_that_of_torchs_allocator(tmp_path, model_type, method, checkpointing):
    steps = traced(tmp_path, model_type, method, checkpointing=checkpointing)
    said = StepTraces(steps=steps, layers=LAYERS).at(BATCH).peak
    assert said == pytest.approx(measured(tmp_path, model_type, method, checkpointing=checkpointing), rel=0.05)


def test_the_peak_of_a_batch_whose_loss_is_in_chunks_is_that_of_torchs_allocator_too(tmp_path):
    # With 40,000 words, the logits of two rows of 48 tokens are 3.8 million, and a chunk has an eighth of them: 12 tokens.
    least, words = 2 * LENGTH * 40_000, {"vocab_size": 40_000}
    model, *_ = model_of(tmp_path, "llama", 2, LORA, on_meta=True, **words)
    assert tokens_in_chunks(model, least) == 2 * LENGTH
    own = {"checkpointing": True, **words}
    traces = StepTraces(
        steps=traced(tmp_path, "llama", LORA, **own),
        layers=LAYERS,
        chunked=traced(tmp_path, "llama", LORA, numbers=(2, 3), least=least, **own),
        chunked_from=2,
    )
    expected = measured(tmp_path, "llama", LORA, least=least, **own)
    assert traces.at(BATCH).peak == pytest.approx(expected, rel=0.05)
    assert traces.whole.at(BATCH).peak > 1.5 * expected
    assert traces.at(1) == traces.whole.at(1) and traces.at(BATCH).logits < traces.whole.at(BATCH).logits / 4
    # With more rows the logits of a chunk stay, and what a layer leaves for the head grows.
    more = traces.at(2 * BATCH)
    assert (
        more.logits == pytest.approx(traces.at(BATCH).logits, rel=0.2)
        and more.activations > traces.at(BATCH).activations
    )
    # The largest batch is looked for among those in chunks, which need less than some without.
    room = needed(more)
    assert largest_batch(traces, room) == 2 * BATCH > largest_batch(traces.whole, room)
