"""The page and the section of an analysis of weights: numbers by hand, heat maps, and what is left out."""

import pytest

from lora_bench.records.analysis import Analysis
from lora_bench.records.weight_analysis import (
    ModelChanges,
    Overlap,
    RunChanges,
    WeightAnalysis,
    WeightChange,
    accept_analysis,
    read_analysis,
    write_analysis,
)
from lora_bench.report import Report, check_report, render_files, write_report
from lora_bench.report.blocks import to_markdown
from lora_bench.report.sections.weight_changes import weight_section
from tests.sample_records import record, sample_suite


def change(layer, part, **more):
    """A weight of norm 60, 30 by 20, and a change of norm 6 in 4 directions along which it has 0.3."""
    return WeightChange(
        **{
            "layer": layer, "part": part, "shape": (30, 20), "weight_norm": 60.0, "delta_norm": 6.0,
            "delta_spectral_norm": 3.0, "directions": 4, "along_delta": 0.3, "along_weight": 20.0,
            "similarities": (0.95, 0.9, 0.4, 0.2), **more,
        }
    )  # fmt: skip


def analysis(run_ids=("aaaa", "bbbb"), group="lora, rank 4"):
    overlap = Overlap(
        first=group, second=group, seeds="different", part="query", of="A", pairs=1, width=20, rows=(1, 2, 4),
        columns=(1, 2, 4), similarity=((0.5, 0.6, 0.7), (0.6, 0.4, 0.5), (0.7, 0.5, 0.25)), by_layer=(0.25, 0.25),
    )  # fmt: skip
    changes = (change(0, "query"), change(1, "query"), change(0, "feed_forward_out"))
    runs = tuple(RunChanges(run_id=one, group=group, seed=seed, changes=changes) for seed, one in enumerate(run_ids))
    model = ModelChanges(task="tickets", model="MiniLM", runs=runs, overlaps=(overlap,))
    return WeightAnalysis(suites=("quickstart",), models=(model,), left_out={"bitfit": "it changes no weight matrix"})


def test_the_numbers_of_a_table():
    lines = to_markdown(weight_section(analysis(), "report", ("aaaa", "bbbb"))).splitlines()
    rows = [line for line in lines if line.startswith("| `lora, rank 4` | query |") or "rank 4 | query" in line]
    # Stable rank (6 / 3)² = 4; random 60 × 4 / √600 = 9.80; amplification 6 / 0.3 = 20, of random directions 6 / 9.80 = 0.612.
    assert rows[0].endswith("| query | 2 | 4 | 60 | 6 | 10 % | 4 |")
    assert rows[1].endswith("| query | 0.3 | 20 | 9.8 | 20 | 0.612 |")
    (intruders,) = (line for line in lines if line.endswith("| 0.20 |"))
    # Six weights of four vectors: two of each below 0.5 and 0.7, one below 0.3.
    assert intruders.endswith("| 6 | 24 | 12 | 6 | 12 | 0.20 |")
    (overlap,) = (line for line in lines if "| different |" in line)
    assert overlap.endswith("| different | query | A | 0.500 | 0.050 | 0.700 | 0.200 | 0.250 | 0.200 |")
    assert any("`bitfit` (it changes no weight matrix)" in line for line in lines)


def test_a_report_has_the_section_where_the_analysis_was_kept(tmp_path):
    records = sample_suite()
    kept = analysis(tuple(sorted(record.run_id for record in records)[:2]))
    write_analysis(kept, tmp_path)
    assert read_analysis(tmp_path) == kept
    write_report(Report(records, analysis=kept), tmp_path)
    assert "## Weight changes" in (tmp_path / "report.md").read_text()
    assert {path.name for path in (tmp_path / "report").glob("weights*")} == {
        "weights-1-norms.svg",
        "weights-1-overlap-1.svg",
    }
    drawn = (tmp_path / "report" / "weights-1-overlap-1.svg").read_text()
    assert ">.25<" in drawn and ">random<" in drawn
    assert check_report(Report(records, analysis=read_analysis(tmp_path)), tmp_path) == []
    assert any("weights-1-norms.svg is not part" in line for line in check_report(Report(records), tmp_path))


def test_what_happened_to_weights_is_the_answer_where_scores_decide_nothing():
    of_delta = analysis().models[0].overlaps[0].model_copy(update={"of": "delta"})
    model = analysis().models[0].model_copy(update={"overlaps": (*analysis().models[0].overlaps, of_delta)})
    kept = analysis().model_copy(update={"models": (model,)})
    said = (
        "lora, rank 4 changed weights by 10 % of their norm. Runs of different seeds share 0.500 of the first direction of ΔW "
        "and 0.250 of all (random ones: 0.050 and 0.200)."
    )
    undecided = render_files(Report(sample_suite(), analysis=kept))["report.md"].decode()
    assert "Strength: **undecided**" in undecided
    assert undecided.split("\n\n")[1] == f"**{said}**" and undecided.count(said) == 1
    rules = Analysis(reference="full", margin=0.01)
    decided = [
        record(method, seed=seed, score=score + (seed if method == "lora" else 0) / 1000, changes={"analysis": rules})
        for method, score in (("full", 0.8), ("lora", 0.7)) for seed in range(10)
    ]  # fmt: skip
    page = render_files(Report(decided, analysis=kept))["report.md"].decode()
    assert "Strength: **recommendation**" in page and page.count(said) == 1


def test_runs_that_the_report_lacks_are_said():
    page = render_files(Report(sample_suite(), analysis=analysis()))["report.md"].decode()
    assert "2 runs of these are not among the report's records." in page


def test_a_baseline_takes_the_analysis_and_loses_an_old_one(tmp_path):
    runs, baseline = tmp_path / "runs", tmp_path / "baseline"
    write_analysis(analysis(), runs)
    assert accept_analysis(runs, baseline) == baseline / "analysis.json"
    assert read_analysis(baseline) == analysis()
    (runs / "analysis.json").unlink()
    assert accept_analysis(runs, baseline) is None and not (baseline / "analysis.json").exists()


@pytest.mark.parametrize("name", ["<script>", "a|b", "[x](http://y)"])
def test_names_of_records_stay_text(name):
    page = to_markdown(weight_section(analysis(group=name), "report", ()))
    assert "<script>" not in page and "](http://" not in page
