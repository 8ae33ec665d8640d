"""Rules between two tokens of a completion, which see the tokens after the prompt: its end, repetition, and the draw."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedTokenizerBase, StoppingCriteria, TopPLogitsWarper

from lora_bench.util.seeding import seed_for


class End:
    """End of a completion: a token, the tokenizer's end-of-text token by default, or the first of *texts* that it contains.

    A text may be one token, a part of one, or spread over several. Further tokens may *also* end it.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        texts: Sequence[str],
        device: torch.device,
        token: int | None = None,
        also: Sequence[int] = (),
    ) -> None:
        self.tokenizer = tokenizer
        self.texts = texts
        self.token = int(tokenizer.eos_token_id) if token is None else token
        self.tokens = (self.token, *also)
        self._tokens = torch.tensor(self.tokens, dtype=torch.long, device=device)
        # Decoding every hypothesis at every step would cost more than a small model. Only a token with the last character of
        # a text can complete it. A single token may lose its space when decoded, or have only a part of a character.
        lasts = {text[-1] for text in texts}
        vocabulary = [self._text([token]) for token in range(len(tokenizer))] if texts else []
        completing = [
            token
            for token, text in enumerate(vocabulary)
            if not lasts.isdisjoint(text) or not text.strip() or "\ufffd" in text
        ]
        self.completing = torch.tensor(completing, dtype=torch.long, device=device)

    def reached(self, completions: Tensor) -> Tensor:
        """Return which completions, shape (rows, tokens), end with their last token; shape (rows,), bool."""
        over = torch.isin(completions[:, -1], self._tokens)
        for row in torch.isin(completions[:, -1], self.completing).nonzero().flatten().tolist():
            text = self._text(completions[row].tolist())
            over[row] |= any(end in text for end in self.texts)
        return over

    def text_of(self, completion: list[int]) -> str:
        """Return the text of a completion without its end marker, and without spaces around it."""
        completion = list(itertools.takewhile(lambda token: token not in self.tokens, completion))
        text = self._text(completion)
        for end in self.texts:
            text = text.partition(end)[0]
        return text.strip()

    def _text(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))


@dataclass
class Stop(StoppingCriteria):
    """Tells generate() which rows have ended, behind prompts of *prompt_tokens* with their padding."""

    end: End
    prompt_tokens: int

    def __call__(self, input_ids: Tensor, scores: Any = None, **unused: Any) -> Tensor:
        """Return which sequences, prompts included, have ended; shape (rows,), bool."""
        return self.end.reached(input_ids[:, self.prompt_tokens :])


@dataclass
class NoRepeat(LogitsProcessor):
    """Forbids tokens that repeat an n-gram of *size* tokens; transformers' own processor counts those of the prompt too."""

    size: int
    prompt_tokens: int

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores, shape (rows, vocabulary), with -inf for tokens that the rows of *input_ids* may not have next."""
        return self.forbid(input_ids[:, self.prompt_tokens :], scores)

    def forbid(self, completions: Tensor, scores: Tensor) -> Tensor:
        """Do the same for completions without their prompts, shape (rows, tokens)."""
        context = self.size - 1
        starts = completions.shape[1] - context
        if starts < 1:
            return scores
        followed = torch.ones(len(completions), starts, dtype=torch.bool, device=scores.device)
        for offset in range(context):
            # True if token `offset` of an earlier n-gram equals that of the n-gram which would end now.
            followed &= completions[:, offset : offset + starts] == completions[:, starts + offset, None]
        rows, places = followed.nonzero(as_tuple=True)
        scores = scores.clone()
        scores[rows, completions[rows, places + context]] = -torch.inf
        return scores


class Draw(LogitsProcessor):
    """Draws the next token of each row by (its seed, its prompt, its step), and gives only that token a finite score.

    So the likeliest token of its result is a sample, the same in any batch. *prompts* are without padding, and the longest has
    *prompt_tokens*.
    """

    def __init__(self, seeds: Sequence[int], prompts: Sequence[Sequence[int]], prompt_tokens: int) -> None:
        self.seeds = [seed_for("sample", seed, *prompt) for seed, prompt in zip(seeds, prompts, strict=True)]
        self.prompt_tokens = prompt_tokens

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return 0 for the drawn token and -inf for all others, shape (rows, vocabulary)."""
        step = input_ids.shape[1] - self.prompt_tokens
        # The upper 53 of 63 bits fit a float64 exactly, so that no draw rounds to 1.
        draws = [(seed_for(seed, step) >> 10) / 2**53 for seed in self.seeds]
        cumulative = _cumulative(scores.double().softmax(-1))
        wanted = torch.tensor(draws, dtype=torch.float64, device=scores.device)[:, None] * cumulative[:, -1:]
        # The first token whose cumulative probability exceeds the draw, so never one of probability 0.
        drawn = torch.searchsorted(cumulative, wanted, right=True).clamp(max=scores.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn, 0.0)


class TopP(TopPLogitsWarper):
    """Top-p sampling that works with deterministic algorithms on CUDA too."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores with -inf for all tokens beyond the share."""
        if scores.is_cuda and torch.are_deterministic_algorithms_enabled():
            kept: Tensor = super().__call__(input_ids.cpu(), scores.cpu())
            return kept.to(scores.device)
        return cast(Tensor, super().__call__(input_ids, scores))


def _cumulative(shares: Tensor) -> Tensor:
    """Return the running sum of each row. CUDA has none of floating point that is deterministic, so the CPU then adds it up."""
    if shares.is_cuda and torch.are_deterministic_algorithms_enabled():
        return shares.cpu().cumsum(-1).to(shares.device)
    return shares.cumsum(-1)
