"""What a run keeps of its base model's abilities: a score apart from the task, of the base model and of the trained one.

A causal model is scored by its loss on a text: each paragraph is one row, its labels are its own tokens shifted by one, and
padding is in neither the loss nor the count. Of a causal classifier that is the trained backbone below the language head of its
checkpoint. An encoder is scored on pairs of sentences without a head: the mean of the last hidden states over real tokens, and
Spearman's correlation of the cosines with people's ratings. The adapter is on; merging it changes nothing but rounding.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lora_bench.errors import LoraBenchError
from lora_bench.kinds.exercises.predicting import Example, autocast, evaluating, predict_in_order, quiet
from lora_bench.metrics.spearman import spearman
from lora_bench.models.base_precision import meeting
from lora_bench.models.loading import load_model
from lora_bench.records.record import Retained
from lora_bench.tasks import encode, load_data
from lora_bench.training.job import Job
from lora_bench.tuners.trial import inside_peft
from lora_bench.util.heartbeat import beat

# Of a language model a row's logits are as wide as the vocabulary.
ROWS_OF_TEXT, ROWS_OF_SENTENCES = 8, 64

Score = Callable[[nn.Module], float]

# Scores of base models, which many runs share.
_BEFORE: dict[tuple[object, ...], float] = {}


def retained(job: Job, model: nn.Module, tokenizer: Any, warn: Callable[[str], None]) -> Retained | None:
    """Return a run's retention, or None if it has none or *warn* got a reason. Raise LoraBenchError if its data changed."""
    asked = job.spec.retention
    if asked is None:
        return None
    try:
        _check_scorable(job, model)
        with quiet(), torch.no_grad(), autocast(model, job.spec), meeting(job.spec.training.base_precision):
            count, score = (_of_text if asked.measure == "loss" else _of_sentences)(job, tokenizer)
            before, after = _before(job, model, score), score(_bare(job, model))
        if not (math.isfinite(before) and math.isfinite(after)):
            raise NotScored("outputs are not finite, or all sentences are alike to the model")
    except NotScored as reason:
        warn(f"retention was not scored: {reason}")
        return None
    return Retained(before=round(before, 6), after=round(after, 6), count=count)


class NotScored(LoraBenchError):
    """A model whose retention has no score."""


def _check_scorable(job: Job, model: nn.Module) -> None:
    if not job.base_model.has_weights:
        raise NotScored("a shape without weights has nothing to keep")
    if getattr(model, "prompt_encoder", None):
        raise NotScored("PEFT's prompts stand before the model and are not in its layers")
    if inside_peft(model).config.is_encoder_decoder:
        raise NotScored("it is not written for a model of encoder and decoder")


def _fresh(job: Job, *, writes: bool) -> Any:
    """Return the base model as its checkpoint has it: with its language head, or for the run's task."""
    kind: Any = "generation" if writes else job.task.kind_of.model_kind
    precision = job.spec.training.base_precision
    labels = max(1, len(job.spec.task.labels))
    model, head = load_model(job.base_model, kind=kind, labels=labels, precision=precision)
    if writes and head and not model.config.tie_word_embeddings:
        raise NotScored("the checkpoint has no language head")
    return model.eval()


def _before(job: Job, model: nn.Module, score: Score) -> float:
    asked = job.spec.retention
    device = next(model.parameters()).device
    recipe = job.spec.training
    key = (
        job.base_model.sha256,
        asked,
        recipe.max_length,
        recipe.precision,
        recipe.base_precision,
        recipe.threads,
        device,
    )
    if key not in _BEFORE:
        assert asked is not None
        _BEFORE[key] = score(_fresh(job, writes=asked.measure == "loss").to(device))
    return _BEFORE[key]


