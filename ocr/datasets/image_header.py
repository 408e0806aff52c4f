"""Reads the header of an image file: size, orientation, coding. JPEG and PNG are read here, other formats by Pillow."""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO, Literal

from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from ocr.datasets.orientation import read_exif_orientation


@dataclass(frozen=True)
class ImageHeader:
    """Properties that the header of an image file states."""

    format: Literal["JPEG", "PNG", "TIFF", "BMP", "WebP", "GIF"]
    stored_size: tuple[int, int]
    """(H, W) of the file, before EXIF is applied."""
    orientation: int
    """EXIF orientation, 1..8."""
    coding: str
    """baseline, extended, progressive, arithmetic (JPEG); sequential, interlaced (PNG); compression (TIFF); - otherwise."""
    color: str
    """gray, YCbCr, RGB, CMYK, palette, Lab; gray, RGB and palette also `with alpha`."""
    sampling: str
    """Chroma sampling such as 4:2:0; - without chroma channels."""
    bits: int
    """Bits per channel."""
    profile: str = "-"
    """ICC if the file holds a colour profile, which nothing here applies; - without."""
    gamma: str = "-"
    """Gamma that a PNG states, such as 0.4545, which nothing here applies; - without."""

    @property
    def needs_conversion(self) -> bool:
        """Whether the image is read through a converted copy (`ocr.datasets.converted`), as decoders do not read it alike.

        Measured with DALI 2.4 and Pillow 13: both read JPEGs of 1 and 3 components and PNGs of up to 8 bits without transparency
        exactly alike. DALI reads a CMYK JPEG without Adobe's marker as black, Pillow reads 16-bit gray as white, and both show the
        hidden colours of transparent pixels.
        """
        if self.format == "JPEG":
            return self.color == "CMYK"
        return self.format != "PNG" or self.bits > 8 or self.color.endswith("with alpha")


class ImageProblem(Exception):
    """An image file cannot be used. `kind` is a kind of `Finding`."""

    def __init__(self, kind: str, found: str, expected: str) -> None:
        super().__init__(f"found {found}; expected {expected}")
        self.kind, self.found, self.expected = kind, found, expected


_JPEG_START = b"\xff\xd8\xff"
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PILLOW_STARTS: dict[bytes, type[ImageFile]] = {
    b"II*\0": TiffImageFile,
    b"MM\0*": TiffImageFile,
    b"II+\0": TiffImageFile,
    b"MM\0+": TiffImageFile,
    b"BM": BmpImageFile,
    b"RIFF": WebPImageFile,
    b"GIF8": GifImageFile,
}
"""Classes of Pillow by the first bytes of a file."""
_FORMATS: dict[type[ImageFile], Literal["TIFF", "BMP", "WebP", "GIF"]] = {
    TiffImageFile: "TIFF",
    BmpImageFile: "BMP",
    WebPImageFile: "WebP",
    GifImageFile: "GIF",
}
_OTHER_STARTS = {b"%PDF": "PDF", b"\0\0\0\x0cjP": "JPEG 2000"}
_READ_FORMATS = "JPEG, PNG, TIFF, BMP, WebP or GIF"

# Frame markers of a JPEG (ITU-T T.81, table B.1). All others are lossless or hierarchical, which few decoders read.
_CODING_OF_FRAME = {
    0xC0: "baseline",
    0xC1: "extended",
    0xC2: "progressive",
    0xC9: "arithmetic",
    0xCA: "progressive arithmetic",
}
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # C4, C8, CC are tables and reserved
_SCAN, _APP1, _APP2, _APP14, _END = 0xDA, 0xE1, 0xE2, 0xEE, 0xD9

_SAMPLING_OF_RATIO: dict[tuple[float, float], str] = {
    (1, 1): "4:4:4",
    (2, 1): "4:2:2",
    (2, 2): "4:2:0",
    (1, 2): "4:4:0",
    (4, 1): "4:1:1",
    (4, 2): "4:1:0",
}


def read_header(stream: BinaryIO) -> ImageHeader:
    """Returns the header of an image, whose content decides its format. Reads no pixels.

    Raises:
        ImageProblem: the file is no image, its header is cut short or damaged, or its kind is not supported: several pages or
            frames, samples of 32 bits.
    """
    start = stream.read(32)
    if not start:
        raise ImageProblem("empty", "a file of 0 bytes", f"a {_READ_FORMATS}")
    stream.seek(0)
    if start.startswith(_JPEG_START):
        return _read_jpeg_header(stream)
    if start.startswith(_PNG_START):
        return _read_png_header(stream)
    reader = _pillow_class(start)
    if reader is not None:
        return _read_with_pillow(reader, stream)
    other = next((name for magic, name in _OTHER_STARTS.items() if start.startswith(magic)), None)
    if start[4:12] in (b"ftypavif", b"ftypheic"):
        other = start[8:12].decode().upper()
    if other is None:
        late = stream.read(4096).find(_JPEG_START)
        found = f"bytes {start[:8]!r}" + (f", a JPEG from byte {late} on" if late > 0 else "")
        raise ImageProblem("not_an_image", found, f"a {_READ_FORMATS} from the first byte on")
    raise ImageProblem("not_an_image", f"{other} content", f"{_READ_FORMATS} content")


