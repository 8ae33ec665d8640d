"""What a plan refuses or warns of, before any training."""

import csv
import importlib.util
import json
import re
from pathlib import Path

import pytest

from lora_bench.cli import main
from lora_bench.methods import known_methods
from lora_bench.plan.counted_step import counted_step
from lora_bench.plan.make_plan import make_plan
from lora_bench.suite.load_suite import load_suite
from tests.project import GOOD, SUITE, write_data, write_project
from tests.tiny import tiny_roberta

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "tune.md"
ONE = SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[lora]")


@pytest.fixture
def planned(tmp_path, monkeypatch, capsys, shared_cache):
    """Plans a suite; gives the exit code, and what was printed."""
    monkeypatch.setenv("LORA_BENCH_CACHE", str(shared_cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def plan(suite, change=None):
        write_project(tmp_path, suite)
        if change is not None:
            change(tmp_path)
        code = main(["plan", "tickets.yaml"])
        printed = capsys.readouterr()
        return code, " ".join((printed.err if code else printed.out).split())

    return plan


@pytest.mark.parametrize("where", ["methods", "recipes"])
def test_methods_are_not_tuned_with_unequal_numbers_of_learning_rates(planned, where):
    full, lora = "[1e-4, 1e-3, 1e-2]", "[1e-4, 1e-3]" if where == "methods" else "[1e-4, 1e-3, 1e-2]"
    suite = ONE.replace("[lora]", f"[{{method: full, learning_rate: {full}}}, {{method: lora, learning_rate: {lora}}}]")
    suite += "tuning: {seeds: [7]}\n"
    if where == "recipes":
        assert planned(suite)[0] == 0
        suite += "recipes: [{methods: lora, learning_rate: [1e-4, 1e-3]}]\n"
    code, said = planned(suite)
    assert code == 2 and "tuning" in said and "full has 3, lora has 2" in said


def test_one_given_rate_beside_tuned_methods_is_a_warning(planned):
    methods = "[full, {method: lora, learning_rate: [1e-4, 1e-3]}]"
    code, said = planned(ONE.replace("[lora]", methods) + "tuning: {seeds: [7]}\n")
    assert code == 0
    assert (
        "warning: tickets: full runs on base at the one learning rate given, beside methods that choose among 2" in said
    )


def test_best_rates_of_searches_are_named_where_a_suite_gives_none_on_a_model_as_wide(planned):
    mini = ONE.replace("[base]", "[gpt2-mini]").replace("[lora]", "[lora, bitfit]")
    said = planned(mini)[1]
    assert "gpt2-mini: no learning rate is given" in said and "at width 256 chose lora 6e-3 (2e-3 to 1e-2), and" in said
    given = mini.replace("[lora, bitfit]", "[{method: lora, learning_rate: 1e-3}]")
    for suite in (given, mini + "recipes: [{methods: lora, learning_rate: 2e-3}]\n", ONE):
        assert "our searches" not in planned(suite)[1]


def test_the_page_has_the_rates_that_a_plan_names():
    table = PAGE.read_text(encoding="utf-8").partition("| width (searches) |")[2].splitlines()
    names = re.findall(r"`(\w+)`", table[0])
    for line in table[2:5]:
        width, *cells = line.strip("| ").split(" | ")
        for name, cell in zip(names, cells, strict=True):
            numbers = [float(found) for found in re.findall(r"[\d.]+e-\d", cell)]
            best, low, high = known_methods()[name].searched_rates[int(width.split()[0])]
            assert numbers == ([best] if low == high else [best, low, high])


def test_a_plan_shows_no_warning_of_one_library_about_another(planned, monkeypatch, tmp_path, recwarn):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))  # what was counted before is not counted again
    assert planned(ONE)[0] == 0
    assert not [one for one in recwarn if issubclass(one.category, FutureWarning)]


