"""The command line: arguments in, exit code out, and no traceback for a mistake."""

import errno
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from rich.console import Console

from lora_bench.cli import main
from lora_bench.cli.plan_table import plan_tables
from lora_bench.documents import read_yaml
from lora_bench.errors import LoraBenchError
from lora_bench.plan.make_plan import make_plan
from lora_bench.records.probe_store import ProbeFolder
from lora_bench.records.sealed_records import to_json
from lora_bench.records.store import read_records, write_atomic
from lora_bench.suite.from_table import rates_of
from lora_bench.suite.load_suite import is_probe_suite, load_suite
from lora_bench.util.paths import suite_files
from lora_bench.util.signals import Stopped
from lora_bench.version import __version__
from tests.probe.records import sample_probes
from tests.project import SUITE, write_project
from tests.sample_records import sample_suite

SCHEMAS = Path(__file__).parents[2] / "lora_bench" / "schemas"


@pytest.fixture(autouse=True)
def _own_place(tmp_path, monkeypatch, shared_cache):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(shared_cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)


def test_version_and_help(capsys):
    for option, words in (("--version", __version__), ("--help", "lora-bench try TABLE")):
        with pytest.raises(SystemExit) as done:
            main([option])
        assert done.value.code == 0
        assert words in capsys.readouterr().out


def test_help_loads_nothing_heavy():
    code = "import sys, lora_bench.cli as c\ntry: c.main(['--help'])\nexcept SystemExit: print(*sys.modules)"
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=here, capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "pandas", "numpy", "pydantic", "rich"} & set(done.stdout.split())


def test_every_command_has_help(capsys):
    for command in ("run", "plan", "work", "probe", "report", "list", "schema", "baseline"):
        with pytest.raises(SystemExit) as done:
            main([command, "--help"])
        assert done.value.code == 0 and "usage: lora-bench" in capsys.readouterr().out


def test_a_suite_runs_and_reports_and_runs_again(tmp_path, capsys):
    write_project(tmp_path, SUITE + "training: {max_length: 6}\n")
    assert main(["run", "tickets.yaml", "--workers", "0"]) == 0
    first = capsys.readouterr().out
    assert "4 of 4 runs to do" in first and "report: runs/tickets/report.md" in first
    said = [line for line in first.splitlines() if line.startswith("warning: ")]
    assert said and len(said) == len(set(said))  # once, though four records keep them
    page = (tmp_path / "runs" / "tickets" / "report.md").read_text()
    for method in ("full", "lora", "prefix"):
        assert method in page
    assert str(tmp_path) not in page
    assert main(["run", "tickets.yaml", "--workers", "0"]) == 0
    assert "nothing to do, 4 of 4 runs are done" in capsys.readouterr().out
    assert main(["report", "runs/tickets", "--check"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "quikstart"], "did you mean 'quickstart'"),
        (["run", "absent.yaml"], "absent.yaml: cannot be read"),
        (["plan", "broken.yaml"], "broken.yaml:1: is no valid YAML"),
        (["report", "runs/absent"], "runs/absent does not exist"),
        (["run", "tickets.yaml", "--only", "0123"], "has no run '0123'"),
    ],
)
def test_a_mistake_is_exit_code_2_without_a_traceback_and_nothing_written(tmp_path, capsys, arguments, message):
    write_project(tmp_path)
    (tmp_path / "broken.yaml").write_text("suite: [")
    before = sorted(tmp_path.rglob("*"))
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert [path for path in sorted(tmp_path.rglob("*")) if "cache" not in path.parts] == before


def refuse(error):
    def raise_it(*given, **named):
        raise OSError(error, os.strerror(error))

    return raise_it


@pytest.mark.parametrize("error", [errno.EIO, errno.ESTALE, errno.EACCES])
def test_a_disk_that_fails_before_any_work_is_bad_input_and_in_the_middle_of_it_is_none(
    tmp_path, capsys, monkeypatch, error
):
    write_project(tmp_path)
    said = os.strerror(error)
    for place, code in (("make_plan", 2), ("Scheduler.run", 3)):
        with monkeypatch.context() as broken:
            broken.setattr(f"lora_bench.execute.run_suite.{place}", refuse(error))
            assert main(["run", "tickets.yaml", "--workers", "0"]) == code
        err = capsys.readouterr().err
        assert said in err and ("run the same command again to continue" in err) == (code == 3)