def _bare(job: Job, model: nn.Module) -> Any:
    """Return the trained model to score: a writer as it is, and of a causal classifier a language model with its backbone."""
    trained = inside_peft(model)
    assert job.spec.retention is not None
    if job.spec.retention.measure == "spearman" or not job.task.kind_of.has_head:
        return trained
    language = _fresh(job, writes=True).to(next(model.parameters()).device)
    setattr(language, language.base_model_prefix, getattr(trained, trained.base_model_prefix))
    if language.config.tie_word_embeddings:
        language.get_output_embeddings().weight = language.get_input_embeddings().weight
    return language


def _of_text(job: Job, tokenizer: Any) -> tuple[int, Score]:
    """Return the number of predicted tokens, and the function that gives a causal model's loss on them."""
    assert job.retention is not None
    paragraphs, sha256 = job.retention.paragraphs()
    _check(job, sha256)
    encoded = tokenizer(paragraphs, truncation=True, max_length=job.spec.training.max_length)
    rows = [list(ids) for ids in encoded["input_ids"]]
    count = sum(max(0, len(ids) - 1) for ids in rows)
    return count, lambda model: text_loss(model, rows, tokenizer.pad_token_id)


def _of_sentences(job: Job, tokenizer: Any) -> tuple[int, Score]:
    """Return the number of pairs of sentences, and the function that gives an encoder's correlation on them."""
    assert job.retention is not None and job.retention.sentences is not None
    task, base = job.retention.sentences
    data = load_data(task, base, whole_train=True)
    _check(job, data.sha256)
    split = data.splits["test"]
    sides = [replace(split, texts=[(pair[side],) for pair in split.texts]) for side in (0, 1)]
    columns = [encode(side, tokenizer, job.spec.training.max_length)[0] for side in sides]
    ratings: list[Any] = split.labels

    def score(model: nn.Module) -> float:
        first, second = (sentence_vectors(model, column, tokenizer) for column in columns)
        found = spearman(F.cosine_similarity(first, second).tolist(), ratings)
        return math.nan if found is None else found

    return len(split.ids), score


def _check(job: Job, sha256: str) -> None:
    assert job.spec.retention is not None
    if sha256 != job.spec.retention.data_sha256:
        raise LoraBenchError(
            "the data for retention changed after the suite was planned; run the same command again to use the new data"
        )


def text_loss(model: nn.Module, rows: Sequence[Sequence[int]], pad: int) -> float:
    """Return a causal model's mean loss, in nats, over the tokens of *rows* but the first of each; *pad* fills up a batch."""
    device = next(model.parameters()).device
    total, count = 0.0, 0
    scored = [row for row in rows if len(row) > 1]
    with evaluating(model):
        for start in range(0, len(scored), ROWS_OF_TEXT):
            beat()
            batch = scored[start : start + ROWS_OF_TEXT]
            width = max(len(row) for row in batch)
            ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in batch], device=device)
            real = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in batch], device=device)
            logits: Tensor = model(input_ids=ids, attention_mask=real).logits
            # Position i predicts token i + 1. The padding token may be a real one too, so the mask decides, not the id.
            predicted = real[:, 1:].bool()
            losses = F.cross_entropy(logits[:, :-1][predicted].float(), ids[:, 1:][predicted], reduction="sum")
            total += losses.item()
            count += int(predicted.sum())
    return total / count


def sentence_vectors(model: Any, rows: Sequence[Example], tokenizer: Any) -> Tensor:
    """Return the mean of an encoder's last hidden states, without head, over each row's real tokens, shape (rows, width)."""
    device = next(model.parameters()).device
    backbone = getattr(model, model.base_model_prefix)

    def vectors_of(batch: Mapping[str, Tensor]) -> Tensor:
        padded = {name: tensor.to(device) for name, tensor in batch.items()}
        states: Tensor = backbone(**padded).last_hidden_state.float()
        mask = padded["attention_mask"].unsqueeze(-1)
        return (states * mask).sum(1) / mask.sum(1)

    with evaluating(model):
        return predict_in_order(vectors_of, rows, partial(tokenizer.pad, return_tensors="pt"), ROWS_OF_SENTENCES)
