"""Any other PEFT method, by its PEFT type and options.

    - method: peft
      type: VERA
      options: {target_modules: [query, value]}
      size_option: r
      size_value: 256

Each method is tried first on two random layers of the base model's class, width and options (all layers if two fail). The pair
is unsupported, with the reason, if anything raises, a weight gets no gradient, only the head is trained, or padding changes an
answer.

Papers: https://huggingface.co/docs/peft/package_reference/peft_types. Learning rates: 1e-3 for most.

Limits: nothing is checked but the trial. For AdaLoRA, leave out `total_step`: it is set when training begins. Checkpoints lack
its importance scores, so a resumed run differs from an uninterrupted one; PEFT loads a saved one only for evaluation without
labels.
"""

import functools
import json
import math
import warnings
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, Field, JsonValue, model_validator

from lora_bench.documents import Strict
from lora_bench.errors import LoraBenchError, UnsupportedPair, typed_line, unknown
from lora_bench.families import Role, parts_of, roles_in_order
from lora_bench.kinds import find_kind, kind_of_class
from lora_bench.methods.contract import Adapted, AdapterConfig, Pretrained, SizeIfGiven, register
from lora_bench.records.kept_adapter import harmful_option

TRIAL_SIZE = 8

# What PEFT reads as a set of names or of layers.
SETS = ("target_modules", "exclude_modules", "feedforward_modules", "modules_to_save", "layers_to_transform")
# Methods that put virtual tokens into the text.
PROMPTS = {"PROMPT_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING", "CPT"}


