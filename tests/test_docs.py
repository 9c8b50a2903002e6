"""The README and docs/: the site builds, links lead somewhere, and commands, SQL and Python in them are valid."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from pipeline import cli, commands
from tests.support.jobs import REPO

PAGES = [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(*languages: str) -> Iterator[tuple[Path, str]]:
    """Each code block in one of some languages, with its page."""
    for page in PAGES:
        yield from ((page, code) for language, code in BLOCK.findall(page.read_text()) if language in languages)


def statements(code: str) -> Iterator[str]:
    """Each statement of a shell block; a quote that is open continues it on the next line."""
    statement = ""
    for line in code.replace("\\\n", " ").splitlines():
        statement += line
        if statement.count('"') % 2:
            statement += "\n"
            continue
        yield statement
        statement = ""


def segpipe_commands() -> Iterator[tuple[str, list[str]]]:
    """Each complete command of segpipe in a shell block, as page and words."""
    for page, code in blocks("sh"):
        for statement in statements(code):
            start = re.search(r"\bsegpipe (?=[a-z])", statement.split("#")[0])
            if start and "…" not in (command := re.sub(r"\s#.*|>>.*", "", statement[start.start() :])):
                yield page.name, shlex.split(re.sub(r"\$\(.*?\)", "value", command))


def test_the_site_builds_without_a_warning(tmp_path):
    """mkdocs.yml is strict: a warning, as of a broken link, ends the build; with --quiet, there would be none."""
    run = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", tmp_path / "site"],
        cwd=REPO,
        capture_output=True,
        text=True,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )
    assert run.returncode == 0, run.stderr
    built = (tmp_path / "site/reference/commands/index.html").read_text()
    assert all(f'id="{name}"' in built for name in commands.COMMANDS)
    assert not re.search(r'(?:src|href)="https?://[^"]*(?:fonts|cdn)', built)


def test_links_of_the_readme_lead_to_files():
    for page in (REPO / "README.md", REPO / "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            assert target.startswith("https://") or (REPO / target).exists(), f"{page.name}: {target}"


def test_the_readme_stays_short():
    assert len((REPO / "README.md").read_text().splitlines()) <= 250


@pytest.mark.parametrize(("page", "words"), list(segpipe_commands()))
def test_commands_are_accepted(page, words):
    """The options of each command in a shell block exist and allow its values; nothing is run."""
    _, name, *options = words
    module = commands.load(name)
    cli.parse(module.CONFIG, options, description="", recipe_folder=getattr(module, "RECIPES", None))


def test_python_compiles():
    """CONTRIBUTING.md has fragments, which tests/test_contributing.py runs."""
    found = [(page, code) for page, code in blocks("python") if page.name != "CONTRIBUTING.md"]
    assert found
    for page, code in found:
        compile(code, str(page), "exec")


def test_sql_is_valid():
    found = list(blocks("sql"))
    assert found
    for page, code in found:
        assert duckdb.extract_statements(code), page
