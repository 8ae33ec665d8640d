"""What an environment says of the driver of its device, and how two environments differ."""

import pytest

from lora_bench.records.environment import driver_version


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n", "535.104.05"),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build  (dvs-builder@U16)\n"
            "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n",
            "550.54.15",
        ),
        ("GCC version:  gcc version 12.2.0\n", None),
    ],
)
def test_the_driver_is_read_from_where_it_says_its_version(tmp_path, said, version):
    (tmp_path / "version").write_text(said)
    assert driver_version(tmp_path / "version") == version


def test_a_machine_without_a_driver_has_no_version(tmp_path):
    assert driver_version(tmp_path / "version") is None
