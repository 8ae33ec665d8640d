"""Combined: several adapters on one model, trained together.

    - method: combined
      parts:
        - {method: lora, rank: 8}
        - {method: prefix_embedding, num_virtual_tokens: 16}

Each part acts as it does alone, so the weights add up. Parts: `lora`, `bottleneck_adapter`, one of `prefix_tuning` and
`prefix_layer`, and `prefix_embedding`. To fit a size to a budget give `size_value`, which is then the size of the first part.

- LoRA+PE and LoRA+PL: `lora` with `prefix_embedding` or `prefix_layer`. Hu et al. 2021, https://arxiv.org/abs/2106.09685,
  Table 15.
- MAM: `prefix_tuning` of 30 tokens with a `parallel` adapter of size 512, relu and scaling 4. He et al. 2021,
  https://arxiv.org/abs/2110.04366. On RoBERTa-base the authors take 16 tokens and a size of 16 with scaling 2
  (`he2022-table2`); their prefixes are reparameterised.

Learning rates: 3e-4 to 3e-3, 5e-5 to 1e-3 with a reparameterised prefix.

Limits: it cannot be merged or unloaded, and its runs take no part in packs. All parts share the learning rate. PiSSA, OLoRA
and prefixes from words are no parts.
"""

import math
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, JsonValue, ValidationError

from lora_bench.documents import Strict
from lora_bench.methods.contract import Adapted, Method, Pretrained, SizeIfGiven, known_methods, register, with_size

KINDS: dict[str, str] = {
    "lora": "a low-rank update",
    "bottleneck_adapter": "a bottleneck adapter",
    "prefix_tuning": "a prefix in every layer",
    "prefix_layer": "a prefix in every layer",
    "prefix_embedding": "virtual tokens",
}
"""Methods that can be parts; a combination has one of each kind."""

Part = dict[str, JsonValue]


def method_of(part: Part) -> Method:
    """Return the method that a part names. Raise ValueError if it cannot be a part, or its options are wrong."""
    name, options = part.get("method"), {key: value for key, value in part.items() if key != "method"}
    if name not in KINDS:
        raise ValueError(f"a part's method is one of {', '.join(KINDS)}, got {name!r}")
    try:
        found = known_methods()[str(name)](**options)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"part {name}: {where}: {first['msg']}") from None
    given = found.model_dump()
    if given.get("initialisation") in ("pissa", "olora"):
        raise ValueError(f"{given['initialisation']} changes the base model and is no part")
    for option in ("train_norms", "train_tokens"):
        if given.get(option):
            raise ValueError(f"{option} is no option of a part")
    if given.get("words") is not None:
        raise ValueError("a prefix that starts from words is no part")
    return found


def _in_one_way(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """Return the parts without options equal to their defaults, so that two spellings are one method."""
    methods: list[Any] = [method_of(part) for part in parts]
    kinds = [KINDS[method.name] for method in methods]
    twice = next((kind for kind in kinds if kinds.count(kind) > 1), None)
    if twice is not None:
        raise ValueError(f"has {twice} twice")
    return tuple({"method": method.name, **method.model_dump(mode="json", exclude_defaults=True)} for method in methods)


@register
class Combined(Strict):
    """Several adapters on one model.

    Args:
        parts: Two or more methods with their options, each as in a suite.
        size_value: Size of the first part, in place of its own; a budget may turn it.
    """

    name: ClassVar[str] = "combined"
    size: ClassVar[Any] = SizeIfGiven()
    learning_rate: ClassVar[float] = 1e-3

    # Not strict: a record's JSON gives a list.
    parts: Annotated[tuple[Part, ...], AfterValidator(_in_one_way)] = Field(min_length=2, strict=False)
    size_value: int | None = Field(default=None, ge=1)

    @property
    def methods(self) -> list[Method]:
        """The parts as methods."""
        found = [method_of(part) for part in self.parts]
        return found if self.size_value is None else [with_size(found[0], self.size_value), *found[1:]]

    def rate_factor(self, weight: str) -> float:
        """Return the factor on the learning rate of a weight, by its name: that of LoRA+."""
        return math.prod(float(part.rate_factor(weight)) for part in self.methods if hasattr(part, "rate_factor"))

    def apply(self, model: Pretrained, *, head: list[str]) -> Adapted:
        """Return *model* with only the parts and the head trainable; refuse one that a part refuses."""
        from peft import get_peft_model

        from lora_bench.tuners import CombinedConfig

        configs = [part.config(model) for part in self.methods]  # type: ignore[attr-defined]  # see KINDS
        adapted: Adapted = get_peft_model(
            model, CombinedConfig(parts=[config.to_dict() for config in configs], modules_to_save=head)
        )
        return adapted
