"""Writing a report and checking one share the rendering, and none of it needs torch."""

import os
import subprocess
import sys

from lora_bench.report import Report, check_report, render_files, write_report
from tests.sample_records import record, sample_suite


def test_a_report_is_markdown_with_the_figures_it_links_to_and_a_page_with_them_inside(tmp_path):
    written = write_report(Report(sample_suite()), tmp_path / "runs")
    names = [str(path.relative_to(tmp_path / "runs")) for path in written]
    assert names[:2] == ["report.md", "report.html"]
    markdown, page = (path.read_text(encoding="utf-8") for path in written[:2])
    assert all(f"]({name})" in markdown for name in names[2:])
    assert markdown.count(".svg)") == page.count("<svg ") == len(names) - 2


def test_files_are_the_same_whenever_they_are_rendered():
    records = sample_suite()
    assert render_files(Report(records)) == render_files(Report(records[::-1]))


def test_a_report_that_equals_its_records_has_no_differences(tmp_path):
    write_report(Report(sample_suite(), name="quickstart"), tmp_path)
    assert check_report(Report(sample_suite(), name="quickstart"), tmp_path) == []


def test_every_difference_is_named(tmp_path):
    written = write_report(Report(sample_suite(), name="quickstart"), tmp_path)
    markdown = written[0]
    lines = markdown.read_text(encoding="utf-8").splitlines(keepends=True)
    lines[2] = "4 methods, and one of them wins.\n"
    markdown.write_text("".join(lines), encoding="utf-8")
    written[2].unlink()
    (tmp_path / "quickstart" / "old.svg").write_text("<svg/>", encoding="utf-8")
    assert check_report(Report(sample_suite(), name="quickstart"), tmp_path) == [
        "quickstart.md differs from its records from line 3 on",
        "quickstart/differences.svg is missing",
        "quickstart/old.svg is not part of the report any more",
    ]


def test_figures_for_a_paper_are_pdf_beside_svg_and_the_same_in_every_process(tmp_path):
    code = (
        "import sys; from pathlib import Path; from tests.sample_records import sample_suite; "
        "from lora_bench.report import Report, write_report; "
        "write_report(Report(sample_suite(), figures='pdf'), Path(sys.argv[1]))"
    )
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "SOURCE_DATE_EPOCH": f"{seed}000000000"}
        subprocess.run([sys.executable, "-c", code, str(tmp_path / seed)], env=environment, check=True)
    first, second = ({file.name: file.read_bytes() for file in (tmp_path / seed / "report").iterdir()} for seed in "12")
    assert first == second
    pdfs = {name: content for name, content in first.items() if name.endswith(".pdf")}
    assert {f"{name.removesuffix('.pdf')}.svg" for name in pdfs} == {name for name in first if name.endswith(".svg")}
    assert all(content.startswith(b"%PDF-") and content.rstrip().endswith(b"%%EOF") for content in pdfs.values())
    assert not any(b"/CreationDate" in content or b"/Type3" in content for content in pdfs.values())
    plain = render_files(Report(sample_suite()))
    assert plain == {path: (tmp_path / "1" / path).read_bytes() for path in plain}


def test_a_pdf_of_other_records_does_not_stay(tmp_path):
    write_report(Report(sample_suite(), figures="pdf"), tmp_path)
    (tmp_path / "report" / "mine.pdf").write_bytes(b"%PDF-")
    write_report(Report(sample_suite()), tmp_path)
    assert [file.name for file in (tmp_path / "report").glob("*.pdf")] == ["mine.pdf"]


def test_figures_of_an_earlier_report_go_and_nothing_else_does(tmp_path):
    write_report(Report(sample_suite(), name="quickstart"), tmp_path)
    before = {file.name for file in (tmp_path / "quickstart").glob("*.svg")}
    assert "vader-film-trade-offs.svg" in before
    (tmp_path / "quickstart" / "mine.svg").write_text("<svg/>", encoding="utf-8")
    (tmp_path / "other-scores.svg").write_text("<svg/>", encoding="utf-8")
    link = "\n\n![Mine](../quickstart/mine.svg)\n\n![Scores](other/vader.svg)\n"
    page = tmp_path / "quickstart.md"
    page.write_text(page.read_text(encoding="utf-8") + link, encoding="utf-8")
    write_report(Report([record("lora", task="other", seed=seed) for seed in range(2)], name="quickstart"), tmp_path)
    after = {file.name for file in (tmp_path / "quickstart").glob("*.svg")}
    assert "mine.svg" in after and not after & before
    assert (tmp_path / "other-scores.svg").is_file()


def test_other_records_make_another_report(tmp_path):
    write_report(Report([record(score=0.7)]), tmp_path)
    assert check_report(Report([record(score=0.8)]), tmp_path) != []


def test_importing_the_reports_loads_neither_torch_nor_a_plotting_library():
    code = (
        "import sys; import lora_bench.report; "
        "heavy = {'torch', 'transformers', 'peft', 'datasets', 'pandas', 'matplotlib', 'scipy', 'markdown_it'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_rendering_loads_no_torch(tmp_path):
    code = (
        "import sys; from pathlib import Path; from tests.sample_records import sample_suite; "
        "from lora_bench.report import Report, to_frame, write_report; "
        f"write_report(Report(sample_suite()), Path({str(tmp_path)!r})); to_frame(sample_suite()); "
        "print(sorted({'torch', 'transformers', 'peft', 'matplotlib.pyplot'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
