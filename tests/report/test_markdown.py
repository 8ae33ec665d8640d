"""The page says what the records say, in tables that hold together, whatever strings the records have."""

import re

import pytest

from lora_bench.errors import LoraBenchError
from lora_bench.records.analysis import Analysis, UntilDecided
from lora_bench.records.protocol import PROTOCOLS
from lora_bench.records.record import Weights
from lora_bench.report import Report, render_markdown
from lora_bench.report.blocks import Heading, to_markdown
from lora_bench.report.probes.probe_section import probes_page
from tests.probe.records import sample_probes
from tests.report.hostile import hostile_records
from tests.sample_records import BUDGET, ENVIRONMENT, METHODS, PARAMETERS, record, sample_suite


def render(records) -> str:
    return render_markdown(Report(records))


def tables(page: str) -> list[list[list[str]]]:
    """Every table of a page as lines of cells; a cell ends at a pipe that no backslash precedes."""
    found: list[list[list[str]]] = [[]]
    for line in page.splitlines():
        if line.startswith("|"):
            found[-1].append([cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]])
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


def score_lines(page: str) -> list[dict[str, str]]:
    """The lines of the tables of scores with the costs below them, by column; `score` is that of the mean."""
    found: list[dict[str, str]] = []
    of_model: list[dict[str, str]] = []
    for header, _, *lines in tables(page):
        names = ["score" if name.endswith("mean ± SD") else name for name in header]
        if "less majority" in header:
            of_model = [dict(zip(names, line, strict=True)) for line in lines]
            found += of_model
        elif "step, ms" in header:
            for line in lines:
                for one in of_model:
                    one.update(zip(names, line, strict=True) if one["method"] == line[0] else ())
    return found


def line_of(page: str, start: str) -> dict[str, str]:
    return next(line for line in score_lines(page) if line["method"] == start)


def test_the_title_the_answer_and_what_was_run():
    page = render(sample_suite(seeds=2))
    assert page.startswith("# quickstart\n\n**Take `") and "\n\n**No learning rate was tuned in these runs:**" in page
    assert "\n\n## Verdicts\n\n`bottleneck_adapter`, `lora` and `prefix_tuning` were compared with" in page
    card = page.split("## Protocol and budget")[1].split("\n## ")[0]
    assert "Of 24 runs, 21 ended `ok`, 1 `diverged` and 2 `unsupported`. Scores are accuracy on the test split." in card
    assert "Strength: **undecided** (1 to 2 seeds, " in page


def test_scores_say_that_verdicts_decided_how_many_seeds_there_are():
    rules = Analysis(reference="full", seeds=UntilDecided(until="decided", at_least=3, at_most=4))
    pages = [
        render(
            [
                record(label, seed=seed, score=0.7 + 0.01 * seed, changes={"analysis": given})
                for label in ("full", "lora")
                for seed in range(3)
            ]
        )
        for given in (rules, Analysis(reference="full"))
    ]
    assert [page.count("Verdicts decided how many seeds a row has") for page in pages] == [1, 0]


def test_sections_are_in_the_order_in_which_a_reader_asks():
    other = ENVIRONMENT.model_copy(update={"device": "NVIDIA H100"})
    tasks = [
        record(method, seed=seed, score=0.7 + seed / 10 + index / 50, task=task, environment=environment)
        for task in ("vader_film", "other")
        for index, method in enumerate(("full", "lora"))
        for seed, environment in enumerate((ENVIRONMENT, ENVIRONMENT, other))
    ]
    trials = [record(seed=100, learning_rate=rate, spec={"score_on": "selection"}) for rate in (1e-3, 3e-3)]
    failed = [record(seed=7, status="failed", reason="no", warnings=("3% were cut",))]
    published = [Heading(2, "Published: a table"), "Nothing."]
    page = render_markdown(Report([*tasks, *trials, *failed], sections=[published]))
    assert re.findall(r"^## (.*)$", page, flags=re.MULTILINE) == [
        "Verdicts", "Scores", "Figures", "Task by task", "Tuning", "Costs", "Published: a table", "Failures", "Warnings",
        "Protocol and budget", "Environment", "Make it again", "Where the numbers come from",
    ]  # fmt: skip


