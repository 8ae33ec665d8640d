"""A combination is its parts on one model: their weights add up, their updates act together, and one file holds them."""

import json

import pytest
import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel

from lora_bench.errors import LoraBenchError, UnsupportedPair
from lora_bench.methods import known_methods, rate_factors, with_size
from lora_bench.testing import check_method, tiny_model
from lora_bench.tuners import CombinedConfig, CombinedModel, PrefixConfig, fold

Combined = known_methods()["combined"]
LAYERS, WIDTH = 2, 32

LORA = {"method": "lora", "rank": 4}
PE = {"method": "prefix_embedding", "num_virtual_tokens": 3}
PL = {"method": "prefix_layer", "num_virtual_tokens": 3}
PREFIX = {"method": "prefix_tuning", "num_virtual_tokens": 3}
COMPUTED = {**PREFIX, "reparameterised": True, "reparameterisation_width": 5}
# He et al. have relu, whose units can all be dead in a bottleneck of six.
PARALLEL = {"method": "bottleneck_adapter", "variant": "parallel", "bottleneck_size": 6, "scaling": 4.0}
COUNTS = {  # weights of each part in two layers of width 32
    "lora": LAYERS * 2 * 2 * WIDTH * 4,
    "prefix_embedding": 3 * WIDTH,
    "prefix_layer": LAYERS * 3 * WIDTH,
    "prefix_tuning": LAYERS * 2 * 3 * WIDTH,
    "bottleneck_adapter": LAYERS * (2 * WIDTH * 6 + 6 + WIDTH),
}
COMBINATIONS = {
    "LoRA+PE": (LORA, PE),
    "LoRA+PL": (LORA, PL),
    "MAM": (PREFIX, PARALLEL),
    "MAM, reparameterised": (COMPUTED, PARALLEL),
    "all": (PE, PREFIX, PARALLEL, {**LORA, "targets": ["all"], "use_dora": True}),
}
PLAIN = ["LoRA+PE", "LoRA+PL", "MAM"]
FAMILIES = ["roberta", "deberta-v2", "gpt2", "deberta", "mpnet", "llama"]
CASES = [
    (family, name)
    for family in FAMILIES
    for name in COMBINATIONS
    if family != "llama" or name not in ("LoRA+PE", "all")
]


def applied(family, parts, **options):
    model, head = tiny_model(family)
    return Combined(parts=parts, **options).apply(model, head=head), head


@pytest.mark.parametrize(("family", "name"), CASES)
def test_contract(family, name):
    check_method(Combined(parts=COMBINATIONS[name]), families=[family])


@pytest.mark.parametrize(("family", "name"), [case for case in CASES if case[0] != "llama" and case[1] in PLAIN])
def test_weights_are_those_of_the_parts(family, name):
    model, _ = applied(family, COMBINATIONS[name])
    own = [
        weight for path, weight in model.named_parameters() if weight.requires_grad and "modules_to_save" not in path
    ]
    assert sum(weight.numel() for weight in own) == sum(COUNTS[part["method"]] for part in COMBINATIONS[name])


def test_a_model_without_a_place_for_a_part_is_refused_with_the_reason():
    with pytest.raises(UnsupportedPair, match="prefix-embedding tuning is written for encoders"):
        applied("llama", (LORA, PE))


def test_a_prefix_beside_lora_is_the_prefix_on_the_merged_model():
    ids = torch.tensor([[5, 6, 7, 1]])
    model, _ = applied("roberta", (PREFIX, {**LORA, "targets": ["all"]}))
    with torch.no_grad():
        for path, weight in model.named_parameters():
            if weight.requires_grad and "modules_to_save" not in path:
                weight.copy_(0.1 * torch.randn(weight.shape))
    base, head = tiny_model("roberta")
    merged = known_methods()["lora"](rank=4, targets=("all",)).apply(base, head=head)
    _copy(model, merged)
    again = get_peft_model(merged.merge_and_unload(), PrefixConfig(num_virtual_tokens=3))
    _copy(model, again)
    with torch.no_grad():
        assert (model.eval()(ids).logits - again.eval()(ids).logits).abs().max() < 1e-5
        with model.disable_adapter():
            assert (model(ids).logits - tiny_model("roberta")[0].eval()(ids).logits).abs().max() < 1e-6


