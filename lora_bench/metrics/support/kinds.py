"""Facts about the kinds of task, for code that works with a model and knows no task: its class, its batches, its labels."""

from __future__ import annotations

from dataclasses import dataclass

from lora_bench.metrics.support.metric_facts import Kind


@dataclass(frozen=True)
class KindFacts:
    """Names of a kind of task elsewhere.

    Args:
        auto: End of the names of its automatic classes in transformers and PEFT, as in `AutoModelForCausalLM`.
        task_type: Its task type in PEFT.
        pipeline: Its pipeline on the hub.
    """

    auto: str
    task_type: str
    pipeline: str


KINDS: dict[Kind, KindFacts] = {
    "classification": KindFacts("SequenceClassification", "SEQ_CLS", "text-classification"),
    "regression": KindFacts("SequenceClassification", "SEQ_CLS", "text-classification"),
    "generation": KindFacts("CausalLM", "CAUSAL_LM", "text-generation"),
    "multilabel": KindFacts("SequenceClassification", "SEQ_CLS", "text-classification"),
    "tokens": KindFacts("TokenClassification", "TOKEN_CLS", "token-classification"),
    "spans": KindFacts("QuestionAnswering", "QUESTION_ANS", "question-answering"),
}

APART = KindFacts("Seq2SeqLM", "SEQ_2_SEQ_LM", "text-generation")
"""Names for generation by a model whose encoder reads the input and whose decoder writes."""

WITH_CLASSES: frozenset[str] = frozenset({"classification", "tokens", "multilabel"})
"""Kinds whose labels are names of classes."""

LABEL_PER_TOKEN: frozenset[str] = frozenset({"generation", "tokens"})
"""Kinds whose batches have a label for each token, and not for each example."""

READS_ONE_TOKEN: frozenset[str] = frozenset({"classification", "regression", "multilabel"})
"""Kinds whose head reads one token of an example."""

REAL_LABELS: frozenset[str] = frozenset({"regression", "multilabel"})
"""Kinds whose labels are real numbers, and no indexes."""

WITHOUT_SMOOTHING: frozenset[str] = REAL_LABELS | {"spans"}
"""Kinds without labels over which a share of the probability could be spread."""


def facts_of(kind: Kind, *, apart: bool) -> KindFacts:
    """Return the names of a kind of task.

    Args:
        kind: The kind.
        apart: True if an encoder reads the input of what the model writes.
    """
    return APART if apart and kind == "generation" else KINDS[kind]


def label_shapes(kind: Kind, rows: int, length: int, labels: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of labels in a batch, by its name.

    For a text that a decoder writes behind an encoder, input and text have the same length.
    """
    if kind == "spans":
        return {"start_positions": (rows,), "end_positions": (rows,)}
    if kind == "multilabel":
        return {"labels": (rows, labels)}
    return {"labels": (rows, length) if kind in LABEL_PER_TOKEN else (rows,)}
