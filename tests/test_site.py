"""The site's navigation has every page, its reference says what is there, and its workflow may not write where it installs."""

import importlib
import json
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import yaml

from lora_bench.cli.parser import build_parser
from tests.test_docs import PAGES
from tests.test_pages import name_of

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
import reference  # noqa: E402


class MkDocs(yaml.SafeLoader):
    """Reads mkdocs.yml, tags of MkDocs as nothing."""


MkDocs.add_multi_constructor("", lambda loader, tag, node: None)
SITE = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), MkDocs)


def navigation(part=None) -> list[str]:
    part = SITE["nav"] if part is None else part
    if isinstance(part, str):
        return [part]
    return [page for one in (part.values() if isinstance(part, dict) else part) for page in navigation(one)]


def test_the_navigation_of_the_site_has_every_page_once():
    made = {f"docs/reference/{name}.md" for name in reference.pages()}
    reports = {name_of(page) for page in (ROOT / "reports").glob("*.md")}
    assert len(navigation()) == len(set(navigation()))
    assert set(navigation()) == {*map(name_of, PAGES), *made, *reports, "CHANGELOG.md"}


def test_the_workflow_of_the_site_installs_only_where_it_may_not_write_and_zizmor_finds_nothing():
    file = ROOT / ".github" / "workflows" / "site.yml"
    workflow = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {}
    for job in workflow["jobs"].values():
        assert any("run" in step for step in job["steps"]) == ("write" not in job["permissions"].values())
        assert all(re.search(r"@[0-9a-f]{40}$", step["uses"]) for step in job["steps"] if "uses" in step)
    zizmor = str(Path(sysconfig.get_path("scripts")) / "zizmor")
    done = subprocess.run([zizmor, "--offline", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_of_the_command_line_has_every_option():
    page = reference.command_line_page()
    for words, parser in reference.commands(build_parser()):
        (section,) = re.findall(rf"^## {' '.join(words)}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
        for action in parser._actions:
            assert all(name in section for name in action.option_strings if name not in ("-h", "--help"))
    assert "%%" not in page and "None" not in page


def test_the_page_of_records_has_every_field():
    page = reference.records_page()
    for name in reference.RECORDS:
        schema = json.loads((reference.SCHEMAS / f"{name}.schema.json").read_text(encoding="utf-8"))
        for part in [schema, *schema.get("$defs", {}).values()]:
            assert all(f"`{field}`" in page for field in part.get("properties", {}))


def test_the_page_of_python_names_what_can_be_had():
    names = re.findall(r"^::: (\S+)$", reference.python_page(), re.MULTILINE)
    assert len(names) >= 12
    for name in names:
        module, _, last = name.rpartition(".")
        found = getattr(importlib.import_module(module), last, None) or importlib.import_module(name)
        assert found.__doc__
