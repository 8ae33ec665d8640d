"""The benchmark of `try` beside its rivals: each answers, a second start does what is missing, and the page counts right."""

import json
import sys
from hashlib import sha256
from types import SimpleNamespace

import psutil
import pytest

from benchmarks import decision_page, decision_rivals, decisions
from benchmarks.decision_page import Run
from benchmarks.decision_rivals import Given, ours, score, table_options, write_train
from benchmarks.decision_tables import DEFAULTS, TABLES, Table, paragraphs
from lora_bench.cli import main
from lora_bench.plan.fit_minutes import Design
from tests.project import BAD, GOOD, write_model
from tests.shared import shared
from tests.test_benchmarks import tables


def run(table, rival, value, *, minutes=None, **more):
    facts = {
        "rows": None,
        "seed": 0,
        "model": "base",
        "metric": "accuracy",
        "train_rows": 60,
        "test_rows": 40,
        "cores": 2,
    }
    return Run(table=table, rival=rival, minutes=minutes, score=value, **{**facts, **more})


def page(*runs):
    return "\n".join(decision_page.page(runs)) + "\n"


def section(printed, heading):
    """The tables below a heading."""
    return tables(printed.split(f"{heading}\n")[1].split("\n#")[0])


def aims(*runs):
    """Result and numbers of each aim, by the aim."""
    return {aim: found for aim, *found in section(page(*runs), "## Aims")[0]}


def aim(found, words):
    (one,) = [value for name, value in found.items() if words in name]
    return one


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
    out = folder / "out"
    decisions.main(["--tables", "opinions", "--model", "base", "--out", str(out), "--rivals", rivals, *more])
    return [Run(**json.loads(line)) for line in (out / "runs.jsonl").read_text().splitlines()]


def test_a_second_start_does_the_rivals_that_are_missing(folder, capsys):
    (words,) = start(folder, "tf-idf")
    assert (words.score, words.train_rows, words.test_rows, words.why) == (100.0, 60, 40, "")
    kept, missing, *more = start(folder, "tf-idf,setfit")
    assert kept == words and more == []
    assert missing.score is None and missing.why
    printed = (folder / "out.md").read_text()
    assert section(printed, "### Score of the delivered model") == [[["opinions", "accuracy", "100.0", "–"]]]
    assert capsys.readouterr().out.endswith(f"{printed}\n")


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
    suite = (folder / "train.yaml").read_text().replace("full, learning_rate: 5e-5", "full, learning_rate: 3e-3")
    (folder / "train.yaml").write_text(suite)
    delivered = ours(given, [], [])
    asked = rows[:40]
    assert delivered.chosen in delivered.compared and len(delivered.compared) > 1
    assert 0 <= delivered.expected_loss <= delivered.at_most <= 100
    assert score("accuracy", [label for _, label in asked], delivered.answers([texts for texts, _ in asked])) > 0.9


@pytest.mark.slow
def test_optuna_ends_with_a_model_of_the_method_that_it_chose(folder):
    pytest.importorskip("optuna")
    (found,) = start(folder, "optuna", "--minutes", "0.2")
    assert (found.why, found.minutes) == ("", 0.2) and found.chosen in ("full", "lora")


def test_a_try_that_trained_no_model_in_time_answers_with_the_best_run(folder, monkeypatch):
    said = SimpleNamespace(expected=0.0194, at_most=0.0587)
    choice = SimpleNamespace(
        method="lora_all", loss=said, rows=[SimpleNamespace(label=name) for name in ("full", "lora_all")]
    )
    monkeypatch.setattr("lora_bench.training.winner.find_winner", lambda runs: SimpleNamespace(choice=choice))
    monkeypatch.setattr(decision_rivals, "table_options", lambda given: [])
    commands = ends_with(monkeypatch, 3)
    delivered = ours(None, [], [])
    assert (delivered.chosen, delivered.compared) == ("lora_all", ["full", "lora_all"])
    assert (delivered.expected_loss, delivered.at_most) == (1.94, 5.87)
    assert [words[4] for words in commands] == ["try"]


