"""What `BenchmarkCallback` adds to the steps of a Trainer.

    python benchmarks/callback_overhead.py             about two minutes; steps of some 10 ms
    python benchmarks/callback_overhead.py --quick     seconds: shows that it runs, and no time in it means anything

Steps with and without the callback take turns inside one training, in the order with, without, without, with, so that a slow
spell of the machine falls on both. Without it, neither its methods are called nor is its hook on the model. The clock is the
same for both, and switching is not in it. Two neighbours make a ratio, and what is printed is the median of these ratios with
its 95 % interval (by order statistics, which ask nothing of the distribution). The second line compares steps without the
callback to steps without it, and shows what such a ratio is worth on this machine.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import (
    PrinterCallback,
    RobertaConfig,
    RobertaForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.utils import logging

from lora_bench import BenchmarkCallback
from lora_bench.plugin.token_counter import TokenCounter

BATCH, TOKENS, WARMUP = 8, 32, 20
ORDER = (True, False, False, True)


class Switched(TrainerCallback):
    """Times every step, with the callback in every other one.

    Args:
        callback: What is switched on and off, or None to time steps that do not differ.
    """

    def __init__(self, callback: BenchmarkCallback | None) -> None:
        self.callback = callback
        self.seconds: dict[bool, list[float]] = {True: [], False: []}
        self._counter: TokenCounter | None = None
        self._in_turn: BenchmarkCallback | None = None
        self._began = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **inside: Any
    ) -> None:
        """Let the callback begin, and take its hook off the model."""
        if self.callback is not None:
            self.callback.on_train_begin(args, state, control, **inside)
            assert self.callback._run is not None
            self._counter = self.callback._run.counter
            self._switch(on=False)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **inside: Any
    ) -> None:
        """Switch, and start the clock."""
        self._switch(on=ORDER[state.global_step % len(ORDER)])
        self._began = time.perf_counter()
        if self._in_turn is not None:
            self._in_turn.on_step_begin(args, state, control, **inside)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **inside: Any) -> None:
        """Stop the clock, and take the hook off."""
        if self._in_turn is not None:
            self._in_turn.on_step_end(args, state, control, **inside)
        seconds = time.perf_counter() - self._began
        self.seconds[ORDER[(state.global_step - 1) % len(ORDER)]].append(seconds)
        self._switch(on=False)

    def _switch(self, *, on: bool) -> None:
        if self._counter is not None:
            if on:
                self._counter.start(self.callback._run.model())
            else:
                self._counter.stop()
        self._in_turn = self.callback if on else None

    def ratios(self) -> list[float]:
        """Of each two neighbours after the warm-up, the step in the place of the callback by the other."""
        pairs = zip(self.seconds[True], self.seconds[False], strict=False)
        return [one / other for one, other in pairs][WARMUP:]


def model_of(layers: int) -> RobertaForSequenceClassification:
    torch.manual_seed(0)
    return RobertaForSequenceClassification(
        RobertaConfig(vocab_size=1000, hidden_size=64, num_hidden_layers=layers, num_attention_heads=4,
                      intermediate_size=256, max_position_embeddings=TOKENS + 8, pad_token_id=1)
    )  # fmt: skip


def train(layers: int, steps: int, folder: Path, *, with_callback: bool) -> Switched:
    """The steps of one training."""
    switched = Switched(BenchmarkCallback(folder / "records") if with_callback else None)
    ids = torch.randint(3, 1000, (BATCH, TOKENS), generator=torch.Generator().manual_seed(0))
    rows = [{"input_ids": one, "attention_mask": torch.ones_like(one), "labels": 0} for one in ids]
    arguments = TrainingArguments(
        str(folder / "trainer"), max_steps=steps, per_device_train_batch_size=BATCH, report_to="none", disable_tqdm=True,
        save_strategy="no", logging_strategy="no", use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
    )  # fmt: skip
    trainer = Trainer(model_of(layers), args=arguments, train_dataset=rows, callbacks=[switched])
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return switched


def step_seconds(switched: Switched) -> float:
    """Median of the steps without the callback."""
    return statistics.median(switched.seconds[False][WARMUP // 2 :])


def layers_for(seconds: float, folder: Path) -> int:
    """The number of layers whose step takes about this long."""
    one, five = (step_seconds(train(layers, 80, folder, with_callback=False)) for layers in (1, 5))
    return max(1, round(1 + (seconds - one) / max((five - one) / 4, 1e-6)))


def interval(values: list[float]) -> tuple[float, float]:
    """The 95 % interval of the median of *values*, at least six, between two of them."""
    ordered, n = sorted(values), len(values)
    reach = math.ceil(0.98 * math.sqrt(n))  # 1.96 standard deviations of a binomial of n halves
    return ordered[max(0, n // 2 - reach - 1)], ordered[min(n - 1, (n - 1) // 2 + reach + 1)]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--milliseconds", type=float, default=10.0, help="about how long a step is to take")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args(arguments)
    steps = 80 if given.quick else given.steps
    logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        layers = 1 if given.quick else layers_for(given.milliseconds / 1000, folder)
        found = {
            "with the callback, by without": train(layers, steps, folder, with_callback=True),
            "without, by without": train(layers, steps, folder, with_callback=False),
        }
        device = (
            torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads"
        )
        print(f"{layers} layers, batch {BATCH} x {TOKENS}, {steps} steps, {device}\n")
        print("| steps | ms without | ratio | 95 % interval |\n| :-- | --: | --: | --: |")
        for what, switched in found.items():
            low, high = interval(switched.ratios())
            middle = statistics.median(switched.ratios())
            print(f"| {what} | {1000 * step_seconds(switched):.2f} | {middle:.4f} | {low:.4f} to {high:.4f} |")


if __name__ == "__main__":
    main()
