"""What each method costs in time and memory beside full fine-tuning, and what our tuners cost beside in-line code.

    python benchmarks/tuner_overhead.py            some ten minutes on two CPU cores
    python benchmarks/tuner_overhead.py --quick    seconds: shows that it runs, and no time in it means anything

The model is a RoBERTa classifier with random weights. The in-line variants have the same mathematics without PEFT: an
adapter is a module of seven lines that takes the place of a dropout, a prefix is RoBERTa's attention written out, LoRA is a
linear layer with a second path. Each gets its tuner's weights first, and its logits and gradients are compared.

All variants live in one process and take turns: each round is one training step of each, and every other round goes
through them backwards, so that a slow spell of the machine falls on all. An overhead is the median over rounds of the
ratio of two steps of the same round, with its quartiles. Steps are of AdamW, with dropout, on rows of unequal length.

Saved activations are the storages that autograd keeps for the backward pass, each counted once, weights not counted; with
weights, gradients and the optimiser's states they are the memory of a step, without what the allocator adds.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from importlib.metadata import version

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import RobertaConfig, RobertaForSequenceClassification

from lora_bench.methods import known_methods
from lora_bench.tuners import FusedLoraConfig

MIB = 2**20
HEAD = "classifier"
PAD = 1
# Sizes of about 295,000 weights on RoBERTa-base in every method that has a size, but for embeddings: each makes the text
# longer by a token, and 384 of them would be another benchmark.
RANK, HOULSBY_SIZE, BOTTLENECK_SIZE, PREFIX_TOKENS, EMBEDDING_TOKENS = 8, 8, 16, 16, 4
LORA_SCALING = 2.0


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of the model and of a batch."""

    width: int
    layers: int
    heads: int
    feed_forward: int
    vocabulary: int
    batch: int
    tokens: int

    def __str__(self) -> str:
        return f"width {self.width}, {self.layers} layers, batch {self.batch} x {self.tokens}"


ROBERTA_BASE = Shape(width=768, layers=12, heads=12, feed_forward=3072, vocabulary=50265, batch=8, tokens=64)
NARROW = Shape(width=64, layers=12, heads=4, feed_forward=256, vocabulary=1000, batch=8, tokens=64)


class InlineHoulsby(nn.Module):
    """A dropout and a bottleneck adapter on its output."""

    def __init__(self, dropout: nn.Module, width: int, size: int) -> None:
        super().__init__()
        self.dropout = dropout
        self.down = nn.Linear(width, size)
        self.up = nn.Linear(size, width)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, tokens, width), in and out."""
        y = self.dropout(x)
        return y + self.up(F.silu(self.down(y)))


class InlineLora(nn.Module):
    """A linear layer and a low-rank path beside it."""

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        self.linear = linear
        self.A = nn.Parameter(torch.zeros(rank, linear.in_features))
        self.B = nn.Parameter(torch.zeros(linear.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, tokens, in_features) to (batch, tokens, out_features)."""
        return self.linear(x) + F.linear(F.linear(x, self.A), self.B) * LORA_SCALING


class InlinePrefix(nn.Module):
    """RoBERTa's self-attention written out, with trained keys and values in front."""

    def __init__(self, attention: nn.Module, width: int, tokens: int) -> None:
        super().__init__()
        self.prefix_key = nn.Parameter(torch.zeros(tokens, width))
        self.prefix_value = nn.Parameter(torch.zeros(tokens, width))
        self.query, self.key, self.value = attention.query, attention.key, attention.value
        self.heads, self.dropout = attention.num_attention_heads, attention.dropout.p

    def forward(self, x: Tensor, attention_mask: Tensor, **unused: object) -> tuple[Tensor, None]:
        """*x* has shape (batch, tokens, width), the mask (batch, 1, tokens or 1, tokens) with True for visible."""
        key = torch.cat([self.prefix_key.expand(len(x), -1, -1), self.key(x)], dim=1)
        value = torch.cat([self.prefix_value.expand(len(x), -1, -1), self.value(x)], dim=1)
        query, key, value = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (self.query(x), key, value))
        mask = F.pad(attention_mask, (len(self.prefix_key), 0), value=True)
        dropout = self.dropout if self.training else 0.0
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        return context.transpose(1, 2).flatten(2), None


