"""Results of PEFT's method_comparison over time: each run once, at the date of its publication, and a page with right sums."""

import json
import math
import os
import subprocess
from pathlib import Path

import pytest

from lora_bench.cli import main
from lora_bench.errors import LoraBenchError
from lora_bench.exchange.peft_results import import_results
from lora_bench.exchange.peft_results.history_page import (
    Configuration,
    common_dates,
    configurations,
    history_page,
    standard_error,
)
from lora_bench.records.store import read_records
from lora_bench.report import compare
from lora_bench.report.blocks import to_markdown
from tests.exchange.test_peft_results import LORA, changed, full

FOLDER = Path("method_comparison") / "MetaMathQA" / "results"
PAGE = Path(__file__).parents[2] / "reports" / "peft-history.md"


def scored(data, accuracy, created_at, card="Some GPU"):
    """A result with another score and start."""
    metrics = [*data["train_info"]["metrics"][:2], {**data["train_info"]["metrics"][2], "test accuracy": accuracy}]
    made = changed(data, run_info={"created_at": created_at}, train_info={"metrics": metrics})
    made["meta_info"]["system_info"]["accelerator"] = card
    return made


def named(label, accuracy, created_at):
    made = scored(LORA, accuracy, created_at)
    made["run_info"]["experiment_name"] = label
    made["run_info"]["peft_config"] = {**made["run_info"]["peft_config"], "peft_type": "IA3"}
    return made


