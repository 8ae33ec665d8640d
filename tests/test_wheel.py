"""The installed package carries all that it needs to work far from its checkout."""

from importlib.metadata import PackageNotFoundError, files

import pytest


def test_the_wheel_carries_tasks_baselines_schemas_and_the_small_gpt2():
    try:
        installed = {str(path) for path in files("lora_bench") or []}
    except PackageNotFoundError:
        installed = set()
    if "lora_bench/cli/parser.py" not in installed:
        pytest.skip("lora_bench is not installed from a wheel here; tox installs it so")
    for needed in (
        "lora_bench/_tasks/movie_reviews.yaml",
        "lora_bench/_baselines/quickstart/suite.yaml",
        "lora_bench/_baselines/quickstart-search/suite.yaml",
        "lora_bench/_baselines/smoke/suite.yaml",
        "lora_bench/schemas/suite.schema.json",
        "lora_bench/data/gpt2-mini/model.safetensors",
        "lora_bench/data/gpt2-mini/README.md",
        "lora_bench/report/assets/card.css",
        "lora_bench/report/assets/page.css",
        "lora_bench/report/assets/page.js",
        "lora_bench/py.typed",
    ):
        assert needed in installed
