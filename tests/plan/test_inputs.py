"""Without the hub, a suite asks for it once, and each fault says what would do in its stead."""

import huggingface_hub
import pytest
from huggingface_hub.utils import httpx

from lora_bench.errors import BadInput
from lora_bench.plan.inputs import obtain
from lora_bench.published.reproduce import reproduction


@pytest.fixture
def tries(monkeypatch, tmp_path):
    """Whether each look-up asked the hub, which cannot be reached, or the cache alone, which is empty."""
    asked = []

    def look_up(*_, local_files_only, **__):
        asked.append(not local_files_only)
        raise FileNotFoundError("not in the cache") if local_files_only else httpx.ConnectError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", look_up)
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    return asked


def test_the_hub_is_asked_once_and_each_fault_names_the_task_and_the_way_out(tries):
    suite = reproduction("lora-table2", model="roberta-base", methods=["lora"]).suite
    with pytest.raises(BadInput) as caught:
        obtain(suite, None, None)
    assert tries == [True] + [False] * 8
    *tasks, model = [str(fault) for fault in caught.value.faults]
    for (task, _), said in zip(suite.tasks, tasks, strict=True):
        assert f"task {task.task}: data set 'nyu-mll/glue' is not in the cache, and the hub" in said
        assert said.endswith("could not be reached; --data-dir FOLDER reads a copy of it")
    assert "model 'FacebookAI/roberta-base' is not in the cache" in model and "--model FOLDER" in model


def test_the_next_command_asks_again(tries):
    suite = reproduction("lora-table2", model="roberta-base", tasks=["sst2"], methods=["lora"]).suite
    for _ in range(2):
        with pytest.raises(BadInput):
            obtain(suite, None, None)
    assert tries == [True, False] * 2
