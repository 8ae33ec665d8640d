"""Estimate the cost of a run by arithmetic and this machine's speed now, until there is a record of the same cell."""

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from statistics import median
from threading import Barrier

from lora_bench.plan.size_fitting import MethodFit
from lora_bench.records.budget import WORK, OneExample
from lora_bench.records.environment import cuda_devices, usable_cores
from lora_bench.records.spec import PlannedSpec, Precision
from lora_bench.tasks import TaskData
from lora_bench.training.model_card import kind_of_run

# A rough number for a GPU without a record of the same cell; a plan says "about".
CUDA_FLOPS = 40e12
# Shuffled batches pad short texts to some 1.8 tokens for a real one, which is in the numbers above; grouped ones, and rows that
# texts share, to 1.1.
PADDED_GROUPED = 1.1 / 1.8
# The share of a small classifier's work that is left where its last layer computes the position that is read.
READ_POSITION = 0.87
BYTES_PER_WEIGHT = 4
# The gradient and AdamW's two moments.
BYTES_PER_TRAINED_WEIGHT = 12
# Saved activations of one token in one layer, per unit of width, in float32; a frozen layer keeps fewer.
ACTIVATION_BYTES_FULL = 64
ACTIVATION_BYTES_FROZEN = 44
WORDS_TO_TOKENS = 1.3
SAMPLE = 1000
# A step of decoding multiplies few rows at a time, so a token costs some three times as much as in a batch of whole texts.
DECODED_TOKEN = 3
# Memory of the libraries and the data of one worker.
WORKER_BYTES = 700_000_000
# A run reaches this share of the layer's speed, and a step on a CPU takes as long as so many tokens more, a row that is read
# alone a third of that: weights are read, rounded and updated, however short the texts.
SPEED_SHARE, STEP_TOKENS = 0.75, 270
SPEED_SECONDS = 0.3
_WIDTH, _HEADS, _LENGTH, _ROWS = 384, 12, 48, 16


@dataclass(frozen=True)
class CostEstimate:
    """Estimated cost of a run: *measured* if a record of the same cell tells it; not *timed* if the data was only counted."""

    seconds: float
    memory_bytes: int
    disk_bytes: int
    measured: bool
    timed: bool = True


def estimate_run(spec: PlannedSpec, fit: MethodFit, data: TaskData) -> CostEstimate:
    """Return the cost of a run by arithmetic; zero if the method does not fit."""
    if fit.parameters is None or fit.shape is None:
        return CostEstimate(0.0, 0, 0, measured=False)
    recipe, shape, parameters = spec.training, fit.shape, fit.parameters
    is_full = spec.method.size is None and parameters.adapter + parameters.head == parameters.total
    kind = kind_of_run(spec)
    # A prompt is read with each of its answers, and a text with each of its endings.
    of_each = kind.rows_of_example(len(data.labels))
    asked = _mean_tokens([text[:1] * (of_each - 1) + text for text in data.splits["train"].texts[:SAMPLE]])
    written = (
        _mean_tokens([label for label in data.splits["train"].labels if isinstance(label, tuple)])
        if kind.writes
        else 0.0
    )
    tokens = min(of_each * recipe.max_length, asked + written + 2 * of_each)
    # Per weight and token a forward pass takes two operations, a backward pass two for inputs and two for trained weights.
    rate = CUDA_FLOPS if cuda_devices() else flops_per_thread() * recipe.threads
    if recipe.precision == "bfloat16" and not cuda_devices():
        rate *= bfloat16_gain()
    rate /= READ_POSITION if recipe.last_layer == "read_position" else 1.0
    of_token = ((6 if is_full else 4) + 2 * recipe.gradient_checkpointing) * shape.multiplied
    of_example, more = of_token * tokens, 0 if cuda_devices() else STEP_TOKENS
    dense = (recipe.order == "grouped" or recipe.sample_packing) and recipe.batch_size > 1
    padded = PADDED_GROUPED if dense else 1.0
    work = padded * of_example + of_token * more * recipe.accumulation / recipe.batch_size
    example = OneExample(tokens=tokens, flops=of_example, seconds=work / rate)
    # Those that a run sees before its target or a cap ends it.
    amounts = (recipe.target, *recipe.caps.items())
    examples = min(amount / WORK[axis].of_example(example) for axis, amount in amounts)
    train_flops = work * examples
    scored = len(data.splits[spec.score_on].ids)
    every, steps = spec.selection_every, math.ceil(examples / recipe.batch_size)
    curve = 0 if every is None else steps // every * len(data.splits[spec.rules.choose_on].ids)
    if parameters.adapter == 0 and parameters.head < parameters.total:
        # Features of a frozen base model are computed once, in a forward pass of each row.
        rows = recipe.distinct_examples or len(data.splits["train"].ids)
        train_flops = of_token / 2 * (tokens + more / 3) * min(examples, rows)
        curve = curve and len(data.splits[spec.rules.choose_on].ids) * (spec.rules.choose_on != spec.score_on)
    # Answers are weighed by the starting model too.
    before = kind.own_loss * (min(examples, recipe.distinct_examples or len(data.splits["train"].ids)) + scored)
    answered = tokens
    if spec.decoding is not None:
        new = min(spec.decoding.max_new_tokens, written + 1)
        answered = asked + new * spec.decoding.beams * DECODED_TOKEN
    flops = train_flops / recipe.processes + 2 * shape.multiplied * answered * (scored + curve + before)
    per_token = ACTIVATION_BYTES_FULL if is_full else ACTIVATION_BYTES_FROZEN
    rows = of_each * recipe.batch_size // (recipe.accumulation * recipe.processes)
    size = 1.0 if recipe.base_precision == "float32" else 0.5
    # Of a layer that is computed anew its input alone is kept.
    kept_layers = 1 + shape.layers * BYTES_PER_WEIGHT / per_token if recipe.gradient_checkpointing else shape.layers
    memory = (
        BYTES_PER_WEIGHT * (parameters.total * size + parameters.adapter * (not is_full))
        # What four bits save of a weight is counted from float32: 3.5 bytes.
        - fit.saved_bytes * (1 - (1 - size) * BYTES_PER_WEIGHT / 3.5)
        + BYTES_PER_TRAINED_WEIGHT * parameters.trained * (size if is_full else 1.0)
        + size * per_token * kept_layers * shape.width * rows * recipe.max_length
    )
    kept = 0 if spec.keep_weights == "none" else BYTES_PER_WEIGHT * parameters.stored
    timed = not data.counted_only
    return CostEstimate(flops / rate if timed else 0.0, int(memory), kept + 8 * scored, measured=False, timed=timed)


