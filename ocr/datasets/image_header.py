"""Reads the header of a JPEG or PNG: size, orientation, coding."""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

from ocr.datasets.orientation import read_exif_orientation


@dataclass(frozen=True)
class ImageHeader:
    """Properties that the header of an image file states."""

    format: Literal["JPEG", "PNG"]
    stored_size: tuple[int, int]
    """(H, W) of the file, before EXIF is applied."""
    orientation: int
    """EXIF orientation, 1..8."""
    coding: str
    """baseline, extended, progressive, arithmetic (JPEG); sequential, interlaced (PNG)."""
    color: str
    """gray, YCbCr, RGB, CMYK; for PNG gray, palette, RGB, with alpha."""
    sampling: str
    """Chroma sampling such as 4:2:0; - without chroma channels."""
    bits: int
    """Bits per channel."""


class ImageProblem(Exception):
    """An image file cannot be used. `kind` is a kind of `Finding`."""

    def __init__(self, kind: str, found: str, expected: str) -> None:
        super().__init__(f"found {found}; expected {expected}")
        self.kind, self.found, self.expected = kind, found, expected


_JPEG_START = b"\xff\xd8\xff"
_PNG_START = b"\x89PNG\r\n\x1a\n"
_OTHER_STARTS = {
    b"GIF8": "GIF",
    b"RIFF": "WebP",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"%PDF": "PDF",
    b"\0\0\0\x0cjP": "JPEG 2000",
}

# Frame markers of a JPEG (ITU-T T.81, table B.1). All others are lossless or hierarchical, which few decoders read.
_CODING_OF_FRAME = {
    0xC0: "baseline",
    0xC1: "extended",
    0xC2: "progressive",
    0xC9: "arithmetic",
    0xCA: "progressive arithmetic",
}
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # C4, C8, CC are tables and reserved
_SCAN, _APP1, _APP14, _END = 0xDA, 0xE1, 0xEE, 0xD9

_SAMPLING_OF_RATIO: dict[tuple[float, float], str] = {
    (1, 1): "4:4:4",
    (2, 1): "4:2:2",
    (2, 2): "4:2:0",
    (1, 2): "4:4:0",
    (4, 1): "4:1:1",
    (4, 2): "4:1:0",
}


def read_header(stream: BinaryIO) -> ImageHeader:
    """Returns the header of a JPEG or PNG, told apart by their content. Reads no pixels.

    Raises:
        ImageProblem: the file is neither, its header is cut short or damaged, or its kind is not supported.
    """
    start = stream.read(32)
    if not start:
        raise ImageProblem("empty", "a file of 0 bytes", "a JPEG or PNG")
    stream.seek(0)
    if start.startswith(_JPEG_START):
        return _read_jpeg_header(stream)
    if start.startswith(_PNG_START):
        return _read_png_header(stream)
    other = next((name for magic, name in _OTHER_STARTS.items() if start.startswith(magic)), None)
    if other is None:
        late = stream.read(4096).find(_JPEG_START)
        found = f"bytes {start[:8]!r}" + (f", a JPEG from byte {late} on" if late > 0 else "")
        raise ImageProblem("not_an_image", found, "a JPEG or PNG from the first byte on")
    raise ImageProblem("not_an_image", f"{other} content", "JPEG or PNG content")


def _read_jpeg_header(stream: BinaryIO) -> ImageHeader:
    frame: tuple[int, bytes] | None = None
    orientations = set()
    adobe_transform = None
    for marker, payload in _jpeg_segments(stream):
        if marker in _FRAMES and frame is None:
            frame = marker, payload
        elif marker == _APP1 and payload.startswith(b"Exif\0\0"):
            orientations.add(_orientation_of(payload[6:]))
        elif marker == _APP14 and payload.startswith(b"Adobe") and len(payload) >= 12:
            adobe_transform = payload[11]
    if frame is None:
        raise ImageProblem("damaged", "no frame header before the scan", "one (SOF)")
    if len(orientations) > 1:
        # DALI 2.4 uses one for the size and the other for the pixels, and crashes the process.
        raise ImageProblem("ambiguous_orientation", f"EXIF blocks that say {sorted(orientations)}", "one orientation")
    return _jpeg_header(*frame, adobe_transform, next(iter(orientations), 1))