@pytest.mark.parametrize(
    "place", ["execute.run_suite.Scheduler.run", "execute.run_suite._outcome", "cli.commands.write_report"]
)
def test_a_folder_that_is_spoilt_in_the_middle_of_the_work_is_no_bad_input(tmp_path, capsys, monkeypatch, place):
    write_project(tmp_path, SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[lora]"))

    def spoilt(*given, **named):
        raise LoraBenchError("the folder is a link")

    monkeypatch.setattr(f"lora_bench.{place}", spoilt)
    assert main(["run", "tickets.yaml", "--workers", "0"]) == 3
    assert "the folder is a link\nstopped; run the same command again" in capsys.readouterr().err


def test_a_fault_of_our_own_is_no_regression(tmp_path, capsys, monkeypatch):
    write_project(tmp_path)

    def fails(*given, **named):
        raise KeyError(f"hf_{'canary' * 5}")

    monkeypatch.setattr("lora_bench.execute.run_suite.make_plan", fails)
    assert main(["run", "tickets.yaml"]) == 3
    err = capsys.readouterr().err
    assert (
        "Traceback" in err and "KeyError: 'hf_***" not in err and "KeyError: '***'" in err and "please report it" in err
    )


def test_a_report_that_cannot_be_written_is_no_bad_input(tmp_path, capsys, monkeypatch):
    write_project(tmp_path, SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[lora]"))
    monkeypatch.setattr("lora_bench.cli.commands.write_report", refuse(errno.EIO))
    assert main(["run", "tickets.yaml", "--workers", "0"]) == 3
    assert "run the same command again to continue" in capsys.readouterr().err


def test_a_plan_writes_nothing_and_shows_exact_counts(tmp_path, capsys):
    write_project(tmp_path, SUITE.replace("48}", "48, adapter_parameters: 2_304}"))
    assert main(["plan", "tickets.yaml"]) == 0
    shown = capsys.readouterr().out
    assert "2,304" in shown and "2,208" in shown and "4 of 4 runs to do" in shown
    assert not (tmp_path / "runs").exists()


def test_a_plan_shows_every_rate_in_full_on_a_narrow_terminal_too(tmp_path):
    methods = "[{method: full, learning_rate: [1e-4, 3e-4, 1e-3]}, {method: lora, learning_rate: [1.5e-3, 3e-3, 1e-2]}]"
    suite = SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", methods) + "tuning: {seeds: [7]}\n"
    plan = make_plan(load_suite(write_project(tmp_path, suite)), tmp_path / "runs", with_data=True)
    for width in (80, 120):
        paper = Console(file=io.StringIO(), width=width)
        for part in plan_tables(plan, narrow=width < 120):
            paper.print(part, highlight=False)
        said = paper.file.getvalue()
        assert "…" not in said and all(len(line) <= width for line in said.splitlines())
        for rate in ("1e-4", "3e-4", "1e-3", "1.5e-3", "3e-3", "1e-2"):
            assert rate in said


def test_a_run_says_before_it_trains_that_no_rate_is_tuned_and_what_the_test_split_cannot_show(tmp_path, capsys):
    suite = SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[full, lora]")
    write_project(tmp_path, suite)
    assert main(["run", "tickets.yaml", "--workers", "0"]) == 0
    said = capsys.readouterr().out
    before = said[: said.index("runs to do")]
    assert "warning: no learning rate is tuned: each method runs at the one given" in before
    assert "test examples show differences of about" in before
    assert said.count("no learning rate is tuned") == 1
    # The answer of the report, which comes last, says so too.
    assert "No learning rate was tuned in these runs" in said
    assert main(["run", "tickets.yaml", "--workers", "0"]) == 0
    assert "warning: no learning rate" not in capsys.readouterr().out


def test_a_report_that_differs_from_its_records_is_exit_code_1(tmp_path, capsys):
    for record in sample_suite():
        write_atomic(tmp_path / "baselines" / "sample" / record.run_id / "record.json", to_json(record))
    assert main(["report", "baselines", "--out", "reports"]) == 0
    assert main(["report", "baselines", "--out", "reports", "--check"]) == 0
    page = tmp_path / "reports" / "sample.md"
    page.write_text(page.read_text().replace("0.", "0,", 1))
    assert main(["report", "baselines", "--out", "reports", "--check"]) == 1
    assert "sample.md" in capsys.readouterr().out


def test_a_question_of_a_reader_is_on_the_page_and_leaves_the_records_as_they_are(tmp_path, capsys):
    for record in sample_suite():
        write_atomic(tmp_path / "runs" / "sample" / record.run_id / "record.json", to_json(record))
    before = {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*.json")}
    assert main(["report", "runs/sample", "--margin", "0.02", "--alpha", "0.1"]) == 0
    assert "**Asked afterwards:** a reader's margin of 0.02" in (tmp_path / "runs" / "sample" / "report.md").read_text()
    assert {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*.json")} == before
    assert main(["report", "runs/sample", "--margin", "2"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "option, given, said",
    [
        ("--alpha", "5", "must be above 0 and below 0.5, got 5"),
        ("--alpha", "1%", "must be above 0 and below 0.5, got 1%"),
        ("--margin", "0,01", "must be at least 1e-09, got 0,01"),
        ("--margin", "-0.02", "must be at least 1e-09, got -0.02"),
    ],
)
def test_a_margin_or_an_error_level_in_other_words_is_refused_with_its_range(option, given, said, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["report", "runs/sample", option, given])
    assert ended.value.code == 2 and said in capsys.readouterr().err


def test_several_folders_are_one_report_in_which_a_run_counts_once(tmp_path, capsys):
    def place(folder, records):
        for record in records:
            write_atomic(tmp_path / "runs" / folder / record.run_id / "record.json", to_json(record))

    everything = sample_suite()
    place("all", everything)
    place("some", everything[: len(everything) // 2])
    place("others", everything[len(everything) // 3 :])
    assert main(["report", "runs/all", "--out", "one", "--data"]) == 0
    assert main(["report", "runs/some", "runs/others", "--out", "two", "--data"]) == 0
    one, two = (tmp_path / "one" / "all.md").read_text(), (tmp_path / "two" / "report.md").read_text()
    assert one.replace("](all/", "](report/") == two
    assert main(["report", "runs/some", "runs/others", "--out", "two", "--check"]) == 0
    assert main(["report", "runs/some", "runs/others"]) == 2
    assert "give --out FOLDER" in capsys.readouterr().err
    changed = everything[len(everything) // 3]
    place("some", [changed.model_copy(update={"warnings": ("another",)})])
    assert main(["report", "runs/some", "runs/others", "--out", "two"]) == 2
    assert f"two different records have the run id {changed.run_id}" in capsys.readouterr().err


def test_a_watched_page_follows_the_records_and_reloads_itself_until_it_is_stopped(tmp_path, monkeypatch, capsys):
    first, *others = sample_suite()
    runs, pages = tmp_path / "runs" / "sample", []
    runs.mkdir(parents=True)

    def end(record):
        write_atomic(runs / record.run_id / "record.json", to_json(record))

    def look_again(seconds):
        pages.append((runs / "report.html").read_text() if (runs / "report.html").is_file() else None)
        if len(pages) == 1:
            end(first)
        elif len(pages) == 2:
            [end(record) for record in others]
        else:
            raise Stopped("SIGINT")

    monkeypatch.setattr("lora_bench.cli.reading_commands.time.sleep", look_again)
    assert main(["report", "runs/sample", "--watch"]) == 0
    reload = '<meta http-equiv="refresh" content="10">'
    assert pages[0] is None and reload in pages[1] and reload in pages[2] and pages[1] != pages[2]
    assert pages[2].replace(f"{reload}\n", "") == (runs / "report.html").read_text()
    assert main(["report", "runs/sample", "--watch", "--check"]) == 2
    assert "leave one of the two out" in capsys.readouterr().err
    assert main(["report", "runs/smaple", "--watch"]) == 2
    assert "runs/smaple does not exist" in capsys.readouterr().err


def watched(monkeypatch, *steps):
    """Let *steps* happen between the looks of a watch, and then stop it."""
    left = iter(steps)

    def look_again(seconds):
        step = next(left, None)
        if step is None:
            raise Stopped("SIGINT")
        step()

    monkeypatch.setattr("lora_bench.cli.reading_commands.time.sleep", look_again)


def test_a_watch_outlives_what_hinders_a_page_and_says_it_once(tmp_path, monkeypatch, capsys):
    runs, pages = tmp_path / "runs" / "sample", []
    runs.mkdir(parents=True)
    page, store = runs / "report.html", "lora_bench.cli.reading_commands.record_files"

    def end(method):
        for record in sample_suite():
            if record.spec.method.name == method:
                write_atomic(runs / record.run_id / "record.json", to_json(record))

    def gone(folder):
        return [runs / "gone" / "record.json"]

    with monkeypatch.context() as patch:
        patch.setattr(store, gone)
        watched(
            monkeypatch,
            lambda: (patch.undo(), end("full")),
            lambda: pages.append(page.is_file()),
            lambda: end("lora"),
            lambda: pages.append(page.is_file()),
        )
        assert main(["report", "runs/sample", "--watch", "--reference", "lora"]) == 0
    assert pages == [False, True]
    vanished, reference = capsys.readouterr().err.splitlines()
    assert "No such file" in vanished and "lora" in reference


@pytest.mark.parametrize("what", ["probes", "runs.json"])
def test_a_folder_of_probes_and_a_baseline_are_watched_too(tmp_path, monkeypatch, what):
    folder, pages = tmp_path / "runs" / "costs", []
    folder.mkdir(parents=True)

    def end():
        if what == "probes":
            for probe in sample_probes():
                ProbeFolder(folder / "probes").publish(probe)
            return
        for record in sample_suite():
            write_atomic(tmp_path / "all" / record.run_id / "record.json", to_json(record))
        folder.rmdir()
        assert main(["export", "all", "--to", "baseline", "--out", str(folder)]) == 0

    watched(monkeypatch, end, lambda: pages.append((folder / "report.html").is_file()))
    assert main(["report", "runs/costs", "--watch"]) == 0
    assert pages == [True]


def test_runs_become_a_baseline_whose_report_is_the_same(tmp_path, capsys):
    write_project(tmp_path)
    assert main(["run", "tickets.yaml", "--workers", "0", "--quiet"]) == 0
    assert main(["baseline", "accept", "runs/tickets"]) == 0
    kept = tmp_path / "baselines" / "tickets"
    assert sorted(path.name for path in kept.iterdir()) == ["answers.jsonl.xz", "runs.json"]
    assert read_records(kept) == read_records(tmp_path / "runs" / "tickets")
    assert main(["report", "baselines", "--out", "reports"]) == 0
    first, again = tmp_path / "runs" / "tickets" / "report.md", tmp_path / "reports" / "tickets.md"
    assert first.read_text().replace("(report/", "(tickets/") == again.read_text()
    (next((tmp_path / "runs" / "tickets").glob("*/predictions.json"))).write_text("{}")
    assert main(["baseline", "accept", "runs/tickets"]) == 2
    assert "does not match its record" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["methods", "models", "tasks", "suites"])
def test_lists_name_what_can_be_named(what, capsys):
    assert main(["list", what]) == 0
    shown = capsys.readouterr().out
    for name in {
        "methods": ["full", "lora", "bottleneck_adapter", "prefix_tuning"],
        "models": ["minilm-l6-roberta", "minilm-l6-deberta", "gpt2-mini"],
        "tasks": ["movie_reviews"],
        "suites": ["quickstart", "quickstart-search", "smoke"],
    }[what]:
        assert name in shown


def test_the_list_of_methods_has_sizes_and_rates_to_try_and_those_that_try_writes_are_among_them(capsys, monkeypatch):
    monkeypatch.setattr("lora_bench.cli.commands.PLAIN_WIDTH", 300)
    assert main(["list", "methods"]) == 0
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in capsys.readouterr().out.splitlines()]
    said = {row[0]: row[1:] for row in rows if len(row) == 4}
    assert said["lora"][:2] == ["rank 8; 1 to 64", "1e-3; 3e-4 to 3e-3 at scaling 2, 1e-3 to 1e-2 for small models"]
    assert said["bitfit"][:2] == ["–", "1e-3; 1e-4 to 4e-3"]
    what = "QLoRA: LoRA beside frozen weights in 4 bits (`methods: [qlora]`). It needs bitsandbytes, and CUDA or a CPU."
    assert said["qlora"] == ["rank 8; 1 to 64", "1e-3; 1e-4 to 3e-3", what]
    assert said["lora_qv"][:2] == ["targets: query, value, scaling: 1.0", "5e-4"]
    assert "Hu et al. 2021, table 9" in said["lora_qv"][2]
    for method, rates in [*rates_of(large=False).items(), *rates_of(large=True).items()]:
        known = [float(number) for number in re.findall(r"\de-\d", said[method][1])]
        assert all(min(known) <= float(rate) <= max(known) for rate in rates), method


INCOMPLETE = """
from typing import ClassVar

from lora_bench.documents import Strict
from lora_bench.methods import register


@register
class Incomplete(Strict):
    name: ClassVar[str] = "incomplete"
"""


@pytest.mark.slow
def test_a_plug_in_that_lacks_what_a_method_needs_is_named_and_breaks_no_list_and_no_plan(tmp_path):
    """It once broke `list methods` and every plan with a traceback."""
    write_project(tmp_path)
    (tmp_path / "incomplete.py").write_text(INCOMPLETE)
    (tmp_path / "incomplete-1.dist-info").mkdir()
    (tmp_path / "incomplete-1.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: incomplete\nVersion: 1\n"
    )
    (tmp_path / "incomplete-1.dist-info" / "entry_points.txt").write_text("[lora_bench.methods]\nmine = incomplete\n")
    here = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}"}
    for arguments in (["list", "methods"], ["plan", "tickets.yaml"]):
        command = [sys.executable, "-m", "lora_bench.cli", *arguments]
        done = subprocess.run(command, env=here, capture_output=True, text=True)
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
        said = " ".join(done.stdout.split())
        assert "lora" in said and "incomplete │" not in said
        if arguments[0] == "list":
            assert "'Incomplete' is no method: it lacks a size that is None or one of its options (it has none)" in said


@pytest.mark.parametrize("what", ["suite", "probe-suite", "record", "probe", "task", "night", "answer"])
def test_the_schemas_that_ship_are_those_of_the_code(what, capsys):
    assert main(["schema", what]) == 0
    assert (SCHEMAS / f"{what}.schema.json").read_text() == capsys.readouterr().out


@pytest.mark.parametrize("file", sorted(SCHEMAS.glob("*.json")), ids=lambda file: file.stem)
def test_every_key_of_every_schema_is_described(file):
    schema = json.loads(file.read_text())
    parts = {"the file itself": schema, **schema.get("$defs", {})}
    bare = [
        f"{part}.{key}"
        for part, of in parts.items()
        for key, one in of.get("properties", {}).items()
        if not one.get("description")
    ]
    assert not bare, "describe these under `Args:` of their class"
    assert not [part for part, of in parts.items() if "Args:" in of.get("description", "")]


def test_shipped_suites_and_real_records_are_valid_by_their_schema():
    schemas = [json.loads((SCHEMAS / f"{what}.schema.json").read_text()) for what in ("suite", "probe-suite")]
    for file in suite_files().values():
        document = read_yaml(file)
        jsonschema.validate(document.data, schemas[is_probe_suite(document)])
    record_schema = json.loads((SCHEMAS / "record.schema.json").read_text())
    for record in sample_suite():
        jsonschema.validate(json.loads(to_json(record)), record_schema)


def test_no_color_is_respected(tmp_path):
    write_project(tmp_path)
    environment = {**os.environ, "NO_COLOR": "1", "FORCE_COLOR": "", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "lora_bench.cli", "list", "methods"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "\x1b[3" not in done.stdout
