"""The page says what the Markdown says; in a browser it sorts, fits a phone, and asks nobody for anything."""

import io
import re
import shutil
from pathlib import Path
from urllib.parse import unquote_to_bytes

import html5lib
import numpy
import pytest
from markdown_it import MarkdownIt
from matplotlib.image import imread

from lora_bench.records.probe_store import read_probes
from lora_bench.records.store import answers_in, has_records, read_records
from lora_bench.records.suite_about import about_in
from lora_bench.report import Report, render_files
from lora_bench.report.blocks import Figure, Fold, Heading, TextTable
from lora_bench.report.figures.draw import COLOURS, NEUTRAL
from lora_bench.report.html import ASSETS, DARK, render_page
from lora_bench.report.markdown import page_of
from tests.probe.records import sample_probes
from tests.sample_records import MODELS, record, sample_suite

ROOT = Path(__file__).parents[2]
XHTML = "{http://www.w3.org/1999/xhtml}"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
TITLE = Heading(1, "t")
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def files():
    """A report with figures, folds, failures, trials in two settings, and probes."""
    trials = [
        record(learning_rate=rate, training={"batch_size": size}, spec={"score_on": "selection"})
        for rate in (1e-4, 3e-4)
        for size in (16, 32)
    ]
    return {
        name: content.decode("utf-8")
        for name, content in render_files(
            Report([*sample_suite(), *trials], name="sample", probes=sample_probes())
        ).items()
    }


def said(html):
    """The words of a page in their order, without invisible spaces."""
    body = html5lib.parse(html).find(f"{XHTML}body")
    for parent in [*body.iter()]:
        for child in [*parent]:
            if child.tag == f"{XHTML}script":
                parent.remove(child)
    return "".join(body.itertext()).replace("\u200b", "").split()


def test_the_page_says_word_for_word_what_the_markdown_says(files):
    github = MarkdownIt("commonmark", {"html": True}).enable("table").render(files["sample.md"])
    assert said(files["sample.html"]) == said(github)
    assert len(said(github)) > 1000


def test_the_title_is_that_of_the_report_and_its_links_lead_to_all_sections(files):
    page = html5lib.parse(files["sample.html"], namespaceHTMLElements=False)
    assert page.find("head/title").text == "quickstart"
    links = {link.get("href") for link in page.iter("a")}
    assert {f"#{one.get('id')}" for one in page.iter("h2")} <= links
    assert [level for level in ("h1", "h2", "h3", "h4") if page.find(f".//{level}") is None] == []


def test_a_table_names_its_lines_and_sets_numbers_to_the_right():
    rows = [["`lora`", "2", "1.5"], ["`full`", "1", "9"]]
    blocks = [TITLE, TextTable(["method", "runs", "seconds"], rows)]
    page = html5lib.parse(render_page(blocks, {}), namespaceHTMLElements=False)
    assert [cell.get("scope") for cell in page.find(".//thead/tr")] == ["col"] * 3
    assert ["".join(row.find("th[@scope='row']").itertext()) for row in page.find(".//tbody")] == ["lora", "full"]
    assert [cell.get("class") for cell in page.find(".//tbody/tr")] == [None, "number", "number"]


def test_html_that_no_renderer_of_ours_writes_is_text():
    blocks = [TITLE, Fold("2 records", ["inside"]), "<details><summary><b>x</b></summary>", "</details>", "</main>"]
    page = html5lib.parse(render_page(blocks, {}), namespaceHTMLElements=False)
    (fold,) = page.iter("details")
    assert fold.find("summary").text == "2 records" and fold.find("p").text == "inside"
    shown = [paragraph.text for paragraph in page.find("body/main/section").findall("p")]
    assert shown == ["<details><summary><b>x</b></summary>", "</details>", "</main>"]


def test_a_figure_that_is_not_given_is_no_page():
    with pytest.raises(KeyError, match=r"other\.svg"):
        render_page([TITLE, Figure("x", "other.svg", "A caption.")], {})


def test_a_figure_is_an_image_that_holds_its_file_and_what_it_shows():
    svg = '<svg xmlns="http://www.w3.org/2000/svg" width="9pt" height="9pt"><title>"é" &amp; 50 %</title></svg>\n'
    html = render_page([TITLE, Figure('50 % of "a"', "a.svg", "A caption.")], {"a.svg": svg.encode()})
    (image,) = html5lib.parse(html, namespaceHTMLElements=False).iter("img")
    kind, held = image.get("src").split(",", 1)
    assert (kind, image.get("alt")) == ("data:image/svg+xml", '50 % of "a"')
    drawing, style = unquote_to_bytes(held).decode().split("<style>")
    assert drawing == svg.removesuffix("</svg>\n") and style.endswith("</style></svg>\n")


