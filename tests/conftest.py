"""What every test shares: one thread, a cache folder that persists between tests of real assets, and quick collections."""

import gc

import pytest


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    import torch

    torch.set_num_threads(1)


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
