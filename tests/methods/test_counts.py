"""Every method has as many weights as its formula says, and the papers' printed numbers where those follow it.

Models are built on the meta device: shapes without numbers.
"""

import functools

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    DebertaV2Config,
    GPT2Config,
    RobertaConfig,
)

from lora_bench.methods import known_methods
from lora_bench.training.measure.counters import count_parameters
from tests.tiny import CLASSIFIERS, HEAD_MODULES, HIDDEN, LAYERS, tiny_gpt2, tiny_roberta

FEED_FORWARD = dict.fromkeys(CLASSIFIERS, 64) | {"gpt2": 4 * HIDDEN}

# With L layers of width d, feed-forward width f and size s.
FORMULAS = {
    "lora": ({}, lambda L, d, f, s: L * 2 * (2 * d * s)),
    "lora on all": ({"targets": ("all",)}, lambda L, d, f, s: L * (4 * 2 * d * s + 2 * (d + f) * s)),
    "lora on ffn": ({"targets": ("ffn",)}, lambda L, d, f, s: L * 2 * (d + f) * s),
    "dora": ({"use_dora": True}, lambda L, d, f, s: L * 2 * (2 * d * s + d)),
    "bottleneck_adapter": ({}, lambda L, d, f, s: 2 * L * (2 * d * s + s + d)),
    "bottleneck_adapter pfeiffer": ({"variant": "pfeiffer"}, lambda L, d, f, s: L * (2 * d * s + s + d)),
    "bottleneck_adapter parallel": ({"variant": "parallel"}, lambda L, d, f, s: L * (2 * d * s + s + d)),
    "bottleneck_adapter lin": ({"variant": "lin"}, lambda L, d, f, s: L * (2 * d * s + s + d) + 2 * L * d),
    "prefix_tuning": ({}, lambda L, d, f, s: 2 * L * d * s),
    "prefix_tuning reparameterised": (
        {"reparameterised": True, "reparameterisation_width": 6},
        lambda L, d, f, s: d * s + 6 * d + 6 + L * (6 * 2 * d + 2 * d),
    ),
    "prefix_layer": ({}, lambda L, d, f, s: L * d * s),
    "prefix_embedding": ({}, lambda L, d, f, s: d * s),
}


def adapted(method, model, head):
    return known_methods()[method["name"]](**{key: value for key, value in method.items() if key != "name"}).apply(
        model, head=head
    )


def count(model, head):
    return count_parameters(model, head=head, total=0).adapter


@pytest.mark.parametrize("family", CLASSIFIERS)
@pytest.mark.parametrize("case", FORMULAS)
def test_every_method_follows_its_formula_in_every_family(case, family):
    options, formula = FORMULAS[case]
    method = known_methods()["lora" if case == "dora" else case.split()[0]]
    for size in (1, 3, 8):
        with torch.device("meta"):
            model = CLASSIFIERS[family]()
        model = method(**options, **{method.size: size}).apply(model, head=HEAD_MODULES[family])
        assert count(model, HEAD_MODULES[family]) == formula(LAYERS, HIDDEN, FEED_FORWARD[family], size)


# --- printed counts --------------------------------------------------------------------------------------------------

CONFIGS = {
    "roberta-base": RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1),
    "roberta-large": RobertaConfig(
        vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, hidden_size=1024, num_hidden_layers=24,
        num_attention_heads=16, intermediate_size=4096,
    ),
    "deberta-v3-base": DebertaV2Config(
        hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072, type_vocab_size=0,
        relative_attention=True, pos_att_type=["p2c", "c2p"], share_att_key=True, position_buckets=256,
        norm_rel_ebd="layer_norm", position_biased_input=False,
    ),
    "deberta-v2-xxlarge": DebertaV2Config(
        hidden_size=1536, num_hidden_layers=48, num_attention_heads=24, intermediate_size=6144, type_vocab_size=0,
        relative_attention=True, pos_att_type=["p2c", "c2p"], share_att_key=True, position_buckets=256,
        norm_rel_ebd="layer_norm", position_biased_input=False, conv_kernel_size=3, conv_act="gelu",
    ),
    "gpt2-medium": GPT2Config(n_embd=1024, n_layer=24, n_head=16),
    "gpt2-large": GPT2Config(n_embd=1280, n_layer=36, n_head=20),
}  # fmt: skip


