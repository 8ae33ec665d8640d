"""deberta-mini is a whole DeBERTa that knows the order of words by relative positions alone, as its card says."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from benchmarks.model_wheels import write_wheel
from benchmarks.pretrain_deberta_mini import MaskedWords, held_out_loss, without_positions
from lora_bench.models import shipped
from lora_bench.models.deberta_mini import WEIGHTS, deberta_mini_folder
from lora_bench.models.registry import known_models
from lora_bench.util.pip_assets import members, obtain

DATA = shipped.DATA / "deberta-mini"
ARCHIVE = "vaderSentiment-2.5/additional_resources/hutto_ICWSM_2014.tar.gz"
EDITORIALS = f"{ARCHIVE}/hutto_ICWSM_2014/nytEditorialSnippets_GroundTruth.txt"
SENTENCE = "the old captain left his ship before the storm came"


def states(model, ids):
    with torch.no_grad():
        return model(input_ids=ids).last_hidden_state


@pytest.fixture(scope="module")
def model():
    return AutoModel.from_pretrained(deberta_mini_folder()).eval()


@pytest.mark.assets
def test_it_is_whole_and_has_no_table_of_absolute_positions(model):
    loaded, report = AutoModel.from_pretrained(deberta_mini_folder(), output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert not any("position_embeddings" in name for name, _ in loaded.named_parameters())
    # words and their LayerNorm, 6 layers of attention, feed-forward and LayerNorms, 64 distances and their LayerNorm
    width, inner = 384, 1536
    layer = 4 * (width * width + width) + 2 * width * inner + inner + width + 4 * width
    assert model.num_parameters() == 30_522 * width + 2 * width + 6 * layer + 64 * width + 2 * width


@pytest.mark.assets
def test_a_classifier_lacks_its_head_and_nothing_else():
    _, report = AutoModelForSequenceClassification.from_pretrained(deberta_mini_folder(), output_loading_info=True)
    assert {name.split(".")[0] for name in report["missing_keys"]} == {"pooler", "classifier"}
    assert not report["unexpected_keys"] and not report["mismatched_keys"]


@pytest.mark.assets
def test_without_the_relative_terms_words_are_a_bag_and_with_them_they_are_not(model):
    ids = AutoTokenizer.from_pretrained(deberta_mini_folder())(SENTENCE, return_tensors="pt")["input_ids"]
    order = torch.randperm(ids.shape[1], generator=torch.Generator().manual_seed(0))
    with without_positions():
        assert torch.allclose(states(model, ids[:, order]), states(model, ids)[:, order], atol=1e-4)
    whole = states(model, ids)[:, order]
    assert (states(model, ids[:, order]) - whole).abs().mean() > 0.5 * whole.abs().mean()


@pytest.mark.slow
@pytest.mark.assets
def test_masked_words_of_newspapers_that_it_never_saw_are_harder_to_tell_without_the_relative_terms(model):
    masked_words = MaskedWords(model)
    lacking, unexpected = masked_words.load_state_dict(
        {name: weight.float() for name, weight in load_file(DATA / WEIGHTS).items()}, strict=False
    )
    assert lacking == ["model.embeddings.word_embeddings.weight"] and not unexpected
    tokenizer = AutoTokenizer.from_pretrained(deberta_mini_folder())
    (snippets,) = members("vader-sentiment", [EDITORIALS]).values()
    text = " ".join(line.split("\t")[2] for line in snippets.decode().splitlines())
    held_out = np.array(tokenizer(text, add_special_tokens=False)["input_ids"])
    whole = held_out_loss(masked_words, held_out, tokenizer, batches=4)
    with without_positions():
        assert held_out_loss(masked_words, held_out, tokenizer, batches=4) - whole > 0.2


def test_its_card_has_the_figures_that_its_training_wrote():
    card, figures = (DATA / "README.md").read_text(encoding="utf-8"), json.loads((DATA / "training.json").read_bytes())
    whole, without = figures["held_out_loss"], figures["held_out_loss_without_relative_positions"]
    assert without - whole > 0.2
    for said in (f"{whole:.2f}", f"{without:.2f}", f"{figures['tokens'] / 1e6:.1f} M", f"{figures['parameters']:,}"):
        assert said in card


@pytest.mark.assets
def test_one_made_from_the_file_of_a_release_is_the_same_to_the_byte(model, tmp_path, monkeypatch):
    ours, minilm = deberta_mini_folder(), obtain("minilm-l6")
    wheel = write_wheel("deberta-mini", tmp_path / "assets")
    (tmp_path / "assets" / minilm.name).symlink_to(minilm)
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(shipped, "DATA", tmp_path / "nowhere")
    assert (
        known_models()["deberta-mini"].assets == ("minilm-l6", "deberta-mini")
        and known_models()["deberta-mini"].is_here
    )
    made = deberta_mini_folder()
    assert made.is_relative_to(tmp_path) and wheel.stat().st_size < 45e6
    assert {path.name: path.read_bytes() for path in made.iterdir()} == {
        path.name: path.read_bytes() for path in ours.iterdir()
    }
