"""What every test shares: one thread, a cache folder that persists between tests of real assets, and quick collections."""

import gc
import os

import pytest

pytest_plugins = ["tests.shards"]

# Read by torch where a test loads it; tests of reports, statistics and gates need none, and start without.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory):
    """A cache folder of all tests and their processes: what is in it is found by its content, so that a count is made once."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"


@pytest.fixture(autouse=True)
def _libraries_are_no_garbage():
    """A run collects garbage twice; searching all that libraries and other tests made takes longer than a tiny run."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="module")
def _a_file_leaves_no_garbage():
    yield
    gc.collect()