def build(name):
    causal = name.startswith("gpt2")
    with torch.device("meta"):
        auto = AutoModelForCausalLM if causal else AutoModelForSequenceClassification
        model = auto.from_config(CONFIGS[name])
    heads = {"roberta": ["classifier"], "deberta": ["pooler", "classifier"], "gpt2": []}
    return model, heads[name.split("-")[0]]


@functools.cache
def counted(name, method):
    model, head = build(name)
    return count(adapted(dict(method), model, head), head)


def lora(rank, **more):
    return {"name": "lora", "rank": rank, **more}


def adapter(variant, size):
    return {"name": "bottleneck_adapter", "variant": variant, "bottleneck_size": size}


def prefix(length):
    return {"name": "prefix_tuning", "num_virtual_tokens": length}


# (base model, method, weights, printed millions). Hu et al. 2021, tables 2 and 3; deberta-v3-base: Zhang et al. 2023
# (AdaLoRA), table 1. The widths of adapters on GPT-2 are not printed: they are those whose counts are.
FOLLOWS = [
    ("roberta-base", lora(8), 294_912, "0.3"),
    ("roberta-base", {"name": "bitfit"}, 102_144, "0.1"),
    ("roberta-large", lora(8), 786_432, "0.8"),
    ("roberta-large", adapter("houlsby", 8), 835_968, "0.8"),
    ("roberta-large", adapter("pfeiffer", 16), 811_392, "0.8"),
    ("deberta-v2-xxlarge", lora(16), 4_718_592, "4.7"),
    ("deberta-v3-base", lora(8, targets=("all",)), 1_327_104, "1.33"),
    ("deberta-v3-base", lora(2, targets=("all",)), 331_776, "0.33"),
    ("deberta-v3-base", adapter("houlsby", 16), 608_640, "0.61"),
    ("deberta-v3-base", adapter("houlsby", 8), 313_536, "0.31"),
    ("deberta-v3-base", adapter("pfeiffer", 32), 599_424, "0.60"),
    ("deberta-v3-base", adapter("pfeiffer", 16), 304_320, "0.30"),
    ("gpt2-medium", adapter("lin", 6), 368_784, "0.37"),
    ("gpt2-medium", adapter("lin", 224), 11_089_152, "11.09"),
    ("gpt2-medium", {"name": "full", "top_layers": 2}, 25_192_448, "25.19"),
    ("gpt2-large", adapter("lin", 8), 875_808, "0.88"),
    ("gpt2-large", adapter("lin", 248), 23_002_848, "23.00"),
    ("gpt2-large", {"name": "full"}, 774_030_080, "774.03"),
]

DIFFERS = [
    # Table 10 has r = 8 beside 4.7M, which needs r = 16, as the paper's scripts have it.
    ("deberta-v2-xxlarge", lora(8), 2_359_296, "4.7"),
    # Printed is 0.1 % of the model.
    ("gpt2-medium", lora(4), 393_216, "0.35"),
    ("gpt2-large", lora(4), 737_280, "0.77"),
    ("roberta-large", adapter("houlsby", 64), 6_343_680, "6.0"),
    ("roberta-large", adapter("pfeiffer", 64), 3_171_840, "3.0"),
    # No width gives 11.09M without LayerNorms; 112 is the nearest.
    ("gpt2-medium", adapter("houlsby", 112), 11_064_576, "11.09"),
    ("deberta-v3-base", adapter("houlsby", 32), 1_198_848, "1.22"),
    ("deberta-v3-base", adapter("pfeiffer", 64), 1_189_632, "1.18"),
    ("gpt2-medium", {"name": "full"}, 354_823_168, "354.92"),
    # What is stored of a prefix; printed is one number for lengths of 5 and 10.
    ("gpt2-medium", prefix(5), 245_760, "0.35"),
    ("gpt2-medium", prefix(10), 491_520, "0.35"),
]


def in_millions(weights, printed):
    return f"{weights / 1e6:.{len(printed.partition('.')[2])}f}"


