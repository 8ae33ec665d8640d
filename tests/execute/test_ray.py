"""Runs on a Ray cluster of several nodes on this machine, one of which is killed in the middle."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter

import psutil
import pytest

from lora_bench import cli
from lora_bench.execute.executors import ray_actor as actor
from lora_bench.execute.executors.executor import Lost
from lora_bench.execute.executors.ray import RayWorkers, connected, places
from lora_bench.execute.run_suite import Silent, run_suite
from lora_bench.plan.make_plan import make_plan
from lora_bench.suite.load_suite import load_suite
from lora_bench.training import callbacks as loop
from lora_bench.version import __version__
from tests.execute.test_choices import Said
from tests.execute.test_real_rounds import SENTENCE, assert_same, found_in, write_rounds
from tests.faults.failpoints import STARTUP
from tests.project import SUITE, write_project

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is an extra, and is not installed: tox -e more"
)

ONE = SUITE.replace("full, lora, bottleneck_adapter, prefix_tuning", "lora")
# Two packs of two on two workers.
PACKED = ONE.replace("[0]", "[0, 1, 2, 3]").replace("train_examples: 48", "train_examples: 3_200") + (
    "training: {base_dropout: 0.0, head_dropout: 0.0}\n"
)
LONG = ONE.replace("train_examples: 48", "train_examples: 6_400")
MIB = 2**20


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    loop.request_stop(None)


@pytest.fixture(scope="module")
def cluster():
    """A head that does no work, so that any node that does may be lost, and two nodes of one core."""
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 80 * MIB, "include_dashboard": False}
    # Else Ray's workers wait for whatever else the machine does.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("PYTHONPATH", str(STARTUP), prepend=os.pathsep)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
        for _ in range(2):
            cluster.add_node(num_cpus=1, **small)
    try:
        yield cluster
    finally:
        cluster.shutdown()


class Watching(Silent):
    """What was told, and something to do at the first step that is told of once so many runs have begun."""

    def __init__(self, do, after):
        self.do, self.after, self.began, self.records, self.workers = do, after, [], [], None

    def planned(self, plan, cells, workers):
        self.workers = workers

    def event(self, event):
        if event.step == 0:
            self.began.append(event.run_id)
        elif self.do is not None and len(self.began) >= self.after:
            do, self.do = self.do, None
            do()

    def finished(self, record):
        self.records.append(record.run_id)


@needs_ray
def test_a_node_that_is_killed_costs_no_run_and_scores_are_those_of_one_process(tmp_path, cluster):
    path = write_project(tmp_path / "project", PACKED)
    alone = run_suite(load_suite(path), runs=tmp_path / "alone", workers=0, pack=False)
    _, lost = cluster.worker_nodes
    shown = Watching(lambda: cluster.remove_node(lost, allow_graceful=False), after=4)
    outcome = run_suite(load_suite(path), runs=tmp_path / "runs", ray=cluster.address, display=shown)
    assert shown.workers == 2 and shown.do is None
    records = {record.run_id: record for record in outcome.records}
    assert [(record.status, record.attempts) for record in records.values()] == [("ok", 1)] * 4
    assert sorted(shown.records) == sorted(records), "every record is told of once"
    # The pack that the lost node was at began again, as a pack, and nothing else did.
    again = {run_id for run_id, times in Counter(shown.began).items() if times > 1}
    packs = {frozenset({record.run_id, *record.packed_with}) for record in records.values()}
    assert sorted(map(len, packs)) == [2, 2] and (not again or again in packs)
    for one in alone.records:
        assert records[one.run_id].scores == pytest.approx(one.scores)
    again = run_suite(load_suite(path), runs=tmp_path / "runs", ray=cluster.address)
    assert again.done == 0 and again.records == outcome.records


@needs_ray
def test_seeds_are_added_as_one_process_adds_them(tmp_path, cluster):
    path = write_rounds(tmp_path / "project")
    run_suite(load_suite(path), runs=tmp_path / "alone", workers=0, pack=False)
    said = Said()
    run_suite(load_suite(path), runs=tmp_path / "runs", ray=cluster.address, display=said)
    assert_same(found_in(path, tmp_path / "runs"), found_in(path, tmp_path / "alone"))
    assert said.lines.count(SENTENCE) == 1


@needs_ray
def test_a_run_without_progress_is_ended(tmp_path, cluster, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_FAILPOINT", "worker.job:hang")
    path = write_project(tmp_path / "project", ONE)
    (record,) = run_suite(load_suite(path), runs=tmp_path / "runs", ray=cluster.address, timeout=2).records
    assert (record.status, record.reason) == ("timeout", "no progress for 2 s; workers.log has its stack")


@needs_ray
def test_a_run_whose_process_is_killed_is_lost_and_the_next_is_done(tmp_path, cluster, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_FAILPOINT", "worker.job:kill")
    suite = load_suite(write_project(tmp_path / "project", ONE))
    (cell,) = make_plan(suite, tmp_path / "runs").cells
    with connected(cluster.address) as ray:
        pool = RayWorkers(ray, None, threads=1, memory_bytes=MIB, log=tmp_path / "runs" / "workers.log")
        pool.submit([[cell.job]])
        (lost,) = pool.results(lambda event: None)
        assert isinstance(lost, Lost) and lost.reason.startswith("signal SIGKILL: it ended the worker")
        monkeypatch.delenv("LORA_BENCH_FAILPOINT")
        pool.submit([[cell.job]])
        (record,) = pool.results(lambda event: None)
        assert record.status == "ok"


@needs_ray
def test_a_stop_leaves_a_checkpoint_and_the_same_command_goes_on_where_it_may_run(tmp_path, cluster):
    path = write_project(tmp_path / "project", LONG)
    runs = tmp_path / "runs"
    command = [sys.executable, "-m", "lora_bench.cli", "run", str(path), "--runs", str(runs), "--quiet"]
    child = subprocess.Popen([*command, "--ray", "local", "--workers", "1"], start_new_session=True)
    try:
        while child.poll() is None and not list(runs.glob("tickets/*/claim-*.json")):
            time.sleep(0.05)
        # As a terminal does: to the command and to all that it started.
        os.killpg(child.pid, signal.SIGINT)
        assert child.wait(600) == 130
    finally:
        child.kill()
    _wait_for_the_end_of_all_that_it_started(child)
    (record,) = run_suite(load_suite(path), runs=runs, ray=cluster.address).records
    assert record.status == "ok" and record.resumed and record.attempts == 2


@needs_ray
def test_a_command_whose_own_node_dies_ends_and_the_same_command_goes_on(tmp_path, cluster):
    path = write_project(tmp_path / "project", ONE)
    runs = tmp_path / "runs"
    command = [sys.executable, "-m", "lora_bench.cli", "run", str(path), "--runs", str(runs), "--quiet"]
    # An actor may outlive its node, and end its run before the head takes the node for dead: so this run has no end.
    paths = os.pathsep.join([str(STARTUP), *filter(None, [os.environ.get("PYTHONPATH")])])
    hangs = {**os.environ, "PYTHONPATH": paths, "LORA_BENCH_FAILPOINT": "run.step:hang"}
    child = subprocess.Popen(
        [*command, "--ray", "local", "--workers", "1"],
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
        env=hangs,
    )
    try:
        while child.poll() is None and not list(runs.glob("tickets/*/claim-*.json")):
            time.sleep(0.05)
        (raylet,) = (one for one in psutil.Process(child.pid).children() if one.name() == "raylet")
        raylet.kill()
        _, said = child.communicate(timeout=600)
    finally:
        child.kill()
    assert (child.returncode, "the Ray node of this command has died" in said) == (3, True)
    _wait_for_the_end_of_all_that_it_started(child)
    (record,) = run_suite(load_suite(path), runs=runs, ray=cluster.address).records
    assert record.status == "ok"


def _wait_for_the_end_of_all_that_it_started(child):
    end = time.monotonic() + 120
    while left := [pid for pid in psutil.pids() if _session(pid) == child.pid]:
        assert time.monotonic() < end, f"{left} outlive the command that began them"
        time.sleep(0.1)


def _session(pid):
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


@needs_ray
def test_an_address_at_which_no_cluster_is_ends_the_command_before_any_work(tmp_path, capfd):
    path = write_project(tmp_path / "project")
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # nobody listens there
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        assert cli.main(["run", str(path), "--runs", str(tmp_path / "runs"), "--ray", address]) == 2
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1 and f"cannot use a Ray cluster at '{address}'" in said[0]
    assert cli.main(["run", str(path), "--runs", str(tmp_path / "runs"), "--ray", "nonsense"]) == 2
    assert "cannot use a Ray cluster at 'nonsense'" in capfd.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_without_ray_the_command_says_how_to_get_it(tmp_path, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    path = write_project(tmp_path / "project")
    assert cli.main(["run", str(path), "--runs", str(tmp_path / "runs"), "--ray", "local"]) == 2
    assert capfd.readouterr().err == "lora-bench: --ray needs Ray: pip install 'lora_bench[ray]'\n"
    assert cli.main(["run", str(path), "--ray", "local", "--workers", "0"]) == 2
    assert "leave one of them out" in capfd.readouterr().err


def test_an_actor_has_its_resources_on_one_node():
    assert places([{"CPU": 3.0}, {"CPU": 3.0}], {"CPU": 2}) == 2
    assert places([{"CPU": 16.0, "GPU": 8.0}, {"CPU": 4.0, "GPU": 8.0}, {"CPU": 64.0}], {"CPU": 2, "GPU": 1}) == 10


def test_a_node_that_does_not_see_the_runs_folder_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(actor, "SEEN_SECONDS", 0.0)
    assert actor._fault(__version__, {str(tmp_path): "runs"}) is None
    assert "does not see the content of runs:" in actor._fault(__version__, {str(tmp_path / "witness"): "runs"})
    assert (
        actor._fault("0.0.1", {})
        == f"a node has lora_bench {__version__}, and this command has 0.0.1; install the same version on all nodes"
    )