def test_a_command_that_reads_a_folder_says_what_is_in_it():
    plain, of_folder = (
        render([record("lora", changes={"command": f"lora-bench run mine{option} --only 0"})])
        for option in ("", " --data-dir data")
    )
    assert "lora-bench run mine" in plain and "holds the files of the data sets" not in plain
    assert "[names of its folders](/docs/tasks.md#the-tasks)" in of_folder


def test_a_line_of_the_comparison_table():
    page = render([record("lora", seed=seed, score=score) for seed, score in enumerate([0.70, 0.72, 0.77])])
    assert line_of(page, "`lora`") == {
        "method": "`lora`", "score": "0.7300 ± 0.0361", "95 % interval": "0.6404 to 0.8196", "n": "3",
        "less majority": "+0.2300", "peak memory, MiB (resident)": "300", "step, ms": "50.0", "examples/s": "320",
        "failed": "0",
    }  # fmt: skip
    sizes = next(line for table in tables(page) for line in table if len(line) > 2 and line[2] == "rank 4")
    assert sizes[3:7] == ["1e-3", "7,680", "156,680", "156,680"], "learning rates, adapter, trained and stored"


def test_verdicts_ranks_trials_and_checkpoints_are_columns_where_there_are_any():
    kept = {"weights": Weights(folder=None, stored_bytes=3 * 2**20, step=200)}
    records = [
        record(method, seed=seed, score=score + seed * step, changes=kept)
        for method, score, step in (("full", 0.7, 0.01), ("lora", 0.8, 0.015))
        for seed in range(4)
    ]
    trials = [record(seed=100, learning_rate=rate, spec={"score_on": "selection"}) for rate in (1e-3, 3e-3)]
    page = render([*records, *trials])
    lora, full = line_of(page, "`lora`"), line_of(page, "`full`†")
    # Two trials of 200 steps of .05 s.
    assert (lora["tuning, s"], lora["checkpoint, MiB"], lora["ranks"]) == ("20.0", "3.0", "1 (a)")
    assert (full["tuning, s"], full["against `full`"]) == ("–", "–")
    assert lora["against `full`"].startswith("**better** by more than the margin")
    for name in ("ranks", "tuning", "checkpoint"):
        assert f"\n- *{name}*: " in page
    assert "Two methods share a letter if no difference between them is shown." in page


def test_further_metrics_stand_beside_the_one_that_is_judged_as_means():
    records = [
        record(method, seed=seed, score=0.7 + seed / 100, metric="pearson", changes={"scores": scores})
        for method, off in (("full", 0.4), ("lora", 0.5))
        for seed, scores in enumerate([{"pearson": 0.7, "mae": off}, {"pearson": 0.71, "mae": off + 0.1}])
    ]
    further = render(records).split("<summary>Further metrics, means</summary>")[1].split("</details>")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in further.split("\n") if line.startswith("| ")
    ]
    assert rows[0] == ["method", "mae (lower is better)"]
    assert [row for row in rows[2:]] == [["`full`†", "0.4500"], ["`lora`", "0.5500"]]
    assert "Further metrics" not in render([record("full"), record("lora")])


def test_a_target_for_stored_parameters_is_named_and_held_against_what_is_stored():
    held = BUDGET.model_copy(update={"adapter_parameters": None, "stored_parameters": 150_000})
    page = render([record("full", budget=held), record("lora", budget=held)])
    assert ["target for stored parameters", "150,000 ± 5 %"] in [line for table in tables(page) for line in table]
    assert "target for adapter parameters" not in page and "the target for stored parameters" in page
    (line,) = (line for table in tables(page) for line in table if "of the target" in table[0] and line[1] == "`lora`")
    # 156,680 of 150,000, head included.
    assert line[3:] == ["1e-3", "7,680", "156,680", "156,680", "104.5 %"]