@pytest.mark.parametrize(("name", "method", "weights", "printed"), FOLLOWS)
def test_a_printed_count_that_follows_the_formula(name, method, weights, printed):
    assert counted(name, tuple(method.items())) == weights
    assert in_millions(weights, printed) == printed


@pytest.mark.parametrize(("name", "method", "weights", "printed"), DIFFERS)
def test_a_printed_count_that_does_not_follow_the_formula(name, method, weights, printed):
    assert counted(name, tuple(method.items())) == weights
    assert in_millions(weights, printed) != printed


def test_what_the_papers_prefix_trains_is_a_hundred_times_what_it_stores():
    model, head = build("gpt2-medium")
    model = adapted({**prefix(5), "reparameterised": True}, model, head)
    counts = count_parameters(model, head=head, total=0)
    # Embedding(5, 1024), Linear(1024, 512) and Linear(512, 2 * 24 * 1024) of Li and Liang's code
    assert (counts.adapter, counts.stored) == (25_744_896, 245_760)


def test_the_head_that_every_method_trains_and_no_paper_counts():
    model, head = build("roberta-base")
    model.classifier.out_proj = torch.nn.Linear(768, 3, device="meta")
    assert count_parameters(adapted(lora(8), model, head), head=head, total=0).head == 592_899


# --- what is stored ----------------------------------------------------------------------------------------------------

PEFT_TYPES = {
    "LORA": {"targets": ("query", "value")},
    "ADALORA": {"targets": ("query", "value")},
    "IA3": {"targets": ("key", "value"), "options": {"feedforward_modules": []}},
    "VERA": {"targets": ("query", "value"), "options": {"r": 6}},
    "FOURIERFT": {"targets": ("query", "value"), "options": {"n_frequency": 20}},
    "PROMPT_TUNING": {"options": {"num_virtual_tokens": 3}},
    "P_TUNING": {"options": {"num_virtual_tokens": 3}},
}
STORED = {
    "full top_layers": ("full", {"top_layers": 1}),
    "bitfit": ("bitfit", {}),
    **{case: ("lora" if case == "dora" else case.split()[0], options) for case, (options, _) in FORMULAS.items()},
    **{f"peft {name}": ("peft", {"type": name, **options}) for name, options in PEFT_TYPES.items()},
}


@pytest.mark.parametrize("case", STORED)
def test_stored_is_what_the_file_holds_and_can_be_counted_without_weights(case, tmp_path):
    name, options = STORED[case]
    method, head = known_methods()[name](**options), HEAD_MODULES["roberta"]
    model = method.apply(tiny_roberta(), head=head)
    counts = count_parameters(model, head=head, total=0)
    with torch.device("meta"):
        base = tiny_roberta()
    assert count_parameters(method.apply(base, head=head), head=head, total=0) == counts
    model.save_pretrained(tmp_path)
    assert counts.stored == sum(tensor.numel() for tensor in load_file(tmp_path / "adapter_model.safetensors").values())


def test_a_whole_model_stores_what_it_trains():
    counts = count_parameters(known_methods()["full"]().apply(tiny_gpt2(), head=[]), head=[], total=0)
    assert counts.stored == counts.trained == counts.adapter


@pytest.mark.parametrize("saved", [True, False])
def test_veras_frozen_projections_are_stored_unless_they_are_drawn_anew(saved):
    head, rank = HEAD_MODULES["roberta"], 6
    options = {"r": rank, "save_projection": saved}
    method = known_methods()["peft"](type="VERA", options=options, targets=("query", "value"))
    counts = count_parameters(method.apply(tiny_roberta(), head=head), head=head, total=0)
    assert counts.adapter == LAYERS * 2 * (rank + HIDDEN)  # two vectors for each weight
    # one A of (rank, HIDDEN) and one B of (HIDDEN, rank) for the whole model
    assert counts.stored - counts.trained == (2 * rank * HIDDEN if saved else 0)


def test_counting_asks_no_hub_and_leaves_the_name_of_the_base_model(monkeypatch):
    def asked(*arguments, **options):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", asked)
    base = tiny_roberta()
    base.name_or_path = "somebody/a-model"
    model = known_methods()["lora"]().apply(base, head=["classifier"])
    count_parameters(model, head=["classifier"], total=0)
    assert model.peft_config["default"].base_model_name_or_path == "somebody/a-model"
