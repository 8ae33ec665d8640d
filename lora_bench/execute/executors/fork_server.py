"""The fork server: a process with its imports done, from which workers are forked.

Importing torch, transformers and peft takes 6 to 8 s; a fork of a process that has imported them takes milliseconds. For a safe
fork, the server runs no tensor operation, no tokenizer and no CUDA. It is not a fork of the user's program, which may have
threads and devices open, and may have no `if __name__ == "__main__"`.

An import may start CUDA all the same: bitsandbytes does, which PEFT imports, and so may a plug-in. Then no fork can use CUDA.
So the server says so and begins anew without imports, and each worker is a new process that does its own.

It reads commands from its standard input, a line each, and writes a line for each worker that ended:

    fork {"CUDA_VISIBLE_DEVICES": "0"}   ->   started PID
    stop SIGTERM                              sends every worker that signal, which asks it to stop
    signal PID SIGTERM                        sends it to one worker and its children; SIGUSR1, at which a worker writes its
                                              stack, goes to the worker alone
                                         ->   ended PID WAIT_STATUS
                                         ->   spawns, once, if workers do their own imports

When its standard input closes, the process that started it has ended: it kills its workers and ends. A worker leads a process
group, which ends with it, so that no child of a run outlives it.
"""

import contextlib
import faulthandler
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NoReturn, Protocol

from lora_bench.execute.executors.executor import Alive, PackFailed, pack_failed
from lora_bench.records.outcomes import DISK_FULL, is_disk_full
from lora_bench.training.job import Event, Word
from lora_bench.util.child_process import our_command
from lora_bench.util.failpoints import reach
from lora_bench.util.processes import end_with_parent, forks_can_use_cuda
from lora_bench.util.redaction import without_secrets

SPAWNS = "spawns"


def serve(address: str, *, spawns: bool = False) -> None:
    """Fork workers for the Unix socket *address* until standard input closes; with *spawns* each does its own imports."""
    # The process that started it handles Ctrl-C and other signals, and sends commands.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Threads of a Ray actor block signals, and their children inherit that.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    # Until the imports are done it cannot notice that its standard input closes.
    end_with_parent()
    if not spawns:
        reach("server.import")
        import_everything()
        if not forks_can_use_cuda():
            _become(address, SPAWNS)
    reach("server.ready")
    end_with_parent(really=False)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    workers: set[int] = set()
    _say("ready")
    if spawns:
        _say(SPAWNS)
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
                    workers.add(_fork(address, json.loads(rest), (wake_read, wake_write), spawns=spawns))
                elif command == "stop":
                    for pid in workers:
                        os.kill(pid, signal.Signals[rest])
                elif command == "signal":
                    number, name = rest.split()
                    if int(number) in workers:
                        (os.kill if name == "SIGUSR1" else _kill_group)(int(number), signal.Signals[name])
    for pid in workers:
        _kill_group(pid, signal.SIGKILL)
    _bury(workers, wait=True)


def import_everything() -> None:
    """Import the modules that runs and probes need."""
    import datasets  # noqa: F401
    import peft  # noqa: F401

    import lora_bench.metrics
    import lora_bench.pack.train
    import lora_bench.probe.process
    import lora_bench.training.run
    import lora_bench.tuners  # noqa: F401
    from lora_bench.families import FAMILIES
    from lora_bench.methods import known_methods

    known_methods()
    for model_type in (one for family in FAMILIES for one in family.packed_types):
        name = model_type.replace("-", "_")
        importlib.import_module(f"transformers.models.{name}.modeling_{name}")


def _fork(address: str, environment: dict[str, str], wake: tuple[int, int], *, spawns: bool = False) -> int:
    reach("server.fork")
    server = os.getpid()
    pid = os.fork()
    if pid:
        # Parent and child both do it, so that neither can be late.
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        _say(f"started {pid}")
        return pid

    def be_worker() -> None:
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
        end_with_parent()
        if os.getppid() != server:
            os._exit(1)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for descriptor in wake:
            os.close(descriptor)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(2, 1)
        os.environ.update(environment)
        if spawns:
            _become(address, json.dumps(environment))
        _be_worker(address, environment)

    # The worker. It must never return into the server's loop.
    end_after(be_worker)


def _become(*arguments: str) -> NoReturn:
    """Begin this module anew in this process, with its number, files and ignored signals."""
    os.execv(sys.executable, our_command("lora_bench.execute.executors.fork_server", *arguments))


