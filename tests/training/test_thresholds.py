"""The threshold of several labels is the best on the selection split, for the task's own metric."""

import pytest
import torch

from lora_bench.documents import Document
from lora_bench.kinds.exercises import exercise_class
from lora_bench.kinds.exercises.base_exercise import Replies
from lora_bench.kinds.exercises.labelling import Marking, best_threshold, labels_above
from lora_bench.tasks import Split, TaskData, task_from_document

# Probabilities of two labels for four texts.
SHARES = torch.tensor([[0.9, 0.1], [0.325, 0.315], [0.205, 0.305], [0.05, 0.05]])
LOGITS = SHARES.logit()


def test_labels_are_those_above_the_threshold():
    assert labels_above(LOGITS, 0.5) == [[0], [], [], []]
    assert labels_above(LOGITS, 0.25) == [[0], [0, 1], [1], []]


def test_the_best_threshold_is_a_hundredth_and_of_equal_ones_the_nearest_to_a_half():
    # All four right pairs are above .30, and the next wrong one is at .205: .21 to .30 are equally good.
    assert best_threshold("multilabel_micro_f1", [[0], [0, 1], [1], []], LOGITS) == 0.3
    # From .33 to .89 one pair is said, and is right.
    assert best_threshold("multilabel_micro_f1", [[0], [], [], []], LOGITS) == 0.5
    assert best_threshold("hub:mine", [[0], [], [], []], LOGITS) == 0.5
    assert best_threshold("multilabel_micro_f1", [[], [], [], []], torch.full((4, 2), -9.0)) == 0.5


def test_each_metric_has_its_own_best_threshold():
    # Label 0 is frequent and told apart at .5; label 1 is rare and low.
    shares = torch.tensor([[0.9, 0.1]] * 8 + [[0.4, 0.2]] * 8 + [[0.4, 0.355]])
    right = [[0]] * 8 + [[]] * 8 + [[1]]
    # micro at .5: 16 / 17; at .35: 18 / 27. macro at .5: (1 + 0) / 2; at .35: (16 / 25 + 1) / 2
    assert best_threshold("multilabel_micro_f1", right, shares.logit()) == 0.5
    assert best_threshold("multilabel_macro_f1", right, shares.logit()) == 0.35


def task(kind="multilabel"):
    given = {"task": "mine", "kind": kind, "data": "rows.jsonl", "text": "text", "label": "label"}
    return task_from_document(Document("task.yaml", given))


def data(labels):
    split = Split([str(place) for place in range(4)], [("a",)] * 4, labels)
    return TaskData({"train": split, "selection": split, "test": split}, ("a", "b"), "", ())


def test_answers_to_all_splits_are_at_the_threshold_of_the_selection_split():
    of_test = torch.tensor([[0.28, 0.33]]).logit()
    answers = {"test": Replies([], of_test), "selection": Replies([], LOGITS)}
    found, threshold = Marking.decided(task(), data([(0,), (0, 1), (1,), ()]), answers)
    assert threshold == 0.3 and found["test"].answers == [[1]] and found["test"].logits is of_test
    assert found["selection"].answers == [[0], [0, 1], [1], []]


def test_without_a_selection_split_it_is_a_half():
    found, threshold = Marking.decided(task(), data([(0,), (0, 1), (1,), ()]), {"test": Replies([], LOGITS)})
    assert threshold == 0.5 and found["test"].answers == [[0], [], [], []]


@pytest.mark.parametrize("kind", ["classification", "generation"])
def test_other_kinds_have_none(kind):
    answers = {"test": Replies([1, 0])}
    assert exercise_class(kind).decided(task(kind), data([0, 1, 0, 1]), answers) == (answers, None)
