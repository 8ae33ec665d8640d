"""Without the hub, a suite asks for it once, and each fault says what would do in its stead."""

import huggingface_hub
import pytest
from huggingface_hub import utils
from huggingface_hub.utils import httpx

from lora_bench.errors import BadInput
from lora_bench.plan.inputs import obtain
from lora_bench.plan.make_plan import make_plan
from lora_bench.published import known_tables, load_table
from lora_bench.published.reproduce import reproduction, table_suite
from lora_bench.tasks import hub_sha256, load_task, released_data


@pytest.fixture
def tries(monkeypatch, tmp_path):
    """What was asked of the hub, which cannot be reached ("hub": whether it answers), or of the cache alone, which is empty."""
    asked = []

    def look_up(*_, local_files_only, **__):
        asked.append("cache" if local_files_only else "files")
        raise FileNotFoundError("not in the cache") if local_files_only else httpx.ConnectError("no route")

    class Session:
        def head(self, *_, **__):
            asked.append("hub")
            raise httpx.ConnectError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", look_up)
    monkeypatch.setattr(utils, "get_session", Session)
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    return asked


def test_the_hub_is_asked_once_and_each_fault_names_the_task_and_the_way_out(tries):
    suite = reproduction("lora-table2", model="roberta-base", methods=["lora"])
    with pytest.raises(BadInput) as caught:
        obtain(suite, None, None)
    # One short request, and none of the hub's own look-ups, which repeat theirs for half a minute.
    assert tries == ["hub", "cache"]
    *tasks, model = [str(fault) for fault in caught.value.faults]
    for (task, _), said in zip(suite.tasks, tasks, strict=True):
        assert f"task {task.task}: data set 'nyu-mll/glue' is not in the cache, and the hub" in said
        assert said.endswith("could not be reached; --data-dir FOLDER reads a copy of it")
    assert "model 'FacebookAI/roberta-base' is not in the cache" in model and "--model FOLDER" in model


def test_the_next_command_asks_again(tries):
    suite = reproduction("lora-table2", model="roberta-base", tasks=["sst2"], methods=["lora"])
    for _ in range(2):
        with pytest.raises(BadInput):
            obtain(suite, None, None)
    assert tries == ["hub", "cache"] * 2


def test_a_hub_that_falls_silent_is_not_asked_for_the_next_files(tries, monkeypatch):
    class Session:
        def head(self, *_, **__):
            tries.append("hub")

    monkeypatch.setattr(utils, "get_session", Session)
    suite = reproduction("lora-table2", model="roberta-base", tasks=["sst2", "cola"], methods=["lora"])
    with pytest.raises(BadInput):
        obtain(suite, None, None)
    assert tries == ["hub", "files", "cache"]


@pytest.mark.parametrize(
    "name",
    [
        name if name == "he2022-table2" else pytest.param(name, marks=pytest.mark.slow)
        for name in known_tables()
        if load_table(name).no_suite is None
    ],
)
def test_a_table_is_planned_without_any_download(tries, tmp_path, name):
    table, (_, of_table) = load_table(name), table_suite(name)
    one = [task.task for task, _ in of_table.tasks if task.task in ("sst2", "e2e_tokens", "webnlg", "dart")][:1]
    suite = reproduction(name, tasks=one, seeds=1)
    plan = make_plan(suite, tmp_path / "runs", download=False)
    assert not {"hub", "files"} & set(tries)
    cells = [*plan.cells, *(cell for waiting in plan.waiting for cell in waiting.cells)]
    # Each model of the table has a shape here, and each task a release: no cell is left out.
    places = {(cell.job.spec.method.label, cell.job.spec.model.name, cell.job.spec.task.name) for cell in cells}
    wanted = {(cell.method, cell.model, cell.task) for cell in table.cells if cell.no_run is None and cell.task in one}
    assert wanted <= places
    counts = {(cell.method, cell.model): cell.adapter_parameters for cell in table.cells if cell.no_run is None}
    for cell in cells:
        printed = counts.get((cell.job.spec.method.label, cell.job.spec.model.name))
        assert printed in (None, cell.fit.parameters.adapter)
        assert cell.estimate.memory_bytes > 4 * cell.fit.parameters.total and not cell.estimate.timed
    assert [note.partition(":")[0] for note in plan.notes] == ["not downloaded"] * 2


def test_released_counts_stand_for_the_data_of_a_plan():
    rte = load_task("rte")
    whole, split = (released_data(rte, whole_train=whole) for whole in (True, False))
    assert {name: len(part.ids) for name, part in whole.splits.items()} == {"train": 2_490, "test": 277}
    # A tenth of the training rows is set aside where the protocol chooses on them.
    assert {name: len(part.ids) for name, part in split.splits.items()} == {
        "train": 2_241,
        "selection": 249,
        "test": 277,
    }
    assert whole.sha256 == hub_sha256(rte.data, rte.data.revision) and whole.labels == rte.labels
    assert released_data(load_task("tweets")) is None