def base_model(shape: Shape) -> RobertaForSequenceClassification:
    """A RoBERTa classifier; two calls give equal weights."""
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.width, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, intermediate_size=shape.feed_forward,
        max_position_embeddings=shape.tokens + 2, type_vocab_size=1, pad_token_id=PAD, attn_implementation="sdpa",
    )  # fmt: skip
    return RobertaForSequenceClassification(config)


def frozen_model(shape: Shape) -> RobertaForSequenceClassification:
    """A `base_model` of which only the head is trained."""
    model = base_model(shape).requires_grad_(False)
    model.get_submodule(HEAD).requires_grad_(True)
    return model


def with_method(name: str, **options: object) -> Callable[[Shape], nn.Module]:
    """Makes the model of one of lora_bench's methods."""
    return lambda shape: known_methods()[name](**options).apply(base_model(shape), head=[HEAD])


def with_fused_lora(shape: Shape) -> nn.Module:
    """Our own LoRA, which is made for fused weights, on RoBERTa's query and value."""
    from peft import get_peft_model

    config = FusedLoraConfig(r=RANK, lora_alpha=LORA_SCALING * RANK, roles=["query", "value"], modules_to_save=[HEAD])
    return get_peft_model(base_model(shape), config)


def inline_houlsby(shape: Shape) -> nn.Module:
    model = frozen_model(shape)
    for layer in model.roberta.encoder.layer:
        for output in (layer.attention.output, layer.output):
            output.dropout = InlineHoulsby(output.dropout, shape.width, HOULSBY_SIZE)
    return model


def inline_lora(shape: Shape) -> nn.Module:
    model = frozen_model(shape)
    for layer in model.roberta.encoder.layer:
        attention = layer.attention.self
        attention.query, attention.value = InlineLora(attention.query, RANK), InlineLora(attention.value, RANK)
    return model


def inline_prefix(shape: Shape) -> nn.Module:
    model = frozen_model(shape)
    for layer in model.roberta.encoder.layer:
        layer.attention.self = InlinePrefix(layer.attention.self, shape.width, PREFIX_TOKENS)
    return model


# A tuner stands beside its in-line code, so that the two steps to be compared follow each other.
VARIANTS: dict[str, Callable[[Shape], nn.Module]] = {
    "full": with_method("full"),
    "bitfit": with_method("bitfit"),
    "lora (PEFT)": with_method("lora", rank=RANK, scaling=LORA_SCALING),
    "lora (in-line)": inline_lora,
    "lora (fused_lora)": with_fused_lora,
    "houlsby": with_method("bottleneck_adapter", bottleneck_size=HOULSBY_SIZE, non_linearity="silu"),
    "houlsby (in-line)": inline_houlsby,
    "pfeiffer": with_method("bottleneck_adapter", bottleneck_size=BOTTLENECK_SIZE, variant="pfeiffer"),
    "parallel": with_method("bottleneck_adapter", bottleneck_size=BOTTLENECK_SIZE, variant="parallel"),
    "lin": with_method("bottleneck_adapter", bottleneck_size=BOTTLENECK_SIZE, variant="lin"),
    "prefix_tuning": with_method("prefix_tuning", num_virtual_tokens=PREFIX_TOKENS),
    "prefix_tuning (in-line)": inline_prefix,
    "prefix_layer": with_method("prefix_layer", num_virtual_tokens=2 * PREFIX_TOKENS),
    "prefix_embedding": with_method("prefix_embedding", num_virtual_tokens=EMBEDDING_TOKENS),
}

# Each tuner with its in-line code and its sites in a layer.
PAIRS = {
    "houlsby": ("houlsby (in-line)", 2),
    "prefix_tuning": ("prefix_tuning (in-line)", 1),
    "lora (fused_lora)": ("lora (in-line)", 2),
    "lora (PEFT)": ("lora (in-line)", 2),
}


