"""The suite file of a table: it loads, declares what was seen, and tunes every method alike."""

import contextlib
import dataclasses
import itertools
import json
import re
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import jsonschema
import pytest
import yaml

from lora_bench.errors import LoraBenchError
from lora_bench.suite.from_table import Draft, as_yaml, name_of, rates_of, shares_of, smallest_difference
from lora_bench.suite.halving import rungs_of
from lora_bench.suite.load_suite import load_suite
from lora_bench.tasks.look import TableFacts
from lora_bench.tasks.source_tables import Layout

SEEN = TableFacts(
    file=None, layout=Layout(), uneven=0, unlabelled=0, rows=1_200, text=("subject",), label="queue",
    kind="classification", classes={"a": 700, "b": 500}, words=(10, 20, 40), repeated=0, contradicting=0, guessed=(),
)  # fmt: skip


def loaded(
    tmp_path,
    model="minilm-l6-roberta",
    large=False,
    rates=3,
    plateau=False,
    name="my tickets (2).csv",
    seeds=4,
    **changes,
):
    seen = dataclasses.replace(SEEN, file=tmp_path / "data" / name, **changes)
    draft = Draft(seen, model, tuple(rates_of(large=large)), rates, seeds, 960, plateau, large, 10.0)
    (tmp_path / "out").mkdir(exist_ok=True)
    file = tmp_path / "out" / f"{draft.name}.yaml"
    file.write_text(draft.text(tmp_path / "out"), encoding="utf-8")
    return load_suite(file), file.read_text()


@pytest.mark.parametrize(
    ("most", "looks"), [(3, None), (4, None), (5, (4, 5)), (6, (4, 6)), (8, (4, 6, 8)), (10, (4, 6, 8, 10))]
)
def test_seeds_are_added_until_decided_where_they_are_more_than_at_the_first_look_and_else_a_list(
    tmp_path, most, looks
):
    suite, _ = loaded(tmp_path, seeds=most)
    found = suite.content.seeds
    assert found == tuple(range(most)) if looks is None else found.looks == looks
    assert not set(suite.content.tuning.seeds) & set(range(most))


