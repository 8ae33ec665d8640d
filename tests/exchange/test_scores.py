"""Scores of anybody's: what is read and guessed, what is refused, and that the answer is the one that reports give."""

import copy
import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pydantic
import pytest

from lora_bench import judge
from lora_bench.cli import main
from lora_bench.errors import LoraBenchError
from lora_bench.exchange.scores.single_runs import p_of_items
from lora_bench.records.store import read_records
from lora_bench.report import Report
from lora_bench.report.model.pool import pool
from tests.exchange.test_peft_results import LORA, full, result

ROOT = Path(__file__).parents[2]
# Ten seeds, the same for both: b is five points above a, and c is a again.
SEEDS = np.random.default_rng(0).normal(0.7, 0.01, 10)
NOISE = np.random.default_rng(1).normal(0, 0.002, (3, 10))
MEANS = {"a": 0.0, "b": 0.05, "c": 0.0}


def rows(tasks=("sst2",), methods=MEANS, seeds=10, unit=1.0):
    return [
        {
            "method": method,
            "task": task,
            "seed": seed,
            "accuracy": round(float(unit * (SEEDS[seed] + gain + noise[seed])), 6),
        }
        for task in tasks
        for (method, gain), noise in zip(methods.items(), NOISE, strict=False)
        for seed in range(seeds)
    ]


def write(path, table):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*table[0]])
        writer.writeheader()
        writer.writerows(table)
    return path