def test_verdicts_stand_in_the_table_of_scores():
    scores = {"full": (0.80, 0.81, 0.79, 0.80), "lora": (0.83, 0.84, 0.83, 0.83)}
    records = [record(method, seed=seed, score=score) for method in scores for seed, score in enumerate(scores[method])]
    page = render(records)
    full, lora = score_lines(page)
    # .0325 − 3.182 × .0025 of room, and a collapse costs .8325 − .5.
    assert (full["against `full`"], lora["against `full`"]) == (
        "–",
        "**better** by more than the margin unless it collapses in over 7.3 % of runs (53 % excluded), at these rates",
    )
    assert (full["ranks"], lora["ranks"]) == ("2 (b)", "1 (a)")


# Several tasks.


def of_two_tasks():
    """Full and lora on two tasks: on one lora is better by .03 at each of four seeds, give or take .001, on the other not."""
    return [
        record(method, seed=seed, score=round(base + by[seed] + 0.01 * (seed % 2), 4), task=task, metric=metric)
        for task, metric, base in (("vader_film", "accuracy", 0.8), ("other", "f1", 0.6))
        for method in ("full", "lora")
        for by in [
            (0, 0, 0, 0) if method == "full" else (0.03, 0.031, 0.029, 0.03) if task == "vader_film" else (0.1, -0.1, 0.1, -0.1)
        ]
        for seed in range(4)
    ]  # fmt: skip


def test_several_tasks_have_a_table_over_them_and_one_of_each_method_on_each_task():
    page = render(of_two_tasks())
    parts = tables(page.split("### Over tasks")[1].split("\n## ")[0])
    assert [part[0][0] for part in parts] == ["method"] * 3 and max(len(part[0]) for part in parts) <= 8
    lines = [{name: cell for part in parts for name, cell in zip(part[0], part[row], strict=True)} for row in (2, 3)]
    # Means over tasks: (.805 + .605) / 2 and (.835 + .605) / 2.
    assert [(line["method"], line["mean"], line["seeds"]) for line in lines] == [
        ("`full`†", "0.7050", "4"), ("`lora`", "0.7200", "4"),
    ]  # fmt: skip
    assert lines[1]["tasks: better / worse / neither"] == "1 / 0 / 1"
    assert (lines[1]["difference"], lines[1]["failed"]) == ("+0.0150", "0 of 8")
    assert "The tasks have 2 metrics, whose points are not worth the same." in page
    # The largest of the peaks; 8 runs of 200 steps of .05 s.
    assert (lines[1]["peak memory, MiB"], lines[1]["training, s"]) == ("300", "80.0")
    matrix = next(table for table in tables(page) if table[0][:2] == ["method", "`other`, f1"])
    assert matrix[0][2] == "`vader_film`, accuracy"
    full, lora = matrix[2:]
    # Nothing is told apart on the first task; on the second lora is better.
    assert not full[1].startswith("**") and not lora[1].startswith("**")
    assert full[2].startswith("0.8050 (") and lora[2].startswith("**0.8350** (")
    assert page.index("## Verdicts") < page.index("### Over tasks") < page.index("## Task by task")
    by_task = page[page.index("## Task by task") :]
    assert by_task.index("### `other`") < by_task.index("### `vader_film`")
    figures = page[page.index("## Figures") : page.index("## Task by task")]
    assert figures.index("### `other`") < figures.index("<details>") < figures.index("![") < figures.index("</details>")
    assert figures.count("<details>") == 2


def test_one_task_has_its_table_among_the_scores_and_nothing_over_tasks():
    page = render(sample_suite())
    assert "### Over tasks" not in page and "## Task by task" not in page and "### Scores by task" not in page
    assert page.index("## Scores") < page.index("### `vader_film`") < page.index("## Figures")


