"""gpt2-mini is the package's own where the package has it, and else one made from the file of the release."""

import dataclasses
import re
from pathlib import Path

import pytest

from benchmarks.model_wheels import write_wheel
from benchmarks.other_authors import loss_of_gpt2_mini
from lora_bench.errors import AssetUnavailable
from lora_bench.models import gpt2_mini, shipped
from lora_bench.models.registry import find_model, known_models
from lora_bench.util import pip_assets
from lora_bench.util.paths import PACKAGE


@pytest.fixture
def left_out(tmp_path, monkeypatch):
    """The cache of a package that leaves the model out."""
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shipped, "DATA", tmp_path / "nowhere")
    return tmp_path / "cache"


def test_a_checkout_has_it():
    known = known_models()["gpt2-mini"]
    assert known.is_here and known.folder(None) == PACKAGE / "data" / "gpt2-mini"
    assert (known.folder(None) / "model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.assets
def test_the_loss_on_newspapers_that_it_never_saw_is_that_of_its_card():
    card = (PACKAGE / "data" / "gpt2-mini" / "README.md").read_text(encoding="utf-8")
    assert float(re.search(r"is (\d\.\d\d) nats a token", card)[1]) == pytest.approx(loss_of_gpt2_mini(), abs=0.011)


def test_one_made_from_the_file_of_a_release_is_the_same_model(left_out):
    assert not known_models()["gpt2-mini"].is_here
    write_wheel("gpt2-mini", left_out / "assets")
    assert known_models()["gpt2-mini"].is_here
    made = find_model("gpt2-mini", base=Path())
    assert made.folder.is_relative_to(left_out)
    assert {path.name for path in made.folder.iterdir()} == {*gpt2_mini._FILES, "manifest.json"}
    assert made.sha256 == find_model(str(PACKAGE / "data" / "gpt2-mini"), base=Path()).sha256


def test_where_it_cannot_be_had_two_ways_to_get_it_are_said(left_out, monkeypatch):
    nowhere = "lora-bench-gpt2-mini @ http://127.0.0.1:9/lora_bench_gpt2_mini-1-py3-none-any.whl"
    asset = dataclasses.replace(pip_assets.find_asset("gpt2-mini"), requirement=nowhere)
    monkeypatch.setattr(pip_assets, "ASSETS", (asset,))
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(AssetUnavailable) as error:
        find_model("gpt2-mini", base=Path())
    said = str(error.value).splitlines()
    assert said[0].endswith(
        "is not in the cache and could not be downloaded: the page of the release could not be reached"
    )
    assert f"'{nowhere}'" in said[2] and said[4].strip() == str(left_out / "assets")
    assert said[5].startswith('or install from the repository, which has it: pip install "lora_bench @ git+https://')
