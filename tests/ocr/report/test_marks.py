"""The colours of outlines, as people with colour-blindness see them."""

from itertools import combinations

import numpy as np
import pytest

from ocr.report.marks import COLOURS

# Machado, Oliveira and Fernandes (2009), complete loss; rows are R, G, B of linear sRGB.
SEEN = {
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def cielab(linear: np.ndarray) -> np.ndarray:
    x, y, z = np.cbrt(XYZ @ np.clip(linear, 0, 1) / XYZ.sum(axis=1))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("deficiency", SEEN)
def test_no_two_kinds_look_alike_to_people_with_colour_blindness(deficiency):
    colours = sorted(set(COLOURS.values()))
    levels = np.array([[int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)] for colour in colours])
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    seen = [cielab(np.array(SEEN[deficiency]) @ colour) for colour in linear]
    pairs = combinations(zip(colours, seen, strict=True), 2)
    distances = {(one, other): np.linalg.norm(at - other_at) for (one, at), (other, other_at) in pairs}
    assert [pair for pair, distance in distances.items() if distance < 16] == []  # CIE76; 2 is just noticeable
