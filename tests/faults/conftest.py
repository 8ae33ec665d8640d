"""What the tests of faults share: a forge, a small project, and what an undisturbed run of it leaves."""

import shutil
import sys

import pytest

from tests.faults.forge import Forge
from tests.faults.store import content_of
from tests.project import SUITE, write_project

TWO = SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[lora, bottleneck_adapter]")


@pytest.fixture(scope="session")
def forge(tmp_path_factory):
    if sys.platform != "linux":
        pytest.skip("processes are looked for as Linux shows them")
    forge = Forge(tmp_path_factory.mktemp("forge"))
    yield forge
    left = forge.left_behind()
    forge.close()
    assert not left, f"these outlived the tests: {left}"


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """A project of two runs of three steps."""
    folder = tmp_path_factory.mktemp("template") / "project"
    write_project(folder, TWO)
    return folder


@pytest.fixture(scope="session")
def undisturbed(forge, template, tmp_path_factory):
    """What the project's runs leave when nothing happens to them, by run id."""
    project = tmp_path_factory.mktemp("undisturbed") / "project"
    shutil.copytree(template, project)
    command = forge.start(project, "run", "tickets.yaml", "--workers", "0")
    assert command.wait() == 0, command.output
    return content_of(project)


@pytest.fixture
def project(template, tmp_path):
    """A project of its own for one test."""
    return shutil.copytree(template, tmp_path / "project")
