"""deberta-mini is a whole DeBERTa that knows the order of words by relative positions alone, as its card says."""

import json
import re

import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from benchmarks.model_wheels import write_wheel
from benchmarks.other_authors import losses_of_deberta_mini
from benchmarks.pretrain_deberta_mini import without_positions
from lora_bench.models import shipped
from lora_bench.models.deberta_mini import deberta_mini_folder
from lora_bench.models.registry import known_models
from lora_bench.util.pip_assets import obtain

DATA = shipped.DATA / "deberta-mini"
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
def test_the_losses_on_newspapers_that_it_never_saw_are_those_of_its_card():
    whole, without = losses_of_deberta_mini()
    assert without - whole > 0.2
    card = (DATA / "README.md").read_text(encoding="utf-8")
    said = [float(number) for number in re.findall(r"\b\d\.\d\d\b", card[card.index("editorials") :])]
    assert said[:2] == pytest.approx([whole, without], abs=0.011)


def test_its_card_has_the_figures_that_its_training_wrote():
    card, figures = (DATA / "README.md").read_text(encoding="utf-8"), json.loads((DATA / "training.json").read_bytes())
    for said in (f"{figures['tokens'] / 1e6:.1f} M", f"{figures['parameters']:,}"):
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
