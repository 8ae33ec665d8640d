"""The losses of a model that writes on right texts, text by text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from lora_bench.kinds.exercises.generation.encode import NO_LOSS, Example
from lora_bench.kinds.exercises.generation.encode_pairs import with_decoder_inputs
from lora_bench.kinds.exercises.predicting import evaluating
from lora_bench.tasks.task_scores import Likelihood
from lora_bench.util.failpoints import reach
from lora_bench.util.heartbeat import beat


def likelihoods(
    model: nn.Module,
    rows: Sequence[Example],
    collate: Callable[[list[Example]], Mapping[str, Tensor]],
    *,
    batch_rows: int,
) -> list[Likelihood]:
    """Return how likely the labelled tokens of each row are to a model.

    It gives the logits of the next token at each token; one with an encoder gives those of each label. *collate* makes a batch
    of *batch_rows* rows, with labels.
    """
    device = next(model.parameters()).device
    collate = with_decoder_inputs(collate, model)
    found: dict[int, Likelihood] = {}
    by_length = sorted(range(len(rows)), key=lambda row: -len(rows[row]["input_ids"]))
    with evaluating(model):
        for start in range(0, len(rows), batch_rows):
            reach("run.evaluation")
            beat()
            places = by_length[start : start + batch_rows]
            batch = {name: tensor.to(device) for name, tensor in collate([rows[place] for place in places]).items()}
            labels = batch.pop("labels")
            predicted, last = (labels, None) if "decoder_input_ids" in batch else (labels[:, 1:], -1)
            counts = predicted != NO_LOSS
            # Virtual tokens stand in front. Over a large vocabulary, float32 is for the tokens of answers alone.
            logits = model(**batch).logits[:, -labels.shape[1] : last][counts].float()
            losses = F.cross_entropy(logits, predicted[counts], reduction="none").cpu().double()
            sums = losses.new_zeros(len(places)).index_add_(0, counts.nonzero()[:, 0].cpu(), losses)
            for place, nats, tokens in zip(places, sums.tolist(), counts.sum(1).tolist(), strict=True):
                found[place] = Likelihood(nats, tokens)
    return [found[row] for row in range(len(rows))]
