"""The model of a run: the base model with a new head, and the method applied to it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lora_bench.errors import UnsupportedPair
from lora_bench.methods import Method, own_callbacks, trains_base
from lora_bench.models.read_position import read_alone
from lora_bench.models.shared_copy import own_trained
from lora_bench.training.distributed.fsdp import shard
from lora_bench.training.job import Job
from lora_bench.training.keyed_dropout import StepMasks, with_keyed_masks
from lora_bench.training.measure.counters import count_parameters
from lora_bench.training.process_cache import WARM, load_for
from lora_bench.training.setup import Setup
from lora_bench.training.warm_start import start_from, start_from_adapter
from lora_bench.util.failpoints import reach
from lora_bench.util.seeding import adapters_drawn_from, draw_head


@dataclass(frozen=True)
class AdaptedModel:
    """A base model made trainable by a method, with its head's modules by name.

    *masks* has the keys of its dropout, if a pack draws none.
    """

    network: nn.Module
    tokenizer: Any
    masks: StepMasks | None
    load_seconds: float
    head: Sequence[str]


def adapt(setup: Setup) -> AdaptedModel:
    """Load the base model of a run, draw its head and apply its method; record the number of parameters."""
    job, facts, method, seed, rank = setup.job, setup.facts, setup.method, setup.seed, setup.rank
    facts.enter("loading the base model")
    reach("run.load")
    began = time.perf_counter()
    spec = job.spec
    # A worker rank does one run, so it keeps no base model.
    model, head = load_for(job) if trains_base(method) or rank is not None else WARM.base(job)
    tokenizer = WARM.tokenizer(job.base_model)
    # A causal model's head looks for the last token that is not padding, so both configs must name the same token.
    model.config.pad_token_id = tokenizer.pad_token_id
    total = sum(weight.numel() for weight in model.parameters())
    draw_head(model, head, seed)
    with adapters_drawn_from(seed):
        model = method.apply(model, head=head)
    if not trains_base(method):
        own_trained(model)
    if job.adapter is not None:
        start_from_adapter(model, job.adapter, head)
    elif spec.start is not None and spec.start.run_id is not None:
        start_from(model, job.folder.of(spec.start.run_id), head)
    if spec.training.last_layer == "read_position" and job.task.kind_of.reads_one_token:
        read_alone(model, job.base_model.model_type)
    facts.parameters = count_parameters(model, head=head, total=total)
    facts.watch(model)
    masks = StepMasks(seed) if spec.training.masks == "keyed" and not setup.packed else None
    if masks is not None:
        with_keyed_masks(model, masks)
    if rank is not None and rank.shards:
        _shard(job, method, model)
    return AdaptedModel(model, tokenizer, masks, time.perf_counter() - began, tuple(head))


def device_of_runs() -> torch.device:
    """Return the device that runs of this process train on."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _shard(job: Job, method: Method, model: nn.Module) -> None:
    """Shard the model over the processes of a run, unless its method uses whole weights or gradients during training."""
    if own_callbacks(method):
        raise UnsupportedPair(
            f"{method.name} works on the weights at each step, and fsdp shards them; use parallelism: ddp"
        )
    shard(model, job.base_model.model_type, device_of_runs(), bfloat16=job.spec.training.precision == "bfloat16")
