"""A report names the others on its data, and says how many runs each shares with it, from the records of both."""

from lora_bench.cli import main
from lora_bench.records.sealed_records import to_json
from lora_bench.report.blocks import to_markdown
from lora_bench.report.model.report import Report
from lora_bench.report.sections.other_reports import other_reports
from tests.report.sections.test_headline import BASE, runs, trials
from tests.sample_records import BUDGET, record


def line(mine, **others):
    """The paragraph of a report of some records beside others, by name."""
    models = {name.replace("_", "-"): Report(records) for name, records in others.items()}
    return to_markdown(other_reports(Report(mine, beside=models))).strip()


def untuned(seeds):
    """Runs at one given rate: lora at 1e-3."""
    return [
        record(method, seed=seed, score=BASE[seed] + by, budget=BUDGET, learning_rate=1e-3)
        for method, by in (("full", 0), ("lora", -0.05))
        for seed in range(seeds)
    ]


def test_a_report_says_how_many_of_its_runs_stand_in_another():
    assert (
        line(untuned(3), big_one=untuned(2)) == "**On the same data:** [`big-one`](big-one.md) (4 of the 6 runs here)."
    )
    assert line(untuned(2), second=untuned(3)).endswith(" (4 of the 4 runs here).")


def test_a_report_without_a_run_in_common_is_named_alone():
    search = trials("full", 1e-3) + trials("lora", 3e-3)
    assert line(untuned(2), search=search) == "**On the same data:** [`search`](search.md)."


def test_many_others_are_folded_away():
    tuned = runs("full", 0) + runs("lora", -0.05)
    few, many = (line(untuned(2), **dict.fromkeys("abcd"[:number], tuned)) for number in (3, 4))
    assert few.startswith("**On the same data:** [`a`](a.md) (4 of the 4 runs here); ")
    assert many.startswith("<details><summary>4 other reports on the same data</summary>\n\n")
    assert f"{'; '.join(f'[`{name}`]({name}.md) (4 of the 4 runs here)' for name in 'abcd')}." in many


def test_a_report_on_other_data_is_not_named():
    other = [
        one.model_copy(
            update={
                "spec": one.spec.model_copy(update={"task": one.spec.task.model_copy(update={"data_sha256": "0" * 64})})
            }
        )
        for one in untuned(2)
    ]
    assert line(untuned(2), elsewhere=other) == ""
    assert line(untuned(2)) == ""


def test_pages_of_one_folder_link_to_each_other(tmp_path):
    for name, records in (("short", untuned(2)), ("long", untuned(4))):
        for one in records:
            (tmp_path / "runs" / name / one.run_id).mkdir(parents=True)
            (tmp_path / "runs" / name / one.run_id / "record.json").write_bytes(to_json(one))
    out = str(tmp_path / "out")
    assert main(["report", str(tmp_path / "runs"), "--out", out]) == 0
    assert "[`long`](long.md) (4 of the 4 runs here)." in (tmp_path / "out" / "short.md").read_text()
    assert '<a href="short.html"><code>short</code></a>' in (tmp_path / "out" / "long.html").read_text()
    assert main(["report", str(tmp_path / "runs"), "--out", out, "--check"]) == 0
    # Beside its records each report is written alone, as `run` does it.
    assert main(["report", str(tmp_path / "runs")]) == 0
    assert "On the same data" not in (tmp_path / "runs" / "short" / "report.md").read_text()


def test_where_others_hold_a_part_of_the_data_that_is_said():
    both = [
        one for task in ("vader_film", "other") for one in runs("full", 0, task=task) + runs("lora", -0.05, task=task)
    ]
    one = runs("full", 0) + runs("lora", -0.05)
    assert line(both, one=one).startswith("**On some of the same data:** [`one`](one.md) (")
    assert line(one, both=both).startswith("**On the same data:** [`both`](both.md) (")
