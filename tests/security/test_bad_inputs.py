"""Five hundred bad inputs of a generator: each command ends in time with an answer or a refusal, and none with a traceback."""

import os
import shutil
import signal
import sys
import time

import pytest

from fuzz.bad_inputs import bad_inputs
from lora_bench.cli import main
from tests.security.test_folders import finished  # noqa: F401

NUMBER = int(os.environ.get("LORA_BENCH_BAD_INPUTS", "500"))
# Of the processor, which a busy machine does not change. A command that waits is ended later, by the clock.
SECONDS, PATIENCE = 10.0, 300


def hung(number, frame):
    raise TimeoutError("the command waits")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes and timers")
@pytest.mark.parametrize("part", range(10))
def test_bad_inputs_are_answered_or_refused(finished, tmp_path, monkeypatch, capfd, part):  # noqa: F811
    project, _ = finished
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    wrong = []
    before = signal.signal(signal.SIGALRM, hung)
    for bad in list(bad_inputs(project, NUMBER))[part::10]:
        folder = tmp_path / "project"
        shutil.copytree(project, folder)
        bad.change(folder)
        monkeypatch.chdir(folder)
        signal.alarm(PATIENCE)
        began = time.process_time()
        try:
            code = main(bad.command)
        except SystemExit as done:
            code = done.code
        except BaseException as error:
            wrong.append(f"{bad.name}: {type(error).__name__}: {str(error)[:200]}")
            code = 2
        finally:
            signal.alarm(0)
        taken, said = time.process_time() - began, capfd.readouterr()
        if taken > SECONDS:
            wrong.append(f"{bad.name}: took {taken:.1f} s")
        if code not in (0, 2, 3) or "Traceback" in said.err or (code == 2 and not said.err.strip()):
            wrong.append(f"{bad.name}: exit {code}: {said.err[-300:]}")
        monkeypatch.chdir(tmp_path)
        shutil.rmtree(folder)
    signal.signal(signal.SIGALRM, before)
    assert not wrong, "\n".join(wrong)