def _mean_tokens(texts: Sequence[tuple[str, ...]]) -> float:
    """Return the expected number of tokens of an example, from the words of the first thousand."""
    texts = texts[:SAMPLE]
    words = sum(len(part.split()) for text in texts for part in text)
    return words / max(1, len(texts)) * WORDS_TO_TOKENS


def default_workers(costs: Sequence[CostEstimate], threads: int, *, timed: bool = False, processes: int = 1) -> int:
    """Return the number of runs at once: one a device, or as cores and memory allow; 1 if a clock ends any (*timed*)."""
    if timed:
        return 1
    devices = cuda_devices()
    if devices:
        return max(1, min(len(devices) // processes, len(costs)))
    import psutil

    largest = max((cost.memory_bytes for cost in costs), default=0)
    by_memory = int(psutil.virtual_memory().available) // (processes * (largest + WORKER_BYTES))
    return max(1, min(usable_cores() // (threads * processes), by_memory, len(costs)))


@cache
def flops_per_thread() -> float:
    """Return the FLOPs a second that a run in float32 on one CPU thread is likely to do beside others, as measured once."""
    # Attention's four products and the feed-forward's two of four times the width, six operations a weight and token.
    flops = 6 * 12 * _WIDTH**2 * _ROWS * _LENGTH
    return SPEED_SHARE * flops / median(seconds for (seconds,) in _measured(time.perf_counter, "float32"))


@cache
def bfloat16_gain() -> float:
    """Return how many times as fast a step in bfloat16 is on a CPU, as measured once; below 1 if it is slower."""
    # The processor's own seconds, so that other work changes nothing.
    return median(float32 / bfloat16 for float32, bfloat16 in _measured(time.thread_time, "float32", "bfloat16"))


def _measured(clock: Callable[[], float], *precisions: Precision) -> list[tuple[float, ...]]:
    """Return the seconds of steps in each precision by a clock, in turns for some tenths of a second.

    Every core takes steps at once, as the runs of a suite do: cores share memory, and some the units that multiply.
    """
    import torch
    from torch import nn

    threads, cores = torch.get_num_threads(), usable_cores()
    # Its own random state, as a run's must not depend on it.
    with torch.random.fork_rng(devices=[]):
        layer = nn.TransformerEncoderLayer(_WIDTH, _HEADS, 4 * _WIDTH, dropout=0.0, batch_first=True)
        rows = torch.ones(_ROWS, _LENGTH, _WIDTH)

    def step(precision: Precision) -> float:
        begun = clock()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = layer(rows).sum()
        torch.autograd.grad(loss, [*layer.parameters()])
        return clock() - begun

    def steps(ready: Barrier) -> list[tuple[float, ...]]:
        taken: list[tuple[float, ...]] = []
        # One thread a core: several would wait for the slowest core, which other work may have.
        torch.set_num_threads(1)
        for precision in precisions:
            step(precision)  # the first one also prepares
        ready.wait()
        end = time.perf_counter() + SPEED_SECONDS * len(precisions)
        while not taken or time.perf_counter() < end:
            taken.append(tuple(map(step, precisions)))
        return taken

    try:
        with ThreadPoolExecutor(cores) as pool:
            return [one for found in pool.map(steps, [Barrier(cores)] * cores) for one in found]
    finally:
        torch.set_num_threads(threads)
