"""Objects without text that lie on a table."""

import cv2
import numpy as np
import numpy.typing as npt

from ocr.synthetic.texture import FloatImage, shifted

_COLORS = ((196, 160, 60), (176, 176, 182), (172, 98, 60), (30, 60, 140), (160, 30, 40), (24, 24, 26), (235, 235, 230))


def with_clutter(rng: np.random.Generator, table: FloatImage) -> FloatImage:
    """Returns the table with zero to four coins, pens, cards and coffee rings, mostly along its borders."""
    table = table.copy()
    for _ in range(rng.integers(0, 5)):
        height, width = table.shape[:2]
        x, y = rng.uniform(0, 1, 2) ** 0.5 * rng.choice([-0.5, 0.5], 2) + 0.5  # mostly away from the middle
        centre = (int(x * width), int(y * height))
        mask = np.zeros((height, width), np.uint8)
        unit = min(height, width) / 20
        kind = rng.integers(4)
        if kind == 0:
            cv2.circle(mask, centre, int(unit * rng.uniform(0.9, 1.5)), (255,), -1, cv2.LINE_AA)
        elif kind == 1:
            angle = rng.uniform(0, np.pi)
            tip = (int(centre[0] + 8 * unit * np.cos(angle)), int(centre[1] + 8 * unit * np.sin(angle)))
            cv2.line(mask, centre, tip, (255,), max(4, int(0.55 * unit)), cv2.LINE_AA)
        elif kind == 2:
            box = cv2.boxPoints((centre, (8.5 * unit, 5.4 * unit), rng.uniform(0, 90)))
            cv2.fillPoly(mask, [box.astype(np.int32)], (255,), cv2.LINE_AA)
        else:
            cv2.circle(mask, centre, int(3 * unit), (110,), max(2, int(0.3 * unit)), cv2.LINE_AA)
        color = (92, 58, 36) if kind == 3 else _COLORS[rng.integers(len(_COLORS))]
        _add_object_(table, mask, color, is_flat=kind == 3)
    return table


def _add_object_(table: FloatImage, mask: npt.NDArray[np.uint8], color: tuple[int, int, int], is_flat: bool) -> None:
    """Draws an object of this shape and colour on the table, with shading and a shadow unless it is flat."""
    x, y, width, height = cv2.boundingRect(mask)
    reach = 16  # pixels of shadow
    part = slice(max(0, y - reach), y + height + reach), slice(max(0, x - reach), x + width + reach)
    cover = mask[part].astype(np.float32) / 255
    patch, body = table[part], np.array(color, np.float32)
    if not is_flat:
        soft = cv2.GaussianBlur(cover, (0, 0), 4)
        patch *= 1 - 0.45 * shifted(soft, 5, 4)[..., None]
        body = body * (1 + 1.5 * (soft - shifted(soft, 3, 3)))[..., None]
    patch += cover[..., None] * (body - patch)
