"""A base model with many LoRA adapters, and the ways in which it answers rows that have adapters of their own.

Adapters are on the modules that PEFT chooses (queries and values; GPT-2: `c_attn`), have random weights, and no head of their
own, since PEFT's mixed batch refuses RoBERTa's.
"""

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lora_bench.records.fleet_record import BY_ADAPTER, MIXED, ONE_BY_ONE, PEFTS
from lora_bench.training.measure.bare_step import time_passes
from lora_bench.tuners import mix_adapters

PAD = 1
EQUAL, UNEQUAL = (8,), (4, 8, 16)
"""Ranks of the adapters of a fleet, in turn."""


class Request(NamedTuple):
    """A row of tokens for an adapter."""

    adapter: str
    row: Tensor


class Fleet:
    """A base model, changed in place, with adapters "000", "001" …, of *ranks* in turn.

    Names have one length, because PEFT's hot swap of an adapter empties those whose names contain its own.
    """

    def __init__(self, base: Any, ranks: tuple[int, ...], device: torch.device) -> None:
        base.config.pad_token_id = PAD
        self.device, self.ranks = device, ranks
        self.base = copy.deepcopy(base).to(device).eval()
        self.model = get_peft_model(base.to(device), self._config(0), adapter_name=name_of(0)).eval()

    def _config(self, number: int) -> LoraConfig:
        return LoraConfig(r=self.ranks[number % len(self.ranks)], init_lora_weights=False)  # random B, not zeros

    def grow(self, adapters: int) -> None:
        """Have at least so many adapters."""
        for number in range(len(self.model.peft_config), adapters):
            self.model.add_adapter(name_of(number), self._config(number))

    def requests(self, adapters: Sequence[int], shortest: int, longest: int) -> list[Request]:
        """Return a row of random tokens for each adapter."""
        drawn = torch.Generator().manual_seed(0)
        lengths = torch.randint(shortest, longest + 1, (len(adapters),), generator=drawn).tolist()
        vocabulary: int = self.base.config.vocab_size
        rows = [torch.randint(PAD + 1, vocabulary, (own,), generator=drawn).to(self.device) for own in lengths]
        return [Request(name_of(adapter), row) for adapter, row in zip(adapters, rows, strict=True)]

    def seconds(self, call: Callable[[], object]) -> float:
        """Return the seconds of a call; on a CPU those of the process, so that other work on the machine counts little."""
        if self.device.type != "cpu":
            return time_passes(call, self.device)
        began = time.process_time()
        call()
        return time.process_time() - began

    def answer(self, way: str, requests: Sequence[Request]) -> Tensor:
        """Answer requests in one batch, each adapter's in a batch, or each by itself."""
        if way == ONE_BY_ONE:
            return torch.cat([self.answer(BY_ADAPTER, [request]) for request in requests])
        if way in (MIXED, PEFTS):
            vars(self.model.base_model).pop("_enable_peft_forward_hooks", None)  # undoes `mix_adapters`
            return logits(mix_adapters(self.model) if way == MIXED else self.model, requests, mixed=True)
        answers: dict[int, Tensor] = {}
        for adapter in dict.fromkeys(request.adapter for request in requests):
            places = [place for place, request in enumerate(requests) if request.adapter == adapter]
            self.model.set_adapter(adapter)
            answers |= zip(places, logits(self.model, [requests[place] for place in places]), strict=True)
        return torch.stack([answers[place] for place in range(len(requests))])


def name_of(number: int) -> str:
    """Return the name of an adapter."""
    return f"{number:03}"


def logits(model: Any, requests: Sequence[Request], *, mixed: bool = False) -> Tensor:
    """Return a model's answers, shape (rows, labels), by the active adapter or, if *mixed*, those that are asked for."""
    ids = pad_sequence([request.row for request in requests], batch_first=True, padding_value=PAD)
    names = {"adapter_names": [request.adapter for request in requests]} if mixed else {}
    found: Tensor = model(input_ids=ids, attention_mask=(ids != PAD).long(), **names).logits
    return found


def gap(got: Tensor, alone: Tensor) -> dict[str, Any]:
    """Return the fields of `Exactness`: how far answers are from the lone adapters', shape (rows, labels)."""
    others = got.argmax(-1) != alone.argmax(-1)
    return {"difference": float((got - alone).abs().max()), "others": int(others.sum())}
