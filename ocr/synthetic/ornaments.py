"""Rules and signs that are drawn between the lines of text."""

import cv2
import numpy as np

from ocr.synthetic.texture import Color, FloatImage


def draw_rule_(column: FloatImage, y: int, kind: int, text_height: float, ink: Color) -> None:
    """Draws a line at height `y` across a column of paper (H, W, 3): solid, double or dashed (kind 0 to 2)."""
    thickness = max(1, round(text_height / 11))
    dash = int(text_height * 0.6)
    for offset in (0, 3 * thickness) if kind == 1 else (0,):
        row = column[y + offset : y + offset + thickness]
        inked = np.arange(row.shape[1]) % (2 * dash) < dash if kind == 2 else np.ones(row.shape[1], bool)
        row[:, inked] = 0.4 * row[:, inked] + 0.6 * np.array(ink, np.float32)


def sign_mask(kind: int, size: int) -> FloatImage:
    """Returns the coverage (size, size), 0..1, of ring, triangle, arrow, star or stripes (kind 0 to 4)."""
    mask = np.zeros((size, size), np.uint8)
    middle, thick = size // 2, max(2, size // 9)
    if kind == 0:
        cv2.circle(mask, (middle, middle), middle - thick, (255,), thick, cv2.LINE_AA)
        cv2.line(mask, (size // 4, size // 4), (3 * size // 4, 3 * size // 4), (255,), thick, cv2.LINE_AA)
    elif kind == 1:
        corners = np.array([[middle, thick], [size - thick, size - thick], [thick, size - thick]], np.int32)
        cv2.polylines(mask, [corners], True, (255,), thick, cv2.LINE_AA)
        cv2.line(mask, (middle, size // 3), (middle, 2 * size // 3), (255,), thick, cv2.LINE_AA)
    elif kind == 2:
        cv2.arrowedLine(mask, (thick, middle), (size - thick, middle), (255,), thick, cv2.LINE_AA, tipLength=0.4)
    elif kind == 3:
        angle = np.arange(10) * np.pi / 5
        radius = np.where(np.arange(10) % 2, 0.2, 0.48)[:, None] * size
        corners = (middle + radius * np.stack([np.sin(angle), -np.cos(angle)], -1)).astype(np.int32)
        cv2.fillPoly(mask, [corners], (255,), cv2.LINE_AA)
    else:
        y, x = np.mgrid[:size, :size]
        mask[((x + y) // (2 * thick) % 2 == 0) & (np.abs(y - middle) < size // 4)] = 255
    return (mask / 255).astype(np.float32)
