"""The page says what the records say, in tables that hold together, whatever strings the records have."""

import re

import pytest

from lora_bench.errors import LoraBenchError
from lora_bench.protocol import PROTOCOLS
from lora_bench.report.markdown import render_markdown
from tests.records import BUDGET, ENVIRONMENT, record, sample_suite
from tests.report.hostile import hostile_records


def render(records) -> str:
    return render_markdown(records, "report")


def tables(page: str) -> list[list[list[str]]]:
    """Every table of a page as lines of cells; a cell ends at a pipe that no backslash precedes."""
    found: list[list[list[str]]] = [[]]
    for line in page.splitlines():
        if line.startswith("|"):
            found[-1].append([cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]])
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


def score_lines(page: str) -> list[list[str]]:
    """The lines of the tables of scores, without their column of verdicts."""
    found = []
    for table in tables(page):
        column = 5 if len(table[0]) > 5 and table[0][5].startswith("against") else None
        lines = [[cell for place, cell in enumerate(line) if place != column] for line in table]
        found += lines if len(lines[0]) == 13 else []
    return found


def line_of(page: str, start: str) -> list[str]:
    return next(line for line in score_lines(page) if line[0] == start)


def test_title_and_introduction():
    page = render(sample_suite(seeds=2))
    assert page.startswith(
        "# quickstart\n\n4 methods (`bottleneck_adapter`, `lora` and `prefix_tuning`, with `full` as"
    )
    assert "Of 24 runs, 21 ended `ok`, 1 `diverged` and 2 `unsupported`." in page
    assert "No verdicts are drawn" not in page
    assert "With 1 to 2 seeds a method these verdicts are exploratory" in page


def test_a_line_of_the_comparison_table():
    page = render([record("lora", seed=seed, score=score) for seed, score in enumerate([0.70, 0.72, 0.77])])
    assert line_of(page, "`lora`") == [
        "`lora`", "rank 4", "0.7300 ± 0.0361", "0.6404 to 0.8196", "3", "+0.2300", "300", "50.0", "320",
        "7,680", "156,680", "156,680", "149,000",
    ]  # fmt: skip


def test_a_target_for_stored_parameters_is_named_and_held_against_what_is_stored():
    held = BUDGET.model_copy(update={"adapter_parameters": None, "stored_parameters": 150_000})
    page = render([record("full", budget=held), record("lora", budget=held)])
    assert ["target for stored parameters", "150,000 ± 5 %"] in [line for table in tables(page) for line in table]
    assert "target for adapter parameters" not in page and "the target for stored parameters" in page
    (line,) = (line for table in tables(page) for line in table if "of the target" in table[0] and line[1] == "`lora`")
    # 156,680 of 150,000, head included.
    assert line[4:] == ["7,680", "156,680", "104.5 %"]


def test_the_highest_mean_is_a_fact_with_its_interval():
    scores = {"full": [0.90, 0.91, 0.92], "lora": [0.895, 0.905, 0.915], "prefix_tuning": [0.5, 0.51, 0.52]}
    records = [record(method, seed=seed, score=score) for method in scores for seed, score in enumerate(scores[method])]
    page = render(records)
    assert "the highest mean is that of `full`, 0.9100 (95 % interval 0.8852 to 0.9348, 3 seeds)." in page
    assert "The interval of `lora` overlaps it. The interval of `prefix_tuning` does not reach it." in page
    for word in ("winner", "better in", "best method", "outperform"):
        assert word not in page


def test_verdicts_stand_in_the_table_of_scores():
    scores = {"full": (0.80, 0.81, 0.79), "lora": (0.83, 0.84, 0.83)}
    records = [record(method, seed=seed, score=score) for method in scores for seed, score in enumerate(scores[method])]
    page = render(records)
    header, _, full, lora = next(table for table in tables(page) if "against `full`" in table[0])
    place = header.index("against `full`")
    assert (full[place], lora[place]) == ("–", "**better** by more than the margin")
    assert page.index("## The answer") < page.index("## Budget") < page.index("## Scores") < page.index("## Verdicts")


def test_a_lower_score_can_be_the_first():
    records = [record("full", score=0.3, higher_is_better=False), record("lora", score=0.2, higher_is_better=False)]
    assert "the lowest mean is that of `lora`, 0.2000 (1 seed, so no interval)." in render(records)


def test_a_protocol_of_medians_is_shown_and_compared_by_medians():
    paper = {"protocol": "paper", "rules": PROTOCOLS["paper"]}
    scores = {"lora": (0.80, 0.81, 0.70), "full": (0.79, 0.79, 0.79)}
    page = render(
        [
            record(method, seed=seed, score=score, spec=paper)
            for method, of_seeds in scores.items()
            for seed, score in enumerate(of_seeds)
        ]
    )
    (lora,) = [line for table in tables(page) for line in table if line[0] == "`lora`" and len(line) == 14]
    # 2.31 / 3; the mean of full is higher, its median is not
    assert lora[2:4] == ["0.8000", "0.7700 ± 0.0608"]
    assert "- MiniLM-L6 in the RoBERTa class: the highest median is that of `lora`, 0.8000 (3 seeds)." in page
    assert "- *median*:" in page


