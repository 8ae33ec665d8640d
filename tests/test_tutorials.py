"""Tutorials and how-to pages work as they are written, line by line; only time and base model are smaller."""

import shutil
from pathlib import Path

import pytest

from lora_bench.cli import main
from lora_bench.plan.fit_minutes import Design
from tests.project import names_a_method, write_data, write_model
from tests.test_pages import commands

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with a table, a tiny model, and what the first tutorial leaves."""
    folder = tmp_path_factory.mktemp("reader")
    write_model(folder / "base")
    write_data(folder / "tickets.csv", rows=600)
    write_data(folder / "new.csv", rows=10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORA_BENCH_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        patch.setattr("lora_bench.plan.fit_minutes.DESIGNS", (Design(seeds=2, rates=1, epochs=3),))
        suite = folder / "tickets.yaml"
        for words in commands(DOCS / "tutorials" / "first-decision.md"):
            if words[0] == "try":
                words = [*("600" if word == "10" else word for word in words), "--model", "base"]
            elif "--seeds" in words:
                words = [*words[:-1], "3"]
            assert main(words) == 0, words
            if "--dry-run" in words:
                # All weights of a model as small as this one learn at a larger rate than those of a pretrained one.
                text = suite.read_text(encoding="utf-8")
                suite.write_text(
                    text.replace("full, learning_rate: 5e-5", "full, learning_rate: 3e-3"), encoding="utf-8"
                )
        (folder / "new.predicted.csv").unlink()
        yield folder


@pytest.mark.slow
def test_the_first_tutorial_ends_with_weights_of_a_winner(project, capsys):
    capsys.readouterr()
    assert main(["use", "runs/tickets", "full"]) == 0
    assert "from_pretrained('runs/tickets/" in capsys.readouterr().out
    assert (project / "runs" / "tickets" / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("page", ["use-the-winner", "read-a-report", "add-a-task"])
def test_a_how_to_page_works_on_what_the_tutorial_leaves(project, page):
    shutil.copytree(project / "runs" / "tickets", project / "runs" / "tickets-2", dirs_exist_ok=True)
    for words in commands(DOCS / "how-to" / f"{page}.md"):
        asks = words[0] == "choose" or words == ["use", "runs/tickets"]
        assert main(words) == (names_a_method() if asks else 0), words


def test_a_published_table_is_listed_and_planned_without_its_data(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    lines = commands(DOCS / "tutorials" / "published-table.md")
    planned = [words for words in lines if words[0] == "published" or "--plan" in words]
    assert len(planned) == 3
    for words in planned:
        assert main(words) == 0, words
    assert "lora-table2" in capsys.readouterr().out
