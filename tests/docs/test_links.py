"""Links between the pages of the repository lead somewhere. `make docs` checks those of the built site, with their anchors."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GENERATED = {ROOT / "docs/configuration.md"}
"""Pages that exist in the built site only."""
PAGES = [*sorted(ROOT.glob("*.md")), ROOT / "docker/README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_files_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    missing = [
        target
        for target in targets
        if target and not (path := (page.parent / target).resolve()).exists() and path not in GENERATED
    ]
    assert missing == []


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
