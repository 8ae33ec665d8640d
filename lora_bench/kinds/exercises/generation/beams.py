"""Beam search as in the LoRA paper's code, for many prompts at a time.

At every step each prompt keeps the likeliest continuations of its hypotheses, as many as there are beams. One that ends
leaves the beam with the score

    (sum of the log probabilities of its tokens) / (number of its tokens) ** length_penalty

and hypotheses still open at the last step count as ended there. The best score wins. transformers' search differs: it refills
the beam from twice as many continuations, does not renormalise after it forbids an n-gram, and stops by a heuristic.

A prompt is done as soon as none of its hypotheses can still win. A sum of log probabilities only falls, so the present sum at
the best length is a bound. This changes no text, and a finished prompt leaves the batch with its cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from lora_bench.kinds.exercises.generation.steps import End, NoRepeat
from lora_bench.records.spec import Decoding


@dataclass(frozen=True)
class BeamSearch:
    """The function for `generate(custom_generate=...)`; transformers keeps keys, values, positions and masks."""

    decoding: Decoding
    end: End
    no_repeat: NoRepeat | None

    def __call__(self, model: Any, input_ids: Tensor, generation_config: Any, **state: Any) -> list[list[int]]:
        """Return the tokens of the best completion of each prompt, without reading the settings of `generate`.

        Args:
            model: The model.
            input_ids: Prompts, shape (prompts, tokens), padded on the left; of a decoder behind an encoder its first token.
            generation_config: Settings of `generate`.
            state: Mask and cache, and the encoder's outputs.
        """
        for name in _OF_OTHER_LOOPS & set(state):
            del state[name]
        length_penalty, last = self.decoding.length_penalty, self.decoding.max_new_tokens
        best = _Best(len(input_ids), input_ids.device)
        prompts = torch.arange(len(input_ids), device=input_ids.device)  # unfinished ones
        completions = input_ids.new_empty(len(prompts), 1, 0)
        sums = torch.zeros(len(prompts), 1, device=input_ids.device)
        inputs = model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **state)
        for length in range(1, last + 1):
            outputs = model(**inputs, return_dict=True)
            # Else the mask of an encoder's inputs would grow with the text.
            apart = model.config.is_encoder_decoder
            state = model._update_model_kwargs_for_generation(outputs, state, is_encoder_decoder=apart)
            sums, completions, rows = self._extended(sums, completions, outputs.logits[:, -1].float())
            ended = self.end.reached(completions.flatten(0, 1)).view_as(sums) | (length == last)
            best.take(prompts, completions, torch.where(ended, sums / length**length_penalty, -torch.inf))
            sums = sums.masked_fill(ended, -torch.inf)
            # A sum is at most 0. So the best length for it is the last if the penalty is positive, else the next.
            bounds = sums.amax(1) / (last if length_penalty > 0 else length + 1) ** length_penalty
            going = bounds > best.scores[prompts]
            if not going.any():
                break
            prompts, completions, sums, rows = (part[going] for part in (prompts, completions, sums, rows))
            _select(state, rows.flatten())
            inputs = model.prepare_inputs_for_generation(completions[:, :, -1:].flatten(0, 1), **state)
        return best.completions

    def _extended(self, sums: Tensor, completions: Tensor, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the likeliest continuations of each prompt's hypotheses.

        Args:
            sums: Sums of the log probabilities of each hypothesis, shape (prompts, hypotheses).
            completions: Their tokens, shape (prompts, hypotheses, tokens).
            logits: Logits of their next token, shape (prompts * hypotheses, vocabulary).

        Returns:
            Sums and completions with the next token, shapes (prompts, beams) and (prompts, beams, tokens + 1), and the row of
            the logits that each continues, shape (prompts, beams).
        """
        if self.no_repeat is not None:
            logits = self.no_repeat.forbid(completions.flatten(0, 1), logits)
        vocabulary = logits.shape[-1]
        candidates = (logits.log_softmax(-1).view(*sums.shape, vocabulary) + sums[..., None]).flatten(1)
        sums_now, chosen = candidates.topk(min(self.decoding.beams, candidates.shape[1]))
        parents, tokens = chosen // vocabulary, chosen % vocabulary
        prompts = torch.arange(len(sums), device=sums.device)[:, None]
        extended = torch.cat([completions[prompts, parents], tokens[..., None]], dim=-1)
        return sums_now, extended, prompts * sums.shape[1] + parents


# Arguments that generate() passes to transformers' own loops, which have other rules.
_OF_OTHER_LOOPS = {"logits_processor", "stopping_criteria", "synced_gpus", "streamer", "tokenizer"}


class _Best:
    """Best completion of each prompt so far; empty if no sum of log probabilities is a number."""

    def __init__(self, prompts: int, device: torch.device) -> None:
        self.scores = torch.full((prompts,), -torch.inf, device=device)
        self.completions: list[list[int]] = [[] for _ in range(prompts)]

    def take(self, prompts: Tensor, completions: Tensor, scores: Tensor) -> None:
        """Keep better completions; *scores*, shape (prompts, hypotheses), are -inf for those that have not ended."""
        highest, place = scores.max(1)
        for row in (highest > self.scores[prompts]).nonzero().flatten().tolist():
            self.scores[prompts[row]] = highest[row]
            self.completions[int(prompts[row])] = completions[row, place[row]].tolist()


def _select(state: dict[str, Any], rows: Tensor) -> None:
    """Reduce the cache, the mask, the positions and the encoder's outputs to these *rows*."""
    for name, value in state.items():
        if isinstance(value, Tensor):
            state[name] = value.index_select(0, rows)
        elif isinstance(value, ModelOutput):
            chosen = {key: part.index_select(0, rows) for key, part in value.items() if isinstance(part, Tensor)}
            state[name] = type(value)(**chosen)
        elif hasattr(value, "reorder_cache"):
            value.reorder_cache(rows)
