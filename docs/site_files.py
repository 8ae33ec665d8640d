"""The files of the documentation site: those of docs/, the reports, and whatever else pages link to.

Reports as pages in one file are not committed: `tox -e docs` first renders them into build/.

MkDocs sees each under its path in the repository, so a relative link that is right on a forge is right on the site. Addresses
leave out the folder docs/. Pages of the reference that only the site has are made here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File, Files
from reference import pages

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
RENDERED = ROOT / "build" / "reports"
SHOWN = (
    "*",
    "docs/*.css",
    "docs/**/*.md",
    "examples/*",
    "lora_bench/data/deberta-mini/README.md",
    "lora_bench/data/gpt2-mini/README.md",
    "reports/*.md",
    "reports/*/*.md",
    "reports/*/*.svg",
)
# The first page is docs/index.md.
ADDRESSES = {"README.md": "readme/index.html"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Put the repository's files in the place of those of docs/; the theme's stay."""
    found = [file for file in files if file.src_dir != config.docs_dir]
    for path in sorted({path for pattern in SHOWN for path in ROOT.glob(pattern) if path.is_file()}):
        name = path.relative_to(ROOT).as_posix()
        found.append(placed(File(name, str(ROOT), config.site_dir, config.use_directory_urls)))
    for path in sorted(RENDERED.rglob("*.html")):
        name = path.relative_to(RENDERED.parent).as_posix()
        found.append(placed(File(name, str(RENDERED.parent), config.site_dir, config.use_directory_urls)))
    for name, content in pages().items():
        found.append(placed(File.generated(config, f"docs/reference/{name}.md", content=content)))
    return Files(found)


def placed(file: File) -> File:
    """Give a file its address on the site."""
    file.dest_uri = ADDRESSES.get(file.src_uri, file.dest_uri.removeprefix("docs/"))
    return file


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: object) -> str:
    """Let folded parts of reports have tables, link their findings, and keep their thousands of numbers out of the search."""
    if page.file.src_uri.startswith("reports/"):
        page.meta["search"] = {"exclude": True}
        slug = config.mdx_configs["toc"]["slugify"]
        links = [f"[{title}](../docs/findings.md#{slug(title, '-')})" for title in findings(page.file.src_uri)]
        said = [f"\n*Beside what papers say: {link}*\n" for link in links]
        alone = (RENDERED.parent / page.file.src_uri).with_suffix(".html")
        if alone.is_file():
            said.insert(0, f"\n*[In one file, figures included]({alone.name})*\n")
        first, _, rest = markdown.partition("\n")
        markdown = "\n".join([first, *said, rest])
    return markdown.replace("<details>", '<details markdown="1">')


def findings(report: str) -> list[str]:
    """Return the titles of the sections of docs/findings.md that link a report by its name."""
    sections = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8").split("\n## ")[1:]
    link = re.compile(rf"\[`[\w-]+`\]\(\.\./{re.escape(report)}\)")
    return [section.partition("\n")[0] for section in sections if link.search(section)]
