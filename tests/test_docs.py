"""The README says what is there, and what it says works."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import lora_bench
from lora_bench.execute.run_suite import run_suite
from lora_bench.records.budget import HeldEqual, fit_size
from lora_bench.util.paths import suite_files, task_files
from tests.project import write_data, write_model

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(language: str, page: Path = ROOT / "README.md") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_every_command_and_suite_is_named():
    docs = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for name in [*suite_files(), "run", "plan", "work", "report", "list", "schema"]:
        named = (f"`{name}`", f"lora-bench {name}", f"lora-bench run {name}", f"lora-bench probe {name}`")
        linked = re.search(rf"\]\((?:\.\./)+reports/{name}\.md\)", docs)
        assert linked or any(words in README for words in named), (
            f"neither README nor a link to its report names {name}"
        )


def test_the_first_own_suite_tunes_every_method_and_runs_on_a_users_own_file_and_model(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    (example,) = blocks("yaml")
    rates = [entry["learning_rate"] for entry in yaml.safe_load(example)["methods"]]
    assert [len(each) for each in rates] == [3, 3, 3, 3]
    # Its budget is for base models; the rest is as it stands.
    here = example.replace("[minilm-l6-roberta]", "[base]").replace("300_000", "2_304").replace("960", "64")
    (tmp_path / "tickets.yaml").write_text(here)
    write_model(tmp_path / "base")
    write_data(tmp_path / "tickets.csv")
    outcome = run_suite(tmp_path / "tickets.yaml", runs=tmp_path / "runs", workers=0)
    # Of four methods: three trials with two seeds, one more rate where the best is at an edge, and the best with four seeds.
    extended = sum(record.extended for record in outcome.records)
    assert extended in range(0, 9, 2)
    assert [record.status for record in outcome.records] == ["ok"] * (4 * (3 * 2 + 4) + extended)


@pytest.mark.parametrize("page", ["README.md", "docs/probes.md"])
@pytest.mark.parametrize(("layers", "width"), [(6, 384), (12, 768)], ids=["minilm-l6", "roberta-base and gpt2"])
def test_every_method_of_an_example_meets_its_budget(page, layers, width):
    (target,) = re.findall(r"^budget: {adapter_parameters: ([\d_]+)", (ROOT / page).read_text(encoding="utf-8"), re.M)
    # By the formulas of docs/methods.md: matrices of queries and values, two adapters in each layer, keys and values.
    counts = {
        "lora": lambda rank: 4 * layers * width * rank,
        "bottleneck_adapter": lambda size: 2 * layers * (2 * width * size + size + width),
        "prefix_tuning": lambda tokens: 2 * layers * width * tokens,
    }
    for count in counts.values():
        fit_size(count, int(target), HeldEqual.model_fields["tolerance"].default)


def test_python_examples_use_names_that_exist():
    examples = [example for page in PAGES for example in blocks("python", page)]
    assert len(examples) >= 8
    for example in examples:
        for node in ast.walk(ast.parse(example)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lora_bench"):
                module = __import__(node.module, fromlist=["_"])
                assert all(hasattr(module, alias.name) for alias in node.names)


def test_the_plug_in_of_the_page_is_the_one_that_is_tested():
    shown = blocks("python", ROOT / "docs" / "how-to" / "add-a-method.md")
    for module in ("vera_plug_in", "diag_tuner"):
        assert (ROOT / "tests" / "methods" / "plug_in" / f"{module}.py").read_text(encoding="utf-8") in shown


def test_the_cards_of_the_methods_are_those_of_the_modules():
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "methods", "--check"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def anchors(page: Path) -> set[str]:
    """The names that links to a page's headings have on GitHub."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_every_link_leads_to_a_file_and_to_a_heading_in_it():
    for page in sorted({*PAGES, *ROOT.glob("*.md"), *(ROOT / "reports").glob("*.md")}):
        for target, heading in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text(encoding="utf-8")):
            # A link from the root of the repository is one there for a forge and for the site.
            file = (ROOT / target[1:] if target.startswith("/") else page.parent / target) if target else page
            assert file.exists(), f"{page.name} links to {target}"
            assert not heading or heading in anchors(file), f"{page.name} links to {target}#{heading}"


def test_the_readme_is_short():
    assert len(README.split()) <= 1600


@pytest.mark.parametrize("file", sorted([*task_files().values()]), ids=lambda file: file.stem)
def test_every_task_says_its_licence_and_whom_to_cite(file):
    data = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert data["licence"] and data["citation"] and data["about"]


def test_public_names_can_be_had():
    for name in lora_bench.__all__:
        assert getattr(lora_bench, name) is not None