def _jpeg_segments(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yields (marker, payload) of each segment up to the header of the first scan, included."""
    stream.seek(2)
    while True:
        lead, marker = _read_exactly(stream, 2)
        while marker == 0xFF:  # fill bytes are allowed
            (marker,) = _read_exactly(stream, 1)
        if lead != 0xFF or marker == 0 or marker == _END or 0xD0 <= marker <= 0xD8:
            raise ImageProblem("damaged", f"bytes {lead:02x} {marker:02x} in the header", "a JPEG marker")
        (length,) = struct.unpack(">H", _read_exactly(stream, 2))
        if length < 2:
            raise ImageProblem("damaged", f"a header segment of length {length}", "at least 2")
        yield marker, _read_exactly(stream, length - 2)
        if marker == _SCAN:
            return


def _jpeg_header(marker: int, frame: bytes, adobe_transform: int | None, orientation: int) -> ImageHeader:
    if len(frame) < 6 or len(frame) < 6 + 3 * frame[5]:
        raise ImageProblem("damaged", f"a frame header of {len(frame)} bytes", "room for all its components")
    bits, height, width, num_components = struct.unpack(">BHHB", frame[:6])
    components = [frame[6 + 3 * i : 9 + 3 * i] for i in range(num_components)]
    coding = _CODING_OF_FRAME.get(marker)
    if coding is None or bits != 8 or num_components not in (1, 3, 4):
        raise ImageProblem(
            "unsupported",
            f"JPEG frame type {marker:02x} with {bits} bits and {num_components} components",
            f"type {', '.join(f'{known:02x}' for known in _CODING_OF_FRAME)} with 8 bits and 1, 3 or 4 components",
        )
    color = {1: "gray", 3: "YCbCr", 4: "CMYK"}[num_components]
    if num_components == 3 and (adobe_transform == 0 or bytes(part[0] for part in components) == b"RGB"):
        color = "RGB"
    sampling = _sampling_name([part[1] for part in components]) if color == "YCbCr" else "-"
    return ImageHeader("JPEG", (height, width), orientation, coding, color, sampling, bits)


def _sampling_name(factors: list[int]) -> str:
    """Returns a name such as 4:2:0. Each factor is one byte: horizontal in the high half, vertical in the low half."""
    (across, down), *chroma = [divmod(factor, 16) for factor in factors]
    if any(factor != chroma[0] for factor in chroma) or chroma[0][0] * chroma[0][1] == 0:
        return "mixed"
    ratio = across / chroma[0][0], down / chroma[0][1]
    return _SAMPLING_OF_RATIO.get(ratio, f"luma {ratio[0]:g}x{ratio[1]:g}")


def _read_png_header(stream: BinaryIO) -> ImageHeader:
    stream.seek(len(_PNG_START))
    header, exif = b"", b""
    kind = b""
    while kind != b"IEND":
        length, kind = struct.unpack(">I4s", _read_exactly(stream, 8))
        if kind in (b"IHDR", b"eXIf"):
            payload = _read_exactly(stream, length)
            header, exif = (payload, exif) if kind == b"IHDR" else (header, payload)
        else:
            stream.seek(length, os.SEEK_CUR)
        _read_exactly(stream, 4)  # the checksum, which Pillow verifies
    if len(header) != 13:
        raise ImageProblem("damaged", f"a PNG header of {len(header)} bytes", "13")
    width, height, bits, color_type, *_, interlaced = struct.unpack(">IIBBBBB", header)
    color = {0: "gray", 2: "RGB", 3: "palette", 4: "gray with alpha", 6: "RGB with alpha"}.get(color_type, "unknown")
    coding = "interlaced" if interlaced else "sequential"
    return ImageHeader("PNG", (height, width), _orientation_of(exif), coding, color, "-", bits)


def _read_exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise ImageProblem("truncated", "the end of the file too early", "a whole image")
    return data


def _orientation_of(tiff: bytes) -> int:
    try:
        return read_exif_orientation(tiff)
    except ValueError as error:
        # DALI and Pillow were seen to turn such a picture differently.
        raise ImageProblem("ambiguous_orientation", str(error), "one 16-bit number in a sound EXIF block") from error
