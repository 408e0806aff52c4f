"""Checks the built site (a hook of MkDocs): every link leads somewhere, and no page loads anything from the network."""

import logging
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mkdocs.config.defaults import MkDocsConfig

log = logging.getLogger("mkdocs.hooks.links")  # a warning there ends a strict build

LOADED_BY = {("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("link", "href")}


class Page(HTMLParser):
    """The anchors of one page, and what it refers to."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.references: list[tuple[str, str, str]] = []
        """Tag, attribute and target."""
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.anchors.add(value)
            elif name in ("href", "src") and value:
                self.references.append((tag, name, value))


def on_post_build(config: MkDocsConfig) -> None:
    """Warns of links to missing files and anchors, and of anything that is fetched from elsewhere."""
    site = Path(config.site_dir).resolve()
    pages = {
        file: Page(file) for file in sorted(site.rglob("*.html")) if file.name != "404.html"
    }  # its links are absolute
    problems = [problem for file in pages for problem in _problems(file, pages)]
    for problem in problems:
        log.warning("%s", problem.replace(f"{site}/", ""))
    log.info("%d links on %d pages checked", sum(len(page.references) for page in pages.values()), len(pages))


def _problems(file: Path, pages: dict[Path, Page]) -> Iterator[str]:
    for tag, attribute, reference in pages[file].references:
        parts = urlsplit(reference)
        if parts.scheme or parts.netloc:
            if (tag, attribute) in LOADED_BY and parts.scheme != "data":
                yield f"{file}: <{tag}> is loaded from {reference}; the site must open without a network"
            continue
        target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
        if not target.is_file():
            yield f"{file}: {reference}: no such file"
        elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
            yield f"{file}: {reference}: no such anchor"