# Colours.


def luminance(colour):
    """Relative luminance as WCAG 2 has it."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def palettes():
    css = (ASSETS / "page.css").read_text(encoding="utf-8")
    light, dark = (
        dict(re.findall(r"--([\w-]+): (#\w{6});", block)) for block in re.findall(r":root \{(.*?)\n *\}", css, re.S)[:2]
    )
    return {"light": light, "dark": dark}


def test_contrast_by_hand():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_the_contrast_that_wcag_asks_for(scheme):
    palette = palettes()[scheme]
    for behind in ("page", "raised"):
        for colour in ("text", "muted", "accent"):
            assert contrast(palette[colour], palette[behind]) >= 4.5, (colour, behind)


def test_figures_are_readable_on_a_dark_page(files):
    dark = palettes()["dark"]
    background, grid = {"ffffff"}, {"e6e6e6"}
    drawn = "".join(re.findall(r'src="data:image/svg\+xml,([^"]*)<style>@media', files["sample.html"]))
    used = set(re.findall(r"(?:fill|stroke): %23(\w{6})", drawn))
    used |= {colour[1:].lower() for colour in (*COLOURS, NEUTRAL)}
    assert background | grid <= used
    for colour in used - background - grid:
        shown = DARK.get(f"#{colour}", f"#{colour}")
        # Words and ticks are text; 3 to 1 is asked of what is drawn.
        least = 4.5 if len(set(colour)) <= 2 else 3
        assert contrast(shown, dark["page"]) >= least, colour
    assert (DARK["#ffffff"], DARK["#000000"]) == (dark["page"], dark["text"])


# In a browser.


@pytest.fixture(scope="module")
def browser():
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium here to open the page with: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found)
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser, tmp_path):
    """Opens a page from the disk; when the test is over, nothing was complained of and nothing else was asked for."""
    complaints, asked, contexts = [], [], []

    def opened(html, viewport=DESK, scheme="light"):
        file = tmp_path / "report.html"
        file.write_text(html, encoding="utf-8")
        contexts.append(browser.new_context(viewport=viewport, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        return page

    yield opened
    assert complaints == []
    assert asked == [(tmp_path / "report.html").as_uri()] * len(contexts)
    for context in contexts:
        context.close()


# A column as it is reported, and as it is shown after one and after two clicks.
COLUMNS = {
    "method": (
        ["`r2`", "`r16`", "`r1`", "`full`†", "`r8`", "`r4`"],
        ["full†", "r1", "r2", "r4", "r8", "r16"],
        ["r16", "r8", "r4", "r2", "r1", "full†"],
    ),
    "score": (
        ["0.7415 ± 0.0405", "–", "0.683 ± 0.012", "−0.5000", "`diverged` (seed 1)", "1,024.50‡"],
        ["−0.5000", "0.683 ± 0.012", "0.7415 ± 0.0405", "1,024.50‡", "diverged (seed 1)", "–"],
        ["1,024.50‡", "0.7415 ± 0.0405", "0.683 ± 0.012", "−0.5000", "diverged (seed 1)", "–"],
    ),
    "memory": (
        ["1.2 GiB", "300 MiB", "–", "2 KiB", "1 TiB", "0.9 GiB"],
        ["2 KiB", "300 MiB", "0.9 GiB", "1.2 GiB", "1 TiB", "–"],
        ["1 TiB", "1.2 GiB", "0.9 GiB", "300 MiB", "2 KiB", "–"],
    ),
    "share": (
        ["12.3 %", "exempt†", "100.0 %", "9.8 %", "97.0 %†", "–"],
        ["9.8 %", "12.3 %", "97.0 %†", "100.0 %", "exempt†", "–"],
        ["100.0 %", "97.0 %†", "12.3 %", "9.8 %", "exempt†", "–"],
    ),
    "rate": (
        ["3e-4", "1e-2", "2.5e−07", "–", "1e-1", "3e-3"],
        ["2.5e−07", "3e-4", "3e-3", "1e-2", "1e-1", "–"],
        ["1e-1", "1e-2", "3e-3", "3e-4", "2.5e−07", "–"],
    ),
    "run id": (
        ["`00ab`", "`9f3c`", "`1e55aa`", "`0b`", "`7d`", "`12c`"],
        ["00ab", "0b", "1e55aa", "7d", "9f3c", "12c"],
        ["12c", "9f3c", "7d", "1e55aa", "0b", "00ab"],
    ),
}


@pytest.fixture(scope="module")
def one_table():
    rows = [*zip(*(reported for reported, _, _ in COLUMNS.values()), strict=True)]
    return render_page([TITLE, TextTable([*COLUMNS], rows)], {})


def column(page, number):
    return page.locator(f"tbody tr > :nth-child({number})").all_inner_texts()


def test_a_click_on_a_header_sorts_up_then_down_then_as_it_was(open_page, one_table):
    page = open_page(one_table)
    for number, (name, (_, up, down)) in enumerate(COLUMNS.items(), start=1):
        before = column(page, number)
        header = page.locator("thead th", has_text=name)
        for expected, direction in ((up, "ascending"), (down, "descending"), (before, None)):
            header.get_by_role("button").click()
            assert column(page, number) == expected
            assert header.get_attribute("aria-sort") == direction
            assert page.locator("[aria-sort]").count() == (direction is not None)


def test_a_header_sorts_by_keys_alone(open_page, one_table):
    page = open_page(one_table)
    for _ in range(3):  # the box that scrolls, the first header, the second
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "score"
    page.keyboard.press("Enter")
    assert column(page, 2) == COLUMNS["score"][1]
    page.keyboard.press("Space")
    assert column(page, 2) == COLUMNS["score"][2]
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    assert column(page, 1) == COLUMNS["method"][1]
    assert page.locator("[aria-sort]").all_inner_texts() == ["method"]


def test_a_table_of_properties_and_a_single_line_do_not_sort(open_page, files):
    page = open_page(files["sample.html"])
    for fold in page.locator("summary").all():
        fold.click()
    recipe = page.locator("table", has_text="batch size").first
    assert recipe.locator("tbody tr").count() > 5 and recipe.get_by_role("button").count() == 0
    assert page.locator("table", has_text="of the target").first.get_by_role("button").count() == 8


def seen_in(locator):
    """The colours that are seen in an element."""
    pixels = imread(io.BytesIO(locator.screenshot()))
    return {
        bytes(pixel).hex()
        for pixel in numpy.unique((pixels[..., :3] * 255).round().astype("u1").reshape(-1, 3), axis=0)
    }


def test_a_dark_system_gets_a_dark_page_with_figures_to_match(open_page, files):
    colours = "() => ['backgroundColor', 'color'].map((name) => getComputedStyle(document.body)[name])"
    light, dark = (open_page(files["sample.html"], scheme=scheme) for scheme in ("light", "dark"))
    assert light.evaluate(colours) == ["rgb(255, 255, 255)", "rgb(31, 35, 40)"]
    assert dark.evaluate(colours) == ["rgb(21, 24, 28)", "rgb(228, 231, 235)"]
    in_light, in_dark = (
        seen_in(page.locator("img[alt='Score against parameters, memory and time']")) for page in (light, dark)
    )
    filled = [
        "#ffffff",
        NEUTRAL,
        *(colour.lower() for colour in COLOURS[:3]),
    ]  # what is thin is seen as a mixture
    assert {colour[1:] for colour in filled} <= in_light - in_dark
    assert {DARK[colour][1:] for colour in filled} <= in_dark - in_light


def test_nothing_in_a_figure_acts_or_is_asked_for(open_page):
    inside = """<script>document.title = "acted"; parent.document.title = "acted"</script>
        <style>@import url("https://evil.example/s.css"); body { display: none }</style>
        <image href="https://evil.example/i.png" width="9" height="9"/>
        <use href="https://evil.example/x.svg#y"/>
        <path d="M 0 0 L 9 9" style="fill: url(https://evil.example/x)" onload="parent.document.title = 'acted'"/>
        <foreignObject width="9" height="9"><iframe xmlns="http://www.w3.org/1999/xhtml" src="https://evil.example"/></foreignObject>"""
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" width="9pt" height="9pt"><rect width="9" height="9"/>{inside}</svg>'
    page = open_page(render_page([TITLE, Figure("x", "a.svg", "A caption.")], {"a.svg": svg.encode()}))
    assert page.locator("img").evaluate("image => image.complete && image.naturalWidth") == 12
    assert page.title() == "t" and page.locator("figcaption").is_visible()
    assert len(page.frames) == 1


def test_a_phone_scrolls_tables_and_figures_sideways_and_not_the_page(open_page, files):
    page = open_page(files["sample.html"], viewport=PHONE)
    for fold in page.locator("summary").all():
        fold.click()
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    wider = page.eval_on_selector_all(
        ".wide", "boxes => boxes.filter((box) => box.scrollWidth > box.clientWidth).length"
    )
    assert wider > page.locator("img").count() >= 3
    scores = page.locator(".wide", has_text="95 % interval").first
    scores.evaluate("box => { box.scrollLeft = 200; }")
    assert scores.evaluate("box => box.scrollLeft") == 200
    # The names of the lines stay in sight.
    line = scores.locator("tbody th").first.bounding_box()
    assert line["x"] == pytest.approx(scores.bounding_box()["x"], abs=1)


@pytest.fixture(scope="module")
def decided():
    """A report of four methods with ten seeds on three base models."""
    shifts = {"full": 0.03, "lora": 0.0, "bottleneck_adapter": 0.005, "prefix_tuning": -0.05}
    records = [
        record(method, model=model, seed=seed, score=0.7 + by * (1 + seed % 2 / 5) + (seed % 3) / 200)
        for model in MODELS
        for method, by in shifts.items()
        for seed in range(10)
    ]
    return render_files(Report(records, name="decided"))["decided.html"].decode()


def first_screen(page):
    """Where the parts of the first screen end, from the top of the page."""
    return page.evaluate("""() => Object.fromEntries(Object.entries({
        lead: ".answer .lead", strength: ".answer p:has(a[href='#verdicts'])", picture: ".answer figure img",
        table: ".answer table", next: ".answer p:last-of-type",
    }).map(([name, found]) => [name, document.querySelector(found).getBoundingClientRect().bottom]))""")


@pytest.mark.parametrize("name", ["decided", "sample"])
@pytest.mark.parametrize(
    ("width", "height", "seen"),
    [(1400, 900, "next"), (1024, 768, "picture"), (390, 844, "strength")],
)
def test_the_first_screen_has_the_answer(open_page, files, decided, name, width, height, seen):
    page = open_page(
        decided if name == "decided" else files["sample.html"], viewport={"width": width, "height": height}
    )
    ends = first_screen(page)
    assert [*ends] == sorted(ends, key=ends.get)  # headline, strength, picture, table, next step
    assert ends[seen] <= height
    assert page.evaluate("document.documentElement.scrollWidth") == width


KEPT = {path.parent.name for name in ("runs", "probes") for path in (ROOT / "baselines").glob(f"*/{name}.json")}
COMMITTED = sorted(path.stem for path in (ROOT / "reports").glob("*.md") if path.stem in KEPT)


@pytest.fixture(scope="module")
def kept():
    """The report of each baseline beside those of all others."""
    made = {}
    for name in COMMITTED:
        folder = ROOT / "baselines" / name
        records = read_records(folder) if has_records(folder) else []
        made[name] = Report(
            records,
            name=name,
            probes=read_probes(folder),
            answers=answers_in(folder, records),
            about=about_in(folder),
            beside=made,
        )
    return made


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMITTED)
def test_a_laptop_shows_the_first_screen_of_every_committed_report(open_page, kept, name):
    folder = ROOT / "reports"
    figures = {path.relative_to(folder).as_posix(): path.read_bytes() for path in (folder / name).glob("*.svg")}
    page = open_page(render_page(page_of(kept[name]), figures), viewport={"width": 1400, "height": 900})
    ends = page.eval_on_selector_all(
        ".answer p", "all => all.map((one) => [one.innerText, one.getBoundingClientRect().bottom])"
    )
    (end,) = (end for said, end in ends if said.startswith("Next: "))
    assert end <= 900


def test_a_phone_gets_the_picture_that_it_can_show(open_page, decided):
    widths = {}
    for viewport in (DESK, PHONE):
        image = open_page(decided, viewport=viewport).locator(".answer figure img")
        widths[viewport["width"]] = image.bounding_box()["width"]
    assert widths[PHONE["width"]] <= PHONE["width"] < widths[DESK["width"]]


def test_what_few_readers_need_is_folded_away(open_page, files):
    page = open_page(files["sample.html"])
    folded = page.locator("details:not([open]) > summary").all_inner_texts()
    assert {"What all runs shared", "How sure each comparison is", "Memory and time"} <= set(folded)


def test_every_figure_is_drawn_in_the_colours_of_its_methods(open_page, files):
    page = open_page(files["sample.html"])
    seen = set().union(*map(seen_in, page.locator("figure img").all()))
    assert {"0072b2", "d55e00", "009e73", "333333"} <= seen
    heights = page.eval_on_selector_all("figure img", "all => all.map((one) => one.getBoundingClientRect().height)")
    assert len(heights) == files["sample.md"].count("![") and min(heights) > 150
