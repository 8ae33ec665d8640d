"""Runs that no suite planned: what nobody knows of them is null, and reports say so and rank by nothing of it."""

import pytest

from lora_bench.records.record import Environment, Memory, Parameters, Record, Speed
from lora_bench.records.sealed_records import to_json
from lora_bench.records.spec import MethodSpec, ModelSpec, RunSpec, TaskSpec, TrainingSpec
from lora_bench.records.store import read_record
from lora_bench.report import Report, compare, render_files, terminal_answer, to_frame
from tests.sample_records import record

NOTHING = dict.fromkeys(
    ("train_examples", "batch_size", "steps", "max_length", "learning_rate", "schedule", "warmup_steps", "weight_decay",
     "max_grad_norm", "precision", "threads")
)  # fmt: skip


def unplanned(label="mine", score=0.7, **changes):
    """A record of which nothing is known but names and a score."""
    known = {
        "metric": "accuracy", "higher_is_better": True, "learning_rate": None, "seed": None, "source": "own script",
        "source_sha256": None, **changes,
    }  # fmt: skip
    spec = RunSpec(
        task=TaskSpec(
            name="vader_film", definition=None, data_sha256=None, labels=None, metric=known["metric"],
            higher_is_better=known["higher_is_better"],
        ),
        model=ModelSpec(name="my-model", shown="my-model", sha256=None, revision=None, model_type=None),
        method=MethodSpec(name="peft", label=label, size=None, options={"type": label}, chosen={"type": label}),
        training=TrainingSpec(**{**NOTHING, "learning_rate": known["learning_rate"]}, arguments={}),
        seed=known["seed"], protocol=None, score_on=None, keep_weights=None, rules=None, source=known["source"],
        source_sha256=known["source_sha256"],
    )  # fmt: skip
    return Record(
        run_id=spec.run_id, suite="mine", status="ok", spec=spec, budget=None, command=None,
        scores={"accuracy": score} if score is not None else None,
        parameters=Parameters(total=None, adapter=None, head=None, trained=1_000, stored=None),
        memory=Memory(
            kind="reserved", exclusive=None, start_bytes=None, load_bytes=None, first_step_bytes=None, steady_bytes=None,
            evaluation_bytes=None, weight_bytes=None, gradient_bytes=None, optimizer_bytes=None,
        ),
        speed=Speed(
            exclusive=None, warmup_steps=None, timed_steps=None, step_seconds_median=None, step_seconds_p90=None,
            examples_per_second=None, real_tokens_per_second=None, train_real_tokens=None, train_seconds=None,
            evaluation_seconds=None, load_seconds=None,
        ),
        environment=Environment(
            device=None, device_count=None, cpu=None, cores=None, memory_bytes=None, system=None, python=None,
            packages={"peft": "0.18.0"},
        ),
    )  # fmt: skip


def test_a_record_of_unknowns_is_read_as_it_was_written(tmp_path):
    one = unplanned()
    (tmp_path / "record.json").write_bytes(to_json(one))
    assert read_record(tmp_path / "record.json") == one


def test_another_program_is_another_run_and_the_planned_ones_keep_their_ids():
    ids = {unplanned(source_sha256=sha).run_id for sha in (None, "0" * 64, "1" * 64)}
    assert len(ids) == 3
    planned = record().spec
    assert planned.source is None and planned.run_id == RunSpec(**dict(planned)).run_id


def test_every_rendering_has_them_and_says_what_nobody_knows():
    records = [unplanned("LOHA"), unplanned("IA3", 0.8), record("lora", score=0.75)]
    page = render_files(Report(records))["report.md"].decode()
    assert "their records come from: own script" in page
    assert "`task.data_sha256`" in page and "weights not recorded" in page
    assert "None" not in page
    terminal_answer(Report(records))
    frame = to_frame(records).set_index("label")
    assert frame.loc["LOHA", "source"] == "own script" and frame["source"].isna().sum() == 1


def test_only_rows_of_a_suite_are_exempt():
    planned, own = (compare([one]).settings[0].rows[0] for one in (record("full"), unplanned("full")))
    assert (planned.exempt, own.exempt) == (True, False)


def test_a_number_is_not_called_undisturbed_where_nobody_said_so():
    mine = unplanned().model_copy(update={"speed": record().speed.model_copy(update={"exclusive": None})})
    page = render_files(Report([mine, record("lora")]))["report.md"].decode()
    assert "1 of 2 rows do not record whether other work ran beside." in page


def test_what_nobody_knows_is_never_equal_to_what_is_known():
    settings = compare([unplanned(), record("lora")]).settings
    assert len(settings) == 2
    assert {setting.spec.source for setting in settings} == {None, "own script"}
    assert all("task.data_sha256" in setting.differs for setting in settings)


def test_two_scripts_of_one_author_stand_in_one_table():
    (setting,) = compare([unplanned("LOHA", source_sha256="0" * 64), unplanned("IA3", source_sha256="1" * 64)]).settings
    assert [row.label for row in setting.rows] == ["IA3", "LOHA"]
    assert "model.sha256" in setting.unknown and "task.data_sha256" in setting.unknown


@pytest.mark.parametrize("rates", [(None, 1e-3), (1e-4, 1e-3)])
def test_a_search_with_a_rate_that_nobody_knows_is_drawn(rates):
    records = [unplanned("LOHA", 0.7 + index / 10, learning_rate=rate) for index, rate in enumerate(rates)]
    files = render_files(Report(records))
    assert any(name.endswith("learning-rates.svg") for name in files)


def test_a_run_without_a_metric_has_no_score():
    assert unplanned(metric=None).score is None
    assert "| – |" in render_files(Report([unplanned(metric=None)]))["report.md"].decode()