@pytest.mark.parametrize(("code", "reason"), [(3, "no winner"), (2, "2"), (130, "130")])
def test_a_try_without_an_answer_ends_the_rival(folder, monkeypatch, code, reason):
    monkeypatch.setattr(decision_rivals, "table_options", lambda given: [])
    ends_with(monkeypatch, code)
    with pytest.raises(SystemExit, match=reason):
        ours(None, [], [])


def ends_with(monkeypatch, code):
    """Let each command end with this code, and return the list of commands."""
    commands = []

    def end(command, **options):
        commands.append(command)
        return SimpleNamespace(returncode=code)

    monkeypatch.setattr(decision_rivals.subprocess, "run", end)
    return commands


def test_busy_loops_are_busy_and_end_with_the_block():
    others = {*psutil.Process().children()}
    with pytest.raises(ZeroDivisionError), decisions.busy_loops(2):
        loops = {*psutil.Process().children()} - others
        assert len(loops) == 2 and all(loop.is_running() for loop in loops)
        raise ZeroDivisionError
    assert not any(loop.is_running() for loop in loops)


@pytest.mark.slow
def test_busy_loops_are_gone_after_a_run_and_make_it_another_run(folder):
    others = {*psutil.Process().children()}
    alone, beside = start(folder, "tf-idf") and start(folder, "tf-idf", "--busy", "2")
    assert (alone.busy, beside.busy) == (0, 2) and alone.score == beside.score == 100
    assert {*psutil.Process().children()} <= others


@pytest.mark.slow
def test_a_rival_runs_with_the_interpreter_that_is_named(folder):
    link = folder / "python"
    link.write_text(f'#!/bin/sh\ntouch {folder}/asked\nexec {sys.executable} "$@"\n')
    link.chmod(0o755)
    (words,) = start(folder, "tf-idf", "--python", f"tf-idf={link}")
    assert words.score == 100 and (folder / "asked").exists()
    for wrong in ("nobody=python", "tf-idf=missing"):
        with pytest.raises(SystemExit):
            start(folder, "tf-idf", "--python", wrong)


def test_the_interpreter_of_a_rival_says_which_packages_it_has(folder):
    bare = folder / "bare"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    found = [decisions.has(*asked) for asked in ((sys.executable, "yaml.nodes"), (str(bare), "yaml.nodes"))]
    assert found == [True, False] and decisions.has(str(bare), "json")


def test_a_table_without_its_data_is_skipped(folder, capsys):
    decisions.main(["--tables", "two_authors", "--data-dir", str(folder), "--out", str(folder / "out")])
    said = capsys.readouterr()
    assert "two_authors: skipped" in said.err and "no runs yet" in said.out and not (folder / "out/runs.jsonl").exists()


def test_ours_is_compared_with_the_best_and_with_each_on_the_tables_that_both_answered():
    runs = (
        run("a", "peft", 90.5), run("a", "try", 90.0, minutes=10), run("a", "trainer", 80.0),
        run("b", "peft", 71.0), run("b", "try", 70.0, minutes=10), run("b", "trainer", 60.0),
        run("c", "peft", None, why="not installed"), run("c", "try", 50.0, minutes=10), run("c", "trainer", 40.0),
    )  # fmt: skip
    printed = page(*runs)
    assert "within 0.5 points of the best of the others, or better, on 2 of 3 tables." in printed
    assert "begin with the weights of `base`" in printed and "first learning rates" not in printed
    # In the order of the rivals. Differences of -0.5 and -1: mean -0.75, and 12.706 standard errors of 0.25 beside it.
    assert section(printed, "### try, 10 min, beside the others") == [
        [["trainer", "3", "10.0", "10.0 to 10.0"], ["peft", "2", "−0.8", "−3.9 to 2.4"]]
    ]
    assert "Without a score: peft on 1 table: not installed" in printed
    found = aims(*runs)
    # Of twelve tables eleven can still hold.
    assert aim(found, "within 0.5 points") == ["open", "2 of 3 tables (9 of 12 not measured)"]
    assert aim(found, "`trainer`") == ["open", "10.0 (10.0 to 10.0) on 3 tables (9 of 12 not measured)"]
    assert aim(found, "`peft`") == ["open", "−0.8 (−3.9 to 2.4) on 2 tables (9 of 12 not measured)"]
    assert aim(found, "`optuna`") == aim(found, "300 rows") == ["not measured", "–"]
    assert "0 met, 1 missed, 3 open, 9 not measured: the tables" in printed


