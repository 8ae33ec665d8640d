"""An export says what the records say: every number, failures included, and no text that acts."""

import csv
import importlib.util
import io
import itertools
import json
import os
import subprocess
import sys
import types
import typing
from pathlib import Path

import pandas
import pytest
from pydantic import BaseModel

from lora_bench.cli import main
from lora_bench.errors import LoraBenchError
from lora_bench.exchange import data_files, export
from lora_bench.exchange.facts import facts_of
from lora_bench.exchange.table_files import harmless, to_csv
from lora_bench.records.record import CurvePoint, Record
from lora_bench.records.sealed_records import to_json
from lora_bench.report import Report
from lora_bench.report.frames.record_frame import to_curves, to_frame
from tests.probe.records import sample_probes
from tests.sample_records import record, sample_suite

ROOT = Path(__file__).parents[2]


def filled(kind, numbers):
    """A value of a type with everything in it, each number another one; pydantic's checks are passed over."""
    arguments = [part for part in typing.get_args(kind) if part is not type(None)]
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return filled(arguments[0], numbers)
    if origin is typing.Literal:
        return arguments[0]
    if origin is tuple:
        return (filled(arguments[0], numbers),)
    if origin is dict:
        inner = arguments[1]
        return {"key": next(numbers) if "JsonValue" in str(inner) else filled(inner, numbers)}
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        values = {name: filled(field.annotation, numbers) for name, field in kind.model_fields.items()}
        return kind.model_construct(**values)
    return {bool: True, str: "text"}.get(kind) or kind(next(numbers))


def numbers_in(data):
    """Every number of plain data."""
    if isinstance(data, dict | list | tuple):
        return {number for inner in (data.values() if isinstance(data, dict) else data) for number in numbers_in(inner)}
    return {data} if isinstance(data, int | float) and not isinstance(data, bool) else set()


def numbers_of(frame):
    cells = [cell for name in frame.columns for cell in frame[name].dropna().tolist()]
    plain = [json.loads(cell) if isinstance(cell, str) and cell[:1] in "{[" else cell for cell in cells]
    return numbers_in(plain)


def whole_record():
    """A record with every part and no number twice; what enters its id is chosen among its options."""
    whole = filled(Record, itertools.count(1001))
    whole.spec.method.chosen.clear()
    return whole


def test_every_number_of_a_record_is_in_its_row_or_its_curve():
    whole = whole_record()
    inside = numbers_in(whole.model_dump(mode="json"))
    assert len(inside) > 60
    assert inside - numbers_of(to_frame([whole])) - numbers_of(to_curves([whole])) == set()


def test_every_number_of_a_record_is_told_to_a_tracker():
    whole = whole_record()
    facts = facts_of(whole)
    told = {
        *facts.tags.values(),
        *map(str, facts.conditions.values()),
        *(str(value) for value in facts.results.values()),
    }
    told |= {str(value) for step, values in facts.curve for value in (step, *values.values())}
    for nested in ("task_definition", "model_family"):
        told |= {str(number) for number in numbers_in(json.loads(facts.conditions[nested]))}
    missing = [number for number in numbers_in(whole.model_dump(mode="json")) if str(number) not in told]
    assert missing == []


@pytest.mark.parametrize(("clock", "told"), [((4.0, 20.0), [4.0, 20.0]), ((20.0,), []), (None, [])])
def test_points_have_the_clock_of_their_run_only_where_each_has_its_own(clock, told):
    curve = tuple(CurvePoint(step=step, scores={"accuracy": 0.5}) for step in (50, 100))
    made = record(changes={"curve": curve})
    made = made.model_copy(update={"speed": made.speed.model_copy(update={"score_seconds": clock})})
    assert [values["seconds"] for _, values in facts_of(made).curve if "seconds" in values] == told


def rows(content):
    return list(csv.reader(io.StringIO(content.decode("utf-8"))))


