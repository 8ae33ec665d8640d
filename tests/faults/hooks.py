"""What a test has a process do before it begins: see `Forge.start`."""

import os
import resource
import signal
import subprocess
import sys
import time


def note_sites() -> None:
    """Write each site that this process and what it forks get to into the file REACHED."""
    file = os.open(os.environ["REACHED"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    seen: set[str] = set()

    def note(event: str, facts: tuple[object, ...]) -> None:
        if event.startswith("lora_bench.") and event not in seen:
            seen.add(event)
            os.write(file, f"{event.removeprefix('lora_bench.')}\n".encode())

    sys.addaudithook(note)


def stubborn_and_impatient() -> None:
    """Each run of LoRA starts a process that does not end when it is asked to; nobody waits long for a run to end."""
    from lora_bench.execute.executors import local
    from lora_bench.methods.lora import Lora

    local.GRACE_SECONDS = 1.0
    apply = Lora.apply

    def start_and_apply(self, *arguments, **options):
        sleeping = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
        subprocess.Popen([sys.executable, "-S", "-c", sleeping])
        return apply(self, *arguments, **options)

    Lora.apply = start_and_apply


def impatient() -> None:
    """Nobody waits long for a run to end."""
    from lora_bench.execute.executors import local

    local.GRACE_SECONDS = 1.0


def stands_still_until_told_to_end() -> None:
    """The run with a learning rate of 0.01 stands still in its second step, wherever it is done, until it is told to end."""
    from lora_bench.training import callbacks as loop

    begin = loop.AtEachStep.on_step_begin

    def stand_still(self, args, state, control, **inside):
        while args.learning_rate == 0.01 and state.global_step == 1 and not loop.stop_requested():
            time.sleep(0.05)
        begin(self, args, state, control, **inside)

    loop.AtEachStep.on_step_begin = stand_still


def small_files_only() -> None:
    """No file may be larger than 4,096 bytes, as where a quota is used up."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


def broken_plug_in() -> None:
    """An installed package has a method that cannot be imported."""
    from lora_bench.methods import contract as base

    base._BROKEN["shiny (shiny.method)"] = "ImportError: no module named 'glitter'"


def few_checkpoints() -> None:
    """A checkpoint every minute, as users have it: the runs of a test have none."""
    from lora_bench.training import callbacks as loop

    loop.CHECKPOINT_SECONDS = 60.0