def test_tasks_without_verdicts_are_in_one_table_all_the_same():
    records = [one for one in of_two_tasks() if one.spec.method.label == "lora"]
    page = render(records)
    assert page.index("## Scores") < page.index("### Scores by task") < page.index("### `other`")
    assert "In bold" not in page


def test_a_protocol_of_medians_is_shown_with_medians():
    paper = {"protocol": "paper", "rules": PROTOCOLS["paper"]}
    scores = {"lora": (0.80, 0.81, 0.70), "full": (0.79, 0.79, 0.79)}
    page = render(
        [
            record(method, seed=seed, score=score, spec=paper)
            for method, of_seeds in scores.items()
            for seed, score in enumerate(of_seeds)
        ]
    )
    lora = line_of(page, "`lora`")
    # 2.31 / 3
    assert (lora["median"], lora["score"]) == ("0.8000", "0.7700 ± 0.0608")
    assert "- *median*:" in page


def test_what_all_runs_took_is_said_of_one_run_too():
    assert " The run took 10.0 s of training and 2.50 s of evaluation." in render([record()])
    assert " All 2 runs took 20.0 s of training and 5.00 s of evaluation." in render([record(), record(seed=1)])


def sizes_in(page: str) -> list[dict[str, str]]:
    """Return the lines of the one table of sizes."""
    ((header, _, *lines),) = (table for table in tables(page) if "learning rates" in table[0])
    return [dict(zip(header, line, strict=True)) for line in lines]


def test_learning_rates_stand_beside_the_size_in_one_line_whatever_the_heads_of_the_tasks():
    wide = METHODS["lora"].model_copy(update={"options": {"rank": 8}, "chosen": {"rank": 8}})
    larger = PARAMETERS["lora"].model_copy(update={"head": 149_385, "trained": 157_065, "stored": 157_065})
    page = render(
        [
            record(learning_rate=5e-4),
            record(learning_rate=2e-3, task="film_b", parameters=larger),
            record(wide, learning_rate=1e-2, task="film_b", parameters=larger),
        ]
    )
    found = [(line["size"], line["learning rates"], line["trained"], line["stored"]) for line in sizes_in(page)]
    both = "156,680 to 157,065"
    assert found == [("rank 4", "5e-4, 2e-3", both, both), ("rank 8", "1e-2", "157,065", "157,065")]


def test_trials_have_a_section_of_their_own_and_lines_in_the_budget():
    trials = [record(seed=100, learning_rate=rate, spec={"score_on": "selection"}) for rate in (1e-3, 3e-3)]
    page = render([*trials, record(seed=0)])
    assert page.index("### `vader_film`\n") < page.index("## Tuning") < page.index("### `vader_film` (trials)")
    assert page.index("## Tuning") < page.index("#### Learning rates")
    assert "Not to be ranked against" not in page
    recipe = next(table for table in tables(page) if table[0][0] == "")
    assert recipe[0] == ["", "`vader_film`"]
    assert ["seeds", "0"] in recipe and ["seeds of the trials", "100"] in recipe
    assert ["scored on", "the test split"] in recipe and ["trials scored on", "the selection split"] in recipe
    assert [line["learning rates"] for line in sizes_in(page)] == ["1e-3"]


def test_a_search_without_results_yet_has_its_methods_and_says_that_it_is_one():
    spec = {"score_on": "selection"}
    trials = [record("full", task="film_b", learning_rate=rate, spec=spec) for rate in (1e-3, 3e-3)]
    page = render([*trials, record(seed=0)])
    assert [(line["method"], line["learning rates"], line["trained"]) for line in sizes_in(page)] == [
        ("`lora`", "1e-3", "156,680"),
        ("`full`†", "1e-3, 3e-3", "22,714,000"),
    ]
    assert "On `film_b` this is a search: its scores choose learning rates and are not results." in page
    assert "Among them are 2 trials of learning rates. Scores of the others are accuracy on the test split." in page
    assert "this is a search" not in render([record(seed=0)])