def _copy(source, target):
    """Copy adapter and head weights between models whose wrappers are not the same."""
    known = {path.replace(".base_layer", ""): weight for path, weight in source.named_parameters()}
    with torch.no_grad():
        for path, weight in target.named_parameters():
            if weight.requires_grad and path.replace(".base_layer", "") in known:
                weight.copy_(known[path.replace(".base_layer", "")])


def test_one_file_has_all_parts_and_loads_with_peft(tmp_path):
    model, _ = applied("roberta", (LORA, PE))
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA_BENCH_COMBINED"
    assert [part["peft_type"] for part in config["parts"]] == ["LORA", "LORA_BENCH_PREFIX_EMBEDDING"]
    again = PeftModel.from_pretrained(tiny_model("roberta")[0], tmp_path, is_trainable=True)
    assert isinstance(again.base_model, CombinedModel)
    trained = {path for path, weight in model.named_parameters() if weight.requires_grad}
    assert {path for path, weight in again.named_parameters() if weight.requires_grad} == trained
    frozen = PeftModel.from_pretrained(tiny_model("roberta")[0], tmp_path)
    assert not any(weight.requires_grad for weight in frozen.parameters())


def mam(seed=5, **options):
    """A MAM with a reparameterised prefix, and every weight of its adapter away from zero."""
    torch.manual_seed(seed)
    model, _ = applied("roberta", ({**COMPUTED, **options}, PARALLEL))
    with torch.no_grad():
        for path, weight in model.named_parameters():
            if ".bottleneck_" in path:
                weight.normal_()
    return model.eval()


def logits(model):
    with torch.no_grad():
        return model(torch.tensor([[5, 6, 7, 1]])).logits


def stored(model):
    return {name: weight for name, weight in get_peft_model_state_dict(model).items() if "classifier" not in name}


NETWORK = 3 * WIDTH + 5 * WIDTH + 5 + LAYERS * (2 * WIDTH * 5 + 2 * WIDTH)
"""Weights that compute a prefix of three tokens in two layers, with a layer of five units."""


def test_a_reparameterised_prefix_trains_its_network_and_stores_what_it_gives():
    model = mam()
    in_parts = [path for path, weight in model.named_parameters() if weight.requires_grad and "classifier" not in path]
    weights = dict(model.named_parameters())
    assert sum(weights[path].numel() for path in in_parts) == NETWORK + COUNTS["bottleneck_adapter"]
    assert sum(weight.numel() for weight in stored(model).values()) == (
        COUNTS["prefix_tuning"] + COUNTS["bottleneck_adapter"]
    )
    assert {name.rsplit(".", 1)[1] for name in stored(model) if ".prefix_" in name} == {"prefix_key", "prefix_value"}


def test_a_file_of_a_reparameterised_prefix_is_that_of_a_plain_one(tmp_path):
    model = mam()
    model.save_pretrained(tmp_path)
    in_file = load_file(tmp_path / "adapter_model.safetensors")
    plain, _ = applied("roberta", (PREFIX, PARALLEL))
    assert {name: weight.shape for name, weight in in_file.items()} == {
        name: weight.shape for name, weight in get_peft_model_state_dict(plain).items()
    }
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert [part.get("reparameterised") for part in config["parts"]] == [None, False]
    assert model.peft_config["default"].parts[1]["reparameterised"] is True  # the model goes on training its network
    again = PeftModel.from_pretrained(tiny_model("roberta")[0], tmp_path).eval()
    assert torch.equal(logits(again), logits(model))


def test_loading_into_the_model_that_trains_gives_the_files_prefix(tmp_path):
    model = mam()
    want = logits(model)
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(1.0)
    assert (logits(model) - want).abs().max() > 1e-3
    model.load_adapter(tmp_path, "default", is_trainable=True)  # as Trainer's load_best_model_at_end does
    assert torch.equal(logits(model), want)


def test_folding_a_combination_changes_no_answer_and_its_config_says_so():
    model = mam()
    want = logits(model)
    fold(model)
    assert torch.equal(logits(model), want)
    assert model.peft_config["default"].parts[1]["reparameterised"] is False