@dataclass
class Run:
    """One variant in training, and what was measured of it."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    batch: dict[str, Tensor]
    seconds: list[float] = field(default_factory=list)
    activation_bytes: int = 0
    state_bytes: int = 0

    @property
    def memory_bytes(self) -> int:
        """Activations, weights, gradients and the optimiser's states."""
        return self.activation_bytes + self.state_bytes

    def step(self) -> float:
        """Train one step and return the seconds it took."""
        start = time.perf_counter()
        self.model(**self.batch).loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.perf_counter() - start

    def measure_memory(self) -> None:
        """Count the bytes of a training step, which is done."""
        owned = [*self.model.parameters(), *self.model.buffers()]
        kept = _Kept(owned)
        with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
            loss = self.model(**self.batch).loss
        self.activation_bytes = kept.bytes
        loss.backward()
        self.optimizer.step()
        gradients = [weight.grad for weight in self.model.parameters() if weight.grad is not None]
        states = [value for state in self.optimizer.state.values() for value in state.values()]
        self.state_bytes = bytes_of([*owned, *gradients, *states])
        self.optimizer.zero_grad()


class _Kept:
    """Bytes of what autograd keeps, each storage once."""

    def __init__(self, owned: Iterable[Tensor]) -> None:
        self.seen = {tensor.untyped_storage().data_ptr() for tensor in owned}
        self.bytes = 0

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.seen:  # autograd holds it, so the address is not used again
            self.seen.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return tensor


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages behind *tensors*, each storage once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def batch_of(shape: Shape) -> dict[str, Tensor]:
    """Rows of random tokens, the first as long as the batch and each further one a token shorter."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, shape.vocabulary, (shape.batch, shape.tokens), generator=generator)
    lengths = (shape.tokens - torch.arange(shape.batch)).clamp(min=1)
    mask = (torch.arange(shape.tokens) < lengths[:, None]).long()
    return {
        "input_ids": ids.masked_fill(mask == 0, PAD),
        "attention_mask": mask,
        "labels": torch.arange(shape.batch) % 2,
    }


def trained(model: nn.Module) -> list[nn.Parameter]:
    """The weights that training changes, in the model's order."""
    return [weight for weight in model.parameters() if weight.requires_grad]


def difference(tuner: nn.Module, inline: nn.Module, batch: dict[str, Tensor]) -> float:
    """The largest difference of logits and of gradients after both got the same random weights.

    The gradients of a weight are measured relative to the largest among them where that is above 1.
    """
    with torch.no_grad():
        for ours, theirs in zip(trained(tuner), trained(inline), strict=True):
            assert ours.numel() == theirs.numel(), f"weights of shape {ours.shape} and {theirs.shape}"
            theirs.copy_(ours.normal_(std=0.1).view_as(theirs))
    outputs = []
    for model in (tuner, inline):
        model.eval()
        output = model(**batch)
        output.loss.backward()
        outputs.append([output.logits.detach(), *(weight.grad for weight in trained(model))])
        model.zero_grad()
        model.train()
    return max(
        float((ours - theirs.view_as(ours)).abs().max() / ours.abs().max().clamp(min=1.0))
        for ours, theirs in zip(*outputs, strict=True)
    )


def measure(shape: Shape, rounds: int) -> tuple[dict[str, Run], dict[str, float]]:
    """Train every variant in turns; the runs, and the difference of each tuner from its in-line code."""
    batch = batch_of(shape)
    models = {name: make(shape) for name, make in VARIANTS.items()}
    differences = {tuner: difference(models[tuner], models[inline], batch) for tuner, (inline, _) in PAIRS.items()}
    runs = {
        name: Run(model.train(), torch.optim.AdamW(trained(model), lr=1e-4), batch) for name, model in models.items()
    }
    for run in runs.values():
        run.step()
        run.measure_memory()
    gc.collect()
    gc.disable()  # a collection would fall on whichever variant has its turn
    try:
        for turn in range(rounds):
            for run in list(runs.values())[:: -1 if turn % 2 else 1]:
                run.seconds.append(run.step())
            gc.collect()
    finally:
        gc.enable()
    return runs, differences


