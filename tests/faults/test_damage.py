"""The command line on files that changed on the disk, beside other harnesses, and under a clock that jumps."""

import json
import os
import re
import signal
import time

import pytest

from lora_bench.records.store import read_records
from tests.faults.store import content_of, half_written

RUN = ("run", "tickets.yaml", "--workers")


def done(forge, project, *more, **options):
    command = forge.start(project, *RUN, "0", *more, **options)
    assert command.wait() == 0, command.output
    return command.output


def flip(path):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :])
    return path.read_bytes()


@pytest.mark.parametrize("name", ["record.json", pytest.param("predictions.json", marks=pytest.mark.slow)])
def test_a_file_that_changed_is_named_quarantined_and_made_again(forge, project, undisturbed, name):
    done(forge, project)
    damaged = sorted(project.glob(f"runs/tickets/*/{name}"))[0]
    content = flip(damaged)
    kept = sorted(project.glob(f"runs/tickets/*/{name}"))[1].read_bytes()
    if name == "record.json":
        report = forge.start(project, "report", "runs/tickets")
        assert report.wait() == 2 and f"{damaged.parent.name}/record.json: is no record" in report.output
    output = done(forge, project)
    assert f"warning: runs/tickets/{damaged.parent.name}/{name}" in output.replace("\n", "")
    assert "1 of 2 runs to do, 1 done before" in output
    assert (damaged.parent / "quarantine" / "1" / name).read_bytes() == content
    assert content_of(project) == undisturbed
    assert sorted(project.glob(f"runs/tickets/*/{name}"))[1].read_bytes() == kept
    assert "nothing to do" in done(forge, project)


@pytest.mark.slow
def test_a_checkpoint_that_changed_sends_the_run_to_the_one_before(forge, project, undisturbed):
    killed = forge.start(project, *RUN, "0", failpoint="run.step:kill@3")
    assert killed.wait() == -signal.SIGKILL
    before, newest = sorted(project.glob("runs/tickets/*/checkpoint/step-*"))
    assert [before.name, newest.name] == ["step-00000000", "step-00000001"]
    flip(newest / "weights.safetensors")
    done(forge, project)
    assert (newest.parents[1] / "quarantine" / "1" / newest.name / "weights.safetensors").is_file()
    found = {record.run_id: record for record in read_records(project / "runs" / "tickets")}
    resumed = found.pop(newest.parents[1].name)
    assert resumed.resumed and "step-00000001 was damaged" in resumed.warnings[-1]
    now = content_of(project)
    for contents in (now, undisturbed):
        assert all(contents[run_id]["scores"] == undisturbed[run_id]["scores"] for run_id in undisturbed)
    assert now[resumed.run_id]["predictions"] == undisturbed[resumed.run_id]["predictions"]


@pytest.mark.slow
def test_two_harnesses_share_a_suite_and_each_run_is_done_once(forge, project, undisturbed):
    both = [forge.start(project, *RUN, "1") for _ in range(2)]
    for command in both:
        assert command.wait() == 0, command.output
    records = read_records(project / "runs" / "tickets")
    assert content_of(project) == undisturbed and [record.attempts for record in records] == [1, 1]


@pytest.mark.slow
def test_what_a_killed_harness_was_at_is_taken_over_without_a_hand(forge, project, undisturbed):
    first = forge.start(project, *RUN, "1", failpoint="run.step:hang@2", once=True)
    first.wait_until_reached()
    second = forge.start(project, *RUN, "1")
    second.wait_until_said("waiting for 1 runs of other processes")
    first.send(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    assert second.wait() == 0, second.output
    assert content_of(project) == undisturbed
    assert sorted(record.resumed for record in read_records(project / "runs" / "tickets")) == [False, True]
    assert not half_written(project) and not forge.left_behind()


@pytest.mark.slow
def test_a_harness_that_waits_for_another_stops_when_it_is_asked_to(forge, project):
    first = forge.start(project, *RUN, "1", failpoint="run.step:hang@2", once=True)
    first.wait_until_reached()
    second = forge.start(project, *RUN, "1")
    second.wait_until_said("waiting for 1 runs of other processes")
    second.send(signal.SIGTERM)
    assert second.wait() == 143 and "run the same command again to continue" in second.output.replace("\n", " ")
    first.send(signal.SIGKILL)
    first.wait()
    assert not forge.left_behind()


@pytest.mark.parametrize("seconds", [-3600, pytest.param(86_400, marks=pytest.mark.slow)])
def test_a_clock_that_jumps_changes_no_score_and_makes_no_time_negative(forge, project, undisturbed, seconds):
    done(forge, project, hook="tests.faults.test_damage:jump", JUMP=str(seconds))
    assert content_of(project) == undisturbed
    for record in read_records(project / "runs" / "tickets"):
        speed = record.speed
        assert 0 < speed.train_seconds < 600
        assert 0 <= speed.load_seconds < 600 and 0 <= speed.evaluation_seconds < 600
        assert re.match(r"\d{4}-\d\d-\d\dT", record.started_at)


def jump():
    """The time of day jumps by JUMP seconds, further with each look at it."""
    real, looks = time.time, iter(range(1, 10**9))
    time.time = lambda: real() + float(os.environ["JUMP"]) * next(looks)


@pytest.mark.slow
def test_runs_that_a_later_lora_bench_made_are_left_to_it(forge, project):
    done(forge, project)
    path = sorted(project.glob("runs/tickets/*/record.json"))[0]
    from lora_bench.util.sealed_json import seal, unseal

    content = seal({**unseal(path.read_bytes())[0], "schema": 2})
    path.write_bytes(content)
    command = forge.start(project, *RUN, "0")
    assert command.wait() == 2 and "upgrade it" in command.output
    assert path.read_bytes() == content and json.loads(content)["schema"] == 2


@pytest.mark.slow
def test_a_link_in_the_place_of_the_runs_folder_is_followed_or_said_to_lead_nowhere(forge, project, undisturbed):
    (project / "disk").mkdir()
    (project / "runs").symlink_to("disk", target_is_directory=True)
    done(forge, project)
    assert content_of(project) == undisturbed and list(project.glob("disk/tickets/*/record.json"))
    (project / "runs").unlink()
    (project / "runs").symlink_to("unmounted", target_is_directory=True)
    command = forge.start(project, *RUN, "0")
    assert command.wait() == 2 and "is a link to unmounted, which does not exist" in command.output.replace("\n", " ")
