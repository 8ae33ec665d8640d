"""reports/methods-pooled.md is what its command makes of the committed records."""

import shlex
from pathlib import Path

from lora_bench.cli import main

ROOT = Path(__file__).parents[2]


def test_the_committed_page_is_made_from_the_committed_records(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    committed = (ROOT / "reports" / "methods-pooled.md").read_text(encoding="utf-8")
    command = committed.split("```sh\n")[1].split("\n```")[0]
    assert main([*shlex.split(command)[1:], "--out", str(tmp_path / "pool.md")]) == 0
    assert (tmp_path / "pool.md").read_text(encoding="utf-8") == committed