def cost_table(runs: dict[str, Run]) -> str:
    """Time and memory of every variant relative to full fine-tuning."""
    full = runs["full"]
    rows = [
        "| variant | trained weights | step ms, min | step ms, median | step / full | saved activations MiB "
        "| weights, gradients, AdamW MiB | memory / full |",
        "| --- |" + " ---: |" * 7,
    ]
    for name, run in runs.items():
        count = sum(weight.numel() for weight in trained(run.model))
        rows.append(
            f"| {name} | {count:,} | {1e3 * min(run.seconds):.1f} | {1e3 * statistics.median(run.seconds):.1f} "
            f"| {min(run.seconds) / min(full.seconds):.3f} | {run.activation_bytes / MIB:.1f} "
            f"| {run.state_bytes / MIB:.1f} | {run.memory_bytes / full.memory_bytes:.3f} |"
        )
    return "\n".join(rows)


def overhead_table(runs: dict[str, Run], differences: dict[str, float], layers: int) -> str:
    """Each tuner beside its in-line code."""
    rows = [
        "| tuner | step ms, median | in-line ms, median | overhead %, median of rounds | quartiles % | overhead %, of minima "
        "| sites | us a site | difference |",
        "| --- |" + " ---: |" * 8,
    ]
    for tuner, (inline, sites) in PAIRS.items():
        ours, theirs = runs[tuner].seconds, runs[inline].seconds
        ratios = [100 * (own / other - 1) for own, other in zip(ours, theirs, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        site = statistics.median(own - other for own, other in zip(ours, theirs, strict=True)) / (sites * layers)
        rows.append(
            f"| {tuner} | {1e3 * statistics.median(ours):.1f} | {1e3 * statistics.median(theirs):.1f} | {middle:+.1f} "
            f"| {low:+.1f} to {high:+.1f} | {100 * (min(ours) / min(theirs) - 1):+.1f} | {sites * layers} "
            f"| {1e6 * site:+.1f} | {differences[tuner]:.1e} |"
        )
    return "\n".join(rows)


def report(title: str, shape: Shape, rounds: int) -> None:
    """Measure at one shape and print both tables."""
    runs, differences = measure(shape, rounds)
    print(f"## {title}\n\n{shape}, {rounds} rounds\n\n{cost_table(runs)}\n")
    print(f"{overhead_table(runs, differences, shape.layers)}\n", flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--layers", type=int, default=ROBERTA_BASE.layers, help="layers of the RoBERTa-base shape")
    parser.add_argument("--batch", type=int, default=ROBERTA_BASE.batch, help="rows of a batch")
    parser.add_argument("--tokens", type=int, default=ROBERTA_BASE.tokens, help="tokens of a row")
    parser.add_argument("--rounds", type=int, default=12, help="steps of each variant at the RoBERTa-base shape")
    parser.add_argument("--narrow-rounds", type=int, default=80, help="steps of each variant at width 64")
    parser.add_argument("--threads", type=int, help="of torch; its own choice where it is not given")
    parser.add_argument("--quick", action="store_true", help="two layers of width 32 and four rounds")
    options = parser.parse_args(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    wide = replace(ROBERTA_BASE, layers=options.layers, batch=options.batch, tokens=options.tokens)
    narrow, rounds = NARROW, (options.rounds, options.narrow_rounds)
    if options.quick:
        wide = Shape(width=32, layers=2, heads=4, feed_forward=64, vocabulary=100, batch=4, tokens=12)
        narrow, rounds = wide, (4, 4)
    libraries = ", ".join(f"{library} {version(library)}" for library in ("torch", "transformers", "peft"))
    print(f"# The cost of each method\n\n{libraries}, {torch.get_num_threads()} threads\n", flush=True)
    report("The shape of RoBERTa-base", wide, rounds[0])
    report("Width 64, where Python dominates", narrow, rounds[1])


if __name__ == "__main__":
    main()