def test_results_come_before_the_search_that_chose_their_learning_rates():
    trials = [record(seed=100, learning_rate=rate, spec={"score_on": "selection"}) for rate in (1e-3, 3e-3)]
    page = render([*trials, record(seed=0)])
    first, second = re.findall(r"^### `vader_film` \(setting \d\)\n\n.*score_on` is `(\w+)`", page, flags=re.MULTILINE)
    assert (first, second) == ("test", "selection")
    assert page.index("#### MiniLM-L6") < page.index("#### Learning rates")


def test_failures_are_rows_and_a_section():
    page = render(sample_suite())
    unsupported = [line for line in score_lines(page) if line[0] == "`prefix_tuning`"]
    assert any(line[2].startswith("`unsupported` (seeds 0, 1): prefixes have no position") for line in unsupported)
    partly = [line for line in score_lines(page) if line[0] == "`lora`"]
    assert [line[4] for line in partly if "of" in line[4]] == ["1 of 2"]
    assert any(line[2] == "`diverged` (seed 1): the loss was nan at step 37" for line in partly)
    assert "## Failures" in page


def test_no_failures_section_without_failures():
    assert "## Failures" not in render([record()])


def test_the_reference_is_marked_and_exempt():
    page = render([record("full"), record("lora")])
    assert line_of(page, "`full`†")[1] == "–"
    assert "| exempt† |" in page
    assert "† The reference line" in page


def test_other_settings_are_named_and_kept_apart():
    page = render([record("full"), record("lora", training={"batch_size": 32})])
    assert "Not to be ranked against the other settings of this task. Here `training.batch_size` is `16`." in page
    assert "Here `training.batch_size` is `32`." in page
    for table in tables(page):
        if len(table[0]) == 13:
            assert len(table) == 3  # the header, the rule and one row


def test_a_search_has_a_column_a_learning_rate_with_the_best_marked():
    scores = {1e-4: 0.6, 3e-4: 0.7, 1e-3: 0.65}
    records = [
        record(learning_rate=rate, score=score, spec={"score_on": "selection"}) for rate, score in scores.items()
    ]
    page = render(records)
    assert "| base model | method | 1e-4 | 3e-4 | 1e-3 |" in page
    assert "| 0.6000 (n 1) | **0.7000** (n 1) | 0.6500 (n 1) |" in page
    assert "this is a search" in page
    assert "highest mean" not in page
    assert "may lie outside" not in page


def test_a_best_learning_rate_at_the_edge_is_pointed_out():
    page = render([record(learning_rate=rate, score=500 * rate) for rate in (1e-4, 3e-4, 1e-3)])
    assert "1e-3 is the largest tried." in page


def test_numbers_that_were_not_measured_alone_are_marked():
    page = render([record("full"), record("lora", exclusive=False)])
    assert line_of(page, "`lora`")[6:9] == ["300‡", "50.0‡", "320‡"]
    assert line_of(page, "`full`†")[6:9] == ["300", "50.0", "320"]
    assert "1 of 2 rows, marked ‡" in page


def test_rows_from_several_environments_are_named():
    other = ENVIRONMENT.model_copy(update={"device": "NVIDIA H100"})
    page = render([record("full"), record("lora", seed=0), record("lora", seed=1, environment=other)])
    assert "Ran some runs of `lora` (MiniLM-L6 in the RoBERTa class, `vader_film`)." in page
    assert line_of(page, "`lora`")[6] == "300§"


def test_warnings_stand_once_with_their_count():
    page = render([record(seed=seed, warnings=("3% were cut",)) for seed in range(4)])
    assert page.count("3% were cut") == 1
    assert "- 3% were cut (4 runs)" in page


def test_every_run_id_is_on_the_page_and_no_date():
    records = sample_suite()
    page = render(records)
    assert all(f"`{one.run_id}`" in page for one in records)
    assert "2026" not in page


def test_the_command_that_makes_it_again():
    assert "```sh\nlora-bench run quickstart\n```" in render([record()])


@pytest.mark.parametrize("records", [sample_suite(), hostile_records()], ids=["sample", "hostile"])
def test_every_row_of_a_table_has_the_same_number_of_cells(records):
    found = tables(render(records))
    assert len(found) >= 5
    for table in found:
        assert len({len(line) for line in table}) == 1


def test_a_report_of_nothing_is_refused():
    with pytest.raises(LoraBenchError, match="no records"):
        render([])
