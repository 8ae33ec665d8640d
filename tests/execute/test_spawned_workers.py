"""Workers where an import starts CUDA, which no fork of the process can use then."""

import os
import sys
from pathlib import Path

import pytest

from lora_bench.execute.run_suite import Silent, run_suite
from lora_bench.util.processes import forks_can_use_cuda
from tests.project import SUITE, write_project

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="workers are forked")

STARTS_CUDA = Path(__file__).parent / "starts_cuda"
LORA = SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[lora]")
OF_CARD = "a package that is imported here starts CUDA"


class Heard(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


@pytest.fixture
def starts_cuda(monkeypatch, tmp_path):
    """PEFT imports the stand-in in every process that is started from here."""
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(STARTS_CUDA), str(Path(__file__).parents[2])]))


@pytest.mark.slow
@pytest.mark.usefixtures("starts_cuda")
def test_workers_do_their_own_imports_and_the_user_is_told(tmp_path):
    heard = Heard()
    outcome = run_suite(write_project(tmp_path, LORA), runs=tmp_path / "runs", workers=1, display=heard)
    assert [(record.status, record.reason) for record in outcome.records] == [("ok", None)]
    assert [message for message in heard.said if OF_CARD in message] == [
        f"note: {OF_CARD}, which no fork of a process can use then; so each worker does its imports itself, which takes seconds"
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("starts_cuda")
def test_worker_ranks_do_their_own_imports(tmp_path):
    suite = f"{LORA}training: {{processes: 2}}\n"
    outcome = run_suite(write_project(tmp_path, suite), runs=tmp_path / "runs", workers=0)
    assert [(record.status, record.reason) for record in outcome.records] == [("ok", None)]


def test_a_process_without_cuda_can_be_forked():
    assert forks_can_use_cuda()


@pytest.mark.gpu
@pytest.mark.parametrize("by_a_question", [True, False])
def test_a_process_that_started_cuda_cannot_be_forked(by_a_question):
    import subprocess

    start = "torch._C._cuda_getDeviceCount()" if by_a_question else "torch.cuda.init()"
    code = (
        "import torch\n"
        "from lora_bench.util.processes import forks_can_use_cuda\n"
        "assert forks_can_use_cuda()\n"
        f"{start}\n"
        "assert not forks_can_use_cuda()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.gpu
def test_on_a_card_a_suite_runs_beside_a_plug_in_that_starts_cuda(tmp_path, monkeypatch):
    (tmp_path / "starts" / "bitsandbytes").mkdir(parents=True)
    (tmp_path / "starts" / "bitsandbytes" / "__init__.py").write_text(
        "import torch, types\nnn = types.SimpleNamespace()\ntorch.cuda.init()\n"
    )
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "starts"), str(Path(__file__).parents[2])]))
    heard = Heard()
    outcome = run_suite(write_project(tmp_path, LORA), runs=tmp_path / "runs", workers=1, display=heard)
    assert [(record.status, record.reason) for record in outcome.records] == [("ok", None)]
    assert any(OF_CARD in message for message in heard.said)
    assert outcome.records[0].environment.device != "cpu"
