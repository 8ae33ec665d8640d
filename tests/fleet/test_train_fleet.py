"""`lora-bench fleet`: an adapter for each value of a column, judged against a shared one and linear probes."""

import csv
import math
import os
import random
import signal
from pathlib import Path

import pytest
from scipy.stats import binomtest, t

from lora_bench.cli import main
from lora_bench.execute.options import RunOptions
from lora_bench.execute.run_suite import Silent
from lora_bench.fleet.find_groups import find_groups
from lora_bench.fleet.fleet_report import answer
from lora_bench.fleet.judge_fleet import RIVALS, FleetResult, GroupResult, OwnLess
from lora_bench.fleet.serve_fleet import serve_fleet
from lora_bench.fleet.train_fleet import FleetPlan, train_fleet
from lora_bench.kinds.support.table_view import LookOptions
from lora_bench.records.store import read_records
from lora_bench.suite.load_suite import load_suite
from lora_bench.tasks.look import look
from lora_bench.tuners import mix_adapters
from tests.project import BAD, GOOD, WORDS, write_model

ROOT = Path(__file__).parents[2]
COMMAND = [
    "fleet",
    "tickets.csv",
    "--by",
    "customer",
    "--label",
    "queue",
    "--model",
    "base",
    "--workers",
    "0",
    "--quiet",
]


def write_table(path: Path, *, own_words: bool, groups: int = 4, rows: int = 130) -> None:
    """Rows of groups; with *own_words* what is good to one half of the groups is bad to the other."""
    draw = random.Random(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["subject", "queue", "customer"])
        for group in range(groups):
            for _ in range(rows):
                good = draw.random() < 0.5
                turned = own_words and group % 2 == 1
                words = draw.choices(WORDS, k=draw.randint(3, 7))
                words.insert(draw.randrange(len(words)), draw.choice(GOOD if good != turned else BAD))
                writer.writerow([" ".join(words), "praise" if good else "complaint", f"Customer {group} & Co."])


