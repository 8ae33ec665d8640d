"""Complete prompts with a causal model, or write texts for inputs with a model of encoder and decoder.

Each distinct prompt is completed once, in batches of prompts of similar length. The size of a batch changes no text: the
padding of a prompt is on its left, where positions and masks ignore it, and a sample depends only on the run's seed and its
prompt. An encoder's inputs are padded on the right, and what the decoder writes begins behind the model's first token.
`transformers`' generate() drives the model, so everything that works there works here: PEFT's methods, caches, autocast.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, PreTrainedTokenizerBase, TemperatureLogitsWarper
from transformers.utils import ModelOutput

from lora_bench.errors import LoraBenchError, UnsupportedPair
from lora_bench.kinds.exercises.generation.chat_format import Ending
from lora_bench.kinds.exercises.generation.encode import Example
from lora_bench.kinds.exercises.generation.steps import Draw, End, NoRepeat, Stop, TopP
from lora_bench.kinds.exercises.predicting import evaluating
from lora_bench.records.spec import Decoding
from lora_bench.util.failpoints import reach
from lora_bench.util.heartbeat import beat

BATCH_TOKENS = 16_384
"""Tokens of a batch, over all beams: their keys and values in float32 take 3.2 GB in GPT-2 medium."""

Tokens = tuple[int, ...]


def complete(
    model: nn.Module,
    prompts: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    decoding: Decoding,
    seed: int,
    *,
    batch_tokens: int = BATCH_TOKENS,
    ending: Ending | None = None,
) -> list[str]:
    """Return the text that completes each prompt, without its end marker and without spaces around it.

    The model's own generation settings are ignored. *ending* is the tokenizer's end-of-text token by default. A batch has at
    most *batch_tokens*, over all beams; a prompt that needs more has its own batch. Raise LoraBenchError if the decoding both
    samples and searches with beams. Raise UnsupportedPair, see `check_completes`.
    """
    check_completes(model)
    return complete_each(
        model, prompts, tokenizer, decoding, [seed], batch_tokens=batch_tokens, batch_rows=None, ending=ending
    )[0]


def complete_each(
    model: Any,
    prompts: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    decoding: Decoding,
    seeds: Sequence[int],
    *,
    batch_tokens: int = BATCH_TOKENS,
    batch_rows: int | None,
    ending: Ending | None = None,
) -> list[list[str]]:
    """Complete every prompt with several models, one for each seed, run as one model.

    Each row has the weights of one of them: besides a causal model's inputs it takes `of`, the number of that model, shape
    (rows,), unless *batch_rows* is None. Limits are over all models and beams; the rest, and each result, is as for `complete`.
    """
    if decoding.sample and decoding.beams > 1:
        raise LoraBenchError(f"decoding samples with {decoding.beams} beams: give beams: 1 or sample: false")
    device = next(model.parameters()).device
    token, ends, also = ending or Ending(int(tokenizer.eos_token_id))
    end = End(tokenizer, (*decoding.end, *ends), device, token, also)
    texts: list[dict[Tokens, str]] = [{} for _ in seeds]
    with evaluating(model), _without_own_settings(model):
        distinct = [tuple(prompt["input_ids"]) for prompt in prompts]
        most = None if batch_rows is None else batch_rows // (decoding.beams * len(seeds))
        for batch in _batches(distinct, decoding, batch_tokens // len(seeds), most):
            reach("run.evaluation")
            beat()
            of = torch.arange(len(seeds), device=device).repeat_interleave(len(batch))
            more = {} if batch_rows is None else {"of": of}
            each = [seed for seed in seeds for _ in batch]
            completions = _completions(model, batch * len(seeds), end, decoding, each, more)
            for index, own in enumerate(texts):
                part = completions[index * len(batch) : (index + 1) * len(batch)]
                own.update(zip(batch, map(end.text_of, part), strict=True))
    return [[own[tuple(prompt["input_ids"])] for prompt in prompts] for own in texts]


def check_completes(model: Any) -> None:
    """Raise UnsupportedPair for a model that is no language model, or has virtual tokens of PEFT's own."""
    base = _base_of(model)
    if not getattr(base, "can_generate", lambda: False)():
        raise UnsupportedPair(f"{type(base).__name__} does not write texts: generation needs a causal language model")
    config = getattr(model, "active_peft_config", None)
    if config is not None and config.is_prompt_learning:
        # With peft 0.21 and transformers 5.24, generate() continues a prompt differently from the forward pass on the same
        # tokens, padded or not.
        raise UnsupportedPair(
            f"PEFT's {config.peft_type.value} does not generate what it was trained to: its virtual tokens shift the "
            "positions; prefix_tuning and prefix_layer of lora_bench do"
        )