def open_with_pillow(stream: BinaryIO) -> ImageFile:
    """Returns a TIFF, BMP, WebP or GIF as Pillow opens it, without its check for decompression bombs: check the size before.

    Raises:
        ImageProblem: the file is none of these, or its header is damaged.
    """
    start = stream.read(32)
    stream.seek(0)
    reader = _pillow_class(start)
    if reader is None:
        raise ImageProblem("not_an_image", f"bytes {start[:8]!r}", "TIFF, BMP, WebP or GIF content")
    try:
        return reader(stream)  # type: ignore[no-untyped-call, unused-ignore]
    except Exception as error:  # on broken files Pillow raises SyntaxError, OSError, struct.error, ...
        raise ImageProblem(
            "damaged", f"a header that Pillow calls {str(error)!r}", f"a whole {_FORMATS[reader]}"
        ) from error


def _pillow_class(start: bytes) -> type[ImageFile] | None:
    reader = next((reader for magic, reader in _PILLOW_STARTS.items() if start.startswith(magic)), None)
    return None if reader is WebPImageFile and start[8:12] != b"WEBP" else reader


def _read_jpeg_header(stream: BinaryIO) -> ImageHeader:
    frame: tuple[int, bytes] | None = None
    orientations = set()
    adobe_transform = None
    has_profile = False
    for marker, payload in _jpeg_segments(stream):
        if marker in _FRAMES and frame is None:
            frame = marker, payload
        elif marker == _APP1 and payload.startswith(b"Exif\0\0"):
            orientations.add(_orientation_of(payload[6:]))
        elif marker == _APP2 and payload.startswith(b"ICC_PROFILE\0"):
            has_profile = True
        elif marker == _APP14 and payload.startswith(b"Adobe") and len(payload) >= 12:
            adobe_transform = payload[11]
    if frame is None:
        raise ImageProblem("damaged", "no frame header before the scan", "one (SOF)")
    if len(orientations) > 1:
        # DALI 2.4 uses one for the size and the other for the pixels, and crashes the process.
        raise ImageProblem("ambiguous_orientation", f"EXIF blocks that say {sorted(orientations)}", "one orientation")
    header = _jpeg_header(*frame, adobe_transform, next(iter(orientations), 1))
    return replace(header, profile="ICC") if has_profile else header


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


_PNG_CHUNKS = (b"IHDR", b"eXIf", b"tRNS", b"gAMA", b"acTL")
"""Chunks of a PNG whose content is read; of iCCP only the presence counts."""


def _read_png_header(stream: BinaryIO) -> ImageHeader:
    stream.seek(len(_PNG_START))
    chunks: dict[bytes, bytes] = {}
    kind = b""
    while kind != b"IEND":
        length, kind = struct.unpack(">I4s", _read_exactly(stream, 8))
        if kind in _PNG_CHUNKS:
            chunks[kind] = _read_exactly(stream, length)
        else:
            stream.seek(length, os.SEEK_CUR)
            if kind == b"iCCP":
                chunks[kind] = b""
        _read_exactly(stream, 4)  # the checksum, which Pillow verifies
    header = chunks.get(b"IHDR", b"")
    if len(header) != 13:
        raise ImageProblem("damaged", f"a PNG header of {len(header)} bytes", "13")
    _refuse_frames(int.from_bytes(chunks.get(b"acTL", b"")[:4], "big"), "an animated PNG")
    width, height, bits, color_type, *_, interlaced = struct.unpack(">IIBBBBB", header)
    color = {0: "gray", 2: "RGB", 3: "palette", 4: "gray with alpha", 6: "RGB with alpha"}.get(color_type, "unknown")
    if b"tRNS" in chunks and color_type in (0, 2, 3):
        color += " with alpha"
    gamma = f"{int.from_bytes(chunks[b'gAMA'], 'big') / 1e5:.4f}" if b"gAMA" in chunks else "-"
    return ImageHeader(
        "PNG",
        (height, width),
        _orientation_of(chunks.get(b"eXIf", b"")),
        "interlaced" if interlaced else "sequential",
        color,
        "-",
        bits,
        profile="ICC" if b"iCCP" in chunks else "-",
        gamma=gamma,
    )