def test_a_count_of_more_than_64_bits_is_a_float(tmp_path):
    one, other = record(seed=0), record(seed=1)
    assert one.speed is not None
    many = one.model_copy(update={"speed": one.speed.model_copy(update={"train_flops": 10**25})})
    assert to_frame([one])["train_flops_counted"].dtype == "Int64"
    frame = to_frame([many, other])
    assert list(frame["train_flops_counted"].isna()) == [False, other.speed.train_flops is None]
    assert frame["train_flops_counted"][0] == 1e25
    for to in ("csv", "parquet", "json"):
        assert export([many, other], to, beside=tmp_path).startswith("2 runs")


def test_csv_reads_back_as_the_frame(tmp_path):
    frame = to_frame(sample_suite())
    said = export(sample_suite(), "csv", beside=tmp_path)
    assert said.startswith(f"24 runs in {tmp_path / 'records.csv'}")
    again = pandas.read_csv(tmp_path / "records.csv", float_precision="round_trip")
    assert list(again.columns) == list(frame.columns)
    assert again["run_id"].tolist() == frame["run_id"].tolist()
    assert again["status"].tolist() == frame["status"].tolist()
    for name in ("score", "step_seconds_median", "learning_rate", "train_peak_bytes", "adapter_parameters"):
        assert again[name].tolist() == pytest.approx(frame[name].astype(float).tolist(), rel=0, abs=0, nan_ok=True)


def test_a_failed_run_is_a_row_whose_measurements_are_empty_and_not_zero(tmp_path):
    export([record(), record(seed=1, status="failed", reason="no")], "csv", beside=tmp_path)
    header, _, failed = rows((tmp_path / "records.csv").read_bytes())
    cells = dict(zip(header, failed, strict=True))
    assert (cells["status"], cells["reason"]) == ("failed", "no")
    assert cells["score"] == cells["train_seconds"] == cells["steady_bytes"] == cells["memory_exclusive"] == ""


def test_the_learning_curve_is_a_second_file(tmp_path):
    points = (CurvePoint(step=1, loss=0.7), CurvePoint(step=2, loss=0.6, scores={"accuracy": 0.55}))
    one, other = record(changes={"curve": points}), record(seed=1)
    export([one, other], "csv", beside=tmp_path, out=str(tmp_path / "mine.csv"))
    assert rows((tmp_path / "mine.curves.csv").read_bytes()) == [
        ["run_id", "step", "loss", "score_accuracy"],
        [one.run_id, "1", "0.7", ""],
        [one.run_id, "2", "0.6", "0.55"],
    ]


def test_parquet_keeps_types_and_texts(tmp_path):
    records = [record(), record(seed=1, status="failed", reason="=1+1")]
    export(records, "parquet", beside=tmp_path, out=str(tmp_path / "new") + "/")
    again = pandas.read_parquet(tmp_path / "new" / "records.parquet")
    pandas.testing.assert_frame_equal(again, to_frame(records))
    assert len(pandas.read_parquet(tmp_path / "new" / "records.curves.parquet")) == 0


def test_json_has_every_value_with_its_type_and_null_where_there_is_none(tmp_path):
    points = (CurvePoint(step=1, loss=0.1 + 0.2),)
    records = [record(changes={"curve": points}), record(seed=1, status="failed", reason="=1+1 [not json]")]
    said = export(records, "json", beside=tmp_path)
    assert said.startswith(f"2 runs in {tmp_path / 'records.json'}, 1 points")
    ok, failed = json.loads((tmp_path / "records.json").read_text())
    assert list(ok) == list(to_frame(records).columns)
    assert ok["score"] == 0.75 and ok["seed"] == 0 and ok["memory_exclusive"] is True
    assert ok["options"] == {"rank": 4, "scaling": 2.0, "dropout": 0.0} and ok["packages"]["peft"] == "0.21.2"
    assert failed["reason"] == "=1+1 [not json]" and failed["score"] is None and failed["train_seconds"] is None
    (point,) = json.loads((tmp_path / "records.curves.json").read_text())
    assert point == {"run_id": ok["run_id"], "step": 1, "loss": 0.1 + 0.2}


