"""What a suite's file beside its records says of them: its purpose, and the tasks that have no run."""

from lora_bench.records.suite_about import about_in
from tests.sample_records import record

TASKS = "tasks: [vader_film, {task: rte_1000, like: rte}, tickets.yaml, folder/other]\n"


def test_tasks_without_a_run_are_named_once_others_have_one(tmp_path):
    (tmp_path / "suite.yaml").write_text(f"about: Which method?\n{TASKS}", encoding="utf-8")
    assert about_in(tmp_path) == "Which method?"
    sample = record()
    assert sample.spec.task.name == "vader_film"
    assert about_in(tmp_path, [sample]) == "Which method? Planned and not run: `rte_1000`."


def test_a_task_that_has_trials_alone_is_named_apart(tmp_path):
    (tmp_path / "suite.yaml").write_text(TASKS, encoding="utf-8")
    ran = record()
    task = ran.spec.task.model_copy(update={"name": "rte_1000"})
    trial = ran.model_copy(update={"spec": ran.spec.model_copy(update={"task": task, "score_on": "selection"})})
    assert about_in(tmp_path, [ran, trial]) == "Trials only, so far: `rte_1000`."
    assert about_in(tmp_path, [trial]) == "Planned and not run: `vader_film`.", "a suite of trials is what it was to be"


def test_a_run_with_a_note_in_place_of_its_score_is_no_measure(tmp_path):
    run = record()
    folder = tmp_path / "tickets-final"
    (folder / run.run_id).mkdir(parents=True)
    assert about_in(folder, [run]) == ""
    (folder / run.run_id / "note.txt").write_text("Trained on nearly all rows.", encoding="utf-8")
    said = about_in(folder, [run])
    assert said.startswith("The score below is no measure of this model")
    assert said.endswith(" Trained on nearly all rows. See `tickets/report.md`.")


def test_a_folder_without_a_readable_suite_says_nothing(tmp_path):
    assert about_in(tmp_path, [record()]) == ""
    (tmp_path / "suite.yaml").write_text("about: [", encoding="utf-8")
    assert about_in(tmp_path, [record()]) == ""
