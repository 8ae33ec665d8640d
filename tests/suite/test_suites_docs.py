"""The page of a suite's keys says what the classes that read one say, and its example is one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lora_bench.documents import read_yaml
from lora_bench.errors import BadInput
from lora_bench.suite.entries import read_method
from lora_bench.suite.load_suite import load_suite

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "suites.md").read_text(encoding="utf-8")
(EXAMPLE,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_page_is_what_the_classes_say():
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "suites", "--check"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_example_is_a_suite_with_three_rates_for_every_method(tmp_path):
    file = tmp_path / "suite.yaml"
    file.write_text(EXAMPLE, encoding="utf-8")
    suite = load_suite(file)
    assert [entry.label for entry in suite.methods] == ["full", "lora", "lora_all"]
    rates = {(entry.label, model.model): entry.rates(model.model) for entry in suite.methods for model in suite.models}
    assert {len(found) for found in rates.values()} == {3}
    # The range of one base model is half as high as the default, and both are drawn from at the same places.
    twice = [2 * rate for rate in rates["full", "microsoft/deberta-v3-base"]]
    assert rates["full", "FacebookAI/roberta-base"] == pytest.approx(twice, rel=0.01)
    assert suite.recipe("tickets", "FacebookAI/roberta-base", suite.methods[0]).training.max_length == 64


def test_an_entry_of_a_method_has_the_keys_of_the_page_beside_its_options(tmp_path):
    entry = {"method": "lora", "label": "low", "learning_rate": 0.001, "tasks": "rte", "models": "base"}
    part = PAGE.partition("## methods\n")[2].partition("\n## ")[0]
    assert re.findall(r"^- `(\w+)`", part, flags=re.MULTILINE) == list(entry)
    file = tmp_path / "suite.yaml"
    file.write_text(f"methods: [{entry}, {{method: lora, seeds: [0]}}]\n", encoding="utf-8")
    document = read_yaml(file)
    read = read_method(document, ("methods", 0), document.data["methods"][0])
    assert (read.label, read.rates("base"), read.tasks, read.models) == ("low", (0.001,), ("rte",), ("base",))
    with pytest.raises(BadInput, match="seeds"):
        read_method(document, ("methods", 1), document.data["methods"][1])
