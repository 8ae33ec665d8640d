"""`lora-bench try` and `init`: from a table to a suite, and from there to an answer."""

import csv
import os
import signal
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
import yaml

from lora_bench.cli import main
from lora_bench.execute import final_model
from lora_bench.execute.final_model import train_final
from lora_bench.execute.first_steps import slowdowns
from lora_bench.execute.run_suite import Silent
from lora_bench.kinds.support.table_view import LookOptions
from lora_bench.plan.fit_minutes import Design, draft_suite
from lora_bench.plan.make_plan import make_plan
from lora_bench.records.store import read_records
from lora_bench.suite.load_suite import load_suite
from lora_bench.tasks.look import look
from lora_bench.training.winner import find_winner
from lora_bench.util.signals import Stopped
from tests.chats import write_chat_model
from tests.project import SUITE, names_a_method, write_data, write_model


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a table and a tiny model; no suite."""
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "project"
    folder.mkdir()
    write_model(folder / "base")
    write_data(folder / "tickets.csv", 600)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def short(monkeypatch):
    """One design alone, as short as they come: one rate, two seeds, 200 steps."""
    monkeypatch.setattr("lora_bench.plan.fit_minutes.DESIGNS", (Design(seeds=2, rates=1, epochs=3),))


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_try_ends_with_an_answer_and_with_the_chosen_method_trained_on_nearly_all_rows(project, capsys):
    assert main(["init", "tickets.csv", "--model", "base", "--minutes", "60"]) == 0
    said = capsys.readouterr().out
    assert "2 classes (" in said and "guessed: the label is queue (2 different values)" in said
    # All weights of a model as small as this one learn at a larger rate than those of a pretrained one.
    suite = (
        (project / "tickets.yaml")
        .read_text()
        .replace("method: full, learning_rate: 5e-5", "method: full, learning_rate: 3e-3")
    )
    (project / "tickets.yaml").write_text(suite)
    assert (
        "wrote tickets.yaml: full, lora_all, linear_probe, adapter_both; one learning rate, 2 seeds, until a pl" in said
    )
    assert main(["try", "tickets.csv", "--model", "base", "--minutes", "60"]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == "to answer new rows: lora-bench predict tickets-model new.csv"
    chosen = find_winner(project / "runs" / "tickets")
    (final,) = read_records(project / "runs" / "tickets-final")
    assert f"model: tickets-model, {chosen.row.label} on nearly all rows; expect accuracy" in said
    assert (final.spec.method, final.spec.seed) == (chosen.record.spec.method, chosen.record.spec.seed)
    assert final.spec.training.learning_rate == chosen.record.spec.training.learning_rate
    # Of 600 rows 2 % are left for each other split. Epochs are as many as in the comparison, or twice as many where its runs
    # were ended by their cap, as they are here unless a score happens to rest: an hour is left.
    capped = [one.plateau.by == "cap" for one in chosen.row.records]
    times = 2 if 2 * sum(capped) > len(capped) else 1
    assert final.data.examples["train"] == pytest.approx(0.96 * 600, abs=15)
    epochs = [one.speed.train_examples / one.data.examples["train"] for one in (chosen.record, final)]
    assert epochs[1] == pytest.approx(times * epochs[0], rel=0.05)
    card = (project / "tickets-model" / "README.md").read_text(encoding="utf-8")
    longer = ", for 2.0 times as many epochs as the runs of the comparison, most of which reached no plateau"
    assert (
        f"Trained on nearly all rows{longer if times == 2 else ''}. The same settings on" in card
        and "model-index" not in card
    )
    assert main(["predict", "tickets-model", "tickets.csv"]) == 0
    with (project / "tickets.predicted.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 600 and sum(row["queue"] == row["predicted"] for row in rows) > 540
    # The same command again trains nothing, and takes the file and the model as they are.
    (project / "tickets.yaml").write_text((project / "tickets.yaml").read_text() + "# mine\n")
    capsys.readouterr()
    assert main(["try", "tickets.csv", "--model", "base", "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "tickets.yaml is there already and is used as it is" in said and "tickets-model is there already" in said
    assert (project / "tickets.yaml").read_text().endswith("# mine\n")


@pytest.mark.slow
@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_try_compares_methods_on_a_decoder(project, capsys, family):
    write_chat_model(project / "decoder", family)
    options = ["--model", "decoder", "--minutes", "60", "--quiet", "--no-final"]
    code = main(["try", "tickets.csv", *options])
    assert code == names_a_method() and ("tickets, decoder" in capsys.readouterr().out) == (code == 0)
    records = read_records(project / "runs" / "tickets")
    assert {one.spec.method.label for one in records} == {"full", "lora_all", "adapter_both", "linear_probe"}
    assert {one.status for one in records} == {"ok"}
    assert main(["use", "runs/tickets"]) == names_a_method()
    assert not (project / "tickets-model").exists()


@pytest.mark.slow
def test_a_test_file_of_ones_own_is_not_trained_on(project):
    write_data(project / "later.csv", 100)
    suite = yaml.safe_load(SUITE) | {"keep_weights": "last", "methods": ["lora"], "seeds": [0]}
    suite["tasks"][0] |= {"data": {"train": "tickets.csv", "test": "later.csv"}, "split": {"selection": 0.2}}
    (project / "own.yaml").write_text(yaml.safe_dump(suite | {"suite": "own"}))
    assert main(["run", "own.yaml", "--quiet"]) == 0
    train_final(project / "own.yaml", project / "runs", project / "model", Silent())
    (final,), (compared,) = (read_records(project / "runs" / name) for name in ("own-final", "own"))
    assert final.data.examples["test"] == compared.data.examples["test"]
    assert final.data.examples["train"] > 1.15 * compared.data.examples["train"]


def test_a_dry_run_writes_the_suite_and_shows_the_plan(project, capsys):
    named = ["--text", "subject", "--label", "queue", "--kind", "classification", "--metric", "accuracy"]
    assert main(["try", "tickets.csv", *named, "--model", "base", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "guessed" not in said and "some steps of training tell how fast" in said and "runs to do" in said
    assert load_suite("tickets.yaml").name == "tickets" and not (project / "runs").exists()
    assert sorted(path.name for path in project.iterdir()) == ["base", "tickets.csv", "tickets.yaml"]


def test_init_writes_the_suite_once(project, capsys):
    assert main(["init", "tickets.csv", "--model", "base"]) == 0
    assert (
        capsys.readouterr().out.splitlines()[-1]
        == "next: lora-bench plan tickets.yaml, then lora-bench run tickets.yaml"
    )
    assert main(["init", "tickets.csv", "--model", "base"]) == 2
    assert "tickets.yaml is there already" in capsys.readouterr().err


def test_more_minutes_give_more_seeds_then_rates_and_all_but_the_shortest_runs_may_reach_a_plateau(
    project, monkeypatch
):
    monkeypatch.setattr("lora_bench.plan.cost_estimate.flops_per_thread", lambda: 1e8)
    seen = look(project / "tickets.csv")
    drafts = [draft_suite(seen, project, model="base", minutes=minutes) for minutes in (2, 5, 10, 30, 10_000)]
    for fewer, more in pairwise(drafts):
        assert (fewer.seeds, fewer.rates, fewer.train_examples) <= (more.seeds, more.rates, more.train_examples)
        assert fewer.methods == more.methods[: len(fewer.methods)] and (more.plateau or not fewer.plateau)
    assert all(draft.plateau == (draft.train_examples >= 3_200) for draft in drafts)
    assert (drafts[-1].seeds, drafts[-1].rates, drafts[-1].plateau) == (10, 3, True)
    # 10 folds leave 480 rows to train: 12 epochs are 5,760.
    assert drafts[-1].train_examples == 5_760
    assert len(drafts[-1].methods) == 4


def test_the_costliest_of_the_shortest_runs_and_the_model_fit_the_minutes_on_any_number_of_cores(project, monkeypatch):
    monkeypatch.setattr("lora_bench.plan.cost_estimate.flops_per_thread", lambda: 1e8)
    for name, given in (("TIMES_DRAFT", 0), ("USED_SHARE", 1.0), ("DESIGNS", ()), ("default_workers", lambda *_: 8)):
        monkeypatch.setattr(f"lora_bench.plan.fit_minutes.{name}", given)
    draft = draft_suite(look(project / "tickets.csv"), project, model="base", minutes=1)
    (project / "tickets.yaml").write_text(draft.text(project))
    costs = [cell.estimate.seconds for cell in make_plan(load_suite("tickets.yaml"), project / "runs").cells]
    # Eight at once, but `full` is one run.
    assert len(costs) == 3 and 45 < max(costs) + draft.final_seconds <= 60


def test_methods_that_are_slower_than_planned_get_fewer_runs_and_all_others_as_lora_all(project, monkeypatch):
    monkeypatch.setattr("lora_bench.plan.cost_estimate.flops_per_thread", lambda: 1e8)
    seen, asked = look(project / "tickets.csv"), []

    def measure(suite, rows, seconds):
        asked.append(([entry.label for entry in suite.methods], rows, seconds))
        return {"full": 2.0, "lora_all": 2.0}

    quick, slow = (draft_suite(seen, project, model="base", minutes=30, measure=of) for of in (None, measure))
    assert asked == [(["full", "lora_all"], 600, 180.0)]
    # Twice the time of every run is half the minutes, but for what the command takes itself.
    half = draft_suite(seen, project, model="base", minutes=15)
    assert (slow.seeds, slow.rates) == (half.seeds, half.rates) < (quick.seeds, quick.rates)
    assert slow.final_seconds == pytest.approx(
        2 * quick.final_seconds * slow.train_examples / quick.train_examples, rel=0.3
    )


def test_the_steps_that_are_measured_leave_no_files_and_name_both_methods(project):
    before = sorted(project.rglob("*"))
    found = {}

    def measure(suite, rows, seconds):
        found.update(slowdowns(suite, rows, seconds))
        return found

    draft_suite(look(project / "tickets.csv"), project, model="base", minutes=60, measure=measure)
    assert set(found) == {"full", "lora_all"} and all(factor > 0 for factor in found.values())
    assert sorted(project.rglob("*")) == before


def test_with_time_for_five_seeds_each_tests_a_fold(project, monkeypatch):
    monkeypatch.setattr("lora_bench.plan.fit_minutes.DESIGNS", (Design(seeds=5, rates=1, epochs=3),))
    write_data(project / "new.csv", 50)
    head, *rows = (project / "tickets.csv").read_text().splitlines()
    for name, customers in (("many", 60), ("few", 8)):
        of = [f"{row},{number % customers}" for number, row in enumerate(rows)]
        (project / f"{name}.csv").write_text("\n".join([f"{head},customer", *of]) + "\n")
    asked = {
        "tickets": LookOptions(),
        "many": LookOptions(group="customer"),
        "few": LookOptions(group="customer", text="subject", label="queue"),
        "own": LookOptions(test=project / "new.csv"),
        "time": LookOptions(time="customer", text="subject", label="queue"),
    }
    tables = {"own": "tickets", "time": "many"}
    found = {
        name: draft_suite(look(project / f"{tables.get(name, name)}.csv", of), project, model="base", minutes=60)
        for name, of in asked.items()
    }
    # Eight customers are enough for three splits, and leave a fold without selection rows.
    assert {name: draft.folds for name, draft in found.items()} == {
        "tickets": 5, "many": 5, "few": None, "own": None, "time": None,
    }  # fmt: skip
    (project / "tickets.yaml").write_text(found["many"].text(project))
    suite = load_suite(project / "tickets.yaml")
    ((task, _),) = suite.tasks
    assert suite.content.seeds == (0, 1, 2, 3, 4) and (task.split.folds, task.split.by) == (5, "customer")
    assert ", 5 folds, which test every row once" in found["many"].said
    # One test split is that of six seeds: fewer are exploratory.
    assert {name: draft.seeds for name, draft in found.items()} == {
        "tickets": 5, "many": 5, "few": 5, "own": 6, "time": 6,
    }  # fmt: skip
    decided = replace(found["many"], seeds=10, folds=10)
    assert ", up to 10 folds, which test every row at most once" in decided.said
    assert "Up to 600 rows of test" in decided.text(project) and "until: decided" in decided.text(project)
    assert "About 600 rows of test" in found["many"].text(project) and "About 150 rows" in found["few"].text(project)


@pytest.mark.slow
def test_the_model_of_a_comparison_on_folds_is_trained_on_nearly_all_rows(project):
    suite = yaml.safe_load(SUITE) | {
        "suite": "own",
        "keep_weights": "last",
        "methods": ["lora"],
        "seeds": [0, 1, 2, 3, 4],
    }
    suite["tasks"][0]["split"] = {"folds": 5}
    (project / "own.yaml").write_text(yaml.safe_dump(suite))
    assert main(["run", "own.yaml", "--quiet"]) == 0
    train_final(project / "own.yaml", project / "runs", project / "model", Silent())
    (final,) = read_records(project / "runs" / "own-final")
    assert final.data.examples["train"] == pytest.approx(0.96 * 600, abs=15)
    assert "% interval on new rows: " in (project / "model" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("gain", "precision"), [(1.4, "bfloat16"), (1.15, "bfloat16"), (1.1, "float32"), (0.5, "float32")]
)
def test_bfloat16_is_taken_where_this_machine_is_faster_in_it(project, capsys, monkeypatch, gain, precision):
    monkeypatch.setattr("lora_bench.plan.fit_minutes.bfloat16_gain", lambda: gain)
    monkeypatch.setattr("lora_bench.plan.fit_minutes.cuda_devices", list)
    assert main(["init", "tickets.csv", "--model", "base"]) == 0
    assert (f"in bfloat16, {gain:.1f} times as fast here" in capsys.readouterr().out) == (precision == "bfloat16")
    assert load_suite("tickets.yaml").content.training.precision == precision


def test_too_few_minutes_are_refused_with_what_would_do(project, capsys):
    assert main(["try", "tickets.csv", "--model", "base", "--minutes", "0.0001"]) == 2
    said = capsys.readouterr()
    assert "0.0001 minutes are too few to compare methods on tickets.csv: this machine takes about 0." in said.err
    assert not (project / "tickets.yaml").exists()


def test_a_table_that_is_not_there_is_said_and_nothing_is_written(project, capsys):
    assert main(["try", "ticket.csv", "--model", "base"]) == 2
    assert "there is no such file; did you mean 'tickets.csv'" in capsys.readouterr().err
    assert main(["try", "tickets.csv", "--model", "bas"]) == 2
    assert sorted(path.name for path in project.iterdir()) == ["base", "tickets.csv"]


def test_minutes_are_a_number_above_zero(project, capsys):
    for given in ("0", "-1", "soon"):
        with pytest.raises(SystemExit) as done:
            main(["try", "tickets.csv", "--minutes", given])
        assert done.value.code == 2
        assert "must be a number above 0" in capsys.readouterr().err


def test_a_suite_of_another_table_is_not_taken_for_this_one(project, capsys):
    """It once showed the second table and trained on the first."""
    for name in ("a", "b"):
        (project / name).mkdir()
        write_data(project / name / "tickets.csv", 600)
    assert main(["init", "a/tickets.csv", "--model", "base"]) == 0
    capsys.readouterr()
    assert main(["try", "b/tickets.csv", "--model", "base", "--dry-run"]) == 2
    said = capsys.readouterr()
    assert "compares methods on a/tickets.csv, not on b/tickets.csv" in said.err and not said.out
    (project / "c").symlink_to("a")
    for same in ("a/tickets.csv", "./a/tickets.csv", "c/tickets.csv", str(project / "a" / "tickets.csv")):
        assert main(["try", same, "--model", "base", "--dry-run"]) == 0
        assert "is used as it is" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--label", "subject"], "with queue for --label, and the command gives subject"),
        (["--text", "queue"], "with subject for --text, and the command gives queue"),
        (["--text-pair", "queue"], "with none for --text-pair, and the command gives queue"),
        (["--model", "other"], "with base for --model, and the command gives other"),
        (["--minutes", "5"], "with 3 for --minutes, and the command gives 5"),
        (["--kind", "regression"], "with classification for --kind, and the command gives regression"),
        (["--metric", "macro_f1"], "with accuracy for --metric, and the command gives macro_f1"),
        (["--split", "part"], "with none for --split, and the command gives part"),
        (["--group", "customer"], "with none for --group, and the command gives customer"),
        (["--time", "day"], "with none for --time, and the command gives day"),
        (["--test", "test.csv"], "with none for --test, and the command gives test.csv"),
        (["--valid", "valid.csv"], "with none for --valid, and the command gives valid.csv"),
    ],
)
def test_other_options_than_those_of_a_suite_with_an_edit_are_refused(project, capsys, options, said):
    assert main(["init", "tickets.csv", "--model", "base", "--minutes", "3"]) == 0
    suite = project / "tickets.yaml"
    suite.write_text(suite.read_text(encoding="utf-8").replace("margin: 0.005", "margin: 0.02"), encoding="utf-8")
    assert main(["try", "tickets.csv", "--dry-run", *options]) == 2
    assert said in capsys.readouterr().err
    same = ["--text", "subject", "--label", "queue", "--model", "base", "--minutes", "3", "--kind", "classification"]
    assert main(["try", "tickets.csv", "--dry-run", *same]) == 0


def test_other_options_write_a_suite_anew_that_has_no_edit_and_no_run(project, capsys, monkeypatch):
    """A dry run once refused the options of the command after it."""
    planned = []

    def plan(*given, slowdowns, **more):
        planned.append(slowdowns)
        return make_plan(*given, slowdowns=slowdowns, **more)

    monkeypatch.setattr("lora_bench.cli.try_commands.slowdowns", lambda suite, rows, seconds: {"full": 1.5})
    monkeypatch.setattr("lora_bench.cli.commands.make_plan", plan)
    line = ["try", "tickets.csv", "--model", "base", "--minutes", "3", "--dry-run"]
    assert main(line) == 0
    capsys.readouterr()
    assert main([*line, "--metric", "macro_f1"]) == 0
    assert "wrote tickets.yaml anew: " in capsys.readouterr().out
    assert [slower["full"] for slower in planned] == [1.5, 1.5], "what was measured counts in the plan that is shown"
    assert load_suite("tickets.yaml").tasks[0][0].metric == "macro_f1"
    (project / "runs" / "tickets").mkdir(parents=True)
    assert main([*line, "--metric", "accuracy"]) == 2
    assert "with macro_f1 for --metric, and the command gives accuracy" in capsys.readouterr().err


def test_splits_that_the_user_names_are_those_of_the_suite(project, capsys):
    write_data(project / "new.csv", 50)
    for name in ("tickets.csv", "new.csv"):
        head, *rows = (project / name).read_text().splitlines()
        rows = [f"{row},{number // 5}" for number, row in enumerate(rows)]
        (project / name).write_text("\n".join([f"{head},customer", *rows]) + "\n")
    line = ["init", "tickets.csv", "--model", "base", "--minutes", "3", "--test", "new.csv", "--group", "customer"]
    assert main(line) == 0
    assert "the rows of new.csv are test" in capsys.readouterr().out
    ((task, _),) = load_suite("tickets.yaml").tasks
    assert (task.data.train, task.data.test, task.split.by) == ("tickets.csv", "new.csv", "customer")
    again = ["try", *line[1:], "--dry-run"]
    assert main(again) == 0 and "50" in capsys.readouterr().out
    (project / "tickets.yaml").write_text((project / "tickets.yaml").read_text(encoding="utf-8") + "# mine\n")
    assert main([*again, "--test", "tickets.csv"]) == 2
    assert "with new.csv for --test, and the command gives tickets.csv" in capsys.readouterr().err


def test_columns_of_0_and_1_are_named_alike_with_and_without_spaces(project, capsys):
    head, *rows = (project / "tickets.csv").read_text().splitlines()
    rows = [f"{row},{number % 2},{number % 3 // 2}" for number, row in enumerate(rows)]
    (project / "tickets.csv").write_text("\n".join([f"{head},a,b", *rows]) + "\n")
    assert main(["init", "tickets.csv", "--model", "base", "--minutes", "3", "--label", "a, b"]) == 0
    assert load_suite("tickets.yaml").tasks[0][0].label.columns == ("a", "b")
    (project / "tickets.yaml").write_text((project / "tickets.yaml").read_text(encoding="utf-8") + "# mine\n")
    for label, code in (("a,b", 0), ("a, b", 0), ("a", 2), ("queue", 2)):
        assert main(["try", "tickets.csv", "--dry-run", "--label", label]) == code
    assert "with a,b for --label, and the command gives queue" in capsys.readouterr().err


def test_a_table_of_texts_to_write_gets_a_model_that_writes(project, capsys, monkeypatch):
    rows = "".join(f"what is the number of row {row}?,the number of this row is {row}\n" for row in range(60))
    (project / "facts.csv").write_text("input,output\n" + rows)
    write_chat_model(project / "writer", "gpt2")
    monkeypatch.setattr("lora_bench.cli.try_commands.WRITER", "writer")
    assert main(["init", "facts.csv", "--minutes", "1"]) == 0
    said = capsys.readouterr().out
    assert "guessed: the kind is generation" in said and "the base model is writer, which writes texts; --model" in said
    suite = load_suite("facts.yaml")
    assert (suite.tasks[0][0].kind, [entry.model for entry in suite.models]) == ("generation", ["writer"])


def test_minutes_beyond_every_plan_are_refused(project, capsys):
    with pytest.raises(SystemExit) as done:
        main(["init", "tickets.csv", "--model", "base", "--minutes", "1e308"])
    assert done.value.code == 2 and "must be a number above 0 and below 1,000,000" in capsys.readouterr().err


def test_errors_name_no_temporary_file(project, capsys):
    assert main(["init", "tickets.csv", "--model", "./none"]) == 2
    said = capsys.readouterr().err
    assert ".tickets-" not in said and "models[0]" in said and "none" in said


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_groups_of_rows_and_a_suite_that_was_edited_are_no_hindrance_to_the_model(project, capsys):
    rows = list(csv.DictReader((project / "tickets.csv").open(encoding="utf-8")))
    with (project / "tickets.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["subject", "queue", "customer"])
        writer.writeheader()
        writer.writerows({**row, "customer": f"c{number % 150}"} for number, row in enumerate(rows))
    line = ["tickets.csv", "--model", "base", "--group", "customer", "--minutes", "60"]
    assert main(["init", *line]) == 0
    suite = project / "tickets.yaml"
    text = suite.read_text(encoding="utf-8").replace("full, learning_rate: 5e-5", "full, learning_rate: 3e-3")
    suite.write_text(text, encoding="utf-8")
    assert main(["try", *line, "--no-final", "--quiet"]) == 0
    suite.write_text(text.replace("train_examples: 3200", "train_examples: 3232"), encoding="utf-8")
    assert main(["try", *line, "--quiet"]) == 0
    assert "model: tickets-model, " in capsys.readouterr().out
    (final,) = read_records(project / "runs" / "tickets-final")
    assert min(final.data.examples.values()) > 0


@pytest.mark.slow
def test_where_the_time_does_not_hold_the_model_the_comparison_answers_and_the_same_command_goes_on(
    project, capsys, monkeypatch
):
    """Comparing had ended in time, and then a training of 8 minutes was begun; its score on 12 rows was shown."""
    suite = yaml.safe_load(SUITE) | {"keep_weights": "last", "methods": ["lora"]}

    def with_seeds(*seeds):
        (project / "tickets.yaml").write_text(yaml.safe_dump(suite | {"seeds": list(seeds)}))

    with_seeds(0)
    assert main(["run", "tickets.yaml", "--quiet"]) == 0
    with_seeds(0, 1)
    with monkeypatch.context() as no_time:
        no_time.setattr("lora_bench.cli.try_commands.TIMES_LONGEST", 1_000_000)
        no_time.setattr("lora_bench.cli.try_commands.LEAST_MINUTES", 0.001)
        no_time.setattr("lora_bench.cli.try_commands.LATEST", 0)
        capsys.readouterr()
        assert main(["try", "tickets.csv"]) == 3
    *_, compared, over, last = capsys.readouterr().out.splitlines()
    assert compared == "the time for comparing is over; the same command with more --minutes would go on with it"
    assert over == "the time is over before lora was trained on nearly all rows; the same command goes on with that"
    assert last == "to answer new rows until then: lora-bench predict runs/tickets new.csv"
    assert main(["predict", "runs/tickets", "tickets.csv"]) == 0 and not (project / "tickets-model").exists()
    capsys.readouterr()
    assert main(["try", "tickets.csv"]) == 0
    said = capsys.readouterr().out
    comparing, training = said.split("now the model tickets-model: lora on nearly all rows, about ")
    assert "to take one now" not in said and "accuracy" in comparing
    *progress, made, last = training.splitlines()
    assert any(line.startswith("[1/1] tickets · base · lora (") for line in progress) and "accuracy" not in " ".join(
        progress
    )
    assert last == "to answer new rows: lora-bench predict tickets-model new.csv"
    winner = find_winner(project / "runs" / "tickets")
    assert winner.expected.startswith(f"{winner.row.score.mean:.4f} (95 % by ")
    assert (
        made
        == f"model: tickets-model, lora on nearly all rows; expect accuracy {winner.expected} on new rows like these"
    )
    assert main(["use", "runs/tickets-final"]) == 0
    before = f"The same settings on 78% of the rows had a mean accuracy {winner.expected} over 2 seeds"
    note = f"{before} on rows that they had not seen."
    assert f"lora on base: Trained on nearly all rows. {note}\n" in capsys.readouterr().out
    assert note in (project / "tickets-model" / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_an_interrupt_in_the_run_on_all_rows_keeps_its_steps_and_the_same_call_goes_on(project):
    suite = yaml.safe_load(SUITE) | {"keep_weights": "last", "methods": ["lora"], "seeds": [0]}
    (project / "one.yaml").write_text(yaml.safe_dump(suite | {"suite": "one", "budget": {"train_examples": 1_600}}))
    assert main(["run", "one.yaml", "--quiet"]) == 0

    class Interrupt(Silent):
        def event(self, event):
            if event.step == 3:
                os.kill(os.getpid(), signal.SIGINT)

    given = project / "one.yaml", project / "runs", project / "model"
    with pytest.raises(Stopped):
        train_final(*given, Interrupt())
    assert not (project / "model").exists()
    assert "model: " in train_final(*given, Silent()) and (project / "model").is_dir()


@pytest.mark.slow
def test_where_runs_reached_no_plateau_the_model_on_all_rows_is_trained_longer_if_there_is_time(project):
    until = {"until": "plateau", "at_most": 640, "patience": 1000}
    suite = yaml.safe_load(SUITE) | {"keep_weights": "last", "methods": ["lora"], "budget": {"train_examples": until}}
    (project / "one.yaml").write_text(yaml.safe_dump(suite | {"suite": "one"}))
    assert main(["run", "one.yaml", "--quiet"]) == 0

    class Interrupt(Silent):
        def event(self, event):
            if event.step == 60:  # more than the 40 of the comparison
                os.kill(os.getpid(), signal.SIGINT)

    given = project / "one.yaml", project / "runs", project / "model"
    with pytest.raises(Stopped):
        train_final(*given, Interrupt(), 3600)
    assert "model: " in train_final(*given, Silent()), "no time is named, and the run goes on as it was planned"
    (compared,), (final,) = (read_records(project / "runs" / name) for name in ("one", "one-final"))
    assert compared.plateau.by == final.plateau.by == "cap" and final.resumed
    rows = [one.data.examples["train"] for one in (compared, final)]
    assert final.speed.train_examples == pytest.approx(2 * compared.speed.train_examples * rows[1] / rows[0], rel=0.03)
    card = (project / "model" / "README.md").read_text(encoding="utf-8")
    assert "nearly all rows, for 2.0 times as many epochs as the runs of the comparison, most of which" in card


def test_how_much_longer_is_a_matter_of_the_time_left_and_of_the_runs_that_their_cap_ended():
    def times(seconds, *ended):
        records = [SimpleNamespace(plateau=by and SimpleNamespace(by=by)) for by in ended]
        return final_model._longer(SimpleNamespace(row=SimpleNamespace(records=records)), 100.0, seconds)

    # 0.85 of the time is planned for, in tenths.
    assert [times(seconds, "cap") for seconds in (None, 60, 118, 150, 200, 1000)] == [1.0, 1.0, 1.0, 1.2, 1.7, 2.0]
    assert times(1000, "cap", "plateau") == times(1000, None) == 1.0 < times(1000, "cap", "cap", "plateau")


def test_the_run_of_another_method_or_of_a_broken_file_has_not_begun(tmp_path):
    content = {"methods": ["lora"], "budget": {"train_examples": {"until": "plateau", "at_most": 100}}}
    file = tmp_path / "a-final.yaml"
    found = []
    for text in (
        "methods: [lora]\nbudget: {train_examples: {until: plateau, at_most: 150}}\n",
        "methods: [full]\nbudget: {train_examples: {until: plateau, at_most: 150}}\n",
        "methods: [lora]\nbudget: {train_examples: 150}\n",
        "methods: [lora]\nbudget: {train_examples: {until: plateau, at_most: many}}\n",
        "methods: [lora\n",
    ):
        file.write_text(text)
        found.append(final_model._most_examples(file, content))
    assert (
        found == [150, None, None, None, None] and final_model._most_examples(tmp_path / "none.yaml", content) is None
    )
    assert final_model._lengthen(content, 1.2, 150) == 1.5 and content["budget"]["train_examples"]["at_most"] == 150