def test_the_data_of_a_report_are_three_files_a_table_that_say_the_same():
    probes = sample_probes()
    files = data_files(Report([record(changes={"curve": (CurvePoint(step=1, loss=0.5),)})], probes=probes))
    tables = ("records", "curves", "comparisons", "probes", "latencies")
    assert list(files) == [f"{table}.{suffix}" for table in tables for suffix in ("csv", "parquet", "json")]
    for table in tables:
        lines = rows(files[f"{table}.csv"])
        frame = pandas.read_parquet(io.BytesIO(files[f"{table}.parquet"]))
        objects = json.loads(files[f"{table}.json"])
        assert lines[0] == list(frame.columns) == list(objects[0])
        assert len(lines) - 1 == len(frame) == len(objects)
    assert [one["run_id"] for one in json.loads(files["probes.json"])] == [one.run_id for one in probes]
    assert list(data_files(Report([], probes=probes))) == [
        name for name in files if name.startswith(("probes", "latencies"))
    ]
    assert "curves.csv" not in data_files(Report([record()]))  # there is nothing in it


@pytest.mark.parametrize(
    "text",
    [
        '=HYPERLINK("http://x","y")',
        "+1",
        "-2+3",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "\ttext",
        "  =1",
        "\ufeff=1",
        "\n-1",
        "＝1",
        "a;=1",
        "a\n=1",
        "a\t@x",
        "a; +1",
    ],
)
def test_no_cell_can_begin_with_a_formula(text):
    shown = harmless(text)
    assert shown.replace("'", "") == text
    for separator in ("\0", ";", "\t", "\n", "\r"):  # whatever a spreadsheet takes for the end of a cell
        for cell in shown.split(separator):
            assert cell.lstrip(" \ufeff")[:1] not in set("=+-@＝＋－＠")
    assert shown[0] not in "\t\r"


@pytest.mark.parametrize(
    "text", ["", "a=b", "0.4% of the inputs; more", '{"a": [-1, -2]}', "lora-bench run x --only y", "'"]
)
def test_ordinary_texts_stay_as_they_are(text):
    assert harmless(text) == text


def test_hostile_names_do_nothing_in_any_cell_or_header(tmp_path):
    evil = "=cmd|'/c calc'!A1"
    hostile = record(
        task=evil, model=evil, metric=evil, suite=evil, status="ok", warnings=(evil,), command=evil,
        changes={"scores": {evil: 0.5}, "reason": "+1;\n@x"},
    )  # fmt: skip
    for line in rows(to_csv(to_frame([hostile]))):
        assert not [cell for cell in line if cell[:1] in set("=+-@\t\r") and cell]
    negative = record(metric="matthews", score=-0.25, changes={"reason": "-1"})
    header, values = rows(to_csv(to_frame([negative])))
    cells = dict(zip(header, values, strict=True))
    assert cells["score"] == "-0.25" and cells["reason"] == "'-1"  # a number stays one, a text does not become one


def test_an_unknown_format_names_those_that_are(tmp_path):
    with pytest.raises(
        LoraBenchError, match=r"unknown format 'excel' \(known: csv, json, mlflow, parquet, peft-results, trackio\)"
    ):
        export([record()], "excel", beside=tmp_path)


def written(folder, records):
    for one in records:
        path = folder / one.run_id / "record.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(to_json(one))
    return folder


def test_the_command_writes_beside_the_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "runs" / "quickstart", sample_suite())
    assert main(["export", "runs/quickstart", "--to", "csv"]) == 0
    assert "24 runs in runs/quickstart/records.csv" in capsys.readouterr().out
    assert len(rows((tmp_path / "runs" / "quickstart" / "records.csv").read_bytes())) == 25
    assert main(["export", "runs/absent", "--to", "csv"]) == 2
    assert "runs/absent does not exist" in capsys.readouterr().err


