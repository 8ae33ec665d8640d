"""Base models: found by name, read from safetensors only, and split into checkpoint and head."""

import json
import shutil

import pytest
import torch
from torch import nn

from lora_bench.errors import LoraBenchError
from lora_bench.models.loading import head_modules, load_model
from lora_bench.models.registry import find_model
from lora_bench.training.measure.counters import count_parameters
from lora_bench.util.seeding import draw_head
from tests.tiny import tiny_deberta_v2, tiny_gpt2, tiny_roberta


@pytest.fixture
def folder_of(tmp_path):
    """Writes the backbone of a tiny model as a Hugging Face folder."""

    def write(model, name="base"):
        (getattr(model, model.base_model_prefix)).save_pretrained(tmp_path / name)
        return find_model(name, base=tmp_path)

    return write


@pytest.mark.parametrize(
    ("model", "head"),
    [
        (tiny_roberta, ["classifier"]),
        (tiny_deberta_v2, ["pooler", "classifier"]),
        (tiny_gpt2, ["score"]),
    ],
)
def test_the_head_is_what_the_checkpoint_lacks(folder_of, model, head):
    base_model = folder_of(model())
    for on_meta in (False, True):
        _, found = load_model(base_model, kind="classification", labels=3, on_meta=on_meta)
        assert found == head


def test_the_head_is_the_largest_module_that_holds_nothing_else():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.ModuleDict({"layer": nn.Linear(2, 2), "pooler": nn.Sequential(nn.Linear(2, 2), nn.Tanh())})
            self.classifier = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3))

    missing = {name for name, _ in Model().named_parameters() if "pooler" in name or "classifier" in name}
    assert head_modules(Model(), missing) == ["body.pooler", "classifier"]
    assert head_modules(Model(), set()) == []


def test_parameters_of_full_are_all_of_the_model(folder_of):
    model, head = load_model(folder_of(tiny_roberta()), kind="classification", labels=3)
    total = sum(weight.numel() for weight in model.parameters())
    counts = count_parameters(model, head=head, total=total)
    # classifier: dense 32 x 32 + 32, out_proj 3 x 32 + 3
    assert counts.head == 32 * 32 + 32 + 3 * 32 + 3
    assert counts.adapter == total - counts.head
    assert counts.trained == counts.stored == counts.total == total


def test_frozen_weights_are_float32_whatever_the_checkpoint_holds(folder_of):
    model, _ = load_model(folder_of(tiny_roberta().half()), kind="classification", labels=2)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_a_head_is_drawn_from_its_seed_alone(folder_of):
    base_model = folder_of(tiny_roberta())

    def drawn(seed):
        model, head = load_model(base_model, kind="classification", labels=2)
        draw_head(model, head, seed)
        return model.classifier.dense.weight

    assert torch.equal(drawn(0), drawn(0))
    assert not torch.equal(drawn(0), drawn(1))


def test_the_hash_is_of_the_content_and_not_of_the_place(folder_of, tmp_path):
    first = folder_of(tiny_roberta())
    shutil.copytree(first.folder, tmp_path / "copy")
    (tmp_path / "copy" / "README.md").write_text("a card")
    config = json.loads((tmp_path / "copy" / "config.json").read_text())
    config["transformers_version"] = "0.0"
    (tmp_path / "copy" / "config.json").write_text(json.dumps(config))
    assert find_model("copy", base=tmp_path).sha256 == first.sha256
    assert folder_of(tiny_roberta(seed=1), "other").sha256 != first.sha256


def test_a_folder_that_is_no_model_says_what_it_lacks(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(LoraBenchError, match=r"has no config\.json"):
        find_model("empty", base=tmp_path)


def test_pickled_weights_are_refused(folder_of, tmp_path):
    folder = folder_of(tiny_roberta()).folder
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"whatever")
    with pytest.raises(LoraBenchError, match=r"no weights in safetensors \(pytorch_model\.bin can run code"):
        find_model("base", base=tmp_path)


def test_an_unknown_name_is_refused_with_the_nearest_known_one(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        LoraBenchError, match=r"'minilm-l6-robreta' is .*in the cache.*did you mean 'minilm-l6-roberta'"
    ):
        find_model("minilm-l6-robreta", base=tmp_path)


def test_gpt2_reads_the_last_real_token_under_either_padding(folder_of):
    model, _ = load_model(folder_of(tiny_gpt2()), kind="classification", labels=3)
    model.eval()
    pad = model.config.pad_token_id
    ids = torch.tensor([[5, 6, 7]])
    plain = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    right = model(input_ids=torch.tensor([[5, 6, 7, pad, pad]]), attention_mask=torch.tensor([[1, 1, 1, 0, 0]])).logits
    left = model(
        input_ids=torch.tensor([[pad, pad, 5, 6, 7]]),
        attention_mask=torch.tensor([[0, 0, 1, 1, 1]]),
        position_ids=torch.tensor([[0, 0, 0, 1, 2]]),
    ).logits
    assert (right - plain).abs().max() < 1e-6
    assert (left - plain).abs().max() < 1e-6