def test_the_card_says_what_a_protocol_means():
    strict, paper = ({"protocol": name, "rules": PROTOCOLS[name]} for name in ("strict", "paper"))
    assert (
        "- Protocol `strict`: the last weights are scored, choices are made on the selection split (set aside from the "
        "training data where the data has none), and the mean stands for several seeds."
        in render([record(spec=strict)])
    )
    assert "on the test split, **which is the one that is reported**, and the median" in render([record(spec=paper)])


def test_failures_are_rows_and_a_section():
    page = render(sample_suite())
    unsupported = [line for line in score_lines(page) if line["method"] == "`prefix_tuning`"]
    assert any(
        line["score"].startswith("`unsupported` (seeds 0, 1): prefixes have no position") for line in unsupported
    )
    partly = [line for line in score_lines(page) if line["method"] == "`lora`"]
    assert [(line["n"], line["failed"]) for line in partly if "of" in line["n"]] == [("1 of 2", "1")]
    assert any(line["score"] == "`diverged` (seed 1): the loss was nan at step 37" for line in partly)
    assert "## Failures" in page


def test_no_failures_section_without_failures():
    assert "## Failures" not in render([record()])


def test_the_reference_is_marked_and_exempt():
    page = render([record("full"), record("lora")])
    assert "| exempt† |" in page
    assert "† Exempt from the target for adapter parameters" in page


def test_the_score_of_words_alone_is_a_line_of_the_table_and_no_row():
    made = [record("full"), record("lora")]
    page = render(
        [one.model_copy(update={"data": one.data.model_copy(update={"word_model_score": 0.71})}) for one in made]
    )
    line = next(line for line in page.splitlines() if line.startswith("| *words alone*"))
    assert [cell.strip() for cell in line.strip("|").split("|")][:4] == ["*words alone*", "0.7100", "–", "–"]
    assert "tf-idf with logistic regression for classes" in page
    assert "words alone" not in render(made)


def test_other_settings_are_named_and_kept_apart():
    page = render([record("full"), record("lora", training={"batch_size": 32})])
    assert "Not to be ranked against the other settings of this task. Here `training.batch_size` is `16`." in page
    assert "Here `training.batch_size` is `32`." in page
    found = [table for table in tables(page) if "less majority" in table[0]]
    assert [len(table) for table in found] == [3, 3]  # the header, the rule and one row


def test_a_search_has_a_column_a_learning_rate_with_the_best_marked():
    scores = {1e-4: 0.6, 3e-4: 0.7, 1e-3: 0.65}
    records = [
        record(learning_rate=rate, score=score, spec={"score_on": "selection"}) for rate, score in scores.items()
    ]
    page = render(records)
    assert "| base model | method | 1e-4 | 3e-4 | 1e-3 |" in page
    assert "| 0.6000 (n 1) | **0.7000** (n 1) | 0.6500 (n 1) |" in page
    assert "**This is a search" in page
    assert "may lie outside the" not in page


def test_a_best_learning_rate_at_the_edge_is_pointed_out():
    page = render([record(learning_rate=rate, score=500 * rate) for rate in (1e-4, 3e-4, 1e-3)])
    assert "1e-3 is the largest tried." in page


def test_numbers_that_were_not_measured_alone_are_marked():
    page = render([record("full"), record("lora", exclusive=False)])
    measured = ("peak memory, MiB (resident)", "step, ms", "examples/s")
    assert [line_of(page, "`lora`")[name] for name in measured] == ["300‡", "50.0‡", "320‡"]
    assert [line_of(page, "`full`†")[name] for name in measured] == ["300", "50.0", "320"]
    assert "Other work ran beside 1 of 2 rows, marked ‡." in page


