"""Small picture files that show each mistake of a graph: no symmetry, no equal channels, fine lines, odd sizes, all EXIF values."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

EXIF_ORIENTATION = 0x0112


def draw_odd_pictures(folder: Path) -> list[Path]:
    """Writes the files and returns them: EXIF 1 to 8, grey, odd sizes, extreme aspect ratios, no lossy and lossy colours."""
    files = []
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[EXIF_ORIENTATION] = orientation
        files.append(folder / f"exif_{orientation}.jpg")
        picture(77, 45).save(files[-1], quality=95, subsampling=0, exif=exif)
    for name, image, options in (
        ("large.png", picture(203, 151), {}),
        ("small.png", picture(23, 31), {}),
        ("narrow.png", picture(9, 300), {}),
        ("flat.png", picture(310, 7), {}),
        ("one_line.png", picture(90, 1), {}),
        ("grey.jpg", picture(81, 50).convert("L"), {"quality": 95}),
        ("chroma_420.jpg", picture(120, 98), {"quality": 90, "subsampling": 2}),
    ):
        files.append(folder / name)
        image.save(files[-1], **options)
    return files


def picture(width: int, height: int) -> Image.Image:
    """Returns gradients of another direction in each channel, with text and fine lines."""
    y, x = np.mgrid[:height, :width]
    red, green, blue = 40 + 200 * x / width, 230 - 190 * y / height, 60 + 120 * (x + 2 * y) / (width + 2 * height)
    image = Image.fromarray(np.stack([red, green, blue], axis=-1).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for start in range(0, width, 6):
        pen.line([(start, height // 4), (start + 9, height // 3)], fill=(250, 20, 90))
    pen.text((width // 5, height // 2), "Total 12.50", fill=(0, 0, 40))
    pen.rectangle([0, 0, width // 3, height // 6], fill=(255, 210, 0))
    return image
