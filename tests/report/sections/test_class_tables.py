"""The folded part on classes and the page of items say what a hand counts, of stored predictions alone."""

import json

import html5lib
import pytest

from lora_bench.exchange import data_files
from lora_bench.records.store import Answers
from lora_bench.report import Report, check_report, render_files, write_report
from lora_bench.report.blocks import to_markdown
from lora_bench.report.markdown import render_markdown
from lora_bench.report.model.choose_method import choose_among
from lora_bench.report.model.given_answers import given_in, never_found
from lora_bench.report.sections.class_tables import MOST_ITEMS, items_page
from lora_bench.report.sections.first_screen import answer_text
from tests.report.hostile import WORDS, in_markdown
from tests.sample_records import record

RIGHT = [0, 0, 1, 1]


def runs(said, labels=("negative", "positive"), right=RIGHT, shares=None):
    """Records of methods, a run a seed, and what gives their answers."""
    records, given = [], {}
    for method, of_seeds in said.items():
        for seed, answers in enumerate(of_seeds):
            hits = [answer == truth for answer, truth in zip(answers, right, strict=False)]
            one = record(method, seed=seed, score=sum(hits) / max(len(hits), 1))
            task = one.spec.task.model_copy(update={"labels": labels})
            one = one.model_copy(update={"spec": one.spec.model_copy(update={"task": task})})
            records.append(one)
            given[one.run_id] = Answers(answers, right, shares)
    return records, given.get


def page_of(*given, **options):
    records, answers = runs(*given, **options)
    return render_markdown(Report(records, answers=answers))


def table_below(page, start):
    """The lines of the table whose header begins so, as cells."""
    lines = page.split(f"\n| {start}", 1)[1].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines[2:]]


TWO = {"full": [[0, 0, 1, 0], [0, 1, 1, 1]], "lora": [[0, 0, 0, 0], [0, 0, 0, 1]]}


def test_classes_and_confusions_are_means_over_runs():
    page = page_of(TWO)
    # full answers negative: precision 2/3 and 1, recall 1 and 1/2, F1 4/5 and 2/3
    lines = table_below(page, "class | method | items")
    assert lines[0] == ["negative", "`full`†", "2", "0.8333", "0.7500", "0.7333"]
    # lora never answers positive in its first run: 0 there, and precision 1, recall 1/2, F1 2/3 in the second
    assert lines[3] == ["positive", "`lora`", "2", "0.5000", "0.2500", "0.3333"]
    assert table_below(page, "method | right class") == [
        ["`full`†", "negative", "**1.5**", "0.5"],
        ["`full`†", "positive", "0.5", "**1.5**"],
        ["`lora`", "negative", "**2**", "0"],
        ["`lora`", "positive", "1.5", "**0.5**"],
    ]
    # macro F1 of full: (4/5 + 2/3) / 2 in both runs
    assert table_below(page, "method | runs | macro F1")[0] == ["`full`†", "2", "0.7333"]


def test_intervals_of_shares_end_at_0_and_1():
    # F1 of 4/5, 2/3 and 0: a t-interval of −0.58 to 1.56
    page = page_of({"full": [[0, 0, 1, 0], [0, 1, 1, 1], [1, 1, 1, 1]]})
    assert table_below(page, "class | method | items")[0][-1] == "0.4889 (0.0000 to 1.0000)"


def test_calibration_is_of_stored_probabilities_and_old_records_say_so():
    page = page_of(TWO)
    assert "Calibration is not shown: these runs kept no probabilities." in page and "Brier" not in page
    shares = [[0.75, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.25]]
    page = page_of({"full": [[0, 0, 1, 0]] * 2, "lora": [[0, 0, 1, 0]] * 2}, shares=shares)
    assert "kept no probabilities" not in page
    # confidence 0.75 and 3 of 4 right; squared errors 1/16, 1/16, 1/16, 9/16
    assert table_below(page, "method | runs | macro F1")[0][-2:] == ["0.0000", "0.1875"]


def test_items_that_methods_answer_differently_in_most_runs_are_counted():
    said = {"full": [[0, 0, 1, 0]] * 3, "lora": [[0, 1, 1, 1], [0, 1, 1, 1], [0, 0, 1, 1]]}
    page = page_of(said)
    assert (
        "2 of 4 test items have one method right in most runs and another wrong: [the items](report/items.md)." in page
    )


