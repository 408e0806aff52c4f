"""Links between the pages of a checkout lead somewhere. `make docs` checks those of the built site, with their anchors."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def anchors_of(page: Path) -> set[str]:
    """Returns the anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_files_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    missing = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if "://" not in link and not (target.exists() and (not anchor or anchor in anchors_of(target))):
            missing.append(link)
    assert missing == []


def test_each_page_is_in_the_navigation_of_the_site() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert set(re.findall(r"[\w/]+\.md", navigation)) == pages | {"configuration.md"}


def test_files_named_on_the_architecture_page_exist() -> None:
    """A file without a folder is in the folder of the file or folder before it, or in dali_pipelines."""
    folder, missing = ROOT / "dali_pipelines", []
    for name in re.findall(r"`([\w./]+(?:\.py|/))`", (ROOT / "docs/architecture.md").read_text()):
        places = (
            [ROOT / name]
            if "/" in name
            else [folder / name, ROOT / "dali_pipelines" / name, ROOT / "ocr/targets" / name]
        )
        found = next((place for place in places if place.exists()), None)
        if found is None:
            missing.append(name)
        elif "/" in name:
            folder = found if found.is_dir() else found.parent
    assert missing == []


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120
