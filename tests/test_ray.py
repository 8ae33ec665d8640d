"""Runs on a Ray cluster of several nodes on this machine, one of which is killed in the middle."""

import pytest

from lora_bench import loop
from lora_bench.errors import LoraBenchError
from lora_bench.execute import Silent, run_suite
from lora_bench.suite import load_suite
from tests.project import SUITE, write_project

ray = pytest.importorskip("ray", reason="Ray is an extra: tox -e ray")

LONG = SUITE.replace("seeds: [0]", "seeds: [0, 1]").replace("train_examples: 48", "train_examples: 1_600")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    loop.request_stop(None)


@pytest.fixture
def cluster():
    from ray.cluster_utils import Cluster

    # The head does no work, so that any node that does may be lost.
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    try:
        yield cluster, nodes
    finally:
        ray.shutdown()
        cluster.shutdown()


class Watching(Silent):
    """What was told, and something to do at the first step that is told of."""

    def __init__(self, do=lambda: None):
        self.do, self.began, self.records, self.workers = do, [], [], None

    def planned(self, plan, cells, workers):
        self.workers = workers

    def event(self, event):
        if event.step == 0:
            self.began.append(event.run_id)
        elif self.do is not None:
            do, self.do = self.do, None
            do()

    def finished(self, record):
        self.records.append(record.run_id)


def test_a_node_that_is_killed_costs_no_run_and_no_run_is_done_twice(tmp_path, cluster):
    cluster, nodes = cluster
    path = write_project(tmp_path / "project", LONG)
    shown = Watching(lambda: cluster.remove_node(nodes[1], allow_graceful=False))
    outcome = run_suite(load_suite(path), runs=tmp_path / "runs", ray=cluster.address, display=shown)
    assert shown.workers == 2 and shown.do is None
    records = {record.run_id: record for record in outcome.records}
    assert [record.status for record in records.values()] == ["ok"] * 8
    assert sorted(shown.records) == sorted(records), "every record is told of once"
    # What the lost node was at began once more, and nothing else did.
    again = [run_id for run_id in records if shown.began.count(run_id) > 1]
    assert len(shown.began) - len(again) == 8 and len(again) <= 1
    alone = run_suite(load_suite(path), runs=tmp_path / "alone", workers=0)
    assert {record.run_id: record.scores for record in alone.records} == {
        run_id: record.scores for run_id, record in records.items()
    }


def test_a_stop_leaves_checkpoints_and_the_same_command_goes_on(tmp_path, cluster):
    import os
    import signal

    cluster, _ = cluster
    path = write_project(tmp_path / "project", LONG)
    shown = Watching(lambda: os.kill(os.getpid(), signal.SIGINT))
    stopped = run_suite(load_suite(path), runs=tmp_path / "runs", ray=cluster.address, display=shown)
    assert stopped.interrupted == "SIGINT" and 0 < stopped.undone < 9
    outcome = run_suite(load_suite(path), runs=tmp_path / "runs", ray=cluster.address)
    assert [record.status for record in outcome.records] == ["ok"] * 8
    assert any(record.resumed for record in outcome.records)


def test_a_cluster_that_does_not_answer_is_said(tmp_path):
    path = write_project(tmp_path / "project")
    with pytest.raises(LoraBenchError, match=r"no Ray cluster answers at '127\.0\.0\.1:1'"):
        run_suite(load_suite(path), runs=tmp_path / "runs", ray="127.0.0.1:1")
