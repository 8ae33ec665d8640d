"""Refuse inputs that a base model has no row for: a token beyond its vocabulary, or a position beyond its last."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lora_bench.errors import Fault, LoraBenchError, refuse
from lora_bench.kinds.exercises import exercise
from lora_bench.models.loading import load_tokenizer, reads_apart
from lora_bench.plan.cell import Cell
from lora_bench.suite.load_suite import Suite
from lora_bench.tasks import Task, TaskData

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lora_bench.kinds.exercises.base_exercise import Exercise

# Tokens that a tokenizer and a task put around the texts of an input, at most.
AROUND = 4


def check_lengths(suite: Suite, cells: list[Cell], data: Mapping[str, TaskData]) -> None:
    """Refuse a tokenizer or inputs that a base model cannot take, and a chat without a template."""
    tokenizers: dict[str, PreTrainedTokenizerBase] = {}
    faults: dict[Fault, None] = {}
    names = [entry.model for entry in suite.models]
    seen: set[tuple[str, str, int]] = set()
    for cell in cells:
        base_model, task, shape = cell.job.base_model, cell.job.task.task, cell.fit.shape
        length = cell.job.spec.training.max_length
        if shape is None or cell.record is not None or (base_model.name, task, length) in seen:
            continue
        if not base_model.has_weights:
            continue  # a shape has no tokenizer
        seen.add((base_model.name, task, length))
        key = ("models", names.index(base_model.name))
        if base_model.name not in tokenizers:
            tokenizers[base_model.name] = load_tokenizer(base_model)
        tokenizer = tokenizers[base_model.name]
        declared = cell.job.task
        made = exercise(declared, tokenizer, cell.job.spec)
        try:
            made.check_tokenizer(declared, tokenizer, data[task])
        except LoraBenchError as error:
            faults[suite.document.fault(key, f"{base_model.name!r} cannot be trained on {task}: {error}")] = None
            continue
        if (tokens := max(tokenizer.get_vocab().values()) + 1) > shape.vocabulary:
            message = (
                f"the tokenizer of {base_model.name!r} has {tokens:,} tokens, and the model knows {shape.vocabulary:,}: save "
                f"the model again after resize_token_embeddings({tokens}); `full` trains the new rows, and `lora` with "
                "`train_tokens`"
            )
            faults[suite.document.fault(key, message)] = None
        apart, decoding = reads_apart(base_model.model_type), cell.job.spec.decoding
        if apart and shape.positions is not None and decoding is not None and decoding.max_new_tokens > shape.positions:
            message = (
                f"is {decoding.max_new_tokens:,}, but {base_model.name!r} writes {shape.positions:,} tokens at most"
            )
            faults[suite.document.fault(("decoding", "max_new_tokens"), message)] = None
        if shape.positions is not None and length > shape.positions:
            longest = _beyond(made, declared, data[task], tokenizer, shape.positions, apart=apart)
            if longest is not None:
                message = (
                    f"is {length:,}, but {base_model.name!r} reads {shape.positions:,} tokens at most, and an input of {task} "
                    f"has {longest:,}: take max_length: {shape.positions}"
                )
                faults[suite.document.fault(("training", "max_length"), message)] = None
    refuse(faults)


def _beyond(
    made: "Exercise", task: Task, data: TaskData, tokenizer: "PreTrainedTokenizerBase", positions: int, *, apart: bool
) -> int | None:
    """Return the tokens of an input longer than *positions*, or None; see `TaskKind.inputs` for *apart*."""
    texts: list[tuple[str, ...]] = []
    encoded: list[int] = []
    for split in data.splits.values():
        inputs = task.kind_of.inputs(split, apart=apart)
        if inputs is None:
            encoded += (len(example["input_ids"]) for example in made.whole(split, train=True))
        else:
            # A token stands for a byte at least, so short texts need not be encoded.
            texts += (text for text in inputs if sum(len(part.encode()) for part in text) + AROUND > positions)
    if max(encoded, default=0) > positions:
        return max(encoded)
    for text in sorted(texts, key=lambda text: -sum(map(len, text))):
        tokens = len(tokenizer(*text, verbose=False)["input_ids"])
        if tokens > positions:
            return tokens
    return None