def test_many_classes_have_their_worst_confusions():
    right = list(range(30))
    labels = tuple(f"class {number}" for number in right)
    page = page_of({"full": [right], "lora": [[0, 0, 1, *right[3:]]]}, labels=labels, right=right)
    assert "20 of 30 classes: those with the lowest F1 of any method." in page
    assert table_below(page, "right class | answered") == [
        ["class 1", "class 0", "0", "1"],
        ["class 2", "class 1", "0", "1"],
    ]


def test_classes_are_exported_unrounded():
    records, answers = runs(TWO)
    rows = json.loads(data_files(Report(records, answers=answers))["classes.json"])
    assert [(row["label"], row["class"], row["runs"], row["items"]) for row in rows] == [
        ("full", "negative", 2, 2), ("full", "positive", 2, 2), ("lora", "negative", 2, 2), ("lora", "positive", 2, 2),
    ]  # fmt: skip
    assert rows[0]["precision"] == pytest.approx(5 / 6) and rows[3]["f1"] == pytest.approx(1 / 3)
    assert not any(name.startswith("classes") for name in data_files(Report(records)))


def test_errors_of_regression_are_in_the_unit_of_the_label():
    page = page_of({"full": [[1.0, 5.0, -1.0]], "lora": [[1.0, 2.0, 4.0]]}, labels=(), right=[1.0, 2.0, 3.0])
    # errors 0, 3, -4 and 0, 0, 1
    assert table_below(page, "method | runs | MAE") == [
        ["`full`†", "1", "2.3333", "2.8868"],
        ["`lora`", "1", "0.3333", "0.5774"],
    ]


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ([0, 2, 1, 1], RIGHT),
        ([0, 0, 1], RIGHT),
        ([0.5, 0, 1, 1], RIGHT),
        (["a", "b", "a", "b"], list("abab")),
        ([], []),
    ],
)
def test_predictions_that_are_no_classes_of_these_items_have_no_part(said, right):
    records, answers = runs({"lora": [said]}, right=right)
    assert Report(records, answers=answers).given_answers == {}


def test_without_predictions_nothing_is_said_and_no_page_is_written():
    records, _ = runs(TWO)
    files = render_files(Report(records))
    assert "report/items.md" not in files and b"confusions" not in files["report.md"]


MANY = {"full": [[0] * 120] * 2, "lora": [[1] * 120] * 2}


def test_the_page_lists_some_items_by_place_or_by_id_with_their_texts():
    records, answers = runs(MANY, right=[0, 1] * 60)
    page = to_markdown(items_page(Report(records, answers=answers)))
    assert f"{MOST_ITEMS} of 120 such items, by their place in the test split; texts are not shown." in page
    lines = table_below(page, "item | right class")
    assert len(lines) == MOST_ITEMS
    for item, right, full, lora in lines:
        first = int(item) % 2 == 1  # counted from 1
        assert (right, full, lora) == (("negative", "2 of 2", "0 of 2") if first else ("positive", "0 of 2", "2 of 2"))
    texts = [(f"id{place}", f"text {place}") for place in range(120)]
    page = to_markdown(items_page(Report(records, answers=answers, texts=lambda *task: texts)))
    item, *_, said = table_below(page, "item | right class")[0]
    assert said == item.replace("id", "text ")


def test_rows_of_other_folds_are_no_items_in_common_though_their_labels_are_equal():
    records, answers = runs(MANY, right=[0, 1] * 60)
    task = {"definition": {"task": "vader_film", "split": {"folds": 5}}}
    folded = [
        one.model_copy(update={"spec": one.spec.model_copy(update={"task": one.spec.task.model_copy(update=task)})})
        for one in records
    ]
    page = render_markdown(Report(folded, answers=answers))
    assert "Pooled over folds" in page and "Means over the runs with a score" not in page
    assert {line[1] for line in table_below(page, "method | runs | macro F1")} == {"2"}
    asked = []
    assert items_page(Report(folded, answers=answers, texts=lambda *given: asked.append(given[2])))
    assert asked == [(0, 1)]
    # `full` has lost its run of seed 0, `lora` that of seed 1.
    assert items_page(Report(folded[1:3], answers=answers)) == []


def test_the_commonest_wrong_answer_of_several_classes_is_named():
    said = {"full": [[0], [0], [0]], "lora": [[2], [1], [2]]}
    records, answers = runs(said, labels=("a", "b", "c"), right=[0])
    assert "| 1 | a | 3 of 3 | 0 of 3, c |" in to_markdown(items_page(Report(records, answers=answers)))


