"""`lora-bench fits`: which methods fit a card, as a table for the terminal."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from lora_bench.cli.commands import terminal
from lora_bench.cli.help import DONE
from lora_bench.models.registry import find_model, known_models
from lora_bench.models.shapes import PREFIX
from lora_bench.plan.what_fits import TIME_FACTOR, Fit, cache_bytes, what_fits
from lora_bench.report.text import MISSING
from lora_bench.training.measure.step_costs import card_bytes
from lora_bench.util.redaction import message

# The parts of a step's memory, with their names in the table.
PARTS = {
    "weights": "weights", "gradients": "grads", "states": "states", "activations": "activ.", "logits": "logits",
    "peak": "peak",
}  # fmt: skip


def fits(arguments: argparse.Namespace) -> int:
    """Show which methods fit a card with a base model."""
    given: str = arguments.model
    model = given if given.startswith(PREFIX) or given in known_models() else f"{PREFIX}{given}"
    room = card_bytes(arguments.device)  # a mistaken name is said before the model is looked for
    base_model = find_model(model, base=Path())
    found = list(
        what_fits(
            base_model,
            arguments.device,
            length=arguments.length,
            rows=arguments.batch,
            progress=lambda line: print(message(line), file=sys.stderr),
        )
    )
    console = terminal()
    batch = f"{arguments.batch} × {arguments.length} tokens"
    title = f"{given.removeprefix(PREFIX)} on {arguments.device} ({_gib(room)} GiB), a batch of {batch}, in GiB"
    console.print(_table(title, found, arguments.length), highlight=False)
    for line in _notes(found, cache_bytes(base_model, arguments.length)):
        console.print(Text(line), highlight=False)
    return DONE


def _gib(size: float) -> str:
    return f"{size / 2**30:,.1f}"


def _table(title: str, found: Sequence[Fit], length: int) -> Table:
    table = Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for header in ("method", "base", "trained", *PARTS.values(), "rows", "tokens/s"):
        table.add_column(header, justify="left" if header in ("method", "base") else "right", no_wrap=True)
    for fit in found:
        if fit.step is not None:
            speed = MISSING if fit.seconds is None else f"{fit.largest * length / fit.seconds:,.0f}"
            first = ("  checkpointed", "", "") if fit.checkpointing else (fit.method, fit.base, f"{fit.step.trained:,}")
            sizes = (_gib(getattr(fit.step, part)) for part in PARTS)
            table.add_row(*first, *sizes, f"{fit.largest:,}" if fit.largest else "none", speed)
    return table


def _notes(found: Sequence[Fit], cache: int) -> list[str]:
    notes = [f"{fit.method} in {fit.base}: {fit.reason}" for fit in found if fit.reason is not None]
    answers = [f"while it answers, a row takes {cache / 2**20:,.0f} MiB more for its keys and values"] if cache else []
    return [
        *dict.fromkeys(notes),
        "computed from shapes, not measured; rows: of the largest batch that fits, with room for the allocator and the context",
        f"tokens/s: in that batch, from the card's published speed; on an L40S up to {TIME_FACTOR} times off",
        "float32 is multiplied in 16 bits (autocast); 4 bits are NF4 with LoRA in all linear layers, as `qlora`",
        "a T4, V100 or RTX 8000 multiplies in float16 where others do in bfloat16, of the same size",
        *answers,
    ]
