"""Every code block of the pages is one that works, and the first page leads to all others."""

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from lora_bench.cli.parser import build_parser
from lora_bench.documents import read_yaml
from lora_bench.metrics import metric
from lora_bench.suite.load_suite import load_suite
from lora_bench.suite.probe_suite import load_probe_suite
from lora_bench.tasks import task_from_document
from tests.project import SUITE
from tests.test_docs import PAGES

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# `text` is output, or a picture of the package; sessions are run by test_peft_defects.py, the others are checked below and in
# test_docs.py.
LANGUAGES = {"sh", "python", "pycon", "yaml", "toml", "text"}
RANGES = [{"method": name, "learning_rate": {"low": 1e-4, "high": 1e-2}} for name in ("full", "lora")]


def blocks(page: Path, language: str) -> list[str]:
    return [block for found, block in FENCE.findall(page.read_text(encoding="utf-8")) if found == language]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def commands(page: Path) -> list[list[str]]:
    """The words of every command of ours that a page shows to give, in a block or indented."""
    text = page.read_text(encoding="utf-8")
    indented = re.findall(r"^    (lora-bench .*)$", FENCE.sub("", text), re.MULTILINE)
    lines = "\n".join([*blocks(page, "sh"), *indented]).replace("\\\n", " ").splitlines()
    parts = [shlex.split(part, comments=True) for line in lines for part in line.split("&&")]
    found = []
    for words in parts:
        place = next((place for place, word in enumerate(words) if Path(word).name == "lora-bench"), None)
        if place is not None:
            found.append(words[place + 1 :])
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_is_in_a_language_that_is_checked_or_is_output(page):
    assert {language for language, _ in FENCE.findall(page.read_text(encoding="utf-8"))} <= LANGUAGES


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=name_of)
def test_every_command_of_a_page_is_one_that_the_command_line_takes(page):
    for words in commands(page):
        build_parser().parse_args(words)


def examples(block: str) -> list[str]:
    """The examples of a block: a key that comes again begins another one."""
    found: list[str] = []
    seen: set[str] = set()
    for line in block.splitlines(keepends=True):
        key = line.partition(":")[0]
        if not found or key in seen:
            found.append("")
            seen.clear()
        found[-1] += line
        if line[0] not in " #":
            seen.add(key)
    return found


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "yaml")], ids=name_of)
def test_every_yaml_is_a_task_or_a_suite_or_fits_into_one(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain, shown, whole = (tmp_path / name for name in ("plain.yaml", "shown.yaml", "whole.yaml"))
    plain.write_text(SUITE, encoding="utf-8")
    (tmp_path / "chat.jinja").write_text("{{ messages[0].content }}", encoding="utf-8")  # the file of a chat's example
    for text in [text for block in blocks(page, "yaml") for text in examples(block)]:
        shown.write_text(text, encoding="utf-8")
        data = read_yaml(shown).data
        budget = data.get("budget", {})
        # What tries several rates needs methods that have some.
        rates = {"methods": RANGES} if "trials" in budget and "tuned_in" not in budget else {}
        whole.write_text(json.dumps({**read_yaml(plain).data, **rates, **data}), encoding="utf-8")
        if "task" in data:
            assert task_from_document(read_yaml(shown)).task == data["task"]
        elif "cell" in data:
            load_probe_suite(shown)
        else:
            load_suite(whole)


def test_every_toml_names_an_entry_point_group_that_is_read():
    for block in [block for page in PAGES for block in blocks(page, "toml")]:
        for group in tomllib.loads(block)["project"]["entry-points"]:
            assert group in ("lora_bench.methods", "lora_bench.families")


def test_the_metric_of_the_page_counts_as_it_says(tmp_path, monkeypatch):
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", tmp_path / "cache")
    (script,) = blocks(ROOT / "docs" / "how-to" / "add-a-metric.md", "python")
    (tmp_path / "cost").mkdir()
    (tmp_path / "cost" / "cost.py").write_text(script, encoding="utf-8")
    # Of three answers one is right, one misses a complaint (0) and one sees a complaint that is none.
    found = metric(f"hub:{tmp_path / 'cost'}").compute(predictions=[0, 1, 0], references=[0, 0, 1])
    assert found["cost"] == -(5 + 1) / 3


def test_the_first_page_links_to_every_page_for_readers():
    page = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    pages = {name_of(path).removeprefix("docs/") for path in PAGES if path.parent != ROOT} - {"index.md"}
    assert pages <= set(re.findall(r"\]\(([^)#]*)\)", page))
