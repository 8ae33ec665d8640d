"""What every test shares: one thread, and a cache folder that persists between tests of real assets."""

import pytest


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    import torch

    torch.set_num_threads(1)
