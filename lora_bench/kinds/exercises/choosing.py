"""Multiple choice: an answer is the index of the likeliest ending."""

from collections.abc import Sequence
from typing import Any

import torch

from lora_bench.kinds.exercises.base_exercise import UNCUT, QuestionWindows, Replies
from lora_bench.kinds.exercises.generation.encode import CompletionCollator
from lora_bench.kinds.exercises.labelling import Labelling
from lora_bench.kinds.exercises.predicting import Example
from lora_bench.kinds.support.row_values import Encoded, Texts
from lora_bench.tasks import Split, encode


class EndingCollator(CompletionCollator):
    """Makes a batch of texts with their endings; of rows without a label each ending stands alone."""

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """Return tensors of shape (texts, endings, longest), and labels of shape (texts,)."""
        endings = examples[0]["windows"] if "labels" in examples[0] else 1
        inputs = [{name: row[name] for name in row if name != "labels"} for row in examples]
        batch = {name: tensor.unflatten(0, (-1, endings)) for name, tensor in super().__call__(inputs).items()}
        if "labels" in examples[0]:
            batch["labels"] = torch.tensor([row["labels"] for row in examples[::endings]])
        return batch


class Choosing(Labelling):
    """Chooses the ending with the greatest logit. A row is a text with one of its endings, which has a logit of its own."""

    collator = EndingCollator

    def lessons(self, split: Split) -> Encoded:
        """Return a row for each ending, with the index of the right one."""
        rows, truncated = self.questions(split)
        return [{**row, "labels": split.labels[row["example"]]} for row in rows], truncated

    def questions(self, split: Split) -> Encoded:
        return self._rows(split, self._spec.training.max_length)

    def _rows(self, split: Split, longest: int) -> Encoded:
        of_each = [number for number, text in enumerate(split.texts) for _ in text[1:]]
        pairs: Texts = [(text[0], ending) for text in split.texts for ending in text[1:]]
        rows, truncated = encode(Split([], pairs, []), self._tokenizer, longest)
        endings = [len(split.texts[number]) - 1 for number in of_each]
        return [
            {**row, "example": number, "windows": count}
            for row, number, count in zip(rows, of_each, endings, strict=True)
        ], truncated

    def units(self, lessons: Sequence[Example]) -> Sequence[Any]:
        return QuestionWindows(lessons)

    def whole(self, split: Split, *, train: bool) -> list[Example]:
        return self._rows(split, UNCUT)[0]

    def answers_in(self, logits: torch.Tensor, questions: Sequence[Example]) -> Replies:
        """Return the likeliest ending of each text from the logit of each, shape (rows, 1)."""
        return super().answers_in(logits.reshape(-1, questions[0]["windows"]), questions)
