"""Labels of words: an answer is the label of each word.

The words are joined by spaces and encoded as a text, as a model saw texts in its pretraining. The first token of a word has its
label and the others none. A word that is cut off, or of which a tokenizer makes nothing, is answered as outside of entities.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from lora_bench.errors import Diverged, LoraBenchError
from lora_bench.kinds.exercises.base_exercise import UNCUT, Replies, check_tells_characters
from lora_bench.kinds.exercises.generation.encode import NO_LOSS, CompletionCollator
from lora_bench.kinds.exercises.labelling import Labelling
from lora_bench.kinds.exercises.predicting import Example
from lora_bench.kinds.support.row_values import Encoded
from lora_bench.tasks import Split

NO_WORD = -1
"""Number at a token that begins no word."""

OUTSIDE = "O"


class Tagging(Labelling):
    """Gives each word the label of its first token."""

    predicts_next = False
    weighs_classes = False

    collator = CompletionCollator

    def lessons(self, split: Split) -> Encoded:
        """Return tokens with a label for each word's first. Raise LoraBenchError for an example without a token of a word."""
        examples, truncated = self.questions(split)
        index = {name: number for number, name in enumerate(self._spec.task.labels)}
        found = []
        right: Sequence[Any] = split.labels
        for name, example, tags in zip(split.ids, examples, right, strict=True):
            labels = [NO_LOSS if word == NO_WORD else index[tags[word]] for word in example["begins"]]
            if set(labels) == {NO_LOSS}:
                raise LoraBenchError(f"the tokenizer makes no token of any word of training example {name}")
            found.append({key: example[key] for key in example if key not in ("begins", "words")} | {"labels": labels})
        return found, truncated

    def questions(self, split: Split) -> Encoded:
        return encode_words(split, self._tokenizer, self._spec.training.max_length)

    def read(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the likeliest label of each token, NaN where logits are not finite, filled up to `max_length` tokens."""
        likeliest = logits.argmax(-1).float().masked_fill(~logits.isfinite().all(-1), torch.nan)
        return nn.functional.pad(likeliest, (0, self._spec.training.max_length - likeliest.shape[-1]))

    def answers_in(self, logits: torch.Tensor, questions: Sequence[Example]) -> Replies:
        answers, names = [], self._spec.task.labels
        for row, question in zip(logits, questions, strict=True):
            of_tokens = row[: len(question["input_ids"])]
            if of_tokens.isnan().any():
                raise Diverged("the trained model's outputs are not finite")
            said = [names[int(number)] for number in of_tokens.tolist()]
            answers.append(labels_of_words(question["begins"], question["words"], said, names))
        return Replies(answers)

    def whole(self, split: Split, *, train: bool) -> list[Example]:
        return encode_words(split, self._tokenizer, UNCUT)[0]


def encode_words(split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
    """Encode the words of each example, cut to *max_length* tokens.

    Beside the tokenizer's values an example has `begins`, the number of the word that each token begins, or `NO_WORD`, and
    `words`, their number. Raise LoraBenchError if the tokenizer does not tell which characters a token stands for.
    """
    check_tells_characters(tokenizer, "words cannot be labelled")
    texts = [" ".join(words) for words in split.texts]
    if not texts:
        return [], 0.0
    batch = tokenizer(texts, truncation=True, max_length=max_length, padding=False, return_offsets_mapping=True)
    columns = {name: list(values) for name, values in batch.items()}
    spans = columns.pop("offset_mapping")
    examples: list[dict[str, Any]] = []
    for words, of_tokens, row in zip(split.texts, spans, zip(*columns.values(), strict=True), strict=True):
        values = dict(zip(columns, row, strict=True))
        examples.append({**values, "begins": _begins(words, of_tokens), "words": len(words)})
    return examples, sum(bool(encoding.overflowing) for encoding in batch.encodings) / len(examples)


def _begins(words: Sequence[str], spans: Sequence[tuple[int, int]]) -> list[int]:
    """Return the word that each token begins, or `NO_WORD`; *spans* are characters of the joined text, empty if special."""
    word_at = [at for number, word in enumerate(words) for at in (*[number] * len(word), NO_WORD)]
    begun = NO_WORD
    found = []
    for first, behind in spans:
        # A token may begin with the space before its word.
        word = next((word_at[place] for place in range(first, behind) if word_at[place] != NO_WORD), NO_WORD)
        found.append(word if word > begun else NO_WORD)
        begun = max(begun, word)
    return found


def labels_of_words(begins: Sequence[int], words: int, said: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return each word's label, said of its first token; without one `OUTSIDE` if it is among the names, else the first."""
    found = [OUTSIDE if OUTSIDE in names else names[0]] * words
    for place, word in enumerate(begins):
        if word != NO_WORD:
            found[word] = said[place]
    return found
