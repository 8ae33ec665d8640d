"""A check that a model reads each of several texts in one row as if it stood alone.

Position ids begin anew with each text. From them transformers masks the texts of a row from each other, in models that make
their masks so; others, such as OPT, would read on.
"""

from typing import Any

import torch
from torch import Tensor, nn

from lora_bench.errors import UnsupportedPair, typed_line

# Relative to the logits; texts that see each other differ by 5 % and more.
ROUNDING = {torch.float32: 1e-3, torch.bfloat16: 0.03, torch.float16: 0.01}


def check_packing(model: nn.Module) -> None:
    """Check an adapted model on two rows of two texts. Raise UnsupportedPair if it answers them otherwise than alone."""
    device = next(model.parameters()).device
    short, long = torch.arange(5, 9, device=device), torch.arange(12, 21, device=device)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            first, second = (_logits(model, text[None], positions(text)[None])[0] for text in (short, long))
            pairs = [(short, long), (long, short)]
            rows = _logits(
                model,
                torch.stack([torch.cat(pair) for pair in pairs]),
                torch.stack([torch.cat([*map(positions, pair)]) for pair in pairs]),
            )
            alone = torch.stack([torch.cat([first, second]), torch.cat([second, first])])
            missed = (rows - alone).abs().max() / alone.abs().max()
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        raise UnsupportedPair(f"sample_packing: its texts cannot share a row: {typed_line(error)}") from error
    finally:
        model.train(was_training)
    if not missed <= ROUNDING[rows.dtype]:  # and not `>`, which is false for NaN
        raise UnsupportedPair("sample_packing: texts that share a row see each other; leave it out")


def positions(text: Tensor) -> Tensor:
    """Return the places of the tokens of a text."""
    return torch.arange(len(text), device=text.device)


def _logits(model: Any, ids: Tensor, position_ids: Tensor) -> Tensor:
    found: Tensor = model(input_ids=ids, position_ids=position_ids, use_cache=False).logits
    return found