def test_the_report_command_writes_data_beside_the_figures_and_checks_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "runs" / "quickstart", sample_suite())
    assert main(["report", "runs/quickstart", "--data"]) == 0
    said = capsys.readouterr().out.splitlines()
    data = [f"report/{table}.{suffix}" for table in ("records", "comparisons") for suffix in ("csv", "parquet", "json")]
    assert said == [f"runs/quickstart/{file}" for file in ("report.md", "report.html", *data)]
    assert len(json.loads(Path("runs/quickstart/report/records.json").read_text())) == 24
    assert main(["report", "runs/quickstart", "--data", "--check"]) == 0
    Path("runs/quickstart/report/records.json").write_text("[]")
    assert main(["report", "runs/quickstart", "--data", "--check"]) == 1
    assert main(["report", "runs/quickstart", "--check"]) == 0


@pytest.mark.parametrize("tracker", ["mlflow", "trackio"])
def test_a_tracker_that_is_not_installed_is_named_with_the_command_that_installs_it(tracker, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, tracker, None)
    with pytest.raises(LoraBenchError, match=rf"{tracker} is not installed.*pip install 'lora_bench\[export\]'"):
        export([record()], tracker, beside=tmp_path, out=str(tmp_path))


CURVE = tuple(
    CurvePoint(step=step, loss=1 / step, scores={"accuracy": 0.5} if step == 2 else None) for step in (1, 2, 3)
)


def tracked():
    """Three runs: one with a curve, one that failed, and one whose name no tracker would take as it stands."""
    return [
        record(score=0.75, changes={"curve": CURVE}),
        record(seed=1, status="failed", reason="the loss was nan " * 1000),
        record(seed=2, metric="f1 (macro)", score=-0.5),
    ]


class TestMlflow:
    """With MLflow itself, into a store of its own."""

    @pytest.fixture(autouse=True)
    def _own_place(self, tmp_path, monkeypatch):
        pytest.importorskip("mlflow", reason="MLflow is not installed: pip install 'lora_bench[export]'")
        monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        monkeypatch.chdir(tmp_path)

    def runs(self, uri):
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=uri)
        experiment = client.get_experiment_by_name("quickstart")
        return client, {run.data.tags["run_id"]: run for run in client.search_runs([experiment.experiment_id])}

    def test_a_record_is_a_run_with_its_conditions_results_and_curve(self, tmp_path):
        records = tracked()
        said = export(records, "mlflow", beside=tmp_path, out=str(tmp_path / "store"))
        uri = f"sqlite:///{tmp_path / 'store' / 'mlflow.db'}"
        assert said == f"3 runs in {uri}: 3 new, 0 replaced, 0 unchanged"
        client, runs = self.runs(uri)
        ok, failed, named = (runs[one.run_id] for one in records)
        assert ok.info.status == "FINISHED" and ok.data.tags["status"] == "ok" and ok.data.tags["suite"] == "quickstart"
        assert ok.data.params["learning_rate"] == "0.001" and ok.data.params["option_rank"] == "4"
        assert ok.data.params["package_peft"] == "0.21.2"
        assert ok.data.metrics["score"] == ok.data.metrics["score_accuracy"] == 0.75
        assert ok.data.metrics["adapter_parameters"] == 7_680
        history = client.get_metric_history(ok.info.run_id, "curve_loss")
        assert [(point.step, point.value) for point in history] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
        assert [point.step for point in client.get_metric_history(ok.info.run_id, "curve_score_accuracy")] == [2]
        assert failed.info.status == "FAILED" and failed.data.tags["reason"].startswith("the loss was nan")
        assert "score" not in failed.data.metrics
        assert named.data.metrics["score_f1 _macro_"] == -0.5

    def test_an_export_made_again_doubles_nothing_and_replaces_what_changed(self, tmp_path, monkeypatch):
        uri = f"sqlite:///{tmp_path / 'mine.db'}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        first, failed, other = tracked()
        export([first, failed], "mlflow", beside=tmp_path)
        again = record(seed=1, score=0.9)
        assert again.run_id == failed.run_id
        said = export([first, again, other], "mlflow", beside=tmp_path)
        assert said.endswith("1 new, 1 replaced, 1 unchanged")
        _, runs = self.runs(uri)
        assert len(runs) == 3 and runs[again.run_id].data.metrics["score"] == 0.9

    @pytest.mark.slow
    def test_a_run_that_an_export_was_stopped_at_is_made_anew(self, tmp_path):
        from mlflow.tracking import MlflowClient

        uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
        client = MlflowClient(tracking_uri=uri)
        one = record()
        client.create_run(client.create_experiment("quickstart"), tags={"run_id": one.run_id})
        export([one], "mlflow", beside=tmp_path, out=uri)
        assert export([one], "mlflow", beside=tmp_path, out=uri).endswith("0 new, 0 replaced, 1 unchanged")
        _, runs = self.runs(uri)
        assert runs[one.run_id].info.status == "FINISHED"

    @pytest.mark.slow
    def test_a_store_of_files_is_one_too(self, tmp_path, monkeypatch):
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        for _ in range(2):
            said = export(tracked(), "mlflow", beside=tmp_path, out=(tmp_path / "mlruns").as_uri())
        assert said.endswith("0 new, 0 replaced, 3 unchanged")
        assert "3 unchanged" in export(tracked(), "mlflow", beside=tmp_path, out=str(tmp_path / "mlruns"))

    def test_what_mlflow_refuses_is_said_without_a_traceback(self, tmp_path):
        with pytest.raises(LoraBenchError, match="MLflow at nosuch://store refused"):
            export([record()], "mlflow", beside=tmp_path, out="nosuch://store")