def test_methods_without_a_tuned_rate_are_a_warning_and_one_method_or_a_search_is_none(planned):
    two = ONE.replace("[lora]", "[full, lora]")
    said = planned(two)[1]
    assert "warning: no learning rate is tuned: each method runs at the one given" in said
    assert "(ranges: `lora-bench list methods`) and `tuning: {seeds: [100, 101]}`" in said
    for suite in (ONE, two + "score_on: selection\n"):
        assert "no learning rate is tuned" not in planned(suite)[1]
    rates = "recipes: [{learning_rate: [1e-4, 1e-3]}]\ntuning: {seeds: [7]}\n"
    assert "no learning rate is tuned" not in planned(two + rates)[1]
    likely = "[{method: full, learning_rate: 5e-5}, {method: lora_all, learning_rate: 3e-4}]"
    assert "no learning rate is tuned" not in planned(ONE.replace("[lora]", likely))[1]
    assert "no learning rate is tuned" in planned(ONE.replace("[lora]", likely.replace("5e-5", "2e-4")))[1]
    elsewhere = two.replace("budget: {", "budget: {trials: 3, tuned_in: a-search, ")
    assert elsewhere != two and "no learning rate is tuned" not in planned(elsewhere)[1]


def test_one_seed_of_trials_is_a_warning(planned):
    ranges = "[{method: lora, learning_rate: {low: 1e-4, high: 1e-2}}]"
    suite = ONE.replace("[lora]", ranges).replace("budget: {", "budget: {trials: 4, ")
    one = "learning rates are chosen by the scores of one seed"
    assert one in planned(suite + "tuning: {seeds: [7]}\n")[1]
    assert one not in planned(suite + "tuning: {}\n")[1]


def test_a_test_split_that_is_too_small_for_the_margin_is_a_warning(planned):
    # 400 rows leave about 40 for the test: 1.96 * sqrt(0.1 / 40) = 0.098.
    two = ONE.replace("[lora]", "[full, lora]") + "analysis: {reference: full, margin: MARGIN}\n"
    said = planned(two.replace("MARGIN", "0.02"))[1]
    assert "test examples show differences of about 0." in said
    # 0.1 * (1.96 / 0.02) ** 2 = 960.4
    assert "nothing as small as the margin of 0.02 can be decided; that takes about 961 (if" in said
    assert "can be decided" not in planned(two.replace("MARGIN", "0.2"))[1]
    assert "can be decided" not in planned(ONE)[1]  # one method is compared with none