def items_html(text):
    records, answers = runs(MANY, labels=(text, f"{text} again"), right=[0, 1] * 60)
    files = render_files(Report(records, answers=answers, texts=lambda *task: [(text, text, text)] * 120))
    return html5lib.parse(files["report/items.html"].decode()), files["report.html"].decode()


@in_markdown
def test_no_text_of_an_item_is_anything_but_text(text):
    def tags(tree):
        return sorted(e.tag for e in tree.iter() if isinstance(e.tag, str) and not e.tag.endswith("}code"))

    tree, report = items_html(text)
    inert, inert_report = items_html(WORDS)
    assert tags(tree) == tags(inert)
    assert tags(html5lib.parse(report)) == tags(html5lib.parse(inert_report))
    assert not any(name.startswith("on") or name in ("src", "href", "style") for e in tree.iter() for name in e.attrib)


def test_the_page_links_to_its_sibling_and_an_old_page_goes(tmp_path):
    records, answers = runs(TWO)
    written = write_report(Report(records, answers=answers), tmp_path)
    assert {tmp_path / "report" / "items.md", tmp_path / "report" / "items.html"} <= set(written)
    assert 'href="report/items.html"' in (tmp_path / "report.html").read_text()
    assert check_report(Report(records, answers=answers), tmp_path) == []
    assert any("items.md is not part" in line for line in check_report(Report(records), tmp_path))
    write_report(Report(records), tmp_path)
    assert not (tmp_path / "report" / "items.md").exists() and check_report(Report(records), tmp_path) == []


NEVER = {
    # lora is right more often, and never says "security"; full says it once, for another item.
    "lora": [[0, 0, 1, 1, 0, 1, 1, 0]] * 4,
    "full": [[0, 1, 1, 1, 0, 1, 2, 0], *[[0, 1, 1, 1, 0, 1, 1, 0]] * 3],
}
QUEUES, QUEUE_OF = ("billing", "network", "security"), [0, 0, 1, 1, 2, 2, 1, 0]


def test_a_class_that_the_chosen_method_never_finds_stands_on_the_first_screen():
    records, answers = runs(NEVER, QUEUES, QUEUE_OF)
    report = Report(records, answers=answers)
    said = "Never predicted by `lora`: security (2 test rows)."
    assert said in render_markdown(report).split("<details>")[0]
    assert said.replace("`", "") in answer_text(report)
    (choice,) = choose_among(records, answers)
    assert choice.method == "lora" and choice.reasons[-1] == "never predicted by lora: security (2 test rows)"
    full = next(row for row in choice.rows if row.label == "full")
    assert choice.never_found(full).words() == "never rightly predicted: security (2 test rows)"


def test_where_every_class_is_found_or_no_answers_are_kept_nothing_is_said():
    found, answers = runs(NEVER, QUEUES, [0, 0, 1, 1, 0, 1, 1, 0])
    unknown, _ = runs(NEVER, QUEUES, QUEUE_OF)
    for report in (Report(found, answers=answers), Report(unknown)):
        assert "predicted by" not in render_markdown(report)


@pytest.mark.parametrize(
    ("kind", "names", "right", "said", "words"),
    [
        (
            "multilabel",
            ("a", "b", "c"),
            [[0], [1, 2]],
            [[[0], [1]], [[0, 2], [1]]],
            "never rightly predicted: c (1 test row)",
        ),
        ("tokens", ("O", "x"), [["O", "x"], ["O"]], [[["O", "O"], ["O"]]], "never predicted: x (1 test word)"),
        (
            "tokens",
            ("B-LOC", "B-PER", "O"),
            [["B-PER", "O"], ["B-LOC"], ["B-PER"]],
            [[["B-LOC", "O"], ["B-LOC"], ["O"]]],
            "never rightly predicted: PER (2 test items)",
        ),
        (
            "classification",
            tuple("abcdef"),
            [0, 1, 2, 3, 4, 4],
            [[0] * 6],
            "never predicted: b (1 test row), c (1 test row) and 2 others",
        ),
    ],
)
def test_never_found_is_said_of_labels_words_and_entities(kind, names, right, said, words):
    task = record("lora").spec.task
    task = task.model_copy(update={"labels": names, "definition": {**(task.definition or {}), "kind": kind}})
    found = never_found(given_in([Answers(one, right) for one in said], task))
    assert found.words() == words
