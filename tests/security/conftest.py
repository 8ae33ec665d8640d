"""What the tests of several kinds of hostile files share."""

import pytest

from tests.project import SUITE, write_project


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The working folder: a suite of one method with its table and model, and a cache of its own."""
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    write_project(tmp_path, SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[lora]"))
    return tmp_path
