"""At every place where a process can be cut off it is, and the same command goes on to what an undisturbed run leaves."""

import ast
import json
import os
from collections import Counter
from pathlib import Path

import pytest

from lora_bench.util.failpoints import reach
from tests.faults import failpoints
from tests.faults.failpoints import SITES, listen, parse
from tests.faults.store import content_of, half_written

PACKAGE = Path(__file__).parents[2] / "lora_bench"
ACTIONS = ("kill", "term", "int", "raise:OSError:28")
# Sites that only a worker, its server, or whoever started these gets to.
FORKED = ("workers", "server", "worker")
EVERYTHING = "LORA_BENCH_EVERY_FAILPOINT"
# One site for each action, in the default command; the others are slow.
DEFAULT = ("worker.job", "run.step", "run.forward", "run.publish")

RUN = ("run", "tickets.yaml", "--workers")


def workers_of(site: str) -> str:
    return "1" if site.split(".")[0] in FORKED else "0"


def expected_code(site: str, action: str) -> int:
    """The exit code of a command in which *action* is done at *site* whenever a process gets there."""
    part = site.split(".")[0]
    if site == "server.bury":
        return 0  # all runs are done, and the last workers are at their end
    if part == "server":
        return 0 if action in ("term", "int") else 3  # it leaves signals to whoever started it
    if part == "worker":
        # Before it has reported it does not listen; later it leaves the run for another time.
        return 0 if site == "worker.begin" and action in ("term", "int") else 3
    return {"kill": -9, "term": 143, "int": 130, "raise:OSError:28": 3}[action]


def cases():
    """Every site with every action, or, in the ordinary tests, with one of them in turn."""
    for index, site in enumerate(SITES):
        for number, action in enumerate(ACTIONS):
            if os.environ.get(EVERYTHING) or number == index % len(ACTIONS):
                marks = () if site in DEFAULT else pytest.mark.slow
                yield pytest.param(site, action, id=f"{site}-{action.partition(':')[0]}", marks=marks)


def records_in(project: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in project.glob("runs/tickets/*/record.json")}


@pytest.mark.parametrize(("site", "action"), cases())
def test_cut_off_anywhere_the_same_command_completes(forge, project, undisturbed, site, action):
    command = forge.start(project, *RUN, workers_of(site), failpoint=f"{site}:{action}")
    code = command.wait()
    assert code == expected_code(site, action), command.output
    assert "Traceback" not in command.output
    if code in (130, 143):
        assert "run the same command again to continue" in command.output
    if code == 3 and action.startswith("raise") and site.split(".")[0] not in ("server", "worker"):
        assert "the disk is full; make room, then run the same command again to continue" in command.output
    assert not forge.left_behind(), command.output
    before = records_in(project)
    for content in before.values():
        assert json.loads(content)["status"] in ("ok", "failed")

    again = forge.start(project, *RUN, workers_of(site))
    assert again.wait() == 0, again.output
    assert content_of(project) == undisturbed
    assert not half_written(project)
    assert not forge.left_behind()
    # What was there stays as it was, unless it says that somebody ended the run.
    for path, content in before.items():
        assert path.read_bytes() == content or json.loads(content)["status"] == "failed"


@pytest.mark.slow
def test_an_undisturbed_run_gets_to_every_site(forge, project):
    """With a worker of its own to every site; each says so by what the failpoint does there, which is nothing."""
    reached = set()
    for number, workers in enumerate(("0", "1")):
        log = project / f"reached{number}"
        command = forge.start(
            project, *RUN, workers, "--runs", f"runs{number}", hook="tests.faults.hooks:note_sites", REACHED=str(log)
        )
        assert command.wait() == 0, command.output
        reached |= set(log.read_text().split())
    assert reached == set(SITES)


def calls_of_reach() -> dict[str, list[str]]:
    """The sites in the code, with the files that they are in."""
    found: dict[str, list[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "reach":
                site = node.args[0]
                assert isinstance(site, ast.Constant), f"{path.name} names a failpoint by more than a text"
                found.setdefault(site.value, []).append(path.name)
    return found


def test_the_table_of_sites_is_the_code_s():
    assert set(calls_of_reach()) == set(SITES)


def test_a_site_without_a_hook_costs_next_to_nothing():
    from timeit import timeit

    assert timeit(lambda: reach("run.step"), number=10_000) / 10_000 < 20e-6


@pytest.mark.parametrize(
    "text", ["run.stepp:kill", "run.step", "run.step:explode", "run.step:kill@x", "run.step:raise:Oops"]
)
def test_a_failpoint_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match=r"failpoint|LORA_BENCH_FAILPOINT"):
        parse(text)


def test_the_number_says_which_time_it_is_reached(monkeypatch):
    monkeypatch.setattr(failpoints, "_reached", Counter())
    monkeypatch.setenv(failpoints.VARIABLE, "run.step:raise:MemoryError@3")
    listen("lora_bench.run.step", ())
    listen("lora_bench.run.data", ())
    listen("lora_bench.run.step", ())
    with pytest.raises(MemoryError):
        listen("lora_bench.run.step", ())
    listen("lora_bench.run.step", ())


def test_one_of_several_processes_does_what_is_to_be_done_once(monkeypatch, tmp_path):
    monkeypatch.setattr(failpoints, "_reached", Counter())
    monkeypatch.setenv(failpoints.VARIABLE, "run.step:raise:OSError:28")
    monkeypatch.setenv(failpoints.ONCE, str(tmp_path / "done"))
    with pytest.raises(OSError, match="No space left"):
        listen("lora_bench.run.step", ())
    listen("lora_bench.run.step", ())
