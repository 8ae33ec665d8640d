"""Complete prompts with a causal model, or write texts for inputs with a model of encoder and decoder.

Each distinct prompt is completed once, in batches of prompts of similar length. The size of a batch changes no text: the
padding of a prompt is on its left, where positions and masks ignore it, and a sample depends only on the run's seed and its
prompt. An encoder's inputs are padded on the right, and what the decoder writes begins behind the model's first token.
`transformers`' generate() drives the model, so everything that works there works here: PEFT's methods, caches, autocast.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedTokenizerBase, TemperatureLogitsWarper

from lora_bench.errors import LoraBenchError, UnsupportedPair
from lora_bench.kinds.exercises.generation.beams import BeamSearch
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
    most *batch_tokens*, over all beams; a prompt that needs more has its own batch.

    Raises:
        LoraBenchError: If the decoding both samples and searches with beams.
        UnsupportedPair: See `check_completes`.
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
    """Refuse a model that cannot write texts, before it is trained.

    Raises:
        UnsupportedPair: If it is no language model, or has virtual tokens of PEFT's own.
    """
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
    longest = max(len(prompt) for prompt in prompts)

    def filled(row: list[int], one: int) -> list[int]:
        filling = [one] * (longest - len(row))
        return filling + row if left else row + filling

    rows = [filled(list(prompt), filler) for prompt in prompts]
    mask = [filled([1] * len(prompt), 0) for prompt in prompts]
    return {"input_ids": torch.tensor(rows, device=device), "attention_mask": torch.tensor(mask, device=device)}


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
