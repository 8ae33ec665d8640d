"""Names of the parts of each model family.

A method must find the query projection, the end of a feed-forward block or the classification head in models that name them
differently. All such names stand here as data: one declaration for each family, read by methods, tuners and the counting of
parameters. A new family is one more declaration. Paths are relative to one transformer layer. `Family.pattern` turns them into
the regular expression that PEFT matches with whole module paths. Importing it imports no torch.
"""

import functools
from importlib.metadata import entry_points

from lora_bench.errors import UnsupportedPair, typed_line, unknown
from lora_bench.families.decoders import DECODERS
from lora_bench.families.encoder_decoders import ENCODER_DECODERS
from lora_bench.families.encoders import ENCODERS
from lora_bench.families.model_family import Family, FusedLayout, Placement, PrefixKind, Site, given_keys, sites_after
from lora_bench.families.roles import ROLES, Part, Role, parts_of, roles_in_order

__all__ = [
    "FAMILIES", "ROLES", "Family", "FusedLayout", "Part", "Placement", "PrefixKind", "Role", "Site", "declare",
    "declared_family", "family_of", "forget", "given_keys", "hub_name", "installed_family", "parts_of",
    "roles_in_order", "sites_after",
]  # fmt: skip

FAMILIES: tuple[Family, ...] = (*ENCODERS, *DECODERS, *ENCODER_DECODERS)

ENTRY_POINTS = "lora_bench.families"
"""Group of the entry points by which an installed package adds families; each names a `Family`."""

_DECLARED: dict[str, Family] = {}


def declare(family: Family) -> None:
    """Make a family known in this process, for model types that no installed package names."""
    _DECLARED.update(dict.fromkeys(family.model_types, family))


def forget(*model_types: str) -> None:
    """Undo `declare` for these model types."""
    for model_type in model_types:
        _DECLARED.pop(model_type, None)


def declared_family(model_type: str) -> Family | None:
    """Return the family of a model type: one of `installed_family`, or one declared in this process; None if there is none."""
    return installed_family(model_type) or _DECLARED.get(model_type)


def installed_family(model_type: str) -> Family | None:
    """Return the family of a model type: ours, or one of an installed package; None if there is none."""
    own = next((family for family in FAMILIES if model_type in family.model_types), None)
    return own or next((family for family in _plugged_in()[0] if model_type in family.model_types), None)


def family_of(model_type: str) -> Family:
    """Return the family of a model, by the `model_type` of its config. Raise UnsupportedPair if no family covers it."""
    found = declared_family(model_type)
    if found is None:
        plugged_in, broken = _plugged_in()
        known = [name for family in (*FAMILIES, *plugged_in) for name in family.model_types]
        faults = "".join(f"; the plug-in {entry} cannot be used: {fault}" for entry, fault in broken.items())
        raise UnsupportedPair(f"{unknown('model type', model_type, known)}{faults}")
    return found


@functools.cache
def _plugged_in() -> tuple[tuple[Family, ...], dict[str, str]]:
    """Return the families of installed packages, and the entry points that give none, each with one line of its error."""
    found, broken = [], {}
    for entry in entry_points(group=ENTRY_POINTS):
        # What one package gets wrong is said, and costs the families of that package alone.
        try:
            family = entry.load()
            if not isinstance(family, Family):
                raise TypeError(f"it is no Family: {type(family).__name__}")
            found.append(family)
        except (Exception, SystemExit) as error:
            broken[f"{entry.name} ({entry.value})"] = typed_line(error)
    return tuple(found), broken


def hub_name(model: str) -> str:
    """Return the hub's current name of a base model, for a name from before repositories had owners."""
    return next((family.hub_names[model] for family in FAMILIES if model in family.hub_names), model)
