"""Prefix tuning: train keys and values that every layer attends to.

    attention(q, [P_k; K], [P_v; V])

P_k and P_v have shape (num_virtual_tokens, width) in every layer: 2LPd weights in L layers of width d with P tokens. Real
tokens keep their positions; a prefix has none. Behind an encoder, every layer of the decoder has two prefixes, as in the paper:
in front of its own keys and in front of the encoder's. With L layers in each these are 6LPd weights.

Reparameterised, as in the paper, layer l trains W_l tanh(W E + b) + b_l, with E of shape (P, d), W (m, d) and W_l (2d, m) for a
reparameterisation_width m: Pd + md + m + L(2dm + 2d) weights, a hundred times as many. Saving folds them into 2LPd. Prefixes of
the encoder, of the decoder and in front of the encoder's keys have such a network each.

Paper: Li and Liang 2021, https://arxiv.org/abs/2101.00190. Learning rates: 1e-3 to 3e-2, 1e-2 to 1e-1 for small models,
5e-5 to 1e-3 if reparameterised; needs more steps than other methods. Sizes: 8 to 200.

On T5, AdapterHub's `adapters` 1.3.0 differs: it counts the P tokens among the positions of keys but not of queries, which moves
real tokens apart by P. Here their distances stay those that T5 was trained with, and a prefix has no position bias.

Limits: it cannot be merged and does not start exactly from the base model. A reparameterised prefix cannot start from words.
"""

from collections.abc import Sequence
from typing import ClassVar, Self

from pydantic import Field, model_validator

from lora_bench.documents import Strict
from lora_bench.errors import LoraBenchError, UnsupportedPair
from lora_bench.methods.contract import Adapted, AdapterConfig, Preset, Pretrained, SearchedRates, register


@register
class PrefixTuning(Strict):
    """Trained keys and values in every layer.

    Args:
        num_virtual_tokens: Length of the prefix, at least 1.
        init_std: Standard deviation of the normal initial prefix; unused if reparameterised.
        reparameterised: Compute the prefix by a small network during training.
        reparameterisation_width: Hidden units of that network, at least 1.
        words: Text whose keys and values in the base model are the initial prefix, repeated or cut to its length; None starts
            from random numbers.
    """

    name: ClassVar[str] = "prefix_tuning"
    size: ClassVar[str | None] = "num_virtual_tokens"
    learning_rate: ClassVar[float] = 1e-2
    searched_rates: ClassVar[SearchedRates] = {
        256: (3e-2, 1e-2, 5e-2),
        384: (2e-2, 1e-2, 8e-2),
        768: (1e-2, 1e-2, 1e-2),
    }
    packed_options: ClassVar[tuple[str, ...]] = ()
    peft_types: ClassVar[tuple[str, ...]] = ("PREFIX_TUNING", "LORA_BENCH_PREFIX")
    presets: ClassVar[dict[str, Preset]] = {
        "prefix_network": Preset(
            "prefixes computed by a network of 512 hidden units: Li and Liang 2021, https://arxiv.org/abs/2101.00190, who "
            "train at 5e-5 to 8e-5, for longer",
            {"reparameterised": True, "reparameterisation_width": 512},
            learning_rate=5e-4,
        )
    }

    num_virtual_tokens: int = Field(default=16, ge=1)
    init_std: float = Field(default=0.02, ge=0)
    reparameterised: bool = False
    reparameterisation_width: int = Field(default=512, ge=1)
    words: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _words_are_not_computed(self) -> Self:
        if self.words is not None and self.reparameterised:
            raise ValueError("a reparameterised prefix is computed and cannot start from words")
        return self

    def apply(self, model: Pretrained, *, head: list[str]) -> Adapted:
        """Return *model* with only the prefix and the head trainable.

        Raise UnsupportedPair if no prefix is written for the model's attention, or *words* are given and no tokenizer is found;
        LoraBenchError if *words* hold no token.
        """
        import torch
        from peft import get_peft_model

        from lora_bench.tuners import prefix_from_words

        config = self.config(model, head)
        if self.words is None:
            return get_peft_model(model, config)
        tokens = _tokens(self.words, model, self.num_virtual_tokens)
        adapted = get_peft_model(model, config)
        if model.device.type != "meta":  # where weights are counted and nothing can be read
            prefix_from_words(adapted, torch.tensor(tokens, device=model.device))
        return adapted

    def config(self, model: Pretrained, head: Sequence[str] = ()) -> AdapterConfig:
        """Return the config for *model*, with the modules of *head* trained whole."""
        from lora_bench.tuners import PrefixConfig

        return PrefixConfig(**self.model_dump(exclude={"words"}), modules_to_save=list(head))


def _tokens(words: str, model: Pretrained, count: int) -> list[int]:
    """Return the first *count* tokens of repeated *words*, by the tokenizer beside *model*."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model.name_or_path, trust_remote_code=False)
    except Exception as error:  # what is missing or broken raises a different type for each kind of tokenizer
        found = "there is none that can be loaded" if model.name_or_path else "this one was made from a config"
        raise UnsupportedPair(
            f"a prefix from words needs a tokenizer where the base model was loaded from, and {found}"
        ) from error
    tokens = tokenizer(words, add_special_tokens=False)["input_ids"]
    if not tokens:
        raise LoraBenchError(f"words must hold at least one token, got {words!r}")
    return [tokens[index % len(tokens)] for index in range(count)]
