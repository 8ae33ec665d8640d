"""Prefix-embedding tuning: trained embeddings of virtual tokens in front of a text.

`lora_bench.methods.prefix_embedding` tells the method. Virtual tokens are inserted behind the embedding layer, so its positions
and LayerNorm are part of what is learned. In a DeBERTa they stand at negative positions. If a mask lets queries see different
tokens, such as those of several packed texts, virtual tokens see what all of them see, so that nothing passes between texts.

GPT-2 adds a position to each token and masks what comes later, so it is called with the longer text. The head then reads the
last infix token: it alone sees the text and all virtual tokens. A model that writes would also need its cache and the positions
of all later tokens moved: PEFT's prompt tuning does that.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from lora_bench.errors import LoraBenchError, UnsupportedPair
from lora_bench.families import Family
from lora_bench.tuners.attention import refuse_kernel
from lora_bench.tuners.mixed_batches import check_rows
from lora_bench.tuners.registration import register
from lora_bench.tuners.sites import Tuner, TunerConfig, TunerLayer


def insert_in_mask(mask: Tensor | None, visible: Tensor) -> Tensor | None:
    """Return an encoder's mask with virtual tokens in front; None if all is visible.

    Args:
        mask: Real tokens, shape (batch, tokens), or what each query may see, shape (batch, heads or 1, tokens or 1, tokens),
            bool or added to the scores; None if all is visible.
        visible: Virtual tokens of each row, shape (batch, prefix_tokens), bool.
    """
    if mask is None:
        return None
    if mask.dim() == 2:
        return torch.cat([visible.to(mask.dtype), mask], dim=1)
    columns = visible[:, None, None, :]
    if mask.dtype == torch.bool:
        seen_by_all = mask.all(dim=2, keepdim=True)
    else:
        seen_by_all = mask.amin(dim=2, keepdim=True)
        columns = torch.zeros_like(columns, dtype=mask.dtype).masked_fill(~columns, torch.finfo(mask.dtype).min)
    (batch, virtual), tokens = visible.shape, mask.shape[-1]
    of_virtual, of_text = seen_by_all.expand(batch, -1, virtual, -1), mask.expand(batch, -1, tokens, -1)
    rows = torch.cat([of_virtual, of_text], dim=2)
    return torch.cat([columns.expand(-1, rows.shape[1], virtual + tokens, -1), rows], dim=-1)


@dataclass(kw_only=True)
class PrefixEmbeddingConfig(TunerConfig):
    """Config of trained embeddings of virtual tokens in front of the text; `methods.prefix_embedding` tells the options."""

    num_virtual_tokens: int
    init_std: float = field(default=0.02)
    num_infix_tokens: int = field(default=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = LORA_BENCH_PREFIX_EMBEDDING
        self.refuse_below(1, "num_virtual_tokens")
        self.refuse_below(0, "num_infix_tokens")


class PrefixEmbeddingLayer(TunerLayer):
    """An encoder's stack of layers, which reads hidden states and a mask, with the virtual tokens before the text."""

    adapter_layer_names: tuple[str, ...] = ("virtual_embedding",)

    def __init__(self, base_layer: nn.Module, width: int) -> None:
        super().__init__(base_layer)
        self.width = width
        self.virtual_embedding = nn.ParameterDict()

    def update_layer(self, adapter_name: str, config: PrefixEmbeddingConfig, device: torch.device) -> None:
        """Add embeddings, drawn on *device*."""
        self.virtual_embedding[adapter_name] = self._drawn(config.num_virtual_tokens, config, device)

    def _drawn(self, tokens: int, config: PrefixEmbeddingConfig, device: torch.device) -> nn.Parameter:
        return nn.Parameter(nn.init.normal_(torch.empty(tokens, self.width, device=device), std=config.init_std))

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        *args: Any,
        adapter_names: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return the stack's output for the text behind the active virtual tokens, or behind each row's own."""
        if adapter_names is not None and self.virtual_embedding and not self.disable_adapters:
            check_rows(adapter_names, hidden_states)
            tokens, visible = self.mixed(self.virtual_embedding, adapter_names)
            if attention_mask is None:  # all of the text is seen, and not all of the virtual tokens
                attention_mask = hidden_states.new_zeros(len(hidden_states), 1, 1, hidden_states.shape[1])
        else:
            live = self.live_adapters()
            if not live:
                return self.base_layer(hidden_states, attention_mask, *args, **kwargs)
            tokens = torch.cat([self.virtual_embedding[name] for name in live])
            visible = torch.ones(len(hidden_states), len(tokens), dtype=torch.bool, device=tokens.device)
        virtual = tokens.to(hidden_states.dtype).expand(len(hidden_states), -1, -1)
        whole = torch.cat([virtual, hidden_states], dim=1)
        output = self.base_layer(whole, insert_in_mask(attention_mask, visible), *args, **kwargs)
        return _of_text(output, tokens.shape[-2], hidden_states.shape[1])

    def mixed(self, weights: nn.ParameterDict, adapter_names: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return each row's virtual tokens, shape (batch, longest, width), at the end of theirs, and which of them are real."""
        none = next(iter(self.virtual_embedding.values())).new_zeros(0, self.width)
        rows = [weights.get(name, none) for name in adapter_names]
        padded = pad_sequence(rows, batch_first=True, padding_side="left")
        lengths = torch.tensor([len(row) for row in rows], device=none.device)
        return padded, torch.arange(padded.shape[1], device=none.device) >= padded.shape[1] - lengths[:, None]


