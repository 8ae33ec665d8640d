"""`check_method` finds each way in which a method may break the contract."""

from typing import ClassVar

import pytest
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch import nn

from lora_bench.documents import Strict
from lora_bench.errors import UnsupportedPair
from lora_bench.families import family_of
from lora_bench.testing import check_method


class Good(Strict):
    """LoRA, as a method that keeps the contract; each method below breaks one part of it."""

    name: ClassVar[str] = "good"
    size: ClassVar[str | None] = "rank"
    learning_rate: ClassVar[float] = 1e-3

    rank: int = 2

    def apply(self, model, *, head):
        return get_peft_model(model, self.config(model, head))

    def config(self, model, head, **more):
        targets = family_of(model.config.model_type).targets("query", "value")
        fan_in_fan_out = model.config.model_type == "gpt2"
        options = {"r": self.rank, "target_modules": targets, "fan_in_fan_out": fan_in_fan_out, "modules_to_save": head}
        return LoraConfig(**{**options, **more})


class LeavesTheHead(Good):
    def apply(self, model, *, head):
        return get_peft_model(model, self.config(model, head, modules_to_save=None))


class TrainsTheHeadAlone(Good):
    def apply(self, model, *, head):
        for path, weight in model.named_parameters():
            weight.requires_grad_(path.split(".")[0] in head)
        return model


class IgnoresItsSize(Good):
    def apply(self, model, *, head):
        return get_peft_model(model, self.config(model, head, r=2))


class HasAWeightThatNothingReads(Good):
    def apply(self, model, *, head):
        model = super().apply(model, head=head)
        model.unread = nn.Linear(self.rank, 3)
        return model


class LosesAWeight(Good):
    """Frees a bias that PEFT does not save."""

    def apply(self, model, *, head):
        model = super().apply(model, head=head)
        for path, weight in model.named_parameters():
            if path.endswith("layer.0.output.dense.bias"):
                weight.requires_grad_(True)
        return model


class ReadsPadding(Good):
    """PEFT's prompts hide from GPT-2's classifier which token is the last real one."""

    size: ClassVar[str | None] = None

    def apply(self, model, *, head):
        return get_peft_model(model, PromptTuningConfig(num_virtual_tokens=2, task_type="SEQ_CLS"))


class WorksOnNothing(Good):
    def apply(self, model, *, head):
        raise UnsupportedPair("not today")


class WorksOnEncoders(Good):
    def apply(self, model, *, head):
        if model.config.model_type == "gpt2":
            raise UnsupportedPair("encoders only")
        return super().apply(model, head=head)


class RefusesWithoutAWord(WorksOnEncoders):
    def apply(self, model, *, head):
        if model.config.model_type == "gpt2":
            raise UnsupportedPair
        return super().apply(model, head=head)


def test_a_method_that_keeps_the_contract_passes():
    check_method(Good())


def test_a_family_may_be_refused_unless_it_is_named():
    check_method(WorksOnEncoders())
    with pytest.raises(AssertionError, match="gpt2: good is unsupported: encoders only"):
        check_method(WorksOnEncoders(), families=["roberta", "gpt2"])


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (LeavesTheHead, r"roberta: 0 weights of the head are trained, of 1155"),
        (TrainsTheHeadAlone, "roberta: nothing but the head is trained"),
        (IgnoresItsSize, r"roberta: twice the rank gives \d+ weights, and once"),
        (HasAWeightThatNothingReads, "roberta: unread.weight is trainable and does not move"),
        (LosesAWeight, "roberta: good loaded again differs by"),
        (WorksOnNothing, "good works on no family: .*not today"),
        (RefusesWithoutAWord, "gpt2: good is unsupported without a reason"),
    ],
)
def test_each_breach_is_named(method, message):
    with pytest.raises(AssertionError, match=message):
        check_method(method())


def test_a_method_that_reads_padding_is_named():
    with pytest.raises(AssertionError, match="gpt2: padding changes the logits of a row by"):
        check_method(ReadsPadding(), families=["gpt2"])


class KnowsLinearAlone(Good):
    """As tuners of PEFT raise on GPT-2's Conv1D."""

    def apply(self, model, *, head):
        if model.config.model_type == "gpt2":
            raise TypeError("Target module Conv1D() is not supported")
        return super().apply(model, head=head)


def test_a_tuner_that_raises_on_a_kind_of_module_is_refused_and_not_a_crash():
    check_method(KnowsLinearAlone())
    with pytest.raises(AssertionError, match=r"gpt2: good is unsupported: TypeError: Target module Conv1D"):
        check_method(KnowsLinearAlone(), families=["gpt2"])
