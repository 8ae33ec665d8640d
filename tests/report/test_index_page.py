"""The index of a folder lists its reports with their answers, from their own pages, and links to each."""

import html5lib
import pytest

from lora_bench.cli import main
from lora_bench.records.sealed_records import to_json
from lora_bench.report import Report, write_report
from lora_bench.report.index_page import entries, write_index
from tests.report.test_html import PHONE, browser, open_page  # noqa: F401  # fixtures
from tests.sample_records import record, sample_suite

DECIDED = [
    record(method, seed=seed, score=0.7 + by * (1 + seed % 2 / 5) + (seed % 3) / 200)
    for method, by in (("full", 0.0), ("prefix_tuning", -0.05))
    for seed in range(10)
]


def store(folder, records):
    for one in records:
        (folder / one.run_id).mkdir(parents=True)
        (folder / one.run_id / "record.json").write_bytes(to_json(one))


@pytest.fixture
def runs(tmp_path):
    """A folder of two suites and a series, and a page that is no report."""
    store(tmp_path / "runs" / "decided", DECIDED)
    store(tmp_path / "runs" / "open", sample_suite())
    (tmp_path / "runs" / "notes.html").write_text("<title>notes</title>")
    return tmp_path / "runs"


def test_report_writes_an_index_with_the_answer_and_the_strength_of_each_suite(runs, capsys):
    assert main(["report", str(runs)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(runs / "index.html")
    page = html5lib.parse((runs / "index.html").read_text(), namespaceHTMLElements=False)
    assert [link.get("href") for link in page.iter("a")] == [
        "decided/report.html", "decided/report.html", "decided/report.md",
        "open/report.html", "open/report.html", "open/report.md",
    ]  # fmt: skip
    assert all((runs / link.get("href")).is_file() for link in page.iter("a"))
    first, second = entries(runs)
    # A ranking is as doubtful here as on its own page.
    assert "No learning rate was tuned in these runs: they were given" in first.answer
    assert first.answer.startswith("Take full: ")
    assert first.strength.startswith("Strength: recommendation (10 seeds") and first.strength.endswith("on others.")
    assert "Strength: undecided" in second.strength
    shown = "".join(page.find("body").itertext())
    assert first.answer in shown and second.strength in shown and "notes" not in shown


def test_a_suite_beside_its_records_says_what_is_asked(runs):
    suite = runs / "decided" / "suite.yaml"
    for content, about in (
        ("about: >-\n  Do prefixes keep up,\n  unlike in `open`?", "*Do prefixes keep up, unlike in `open`?*"),
        ("about: [", None),  # a broken file costs no report
        ("suite: decided", None),
    ):
        suite.write_text(content)
        assert main(["report", str(runs)]) == 0
        page = (runs / "decided" / "report.md").read_text().split("\n\n")
        assert page[1] == about if about else page[1].startswith("**Take `full`")
        # An index has the answers.
        assert entries(runs)[0].answer.startswith("Take full")


def test_the_report_of_one_suite_keeps_an_index_up_to_date_and_makes_none(runs):
    assert main(["report", str(runs / "open")]) == 0
    assert not (runs / "index.html").exists()
    assert write_index(runs) == runs / "index.html"
    assert main(["report", str(runs / "decided")]) == 0
    assert "Take full" in (runs / "index.html").read_text()


def test_pages_need_not_be_committed(runs, tmp_path, capsys):
    out = tmp_path / "reports"
    assert main(["report", str(runs), "--out", str(out)]) == 0
    pages = sorted(out.rglob("*.html"))
    assert len(pages) == 3
    for page in pages:
        page.unlink()
    assert main(["report", str(runs), "--out", str(out), "--check"]) == 0
    assert not list(out.rglob("*.html"))
    (out / "open.md").unlink()
    assert main(["report", str(runs), "--out", str(out), "--check"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "open.md is missing"


def test_series_of_a_suite_are_told_apart(tmp_path):
    for series in ("may", "june"):
        write_report(Report(DECIDED), tmp_path / "quickstart" / series)
    page = write_index(tmp_path).read_text()
    assert "quickstart / june" in page and "quickstart / may" in page
    assert write_index(tmp_path / "nothing") is None


def test_names_of_records_are_text_on_it(tmp_path):
    name = '"><script>alert(1)</script>'
    for suite in ("a", "b"):
        records = [one.model_copy(update={"suite": name}) for one in DECIDED]
        write_report(Report(records), tmp_path / suite)
    page = html5lib.parse(write_index(tmp_path).read_text(), namespaceHTMLElements=False)
    assert not [*page.iter("script")] and "alert(1)" in "".join(page.find("body").itertext())


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_telephone_and_asks_for_nothing(open_page, runs, scheme):  # noqa: F811
    assert main(["report", str(runs)]) == 0
    page = open_page((runs / "index.html").read_text(), viewport=PHONE, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    assert page.locator("h2").all_inner_texts() == ["quickstart", "quickstart"]
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == (
        "rgb(255, 255, 255)" if scheme == "light" else "rgb(21, 24, 28)"
    )
