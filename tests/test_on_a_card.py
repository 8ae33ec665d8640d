"""The command for a card does what is missing, stops in time and says how it went; tried with small real processes."""

import os
import subprocess
import sys

import psutil
import pytest

from benchmarks import on_a_card
from benchmarks.on_a_card import Folder, Part, do_all, page, parts

CARD = "Some card"
COUNTS = "from pathlib import Path; file = Path(r'{file}'); file.write_text(file.read_text() + 'x' if file.exists() else 'x')"


def counting(tmp_path, name, then="", **given):
    """A part that leaves a letter in a file each time that it is done."""
    return Part(name, ("-c", f"{COUNTS.format(file=tmp_path / (name + '.count'))}\n{then}"), **given)


def times_done(tmp_path, name):
    file = tmp_path / f"{name}.count"
    return len(file.read_text()) if file.exists() else 0


def outcomes(folder, wanted):
    return {part.name: outcome.code for part in wanted if (outcome := folder.outcome(part)) is not None}


def test_without_a_card_it_says_so_and_ends_as_after_bad_input(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.on_a_card", "--out", str(tmp_path / "card")], cwd=on_a_card.ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "no CUDA device: torch finds none here, and all that this command does needs one\n"
    assert not (tmp_path / "card").exists()


def test_what_is_done_is_not_done_again_and_what_failed_only_by_request(tmp_path, capsys):
    folder = Folder(tmp_path / "card")
    wanted = [
        counting(tmp_path, "good", "print('| a |')"),
        counting(tmp_path, "bad", "import sys; sys.exit('broken by hand')"),
        counting(tmp_path, "last"),
    ]
    assert do_all(wanted, folder, CARD, 1) == 3
    assert outcomes(folder, wanted) == {"good": 0, "bad": 1, "last": 0}
    assert do_all(wanted, folder, CARD, 1) == 3
    assert [times_done(tmp_path, part.name) for part in wanted] == [1, 1, 1]
    assert "bad: failed: exit code 1 before" in capsys.readouterr().out
    assert do_all(wanted, folder, CARD, 1, retry=True) == 3
    assert [times_done(tmp_path, part.name) for part in wanted] == [1, 2, 1]
    text = (folder.path / "card.md").read_text(encoding="utf-8")
    assert text.startswith(f"# What {CARD} shows\n\n{CARD}, driver ")
    assert "| good | done |" in text and "| bad | failed: exit code 1 |" in text
    assert "\n| a |\n" in text and "broken by hand" in text


def test_all_well_ends_with_0(tmp_path):
    assert do_all([counting(tmp_path, "good")], Folder(tmp_path / "card"), CARD, 1) == 0


@pytest.mark.slow
def test_a_part_is_stopped_at_its_time_with_all_that_it_started_and_the_others_are_done(tmp_path):
    folder, child = Folder(tmp_path / "card"), tmp_path / "child"
    sleeps = f"""
import subprocess, sys, time
one = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open({str(child)!r}, "w").write(str(one.pid))
time.sleep(600)
"""
    wanted = [counting(tmp_path, "long", sleeps, minutes=10 / 60), counting(tmp_path, "short")]
    assert do_all(wanted, folder, CARD, 1) == 3
    assert outcomes(folder, wanted) == {"long": None, "short": 0}
    assert not is_running(int(child.read_text()))
    assert "| long | stopped; the same command goes on |" in (folder.path / "card.md").read_text(encoding="utf-8")
    # The same command goes on with what was stopped, and leaves what is done.
    do_all(wanted, folder, CARD, 1)
    assert [times_done(tmp_path, part.name) for part in wanted] == [2, 1]


def is_running(process):
    return psutil.pid_exists(process) and psutil.Process(process).status() != psutil.STATUS_ZOMBIE


def test_no_part_begins_after_the_time(tmp_path, capsys):
    folder = Folder(tmp_path / "card")
    wanted = [counting(tmp_path, "good")]
    assert do_all(wanted, folder, CARD, 0) == 3
    assert times_done(tmp_path, "good") == 0
    assert "not all is done: give the same command again" in capsys.readouterr().out
    assert "| good | missing |" in (folder.path / "card.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_signal_stops_the_part_and_leaves_a_page(tmp_path):
    script = f"""
import sys
from pathlib import Path
from benchmarks.on_a_card import Folder, Part, do_all
wait = "import os, signal, time; os.kill(os.getppid(), signal.SIGTERM); time.sleep(600)"
sys.exit(do_all([Part("waits", ("-c", wait))], Folder(Path({str(tmp_path / "card")!r})), {CARD!r}, 5))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=on_a_card.ROOT, timeout=600, check=False)
    assert done.returncode == 143
    assert "| waits | stopped; the same command goes on |" in (tmp_path / "card" / "card.md").read_text(
        encoding="utf-8"
    )


def test_a_folder_is_of_one_card(tmp_path, capsys):
    folder = Folder(tmp_path / "card")
    wanted = [counting(tmp_path, "good")]
    assert do_all(wanted, folder, CARD, 1) == 0
    assert do_all(wanted, folder, "Another", 1) == 2
    assert "has results of Some card, and this card is Another: give another --out" in capsys.readouterr().err


def test_another_command_of_a_part_counts_as_another(tmp_path):
    folder = Folder(tmp_path / "card")
    first, more = (Part("probes", ("-c", f"print({number})")) for number in (2, 5))
    do_all([first], folder, CARD, 1)
    assert folder.outcome(more) is None
    assert do_all([more], folder, CARD, 1) == 0 and "print(5)" in page([more], folder, CARD)


def test_a_page_shows_no_folder_of_the_machine(tmp_path):
    folder = Folder(tmp_path / "card")
    wanted = [Part("lost", ("-c", f"import sys; sys.exit({str(on_a_card.ROOT / 'benchmarks')!r})"))]
    do_all(wanted, folder, CARD, 1)
    text = (folder.path / "card.md").read_text(encoding="utf-8")
    assert str(on_a_card.ROOT) not in text and "./benchmarks" in text


def test_the_probes_come_last_and_get_at_least_twelve_minutes(tmp_path):
    *others, probes = parts(tmp_path, 2)
    assert probes.name == "probes"
    assert on_a_card.MINUTES - 1 - sum(part.minutes for part in others) >= 12


@pytest.mark.slow
@pytest.mark.parametrize("part", [part for part in parts(on_a_card.Path("card"), 2) if part.name != "tests"])
def test_the_commands_know_their_options(part):
    module, *given = part.command[1:]
    words = [given[0]] if module == "lora_bench.cli" else []
    done = subprocess.run(
        [sys.executable, "-m", module, *words, "--help"], cwd=on_a_card.ROOT, capture_output=True, text=True, check=True
    )
    assert all(word in done.stdout for word in given if word.startswith("--"))