def test_rows_of_a_document_count_once_for_what_a_test_split_can_show(planned):
    def documents(folder):
        rows = list(csv.reader((folder / "tickets.csv").open(newline="")))
        with (folder / "tickets.csv").open("w", newline="") as file:
            csv.writer(file).writerows(
                [[*row, "document" if index == 0 else index // 4] for index, row in enumerate(rows)]
            )

    two = ONE.replace("[lora]", "[full, lora]") + "analysis: {reference: full, margin: 0.02}\n"
    of_documents = two.replace("    label: queue\n", "    label: queue\n    split: {by: document}\n")
    assert of_documents != two
    said = planned(of_documents, documents)[1]
    groups, smallest = re.search(r"(\d+) groups of test examples show differences of about (\S+)", said).groups()
    assert float(smallest) == pytest.approx(1.96 * (0.1 / int(groups)) ** 0.5, rel=0.05) and int(groups) < 20


def test_a_plan_says_of_a_method_that_it_is_likely_not_to_fit(planned):
    code, said = planned(ONE)
    assert code == 0 and "not to fit" not in said
    code, said = planned(ONE + "training: {batch_size: 1000000000}\n")
    needed = re.search(r"warning: 'lora' on 'base' for 'tickets' is likely not to fit: it needs about (\S+ MiB)", said)
    # The same number as in the table, whose column has no room for all of it.
    assert code == 0 and f" {needed[1][:9]}" in said.replace(needed[0], "")


def test_logits_count_in_what_a_plan_warns_of(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("lora_bench.plan.checks.installed_bytes", lambda: 300 * 2**20)
    rows = "\n".join(json.dumps({"asked": f"the film {n}", "answer": f"great {n}"}) for n in range(100))
    (tmp_path / "told.jsonl").write_text(rows)
    path = tmp_path / "told.yaml"
    path.write_text(
        "suite: told\ntasks: [{task: told, kind: generation, data: told.jsonl, text: asked, label: answer}]\n"
        "models: [gpt2-mini]\nmethods: [lora]\nseeds: [0, 1]\nbudget: {train_examples: 64}\n"
        "training: {batch_size: 32, max_length: 128}\n"
    )
    plan = make_plan(load_suite(path), tmp_path / "runs")
    cell, step = plan.cells[0], counted_step(plan.cells[0], cuda=False)
    assert cell.estimate.memory_bytes < 300 * 2**20 < step.peak_bytes
    shown = f"'lora' on 'gpt2-mini' for 'told' is likely not to fit: it needs about {step.peak_bytes / 2**20:,.0f} MiB"
    assert [said for said in plan.cautions if "not to fit" in said] == [f"{shown}, and this machine has 300 MiB"]


def test_inputs_beyond_a_models_positions_are_refused_and_a_long_max_length_alone_is_not(planned):
    # RoBERTa's 64 rows of positions are 62 for tokens, of which two are the ends of the text.
    def write(words):
        def change(folder):
            with write_data(folder / "tickets.csv").open("a", newline="") as file:
                csv.writer(file).writerow([" ".join(words * [GOOD[0]]), "praise"])

        return change

    suite = ONE + "training: {max_length: 512}\n"
    assert planned(suite, write(60))[0] == 0
    code, said = planned(suite, write(61))
    assert code == 2 and "training.max_length: is 512, but 'base' reads 62 tokens at most" in said
    assert "an input of tickets has 63: take max_length: 62" in said
    assert planned(ONE + "training: {max_length: 62}\n", write(61))[0] == 0


def test_a_vocabulary_that_is_smaller_than_the_tokenizers_is_refused(planned):
    def shrink(folder):
        tiny_roberta(vocab_size=10).roberta.save_pretrained(folder / "base")

    code, said = planned(ONE, shrink)
    assert code == 2 and "models[0]: the tokenizer of 'base' has 25 tokens, and the model knows 10" in said


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("adam_beta2: 5.0", "Invalid beta parameter at index 1: 5.0"),
        ("adam_epsilon: -1.0", "Invalid epsilon value: -1.0"),
    ],
)
@pytest.mark.parametrize("where", ["suite", "recipe"])
def test_numbers_that_the_optimiser_refuses_are_refused_before_any_run(planned, where, given, words):
    arguments = f"training_arguments: {{{given}}}"
    suite = ONE + (f"{arguments}\n" if where == "suite" else f"recipes: [{{methods: lora, {arguments}}}]\n")
    code, said = planned(suite)
    assert code == 2 and f"training_arguments: {words}" in said


@pytest.mark.parametrize(("optimiser", "library"), [("paged_adamw_8bit", "bitsandbytes"), ("stable_adamw", "optimi")])
def test_an_optimiser_of_a_library_that_is_not_installed_is_refused_before_any_run(planned, optimiser, library):
    if importlib.util.find_spec(library) is not None:
        pytest.skip("it is installed")
    code, said = planned(ONE + f"training_arguments: {{optim: {optimiser}}}\n")
    assert code == 2 and "training_arguments: You need to install" in said and library in said


@pytest.mark.parametrize(("axis", "amount"), [("epochs", "1e300"), ("train_examples", 9 * 10**18)])
def test_work_without_an_end_is_refused(planned, axis, amount):
    code, said = planned(ONE.replace("train_examples: 48", f"{axis}: {amount}"))
    assert code == 2 and f"budget.{axis}: comes to" in said and "at most 1.1e+12 are seen" in said