def _batches(
    prompts: Sequence[Tokens], decoding: Decoding, batch_tokens: int, most: int | None
) -> Iterator[list[Tokens]]:
    """Yield the distinct prompts by length, the longest first, so that a lack of memory shows at once."""
    batch: list[Tokens] = []
    for prompt in sorted(set(prompts), key=lambda prompt: (-len(prompt), prompt)):
        longest = len((batch or [prompt])[0]) + decoding.max_new_tokens
        full = (len(batch) + 1) * decoding.beams * longest > batch_tokens or (most is not None and len(batch) >= most)
        if full and batch:
            yield batch
            batch = []
        batch.append(prompt)
    if batch:
        yield batch


def _completions(
    model: Any, prompts: list[Tokens], end: End, decoding: Decoding, seeds: Sequence[int], more: dict[str, Tensor]
) -> list[list[int]]:
    """Return the tokens that complete each prompt of one batch; tokens after an end of text mean nothing."""
    config = _base_of(model).config
    apart = config.is_encoder_decoder
    inputs = _padded(prompts, end.token, next(model.parameters()).device, left=not apart) | more
    width = 1 if apart else inputs["input_ids"].shape[1]  # what stands before the first token that is written
    no_repeat = NoRepeat(decoding.no_repeat_ngram, width) if decoding.no_repeat_ngram else None
    settings = GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        do_sample=False,  # `Draw` samples instead
        use_cache=True,
        eos_token_id=[*end.tokens] if len(end.tokens) > 1 else end.token,
        pad_token_id=end.token,
        decoder_start_token_id=config.decoder_start_token_id if apart else None,
    )
    if decoding.beams > 1:
        search = BeamSearch(decoding, end, no_repeat)
        found: list[list[int]] = model.generate(**inputs, generation_config=settings, custom_generate=search)
        return found
    rules: list[Any] = [no_repeat] if no_repeat is not None else []
    if decoding.sample:
        rules.append(TemperatureLogitsWarper(decoding.temperature))
        rules += [TopP(decoding.top_p)] if decoding.top_p < 1 else []
        rules.append(Draw(seeds, prompts, width))
    stop = [Stop(end, width)]
    rows = model.generate(**inputs, generation_config=settings, logits_processor=rules, stopping_criteria=stop)
    written: list[list[int]] = rows[:, width:].tolist()
    return written


def _padded(prompts: Sequence[Tokens], filler: int, device: torch.device, *, left: bool) -> dict[str, Tensor]:
    """Return the prompts and their mask, each of shape (prompts, longest), padded on the left or on the right."""
    side = "left" if left else "right"
    rows = [torch.tensor(prompt, dtype=torch.long) for prompt in prompts]
    ids = pad_sequence(rows, batch_first=True, padding_value=filler, padding_side=side)
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side=side)
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


def _base_of(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextlib.contextmanager
def _without_own_settings(model: Any) -> Iterator[None]:
    """Ignore the checkpoint's generation_config.json in this block: no run spec contains it."""
    base = _base_of(model)
    own = base.generation_config
    base.generation_config = GenerationConfig()
    try:
        yield
    finally:
        base.generation_config = own


@dataclass(frozen=True)
class BeamSearch:
    """Beam search as in the LoRA paper's code, for `generate(custom_generate=...)`.

    transformers keeps keys, values, positions and masks. At every step each prompt keeps the likeliest continuations of its
    hypotheses, as many as there are beams. One that ends leaves the beam with the score

        (sum of the log probabilities of its tokens) / (number of its tokens) ** length_penalty

    and hypotheses still open at the last step count as ended there. The best score wins. transformers' search differs:
    it refills the beam from twice as many continuations, does not renormalise after it forbids an n-gram, and stops by a
    heuristic.

    A prompt is done as soon as none of its hypotheses can still win. A sum of log probabilities only falls, so the present sum
    at the best length is a bound. This changes no text, and a finished prompt leaves the batch with its cache.
    """

    decoding: Decoding
    end: End
    no_repeat: NoRepeat | None

    def __call__(self, model: Any, input_ids: Tensor, generation_config: Any, **state: Any) -> list[list[int]]:
        """Return the tokens of the best completion of each prompt, without reading the settings of `generate`.

        *input_ids* are the prompts, shape (prompts, tokens), padded on the left; of a decoder behind an encoder its first
        token. *state* has the mask, the cache, and the encoder's outputs.
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
