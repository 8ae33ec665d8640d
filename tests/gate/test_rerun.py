"""Runs that are done again by a child, which is stopped with the command that waits for it."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from lora_bench.errors import WorkBroken
from lora_bench.gate import rerun
from lora_bench.util.signals import Stopped

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

# In the place of the interpreter: it writes its number, then each signal that it gets, and ends at the second or never.
STUBBORN = """#!{python} -SE
import os, signal, sys, time
def note(number, frame):
    got.append(number)
    with open({log!r}, "a") as log:
        print(signal.Signals(number).name, file=log)
    if len(got) == {ends_at}:
        sys.exit(130)
got = []
signal.signal(signal.SIGINT, note)
with open({log!r}, "a") as log:
    print(os.getpid(), file=log)
while True:
    time.sleep(0.02)
"""


@pytest.mark.slow
@pytest.mark.parametrize("ends_at", [2, 0])
def test_a_second_signal_reaches_the_child_and_leaves_nothing_of_it(tmp_path, monkeypatch, ends_at):
    monkeypatch.setattr(rerun, "INSIST_SECONDS", 5.0 if ends_at == 0 else 600.0)
    log, python = tmp_path / "log", tmp_path / "python"
    python.write_text(STUBBORN.format(python=sys.executable, log=str(log), ends_at=ends_at))
    python.chmod(0o755)

    def lines():
        return log.read_text().splitlines() if log.exists() else []

    def press():
        for count in (1, 2):
            while len(lines()) < count:
                time.sleep(0.02)
            os.kill(os.getpid(), signal.SIGINT)

    presses = threading.Thread(target=press)
    presses.start()
    with pytest.raises(Stopped):
        rerun.Way("suite.yaml", python=str(python)).do("run", tmp_path / "runs")
    presses.join()
    pid, *signals = lines()
    assert signals == ["SIGINT", "SIGINT"]
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


def test_a_child_that_cannot_be_started_is_no_bad_input(tmp_path):
    with pytest.raises(WorkBroken, match="absent"):
        rerun.Way("suite.yaml", python=str(tmp_path / "absent")).do("run", tmp_path / "runs")


def test_a_child_has_the_code_of_its_parent_and_not_that_of_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "lora_bench").mkdir()
    (tmp_path / "lora_bench" / "__init__.py").write_text("")
    (tmp_path / "lora_bench" / "cli.py").write_text("raise SystemExit('of the working folder')")
    monkeypatch.chdir(tmp_path)
    command = rerun.Way("suite.yaml").command("run", tmp_path)[:3]
    done = subprocess.run(
        [*command, "--version"], env=rerun.own_environment(), capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("lora-bench ") and done.returncode == 0, done.stderr
