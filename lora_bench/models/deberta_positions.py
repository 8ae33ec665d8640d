"""Restrict DeBERTa's relative positions to those that a batch's rows reach.

DeBERTa-v2 and v3 project a table of all relative positions in every layer (512 rows, as published), score every token against
all of them, and then gather the few that occur: rows of 45 tokens are at most 44 apart. Here only the rows that can occur are
projected. The same products are summed, so scores agree up to rounding. This holds with dropout on the table too, because the
dropout is drawn for the whole table.
"""

import functools
import math

from torch import Tensor, nn
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention


class ReachedSelfAttention(DisentangledSelfAttention):
    """DeBERTa's attention with a table of relative positions restricted to those its rows reach."""

    pos_ebd_size: int

    def disentangled_attention_bias(
        self, query_layer: Tensor, key_layer: Tensor, relative_pos: Tensor, rel_embeddings: Tensor, scale_factor: int
    ) -> Tensor:
        """Return DeBERTa's bias; queries and keys have shape (batch * heads, tokens, width of a head)."""
        whole = self.pos_ebd_size
        longest = max(query_layer.size(-2), key_layer.size(-2))
        reach = min(whole, reached(longest, self.position_buckets, self.max_relative_positions))
        names = ("query_proj", "key_proj", "pos_key_proj", "pos_query_proj")
        if self.training and any(_drops(getattr(self, name)) for name in names if hasattr(self, name)):
            reach = whole  # a method's dropout on the table is drawn for the whole table
        self.pos_ebd_size = reach
        try:
            return super().disentangled_attention_bias(
                query_layer, key_layer, relative_pos, rel_embeddings[whole - reach : whole + reach], scale_factor
            )
        finally:
            self.pos_ebd_size = whole


def _drops(module: nn.Module) -> bool:
    return any(isinstance(part, nn.Dropout) and part.p > 0 for part in module.modules())


@functools.cache
def reached(tokens: int, buckets: int, most: int) -> int:
    """Return an upper bound of the distance between the middle of the table and the positions of rows of so many tokens.

    Beyond half of *buckets*, positions share rows of the table, more of them the farther; below 1 none do. *most* is the
    farthest position that differs from farther ones.
    """
    middle = buckets // 2
    if buckets < 1 or tokens <= middle:
        return tokens
    farther = math.log((tokens - 1) / middle) / math.log((most - 1) / middle) * (middle - 1)
    # One more than needed, because the table's own bucket is rounded up from another number format.
    return middle + math.ceil(farther) + 2


def cut_to_reach(model: nn.Module) -> None:
    """Make every DeBERTa-v2 attention in a model use only the relative positions that its rows reach."""
    for module in model.modules():
        if type(module) is DisentangledSelfAttention:
            module.__class__ = ReachedSelfAttention