def test_no_halving_tries_as_many_rates_in_less_work(tmp_path):
    """Steps are planned by the examples of each rung, at the work of `loaded`: 960 examples in batches of 16."""
    suite, _ = loaded(tmp_path)
    (rates,) = {len(entry.rates("minilm-l6-roberta")) for entry in suite.methods}
    examples, batch = suite.content.budget.train_examples, 16
    steps = {}
    for trials, factor, number in itertools.product(range(1, 9), range(2, 11), range(2, 5)):
        with contextlib.suppress(LoraBenchError):  # refused, as its last rung has no choice
            rungs = rungs_of(trials, factor, number)
            assert rungs[0].trials >= rates
            steps[trials, factor, number] = sum(rung.trials * (examples // rung.part // batch) for rung in rungs)
    # Three rates take 3 x 60 steps. Six that begin with 20 steps, and two of them that go on, take 6 x 20 + 2 x 60.
    assert (suite.content.tuning.halving, rates * (examples // batch), steps[4, 3, 2]) == (None, 180, 240)
    assert min(steps.values()) > 180


def test_the_file_loads_and_says_what_was_chosen(tmp_path):
    suite, text = loaded(tmp_path)
    content = suite.content
    assert (suite.name, content.seeds, content.tuning.seeds) == ("my-tickets-2", (0, 1, 2, 3), (100, 101, 102))
    assert content.tuning.extend and content.tuning.search == "halve_seeds"
    assert (content.budget.train_examples, content.budget.adapter_parameters) == (960, None)
    assert (content.keep_weights, content.analysis.margin, content.training.max_length) == ("last", 0.005, 32)
    assert [entry.label for entry in suite.methods] == ["full", "lora_all", "linear_probe", "adapter_both"]
    assert {len(entry.rates("minilm-l6-roberta")) for entry in suite.methods} == {3}
    ((task, _),) = suite.tasks
    assert (task.data.file, task.text, task.label.column) == ("../data/my tickets (2).csv", ("subject",), "queue")
    assert sum(line.lstrip().startswith("#") for line in text.splitlines()) >= 8


def test_with_less_time_the_likeliest_rates_are_tried_and_with_more_runs_end_at_a_plateau(tmp_path):
    one, _ = loaded(tmp_path, rates=1)
    assert [entry.rates("minilm-l6-roberta") for entry in one.methods] == [(5e-5,), (3e-4,), (1e-2,), (5e-4,)]
    assert one.content.tuning is None
    two, _ = loaded(tmp_path, rates=2)
    assert two.methods[0].rates("minilm-l6-roberta") == (5e-5, 1e-4) and not two.content.tuning.extends
    until = loaded(tmp_path, plateau=True)[0].content.budget.train_examples
    assert (until.until, until.at_most) == ("plateau", 960)


@pytest.mark.parametrize(
    ("rows", "shares"),
    [(1_500, (0.65, 0.1, 0.25)), (40_000, (0.875, 0.025, 0.1)), (1_000_000, (0.995, 0.001, 0.004))],
)
def test_a_large_table_leaves_more_rows_to_train(rows, shares):
    assert shares_of(rows) == shares and sum(shares) == pytest.approx(1)


def test_an_editor_finds_the_schema_and_no_fault_by_it(tmp_path, monkeypatch):
    _, text = loaded(tmp_path)
    address = text.splitlines()[0].removeprefix("# yaml-language-server: $schema=")
    schema = json.loads(Path(url2pathname(urlsplit(address).path)).read_text(encoding="utf-8"))
    jsonschema.validate(yaml.safe_load(text), schema)
    assert not re.search(r"\d_\d", text)  # in YAML 1.2, which editors read, 1_000 is a text
    # An environment within the project is where colleagues have it too.
    monkeypatch.setattr("lora_bench.suite.from_table.PACKAGE", tmp_path / "out" / ".venv" / "lora_bench")
    assert loaded(tmp_path)[1].startswith(
        "# yaml-language-server: $schema=.venv/lora_bench/schemas/suite.schema.json\n"
    )


def test_what_the_table_needs_is_declared(tmp_path):
    suite, _ = loaded(
        tmp_path,
        layout=Layout(delimiter="\t", encoding="cp1252"),
        uneven=3,
        unlabelled=2,
        text=("a: b", "c, d"),
        label="no",
        kind="regression",
    )
    ((task, _),) = suite.tasks
    assert (task.delimiter, task.encoding) == ("\t", "cp1252")
    assert task.uneven_rows == task.unlabelled_rows == "leave_out"
    assert (task.text, task.label.column, task.kind, task.metric) == (("a: b", "c, d"), "no", "regression", "pearson")
    # Readers of ratings and prices ask by how much an answer is off.
    assert task.metrics == ("mae",)


def test_a_metric_that_was_asked_for_is_no_further_one(tmp_path):
    suite, text = loaded(tmp_path, kind="regression", metric="mae")
    ((task, _),) = suite.tasks
    assert task.all_metrics == ("mae",) and "metrics:" not in text


@pytest.mark.parametrize("separator", ["|", ";", ",", None])
def test_several_labels_are_declared_with_what_separates_them(tmp_path, separator):
    suite, _ = loaded(tmp_path, kind="multilabel", separator=separator)
    ((task, _),) = suite.tasks
    assert (task.kind, task.label.column, task.label.separator) == ("multilabel", "queue", separator)
    assert task.metric == "multilabel_micro_f1"


def test_what_the_user_says_of_splits_and_kind_is_declared(tmp_path):
    data = tmp_path / "data"
    suite, _ = loaded(
        tmp_path,
        kind="multilabel",
        label="",
        columns=("is a", "b"),
        metric="multilabel_macro_f1",
        split={"by": "customer no", "in_order": "day"},
        empty=2,
        files={"test": data / "test.csv"},
    )
    ((task, _),) = suite.tasks
    assert (task.label.columns, task.metric, task.empty_texts) == (("is a", "b"), "multilabel_macro_f1", "keep")
    assert (task.split.by, task.split.in_order) == ("customer no", "day")
    assert (task.data.train, task.data.test) == ("../data/my tickets (2).csv", "../data/test.csv")
    suite, _ = loaded(tmp_path, kind="spans", text=("q", "c"), label="answer", start="at", unanswerable=True)
    ((task, _),) = suite.tasks
    assert (task.label.column, task.label.start, task.unanswerable, task.metric) == ("answer", "at", True, "squad_f1")
    suite, _ = loaded(tmp_path, labels=("no", "yes"), metric="f1")
    ((task, _),) = suite.tasks
    assert (task.labels, task.metric) == (("no", "yes"), "f1")


def test_a_large_model_gets_no_larger_rates(tmp_path):
    (small, _), (large, _) = loaded(tmp_path), loaded(tmp_path, "owner/large", large=True)
    for one, other in zip(small.methods, large.methods, strict=True):
        assert max(other.rates("owner/large")) <= max(one.rates("minilm-l6-roberta"))
    assert (small.methods[0].rates("minilm-l6-roberta"), large.methods[0].rates("owner/large")) == (
        (2e-5, 5e-5, 1e-4),
        (1e-5, 3e-5, 1e-4),
    )


@pytest.mark.parametrize(
    ("file", "name"), [("tickets.csv", "tickets"), ("null.jsonl", "table-null"), ("2026.csv", "table-2026")]
)
def test_the_name_of_a_file_that_yaml_reads_as_no_text_is_made_one(tmp_path, file, name):
    suite, _ = loaded(tmp_path, name=file)
    assert suite.name == name_of(file) == name


@pytest.mark.parametrize(
    "text", ["plain", "a b", "yes", "1", "it's", 'say "so"', "#", "a, b]", "{x}", "schön", "null", "~"]
)
def test_any_name_is_read_back_as_it_is(text):
    assert yaml.safe_load(f"[{as_yaml(text)}]") == [text]


def test_the_smallest_difference_halves_with_four_times_the_rows():
    assert smallest_difference(400) == pytest.approx(smallest_difference(100) / 2) == pytest.approx(0.031, abs=1e-3)