@pytest.mark.skipif(
    importlib.util.find_spec("trackio") is None, reason="Trackio is not installed: pip install 'lora_bench[export]'"
)
class TestTrackio:
    """With Trackio itself; it reads the place of its store once a process, so each export is one."""

    def export(self, folder, store, **environment):
        command = [
            sys.executable,
            "-m",
            "lora_bench.cli",
            "export",
            str(folder),
            "--to",
            "trackio",
            "--out",
            str(store),
        ]
        here = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), **environment}
        return subprocess.run(command, env=here, cwd=store.parent, capture_output=True, text=True, check=False)

    def runs(self, store):
        code = (
            "import json, trackio; from trackio.sqlite_storage import SQLiteStorage as S\n"
            "runs = [(r.name, r.config, S.get_logs('quickstart', r.name, run_id=r.id)) "
            "for r in trackio.Api().runs('quickstart')]\n"
            "print(json.dumps(runs))"
        )
        here = {**os.environ, "TRACKIO_DIR": str(store), "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run([sys.executable, "-c", code], env=here, capture_output=True, text=True, check=True)
        return {config["run_id"]: (name, config, logs) for name, config, logs in json.loads(done.stdout)}

    def test_a_record_is_a_run_and_an_export_made_again_doubles_nothing(self, tmp_path):
        records = tracked()
        folder, store = written(tmp_path / "runs", records), tmp_path / "store"
        done = self.export(folder, store)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"3 runs in {store}: 3 new, 0 replaced, 0 unchanged\n"
        runs = self.runs(store)
        name, config, logs = runs[records[0].run_id]
        assert "lora" in name and config["status"] == "ok" and config["learning_rate"] == 0.001
        assert [(log["step"], log["curve_loss"]) for log in logs if "curve_loss" in log] == [
            (1, 1.0),
            (2, 0.5),
            (3, 1 / 3),
        ]
        assert [(log["step"], log["score"]) for log in logs if "score" in log] == [(200, 0.75)]
        assert runs[records[1].run_id][1]["reason"].startswith("the loss was nan")
        written(folder, [record(seed=1, score=0.9)])
        done = self.export(folder, store)
        assert done.stdout.endswith("0 new, 1 replaced, 2 unchanged\n")
        after = self.runs(store)
        assert len(after) == 3 and after[records[1].run_id][1]["status"] == "ok"

    def test_it_does_not_log_elsewhere(self, tmp_path):
        folder = written(tmp_path / "runs", [record()])
        done = self.export(folder, tmp_path / "store", TRACKIO_SPACE_ID="somebody/space")
        assert done.returncode == 2 and "TRACKIO_SPACE_ID is set" in done.stderr