def test_a_page_without_numbers_of_cost_does_not_say_how_they_were_measured():
    # Seconds of a run that went on are of two parts, beside a run without any they are no row's.
    untimed = record("lora", seed=0)
    speed = untimed.speed.model_copy(update={"train_seconds": None, "step_seconds_median": None})
    untimed = untimed.model_copy(update={"speed": speed, "memory": None})
    page = render([untimed, record("lora", seed=1).model_copy(update={"resumed": True})])
    assert "No run has a speed or memory number." in page and "nothing else running" not in page


def test_rows_from_several_environments_are_named_with_what_differs():
    packages = {**ENVIRONMENT.packages, "torch": "2.13.0"}
    other = ENVIRONMENT.model_copy(update={"device": "NVIDIA H100", "packages": packages})
    page = render([record("full"), record("lora", seed=0), record("lora", seed=1, environment=other)])
    assert "Ran some runs of `lora` (MiniLM-L6 in the RoBERTa class, `vader_film`)." in page
    assert line_of(page, "`lora`")["peak memory, MiB (resident)"] == "300§"
    differences = next(table for table in tables(page) if table[0][1:] == ["environment 1", "environment 2"])
    assert differences[2:] == [["device", "cpu", "NVIDIA H100"], ["torch", "2.9.1", "2.13.0"]]
    assert "environment 2" not in render([record("full"), record("lora")])


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


def test_trials_of_a_method_that_is_exempt_from_two_targets_are_counted_once():
    budgets = [BUDGET.model_copy(update={"adapter_parameters": amount, "trials": 2}) for amount in (7_680, 15_360)]
    small = METHODS["lora"]
    wide = small.model_copy(update={"options": {**small.options, "rank": 8}, "chosen": {"rank": 8}})
    records = [record(method, budget=budget) for method, budget in zip((small, wide), budgets, strict=True)]
    records.append(record("full", budget=budgets[0]))
    for rate in (1e-3, 3e-3):
        trial = {"learning_rate": rate, "seed": 100, "spec": {"score_on": "selection"}}
        records += [
            record(method, budget=budget, **trial) for method, budget in zip((small, wide), budgets, strict=True)
        ]
        records.append(record("full", budget=budgets[0], **trial))
    page = render_markdown(Report(records))
    assert "Of 9 runs, 9 ended `ok`. Among them are 6 trials of learning rates." in page
    assert "Scores of the others are accuracy on the test split." in page


def test_two_seeds_have_no_interval_and_no_test():
    def page(seeds):
        spreads = {"full": 50, "lora": 59}
        return render_markdown(
            Report(
                [
                    record(method, seed=seed, score=0.8 + seed / spread)
                    for method, spread in spreads.items()
                    for seed in range(seeds)
                ]
            )
        )

    two, three, four = page(2), page(3), page(4)
    intervals = r"\| [−+]?\d\.\d+ to [−+]?\d\.\d+ \|"
    assert not re.search(intervals, two) and re.search(intervals, three)
    none = "inconclusive (no test below 4 seeds)"
    assert none in two and none in three and "no test" not in four


def test_a_warning_on_inputs_names_its_task_and_one_of_no_input_is_left_out():
    cut = "{} of the train inputs are longer than 64 tokens and were cut"
    records = [
        record(task="a", changes={"warnings": (cut.format("2.5%"),)}),
        record(task="b", changes={"warnings": (cut.format("0.0%"),)}),
    ]
    page = render_markdown(Report(records))
    assert "- a: 2.5% of the train inputs" in page.replace("\\", "") and "0.0%" not in page


def test_a_method_that_could_not_run_has_no_learning_rate():
    records = [record("full"), record("lora"), record("prefix_tuning", status="unsupported", reason="no")]
    rows = [
        line for line in render_markdown(Report(records)).splitlines() if "1e-3" in line and "prefix_tuning" in line
    ]
    assert all("unsupported" in line for line in rows)


def test_no_table_is_wider_than_a_page_of_github():
    pages = [render(of_two_tasks()), render(sample_suite()), to_markdown(probes_page(sample_probes()))]
    assert max(len(table[0]) for page in pages for table in tables(page)) == 8
