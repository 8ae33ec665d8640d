"""The tables of a report as LaTeX: whole tables, whatever strings they have, that say what the page says."""

import re
import shutil
import subprocess
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_bench.report import Report, check_report, render_files, write_report
from lora_bench.report.blocks import Fold, Heading, TextTable
from lora_bench.report.latex import MOST_ROWS, escaped, to_latex
from lora_bench.report.markdown import page_of
from lora_bench.report.text import code, inert, unmarked
from tests.report.hostile import anywhere, hostile_probes, hostile_records
from tests.report.model.test_verdicts import FULL, runs, shifted
from tests.report.test_hostile import pages
from tests.sample_records import sample_suite

# What LaTeX shows for a command; each takes the braces after it.
SHOWN = {
    r"\textbackslash": "\\", r"\textasciitilde": "~", r"\textasciicircum": "^", r"\textless": "<", r"\textgreater": ">",
    r"\textbar": "|", r"\symbol{34}": '"', r"\symbol{96}": "`", r"\textendash": "–", r"\textemdash": "—", r"\ldots": "…",
    r"\dag": "†", r"\ddag": "‡", r"\S": "§", r"\pm": "±", r"\times": "×", r"\cdot": "·", r"\approx": "≈", r"\leq": "≤",
    r"\geq": "≥", r"\rightarrow": "→", r"\surd": "√", r"\Delta": "Δ", r"\alpha": "α", r"\varphi": "φ",
}  # fmt: skip
# The commands of tables and marks.
OURS = {
    rf"\{name}"
    for name in re.findall(
        r"\w+",
        "usepackage input begin end centering small caption label toprule midrule bottomrule endhead par smallskip parbox "
        "linewidth footnotesize textbf emph texttt circ",
    )
}
MATHS = {"$-$": "−", "$^2$": "²", "$^n$": "ⁿ", r"$^\circ$": "°", r"$\|$": "‖"}
TOKEN = re.compile(r"\$[^$]*\$|\\symbol\{\d+\}|\\[A-Za-z]+(?:\{\})?|\\.|[{}]|-\{\}|.", re.DOTALL)


def read(latex: str) -> str:
    """The text that LaTeX shows; bold, emphasis and typewriter alike. What LaTeX would not show as it is has no place here."""
    shown = []
    for token in TOKEN.findall(latex):
        if token in ("{", "}", r"\textbf", r"\emph", r"\texttt"):
            continue
        if token in MATHS or token.startswith("$"):
            shown.append(MATHS.get(token) or SHOWN[token.strip("$")])
        elif token.removesuffix("{}") in SHOWN:
            shown.append(SHOWN[token.removesuffix("{}")])
        elif token.startswith("\\"):
            assert token[1:] in set("{}$&#%_"), token
            shown.append(token[1:])
        else:
            assert token == "-{}" or token not in set('#%~^<>|"`&_$'), token
            shown.append(token.removesuffix("{}"))
    return "".join(shown)


def environments(latex: str) -> list[list[str]]:
    """The lines of every table; raises where environments do not nest."""
    open_ones, found = [], []
    for line in latex.splitlines():
        for which, name in re.findall(r"(?<!\\)\\(begin|end)\{(\w+)\}", line):
            if which == "begin":
                open_ones.append(name)
                found += [[]] if name in ("tabular", "longtable") else []
            else:
                assert open_ones.pop() == name
        if open_ones:
            found[-1:] = [[*found[-1], line]] if found else []
    assert not open_ones
    return found


def cells(line: str) -> list[str]:
    assert line.endswith(r" \\")
    return re.split(r"(?<!\\) & ", line.removesuffix(r" \\"))


def rows(table: list[str]) -> list[list[str]]:
    """The rows of a table, of which all have as many cells as its columns."""
    columns = re.sub(r"p\{0\.25\\linewidth\}", "p", re.search(r"\{(?:tabular|longtable)\}\{(.*)\}", table[0])[1])
    found = [cells(line) for line in table if line.endswith(r" \\") and not line.startswith(r"\caption")]
    assert set(columns) <= set("lrp") and all(len(row) == len(columns) for row in found)
    return found


def latex_of(report: Report) -> str:
    return render_files(report)[f"{report.name}.tex"].decode()


def page_tables(blocks) -> list[TextTable]:
    return [
        table
        for block in blocks
        for table in (
            [block] if isinstance(block, TextTable) else page_tables(block.blocks) if isinstance(block, Fold) else []
        )
    ]


@given(st.text())
def test_a_text_is_shown_as_it_is_on_one_line(text):
    line = "".join(one for one in re.sub(r"\s+", " ", text) if unicodedata.category(one)[0] != "C")
    named = "".join(
        one if one.isascii() or one in SHOWN.values() or one in MATHS.values() or unicodedata.category(one)[0] in "LMN"
        else f"U+{ord(one):04X}"
        for one in line
    )  # fmt: skip
    latex = escaped(text)
    assert read(latex) == named and "\n" not in latex
    assert latex.count("{") - latex.count(r"\{") == latex.count("}") - latex.count(r"\}")


