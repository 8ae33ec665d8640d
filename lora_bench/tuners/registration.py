"""Registration of a method with PEFT from outside PEFT.

PEFT finds a method through `PeftType`, an enum closed to other packages, and through tables that its `register_peft_method`
fills and checks. So this module adds a member to the enum, and PEFT's function does the rest. Then `get_peft_model`,
`save_pretrained`, `PeftModel.from_pretrained`, `add_adapter`, `set_adapter`, `disable_adapter`, `delete_adapter` and
transformers' `load_adapter` treat the method like one of PEFT's.

A string that equals a member is not enough: transformers reads `peft_type.value`. The enum attributes written here are private
to Python's `enum`. `tests/tuners/test_registration.py` names each, and fails first if a release of Python or PEFT moves one.
"""

from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import PeftType, register_peft_method


def extend_peft_type(name: str) -> PeftType:
    """Return the member *name* of `PeftType`, and create it if it is missing."""
    if name in PeftType.__members__:
        return PeftType[name]
    member = str.__new__(PeftType, name)
    member._name_ = name
    member._value_ = name
    member._sort_order_ = len(PeftType.__members__)
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    if hasattr(PeftType, "_hashable_values_"):  # Python 3.13 and later answer `name in PeftType` from this list
        PeftType._hashable_values_.append(name)
    type.__setattr__(PeftType, name, member)  # the enum's own __setattr__ refuses
    return member


def known_configs() -> dict[str, type[PeftConfig]]:
    """Return the config classes of PEFT's methods and of ours, by the name of their PEFT type."""
    return {peft_type.value: config for peft_type, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}


def register(name: str, config: type[PeftConfig], tuner: type[BaseTuner]) -> PeftType:
    """Register *name*, in upper case as in `adapter_config.json`, as a PEFT method; return the new member of `PeftType`.

    The `__post_init__` of *config* sets `peft_type` to that member, and `tuner.prefix` is the prefix of the tuner's parameter
    containers. Raise KeyError if PEFT already has a method or a parameter prefix of this name.
    """
    member = extend_peft_type(name)
    register_peft_method(name=name.lower(), config_cls=config, model_cls=tuner, prefix=tuner.prefix)
    return member
