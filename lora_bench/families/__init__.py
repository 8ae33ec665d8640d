"""Names of the parts of each model family.

A method must find the query projection, the end of a feed-forward block or the classification head in models that name them
differently. All such names stand here as data: one declaration for each family, read by methods, tuners and the counting of
parameters. A new family is one more declaration. Paths are relative to one transformer layer. `Family.pattern` turns them into
the regular expression that PEFT matches with whole module paths. Importing it imports no torch.
"""

from lora_bench.errors import UnsupportedPair, unknown
from lora_bench.families.decoders import DECODERS
from lora_bench.families.encoder_decoders import ENCODER_DECODERS
from lora_bench.families.encoders import ENCODERS
from lora_bench.families.model_family import Family, FusedLayout, Placement, PrefixKind, Site
from lora_bench.families.roles import ROLES, Part, Role, parts_of, roles_in_order

__all__ = [
    "FAMILIES",
    "ROLES",
    "Family",
    "FusedLayout",
    "Part",
    "Placement",
    "PrefixKind",
    "Role",
    "Site",
    "family_of",
    "hub_name",
    "parts_of",
    "roles_in_order",
]

FAMILIES: tuple[Family, ...] = (*ENCODERS, *DECODERS, *ENCODER_DECODERS)


def family_of(model_type: str) -> Family:
    """Return the family of a model, by the `model_type` of its config.

    Raises:
        UnsupportedPair: If no family covers *model_type*.
    """
    by_model_type = {known: family for family in FAMILIES for known in family.model_types}
    if model_type not in by_model_type:
        raise UnsupportedPair(str(unknown("model type", model_type, by_model_type)))
    return by_model_type[model_type]


def hub_name(model: str) -> str:
    """Return the hub's current name of a base model, for a name from before repositories had owners."""
    return next((family.hub_names[model] for family in FAMILIES if model in family.hub_names), model)
