"""What happens between two tokens of a completion: where it ends, what it may not say again, and how a token is drawn.

All three see the tokens after the prompt and nothing before them, and all three give a row the same answer in any batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria

from lora_bench.util.seeding import seed_for

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class End:
    """Where a completion ends: at the tokenizer's end-of-text token, and once its text contains one of *texts*.

    A text may be one token, a part of one, or spread over several.

    Args:
        tokenizer: Of the model, with an end-of-text token.
        texts: Further texts at which a completion ends, none of them empty.
        device: Where the completions are.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], device: torch.device) -> None:
        self.tokenizer = tokenizer
        self.texts = texts
        self.token = int(tokenizer.eos_token_id)
        # Decoding every hypothesis at every step would cost more than a small model does: only a token with the last
        # character of a text can complete it. Alone, a token may lose its space, or hold a part of a character only.
        lasts = {text[-1] for text in texts}
        vocabulary = [self._text([token]) for token in range(len(tokenizer))] if texts else []
        completing = [
            token
            for token, text in enumerate(vocabulary)
            if not lasts.isdisjoint(text) or not text.strip() or "\ufffd" in text
        ]
        self.completing = torch.tensor(completing, dtype=torch.long, device=device)

    def reached(self, completions: Tensor) -> Tensor:
        """Which completions, shape (rows, tokens), are over with their last token; shape (rows,), bool."""
        over = completions[:, -1] == self.token
        for row in torch.isin(completions[:, -1], self.completing).nonzero().flatten().tolist():
            text = self._text(completions[row].tolist())
            over[row] |= any(end in text for end in self.texts)
        return over

    def text_of(self, completion: list[int]) -> str:
        """The text of a completion without what ends it, and without spaces around it."""
        if self.token in completion:
            completion = completion[: completion.index(self.token)]
        text = self._text(completion)
        for end in self.texts:
            text = text.partition(end)[0]
        return text.strip()

    def _text(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))


class Stop(StoppingCriteria):
    """What generate() asks whether a row is over.

    Args:
        end: Where a completion ends.
        prompt_tokens: Length of the prompts in front of the completions, padding counted.
    """

    def __init__(self, end: End, prompt_tokens: int) -> None:
        self.end = end
        self.prompt_tokens = prompt_tokens

    def __call__(self, input_ids: Tensor, scores: Any = None, **unused: Any) -> Tensor:
        """Which of the sequences, prompts included, are over; shape (rows,), bool."""
        return self.end.reached(input_ids[:, self.prompt_tokens :])


class NoRepeat(LogitsProcessor):
    """Forbids every token that would end an n-gram which the completion already has.

    transformers' own processor counts the prompt's n-grams too: a completion could not name what its input names.

    Args:
        size: Length of the n-grams, at least 1.
        prompt_tokens: Length of the prompts in front of the completions, padding counted.
    """

    def __init__(self, size: int, prompt_tokens: int) -> None:
        self.size = size
        self.prompt_tokens = prompt_tokens

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores, shape (rows, vocabulary), with -inf for what the rows of *input_ids* may not go on with."""
        return self.forbid(input_ids[:, self.prompt_tokens :], scores)

    def forbid(self, completions: Tensor, scores: Tensor) -> Tensor:
        """The same for completions without their prompts, shape (rows, tokens)."""
        context = self.size - 1
        starts = completions.shape[1] - context
        if starts < 1:
            return scores
        followed = torch.ones(len(completions), starts, dtype=torch.bool, device=scores.device)
        for offset in range(context):
            # Where token `offset` of an earlier n-gram is that of the n-gram which would end now.
            followed &= completions[:, offset : offset + starts] == completions[:, starts + offset, None]
        rows, places = followed.nonzero(as_tuple=True)
        scores = scores.clone()
        scores[rows, completions[rows, places + context]] = -torch.inf
        return scores


class Draw(LogitsProcessor):
    """Draws the next token of each row from (its seed, its prompt, its step), and leaves it the only one with a finite score.

    So the likeliest token of what it returns is a sample, the same in any batch.

    Args:
        seeds: Of each row's run.
        prompts: The tokens of each row's prompt, without padding.
        prompt_tokens: Length of the longest.
    """

    def __init__(self, seeds: Sequence[int], prompts: Sequence[Sequence[int]], prompt_tokens: int) -> None:
        self.seeds = [seed_for("sample", seed, *prompt) for seed, prompt in zip(seeds, prompts, strict=True)]
        self.prompt_tokens = prompt_tokens

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """0 for the drawn token and -inf for all others, shape (rows, vocabulary)."""
        step = input_ids.shape[1] - self.prompt_tokens
        # The upper 53 of 63 bits, which a float64 holds exactly, so that no draw rounds to 1.
        draws = [(seed_for(seed, step) >> 10) / 2**53 for seed in self.seeds]
        cumulative = scores.double().softmax(-1).cumsum(-1)
        wanted = torch.tensor(draws, dtype=torch.float64, device=scores.device)[:, None] * cumulative[:, -1:]
        # The first token whose cumulative probability is above the draw: never one of probability 0.
        drawn = torch.searchsorted(cumulative, wanted, right=True).clamp(max=scores.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn, 0.0)