class Repository:
    """A repository of result files; nothing of the machine's git settings enters."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        self.git("init", "--quiet")

    def git(self, *arguments, date="2025-06-24T12:00:00+00:00"):
        env = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
        env |= {"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
        author = ("-c", "user.name=x", "-c", "user.email=x@example.org")
        subprocess.run(["git", *author, "-C", str(self.folder), *arguments], check=True, env=env)

    def commit(self, day, **results):
        for name, data in results.items():
            path = self.folder / FOLDER / f"{name}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(data if isinstance(data, str) else json.dumps(data))
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "results", date=f"{day}T12:00:00+00:00")


@pytest.fixture
def repository(tmp_path):
    """LoRA and full fine-tuning at two dates; the card was added to the first results later, and one file is gone."""
    made = Repository(tmp_path / "peft")
    one, two = scored(LORA, 0.48, "2025-06-19", card=None), scored(full(), 0.50, "2025-06-20", card=None)
    made.commit("2025-06-24", lora=one, full=two, gone=named("ia3/tiny", 0.25, "2025-06-21"))
    made.commit("2025-07-22", lora=scored(LORA, 0.48, "2025-06-19"), full=scored(full(), 0.50, "2025-06-20"))
    (made.folder / FOLDER / "gone.json").unlink()
    made.commit("2026-07-20", lora=scored(LORA, 0.478, "2026-07-15"), full=scored(full(), 0.472, "2026-07-14"))
    return made


def found(records):
    return sorted(
        (record.spec.method.label, record.spec.series, record.score, record.environment.device) for record in records
    )


def test_each_run_of_the_git_history_is_one_record_at_the_date_of_its_publication(repository, tmp_path):
    imported = import_results(repository.folder / "method_comparison", tmp_path / "runs", history=True)
    assert found(imported.records) == [
        ("full-finetuning/tiny", "2025-06-24", 0.50, "Some GPU"),
        ("full-finetuning/tiny", "2026-07-20", 0.472, "Some GPU"),
        ("ia3/tiny", "2025-06-24", 0.25, "Some GPU"),
        ("lora/tiny-r4", "2025-06-24", 0.48, "Some GPU"),
        ("lora/tiny-r4", "2026-07-20", 0.478, "Some GPU"),
    ]
    assert (imported.files, imported.faults) == (7, [])
    assert {record.spec.task.name for record in imported.records} == {"MetaMathQA"}
    assert found(read_records(tmp_path / "runs")) == found(imported.records)


def test_dates_are_no_seeds_in_a_report(repository, tmp_path):
    imported = import_results(repository.folder / "method_comparison", tmp_path / "runs", history=True)
    settings = compare(imported.records).settings
    assert [setting.differs["series"] for setting in settings] == ["2025-06-24", "2026-07-20"]
    assert {len(row.scores) for setting in settings for row in setting.rows} == {1}


def test_a_folder_outside_git_has_no_history(tmp_path):
    folder = tmp_path / "copy" / FOLDER
    folder.mkdir(parents=True)
    (folder / "a.json").write_text(json.dumps(scored(LORA, 0.48, "2025-06-19T19:15:35+00:00")))
    with pytest.raises(LoraBenchError, match="is in no git repository"):
        import_results(tmp_path / "copy" / "method_comparison", tmp_path / "runs", history=True)


def test_a_folder_without_results_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(LoraBenchError, match="has no result files"):
        import_results(tmp_path / "empty", tmp_path / "runs", history=True)
    with pytest.raises(LoraBenchError, match="is not a folder"):
        import_results(tmp_path / "absent", tmp_path / "runs", history=True)


def test_the_command_writes_the_page_and_names_versions_that_are_no_results(repository, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    repository.commit("2026-08-01", broken="{")
    assert main(["import", "peft-results", "peft/method_comparison", "--history"]) == 2
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "5 runs of 8 versions of result files are records in runs/peft-results",
        "runs/peft-results/history.md",
    ]
    assert "method_comparison/MetaMathQA/results/broken.json: is not a result file" in said.err
    page = (tmp_path / "runs" / "peft-results" / "history.md").read_text()
    assert "| 2025-06-24 | 50.0 ± 1.4 | 48.0 ± 1.4 | +2.0 | 2.9.0 |" in page
    # +2.0 and −0.6 points, of which one standard error is 1.9.
    assert "**The order of these two changes between dates, always by less than two standard errors:" in page
    assert str(tmp_path) not in page


# --- the page --------------------------------------------------------------------------------------------------------


@pytest.fixture
def page(tmp_path):
    """Three configurations at two dates. Full fine-tuning passes IA3 alone; both come to differ by less than 3.9 points."""
    made = Repository(tmp_path / "peft")
    made.commit(
        "2025-06-24",
        full=scored(full(), 0.50, "a"), lora=scored(LORA, 0.52, "a"), ia3=named("ia3/tiny", 0.49, "a"),
        other=scored(LORA, 0.1, "b", card="Another GPU"),
    )  # fmt: skip
    made.commit(
        "2026-07-20",
        full=scored(full(), 0.46, "c"), lora=scored(LORA, 0.50, "c"), ia3=named("ia3/tiny", 0.47, "c"),
    )  # fmt: skip
    return import_results(made.folder / "method_comparison", tmp_path / "runs", history=True).records


def test_the_standard_error_is_that_of_a_share():
    assert standard_error(50, 100) == 5.0
    assert standard_error(50, 1319) == pytest.approx(100 * math.sqrt(0.25 / 1319))


def test_the_page_counts_what_moved(page):
    lines = to_markdown(history_page(page)).splitlines()
    text = "\n".join(lines)
    assert (
        "`full-finetuning/tiny` against `lora/tiny-r4`: −2.0 points at 2025-06-24, −4.0 points at 2026-07-20." in text
    )
    assert "| 2026-07-20 | 46.0 ± 1.4 | 50.0 ± 1.4 | −4.0 | 2.9.0 | – | 0.19.1 |" in lines
    assert "changes between dates" not in text
    # √(1.37² + 1.38²)
    assert "- The standard error of a difference is 1.9 points" in text
    assert "### The 3 configurations with a result at each of these dates" in lines
    assert "- Of 3 pairs, 1 are in another order at one date than at another, 1 of them" in text
    # The scores fall by 4, 2 and 2 points: 2.67 on average, and a standard deviation of 1.15.
    assert "highest and lowest score differ by 2.0 points (median), and by up to 4.0." in text
    assert "the scores moved by −2.7 points on average, and apart from that by a standard deviation of 1.2." in text
    assert "| `lora/tiny-r4` | 52.0 | 50.0 | 1 | 1 |" in lines
    assert "| `full-finetuning/tiny` | 50.0 | 46.0 | 2 | 3 |" in lines
    assert lines[-1] == "Results left out: 1 with other settings or another card."


def test_dates_with_few_results_are_no_columns(page):
    kept = [Configuration(label, dict.fromkeys(("1", "2"), page[0])) for label in "abc"]
    kept += [Configuration("d", dict.fromkeys(("1", "2", "3"), page[0]))]
    kept += [Configuration(label, {"4": page[0]}) for label in "efgh"]  # with one result each
    assert common_dates(kept) == ["1", "2"]


def test_a_page_without_two_dates_says_so():
    assert (
        to_markdown(history_page([])).splitlines()[-1]
        == "No two dates have comparable results of the same configurations."
    )


def test_other_settings_are_not_compared(page):
    def altered(record):
        training = record.spec.training.model_copy(update={"learning_rate": 0.5})
        return record.model_copy(update={"spec": record.spec.model_copy(update={"training": training})})

    records = [altered(one) if one.spec.series == "2025-06-24" else one for one in page]
    kept, left_out = configurations(records)
    assert {tuple(one.by_date) for one in kept} == {("2026-07-20",)}
    assert left_out == {"with other settings or another card": 4}


def test_the_committed_page_has_the_three_dates():
    text = PAGE.read_text(encoding="utf-8")
    for row in ("| 2025-06-24 | 50.0 ± 1.4 | 48.2 ± 1.4 | +1.8 |", "| 2026-01-13 | 49.5 ± 1.4 | 49.1 ± 1.4 | +0.5 |"):
        assert row in text
    assert "| 2026-07-20 | 47.2 ± 1.4 | 47.8 ± 1.4 | −0.7 |" in text