def rows_of(path: str) -> list[dict[str, str]]:
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def result_of(rows: list[dict[str, str]]) -> FleetResult:
    """The groups of a table as the page judges them, their p-values corrected by Holm's procedure as its paper writes it."""
    claims = [(row["group"], rival) for row in rows for rival in RIVALS]
    p_values = {(row["group"], rival): float(row[f"p_{rival}"]) for row in rows for rival in RIVALS}
    adjusted, most = {}, 0.0
    for place, claim in enumerate(sorted(claims, key=p_values.__getitem__)):
        adjusted[claim] = most = min(1.0, max(most, (len(claims) - place) * p_values[claim]))
    return FleetResult(
        "group",
        [
            GroupResult(
                row["group"],
                row["task"],
                int(row["train_rows"]),
                int(row["test_rows"]),
                {},
                {
                    rival: OwnLess(float(row[f"less_{rival}"]), 0, 0, 0.0, adjusted[row["group"], rival])
                    for rival in RIVALS
                },
                {},
            )
            for row in rows
        ],
    )


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a tiny model, as the working folder, and one rate to try in a sample of two groups."""
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("lora_bench.fleet.train_fleet.RATES", {"lora": [1e-2], "linear_probe": [1e-2]})
    monkeypatch.setattr("lora_bench.fleet.train_fleet.SAMPLE", 2)
    folder = tmp_path / "project"
    folder.mkdir()
    write_model(folder / "base")
    monkeypatch.chdir(folder)
    return folder


def confused(model):
    """A model whose batches give each row the adapter of another row."""
    forward = mix_adapters(model).forward

    def turned(*args, adapter_names=None, **kwargs):
        return forward(*args, adapter_names=adapter_names and adapter_names[::-1], **kwargs)

    model.forward = turned
    return model


@pytest.mark.slow
def test_own_adapters_beat_a_shared_one_where_a_word_means_another_thing_to_each_group(project, capsys, monkeypatch):
    write_table(project / "tickets.csv", own_words=True)
    assert main([*COMMAND, "--examples", "1280"]) == 0
    said = capsys.readouterr().out
    assert "4 values of customer get an adapter each" in said and "Give each of the 4 its own adapter: +" in said
    found = rows_of("runs/tickets-fleet/fleet.csv")
    assert [row["group"] for row in found] == [f"Customer {number} & Co." for number in range(4)]
    for row in found:
        gained, lost, tests = (int(row[key]) for key in ("gained_on_shared", "lost_to_shared", "test_rows"))
        assert float(row["own"]) - float(row["shared"]) == pytest.approx((gained - lost) / tests)
        assert float(row["less_shared"]) == pytest.approx((gained - lost) / tests)
        assert row["against_shared"] == ("better" if float(row["adjusted_p_shared"]) <= 0.05 else "inconclusive")
    assert sum(row["against_shared"] == "better" for row in found) >= 2
    # The score of a run is that of its record, and its weights are there.
    records = {record.run_id: record for record in read_records(project / "runs" / "tickets-fleet")}
    for row in found:
        assert records[row["run_own"]].score == pytest.approx(float(row["own"]))
        assert (project / "runs" / "tickets-fleet" / row["run_own"] / "weights" / "adapter_model.safetensors").is_file()
    page = Path("runs/tickets-fleet/fleet.md").read_text(encoding="utf-8")
    assert (
        f"**{answer(result_of(found))}**" in page
        and "Customer 3 &amp; Co." in page
        and "lora-bench fleet tickets.csv --label queue --by customer" in page
    )
    # All answer together in mixed batches as each does alone; batches that confuse adapters are seen.
    tests = sum(int(row["test_rows"]) for row in found)
    assert f"The 4 adapters, up to 64 at a time on one base model, answered the {tests} test rows" in page
    assert "every answer is that of the adapter alone" in page
    suite, folder = load_suite("tickets-fleet.yaml"), project / "runs" / "tickets-fleet"
    served = serve_fleet(suite, read_records(folder), folder)
    assert (served.adapters, served.rows, served.others) == (4, tests, 0) and served.difference < 1e-5
    with monkeypatch.context() as patch:
        patch.setattr("lora_bench.fleet.serve_fleet.mix_adapters", confused)
        assert serve_fleet(suite, read_records(folder), folder).others > 0
    # Each can be scored on the rows of another, by its own name.
    rows = "rows: {customer: ['Customer 0 & Co.']}"
    split = "split: {train: 0.6, selection: 0.1, test: 0.3}"
    keys = f"task: other\ndata: tickets.csv\ntext: subject\nlabel: queue\n{rows}\n{split}\n"
    Path("other.yaml").write_text(keys, encoding="utf-8")
    assert main(["score", "runs/tickets-fleet", "--task", "other.yaml", "--out", "scores.csv", "--quiet"]) == 0
    answered = rows_of("scores.csv")
    names = {row["method"] for row in answered}
    assert len(names) == 8 and "lora of tickets-Customer-3-Co" in names
    own = [float(row["accuracy"]) for row in answered if row["method"] == "lora of tickets-Customer-0-Co"]
    assert sum(own) / len(own) == pytest.approx(float(found[0]["own"]))
    # The same command again trains nothing, and says the same.
    before = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("record.json")}
    assert main([*COMMAND, "--examples", "1280"]) == 0
    assert {path: path.stat().st_mtime_ns for path in Path("runs").rglob("record.json")} == before
    assert Path("runs/tickets-fleet/fleet.md").read_text(encoding="utf-8") == page


@pytest.mark.slow
def test_nothing_is_shown_for_groups_that_are_the_same(project):
    write_table(project / "tickets.csv", own_words=False, rows=70)
    assert main([*COMMAND, "--examples", "160"]) == 0
    found = rows_of("runs/tickets-fleet/fleet.csv")
    assert {row["against_shared"] for row in found} <= {"inconclusive", "worse"}
    assert "**Give each" not in Path("runs/tickets-fleet/fleet.md").read_text(encoding="utf-8")


class Stopping(Silent):
    """A display that stops the work after a number of runs."""

    def __init__(self, runs: int) -> None:
        self.runs = runs

    def finished(self, record):
        self.runs -= 1
        if self.runs == 0:
            os.kill(os.getpid(), signal.SIGINT)


def test_a_stopped_fleet_goes_on_where_it_was(project, capsys, monkeypatch):
    write_table(project / "tickets.csv", own_words=True, rows=60)
    seen = look(Path("tickets.csv"), LookOptions(label="queue", by="customer"))
    fleet = FleetPlan(seen, find_groups(seen, "customer", Path()), "base", 160)
    with pytest.raises(KeyboardInterrupt):
        train_fleet(fleet, RunOptions(workers=0, pack=False), Stopping(8), {})
    (stopped,) = [path.name for path in Path("runs").iterdir() if path.name == "tickets-fleet"]
    kept = {record.run_id for record in read_records(Path("runs", stopped))}
    assert 0 < len(kept) < 8
    assert not list(Path("runs").rglob("fleet.csv"))
    assert main([*COMMAND, "--examples", "160", "--no-pack"]) == 0
    records = read_records(Path("runs", stopped))
    assert len(records) == 8 and kept <= {record.run_id for record in records}
    assert all(record.attempts == 1 for record in records if record.run_id in kept)


@pytest.mark.parametrize(
    ("rows", "words", "said"),
    [
        (None, ["--by", "custmer"], "unknown column of tickets.csv 'custmer'; did you mean 'customer'?"),
        (None, ["--by", "queue"], "queue is the column of the label: name another"),
        (["a", "b", "c"], [], "3 values of customer in tickets.csv have rows enough, and a fleet has 4 or more"),
        (["a", "b", "c", "d", "D "], [], "column customer has 'd' and 'D ': write them alike if they are one"),
        ([str(number) for number in range(1001)], [], "has 1,001 values, and a fleet has at most 1,000"),
    ],
)
def test_a_table_that_is_no_fleet_is_refused_in_a_line(project, capsys, rows, words, said):
    names = rows or ["a", "b", "c", "d"]
    each = 60 if len(names) < 10 else 1
    with (project / "tickets.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["subject", "queue", "customer"])
        for at, name in enumerate(names):
            writer.writerows(
                (f"the film of {name.strip()} number {row} was fine", ["praise", "complaint"][(at + row) % 2], name)
                for row in range(each)
            )
    command = ["fleet", "tickets.csv", "--text", "subject", "--label", "queue", *(words or ["--by", "customer"])]
    assert main([*command, "--dry-run"]) == 2
    assert said in capsys.readouterr().err
    assert not list(project.glob("*.yaml"))


def test_groups_that_get_no_adapter_are_named(project, capsys):
    write_table(project / "tickets.csv", own_words=False, rows=60)
    with (project / "tickets.csv").open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows((f"the plot of scene {row}", "praise", "one class") for row in range(60))
        writer.writerows((f"a story of music {row}", ["praise", "complaint"][row % 2], "few rows") for row in range(12))
        writer.writerows((f"an actor of the end {row}", ["praise", "complaint"][row % 2], "") for row in range(3))
    assert main([*COMMAND[:-3], "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "4 values of customer get an adapter each" in said and "3 rows have no customer and are left out" in said
    assert "left out: one class, whose" in said and "training rows all have the label praise" in said
    assert "left out: few rows, w" in said
    assert main(["plan", "tickets-rates.yaml"]) == 0


def test_a_group_without_test_rows_in_the_column_of_the_splits_is_left_out(project):
    with (project / "tickets.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["subject", "queue", "customer", "part"])
        for at in range(5):
            parts = ["train"] * 40 + ["dev"] * 10 + (["test"] if at else ["train"]) * 20
            writer.writerows(
                (f"the film {at} {row}", ["praise", "complaint"][row % 2], f"c{at}", part)
                for row, part in enumerate(parts)
            )
    seen = look(Path("tickets.csv"), LookOptions(text="subject", label="queue", split="part", by="customer"))
    groups = find_groups(seen, "customer", Path())
    assert groups.train == {f"c{at}": 40 for at in range(1, 5)}
    assert groups.left_out == {"c0": "which has no row of test in the column of the splits"}


def result(train: int, difference: float) -> GroupResult:
    compared = OwnLess(difference, gained=0, lost=0, p_value=1.0)
    return GroupResult(str(train), str(train), train, 30, {}, {"shared": compared, "probe": compared}, {})


def test_own_adapters_begin_to_be_better_where_all_further_ranges_show_it():
    # 40 groups with 10, 20, …, 400 training rows: worse by 10 points up to 160 rows, and better by 10 from 170 on.
    groups = [result(10 * n, (0.1 if n > 16 else -0.1) + 0.01 * (-1) ** n) for n in range(1, 41)]
    fleet = FleetResult("customer", groups)
    ranges = fleet.ranges("shared")
    assert [(one.least, one.most, one.groups) for one in ranges] == [
        (10, 80, 8), (90, 160, 8), (170, 240, 8), (250, 320, 8), (330, 400, 8)
    ]  # fmt: skip
    assert [round(one.mean, 3) for one in ranges] == [-0.1, -0.1, 0.1, 0.1, 0.1]
    assert fleet.begins("shared") == (160, 170)
    small = FleetResult("customer", groups[:16])
    assert small.begins("shared") is None
    assert answer(small).endswith(
        "With 10 to 40, 50 to 80, 90 to 120 and 130 to 160 training rows its own is shown to be worse than the shared adapter, "
        "and with no number to be better."
    )


def test_the_committed_page_says_what_its_table_gives():
    rows = rows_of(str(ROOT / "reports" / "novel-filters" / "fleet.csv"))
    assert len(rows) >= 256
    for row in rows:
        for rival in RIVALS:
            gained, lost = int(row[f"gained_on_{rival}"]), int(row[f"lost_to_{rival}"])
            expected = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
            assert float(row[f"p_{rival}"]) == pytest.approx(expected)
            assert float(row[f"less_{rival}"]) == pytest.approx((gained - lost) / int(row["test_rows"]))
    assert f"**{answer(result_of(rows))}**" in (ROOT / "reports" / "novel-filters.md").read_text(encoding="utf-8")
    # Volumes of one author are alike: the same mean, with the author as the unit that is drawn.
    less = [-100 * float(row["less_shared"]) for row in rows]
    mean, sums = sum(less) / len(less), dict.fromkeys((row["group"].split("_")[0] for row in rows), 0.0)
    for row, one in zip(rows, less, strict=True):
        sums[row["group"].split("_")[0]] += one - mean
    authors = len(sums)
    error = math.sqrt(sum(one**2 for one in sums.values()) * authors / (authors - 1)) / len(rows)
    half = t.ppf(0.975, authors - 1) * error
    said = f"{mean:.1f} points better\n(0.3 to 3.0) than an adapter for each"
    page = (ROOT / "docs" / "how-to" / "many-adapters.md").read_text(encoding="utf-8")
    assert said in page and f"the {authors} authors as the unit −{half - mean:.1f} to {mean + half:.1f}." in page