def test_a_combination_that_is_not_folded_resumes_from_its_file(tmp_path):
    base, head = tiny_model("roberta")
    parts = mam().peft_config["default"].parts
    parts = [{**part, "fold_on_save": False} if "fold_on_save" in part else part for part in parts]
    model = get_peft_model(base, CombinedConfig(parts=parts, modules_to_save=head)).eval()
    model.save_pretrained(tmp_path)
    assert sum(weight.numel() for weight in stored(model).values()) == NETWORK + COUNTS["bottleneck_adapter"]
    again = PeftModel.from_pretrained(tiny_model("roberta")[0], tmp_path, is_trainable=True).eval()
    trained = {path: weight for path, weight in model.named_parameters() if weight.requires_grad}
    found = {path: weight for path, weight in again.named_parameters() if weight.requires_grad}
    assert found.keys() == trained.keys()
    assert all(torch.equal(found[path], weight) for path, weight in trained.items())
    assert torch.equal(logits(again), logits(model))


def test_gpt2_writes_with_a_combination_and_a_cache_what_it_writes_without_the_cache():
    config = GPT2Config(
        vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=40, pad_token_id=0, bos_token_id=1, eos_token_id=1
    )
    torch.manual_seed(0)
    model = Combined(parts=(LORA, {**PL, "init_std": 1.0})).apply(GPT2LMHeadModel(config), head=[]).eval()
    ids = torch.tensor([[5, 6, 7, 8], [0, 0, 9, 10]])
    how = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "num_beams": 3}
    written = model.generate(input_ids=ids, attention_mask=(ids != 0).long(), **how)
    assert torch.equal(written, model.generate(input_ids=ids, attention_mask=(ids != 0).long(), **how, use_cache=False))


def test_it_is_neither_merged_nor_unloaded_nor_joined_by_another_adapter():
    model, _ = applied("roberta", (LORA, PL))
    with pytest.raises(LoraBenchError, match="cannot be merged"):
        model.merge_and_unload()
    with pytest.raises(LoraBenchError, match="cannot be unloaded"):
        model.unload()
    with pytest.raises(UnsupportedPair, match="load another base for the next"):
        model.add_adapter("second", model.peft_config["default"])


def test_its_size_is_the_first_parts_if_the_suite_gives_it():
    assert Combined(parts=(LORA, PE)).size is None
    method = Combined(parts=(LORA, PE), size_value=2)
    assert method.size == "size_value"
    assert with_size(method, 7).methods[0].rank == 7


def test_lora_plus_keeps_its_rate_in_a_combination():
    method = Combined(parts=({**LORA, "ratio": 16.0}, PL))
    model, head = tiny_model("roberta")
    weights = [name for name, one in method.apply(model, head=head).named_parameters() if one.requires_grad]
    assert rate_factors(method, weights) == {name: 16.0 for name in weights if ".lora_B." in name}
    assert rate_factors(Combined(parts=(LORA, PL)), weights) == {}


def test_two_spellings_are_one_method_and_survive_a_record():
    method = Combined(parts=({**LORA, "dropout": 0.0}, PE))
    assert method == Combined(parts=(LORA, PE))
    assert Combined.model_validate_json(method.model_dump_json()) == method


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ((LORA,), "at least 2 items"),
        ((LORA, LORA), "has a low-rank update twice"),
        ((PREFIX, PL), "has a prefix in every layer twice"),
        ((LORA, {"method": "full"}), "a part's method is one of lora, .*, got 'full'"),
        ((LORA, {"method": "prefix_layer", "rank": 3}), "part prefix_layer: rank: "),
        ((PL, {**LORA, "initialisation": "pissa"}), "pissa changes the base model and is no part"),
        ((PL, {**LORA, "train_norms": True}), "train_norms is no option of a part"),
        ((PL, {**LORA, "train_tokens": [3]}), "train_tokens is no option of a part"),
        ((LORA, {**PREFIX, "words": "rate"}), "a prefix that starts from words is no part"),
    ],
)
def test_what_cannot_be_combined_is_refused(parts, reason):
    with pytest.raises(ValidationError, match=reason):
        Combined(parts=parts)


def test_a_config_of_parts_with_the_same_sites_is_refused():
    with pytest.raises(LoraBenchError, match="each with sites of its own"):
        CombinedConfig(parts=[{"peft_type": "LORA"}, {"peft_type": "LORA_BENCH_FUSED_LORA"}])
    with pytest.raises(LoraBenchError, match="unknown part of a combination 'VERA'"):
        CombinedConfig(parts=[{"peft_type": "VERA"}, {"peft_type": "LORA"}])
