"""Real processes of the command line, without the seconds that each would spend on its imports.

A forge is a process that has the imports done and has computed nothing. It forks a child for each command; the child calls
`cli.main` in a session of its own, with its output in a file, and can be signalled and killed like any other. The server
that forks workers is forked too, instead of started anew; all its code runs. Whatever a child leaves behind becomes the
forge's own child, so an orphan cannot hide.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

from tests.faults.failpoints import STARTUP

ROOT = Path(__file__).parents[2]
_PR_SET_CHILD_SUBREAPER = 36


class Command:
    """A command that was started."""

    def __init__(self, forge, pid: int, output: Path) -> None:
        self.forge, self.pid, self._output = forge, pid, output
        # Made by the process that does what its failpoint says, where one process is to do it.
        self.once = output.with_suffix(".once")

    def wait(self, seconds: float = 600.0) -> int:
        """Its exit code, the negative number of a signal if one ended it."""
        code = self.forge.ask(wait=self.pid, seconds=seconds)["code"]
        assert code is not None, f"it did not end within {seconds} s: {self.output}"
        return code

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait_until_reached(self, seconds: float = 600.0) -> None:
        """Wait until the failpoint, which was to act once, has begun to."""
        end = time.monotonic() + seconds
        while not self.once.exists():
            assert time.monotonic() < end, f"it did not get to its failpoint: {self.output}"
            time.sleep(0.02)

    def wait_until_said(self, words: str, seconds: float = 600.0) -> None:
        """Wait until these words are in the output, over the ends of lines."""
        end = time.monotonic() + seconds
        while words not in self.output.replace("\n", " "):
            assert time.monotonic() < end, f"it did not say {words!r}: {self.output}"
            time.sleep(0.02)

    @property
    def output(self) -> str:
        # The process that has it makes it, and may not have come so far.
        return self._output.read_text() if self._output.exists() else ""


class Forge:
    """The client's side."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{STARTUP}{os.pathsep}{ROOT}", "HF_HUB_OFFLINE": "1",
                 "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self.pid = self._process.pid
        assert self._process.stdout.readline() == "ready\n"

    def ask(self, **question) -> dict:
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(
        self,
        project: Path,
        *argv: str,
        failpoint: str | None = None,
        once: bool = False,
        hook: str | None = None,
        **environment: str,
    ) -> Command:
        """Start `lora-bench ARGV` in a project.

        Args:
            failpoint: SITE:ACTION for it and what it starts.
            once: Whether the first process to get there does it, and no other.
            hook: MODULE:FUNCTION that the new process calls first.
            environment: Further variables.
        """
        self.count += 1
        output = self.folder / f"{self.count}.txt"
        environment["LORA_BENCH_CACHE"] = str(self.folder / "cache")
        if failpoint is not None:
            environment["LORA_BENCH_FAILPOINT"] = failpoint
        if once:
            environment["LORA_BENCH_FAILPOINT_ONCE"] = str(output.with_suffix(".once"))
        asked = {"argv": argv, "cwd": str(project), "output": str(output), "environment": environment, "hook": hook}
        return Command(self, self.ask(start=asked)["pid"], output)

    def left_behind(self, seconds: float = 60.0) -> list[str]:
        """The processes that outlived every command by so many seconds."""
        return self.ask(left=seconds)["left"]

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(30)


class ForkedServer:
    """`subprocess.Popen` for the server that forks workers: forked from this process, in a session of its own."""

    def __init__(self, command, *, env, stderr, **_) -> None:
        read_orders, orders = os.pipe()
        answers, write_answers = os.pipe()
        self.returncode = None
        self.pid = os.fork()
        if not self.pid:
            os.setsid()
            for one, place in ((read_orders, 0), (write_answers, 1), (stderr.fileno(), 2)):
                os.dup2(one, place)
            os.close(orders)
            os.close(answers)
            os.environ.update(env)
            _end_with(lambda: importlib.import_module("lora_bench.execute.executors.fork_server").serve(command[-1]))
        os.close(read_orders)
        os.close(write_answers)
        self.stdin = os.fdopen(orders, "wb", buffering=0)
        self.stdout = os.fdopen(answers, "rb", buffering=0)

    def wait(self, timeout=None) -> int:
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode


def _end_with(work) -> None:
    """End this process with what *work* gives."""
    code = 1
    try:
        code = work() or 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _command(argv, cwd, output, environment, hook) -> None:
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.chdir(cwd)
    os.environ.update(environment)
    if hook is not None:
        module, _, function = hook.partition(":")
        getattr(importlib.import_module(module), function)()
    _end_with(lambda: importlib.import_module("lora_bench.cli").main(argv))


def _prepare() -> None:
    import torch

    from lora_bench import cli, report  # noqa: F401
    from lora_bench.cli import commands  # noqa: F401
    from lora_bench.execute import run_probes as probe_execute  # noqa: F401
    from lora_bench.execute import run_suite as execute  # noqa: F401
    from lora_bench.execute.executors import fork_server as server
    from lora_bench.execute.executors import (
        inline,  # noqa: F401
        local,
    )
    from lora_bench.plan import make_plan as plan  # noqa: F401
    from lora_bench.training import callbacks as loop

    torch.set_num_threads(1)
    server.import_everything()
    local.subprocess = type("Forked", (), {**vars(subprocess), "Popen": ForkedServer})
    loop.CHECKPOINT_SECONDS = 0.0
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    # A run looks for garbage twice, and among all that was imported there is none.
    gc.freeze()


def _serve() -> None:
    ended: dict[int, int] = {}
    for line in sys.stdin:
        question = json.loads(line)
        if "start" in question:
            pid = os.fork()
            if not pid:
                _command(**question["start"])
            answer = {"pid": pid}
        elif "wait" in question:
            end = time.monotonic() + question["seconds"]
            while question["wait"] not in ended and time.monotonic() < end:
                _reap(ended)
                time.sleep(0.02)
            answer = {"code": ended.pop(question["wait"], None)}
        else:
            end = time.monotonic() + question["left"]
            while (left := _descendants()) and time.monotonic() < end:
                _reap(ended)
                time.sleep(0.05)
            answer = {"left": left}
        print(json.dumps(answer), flush=True)


def _reap(ended: dict[int, int]) -> None:
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            ended[found[0]] = os.waitstatus_to_exitcode(found[1])


def _descendants() -> list[str]:
    import psutil

    left = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.status() != psutil.STATUS_ZOMBIE:
                left.append(f"{child.pid} {' '.join(child.cmdline())}")
    return left


if __name__ == "__main__":
    _prepare()
    print("ready", flush=True)
    _serve()
