"""A search whose trials go on from shorter ones comes to the same end wherever its process is killed."""

import shutil

import pytest

from tests.execute.test_going_on import GOES_ON
from tests.faults.store import content_of, half_written
from tests.project import write_project


@pytest.fixture(scope="module")
def goes_on(forge, tmp_path_factory):
    """A project, and what its runs leave when nothing happens to them."""
    folder = tmp_path_factory.mktemp("goes_on")
    write_project(folder / "template", GOES_ON)
    shutil.copytree(folder / "template", folder / "project")
    command = forge.start(folder / "project", "run", "tickets.yaml", "--workers", "0")
    assert command.wait() == 0, command.output
    return folder / "template", content_of(folder / "project")


@pytest.mark.parametrize(
    ("failpoint", "after"),
    [
        # Six short trials of 20 steps, then the first longer one from step 16 on, which is killed in step 24.
        pytest.param("suite.plan:kill@2", 0, marks=pytest.mark.slow),
        ("run.step:kill@128", 0),
        pytest.param("run.step:int@128", 130, marks=pytest.mark.slow),
        pytest.param("run.step:kill@18", 0, marks=pytest.mark.slow),  # in the first trial, after its state was left
        pytest.param("checkpoint.manifest:kill@2", 0, marks=pytest.mark.slow),  # in the middle of a state
        pytest.param("publish.clean:kill@7", 0, marks=pytest.mark.slow),  # when a longer trial is published
    ],
)
def test_a_killed_search_loses_nothing_and_leaves_nothing(forge, goes_on, tmp_path, failpoint, after):
    template, undisturbed = goes_on
    project = shutil.copytree(template, tmp_path / "project")
    argv = ("run", "tickets.yaml", "--workers", "0")
    killed = forge.start(project, *argv, failpoint=failpoint)
    assert killed.wait() == (after or -9), killed.output
    command = forge.start(project, *argv)
    assert command.wait() == 0, command.output
    assert without_seconds(content_of(project)) == without_seconds(undisturbed)
    assert half_written(project) == []
    assert not [*project.glob("runs/tickets/*/handover"), *project.glob("runs/tickets/*/checkpoint")]


def without_seconds(content):
    """The records without the seconds of the steps that two of them share, of which each ran at its own time."""
    for record in content.values():
        if record["went_on"] is not None:
            record["went_on"] = {**record["went_on"], "train_seconds": None}
    return content