@given(st.lists(st.lists(st.text(max_size=20), min_size=2, max_size=2), min_size=1, max_size=4))
def test_every_cell_of_a_table_is_found_again(texts):
    block = TextTable(["method", "a&b"], [[inert(one), code(other)] for one, other in texts])
    (table,) = environments(to_latex([Heading(1, "report"), Heading(2, "Scores"), block], name="report", note=""))
    assert [[read(escaped(unmarked(cell))) for cell in row] for row in (["method", "a&b"], *block.rows)] == [
        [read(cell) for cell in row] for row in rows(table)
    ]


def test_the_tables_are_those_of_the_page_with_the_rules_below_each():
    report = Report([*runs("full", FULL), *runs("prefix_tuning", shifted(0.02))], latex=True)
    latex = latex_of(report)
    found, expected = [rows(table) for table in environments(latex)], page_tables(page_of(report))
    assert len(found) == len(expected) > 5
    for table, block in zip(found, expected, strict=True):
        assert [[read(cell) for cell in row] for row in table] == [
            [read(escaped(unmarked(cell).replace("*", ""))) for cell in row] for row in (block.header, *block.rows)
        ]
    notes = re.findall(r"^\\parbox\{\\linewidth\}\{\\footnotesize (.*)\}$", latex, re.MULTILINE)
    assert len(notes) == len(found) and len(set(notes)) == 1
    said = "Rules: 10 seeds a method, paired by seed; error level 0.05 over 1 comparison; a margin of 0.005 (0.5 points"
    assert read(notes[0]).startswith(said) and "declared before the runs" in notes[0]
    labels = re.findall(r"\\label\{(tab:[a-z0-9-]+)\}", latex)
    assert len(labels) == len(set(labels)) == len(found)


def test_bold_is_what_is_shown_and_no_choice():
    shown = Report([*runs("full", FULL), *runs("lora", shifted((0.019, 0.021)))], latex=True)
    assert r"\textbf{better}" in latex_of(shown)
    header, line = ["method", "1e-3"], ["`lora`", "**0.8**"]
    choice, claim = (
        to_latex([Heading(2, "Rates"), TextTable(header, [line], bold_is_shown=told)], name="report", note="")
        for told in (False, True)
    )
    assert r"\textbf" not in choice and "& 0.8 " in choice and r"& \textbf{0.8} " in claim


def test_a_table_that_is_longer_than_a_page_goes_on_over_pages():
    def table(number):
        return to_latex([TextTable(["n"], [[str(n)] for n in range(number)])], name="report", note="Rules.")

    assert r"\begin{longtable}{l}" in table(MOST_ROWS + 1) and r"\begin{tabular}{l}" in table(MOST_ROWS)
    assert len(rows(environments(table(MOST_ROWS + 1))[0])) == MOST_ROWS + 2


@anywhere
def test_a_hostile_page_has_its_own_tables_and_no_command_but_ours(text):
    for name, blocks in pages(text).items():
        latex = to_latex(blocks, name=name, note=inert(text))
        shapes = [[len(row) for row in rows(table)] for table in environments(latex)]
        assert shapes == [[len(row) for row in (table.header, *table.rows)] for table in page_tables(blocks)]
        commands = re.findall(r"\\[A-Za-z]+", re.sub(r"\\\\(?=$|\n)", "", latex))
        assert {*commands} <= {re.sub(r"\{.*", "", one) for one in SHOWN} | OURS


def test_the_file_is_written_and_checked_where_it_is_asked_for(tmp_path):
    plain, asked = Report(sample_suite()), Report(sample_suite(), latex=True)
    assert tmp_path / "report.tex" not in write_report(plain, tmp_path)
    assert check_report(asked, tmp_path) == ["report.tex is missing"]
    assert tmp_path / "report.tex" in write_report(asked, tmp_path)
    assert check_report(asked, tmp_path) == []


def test_a_report_of_probes_alone_has_its_tables_too():
    latex = latex_of(Report([], probes=hostile_probes(), latex=True))
    assert environments(latex) and "Nothing was tested" in latex


def has_tex():
    find = shutil.which("kpsewhich")
    return (
        find is not None and subprocess.run([find, "adjustbox.sty"], capture_output=True, check=False).returncode == 0
    )


@pytest.mark.skipif(
    not has_tex(), reason="no TeX with its packages is installed; the tests above read the file instead"
)
def test_tex_sets_the_file(tmp_path):
    write_report(Report(hostile_records("_&%$#{}~^\\<>|[x]* é"), latex=True), tmp_path)
    packages = r"\usepackage{booktabs,longtable,adjustbox}"
    (tmp_path / "paper.tex").write_text(
        rf"\documentclass{{article}}{packages}\begin{{document}}\input{{report}}\end{{document}}", encoding="utf-8"
    )
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "paper"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0
