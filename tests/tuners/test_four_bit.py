"""On a base whose linear layers are kept in four bits (QLoRA), adapters do what they do on the dense weights these stand for.

Everything is in training mode, without dropout: in evaluation, bitsandbytes multiplies in bfloat16 on some CPUs.
"""

import json

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from lora_bench.cli import main
from lora_bench.errors import UnsupportedPair
from lora_bench.methods import known_methods
from lora_bench.models.loading import load_model
from lora_bench.models.registry import find_model
from lora_bench.plan.size_fitting import count_method
from lora_bench.records.budget import Budget
from lora_bench.records.store import read_records
from lora_bench.training.measure.bare_step import TrainingStep
from lora_bench.training.measure.step_bytes import step_bytes
from lora_bench.training.measure.step_costs import predicted_step
from tests.project import SUITE, write_project
from tests.tiny import CLASSIFIERS, HEAD_MODULES, tiny_batch, tiny_roberta

bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")

# bitsandbytes quantises blocks of 64 weights.
_ENCODER = {
    "hidden_size": 64, "intermediate_size": 128, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
FAMILIES = {
    "roberta": _ENCODER,
    "deberta-v3": _ENCODER,
    "gpt2": {"n_embd": 64, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
}
METHODS = {
    "lora": ("lora", {"rank": 2}),
    "lora on all": ("lora", {"rank": 2, "targets": ("all",)}),
    **{
        variant: ("bottleneck_adapter", {"bottleneck_size": 4, "variant": variant})
        for variant in ("houlsby", "pfeiffer", "parallel", "lin")
    },
    "prefix_tuning": ("prefix_tuning", {"num_virtual_tokens": 3}),
    "reparameterised prefix": (
        "prefix_tuning",
        {"num_virtual_tokens": 3, "reparameterised": True, "reparameterisation_width": 5},
    ),
    "prefix_layer": ("prefix_layer", {"num_virtual_tokens": 3}),
    "prefix_embedding": ("prefix_embedding", {"num_virtual_tokens": 3}),
}
PAIRS = [(family, case) for family in FAMILIES for case in METHODS]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    found = {family: tmp_path_factory.mktemp(family) for family in FAMILIES}
    for family, options in FAMILIES.items():
        CLASSIFIERS[family](**options).save_pretrained(found[family])
    return found


def four_bit(folder, head):
    quantised = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.float32,
        llm_int8_skip_modules=head,  # transformers leaves out a head that it knows, and not DeBERTa's pooler
    )
    return AutoModelForSequenceClassification.from_pretrained(
        folder, quantization_config=quantised, device_map="cpu", dtype=torch.float32
    )


@torch.no_grad()
def dense(folder, quantised):
    """The model whose weights are the numbers that the four bits stand for."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    count = 0
    for path, module in quantised.named_modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            weight = bitsandbytes.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
            own = model.get_submodule(path)
            own.weight.copy_(weight.T if isinstance(own, Conv1D) else weight)
            count += 1
    assert count == model.config.num_hidden_layers * (4 if model.config.model_type == "gpt2" else 6)
    return model


def adapted(case, base, head):
    name, options = METHODS[case]
    torch.manual_seed(5)
    model = known_methods()[name](**options).apply(base, head=list(head)).train()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn_like(weight))  # off the zeros that some of them start at
    return model


def trained(model):
    return {path: weight for path, weight in model.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize(("family", "case"), PAIRS)
def test_logits_and_gradients_are_those_on_the_dense_weights(family, case, folders):
    head = HEAD_MODULES[family]
    base = four_bit(folders[family], head)
    reference = adapted(case, dense(folders[family], base), head)
    model = adapted(case, base, head)
    outputs = [one(**tiny_batch((9, 6), labels=True)) for one in (model, reference)]
    for output in outputs:
        output.loss.backward()
    assert (outputs[0].logits - outputs[1].logits).abs().max() <= 1e-4
    assert {weight.dtype for weight in trained(model).values()} == {torch.float32}
    assert trained(model).keys() == trained(reference).keys()
    for path, weight in trained(reference).items():
        assert (trained(model)[path].grad - weight.grad).abs().max() <= 1e-4 * max(1, weight.grad.abs().max()), path


@pytest.mark.parametrize("case", ["lora", "houlsby", "prefix_tuning", "prefix_layer"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_saved_gives_the_same_logits_on_a_fresh_base_and_holds_nothing_of_it(family, case, folders, tmp_path):
    head = HEAD_MODULES[family]
    model = adapted(case, four_bit(folders[family], head), head)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(four_bit(folders[family], head), tmp_path, is_trainable=True).train()
    assert torch.equal(loaded(**tiny_batch()).logits, model(**tiny_batch()).logits)
    assert sum(weight.numel() for weight in trained(loaded).values()) == sum(
        weight.numel() for weight in trained(model).values()
    )


@pytest.mark.parametrize(
    ("family", "name", "options", "reason"),
    [
        ("gpt2", "lora", {"use_dora": True}, "DoRA on a fused weight needs the length of its rows"),
        ("roberta", "lora", {"initialisation": "pissa"}, "pissa starts from weights in floating point"),
        ("roberta", "lora", {"initialisation": "olora"}, "olora starts from weights in floating point"),
        ("gpt2", "full", {}, "full fine-tuning needs weights in floating point"),
        ("gpt2", "full", {"top_layers": 1}, r"transformer\.h\.1\.attn\.c_attn\.weight is quantised"),
    ],
)
def test_what_needs_the_dense_weight_is_refused(family, name, options, reason, folders):
    head = HEAD_MODULES[family]
    with pytest.raises(UnsupportedPair, match=reason):
        known_methods()[name](**options).apply(four_bit(folders[family], head), head=list(head))


def test_biases_stay_in_floating_point_and_can_be_trained(folders):
    model = known_methods()["bitfit"]().apply(four_bit(folders["roberta"], ["classifier"]), head=["classifier"])
    model.train()(**tiny_batch(labels=True)).loss.backward()
    biases = [weight for path, weight in trained(model).items() if "classifier" not in path]
    assert biases and all(weight.grad is not None for weight in biases)


# --- qlora -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return tmp_path


def qlora(model, head, **options):
    torch.manual_seed(5)
    return known_methods()["qlora"](rank=2, **options).apply(model, head=list(head)).train()


@pytest.mark.parametrize("family", FAMILIES)
def test_qlora_is_lora_on_the_base_as_transformers_packs_it(family, folders):
    head = HEAD_MODULES[family]
    quantised = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
        llm_int8_skip_modules=head,
    )
    there = AutoModelForSequenceClassification.from_pretrained(
        folders[family], quantization_config=quantised, device_map="cpu", dtype=torch.float32
    )
    plain = AutoModelForSequenceClassification.from_pretrained(folders[family], dtype=torch.float32)
    torch.manual_seed(5)
    expected = known_methods()["lora"](rank=2, targets=("all",)).apply(there, head=list(head)).train()
    found = qlora(plain, head)
    packed = {path for path, module in found.named_modules() if isinstance(module, bitsandbytes.nn.Linear4bit)}
    layers = found.config.num_hidden_layers
    assert len(packed) == layers * (4 if family == "gpt2" else 6)
    assert trained(found).keys() == trained(expected).keys()
    outputs = [one(**tiny_batch((9, 6), labels=True)) for one in (found, expected)]
    for output in outputs:
        output.loss.backward()
    assert (outputs[0].logits - outputs[1].logits).abs().max() <= 1e-5
    for path, weight in trained(expected).items():
        assert (trained(found)[path].grad - weight.grad).abs().max() <= 1e-5, path


@pytest.mark.parametrize("family", FAMILIES)
def test_steps_of_qlora_move_what_is_trained_and_nothing_else(family, folders):
    head = HEAD_MODULES[family]
    model = qlora(AutoModelForSequenceClassification.from_pretrained(folders[family], dtype=torch.float32), head)
    before = {path: weight.detach().clone() for path, weight in model.named_parameters()}
    optimizer = torch.optim.AdamW(trained(model).values(), lr=1e-2, weight_decay=0.0)
    for _ in range(2):
        model(**tiny_batch((9, 6), labels=True)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = {path for path, weight in model.named_parameters() if not torch.equal(weight, before[path])}
    assert moved == set(trained(model))


def test_a_step_of_qlora_has_the_bytes_that_its_shapes_say(folders, own_cache):
    """On the meta device a stand-in of the packed weights is measured; here real ones are."""
    base = find_model(str(folders["roberta"]), base=own_cache)
    method = known_methods()["qlora"](rank=2)
    shape = {"batch_size": 4, "length": 16}
    said = predicted_step(base, method, kind="classification", labels=3, precision="float32", cuda=False, **shape)
    model, head = load_model(base, kind="classification", labels=3)
    adapted_model = method.apply(model, head=head)
    ids = torch.full((4, 16), 5)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.zeros(4, dtype=torch.long)}
    seen, _ = step_bytes(TrainingStep(adapted_model, batch, "float32"))
    assert (said.gradient_bytes, said.optimizer_bytes) == (seen.gradient_bytes, seen.optimizer_bytes)
    # bitsandbytes also keeps tables of 16 and of 256 numbers, and an offset, for each of 12 weights.
    assert 0 <= seen.weight_bytes - said.weight_bytes <= 12 * 4 * (16 + 256 + 1)
    assert abs(seen.activation_bytes - said.activation_bytes) <= 0.05 * said.activation_bytes
    whole = known_methods()["lora"](rank=2, targets=("all",))
    lora = predicted_step(base, whole, kind="classification", labels=3, precision="float32", cuda=False, **shape)
    # 2 layers of width 64 and feed-forward width 128: a weight takes half a byte and a 64th, and not 4 bytes.
    weights = 2 * (4 * 64 * 64 + 2 * 64 * 128)
    saved = lora.weight_bytes - said.weight_bytes
    assert saved == 4 * weights - weights // 2 - weights // 64 - 4 * 12
    fit = count_method(method, base, "classification", 3, Budget(train_examples=1))
    assert fit.saved_bytes == saved


def test_a_suite_compares_lora_on_both_bases_and_the_report_and_the_probe_have_them(own_cache):
    path = write_project(
        own_cache / "project", SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[lora, qlora]")
    )
    tiny_roberta(**_ENCODER).roberta.save_pretrained(path.parent / "base")
    runs = ["--runs", str(own_cache / "runs"), "--quiet"]
    assert main(["run", str(path), "--workers", "0", *runs]) == 0
    records = {record.spec.method.name: record for record in read_records(own_cache / "runs" / "tickets")}
    assert {record.status for record in records.values()} == {"ok"}, [one.reason for one in records.values()]
    assert records["qlora"].parameters.total == records["lora"].parameters.total
    assert records["qlora"].environment.packages["bitsandbytes"] == bitsandbytes.__version__
    assert "qlora" in (own_cache / "runs" / "tickets" / "report.md").read_text()
    suite = "suite: bits\nmodels: [base]\nmethods: [lora, qlora]\ncell: {batch_size: 4, length: 16, threads: 1}\n"
    (path.parent / "bits.yaml").write_text(suite + "probe: {processes: 1, seconds: 0.1, latency: [[1, 8]]}\n")
    assert main(["probe", str(path.parent / "bits.yaml"), "--share", *runs]) == 0
    found = [json.loads(file.read_text()) for file in (own_cache / "runs" / "bits").glob("probes/**/*.json")]
    weights = {one["spec"]["method"]["name"]: one["measured"]["weight_bytes"] for one in found}
    assert {one["status"] for one in found} == {"ok"} and weights["qlora"] < weights["lora"]
