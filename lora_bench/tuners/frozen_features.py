"""Features of a frozen base model, computed once for each row, for a head that alone is trained.

Inside the classifier's forward pass the base model answers from memory: the vectors of a row's tokens, or that of the first
token where the head reads no other. A row that it has not seen is computed alone, without padding and without dropout, so its
features do not depend on the batches of a run. Outside of the classifier, as for `retention`, the base model is itself.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lora_bench.errors import UnsupportedPair
from lora_bench.families import FAMILIES

# Classifiers whose head reads every token, also in a family whose others read the first.
_OF_EVERY_TOKEN = ("ForTokenClassification", "ForQuestionAnswering")


class ComputeOnce:
    """A *classifier* that computes a row once in its frozen base. Raise UnsupportedPair if a decoder reads a second text."""

    def __init__(self, classifier: Any) -> None:
        if getattr(classifier.config, "is_encoder_decoder", False):
            raise UnsupportedPair("features of a model that reads one text and writes another are not those of a row")
        family = next((one for one in FAMILIES if classifier.config.model_type in one.model_types), None)
        reads_first = family is not None and family.reads == "first"
        # Then only the vector of the first token is kept.
        self.first = reads_first and not type(classifier).__name__.endswith(_OF_EVERY_TOKEN)
        self.base, self.whole = getattr(classifier, classifier.base_model_prefix), classifier.forward
        self.plain: Callable[..., Any] = self.base.forward
        self.names = tuple(inspect.signature(type(self.base).forward).parameters)[1:]
        self.kept: dict[bytes, Tensor] = {}
        self.answer_type: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the classifier's output."""
        self.base.forward = self._answer
        try:
            return self.whole(*args, **kwargs)
        finally:
            del self.base.forward

    @torch.no_grad()
    def _answer(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the base model would, from its memory."""
        given = dict(zip(self.names, args, strict=False)) | kwargs
        ids = given.get("input_ids")
        if ids is None or ids.is_meta:  # a step that is counted from shapes alone
            return self.plain(*args, **kwargs)
        mask = given.get("attention_mask")
        real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
        rows = [self._row(given, ids.shape, row, real[row]) for row in range(len(ids))]
        width = rows[0].shape[-1]
        if self.first:
            hidden = torch.stack(rows)
        else:
            hidden = rows[0].new_zeros(*ids.shape, width)
            hidden[real] = torch.cat(rows)
        pooler = getattr(self.base, "pooler", None)
        pooled = {} if pooler is None else {"pooler_output": pooler(hidden)}
        return self.answer_type(last_hidden_state=hidden, **pooled)

    def _row(self, given: dict[str, Any], shape: torch.Size, row: int, real: Tensor) -> Tensor:
        """Return the vectors of the real tokens of a row, or of the first one."""
        own = {
            name: value[row, real][None] if isinstance(value, Tensor) and value.shape == shape else value
            for name, value in given.items()
        }
        of_tokens = [value for name, value in sorted(own.items()) if isinstance(value, Tensor) and value.dim() == 2]
        key = torch.stack(of_tokens).cpu().numpy().tobytes()
        if key not in self.kept:
            self.base.eval()
            found = self.plain(**own)
            self.answer_type = type(found)
            hidden = found.last_hidden_state[0]
            self.kept[key] = hidden[:1].clone() if self.first else hidden
        return self.kept[key]