def text(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def items(right, methods=("a", "b"), seeds=(0,), task="sst2"):
    """A row for each item: method m is right on items below right[m]."""
    return [
        {"method": method, "task": task, "seed": seed, "item": f"q{item}", "correct": int(item < upto)}
        for method, upto in zip(methods, right, strict=True)
        for seed in seeds
        for item in range(100)
    ]


def test_a_table_of_scores_gives_the_answer_and_the_places_of_a_report():
    found = judge(rows())
    assert found.winner == "b" and found.answer.startswith("Take b: most likely the best of 3")
    assert "Compared with a, b is better, by at least" in found.answer
    places = found.verdicts.set_index("label")
    assert list(places.loc["b", ["rank_best", "rank_worst", "ranked"]]) == [1, 1, 3]
    assert list(places.loc["c", ["rank_best", "rank_worst", "ranked"]]) == [2, 3, 3]


def test_every_form_of_a_table_gives_one_answer(tmp_path):
    import pandas

    table = rows(tasks=("cola", "sst2"))
    frame = pandas.DataFrame(table)
    frame.to_parquet(tmp_path / "x.parquet")
    (tmp_path / "x.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in table))
    (tmp_path / "x.json").write_text(json.dumps(table))
    forms = [
        table, frame, {name: list(frame[name]) for name in frame}, write(tmp_path / "x.csv", table), tmp_path / "x.parquet",
        tmp_path / "x.jsonl", tmp_path / "x.json",
    ]  # fmt: skip
    assert len({judge(form).answer for form in forms}) == 1


def test_per_cents_are_the_same_scores():
    shares, per_cents = judge(rows()), judge(rows(unit=100))
    assert shares.answer == per_cents.answer
    assert any("per cent" in line for line in per_cents.said) and any("a share of 1" in line for line in shares.said)


def test_a_column_a_task_is_read_as_papers_print_it(tmp_path):
    long = rows(tasks=("CoLA", "SST-2"))
    wide = {}
    for row in long:
        wide.setdefault((row["method"], row["seed"]), {"Method": row["method"], "seed": row["seed"]})[row["task"]] = (
            row["accuracy"]
        )
    found = judge(write(tmp_path / "paper.csv", [{**row, "Avg": 0.5, "params": 10} for row in wide.values()]))
    assert "tasks: columns `CoLA`, `SST-2`" in found.said
    assert found.answer == judge(long).answer


def test_a_score_is_known_behind_the_words_of_its_data():
    found = judge(
        [{("Best Val Acc (%)" if key == "accuracy" else key): of for key, of in row.items()} for row in rows()]
    )
    assert "score: column `Best Val Acc (%)`" in found.said and found.winner == "b"


def test_columns_can_be_named_and_a_wrong_name_has_the_nearest(tmp_path):
    table = [{"who": row["method"], "what": row["task"], "again": row["seed"], "n": row["accuracy"]} for row in rows()]
    path = write(tmp_path / "x.csv", table)
    with pytest.raises(LoraBenchError, match="no column is named like a method"):
        judge(path)
    named = {"method": "who", "task": "what", "seed": "again", "score": "n"}
    assert judge(path, **named).answer == judge(rows()).answer
    with pytest.raises(LoraBenchError, match="did you mean 'again'"):
        judge(path, **{**named, "seed": "agian"})


def test_a_task_with_one_method_leaves_the_choice_to_the_others():
    alone = [{**row, "task": "mine"} for row in rows(methods={"a": 0.0})]
    found = judge([*rows(tasks=("cola", "sst2")), *alone])
    assert found.answer.startswith("Take b: most likely the best of 3, in the mean of 2 tasks")
    # The further task of a is in none of the means, which are beside each other.
    shown = found._repr_html_()
    assert "(mean of 2 tasks)" in shown and "of 3)" not in shown


def test_a_method_without_a_score_on_a_task_is_named_and_has_no_mean_beside_the_others():
    table = [row for row in rows(tasks=("cola", "sst2")) if (row["method"], row["task"]) != ("c", "cola")]
    found = judge(table)
    assert "best of 2, in the mean of 2 tasks" in found.answer
    assert "Left out of the choice: c (no score on cola)." in found.answer
    scores = {line.label: line.score for line in found.report.overview.lines}
    assert scores["c"] is None and scores["b"] > scores["a"]


_TWO_AND_ONE = [("a", 1, 0.80), ("a", 2, 0.82), ("b", 1, 0.70)]


def test_two_runs_of_one_method_tell_nothing_of_a_method_with_one():
    table = [{"method": method, "seed": seed, "accuracy": value} for method, seed, value in _TWO_AND_ONE]
    found = judge(table).answer
    assert found.startswith("Take a: its mean over the seeds that all have is the best; one such seed does not tell")
    assert "no two have more than one seed in common, and one run does not tell a method from its seed" in found


def test_methods_whose_seeds_all_agree_on_a_task_are_said_to_need_more_than_seeds():
    steps = {"a": (0, 1, 2, 1, 0), "b": (1, 0, 2, 0, 1), "c": (2, 0, 0, 0, 1), "d": (0, 1, 2, 2, 1)}

    def accuracy(method, task, step):
        agrees = task == "rte" and method in "ab"
        return (0.7 if method == "d" else 0.8) + (0 if agrees else 0.01 * step)

    table = [
        {"method": method, "task": task, "seed": seed, "accuracy": accuracy(method, task, step)}
        for method, of in steps.items() for task in ("rte", "sst2") for seed, step in enumerate(of)
    ]  # fmt: skip
    said = "seeds c is not shown to be equivalent; b cannot be while all seeds agree on a task."
    assert said in judge(table, reference="a").answer


def test_seeds_that_all_differ_alike_tell_no_loss_and_a_tie_no_method_to_take():
    means = {"a": 0.7, "b": 0.75}
    table = [{**row, "accuracy": means[row["method"]]} for row in rows(methods=means)]
    known = "all seeds gave the same differences between methods, which do not tell what it may lose."
    shifted = judge([{**row, "accuracy": row["accuracy"] + row["seed"] / 100} for row in table])
    found = judge(table)
    for same in (found, shifted):
        assert same.answer.startswith(f"Take b: its mean is the best; {known}")
    assert "all seeds gave the same difference, which tells nothing of others" in found.answer
    tie = judge([{**row, "accuracy": 0.7} for row in table])
    assert tie.winner is None and "Take" not in tie.answer


def test_runs_that_repeat_others_are_named_first():
    tasks = ("cola", "sst2")
    table = rows(tasks=tasks)
    assert "Copies" not in judge(table).answer
    first = {(row["method"], row["task"], row["seed"]): row["accuracy"] for row in table}
    copied = [
        {**row, "accuracy": first["b", row["task"], row["seed"] % 5]} if row["method"] == "b" else row for row in table
    ]
    assert judge(copied).answer.startswith("Copies: 5 of the 10 runs of b have the same results as another run")
    # One task whose scores agree is no sign of a copy, but all its items are.
    assert "Copies" not in judge([row for row in copied if row["task"] == "cola"]).answer
    assert "Copies: 3 of the 4 runs of a and 3 of the 4 runs of b" in judge(items((60, 90), seeds=range(4))).answer


def test_two_methods_with_the_same_scores_are_asked_about_where_scores_have_many_values():
    def answer(step, shared, collapsed=()):
        """The answer on four methods at five seeds, of which the second shares some scores of the first."""
        draws = np.random.default_rng(0).normal(0.8, 0.03, (4, 5))
        draws[1, shared] = draws[0, shared]
        draws[:2, collapsed] = 0.5
        steps = np.round(draws / step) * step
        return judge([
            {"method": method, "task": "sst2", "seed": seed, "accuracy": score}
            for method, own in zip("abcd", steps, strict=True) for seed, score in enumerate(own)
        ]).answer  # fmt: skip

    said = "a and b have the same score at 4 of 5 seeds of sst2: one may be a copy of the other."
    assert said in answer(0.0001, [0, 1, 2, 4])
    assert "copy" not in answer(0.0001, [0, 1])
    # Of 20 items: four steps hold nearly all scores. And a run that learned nothing has the score of the majority class.
    assert "copy" not in answer(0.05, [0, 1, 2, 4])
    assert "copy" not in answer(0.0001, [0], collapsed=[1, 2, 3])


def test_the_claim_that_a_collapse_to_0_would_cancel_first_is_named_and_no_rate_is_excluded(tmp_path):
    found = judge(rows(methods={"a": 0.0, "b": 0.05}))
    assert "The verdict holds unless b collapses to a score of 0 in over" in found.answer
    both = judge(rows(methods={"a": 0.1, "b": 0.05, "c": 0.0}), reference="a")
    easily = "The verdict most easily cancelled, that on b, holds unless a collapses to a score of 0"
    assert easily in both.answer
    (page,) = [path.read_text() for path in both.write_report(tmp_path) if path.suffix == ".md"]
    assert "rule out" not in page and "collapses in over" in page and "% excluded)" not in page


def test_a_mean_over_tasks_claims_no_margin_where_a_task_has_no_spread():
    noise = 0.0005 * np.array([1, -1, 2, -2, 0.5, -0.5, 1.5, -1.5, 0.2, -0.2])

    def verdict(on_first):
        table = [
            {"method": method, "task": task, "seed": seed, "accuracy": 0.9 + seed / 512 + own * (method == "b")}
            for method in ("a", "b") for task, each in (("x", on_first), ("y", noise)) for seed, own in enumerate(each)
        ]  # fmt: skip
        ((_, found),) = [of.methods for of in judge(table).report.judged.over_tasks]
        return found.verdict

    assert verdict(noise[::-1]).unless_collapse == "equivalent"
    # On one task all seeds agree, as where all models are right on everything: nobody knows of other seeds.
    assert (verdict(0 * noise).unless_collapse, verdict(0 * noise).margin) == (None, None)


def test_a_choice_names_the_method_with_the_best_mean_where_it_takes_another():
    # Means of 0.8992 and 0.8990: the runs of one vary so much that its mean is not drawn towards those of others.
    scores = {
        "even": [0.908, 0.89, 0.902, 0.898, 0.898], "uneven": [0.893, 0.838, 0.892, 0.873, 0.999],
        "plain": [0.9, 0.898, 0.898, 0.896, 0.895], "weak": [0.698, 0.702, 0.699, 0.704, 0.699],
    }  # fmt: skip
    lead = judge([
        {"method": method, "task": "x", "seed": seed, "accuracy": score}
        for method, runs in scores.items() for seed, score in enumerate(runs)
    ]).answer.splitlines()[0]  # fmt: skip
    assert lead.startswith("Take uneven: expected") and lead.endswith(
        "even has the best mean; it is expected to lose more if methods score alike, as they usually do."
    )


def test_a_shown_difference_whose_interval_reaches_0_is_explained(tmp_path):
    # By Holm's procedure the level of the second of two comparisons is that of one, and intervals have half of it.
    noise = np.array([-1, 1] * 5) * 0.01
    table = [
        {"method": method, "seed": seed, "score": 0.5 + gain + own}
        for method, gain, spread in (("a", 0.0, 0.0), ("b", 0.2, 1.0), ("c", 0.0082, 1.0))
        for seed, own in enumerate(spread * noise)
    ]
    said = "A difference may be shown though its interval reaches 0"
    for own, explained in ((table, True), (table[:20], False)):
        found = judge(own)
        (page,) = [path.read_text() for path in found.write_report(tmp_path) if path.suffix == ".md"]
        verdicts = {held.row.label: held.verdict for held in found.report.judged.held}
        assert all(verdict.verdict == "better" for verdict in verdicts.values())
        assert any(verdict.simultaneous.low <= 0 for verdict in verdicts.values()) == (said in page) == explained


def test_a_loss_is_better_if_it_is_lower_and_has_a_unit_of_its_own():
    table = [{**row, "loss": 3 - row["accuracy"]} for row in rows()]
    for row in table:
        del row["accuracy"]
    found = judge(table)
    assert found.winner == "b" and "lower is better: by the name `loss`" in found.said
    assert "or under" in found.answer and "above it" in found.answer
    assert judge(table, lower_is_better=False).winner != "b"


def test_a_metric_of_ours_on_another_scale_has_no_margin_of_ours():
    (held,) = judge(rows(methods={"a": 0.0, "b": 0.05}, unit=3), scale="own").report.judged.held
    assert held.verdict.margin is None and held.verdict.difference == pytest.approx(0.15, abs=0.01)


def test_methods_are_paired_by_the_seeds_that_both_have_and_it_is_said():
    table = [row for row in rows() if (row["method"], row["seed"]) not in (("b", 3), ("b", 4))]
    found = judge(table)
    assert found.said[-1].startswith("seeds that others have and a method lacks: b 2;")
    assert list(found.verdicts.set_index("label").loc["b", ["n", "pairs"]]) == [8, 8]


def test_a_row_that_stands_twice_counts_once_and_an_empty_score_is_a_failed_run():
    table = rows()
    found = judge([*table, table[0], {**table[0], "seed": 99, "accuracy": None}])
    assert "1 repeated row with the same score: counted once" in found.said
    first = found.verdicts.set_index("label").loc["a"]
    assert (first["n"], first["failed"]) == (10, 1)
    on_items = items((60, 90))
    assert "1 repeated row with the same score: counted once" in judge([*on_items, on_items[3]]).said


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["method,seed,accuracy", "a,0,.5", "a,0,.6"],
         ["bad.csv:3: accuracy: 0.6 for a, seed 0, which has 0.5 in line 2"]),
        (["method,accuracy", "a,.5", "a,.6"],
         ["bad.csv:3: accuracy: 0.6 for a, which has 0.5 in line 2; say which column tells runs apart with --seed or --task"]),
        (["method,accuracy", "a,.5", "b,good", "c,1e999"],
         ["bad.csv:3: accuracy: 'good' is no finite number", "bad.csv:4: accuracy: '1e999' is no finite number"]),
        (["method,accuracy", "a,.5", "b,nan"], ["bad.csv:3: accuracy: 'nan' is no finite number"]),
        (["method,accuracy", "a,.91", "b,.92", "c,93"], ["bad.csv:4: accuracy: 93 is no share among shares of 1"]),
        (["method,accuracy", "a,91.5%", "b,92%"], ["bad.csv: '91.5%' in column `accuracy` is no number"]),
        (["method,accuracy", *["a,good"] * 12, "b,.5"],
         [*[f"bad.csv:{line}: accuracy: 'good' is no finite number" for line in range(2, 12)], "and 2 more"]),
        (["method,seed,accuracy", "a,0,92.43", "a,0,85.5"],
         ["bad.csv:3: accuracy: 85.5 for a, seed 0, which has 92.43 in line 2"]),
        (["method,task,metric,score", "a,x,acc,.5", "a,x,f1,.4"], ["x has different scores, accuracy, f1: judge them apart"]),
        (["method,accuracy", "a,91.5", "b,.92"], ["bad.csv:3: accuracy: 0.92 is a share among per cents"]),
        (["method,accuracy", "a,.5", "b,.6,7"], ["bad.csv:3: has 3 values, but there are 2 columns"]),
        (["method,accuracy", "", ",.5"], ["bad.csv:3: method: there is no method"]),
        (["method,accuracy"], ["bad.csv: has no row below the names of its columns"]),
        (["method,method,accuracy", "a,b,.5"], ["bad.csv: has the column 'method' twice"]),
        ([], ["bad.csv: is empty"]),
        (["method,item,correct", "a,x,1", "a,y,0", "b,x,1"],
         ["bad.csv:4: item: b lacks item y, unlike a; all runs of a task need the same items"]),
        (["method,item,correct", "a,x,1", "a,x,0"], ["bad.csv:3: item: x stands twice in a, first in line 2"]),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_in_a_line_with_its_place(lines, said, tmp_path, capsys):
    path = text(tmp_path / "bad.csv", *lines)
    assert main(["judge", str(path)]) == 2
    faults = capsys.readouterr().err.splitlines()
    assert len(faults) == len(said)
    assert all(words in fault for fault, words in zip(faults, said, strict=True))


@pytest.mark.parametrize("name", ["x.pkl", "x.xlsx", "x"])
def test_a_file_of_another_format_is_not_opened(name, tmp_path):
    with pytest.raises(LoraBenchError, match="has no known suffix"):
        judge(text(tmp_path / name, "cos", "system"))


def test_what_a_task_measures_is_read_from_its_column():
    of_task = {"cola": "mcc", "sst2": "acc", "lm": "loss"}
    table = [{**row, "measure": of_task[row["task"]], "note": "x"} for row in rows(tasks=of_task)]
    table = [{"value": row.pop("accuracy"), **row} for row in table]
    found = judge(table)
    assert "what each task's score is: column `measure`" in found.said and "columns not read: `note`" in found.said
    tasks = {one.spec.task.name: one.spec.task for one in found.report.records}
    assert {name: (task.shown_metric, task.higher_is_better) for name, task in tasks.items()} == {
        "cola": ("matthews_correlation", True),
        "sst2": ("accuracy", True),
        "lm": ("loss", False),
    }
    # Without the loss, both are named on the first screen.
    assert (
        "mean of matthews correlation and accuracy"
        in judge([row for row in table if row["task"] != "lm"])._repr_html_()
    )


def test_per_cents_stay_per_cents_where_a_correlation_is_below_zero():
    per_cents = rows(tasks=("sst2",), unit=100)
    cola = [{**row, "task": "mcc", "accuracy": row["accuracy"] - 72} for row in per_cents]
    assert min(row["accuracy"] for row in cola) < -1
    found = judge([*per_cents, *cola])
    assert any("per cent" in line for line in found.said)
    assert any("as a score is below 0" in line for line in judge([{**row, "task": "x"} for row in cola]).said)


@pytest.mark.parametrize("given", ["{}", '{"results": {"gsm8k": {"acc": 0.5}}}'])
def test_json_of_another_form_is_named_in_its_folder(given, tmp_path):
    write(tmp_path / "a.csv", rows())
    with pytest.raises(LoraBenchError, match=r"x\.json: is JSON of no known form") as refused:
        judge(tmp_path.joinpath("x.json").write_text(given) and tmp_path)
    assert ("--log_samples" in str(refused.value)) == ("results" in given)


def test_a_column_under_two_names_in_two_files_is_one_score(tmp_path):
    other = [{"method": "d", "seed": row["seed"], "acc": row["accuracy"]} for row in rows(methods={"a": 0.0})]
    own = [{key: row[key] for key in ("method", "seed", "accuracy")} for row in rows()]
    assert set(judge(write(tmp_path / "x.csv", own), write(tmp_path / "y.csv", other)).verdicts["label"]) == {
        *MEANS,
        "d",
    }


def test_draws_are_called_by_their_column_and_seeds_that_are_lacking_count_once_over_tasks():
    table = [{**row, "split": row["seed"] + 100 * (row["method"] == "b")} for row in rows(tasks=("cola", "sst2"))]
    for row in table:
        del row["seed"]
    said = judge(table).said
    assert "what is called a seed is one of 20 values of `split`; runs are paired by it" in said
    assert said[-1].startswith("seeds that others have and a method lacks: a 10, b 10, c 10;")


def test_a_share_among_per_cents_may_be_meant(tmp_path):
    assert judge(text(tmp_path / "x.csv", "method,accuracy", "a,91.5", "b,.92"), scale="percent").winner is None


def test_one_run_each_names_no_method_and_still_shows_the_table(tmp_path, capsys):
    found = judge(rows(seeds=1))
    assert found.winner is None and "Take" not in found.answer
    assert found.answer.startswith("Nothing is shown of the methods: each has one run")
    without_seed = [{key: value for key, value in row.items() if key != "seed"} for row in rows(seeds=1)]
    assert main(["judge", str(write(tmp_path / "x.csv", without_seed))]) == 0
    said = capsys.readouterr().out
    assert "one run does not tell how another would score" in said
    assert all(f"{row['accuracy']:.4f}" in said for row in without_seed)


def test_single_runs_with_items_are_told_apart_as_runs_and_not_as_methods():
    found = judge(items((60, 90)))
    assert found.winner is None
    first, *_ = found.answer.split("\n\n")
    assert first == (
        "Of these runs, on new items like these (100): that of b scores highest, above 1 other. This says nothing of methods: "
        "each has one run."
    )
    assert "any of the 2 may score highest" in judge(items((60, 62))).answer
    assert "all 2 have the same result on every item" in judge(items((60, 60))).answer


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        # McNemar's exact test: 2 · (1/2)^5, and 2 · (1 + 6) / 2^6.
        ([1] * 5 + [0] * 95, 2 / 32),
        ([1] * 5 + [-1] + [0] * 94, 14 / 64),
        ([0] * 100, None),
        # Two of 2^6 patterns of signs.
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 2 / 64),
    ],
)
def test_two_runs_on_the_same_items_are_compared_exactly(differences, p):
    assert p_of_items(np.array(differences, dtype=float)) == (None if p is None else pytest.approx(p))


