"""The losses of members against those that transformers and torch give a run by itself, with filling beside what counts."""

import pytest
import torch
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers.loss.loss_utils import ForCausalLMLoss, ForTokenClassification
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.trainer_pt_utils import LabelSmoother

from lora_bench.kinds.exercises import exercise_class

DRAWN = torch.Generator().manual_seed(0)


def filled(tensor, value, rows=2):
    """With more rows, as of a member whose batch is smaller than another's."""
    return torch.cat([tensor, tensor.new_full((rows, *tensor.shape[1:]), value)])


def test_a_classifier_s():
    logits, labels = torch.randn(5, 3, generator=DRAWN), torch.tensor([0, 2, 1, 1, 0])
    found = exercise_class("classification").loss()(filled(logits, 7.0), filled(labels, -100))
    torch.testing.assert_close(found, F.cross_entropy(logits, labels))


def test_a_regressor_s():
    logits, labels = torch.randn(5, 1, generator=DRAWN), torch.randn(5, generator=DRAWN)
    found = exercise_class("regression").loss()(filled(logits, 7.0), filled(labels, torch.nan))
    torch.testing.assert_close(found, F.mse_loss(logits.squeeze(), labels))


def test_several_labels():
    logits, labels = torch.randn(5, 3, generator=DRAWN), torch.randint(0, 2, (5, 3), generator=DRAWN).float()
    found = exercise_class("multilabel").loss()(filled(logits, 7.0), filled(labels, torch.nan))
    torch.testing.assert_close(found, F.binary_cross_entropy_with_logits(logits, labels))


def test_a_causal_model_s_over_the_completion_alone():
    logits, labels = torch.randn(3, 6, 11, generator=DRAWN), torch.randint(0, 11, (3, 6), generator=DRAWN)
    labels[:, :2] = -100
    labels[1, 4:] = -100
    found = exercise_class("generation").loss()(filled(logits, 7.0), filled(labels, -100))
    torch.testing.assert_close(found, ForCausalLMLoss(logits, labels, vocab_size=11))


def test_a_tagger_s_over_the_labelled_tokens_alone():
    logits, labels = torch.randn(3, 6, 5, generator=DRAWN), torch.randint(0, 5, (3, 6), generator=DRAWN)
    labels[0, 1:] = -100
    labels[1, 3:5] = -100
    found = exercise_class("tokens").loss()(filled(logits, 7.0), filled(labels, -100))
    torch.testing.assert_close(found, ForTokenClassification(logits, labels, PreTrainedConfig(num_labels=5)))


@pytest.mark.parametrize("kind", ["classification", "generation", "tokens"])
def test_label_smoothing_is_the_trainer_s(kind):
    if kind != "classification":
        logits, labels = torch.randn(3, 6, 11, generator=DRAWN), torch.randint(0, 11, (3, 6), generator=DRAWN)
        labels[:, :2] = -100
    else:
        logits, labels = torch.randn(5, 3, generator=DRAWN), torch.tensor([0, 2, 1, 1, 0])
    theirs = LabelSmoother(epsilon=0.1)(
        SequenceClassifierOutput(logits=logits), labels.clone(), shift_labels=kind == "generation"
    )
    found = exercise_class(kind).loss(0.1)(filled(logits, 7.0), filled(labels, -100))
    torch.testing.assert_close(found, theirs)
