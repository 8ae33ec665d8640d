"""The family of a base model whose type no installed package names: the user's, or one worked out from its structure."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lora_bench.errors import LoraBenchError, UnsupportedPair
from lora_bench.families import Family, declare, forget, installed_family
from lora_bench.models.library_errors import in_a_sentence
from lora_bench.models.made_folder import Progress
from lora_bench.models.registry import BaseModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def with_family(model: BaseModel, given: Family | None = None, progress: Progress | None = None) -> BaseModel:
    """Return a base model with its family, the user's or another, if no installed package names one for its type.

    A family that cannot be worked out stays None: methods that need one then refuse the model, and say why. Raise
    LoraBenchError if *given* does not fit the model, or its type has a family already.
    """
    known = installed_family(model.model_type)
    if given is not None:
        _check_given(given, model, known)
        return replace(model, family=given)
    if known is not None:
        return model
    if progress is not None:
        progress(f"working out the family of {model.name}")
    try:
        family = infer(model)
    except UnsupportedPair:
        return model
    about = f"{model.name}: no family names {model.model_type}, so its sites were worked out: {family.described()}"
    return replace(model, family=family, inferred=True, warnings=(*model.warnings, about))


def _check_given(family: Family, base: BaseModel, known: Family | None) -> None:
    if known is not None:
        raise LoraBenchError(f"family: {base.model_type} is of the family {known.name} already; leave the key out")
    if base.model_type not in family.model_types:
        raise LoraBenchError(
            f"family: model_types are {', '.join(family.model_types)}, and {base.name} is of type {base.model_type}"
        )
    model = skeleton(base)
    lacks = family.lacks(path for path, _ in model.named_modules())
    if lacks:
        raise LoraBenchError(f"family: not every layer of {base.name} has the modules of {', '.join(lacks)}")
    config = model.config.to_dict()
    keys = {name: getattr(family, name) for name in ("hidden_size_key", "num_heads_key", "num_layers_key")}
    for name, key in keys.items():
        if key not in config:
            raise LoraBenchError(f"family: {name} is {key}, which the config.json of {base.name} does not have")


def infer(base: BaseModel) -> Family:
    """Work out the family of a base model from its structure. Raise UnsupportedPair if it cannot be told."""
    from lora_bench.tuners.inferred_family import infer_family

    try:
        model = skeleton(base)
    except LoraBenchError as error:
        raise UnsupportedPair(str(error)) from None
    return infer_family(model)


def skeleton(base: BaseModel) -> "PreTrainedModel":
    """Return a base model on the meta device, without head and weights. Raise LoraBenchError if it cannot be built."""
    import torch
    from transformers import AutoConfig, AutoModel

    code: Any = {"trust_remote_code": base.remote_code}
    with in_a_sentence(f"model {base.name!r} cannot be built from its config.json ({base.model_type})"):
        config = AutoConfig.from_pretrained(base.folder, **code)
        with torch.device("meta"):
            model: PreTrainedModel = AutoModel.from_config(config, **code)
    return model


def use_family(base_model: BaseModel) -> None:
    """Make the family of a base model the one of its type in this process."""
    if base_model.family is not None:
        declare(base_model.family)
    else:
        forget(base_model.model_type)