class DecoderEmbeddingLayer(PrefixEmbeddingLayer):
    """A decoder with virtual tokens around the text, which shows its attributes; *positions* names its table of positions."""

    adapter_layer_names: tuple[str, ...] = ("virtual_embedding", "virtual_infix")

    def __init__(self, base_layer: nn.Module, width: int, positions: str) -> None:
        super().__init__(base_layer, width)
        self.positions = positions
        self.virtual_infix = nn.ParameterDict()

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the decoder that this layer does not have."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer":
                raise
            return getattr(self.base_layer, name)

    def update_layer(self, adapter_name: str, config: PrefixEmbeddingConfig, device: torch.device) -> None:
        """Add embeddings, drawn on *device*."""
        super().update_layer(adapter_name, config, device)
        if config.num_infix_tokens:
            self.virtual_infix[adapter_name] = self._drawn(config.num_infix_tokens, config, device)

    def forward(  # type: ignore[override]  # of another kind of module
        self,
        input_ids: Tensor | None = None,
        *,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        adapter_names: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return the decoder's output for the text between the active virtual tokens, or between each row's own.

        Raise LoraBenchError if the text is a part of one, or has types of tokens or a mask of pairs of tokens.
        """
        decoder: Any = self.base_layer
        given = input_ids if input_ids is not None else inputs_embeds
        assert given is not None, "a decoder gets token ids or embeddings"
        if adapter_names is not None and self.virtual_embedding and not self.disable_adapters:
            check_rows(adapter_names, given)
            virtual = [self.mixed(weights, adapter_names) for weights in (self.virtual_embedding, self.virtual_infix)]
        elif live := self.live_adapters():
            virtual = [
                self._active(weights, live, len(given)) for weights in (self.virtual_embedding, self.virtual_infix)
            ]
        else:
            own = {"attention_mask": attention_mask, "position_ids": position_ids, "inputs_embeds": inputs_embeds}
            return decoder(input_ids, **own, **kwargs)
        _refuse_parts(attention_mask, kwargs)
        states = decoder.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds
        tokens = states.shape[1]
        if position_ids is None:
            position_ids = torch.arange(tokens, device=states.device)[None]
        if attention_mask is None:
            attention_mask = torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
        # A virtual token has no position: what the decoder adds to it is taken off before.
        added = decoder.get_submodule(self.positions).weight[0]
        before, behind = ((rows - added.to(rows.dtype)).to(states.dtype) for rows, _ in virtual)
        (_, of_prefix), (_, of_infix) = virtual
        prefix, infix = of_prefix.shape[1], of_infix.shape[1]
        output = decoder(
            inputs_embeds=torch.cat([before, states, behind], dim=1),
            attention_mask=torch.cat(
                [of_prefix.to(attention_mask.dtype), attention_mask, of_infix.to(attention_mask.dtype)], dim=1
            ),
            position_ids=F.pad(position_ids, (prefix, infix)),
            **kwargs,
        )
        last = output["last_hidden_state"][:, -1:]
        output = _of_text(output, prefix, tokens)
        text = output["last_hidden_state"]
        if infix:
            places = torch.arange(tokens, device=states.device)
            read = (places == self._read(input_ids, states)[:, None]) & of_infix.any(dim=1, keepdim=True)
            text = torch.where(read[..., None], last, text)
        # Of a view, torch's product with a head that is trained rounds otherwise than with one that is not.
        output["last_hidden_state"] = text.contiguous()
        return output

    def _active(self, weights: nn.ParameterDict, live: Sequence[str], batch: int) -> tuple[Tensor, Tensor]:
        """Return the tokens of the active adapters for each row, shape (batch, tokens, width), all of them real."""
        none = next(iter(self.virtual_embedding.values())).new_zeros(0, self.width)
        rows = torch.cat([none, *(weights[name] for name in live if name in weights)])
        return rows.expand(batch, -1, -1), torch.ones(batch, len(rows), dtype=torch.bool, device=rows.device)

    def _read(self, input_ids: Tensor | None, states: Tensor) -> Tensor:
        """Return the position of each row that a classifier's head reads, by transformers' rule, shape (batch,)."""
        pad = self.base_layer.config.pad_token_id
        if input_ids is None or pad is None:
            return torch.full((len(states),), states.shape[1] - 1, device=states.device)
        places = torch.arange(input_ids.shape[1], device=input_ids.device, dtype=torch.int32)
        return (places * (input_ids != pad)).argmax(-1)


def _refuse_parts(attention_mask: Tensor | None, kwargs: dict[str, Any]) -> None:
    """Refuse a part of a text whose rest is in a cache, types of tokens, and a mask of pairs of tokens."""
    cache = kwargs.get("cache", kwargs.get("past_key_values"))
    if cache is not None and cache.get_seq_length() > 0:
        raise LoraBenchError("virtual tokens around a text need the whole text, and a part of it is in the cache")
    if kwargs.pop("token_type_ids", None) is not None:
        raise LoraBenchError("virtual tokens around a text have no type, and token_type_ids are given")
    if attention_mask is not None and attention_mask.dim() != 2:
        raise LoraBenchError("virtual tokens around a text need a mask of shape (batch, tokens)")


def _of_text(output: Any, first: int, tokens: int) -> Any:
    """Return an output with the hidden states of the text alone; attention probabilities keep the virtual tokens."""
    text = slice(first, first + tokens)
    for name in ("last_hidden_state", "hidden_states"):
        states = output.get(name)
        if isinstance(states, Tensor):
            output[name] = states[:, text]
        elif states is not None:
            output[name] = type(states)(layer[:, text] for layer in states)
    return output


class PrefixEmbeddingModel(Tuner):
    """A model with virtual tokens, from `get_peft_model(model, PrefixEmbeddingConfig(...))`."""

    prefix = "virtual_"
    tuner_layer_cls = PrefixEmbeddingLayer
    title = "prefix-embedding tuning"

    def site_pattern(self, config: PrefixEmbeddingConfig, family: Family, model_config: dict[str, Any]) -> str:
        """Return a regular expression of the stack of layers of *family*, or of the decoder without its head.

        Raise UnsupportedPair if the model writes text, its layers are not called as one module, its attention kernel takes
        positions for packed texts, or an encoder is to have infix tokens.
        """
        if family.encoder is None:
            return self._decoder(family)
        if model_config.get("is_decoder"):
            raise UnsupportedPair(f"{self.title} is written for encoders, and this model is a decoder (is_decoder)")
        if config.num_infix_tokens:
            raise UnsupportedPair(
                f"infix tokens stand behind the text of a causal model, and {family.name} is an encoder, where they would be "
                "prefix tokens: give more num_virtual_tokens instead"
            )
        return family.encoder

    def _decoder(self, family: Family) -> str:
        if family.positions is None:
            raise UnsupportedPair(
                f"{self.title} is written for encoders whose layers are called as one and for classifiers of GPT-2, and "
                f"{family.name} is neither: prefix_layer works there, or PEFT's PROMPT_TUNING for text generation"
            )
        model: Any = self.model
        if model.can_generate():
            raise UnsupportedPair(
                f"{self.title} is written for classifiers, and this {family.name} writes text: prefix_layer works there, or "
                "PEFT's PROMPT_TUNING"
            )
        refuse_kernel(getattr(model.config, "_attn_implementation", None))
        layer = next(path for path, _ in model.named_modules() if re.fullmatch(family.layer, path))
        decoder, dot, _ = layer.removesuffix(f".{layer.rsplit('.', 1)[1]}").rpartition(".")
        if not dot:
            raise UnsupportedPair(f"{self.title} needs a model with a head, and this is a {family.name} without one")
        decoder = str(decoder).removesuffix(".base_layer")  # of a second adapter
        return re.escape(decoder)

    def new_layer(
        self,
        base_layer: nn.Module,
        config: PrefixEmbeddingConfig,
        family: Family,
        model_config: dict[str, Any],
        path: str,
    ) -> PrefixEmbeddingLayer:
        """Wrap the stack of layers of the base model, or the decoder without its head."""
        width = model_config[family.hidden_size_key]
        if family.encoder is None and family.positions is not None:
            return DecoderEmbeddingLayer(base_layer, width, family.positions)
        return PrefixEmbeddingLayer(base_layer, width)


LORA_BENCH_PREFIX_EMBEDDING = register("LORA_BENCH_PREFIX_EMBEDDING", PrefixEmbeddingConfig, PrefixEmbeddingModel)
