"""Generation and chat: an answer is a text that a model writes."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from lora_bench.errors import Diverged
from lora_bench.kinds.exercises.base_exercise import UNCUT, Exercise, Loss, Pack, Replies, cross_entropy, unlabelled
from lora_bench.kinds.exercises.generation.chat_format import ChatFormat, Ending, encode_conversations, encode_openings
from lora_bench.kinds.exercises.generation.decode import complete, complete_each
from lora_bench.kinds.exercises.generation.encode import (
    NO_LOSS,
    CompletionCollator,
    PairCollator,
    encode_completions,
    encode_prompts,
    encode_sources,
    encode_targets,
    with_decoder_inputs,
)
from lora_bench.kinds.exercises.predicting import Example, autocast, evaluating, quiet
from lora_bench.kinds.support.row_values import Encoded, Texts
from lora_bench.kinds.support.task_kind import Shape
from lora_bench.models.loading import reads_apart
from lora_bench.records.budget import TARGETS
from lora_bench.records.spec import Decoding, PlannedSpec
from lora_bench.tasks import Split, Task, TaskData
from lora_bench.tasks.task_scores import Likelihood
from lora_bench.util.failpoints import reach
from lora_bench.util.heartbeat import beat

# Place among the questions of what a text is right for; a prompt has none.
ITEM = "item"


class Writing(Exercise):
    """Writes a text for each input. Questions are prompts for metrics of texts, then right texts for those of likelihoods."""

    collator = CompletionCollator

    def __init__(self, task: Task, tokenizer: PreTrainedTokenizerBase, spec: PlannedSpec, seed: int) -> None:
        super().__init__(task, tokenizer, spec, seed)
        self.apart = reads_apart(spec.model.model_type)
        if self.apart:
            self.collate = PairCollator(tokenizer)

    def lessons(self, split: Split) -> Encoded:
        return self.texts(split, self._spec.training.max_length)

    def questions(self, split: Split) -> Encoded:
        """Return the inputs to continue, and the texts to weigh."""
        prompts: list[Example] = []
        cut = 0.0
        longest = self._spec.training.max_length
        if self._spec.decoding is not None:
            new = self._spec.decoding.max_new_tokens
            prompts, cut = self.inputs(split, longest, new)
        if not self._task.weighs:
            return prompts, cut
        labels: list[Any] = list(split.labels)
        pairs = [(item, text) for item, texts in enumerate(labels) for text in texts]
        items = [item for item, _ in pairs]
        references: list[tuple[str, ...]] = [(text,) for _, text in pairs]
        each = Split([split.ids[item] for item in items], [split.texts[item] for item in items], references)
        right, cut_right = self.texts(each, longest)

        def nothing(prompt: Example) -> Example:
            return {TARGETS: ()} if self.apart else {"labels": [NO_LOSS] * len(prompt["input_ids"])}

        unweighed = [{**prompt, **nothing(prompt), ITEM: -1} for prompt in prompts]
        weighed = [{**example, ITEM: item} for item, example in zip(items, right, strict=True)]
        return [*unweighed, *weighed], max(cut, cut_right)

    def to_answer(self, texts: Texts) -> list[Example]:
        assert self._spec.decoding is not None
        # A chat template wants an answer behind the messages; what it says is cut off.
        asked = unlabelled(texts, ("a",))
        return self.inputs(asked, self._spec.training.max_length, self._spec.decoding.max_new_tokens)[0]

    def texts(self, split: Split, longest: int) -> Encoded:
        """Return inputs with the texts to write for them, of so many tokens at most."""
        encode = encode_targets if self.apart else encode_completions
        return encode(split, self._tokenizer, longest)

    def inputs(self, split: Split, longest: int, new: int) -> Encoded:
        """Return inputs that leave room for so many new tokens."""
        if self.apart:
            return encode_sources(split, self._tokenizer, longest)
        return encode_prompts(split, self._tokenizer, longest, new)

    def whole(self, split: Split, *, train: bool) -> list[Example]:
        if train or not self._task.completes:
            return self.texts(split, UNCUT)[0]
        return self.inputs(split, UNCUT, 0)[0]

    @staticmethod
    def loss(label_smoothing: float = 0.0) -> Loss:
        return cross_entropy(label_smoothing, shifted=True)

    @staticmethod
    def random_labels(input_ids: Tensor, shape: Shape, labels: int, drawn: torch.Generator) -> Tensor:
        return input_ids

    def answers(self, model: nn.Module, questions: Sequence[Example]) -> Replies:
        """Return the text that the model writes for each input, and how likely the right ones are."""
        prompts = [one for one in questions if one.get(ITEM, -1) < 0]
        texts: list[str] = []
        if prompts:
            with self._writing(model) as decoding:
                texts = complete(model, prompts, self._tokenizer, decoding, self._seed, ending=self._ending())
        return Replies(texts, likelihoods=self._weighed(model, questions[len(prompts) :]))

    def _weighed(self, model: nn.Module, right: Sequence[Example]) -> list[Likelihood]:
        """Return how likely the right texts of each item are."""
        if not right:
            return []
        recipe = self._spec.training
        rows = max(1, recipe.batch_size // (recipe.accumulation * recipe.processes))  # as many as a step has in memory
        with quiet(), autocast(model, self._spec):
            found = likelihoods(model, right, self.collate, batch_rows=rows)
        of_items: dict[int, Likelihood] = {}
        for row, one in zip(right, found, strict=True):
            if not math.isfinite(one.nats):
                raise Diverged("the trained model's outputs are not finite")
            before = of_items.get(row[ITEM], Likelihood(0.0, 0))
            of_items[row[ITEM]] = Likelihood(round(before.nats + one.nats, 6), before.tokens + one.tokens)
        return [of_items[item] for item in sorted(of_items)]

    def _ending(self) -> Ending | None:
        """Return the end of an answer; None for the tokenizer's own."""
        return None

    def answers_of_each(self, pack: Pack, questions: Sequence[Example]) -> Sequence[Replies | None]:
        """Return the texts of each member of a pack; see `complete_each`."""
        model, rows = pack.writer(), pack.written_rows()
        with self._writing(model) as decoding:
            each = complete_each(
                model, questions, self._tokenizer, decoding, pack.seeds, batch_rows=rows, ending=self._ending()
            )
        return [Replies(list(texts)) for texts in each]

    @contextlib.contextmanager
    def _writing(self, model: nn.Module) -> Iterator[Decoding]:
        """Prepare the model for writing in this block; yield the decoding."""
        assert self._spec.decoding is not None
        with quiet(), torch.no_grad(), autocast(model, self._spec):
            yield self._spec.decoding


class Conversing(Writing):
    """Writes the answers of a conversation, in the form of a chat template."""

    def texts(self, split: Split, longest: int) -> Encoded:
        return encode_conversations(split, self._tokenizer, longest, self._task.chat_template)

    def inputs(self, split: Split, longest: int, new: int) -> Encoded:
        return encode_openings(split, self._tokenizer, longest, new, self._task.chat_template)

    @classmethod
    def check_tokenizer(cls, task: Task, tokenizer: PreTrainedTokenizerBase, data: TaskData) -> None:
        ChatFormat(tokenizer, task.chat_template)

    def _ending(self) -> Ending | None:
        return ChatFormat(self._tokenizer, self._task.chat_template).ending


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