def _harmless(options: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Return the options; refuse one that would have PEFT read files, or take for ever."""
    fault = harmful_option(options)
    if fault is not None:
        raise ValueError(f"options {fault}")
    return options


def _in_one_way(options: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Return the options with each set in one order, so that two spellings are one run."""

    def written(name: str, value: JsonValue) -> JsonValue:
        if name == "layers_to_transform" and isinstance(value, int):
            value = [value]
        if name not in SETS or not isinstance(value, list):
            return value
        return [
            json.loads(item)
            for item in sorted({json.dumps(item) for item in value}, key=lambda item: (len(item), item))
        ]

    return {name: written(name, value) for name, value in options.items()}


@register
class Peft(Strict):
    """A method of PEFT, by type.

    Args:
        type: PEFT's name of the method, such as IA3, in any case.
        options: Options of PEFT's config class.
        targets: Roles that become `target_modules`; None leaves them to *options*, or to PEFT's default.
        size_option: Option that a budget may turn, an integer.
        size_value: Value of that option, at least 1.
    """

    name: ClassVar[str] = "peft"
    size: ClassVar[Any] = SizeIfGiven("size_option")
    learning_rate: ClassVar[float] = 1e-3

    type: Annotated[str, AfterValidator(str.upper)]
    options: Annotated[dict[str, JsonValue], AfterValidator(_harmless), AfterValidator(_in_one_way)] = Field(
        default_factory=dict
    )
    # Not strict: a record's JSON gives a list.
    targets: Annotated[tuple[Role, ...], AfterValidator(roles_in_order)] | None = Field(default=None, strict=False)
    size_option: str | None = None
    size_value: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _size_is_named_and_given(self) -> Self:
        if (self.size_option is None) != (self.size_value is None):
            raise ValueError("size_option and size_value are given together")
        twice = [self.size_option] if self.size_option in self.options else []
        if self.targets is not None and "target_modules" in self.options:
            twice.append("target_modules")
        if twice:
            raise ValueError(f"options give {', '.join(map(str, twice))} a second time")
        if self.targets is not None and "layers_to_transform" in self.options:
            raise ValueError(
                "targets are those of every layer: with layers_to_transform, give target_modules as a list of names"
            )
        return self

    def apply(self, model: Pretrained, *, head: list[str]) -> Adapted:
        """Return *model* with only the method's weights and the head trainable.

        Raise LoraBenchError if PEFT has no such type, or the type no such option; UnsupportedPair if the trial on a small model
        fails, or PEFT refuses this one.
        """
        # Sizes share a trial: a budget is met by trying many of them.
        tried = self.model_copy(update={"size_value": self.size_value and min(self.size_value, TRIAL_SIZE)})
        config = model.config.to_json_string(use_diff=False)
        classes: tuple[Any, Any] = (type(model.config), type(model))
        reason = _trial(tried.model_dump_json(), config, classes, tuple(head))
        if reason is not None:
            raise UnsupportedPair(reason)
        return self.put_on(model, head)

    def put_on(self, model: Pretrained, head: list[str]) -> Adapted:
        """Return *model* with the method on it, without a trial. Raise UnsupportedPair if PEFT raises anything."""
        from peft import get_peft_model

        config = self._config(model, head)
        try:
            adapted: Adapted = get_peft_model(model, config)
        except Exception as error:  # PEFT's methods raise whatever their arithmetic does
            raise UnsupportedPair(f"PEFT's {self.type} cannot be put on this model: {typed_line(error)}") from error
        for name, weight in adapted.named_parameters():
            # AdaLoRA's count of ranks, which PEFT frees by accident where the model is not on the CPU.
            if ".ranknum." in name:
                weight.requires_grad_(False)
        return adapted

    def along_with(self, size: int) -> dict[str, Any]:
        """Return the options at another size: alpha keeps its ratio to r, so that a budget changes no update's strength."""
        from lora_bench.tuners.registration import known_configs

        fields = getattr(known_configs().get(self.type), "__dataclass_fields__", {})
        if self.size_option != "r" or self.size_value in (None, size) or "lora_alpha" not in fields:
            return {}
        alpha: Any = self.options.get("lora_alpha", fields["lora_alpha"].default)
        if not isinstance(alpha, int | float):
            return {}
        ratio = size / self.size_value
        scaled = alpha * (math.sqrt(ratio) if self.options.get("use_rslora") else ratio)
        return {"options": {**self.options, "lora_alpha": int(scaled) if scaled == int(scaled) else scaled}}

    @property
    def loss_term(self) -> str | None:
        """Return the term that PEFT adds to the model's own loss, or None."""
        if self.type != "ADALORA" or self.options.get("orth_reg_weight", 0.5) == 0:
            return None
        return "AdaLoRA's orthogonality penalty (orth_reg_weight)"

    def callbacks(self) -> list[Any]:
        """Return AdaLoRA's allocation of ranks for that type, and nothing for others."""
        if self.type != "ADALORA":
            return []
        from lora_bench.tuners.allocation import AllocateRanks

        return [AllocateRanks(sets_total="total_step" not in self.options)]

    def _config(self, model: Pretrained, head: list[str]) -> AdapterConfig:
        """Return the method's config for a base model; refuse an unknown type or option, and what the config class refuses."""
        from peft import PromptLearningConfig
        from transformers.pytorch_utils import Conv1D

        from lora_bench.tuners.inferred_family import family_of_model
        from lora_bench.tuners.registration import known_configs

        configs = known_configs()
        if self.type not in configs:
            raise unknown("PEFT type", self.type, configs)
        config_class = configs[self.type]
        fields = set(config_class.__dataclass_fields__)
        options: dict[str, Any] = dict(self.options)
        if self.size_option is not None:
            options[self.size_option] = self.size_value
        for name in sorted(set(options) - fields):
            raise unknown(f"option of {self.type}", name, fields)
        if self.targets is not None:
            options["target_modules"] = family_of_model(model).targets(*parts_of(self.targets))
        if "fan_in_fan_out" in fields:
            # GPT-2's Conv1D keeps its weight as (in_features, out_features).
            options.setdefault("fan_in_fan_out", any(isinstance(module, Conv1D) for module in model.modules()))
        if self.type == "ADALORA":
            options.setdefault("total_step", 10**9)  # set when training begins
        if next(model.parameters()).is_meta:
            options.pop("init_lora_weights", None)  # some are computed from the weights, which are not there
        if "modules_to_save" in fields:
            options.setdefault("modules_to_save", list(head))  # PEFT may extend it in place
        if issubclass(config_class, PromptLearningConfig) or "modules_to_save" not in fields:
            # PEFT then has a model of its own for the task, which frees a head and puts prompts before the text.
            kind = kind_of_class(type(model).__name__) or find_kind("generation")
            options.setdefault("task_type", kind.names_of(apart=model.config.is_encoder_decoder).task_type)
            if kind.name == "tokens" and self.type in PROMPTS:
                raise UnsupportedPair(
                    f"PEFT's {self.type} answers its own prompts as words too, which {kind.name} cannot have"
                )
            if options["task_type"] is None and issubclass(config_class, PromptLearningConfig):
                raise UnsupportedPair(
                    f"PEFT has no {self.type} for {kind.name}: its models put no prompt before a text"
                )
        elif self.loss_term is not None:
            # Without a model for the task PEFT goes around what adds to the loss. This one passes on all that the base reads.
            writes = find_kind("generation").names_of(apart=model.config.is_encoder_decoder).task_type
            options.setdefault("task_type", writes if model.can_generate() else "FEATURE_EXTRACTION")
        try:
            return config_class(**options)
        except Exception as error:
            raise UnsupportedPair(f"PEFT's {self.type} refuses its options: {typed_line(error)}") from error


@functools.cache
def _trial(
    method: str,
    config: str,
    classes: tuple[Any, Any],
    head: tuple[str, ...],
) -> str | None:
    """Return why a `Peft`, as JSON, fails on a small model with this config and these classes; None if it works."""
    import torch

    from lora_bench.tuners.trial import deep_model, fault_of, small_model

    config_class, model_class = classes
    peft = Peft.model_validate_json(method)
    title = f"PEFT's {peft.type}"
    reason: str | None = None
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(1)  # with 0, what padding does to Lily is hardly more than rounding
        # Options may name a layer that a model of two has not, so a fault there is looked for at full depth too.
        for make in (small_model, deep_model):
            try:
                base = make(model_class, config_class.from_dict(json.loads(config)))
                reason = fault_of(peft.put_on(base, list(head)), title, head)
            except UnsupportedPair as error:
                reason = str(error)
            except LoraBenchError:  # an unknown type or option is for the user to put right, on any model
                raise
            except Exception as error:
                reason = f"{title} fails on {model_class.__name__}: {typed_line(error)}"
            if reason is None:
                break
    return reason
