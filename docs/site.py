"""Pages of the site that are made from other files: the README, CONTRIBUTING, CHANGELOG, and a page of all options."""

import re
import subprocess
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from pipeline.commands import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
PYTHON = """\
# Python

::: pipeline.api

::: pipeline.picture_results

::: pipeline.query.session

::: pipeline.crf.dense.dense_crf

::: pipeline.data.images.decode_mask
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not files of docs/."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=_moved((ROOT / source).read_text())))
    files.append(File.generated(config, "reference/commands.md", content=_commands()))
    files.append(File.generated(config, "reference/python.md", content=PYTHON))
    return files


def on_page_markdown(markdown: str, config: MkDocsConfig, **_: object) -> str:
    """Point links from docs/ to files of the repository at its pages on GitHub, or at the page made from the file."""
    return re.sub(r"\]\(\.\./([^)#]+)", lambda link: f"]({_target(link[1], config)}", markdown)


def _target(path: str, config: MkDocsConfig) -> str:
    return PAGES.get(path) or f"{config.repo_url}/blob/main/{path}"


def _moved(markdown: str) -> str:
    """Return a page of the repository's root with links as they are from docs/."""
    moved = re.sub(r"(\]\()docs/", r"\1", markdown)
    for source, page in PAGES.items():
        moved = moved.replace(f"]({source}", f"]({page}")
    return moved


def _commands() -> str:
    """Return the help of each command as a page."""
    sections = ["# Commands\n"]
    for name, command in COMMANDS.items():
        text = subprocess.run(
            [sys.executable, "-m", "pipeline", name, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        sections.append(f"## {name}\n\n{command.summary[0].upper()}{command.summary[1:]}.\n\n```\n{text}```\n")
    return "\n".join(sections)
