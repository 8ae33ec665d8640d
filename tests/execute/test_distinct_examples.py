"""How many different training rows a suite gives its methods, from its file to its records."""

import pytest

from lora_bench.cli.plan_table import plan_tables
from lora_bench.errors import BadInput
from lora_bench.execute.run_suite import run_suite
from lora_bench.plan.make_plan import make_plan
from lora_bench.report import Report, render_markdown
from lora_bench.report.model.comparison import compare
from lora_bench.suite.load_suite import load_suite
from lora_bench.tasks import load_data
from lora_bench.util.seeding import distinct_rows
from tests.project import SUITE, write_project

TWO = SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[full, lora]").replace(
    "{train_examples: 48}", "{epochs: 2}"
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))


def written(tmp_path, more, suite=TWO):
    return write_project(tmp_path / "project", suite + more)


def test_every_method_trains_on_the_same_rows_and_fewer_are_a_part_of_more(tmp_path):
    path = written(tmp_path, "distinct_examples: [8, 24]\n")
    loaded = load_suite(path)
    plan = make_plan(loaded, tmp_path / "plan")
    said = "\n".join(
        str(cell) for part in plan_tables(plan) if hasattr(part, "columns") for cell in part.columns[0].cells
    )
    assert "lora, 8 rows" in said and "lora, 24 rows" in said
    records = run_suite(path, runs=tmp_path / "runs", workers=0).records
    ((task, base),) = loaded.tasks
    texts = load_data(task, base, whole_train=False).splits["train"].texts
    for record in records:
        number = record.spec.training.distinct_examples
        assert record.status == "ok" and record.speed.train_examples == 2 * number
        rows = distinct_rows(0, len(texts), number)
        # A token a word and two around them, each row in each of two epochs.
        assert record.speed.train_real_tokens == 2 * sum(len(texts[row][0].split()) + 2 for row in rows)
    assert sorted((one.spec.method.label, one.spec.training.distinct_examples) for one in records) == [
        ("full", 8), ("full", 24), ("lora", 8), ("lora", 24),
    ]  # fmt: skip
    comparison = compare(records)
    assert [setting.distinct_examples for setting in comparison.settings] == [8, 24]
    page = render_markdown(Report(records))
    assert page.index("### `tickets` (8 rows)") < page.index("### `tickets` (24 rows)")
    assert "(setting" not in page


def test_another_seed_draws_other_rows_and_no_key_leaves_run_ids_alone(tmp_path):
    def ids(more):
        return {cell.job.run_id for cell in make_plan(load_suite(written(tmp_path, more)), tmp_path / "runs").cells}

    whole, some, again, other = map(
        ids,
        (
            "",
            "distinct_examples: 8\n",
            "distinct_examples: 8\ndistinct_seed: 0\n",
            "distinct_examples: 8\ndistinct_seed: 1\n",
        ),
    )
    assert some == again and not some & whole and not some & other
    (cell, *_) = make_plan(load_suite(written(tmp_path, "")), tmp_path / "runs").cells
    spec = cell.job.spec
    recipe = spec.training.model_copy(update={"distinct_examples": None, "distinct_seed": 0})
    assert spec.model_copy(update={"training": recipe}).run_id == spec.run_id
    assert distinct_rows(0, 100, 8) == distinct_rows(0, 100, 24)[:8] != distinct_rows(1, 100, 8)


def test_each_seed_draws_rows_of_its_own_and_a_method_is_one_row_of_the_report(tmp_path):
    more = "distinct_examples: 8\ndistinct_seed: run\ndistinct_draw: even\n"
    path = written(tmp_path, more, TWO.replace("seeds: [0]", "seeds: [0, 1]"))
    loaded = load_suite(path)
    records = run_suite(path, runs=tmp_path / "runs", workers=0).records
    ((task, base),) = loaded.tasks
    train = load_data(task, base, whole_train=False).splits["train"]
    tokens = {}
    for seed in (0, 1):
        rows = distinct_rows(seed, len(train.labels), 8, train.labels)
        assert [train.labels[row] for row in rows].count(0) == 4
        tokens[seed] = 2 * sum(len(train.texts[row][0].split()) + 2 for row in rows)
    assert len({tuple(distinct_rows(seed, len(train.labels), 8, train.labels)) for seed in (0, 1)}) == 2
    for record in records:
        recipe = record.spec.training
        assert (recipe.distinct_seed, recipe.distinct_draw) == (None, "even")
        assert record.speed.train_real_tokens == tokens[record.spec.seed]
    (setting,) = compare(records).settings
    assert [row.seeds for row in setting.rows] == [(0, 1), (0, 1)]
    words = {record.spec.seed: record.data.word_model_score for record in records}
    assert [row.word_model_score for row in setting.rows] == 2 * [pytest.approx((words[0] + words[1]) / 2)]


def test_classes_take_turns_in_an_even_draw_as_long_as_they_have_rows():
    labels = [0] * 10 + [1] * 2
    drawn = distinct_rows(0, 12, 6, labels)
    assert [labels[row] for row in drawn].count(1) == 2
    assert {labels[row] for row in distinct_rows(0, 12, 2, labels)} == {0, 1}
    assert distinct_rows(0, 12, 6, labels) == distinct_rows(0, 12, 9, labels)[:6]


def test_trials_choose_a_rate_for_each_number_of_rows(tmp_path):
    methods = "[{method: lora, learning_rate: [1e-2, 1e-3]}]"
    path = written(
        tmp_path, "distinct_examples: [8, 24]\ntuning: {extend: false}\n", TWO.replace("[full, lora]", methods)
    )
    plan = make_plan(load_suite(path), tmp_path / "runs")
    assert [cell.job.spec.training.distinct_examples for cell in plan.cells] == 4 * [8] + 4 * [24]
    assert all(cell.job.trial for cell in plan.cells) and [waiting.runs for waiting in plan.waiting] == [1, 1]


def test_a_plan_warns_of_rows_that_no_run_sees(tmp_path):
    said = {}
    for examples in (16, 48):
        suite = TWO.replace("epochs: 2", f"train_examples: {examples}")
        path = written(tmp_path, "distinct_examples: [16, 24, 48]\n", suite)
        said[examples] = [one for one in make_plan(load_suite(path), tmp_path / "runs").cautions if "rows" in one]
    assert said == {
        16: ["runs end before they saw 24 or 48 different rows: raise `train_examples` to 48"],
        48: [],
    }


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("distinct_examples: [8, 8]\n", "a number is listed twice"),
        ("distinct_examples: 0\n", "distinct_examples"),
        ("distinct_seed: 1\n", "give their number"),
        ("distinct_draw: even\n", "give their number"),
        ("distinct_examples: 100_000\n", "100,000 is more than the 315 training rows of tickets"),
    ],
)
def test_a_mistake_is_named(tmp_path, more, said):
    with pytest.raises(BadInput) as error:
        make_plan(load_suite(written(tmp_path, more)), tmp_path / "runs")
    assert said in str(error.value)


def test_an_even_draw_needs_classes(tmp_path):
    rated = TWO.replace("    label: queue\n", "    label: minutes\n    kind: regression\n")
    path = written(tmp_path, "distinct_examples: 8\ndistinct_draw: even\n", rated)
    table = path.parent / "tickets.csv"
    header, *rows = table.read_text().splitlines()
    numbers = [f"{row},{number % 7}" for number, row in enumerate(rows)]
    table.write_text("\n".join([f"{header},minutes", *numbers]) + "\n")
    with pytest.raises(BadInput, match="draws as many rows of each class, and tickets has no classes"):
        make_plan(load_suite(path), tmp_path / "runs")