_COLOR_OF_MODE = {
    **dict.fromkeys(("1", "L", "I;16", "I;16B", "I;16L", "I;16N"), "gray"),
    **dict.fromkeys(("RGB", "RGBX", "HSV"), "RGB"),
    **{"P": "palette", "CMYK": "CMYK", "YCbCr": "YCbCr", "LAB": "Lab"},
    **dict.fromkeys(("LA", "La"), "gray with alpha"),
    **dict.fromkeys(("RGBA", "RGBa"), "RGB with alpha"),
    "PA": "palette with alpha",
}
"""Colour by Pillow's mode. The others have samples whose range nobody states: I (32-bit integers) and F (floating point)."""
_UNSUPPORTED_MODES = {"I": "32-bit or signed integer samples", "F": "floating-point samples"}
_WIDTH, _HEIGHT, _BITS, _PAGE_KIND, _ORIENTATION = 256, 257, 258, 254, 274  # tags of a TIFF
_NO_PAGE = 0b101
"""Bits of a TIFF's page kind: a reduced copy of another page, or a mask for one."""


def color_of_mode(mode: str) -> str:
    """Returns the colour of a Pillow mode, as in `ImageHeader.color`.

    Raises:
        ImageProblem: the range of its samples is not known.
    """
    if mode not in _COLOR_OF_MODE:
        raise ImageProblem(
            "unsupported",
            _UNSUPPORTED_MODES.get(mode, f"samples of Pillow's mode {mode}"),
            "8 or 16 unsigned bits per sample, whose range is known",
        )
    return _COLOR_OF_MODE[mode]


def _read_with_pillow(reader: type[ImageFile], stream: BinaryIO) -> ImageHeader:
    if reader is WebPImageFile:
        _check_length(stream)
    image = open_with_pillow(stream)
    try:
        return _header_from_pillow(image, _FORMATS[reader])
    except ImageProblem:
        raise
    except Exception as error:  # as in `open_with_pillow`
        raise ImageProblem(
            "damaged", f"a header that Pillow calls {str(error)!r}", f"a whole {_FORMATS[reader]}"
        ) from error


def _check_length(stream: BinaryIO) -> None:
    """Raises ImageProblem if a WebP is shorter than its header says: Pillow reads what is there without an error."""
    length = 8 + int.from_bytes(stream.read(8)[4:], "little")
    found = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    if found < length:
        raise ImageProblem("truncated", f"a WebP of {found} bytes", f"the {length} that its header states")


def _header_from_pillow(image: ImageFile, name: Literal["TIFF", "BMP", "WebP", "GIF"]) -> ImageHeader:
    num_frames = getattr(image, "n_frames", 1)
    size, bits, coding = (image.height, image.width), 1 if image.mode == "1" else 8, "-"
    if isinstance(image, TiffImageFile):
        tags = image.tag_v2
        size = int(tags[_HEIGHT]), int(tags[_WIDTH])  # Pillow's own size is upright
        bits = max(tags.get(_BITS, (1,)))
        coding = str(image.info.get("compression", "raw"))
        orientation = tags.get(_ORIENTATION, 1)
        if num_frames > 1:
            num_frames = _num_pages(image, num_frames)
    else:
        orientation = image.getexif().get(_ORIENTATION, 1)
    _refuse_frames(num_frames, "a TIFF" if name == "TIFF" else f"an animated {name}")
    color = color_of_mode(image.mode)
    if "transparency" in image.info and not color.endswith("with alpha"):
        color += " with alpha"
    return ImageHeader(
        name,
        size,
        orientation if orientation in range(1, 9) else 1,
        coding,
        color,
        "-",
        bits,
        profile="ICC" if image.info.get("icc_profile") else "-",
    )


def _num_pages(image: TiffImageFile, num_frames: int) -> int:
    """Returns the number of pages of a TIFF, without smaller copies of a page and masks."""
    num_pages = 1
    for frame in range(1, num_frames):
        image.seek(frame)
        num_pages += not image.tag_v2.get(_PAGE_KIND, 0) & _NO_PAGE
    image.seek(0)
    return num_pages


def _refuse_frames(num_frames: int, name: str) -> None:
    if num_frames > 1:
        parts = "pages" if name == "a TIFF" else "frames"
        raise ImageProblem(
            "unsupported", f"{name} of {num_frames} {parts}", "one image per file; save each as a file of its own"
        )


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
