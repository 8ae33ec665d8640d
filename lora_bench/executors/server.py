"""The process that workers are forked from: it has the imports done, and does nothing else.

Importing torch, transformers and peft takes 6 to 8 s; a fork of a process that has imported them takes milliseconds. So
that a fork is safe, the server runs no tensor operation, no tokenizer and no CUDA. It is a process of its own, and not a
fork of the user's: the user's program may have threads and devices open, and may have no `if __name__ == "__main__"`.

It reads commands from its standard input, a line each, and writes a line for each worker that ended:

    fork {"CUDA_VISIBLE_DEVICES": "0"}   ->   started PID
    stop SIGTERM                              sends every worker that signal, which asks it to stop
                                         ->   ended PID WAIT_STATUS

When its standard input closes, whoever started it is gone: it kills its workers and ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
from multiprocessing.connection import Connection
from typing import Any


def serve(address: str) -> None:
    """Fork workers on request until standard input closes.

    Args:
        address: The Unix socket on which workers report for work.
    """
    _import_everything()
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    workers: set[int] = set()
    _say("ready")
    pending = b""
    while True:
        readable, _, _ = select.select([0, wake_read], [], [])
        if wake_read in readable:
            os.read(wake_read, 4096)
            _bury(workers)
        if 0 in readable:
            chunk = os.read(0, 65536)
            if not chunk:
                break
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                command, _, rest = line.decode().partition(" ")
                if command == "fork":
                    workers.add(_fork(address, json.loads(rest), (wake_read, wake_write)))
                elif command == "stop":
                    _kill(workers, signal.Signals[rest])
    _kill(workers, signal.SIGKILL)


def _import_everything() -> None:
    import datasets  # noqa: F401
    import peft  # noqa: F401
    import transformers.models.deberta_v2.modeling_deberta_v2
    import transformers.models.gpt2.modeling_gpt2
    import transformers.models.roberta.modeling_roberta  # noqa: F401

    import lora_bench.metrics
    import lora_bench.probe.process
    import lora_bench.run
    import lora_bench.tuners  # noqa: F401
    from lora_bench.methods import known_methods

    known_methods()


def _fork(address: str, environment: dict[str, str], wake: tuple[int, int]) -> int:
    pid = os.fork()
    if pid:
        _say(f"started {pid}")
        return pid
    # The worker. Nothing may return from here into the server's loop.
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for descriptor in wake:
            os.close(descriptor)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(2, 1)
        os.environ.update(environment)
        _work(address)
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _work(address: str) -> None:
    """Take units and give records until the other side closes the connection."""
    from lora_bench.executors.base import Event
    from lora_bench.loop import stop_on_signals, stop_requested
    from lora_bench.probe.job import ProbeJob
    from lora_bench.probe.process import probe
    from lora_bench.run import run

    stop_on_signals()
    link = socket.socket(socket.AF_UNIX)
    link.connect(address)
    connection: Connection[Any, Any] = Connection(link.detach())
    connection.send(os.getpid())
    with contextlib.suppress(EOFError, ConnectionError):
        while not stop_requested():
            for job in connection.recv():
                run_id = job.run_id
                connection.send(Event(run_id, 0, job.steps))

                def tell(step: int, steps: int, loss: float | None, run_id: str = run_id) -> None:
                    try:
                        connection.send(Event(run_id, step, steps, loss))
                    except OSError:
                        # Whoever asked for the run is gone. It did not fail: its checkpoint, if any, stays.
                        os._exit(1)

                if isinstance(job, ProbeJob):
                    # It has nothing to save: a stop ends it at once, and it is measured again another time.
                    signal.signal(signal.SIGINT, signal.SIG_DFL)
                    signal.signal(signal.SIGTERM, signal.SIG_DFL)
                connection.send(probe(job) if isinstance(job, ProbeJob) else run(job, tell))
                if stop_requested():
                    break


def _bury(workers: set[int]) -> None:
    """Tell of the workers that ended."""
    while workers:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        workers.discard(pid)
        _say(f"ended {pid} {status}")


def _kill(workers: set[int], number: signal.Signals) -> None:
    for pid in workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _say(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(1, f"{line}\n".encode())


if __name__ == "__main__":
    serve(sys.argv[1])
