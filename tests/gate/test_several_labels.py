"""Nights of a suite with several labels a text are judged: an unchanged one passes, and a lost score is a regression."""

import pytest

from lora_bench.cli import main
from lora_bench.gate import read_nights
from tests.execute.test_multilabel import SUITE, write

NIGHTS = 8


@pytest.mark.slow
def test_nights_of_a_multilabel_suite_are_judged(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    suite = SUITE.replace("[0, 1]", "[0, 1, 2]").replace("keep_weights: last\n", "")
    suite = suite.replace("train_examples: 48", "train_examples: 320")
    monkeypatch.chdir(write(tmp_path / "project", suite, "[{method: full, learning_rate: 3e-3}]").parent)

    def night(label):
        assert main(["run", "topics.yaml", "--series", label, "--workers", "0", "--quiet"]) == 0

    def check(label):
        capsys.readouterr()
        status = main(["check", "runs/topics", "--baseline", "gate", "--series", label])
        return status, " ".join(capsys.readouterr().out.split())

    for number in range(1, NIGHTS + 1):
        night(f"n{number}")
        accept = ["baseline", "accept", "runs/topics", "--name", "gate", "--series", f"n{number}", "--reason", "ok"]
        assert main(accept) == 0
    (kept,) = read_nights(tmp_path / "project" / "baselines" / "gate")[-1].cells
    assert kept.name.metric == "multilabel_micro_f1"
    night("same")
    status, said = check("same")
    assert (status, said.startswith("pass: same of topics against 8 accepted nights of gate")) == (0, True), said
    # A threshold that nearly no probability is above: most labels are not answered any more.
    monkeypatch.setattr("lora_bench.kinds.exercises.labelling.best_threshold", lambda *_: 0.99)
    night("broken")
    night("broken-confirm")
    night("broken-confirm-confirm")
    status, said = check("broken")
    assert status == 1 and "regression: broken of topics against 8 accepted nights" in said, said
