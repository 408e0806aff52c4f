"""Formats with a file for each image list the images in the order of the files' names, and pass over hidden files."""

import json
from pathlib import Path

import pytest

from ocr.datasets.formats.image_folder import ImageFolder
from ocr.datasets.formats.read import format_named

PAGE = "http://schema.primaresearch.org/PAGE/gts/pagecontent/2019-07-15"
CONTENTS = {
    "icdar": (".txt", "1,1,9,1,9,9,1,9,text"),
    "yolo": (".txt", "0 0.5 0.5 0.2 0.2"),
    "labelme": (".json", json.dumps({"imagePath": "", "imageHeight": 9, "imageWidth": 9, "shapes": []})),
    "page_xml": (".xml", f'<PcGts xmlns="{PAGE}"><Page imageWidth="9" imageHeight="9"/></PcGts>'),
    "totaltext_mat": (".mat", "no matrix"),
}
"""Ending and content of a file by the name of the format."""


@pytest.mark.parametrize("name", CONTENTS)
def test_images_come_in_the_order_of_their_files(name: str, tmp_path: Path) -> None:
    ending, content = CONTENTS[name]
    stems = [f"{number:02d}" for number in range(30)]
    for stem in [*stems[::2], *stems[1::2]]:
        (tmp_path / f"{stem}{ending}").write_text(content)
    (tmp_path / f"._00{ending}").write_bytes(b"\0\5\x16\7")  # what macOS leaves beside a file
    images = format_named(name).read(tmp_path, ImageFolder(tmp_path, (".jpg",)))
    assert [image.source for image in images] == [f"{stem}{ending}" for stem in stems]
