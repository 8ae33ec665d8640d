"""The benchmark of `try` beside its rivals: each answers, a second start does what is missing, and the page counts right."""

import json
from hashlib import sha256

import pytest

from benchmarks import decisions
from benchmarks.decision_rivals import Given, ours, score, table_options, write_train
from benchmarks.decision_tables import TABLES, Table, paragraphs
from lora_bench.cli import main
from lora_bench.plan.fit_minutes import Design
from tests.project import BAD, GOOD, write_model
from tests.shared import shared
from tests.test_benchmarks import tables


def run(table, rival, value, *, minutes=None, **more):
    return decisions.Run(
        table=table, rows=None, rival=rival, minutes=minutes, seed=0, model="base", score=value, metric="accuracy", **more
    )  # fmt: skip


def page(*runs):
    return "\n".join(decisions.page(runs)) + "\n"


def opinions(number):
    """Rows that one word decides, each text once."""
    return [
        ((f"the film {row} was {(GOOD, BAD)[row % 2][row % 3]}",), ("good", "bad")[row % 2]) for row in range(number)
    ]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a tiny model and the table of opinions, 60 rows to train on."""
    monkeypatch.setitem(TABLES, "opinions", lambda data_dir: Table("accuracy", opinions(90), opinions(40), 60))
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "base")
    return tmp_path


def start(folder, rivals, *more):
    decisions.main(["--tables", "opinions", "--model", "base", "--out", str(folder), "--rivals", rivals, *more])
    return [decisions.Run(**json.loads(line)) for line in (folder / "runs.jsonl").read_text().splitlines()]


def test_a_second_start_does_the_rivals_that_are_missing(folder, capsys):
    (words,) = start(folder, "tf-idf")
    assert (words.score, words.train_rows, words.test_rows, words.why) == (100.0, 60, 40, "")
    kept, missing, *more = start(folder, "tf-idf,setfit")
    assert kept == words and more == []
    assert missing.score is None and missing.why
    (scores, _) = tables(capsys.readouterr().out.split("## Tables whole")[-1])
    assert scores == [["opinions", "accuracy", "100.0", "–"]]


@pytest.mark.slow
def test_fewer_rows_are_another_run(folder):
    whole, cut = start(folder, "tf-idf") and start(folder, "tf-idf", "--rows", "30")
    assert (whole.rows, whole.train_rows) == (None, 60) and (cut.rows, cut.train_rows) == (30, 30)


@pytest.mark.slow
def test_rivals_answer_single_texts_with_classes(folder):
    runs = start(folder, "peft,linear probe")
    assert [(one.rival, one.why, one.minutes) for one in runs] == [("peft", "", None), ("linear probe", "", None)]
    assert runs[0].score >= 50 and runs[0].seconds > 0 and runs[1].score == 100


@pytest.mark.slow
def test_rivals_answer_pairs_with_numbers(folder, monkeypatch):
    pairs = [((*texts, "the film was great"), float(label == "good")) for texts, label in opinions(90)]
    monkeypatch.setitem(TABLES, "opinions", lambda data_dir: Table("pearson", pairs, pairs[60:], 60))
    runs = start(folder, "trainer,linear probe")
    assert [(one.rival, one.metric, one.why) for one in runs] == [
        ("trainer", "pearson", ""), ("linear probe", "pearson", ""),
    ]  # fmt: skip
    assert runs[1].score > 90


@pytest.mark.slow
def test_ours_answers_with_the_model_that_try_wrote(folder, monkeypatch):
    monkeypatch.setattr("lora_bench.plan.fit_minutes.DESIGNS", (Design(seeds=2, rates=1, epochs=3),))
    # Rows whose text deals all of them to one split, as rows that were dealt out before.
    rows = [row for row in opinions(1_600) if sha256(row[0][0].encode()).hexdigest() >= "a"]
    write_train(folder / "train.csv", rows)
    given = Given(
        rival="try", model="base", model_name="base", columns=["text"], numbers=False, metric="accuracy", minutes=60, seed=0,
        begun=0.0,
    )  # fmt: skip
    assert main(["init", *table_options(given)]) == 0
    # All weights of a model as small as this one learn at a larger rate than those of a pretrained one.
    suite = (folder / "train.yaml").read_text().replace("full, learning_rate: 1e-4", "full, learning_rate: 3e-3")
    (folder / "train.yaml").write_text(suite)
    delivered = ours(given, [], [])
    asked = rows[:40]
    assert delivered.chosen in ("full", "lora_all", "adapter_both", "linear_probe")
    assert score("accuracy", [label for _, label in asked], delivered.answers([texts for texts, _ in asked])) > 0.9


@pytest.mark.slow
def test_optuna_ends_with_a_model_of_the_method_that_it_chose(folder):
    pytest.importorskip("optuna")
    (found,) = start(folder, "optuna", "--minutes", "0.2")
    assert (found.why, found.minutes) == ("", 0.2) and found.chosen in ("full", "lora")


def test_a_table_without_its_data_is_skipped(folder, capsys):
    decisions.main(["--tables", "two_authors", "--data-dir", str(folder), "--out", str(folder)])
    assert "two_authors: skipped" in capsys.readouterr().err and not (folder / "runs.jsonl").exists()


def test_ours_is_compared_with_the_best_and_with_each_on_the_tables_that_both_answered():
    printed = page(
        run("a", "try", 90.0, minutes=10), run("a", "peft", 90.5), run("a", "trainer", 80.0),
        run("b", "try", 70.0, minutes=10), run("b", "peft", 71.0), run("b", "trainer", 60.0),
        run("c", "try", 50.0, minutes=10), run("c", "peft", None, why="not installed"), run("c", "trainer", 40.0),
    )  # fmt: skip
    assert "Within 0.5 points of the best, or better: on 2 of 3 tables." in printed
    # Differences of -0.5 and -1: mean -0.75, and 12.706 standard errors of 0.25 beside it.
    assert tables(printed)[1] == [
        ["peft", "2", "−0.8", "−3.9 to 2.4"],
        ["trainer", "3", "10.0", "10.0 to 10.0"],
    ]
    assert "Without a score: peft on 1: not installed" in printed


def test_a_try_without_a_model_is_behind_and_a_rival_with_other_minutes_is_not_counted():
    printed = page(
        run("a", "try", 90.0, minutes=3), run("a", "optuna", 80.0, minutes=3), run("a", "optuna", 95.0, minutes=10),
        run("b", "try", None, minutes=3, why="no result"), run("b", "optuna", 80.0, minutes=3),
    )  # fmt: skip
    assert "Within 0.5 points of the best, or better: on 1 of 2 tables." in printed
    assert tables(printed)[1] == [["optuna, 3 min", "1", "10.0", "–"]]


def test_a_run_keeps_its_time_with_a_tenth_more():
    printed = page(
        run("a", "try", 1.0, minutes=10, seconds=660.0, load=0.5), run("b", "try", 1.0, minutes=10, seconds=661.0),
        run("b", "peft", 1.0, seconds=900.0), run("c", "try", None, minutes=10, why="no result"),
    )  # fmt: skip
    (times,) = (one for one in tables(printed) if len(one[0]) == 7)
    assert [row[5:] for row in times] == [["yes", "yes"], ["no", "no"], ["–", "no"], ["no model", "no"]]


def test_a_missing_answer_is_a_wrong_class_and_the_mean_of_the_other_numbers():
    assert score("accuracy", ["a", "b", "a"], ["a", "", None]) == pytest.approx(1 / 3)
    assert score("pearson", [1.0, 2.0, 3.0], ["1", "", "3"]) == pytest.approx(1)


def test_a_paragraph_ends_at_a_blank_line_or_with_a_sentence_in_a_short_or_a_long_line():
    wrapped = "The first words of a paragraph fill their line to its very end and\nthe next line is short.\n"
    long = "A whole paragraph on one line has more characters than any wrapped line of a book would have.\n"
    found = [*paragraphs(wrapped + long + "It ends without a stop, as headings of eight words\n\nToo short.")]
    assert found == [
        " ".join(wrapped.split()), long.strip(), "It ends without a stop, as headings of eight words",
    ]  # fmt: skip


@pytest.mark.slow
def test_the_two_authors_have_as_many_paragraphs_and_none_twice():
    table = TABLES["two_authors"](shared("data", "corpus").parent)
    assert (len(table.pool), len(table.test)) == (1_500, 2_496)
    rows = [*table.pool, *table.test]
    assert len({texts for texts, _ in rows}) == 3_996
    assert sum(author == "Hardy" for _, author in rows) == 1_998
