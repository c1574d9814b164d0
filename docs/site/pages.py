"""What makes a site of pages that are written to be read where they lie: README.md and its like come along.

MkDocs calls these functions. A link that leads somewhere in the repository leads to the same place in the site.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent.parent
BESIDE = {"README.md": "readme.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Pages that lie beside docs/, and what the site calls them."""
LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\]\()([^)\s#]+)((?:#[^)]*)?\))")
FENCE = re.compile(r"^```python\n(?=>>> )", re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Leave out of the navigation what is not written yet."""
    config.nav = _written(config.nav)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Bring the pages that lie beside docs/."""
    for name, target in BESIDE.items():
        files.append(File.generated(config, target, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to where the pages lie in the site, and colour examples with prompts as such."""
    beside = page.file.src_uri in BESIDE.values()

    def turned(match: re.Match[str]) -> str:
        before, target, after = match.groups()
        found = (ROOT / ("" if beside else "docs") / target).resolve()
        if "://" in target or not found.is_file():
            return match[0]
        path = found.relative_to(ROOT).as_posix()
        return before + BESIDE.get(path, path.removeprefix("docs/")) + after

    return FENCE.sub("```pycon\n", LINK.sub(turned, markdown))


def _written(entries: list[Any]) -> list[Any]:
    kept: list[Any] = []
    for entry in entries:
        ((title, inside),) = entry.items()
        if isinstance(inside, list):
            kept.append({title: _written(inside)})
        elif inside in BESIDE.values() or (ROOT / "docs" / inside).exists():
            kept.append(entry)
    return kept
