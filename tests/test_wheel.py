"""The installed package carries all that it needs to work far from its checkout."""

import zlib
from importlib.metadata import PackageNotFoundError, files

import pytest


@pytest.fixture
def installed():
    """The files of the installed package."""
    try:
        found = {str(path): path for path in files("lora_bench") or []}
    except PackageNotFoundError:
        found = {}
    if "lora_bench/cli/parser.py" not in found:
        pytest.skip("lora_bench is not installed from a wheel here; tox installs it so")
    return found


def test_the_wheel_carries_tasks_baselines_schemas_and_the_small_gpt2(installed):
    for needed in (
        "lora_bench/_tasks/movie_reviews.yaml",
        "lora_bench/_baselines/quickstart/suite.yaml",
        "lora_bench/_baselines/quickstart-search/suite.yaml",
        "lora_bench/_baselines/smoke/suite.yaml",
        "lora_bench/_baselines/nightly/nights/repeat-1.json",
        "lora_bench/_baselines/lora-table2/published.csv",
        "lora_bench/schemas/suite.schema.json",
        "lora_bench/data/gpt2-mini/model.safetensors",
        "lora_bench/data/gpt2-mini/README.md",
        "lora_bench/report/assets/card.css",
        "lora_bench/report/assets/page.css",
        "lora_bench/report/assets/page.js",
        "lora_bench/py.typed",
    ):
        assert needed in installed


def test_without_the_small_gpt2_the_wheel_has_at_most_three_megabytes(installed):
    there = [path for name, path in installed.items() if "gpt2-mini" not in name and "__pycache__" not in name]
    assert sum(len(zlib.compress(path.locate().read_bytes())) for path in there) < 3_000_000
    assert not [path for path in there if "/records/" in str(path) and "_baselines" in str(path)]
