"""Random numbers as a pure function of their use.

Initial weights come from (seed, tensor name), the order of the data from (seed, epoch), dropout from (seed, step). So a
fresh process, a warm worker and a resumed run draw the same numbers, and all methods start from equal heads.
"""

import contextlib
import hashlib
import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


WINDOW = 50
"""Number of batches over which `grouped_order` sorts; part of the meaning of the recipe's `order: grouped`."""


def seed_for(*what: str | int) -> int:
    """Return a seed in [0, 2**63) that depends on every part of *what* and on nothing else."""
    digest = hashlib.sha256("\x1f".join(map(str, what)).encode("utf-8")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def distinct_rows(seed: int, rows: int, wanted: int, labels: Sequence[Hashable] | None = None) -> list[int]:
    """Return *wanted* rows, the first of one permutation, so that fewer are a part of more; classes in *labels* take turns."""
    drawn = sorted(range(rows), key=lambda index: seed_for("distinct", seed, index))
    if labels is not None:
        number = dict.fromkeys(labels, 0)
        turns = {}
        for index in drawn:
            turns[index] = number[labels[index]]
            number[labels[index]] += 1
        drawn.sort(key=turns.__getitem__)
    return drawn[:wanted]


def epoch_order(seed: int, epoch: int, examples: int) -> list[int]:
    """Return the order of an epoch's examples, sorted by a hash: it is the same with every version of every library."""
    return sorted(range(examples), key=lambda index: seed_for("order", seed, epoch, index))


def grouped_order(seed: int, epoch: int, lengths: Sequence[int], batch_size: int) -> list[int]:
    """Return the indexes of the examples in the order of one epoch, with examples of like lengths in a batch.

    Shuffled examples are sorted by length inside windows of `WINDOW` batches, and all batches are shuffled. A batch that
    spans the end of an epoch stays as it was shuffled.
    """
    order = epoch_order(seed, epoch, len(lengths))
    first = min(-epoch * len(order) % batch_size, len(order))
    last = len(order) - (len(order) - first) % batch_size
    batches: list[list[int]] = []
    for start in range(first, last, WINDOW * batch_size):
        window = sorted(order[start : min(start + WINDOW * batch_size, last)], key=lengths.__getitem__)
        batches += [window[index : index + batch_size] for index in range(0, len(window), batch_size)]
    batches = [
        batches[index] for index in sorted(range(len(batches)), key=lambda one: seed_for("batch", seed, epoch, one))
    ]
    return [*order[:first], *itertools.chain(*batches), *order[last:]]


def draw_head(model: "PreTrainedModel", head: list[str], seed: int) -> None:
    """Draw the head's weights anew in place, each module from (seed, its name), by the initialiser of the model's class."""
    import torch

    for name in head:
        for inner, module in model.get_submodule(name).named_modules(prefix=name):
            if next(module.parameters(recurse=False), None) is not None:
                torch.manual_seed(seed_for("head", seed, inner))
                model._init_weights(module)


@contextlib.contextmanager
def adapters_drawn_from(seed: int) -> Iterator[None]:
    """Make PEFT draw the weights of each adapted module from (seed, the module's name) in this block."""
    import torch
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    # PEFT creates an adapter site by site in `_create_and_replace`. There is no public hook; the canary test fails if the
    # name changes.
    originals: dict[type[nn.Module], Callable[..., Any]] = {}
    for tuner in set(PEFT_TYPE_TO_TUNER_MAPPING.values()):
        # The class that defines it may be a base of several tuners, and must be wrapped once.
        owner = next((parent for parent in tuner.__mro__ if "_create_and_replace" in vars(parent)), None)
        if owner is not None:
            originals[owner] = owner._create_and_replace

    def seeded(original: Callable[..., Any]) -> Callable[..., Any]:
        def create(*arguments: Any, current_key: str, **options: Any) -> Any:
            torch.manual_seed(seed_for("adapter", seed, current_key))
            return original(*arguments, current_key=current_key, **options)

        return create

    # Weights outside any site (a prompt encoder, say) still depend on the seed alone.
    torch.manual_seed(seed_for("adapter", seed))
    try:
        for tuner, original in originals.items():
            tuner._create_and_replace = seeded(original)
        yield
    finally:
        for tuner, original in originals.items():
            tuner._create_and_replace = original