def test_tables_whose_trials_set_the_rates_of_try_are_told_from_the_others():
    found = page(
        *(run(name, "try", 80.0, minutes=10) for name in ("cola", "rte", "sst2", "stsb")),
        *(run(name, "peft", value) for name, value in (("cola", 70.0), ("rte", 80.5), ("sst2", 90.0), ("stsb", 80.6))),
    )
    assert (
        "on 2 of 4 tables.** The first learning rates of `try` were set by trials on the training rows of cola and sst2"
        in found
    )
    assert "on the others it is as near on 1 of 2." in found


def beside_peft(*gaps):
    """Results of the aims for these leads of `try` over PEFT's LoRA, a table each."""
    both = [(name, gap) for name, gap in zip(DEFAULTS, gaps, strict=False)]
    tried = [run(name, "try", 80.0 + gap, minutes=10) for name, gap in both]
    found = aims(*tried, *(run(name, "peft", 80.0) for name, _ in both))
    return [aim(found, words) for words in ("within 0.5 points", "`peft`")]


def test_an_aim_is_open_until_the_tables_that_lack_cannot_decide_it():
    assert len(DEFAULTS) == 12
    # Of twelve tables, nine tenths are eleven.
    assert beside_peft(*[1.0, 2.0] * 5) == [
        ["open", "10 of 10 tables (2 of 12 not measured)"], ["open", "1.5 (1.1 to 1.9) on 10 tables (2 of 12 not measured)"],
    ]  # fmt: skip
    assert beside_peft(*[1.0] * 11)[0] == ["met", "11 of 11 tables (1 of 12 not measured)"]
    assert beside_peft(-1.0, -2.0) == [
        ["**missed**", "0 of 2 tables (10 of 12 not measured)"],
        ["open", "−1.5 (−7.9 to 4.9) on 2 tables (10 of 12 not measured)"],
    ]  # fmt: skip
    assert beside_peft(1.0) == [
        ["open", "1 of 1 table (11 of 12 not measured)"], ["open", "1.0 (–) on 1 table (11 of 12 not measured)"],
    ]  # fmt: skip
    # With all tables measured, a lead is shown or missed.
    assert beside_peft(*[1.0, 2.0] * 6)[1] == ["met", "1.5 (1.2 to 1.8) on 12 tables"]
    assert beside_peft(*[0.5, -0.5] * 6) == [
        ["met", "12 of 12 tables"],
        ["**missed**", "0.0 (−0.3 to 0.3) on 12 tables"],
    ]


def test_a_try_without_a_model_is_behind_and_a_rival_with_other_minutes_is_not_counted():
    runs = (
        run("a", "try", 90.0, minutes=3), run("a", "optuna", 80.0, minutes=3), run("a", "optuna", 95.0, minutes=10),
        run("b", "try", None, minutes=3, why="no result"), run("b", "optuna", 80.0, minutes=3),
    )  # fmt: skip
    printed = page(*runs)
    assert "or better, on 1 of 2 tables." in printed
    assert section(printed, "### try, 3 min, beside the others") == [[["optuna", "1", "10.0", "–"]]]
    assert aim(aims(*runs), "`optuna`") == [
        "**missed**",
        "10.0 (–) on 1 table, no model on 1 table (10 of 12 not measured)",
    ]