def test_verdicts_cover_new_items_where_results_on_items_are_given():
    generator = np.random.default_rng(0)
    table = [
        {"method": method, "seed": seed, "item": item, "correct": bool(generator.random() < chance)}
        for method, chance in (("a", 0.5), ("b", 0.8))
        for seed in range(5)
        for item in range(200)
    ]
    (held,) = judge(table).report.judged.held
    assert held.with_items and (held.verdict.verdict, held.verdict.pairs) == ("better", 5)


def test_the_page_says_nothing_of_what_scores_do_not_tell(tmp_path):
    table = rows(tasks=("cola", "sst2"))
    written = {path.suffix: path for path in judge(table).write_report(tmp_path, latex=True, figures="pdf")}
    assert r"\toprule" in written[".tex"].read_text() and written[".pdf"].read_bytes().startswith(b"%PDF-")
    page = written[".md"].read_text()
    for words in (
        "learning rate",
        "No suite",
        "not recorded",
        "unknown",
        "vouches",
        "Budget",
        "peak memory",
        "MiB",
        "weights",
        "budget",
    ):
        assert words not in page, words
    assert "| `b` |" in page and "1 of 3" in page and "Places of the methods" in page
    assert "method: column `method`" in page


def test_the_answer_as_json_has_the_choice_places_and_verdicts(tmp_path, capsys):
    assert main(["judge", str(write(tmp_path / "x.csv", rows(tasks=("cola", "sst2")))), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["take"], found["level"]) == ("b", "partly") and 0 <= found["expected_loss"]["expected"] < 0.01
    over = {row["label"]: (row["rank_best"], row["rank_worst"]) for row in found["over_tasks"]}
    assert over == {"a": (2, 3), "b": (1, 1), "c": (2, 3)}
    assert {row["task"] for row in found["tasks"]} == {"cola", "sst2"}


def test_names_of_a_strangers_table_do_nothing_on_the_page(tmp_path):
    table = [{**row, "method": f"<script>{row['method']}</script> [x](http://e.vil) ![]()"} for row in rows()]
    written = {path.suffix: path.read_text() for path in judge(table).write_report(tmp_path)}
    assert not re.search(r"<script>[abc]|(?<!\\)\]\(http", written[".md"])
    assert not re.search(r"<script>[abc]|href=.http://e", written[".html"])


def test_from_python_neither_torch_nor_pandas_is_imported():
    code = (
        "import sys; from lora_bench import judge; "
        f"judge({rows(seeds=4)!r}).answer; print([name for name in ('torch', 'pandas', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


COST = {"a": 1.0, "b": 50.0, "c": 2.0}


def costly(name="gpu hours", methods=MEANS, **given):
    return [{**row, name: COST[row["method"]] + row["seed"]} for row in rows(methods=methods, **given)]


def test_a_column_of_costs_is_guessed_shown_and_has_no_verdict(tmp_path, capsys):
    table = costly(tasks=("cola", "sst2"))
    assert main(["judge", str(write(tmp_path / "x.csv", table)), "--out", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert "cost: column `gpu hours`" in err
    # Ten seeds add 4.5 hours on average.
    assert [line.split()[2 + line.startswith(" a")] for line in out.splitlines() if re.match(" [abc] ", line)] == [
        "5.5", "54.5", "6.5"
    ]  # fmt: skip
    page = (tmp_path / "judge.md").read_text()
    assert "| method | accuracy (mean of 2 tasks) | gpu hours |" in page
    without = judge(rows(tasks=("cola", "sst2")))
    assert judge(table).verdicts.equals(without.verdicts) and judge(table).answer == without.answer


def test_of_methods_within_the_margin_the_cheap_one_is_taken_and_the_least_loss_is_named_with_its_cost():
    near = {"a": 0.0, "b": 0.051, "c": 0.05}
    found = judge(costly(methods=near))
    lead = found.answer.splitlines()[0]
    assert (
        found.winner == "c"
        and "the best for about the least cost within the margin of 0.5 points: 6.5 gpu hours" in lead
    )
    assert "The least loss is that of b: under 0.1 points, for 54.5 gpu hours." in lead
    assert "file" not in lead
    # Without a cost for each run nothing is chosen by costs.
    some = [{**row, "gpu hours": None if row["seed"] == 3 else row["gpu hours"]} for row in costly(methods=near)]
    assert judge(rows(methods=near)).winner == judge(some).winner == "b"
    assert (
        judge(costly("note", methods=near)).winner == "b"
        and judge(costly("note", methods=near), cost="note").winner == "c"
    )


def test_a_score_a_moment_or_a_rate_is_no_cost_and_a_cost_is_no_task(tmp_path, capsys):
    for name in ("start time", "timestamp", "step seconds", "tokens/sec", "samples per hour"):
        assert judge(costly(name)).report.given_costs is None
    with pytest.raises(LoraBenchError, match="did you mean 'gpu hours'"):
        judge(costly(), cost="gpu hour")
    wide = [
        {"method": row["method"], "seed": row["seed"], "cola": 0.5, "sst2": row["accuracy"], "price": 3.0}
        for row in rows()
    ]
    assert "tasks: columns `cola`, `sst2`" in judge(wide).said
    table = costly()
    table[2]["gpu hours"] = -1
    assert judge(table).report.given_costs is None
    assert main(["judge", str(write(tmp_path / "x.csv", table)), "--cost", "gpu hours"]) == 2
    assert "x.csv:4: gpu hours: '-1' is no cost" in capsys.readouterr().err


def test_the_cost_of_a_run_on_items_is_that_of_an_item_on_average(tmp_path, capsys):
    table = [{**row, "usd": 0.1 * (row["item"] in ("q0", "q1"))} for row in items((60, 90))]
    assert main(["judge", str(write(tmp_path / "x.csv", table)), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cost"] == {"column": "usd", "mean": {"a": pytest.approx(0.002), "b": pytest.approx(0.002)}}


def test_costs_of_two_names_in_two_files_are_not_compared(tmp_path):
    files = [
        write(tmp_path / f"{method}.csv", costly(name, methods={method: 0.0}))
        for method, name in (("a", "hours"), ("b", "seconds"))
    ]
    found = judge(*files)
    assert (
        found.report.given_costs is None and "costs are not read, as files have them in hours and seconds" in found.said
    )


def points(**by_task):
    """Ten seeds of a and b, which is better by these points on each task, with a spread of a tenth of one."""
    return [
        {"method": method, "task": task, "seed": seed, "accuracy": 0.6 + seed / 100 + gain + own}
        for task, of in by_task.items()
        for seed in range(10)
        for method, gain, own in (("a", 0.0, 0.0), ("b", of / 100, 0.001 * (-1) ** seed))
    ]


def test_on_new_tasks_a_difference_has_the_t_interval_of_the_tasks(tmp_path):
    found = judge(points(x=2.0, y=4.0, z=6.0))
    (claim,) = found.report.pooled.claims
    half = 4.302653 * 2 / 3**0.5
    assert (claim.found.estimate.value, claim.pairs) == (pytest.approx(4.0), 30)
    assert (claim.interval.low, claim.interval.high) == pytest.approx((4 - half, 4 + half))
    # t = 4 / (2 / √3), on two degrees of freedom.
    assert claim.p_value == pytest.approx(0.0742, abs=1e-4)
    assert "For new tasks like these 3: no difference is shown" in found.answer
    page = next(path for path in found.write_report(tmp_path) if path.suffix == ".md").read_text()
    assert "| `b` | `a` | 30 | +4.0 | −1.0 to +9.0 | 0.074 | +2.0 (`x`) to +6.0 (`z`), SD 2.0 |" in page
    # Differences, margins and ranks in each place and over tasks, and one family more.
    assert "and differences on new tasks the chance of any false claim on this page is at most 35 %" in page
    assert "For new tasks like these 3: shown, 1 of 1 comparison: b beats a by 4.0 points" in (
        judge(points(x=3.9, y=4.0, z=4.1)).answer
    )


def test_nothing_is_said_of_new_tasks_by_one_task_or_copies_of_it():
    for table in (points(x=2.0), points(x=2.0, y=2.0), [row for row in points(x=2.0, y=4.0) if row["seed"] == 0]):
        assert judge(table).report.pooled is None and "new tasks" not in judge(table).answer


def test_scores_of_records_say_on_new_tasks_what_the_pool_of_the_records_says():
    records = read_records(ROOT / "baselines" / "glue-small")
    table = [
        {
            "method": one.spec.method.label, "task": one.spec.task.name, "base model": one.spec.model.shown,
            "seed": one.spec.seed, "metric": one.spec.task.metric, "score": one.judged_score,
        }
        for one in records
        if one.spec.score_on == "test"
    ]  # fmt: skip
    found = judge(table).report
    suite = pool([Report(records, name="glue-small")], reference=found.judged.analysis.reference).claims
    assert len(suite) == 3
    for own, theirs in zip(found.pooled.claims, suite, strict=True):
        assert (own.first, own.second, own.model, own.pairs) == (
            theirs.first,
            theirs.second,
            theirs.model,
            theirs.pairs,
        )
        assert own.found.tasks == pytest.approx(theirs.found.tasks) and own.p_value == pytest.approx(theirs.p_value)
        assert (own.interval.low, own.interval.high) == pytest.approx((theirs.interval.low, theirs.interval.high))


def test_two_seeds_alike_to_the_last_digit_on_three_tasks_are_asked_about():
    three = rows(tasks=("cola", "mnli", "sst2"))
    first = {(row["method"], row["task"], row["seed"]): row["accuracy"] for row in three}
    copied = [
        {**row, "accuracy": first["b", row["task"], 3]} if (row["method"], row["seed"]) == ("b", 7) else row
        for row in three
    ]
    said = "Copies? The results of seeds 3 and 7 of b are equal to the last digit, on all tasks."
    assert judge(copied).answer.startswith(said) and "Copies" not in judge(three).answer
    # On two tasks chance may do it, as on 20 items.
    assert "Copies" not in judge([row for row in copied if row["task"] != "mnli"]).answer
    for number, asked in ((20, False), (21, True)):
        table = [
            {"method": method, "seed": seed, "item": item, "score": (0 if seed == 2 else seed) + item / 7 + (method == "b")}
            for method in ("a", "b") for seed in (0, 1, 2, 3, 4) for item in range(number)
        ]  # fmt: skip
        assert ("Copies? The results of seeds 0 and 2 of a" in judge(table).answer) == asked


def test_tasks_on_which_all_seeds_score_the_same_are_no_sign_of_a_copy(tmp_path):
    # At 100 % on two tasks, chance may give two seeds of the third one score.
    three = rows(tasks=("cola", "mnli", "sst2"))
    perfect = [{**row, "accuracy": row["accuracy"] if row["task"] == "sst2" else 1.0} for row in three]
    same = [{**row, "accuracy": 0.7} if row["task"] == "sst2" and row["seed"] in (3, 7) else row for row in perfect]
    assert "Copies" not in judge(same).answer


def test_an_answer_before_the_others_has_no_bold_within_bold(tmp_path):
    copied = judge([row | {"accuracy": 0.7 + (row["seed"] % 5) / 100} for row in rows(tasks=("cola", "sst2"))])
    page = next(path for path in copied.write_report(tmp_path) if path.suffix == ".md").read_text()
    assert "**Copies: " in page and "****" not in page


def test_methods_with_the_same_scores_on_a_task_are_chosen_there_together():
    # b is best on sst2; on cola all three have 100 % at every seed.
    table = [{**row, "accuracy": 1.0} if row["task"] == "cola" else row for row in rows(tasks=("cola", "sst2"))]
    assert "Table by table the choice is any of a, b and c on cola; b on sst2." in judge(table).answer
    costs = {"a": 1.0, "b": 2.0, "c": 3.0}
    costly_table = [{**row, "price": costs[row["method"]]} for row in table]
    assert "Table by table the choice is a on cola; b on sst2." in judge(costly_table).answer


def test_pairs_that_differ_on_one_task_alone_are_counted_beside_new_tasks():
    # c is a on cola: that pair has a spread on sst2 only; b differs from a on both.
    tasks = rows(tasks=("cola", "sst2"))
    cola = {row["seed"]: row["accuracy"] for row in tasks if (row["method"], row["task"]) == ("a", "cola")}
    shift = {"b": 0.1, "c": 0.0}
    table = [
        {**row, "accuracy": cola[row["seed"]] + (0.001 * row["seed"] if row["method"] == "b" else 0.0)}
        if row["method"] in shift and row["task"] == "cola" else row for row in tasks
    ]  # fmt: skip
    assert "1 further comparison had runs that differ on one task alone." in judge(table).answer


def test_runs_without_a_score_are_no_copies():
    table = rows(tasks=("cola", "mnli", "sst2"))
    failed = [{**row, "accuracy": None} if row["method"] == "b" and row["seed"] > 4 else row for row in table]
    assert "Copies" not in judge(failed).answer


def test_names_that_differ_by_date_only_are_not_called_methods(tmp_path):
    dated = [{**row, "method": f"m 2026-01-0{1 + ord(row['method']) - ord('a')}T03-04-05.678"} for row in rows(seeds=1)]
    without_seed = [{key: value for key, value in row.items() if key != "seed"} for row in dated]
    for table in (dated, without_seed):
        said = judge(table).answer
        assert "they differ by date only" in said and "methods ran" not in said and "each has one run" not in said
    assert "and some differ by date only" in judge([*without_seed, {**without_seed[0], "method": "other"}]).answer


def samples(folder, right, *, date="2026-01-02T03-04-05.678901", filters=("strict-match",)):
    """A file of samples as lm-evaluation-harness writes it, of which the first *right* of 50 are right."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        {
            "doc_id": doc, "doc": {"idx": doc, "question": "?"}, "target": "1", "resps": [["1"]], "filtered_resps": ["1"],
            "filter": name, "metrics": ["exact_match"], "doc_hash": "a", "exact_match": float(doc < right + number),
        }
        for number, name in enumerate(filters)
        for doc in range(50)
    ]  # fmt: skip
    text(folder / f"samples_gsm8k_{date}.jsonl", *map(json.dumps, lines))


def test_samples_of_two_models_are_compared_item_by_item(tmp_path):
    samples(tmp_path / "org__small", 20, filters=("strict-match", "flexible-extract"))
    samples(tmp_path / "org__large", 40, filters=("strict-match", "flexible-extract"))
    found = judge(tmp_path)
    assert found.answer.startswith("Of these runs, on new items like these (50): that of org__large scores highest")
    assert "of several filters: `strict-match`" in found.said
    assert list(found.verdicts.set_index("label")["mean"].items()) == [("org__large", 0.8), ("org__small", 0.4)]


def test_another_metric_of_samples_can_be_named_but_no_column(tmp_path, capsys):
    for model, correct in (("small", 10), ("large", 40)):
        (tmp_path / model).mkdir()
        lines = [{"doc_id": doc, "acc": 1.0, "acc_norm": float(doc < correct), "brier": 0.5} for doc in range(50)]
        text(tmp_path / model / "samples_arc_2026-01-02T03-04-05.678901.jsonl", *map(json.dumps, lines))
    assert "all 2 have the same result" in judge(tmp_path).answer
    named = judge(tmp_path, score=["missing", "acc_norm"])
    assert "that of large scores highest" in named.answer and any("the score `acc_norm`" in line for line in named.said)
    lower = judge(tmp_path, score="acc_norm", lower_is_better=True)
    assert "that of small scores highest" in lower.answer
    with pytest.raises(LoraBenchError, match="unknown result 'acc_nrm'; did you mean 'acc_norm'"):
        judge(tmp_path, score="acc_nrm")
    assert main(["judge", str(tmp_path), "--item", "doc_hash"]) == 2
    assert "is no table, and says itself what --item names: leave it out" in capsys.readouterr().err


def test_samples_of_one_model_at_two_dates_are_two_runs_by_their_dates(tmp_path):
    samples(tmp_path / "org__small", 20)
    samples(tmp_path / "org__small", 21, date="2026-01-03T03-04-05.678901")
    labels = set(judge(tmp_path).verdicts["label"])
    assert labels == {f"org__small 2026-01-0{day}T03-04-05.678901" for day in (2, 3)}

    samples(tmp_path / "org__small", 20, date="2026-01-03T03-04-05.678901")
    same = judge(tmp_path).answer
    assert "like these (50): no difference is shown, as all 2 have the same result on every item." in same
    assert "nothing of methods: each name has one run, and they differ by date only" in same


def test_samples_of_one_model_in_two_folders_of_outputs_are_two_runs(tmp_path):
    samples(tmp_path / "shots0" / "org__small", 20)
    samples(tmp_path / "shots2" / "org__small", 20, date="2026-01-03T03-04-05.678901")
    found = judge(tmp_path)
    assert "all 2 have the same result on every item" in found.answer and "date" not in found.answer
    assert set(found.verdicts["label"]) == {"shots0/org__small", "shots2/org__small"}


def test_the_name_of_a_score_says_no_per_cent_where_shares_are_shown(tmp_path):
    table = [{"best acc (%)": 100 * row.pop("accuracy"), **row} for row in rows(methods={"a": 0.0, "b": 0.05})]
    (page,) = [path.read_text() for path in judge(table).write_report(tmp_path) if path.suffix == ".md"]
    assert "| best acc |" in page


def test_a_method_expected_to_lose_as_much_as_the_one_to_take_is_named():
    table = rows(methods={"a": 0.0, "b": 0.05})
    like_b = [{**row, "method": "c", "accuracy": row["accuracy"] - 1e-6} for row in table if row["method"] == "b"]
    first = judge([*table, *like_b]).answer.partition("Compared")[0]
    assert first.endswith((" b is expected to lose as much.\n\n", " c is expected to lose as much.\n\n"))
    assert "expected to lose more" not in first
    assert "lose as much" not in judge(table).answer


def test_runs_that_are_alike_on_several_tasks_are_told_in_one_clause():
    tasks = [{**row, "task": task} for row in items((60, 60)) for task in ("cola", "sst2")]
    (first, *_) = judge(tasks).answer.split("\n\n")
    assert (
        "like these (100 a task): no difference is shown, as all 2 have the same result on every item on cola and sst2."
        in first
    )


def test_samples_whose_metric_is_no_number_an_item_are_refused_with_it(tmp_path):
    path = tmp_path / "samples_ner_2026-01-02T03-04-05.678901.jsonl"
    with pytest.raises(LoraBenchError, match="no result on an item: `f1` is a list"):
        judge(text(path, json.dumps({"doc_id": 0, "metrics": ["f1"], "f1": ["DATE", ["x"]]})))
    for metrics in ("f1", [["f1"]], None):
        with pytest.raises(LoraBenchError, match="has no `doc_id` with a number a metric"):
            judge(text(path, json.dumps({"doc_id": 0, "metrics": metrics, "f1": ["DATE"]})))


def test_tasks_without_a_common_method_are_told_and_the_table_is_that_of_the_reference():
    many = {f"m{number}": 0.8 + number / 100 for number in range(12)}
    other = [
        {"method": method, "task": "images", "seed": seed, "accuracy": gain}
        for method, gain in many.items()
        for seed in (0, 1)
    ]
    found = judge([*rows(), *other], reference="a")
    assert found.said[-1] == "judge apart from sst2, with which they share no method: images"
    table = found._repr_html_().partition("<tbody>")[2]
    assert all(f"<code>{method}</code>" in table for method in MEANS)
    assert not any("judge apart" in line for line in judge(rows(tasks=("cola", "sst2"))).said)


def test_several_files_have_the_name_of_the_first_and_their_number(tmp_path):
    files = [write(tmp_path / f"{method}.csv", rows(methods={method: 0.0})) for method in MEANS]
    page = next(path for path in judge(*files).write_report(tmp_path / "out") if path.suffix == ".md").read_text()
    assert page.startswith("# a and 2 others\n") and "/docs/" not in page


def test_what_is_not_compared_has_no_name_of_a_base_model_that_is_unknown(tmp_path):
    table = [*rows(tasks=("cola", "sst2")), *({**row, "task": "mine"} for row in rows(methods={"d": 0.0, "e": 0.0}))]
    page = next(path for path in judge(table).write_report(tmp_path) if path.suffix == ".md").read_text()
    assert "d on mine: a was not run there" in page and "on ," not in page


def test_results_of_peft_are_single_runs_of_its_experiments(tmp_path):
    result(tmp_path, LORA)
    result(tmp_path, full(), name="full.json")
    found = judge(tmp_path / "method_comparison")
    assert found.winner is None and "each has one run" in found.answer
    assert "measures not read: `forgetting`" in found.said
    scores = found.verdicts.set_index("label")["mean"]
    assert dict(scores) == {"lora/tiny-r4": 0.375, "full-finetuning/tiny": 0.375}


def test_results_of_peft_that_were_not_trained_alike_are_named_before_the_answer(tmp_path):
    def answer(**changed):
        run = full()
        run["run_info"]["train_config"].update(changed)
        result(tmp_path, run, name="full.json")
        return judge(tmp_path / "method_comparison").answer.split("\n\n")[0]

    for name in ("lora", "other"):
        of_name = copy.deepcopy(LORA)
        of_name["run_info"]["experiment_name"] = name
        result(tmp_path, of_name, name=f"{name}.json")
    usual = LORA["run_info"]["train_config"]
    alike = {name: usual[name] for name in ("max_steps", "optimizer_kwargs")}
    assert "Not trained alike" not in answer(**alike)
    steps = f"Not trained alike: steps {usual['max_steps']} for 2 methods, 7 for full-finetuning/tiny"
    assert answer(**alike | {"max_steps": 7}) == f"{steps}."
    rate = f"{usual['optimizer_kwargs']['lr']:.0e}".replace("e-0", "e-")
    rates = f"learning rate {rate} for 2 methods, 3e-5 for full-finetuning/tiny"
    kwargs = {**usual["optimizer_kwargs"], "lr": 3e-5}
    assert answer(max_steps=7, optimizer_kwargs=kwargs) == f"{steps}; {rates}."


def test_versions_of_libraries_are_compared_where_result_files_have_them(tmp_path):
    def answer(package_info):
        for name in ("lora", "other"):
            of_name = copy.deepcopy(LORA)
            of_name["run_info"]["experiment_name"] = name
            of_name["run_info"]["train_config"]["max_steps"] += name == "other"
            of_name["meta_info"]["package_info"] = package_info(name)
            result(tmp_path, of_name, name=f"{name}.json")
        return judge(tmp_path / "method_comparison").answer.split("\n\n")[0]

    steps = LORA["run_info"]["train_config"]["max_steps"]
    said = f"Not trained alike: steps {steps} for 1 method, {steps + 1} for other"
    assert answer(lambda name: {"torch-version": "2.9"}) == f"{said}."
    assert answer(lambda name: {"torch-version": "2.9" if name == "lora" else "2.8"}) == (
        f"{said}; torch 2.9 for 1 method, 2.8 for other."
    )
    assert answer(lambda name: {}) == f"{said}. Libraries were not compared."


def test_results_of_peft_cost_their_seconds_of_training(tmp_path, capsys):
    result(tmp_path, LORA)
    result(tmp_path, full(train_time=90.0), name="full.json")
    folder = str(tmp_path / "method_comparison")
    assert main(["judge", folder, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cost"] == {
        "column": "train_seconds", "mean": {"lora/tiny-r4": 30.0, "full-finetuning/tiny": 90.0},
    }  # fmt: skip
    result(tmp_path, full(train_time=None), name="full.json")
    assert judge(folder).report.given_costs.mean(judge(folder).report.overview.methods[0].places[0].row) is None
    assert main(["judge", folder, "--higher-is-better"]) == 2
    assert "says itself what --higher-is-better names" in capsys.readouterr().err


def log(model, score):
    """A log of Every Eval Ever with two results."""
    return {
        "schema_version": "0.2.2",
        "model_info": {"id": model, "name": model},
        "evaluation_results": [
            {
                "evaluation_name": name,
                "metric_config": {"lower_is_better": False, "min_score": 0.0, "max_score": greatest},
                "score_details": {"score": score * greatest},
            }
            for name, greatest in (("BBH", 1.0), ("GPQA", 100.0))
        ],
    }


def test_logs_of_every_eval_ever_are_checked_by_their_own_package(tmp_path, monkeypatch):
    for model, score in (("a", 0.5), ("b", 0.75)):
        (tmp_path / f"{model}.json").write_text(json.dumps(log(model, score)))
    monkeypatch.setitem(sys.modules, "every_eval_ever.eval_types", None)
    found = judge(tmp_path)
    assert "not checked" in found.said[0]
    # A scale of 0 to 100 is a share too.
    assert sorted(found.verdicts["mean"]) == [0.5, 0.5, 0.75, 0.75]

    class Refuses:
        @staticmethod
        def model_validate(data):
            raise ValueError(f"{data['schema_version']} is no version")

    monkeypatch.setitem(sys.modules, "every_eval_ever", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "every_eval_ever.eval_types", SimpleNamespace(EvaluationLog=Refuses))
    with pytest.raises(LoraBenchError, match=r"a\.json: is no valid log of Every Eval Ever: 0\.2\.2 is no version"):
        judge(tmp_path)


def every_eval_item(model, number, score, result_id):
    """An item as version 0.3.0 of the package writes it."""
    return {
        "schema_version": "0.2.2", "evaluation_id": f"suite/{model}/0", "model_id": model, "evaluation_name": "gsm8k",
        "evaluation_result_id": result_id, "sample_id": f"gsm8k_{number}", "interaction_type": "single_turn",
        "input": {"raw": "?", "reference": ["1"]}, "output": {"raw": ["1"]},
        "answer_attribution": [{
            "turn_idx": 0, "source": "output.raw", "extracted_value": "1", "extraction_method": "none", "is_terminal": True,
        }],
        "evaluation": {"score": score, "is_correct": score == 1.0},
    }  # fmt: skip


def every_eval_items(folder, right, drop=None):
    """Logs with items beside them: a model is right on the first of 50 items, and strictly so on ten fewer."""
    folder.mkdir()
    for model, upto in right.items():
        results = [
            {
                "evaluation_name": "gsm8k", "evaluation_result_id": name,
                "metric_config": {"metric_name": "exact match", "lower_is_better": False, "min_score": 0, "max_score": 100},
                "score_details": {"score": 2.0 * (upto - fewer)},
            }
            for name, fewer in (("flexible", 0), ("strict", 10))
        ]  # fmt: skip
        (folder / f"{model}.json").write_text(json.dumps({"model_info": {"id": model}, "evaluation_results": results}))
        lines = [
            every_eval_item(model, number, float(number < upto - fewer), name)
            for name, fewer in (("flexible", 0), ("strict", 10))
            for number in range(50)
        ]
        text(folder / f"{model}_samples.jsonl", *map(json.dumps, lines))
    return folder


def test_items_of_every_eval_ever_are_compared_in_place_of_the_scores_of_their_logs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "every_eval_ever", None)
    folder = every_eval_items(tmp_path / "logs", {"a": 20, "b": 40})
    found = judge(folder)
    assert found.answer.startswith(
        "Of these runs, on new items like these (50 a task): that of b scores highest, above 1 other on gsm8k flexible and "
        "gsm8k strict."
    )
    means = {(row.task, row.label): row.mean for row in found.verdicts.itertuples()}
    assert means["gsm8k flexible", "a"] == 0.4 and means["gsm8k strict", "b"] == pytest.approx(0.6)
    # If one log has no items, the scores of all are read.
    (folder / "c.json").write_text((folder / "a.json").read_text().replace('"a"', '"c"'))
    scores = judge(folder)
    assert "Of these runs" not in scores.answer and "items beside the logs are not read" in scores.said
    assert {label for label in scores.verdicts["label"]} == {"a", "b", "c"}
    assert sorted(scores.verdicts["mean"]) == pytest.approx([0.2, 0.2, 0.4, 0.4, 0.6, 0.8])
    with pytest.raises(LoraBenchError, match=r"lacks its log beside it, b\.json"):
        judge((folder / "b.json").unlink() or folder / "b_samples.jsonl")


def test_an_item_that_every_eval_ever_refuses_is_told_with_its_line_and_why(tmp_path, monkeypatch):
    folder = every_eval_items(tmp_path / "logs", {"a": 20, "b": 40})
    path = folder / "a_samples.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    del lines[2]["evaluation"]["score"]
    lines[4]["evaluation_result_id"] = "loose"
    lines[6]["sample_id"] = 6
    text(path, *map(json.dumps, lines))
    monkeypatch.setitem(sys.modules, "every_eval_ever", None)
    with pytest.raises(LoraBenchError) as refused:
        judge(folder)
    assert [fault.partition("a_samples.jsonl:")[2] for fault in str(refused.value).splitlines()] == [
        "3: is no valid item of Every Eval Ever: there is no 'score'",
        "5: is no valid item of Every Eval Ever: a.json has no result gsm8k loose",
    ]

    class Item(pydantic.BaseModel):
        sample_id: str
        evaluation: dict[str, float]

    types = SimpleNamespace(InstanceLevelEvaluationLog=Item, EvaluationLog=pydantic.create_model("EvaluationLog"))
    monkeypatch.setitem(sys.modules, "every_eval_ever", SimpleNamespace())
    for module in ("eval_types", "instance_level_types"):
        monkeypatch.setitem(sys.modules, f"every_eval_ever.{module}", types)
    with pytest.raises(
        LoraBenchError, match=r"a_samples\.jsonl:7: is no valid item .*: sample_id: Input should be a valid"
    ):
        judge(folder)


def test_folds_share_training_rows_so_their_intervals_are_wider_and_it_is_said():
    by_seed = rows(methods={"a": 0.0, "b": 0.05})
    by_fold = [{"fold" if key == "seed" else key: value for key, value in row.items()} for row in by_seed]
    (seeds,), (folds,) = (judge(table).report.judged.held for table in (by_seed, by_fold))
    assert folds.verdict.difference == seeds.verdict.difference
    # Of ten folds one is tested and nine are trained on.
    width = [of.verdict.interval.high - of.verdict.interval.low for of in (seeds, folds)]
    assert width[1] == pytest.approx(width[0] * (1 + 1 / 9) ** 0.5)
    assert "runs are paired by it, and share training rows" in " ".join(judge(by_fold).said)


def test_a_method_that_the_choice_leaves_out_for_failed_runs_is_named():
    table = [
        {**row, "accuracy": None} if (row["method"], row["seed"]) == ("b", 3) else row
        for row in rows(tasks=("cola", "sst2"))
    ]
    found = judge(table)
    assert found.winner in ("a", "c") and "Left out of the choice: b (2 runs without a score)." in found.answer
    every = [{**row, "accuracy": None} if row["seed"] == 3 else row for row in table]
    assert judge(every).winner == "b" and "Left out" not in judge(every).answer