def end_after(work: Callable[[], None]) -> NoReturn:
    """Do the work of this process and end it."""
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        import traceback

        print(without_secrets(traceback.format_exc()), end="", file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(code)


def _be_worker(address: str, environment: dict[str, str]) -> None:
    from lora_bench.training.distributed.launch import ask_for_stacks

    # Written by the C library's handler, wherever the interpreter hangs.
    signal.signal(signal.SIGUSR1, lambda number, frame: ask_for_stacks())
    faulthandler.register(signal.SIGUSR1, file=2, all_threads=True, chain=True)
    reach("worker.begin")
    _work(address, environment)


def _work(address: str, environment: dict[str, str]) -> None:
    """Do units and send records until the other side closes the connection; first send the own process number and folder."""
    from lora_bench.training.callbacks import stop_on_signals, stop_requested

    stop_on_signals()
    link = socket.socket(socket.AF_UNIX)
    link.connect(address)
    connection: Connection[Any, Any] = Connection(link.detach())
    connection.send((os.getpid(), environment))
    with contextlib.suppress(EOFError, ConnectionError):
        while not stop_requested():
            do_unit(connection.recv(), connection)


class Told(Protocol):
    """Receiver of a unit's messages: the other end of a connection, or a stand-in."""

    def send(self, word: Any) -> None:
        """Send a record, an event, or a heartbeat."""


def do_unit(unit: list[Any], connection: Told) -> None:
    """Do the jobs of a unit and send their records. An exception ends this process."""
    if len(unit) > 1:
        _do_together(unit, connection)
        return
    for job in unit:
        try:
            connection.send(_do(job, connection))
        except Exception as error:
            if not is_disk_full(error):
                raise
            connection.send(job.record("failed", DISK_FULL))


def _do(job: Any, connection: Told) -> Any:
    from lora_bench.probe.probe_job import ProbeJob
    from lora_bench.probe.process import probe
    from lora_bench.training.job import telling_of
    from lora_bench.training.run import run_job
    from lora_bench.util.heartbeat import at_intervals, heard

    reach("worker.job")
    connection.send(Event(job.run_id, 0, job.steps))
    if isinstance(job, ProbeJob):
        # A probe has nothing to save: a stop ends it at once, and it is measured again another time.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        return probe(job)
    with heard(at_intervals(lambda: _say_to(connection, Alive(job.run_id)), time.monotonic())):
        return run_job(job, telling_of(job.run_id, lambda word: _say_to(connection, word)))


def _do_together(jobs: list[Any], connection: Told) -> None:
    """Send the record of each job of a pack. If the whole pack fails, this process ends, and its jobs are done one by one."""
    from lora_bench.pack.train import take_together
    from lora_bench.training.attempt import Apart
    from lora_bench.util.heartbeat import at_intervals, heard

    reach("worker.job")

    first = jobs[0].run_id
    with heard(at_intervals(lambda: _say_to(connection, Alive(first)), time.monotonic())):
        try:
            for record in take_together(jobs, lambda word: _say_to(connection, word)):
                connection.send(record)
        except Apart as failed:
            _say_to(connection, PackFailed(first, pack_failed(str(failed))))
            raise


def _say_to(connection: Told, word: Word | Alive) -> None:
    """Send progress or a note. If the receiver has gone, the run has not failed: its checkpoint, if any, stays."""
    try:
        connection.send(word)
    except OSError:
        os._exit(1)


def _bury(workers: set[int], *, wait: bool = False) -> None:
    """Report the workers that ended, and end their children; with *wait* until all have ended."""
    how = 0 if wait else os.WNOHANG
    while workers:
        try:
            if hasattr(os, "waitid"):
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT | how)
                if found is None:
                    return
                # Until it is waited for, no other process gets its number.
                _kill_group(found.si_pid, signal.SIGKILL)
            pid, status = os.waitpid(-1, how)
        except ChildProcessError:
            return
        if not pid:
            return
        reach("server.bury")
        workers.discard(pid)
        _say(f"ended {pid} {status}")


def _kill_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _say(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(1, f"{line}\n".encode())


def main(address: str, what: str | None = None) -> None:
    """Be the server, or a worker that it spawned, whose environment is given as JSON."""
    if what in (None, SPAWNS):
        serve(address, spawns=what == SPAWNS)
        return

    def be_worker() -> None:
        import_everything()
        _be_worker(address, json.loads(str(what)))

    end_after(be_worker)


if __name__ == "__main__":
    main(*sys.argv[1:])