def test_a_run_keeps_its_time_with_a_tenth_more():
    runs = (
        run("a", "try", 1.0, minutes=10, seconds=660.0, load=0.5), run("b", "try", 1.0, minutes=10, seconds=661.0),
        run("b", "peft", 1.0, seconds=900.0), run("c", "try", None, minutes=10, why="no result"),
        run("a", "try", 1.0, minutes=10, seconds=660.0, busy=2),
    )  # fmt: skip
    alone, beside = (tables(part.split("\n#")[0]) for part in page(*runs).split("### Time\n")[1:])
    assert alone == [[["a", "11.0 busy", "–"], ["b", "11.0 late", "15.0"], ["c", "no model", "–"]]]
    assert beside == [[["a", "11.0"]]]
    found = aims(*runs)
    assert aim(found, "without busy loops") == ["**missed**", "1 of 3 tables (9 of 12 not measured)"]
    assert aim(found, "beside busy loops") == ["open", "1 of 1 table (3 of 4 not measured)"]


def test_runs_beside_busy_loops_and_cut_tables_have_sections_of_their_own():
    printed = page(
        run("a", "try", 90.0, minutes=10), run("a", "peft", 80.0), run("a", "try", 10.0, minutes=10, busy=1),
        run("a", "try", 70.0, minutes=3, rows=300, seconds=190.0), run("b", "try", 70.0, minutes=3, rows=300, seconds=199.0),
    )  # fmt: skip
    assert section(printed, "## Whole tables\n\n### Score of the delivered model") == [
        [["a", "accuracy", "90.0", "80.0"]]
    ]
    assert section(printed, "## Tables cut to 300 rows\n\n### Score of the delivered model")[0][0] == [
        "a",
        "accuracy",
        "70.0",
    ]
    assert "## Whole tables, beside 1 busy loop\n" in printed
    (small,) = (row for row in section(printed, "## Aims")[0] if row[0].startswith("300 rows"))
    assert small[1:] == ["**missed**", "1 of 2 tables (2 of 4 not measured)"]


def test_regret_is_what_the_chosen_method_loses_to_the_best_of_contest(monkeypatch):
    means = {name: {"full": 80.0, "lora_all": 78.5, "lora_qv": 81.0} for name in "abcdefg"}
    monkeypatch.setattr(decision_page, "_contest", lambda model: means)
    of_try = {"minutes": 10, "compared": ["full", "lora_all"], "expected_loss": 0.4}
    good = [run(name, "try", 80.0, chosen="full", at_most=0.5, **of_try) for name in "abcdef"]
    runs = [*good, run("g", "try", 80.0, chosen="lora_all", at_most=1.4, **of_try)]
    assert section(page(*runs), "### Regret of the adopted method")[0][-2:] == [
        ["try, 10 min", "f", "full", "1.0", "0.4", "0.5"], ["try, 10 min", "g", "lora_all", "2.5", "0.4", "1.4"],
    ]  # fmt: skip
    found = aims(*runs)
    # Of nine tables eight are too few.
    assert aim(found, "to the best of `contest`") == ["**missed**", "6 of 7 tables (2 of 9 not measured)"]
    # Of those compared, `full` loses nothing, and `lora_all` 1.5.
    assert aim(found, "stated 90 % bound") == ["open", "6 of 7 tables (2 of 9 not measured)"]


def test_the_runs_of_contest_tell_the_regret_on_its_tables():
    found = section(
        page(run("cola", "try", 80.0, minutes=10, chosen="full", model="minilm-l6-roberta")),
        "### Regret of the adopted method",
    )
    assert found[0][0][:3] == ["try, 10 min", "cola", "full"] and 0 <= float(found[0][0][3]) < 20


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


@pytest.mark.slow
def test_questions_of_qnli_are_trained_on_or_asked():
    table = TABLES["qnli"](shared("data", "glue", "qnli").parents[1])
    assert len(table.pool) >= table.rows == 1_500 and len(table.test) > 3_000
    learned, asked = ({texts[0] for texts, _ in rows} for rows in (table.pool, table.test))
    assert not learned & asked and {label for _, label in table.test} == {"entailment", "not_entailment"}
