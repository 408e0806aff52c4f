"""From raw annotations and a folder of images to a checked manifest, and the report of everything that is wrong.

Each image file is opened once: its header says size, orientation and coding; then, unless told otherwise, its pixels
are decoded strictly, since damage in a scan shows nowhere else. Each polygon is checked in the frame it was given in.
"""

import io
import json
import logging
import os
import struct
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import shapely
import simplejpeg
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from rich.console import Console
from rich.progress import track
from rich.text import Text

from ocr.datasets.formats import AnnotatedImage, AnnotatedWord
from ocr.datasets.manifest import Manifest
from ocr.datasets.orientation import original_from_stored, read_exif_orientation, upright_size
from ocr.polygons import PolygonBatch

logger = logging.getLogger(__name__)

Frame = Literal["stored", "upright"]
Severity = Literal["annotation", "image", "note"]

NUM_SHOWN = 20
"""Findings that an error message or summary lists; the report file has all."""

SHOW_PROGRESS_FROM = 500
"""Images from which on a progress bar is worth it: about a second."""


# ---------------------------------------------------------------------------------------------------------------------
# What is found


@dataclass(frozen=True)
class _Rule:
    severity: Severity
    advice: str


_RULES = {
    # The image file.
    "missing": _Rule("image", "restore the file, or check image_path"),
    "unreadable": _Rule("image", "check the file's permissions and the disk"),
    "empty": _Rule("image", "copy the file again"),
    "not_an_image": _Rule("image", "save it as JPEG or PNG"),
    "wrong_extension": _Rule("image", "rename the file after its content, in the annotations too"),
    "unsupported": _Rule("image", "save it again as an ordinary 8-bit JPEG or PNG"),
    "bad_dimensions": _Rule("image", "save it again at a sensible size"),
    "truncated": _Rule("image", "copy or scan it again"),
    "damaged": _Rule("image", "copy or scan it again"),
    "ambiguous_orientation": _Rule("image", "save it again with one EXIF orientation, or without"),
    # The annotation of an image as a whole, or of a word.
    "malformed": _Rule("annotation", "correct the annotation"),
    "listed_twice": _Rule("annotation", "keep one entry"),
    "wrong_size": _Rule("annotation", "restore the picture the annotation was made on, or correct points and size"),
    "other_frame": _Rule("annotation", "if the whole set is so, set annotation_frame; otherwise correct the points"),
    "too_few_points": _Rule("annotation", "correct or remove the word"),
    "bad_coordinate": _Rule("annotation", "correct or remove the word"),
    "zero_area": _Rule("annotation", "correct or remove the word"),
    "self_crossing": _Rule("annotation", "put the points in order around the text"),
    "outside": _Rule("annotation", "correct or remove the word"),
    "duplicate": _Rule("annotation", "remove one of them"),
    # Worth knowing.
    "partly_outside": _Rule("note", "nothing to do; the part outside is cut off"),
    "decoder_warning": _Rule("note", "nothing to do; the pixels are whole"),
    "scan_not_checked": _Rule("note", "look at it once, or save it again as 4:2:0"),
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing."""

    kind: str
    place: str
    """Annotation file with the image and word, or the image alone."""
    image: str
    """File name as listed."""
    word: str | None
    """Key of the word; None: the image as a whole."""
    found: str
    expected: str

    @property
    def severity(self) -> Severity:
        """annotation: an error unless skipped; image: skipped unless an error; note: neither."""
        return _RULES[self.kind].severity

    @property
    def advice(self) -> str:
        return _RULES[self.kind].advice

    def __str__(self) -> str:
        return f"{self.place}: {self.kind}: found {self.found}; expected {self.expected}; {self.advice}"


@dataclass(frozen=True)
class AuditReport:
    """What was looked at, what was found, and what is left to use."""

    num_listed: int
    """Images listed."""
    num_images: int
    """Images that are usable."""
    num_words: int
    """Words of the usable images, don't-care regions included."""
    num_ignored: int
    """Don't-care regions among them."""
    num_skipped_words: int
    """Bad words of usable images."""
    num_not_annotated: int
    """Images of the folder that the annotations do not list."""
    findings: tuple[Finding, ...]
    statistics: dict[str, dict[str, int]] = field(default_factory=dict)
    """Usable images by property: {"coding": {"baseline": 403, "progressive": 1}, "color": ..., ...}."""

    @property
    def counts(self) -> dict[str, int]:
        """Findings by kind."""
        return dict(Counter(finding.kind for finding in self.findings))

    def with_severity(self, *severities: Severity) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity in severities]

    def write(self, path: Path) -> None:
        """Writes everything as JSON, and creates the folder."""
        document = asdict(self) | {"counts": self.counts}
        document["findings"] = [
            asdict(finding) | {"severity": finding.severity, "advice": finding.advice} for finding in self.findings
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=1, ensure_ascii=False), encoding="utf-8")

    def summary(self) -> Text:
        """A few lines for the terminal; `.plain` for a log."""
        text = Text()
        text.append(f"{self.num_images} of {self.num_listed} images usable", "bold")
        text.append(f", {self.num_words} words, {self.num_ignored} of them don't-care\n")
        for name, values in self.statistics.items():
            shares = ", ".join(f"{value} {count / self.num_images:.1%}" for value, count in values.items())
            text.append(f"  {name}: {shares}\n")
        if self.num_not_annotated:
            text.append(f"  {self.num_not_annotated} images of the folder are not in the annotations\n")
        for kind, count in sorted(self.counts.items()):
            text.append(f"  {kind}: {count}\n", "dim" if _RULES[kind].severity == "note" else "yellow")
        return text


class BadDataError(ValueError):
    """The data set is not fit for use. `report` has all findings."""

    def __init__(self, message: str, report: AuditReport) -> None:
        super().__init__(message)
        self.report = report


def _listed(findings: list[Finding]) -> str:
    lines = [f"  {finding}" for finding in findings[:NUM_SHOWN]]
    if len(findings) > NUM_SHOWN:
        lines.append(f"  and {len(findings) - NUM_SHOWN} more")
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------------------------------------
# Image files


@dataclass(frozen=True)
class ImageHeader:
    """What the head of an image file says."""

    format: Literal["JPEG", "PNG"]
    stored_size: tuple[int, int]
    """(H, W)."""
    orientation: int
    """EXIF, 1..8."""
    coding: str
    """baseline, extended, progressive, arithmetic (JPEG); sequential, interlaced (PNG)."""
    color: str
    """gray, YCbCr, RGB, CMYK; for PNG gray, palette, RGB, with alpha."""
    sampling: str
    """Chroma sampling as 4:2:0; - where there is no chroma of its own."""
    bits: int
    """A channel."""


class ImageProblem(Exception):
    """Why an image file cannot be used."""

    def __init__(self, kind: str, found: str, expected: str) -> None:
        super().__init__(f"found {found}; expected {expected}")
        self.kind, self.found, self.expected = kind, found, expected


_FORMAT_OF_EXTENSION = {".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".png": "PNG"}
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

# Frame markers of a JPEG (ITU-T T.81, table B.1); the others are lossless or hierarchical, which few decoders read.
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

# libjpeg's words for oddities of the header that leave the pixels whole. All its other warnings mean damage.
_HARMLESS_WARNINGS = ("unknown JFIF revision", "Unknown Adobe color", "Invalid SOS parameters", "bad ICC marker")


def read_header(stream: BinaryIO) -> ImageHeader:
    """The header of a JPEG or PNG, by its content; reads no pixels.

    Raises:
        ImageProblem: it is neither, it is cut short or damaged in the header, or of a kind that is not supported.
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
        # DALI 2.4 follows one of them for the size and the other for the pixels, and brings the process down.
        raise ImageProblem("ambiguous_orientation", f"EXIF blocks that say {sorted(orientations)}", "one orientation")
    return _jpeg_header(*frame, adobe_transform, next(iter(orientations), 1))


def _jpeg_segments(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """(marker, payload) from the start up to the first scan, its header included."""
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
    """As 4:2:0, from each component's byte of horizontal (high half) and vertical (low half) sampling factors."""
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
        _read_exactly(stream, 4)  # the checksum; Pillow verifies it
    if len(header) != 13:
        raise ImageProblem("damaged", f"a PNG header of {len(header)} bytes", "13")
    width, height, bits, color_type, *_, interlaced = struct.unpack(">IIBBBBB", header)
    color = {0: "gray", 2: "RGB", 3: "palette", 4: "gray with alpha", 6: "RGB with alpha"}.get(color_type, "unknown")
    coding = "interlaced" if interlaced else "sequential"
    return ImageHeader("PNG", (height, width), _orientation_of(exif), coding, color, "-", bits)


def _read_exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise ImageProblem("truncated", "the end of the file where more has to follow", "a whole image")
    return data


def _orientation_of(tiff: bytes) -> int:
    try:
        return read_exif_orientation(tiff)
    except ValueError as error:
        # Measured: DALI and Pillow turn such a picture differently.
        raise ImageProblem("ambiguous_orientation", str(error), "one 16-bit number in a sound EXIF block") from error


def check_pixels_of(header: ImageHeader, data: bytes) -> tuple[str, str, str] | None:
    """Decodes a whole file and discards the pixels; takes about 1 ms a megapixel for JPEG and runs outside the GIL.

    Returns:
        (kind, found, expected) of a note, or None.

    Raises:
        ImageProblem: the file is cut short or damaged.
    """
    if header.format == "PNG":
        _check_png(data)
        return None
    try:
        # Strict: also what libjpeg only warns of raises; Pillow and OpenCV read a damaged scan in silence. All entropy
        # coded data are read at 1/8 size too, at a third of the time (0.93 against 3.06 ms a receipt, same verdicts).
        simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1, strict=True)
    except ValueError as error:
        message = str(error)
        if any(harmless in message for harmless in _HARMLESS_WARNINGS):
            return "decoder_warning", message, "a header without oddities"
        if "subsampling" in message:  # libjpeg-turbo reads 4:1:0 and the like, but its strict interface does not
            return _check_odd_sampling(header, data)
        kind = "truncated" if message.startswith("Premature end") else "damaged"
        raise ImageProblem(kind, f"JPEG data that libjpeg calls {message!r}", "a whole, undamaged scan") from error
    return None


def _check_odd_sampling(header: ImageHeader, data: bytes) -> tuple[str, str, str]:
    try:
        JpegImageFile(io.BytesIO(data)).load()
    except Exception as error:  # broken files make Pillow raise SyntaxError, OSError, struct.error, ...
        raise ImageProblem("damaged", f"JPEG data that Pillow calls {str(error)!r}", "a whole JPEG") from error
    return "scan_not_checked", f"chroma sampling {header.sampling}", "one that can be checked for a damaged scan"


def _check_png(data: bytes) -> None:
    try:
        PngImageFile(io.BytesIO(data)).verify()  # checksums of all chunks
        PngImageFile(io.BytesIO(data)).load()
    except Exception as error:  # as above
        raise ImageProblem("damaged", f"PNG data that Pillow calls {str(error)!r}", "a whole PNG") from error


@dataclass(frozen=True)
class _InspectedImage:
    header: ImageHeader | None = None
    problem: ImageProblem | None = None
    note: tuple[str, str, str] | None = None


def _inspect(path: Path, extensions: Sequence[str], max_megapixels: float, check_pixels: bool) -> _InspectedImage:
    try:
        if path.suffix.lower() not in extensions:
            raise ImageProblem("unsupported", f"the extension {path.suffix!r}", f"one of {', '.join(extensions)}")
        if not path.is_file():
            raise ImageProblem("missing", "a folder" if path.is_dir() else "nothing there", f"the file {path}")
        with path.open("rb") as stream:
            header = read_header(stream)
            _check_header(header, path, max_megapixels)
            if not check_pixels:
                return _InspectedImage(header)
            stream.seek(0)
            return _InspectedImage(header, note=check_pixels_of(header, stream.read()))
    except OSError as error:
        return _InspectedImage(problem=ImageProblem("unreadable", error.strerror or str(error), "a readable file"))
    except ImageProblem as problem:
        return _InspectedImage(problem=problem)


def _check_header(header: ImageHeader, path: Path, max_megapixels: float) -> None:
    named = _FORMAT_OF_EXTENSION.get(path.suffix.lower(), header.format)
    if named != header.format:
        raise ImageProblem("wrong_extension", f"{header.format} content", f"{named} content, as {path.suffix} says")
    height, width = header.stored_size
    if height == 0 or width == 0 or height * width > max_megapixels * 1e6:
        raise ImageProblem(
            "bad_dimensions",
            f"{width} x {height} pixels in the header",
            f"at least 1 x 1 and at most {max_megapixels:g} megapixels",
        )


# ---------------------------------------------------------------------------------------------------------------------
# Polygons

# Coordinates beyond are no pixels: a JPEG ends at 65,535, and float32 keeps 1/16 pixel up to here.
_MAX_COORDINATE = 1e6
_MIN_AREA = 1e-3
"""Square pixels of a polygon's convex hull: less is a line or a point."""
_OVERHANG = 1.0
"""Pixels that a polygon may stand out without a note: tools that count pixels from 1 do that everywhere."""
_FRAME_SLACK = 0.01
"""Share of the longer side that a polygon may stand out and still counts as made for this frame."""

_WordFinding = tuple[str, str | None, str, str]
"""kind, key of the word (None: the image as a whole), found, expected."""


def check_annotation(image: AnnotatedImage, header: ImageHeader, frame: Frame) -> list[_WordFinding]:
    """Everything wrong with the annotation of one readable image; frame: the one its coordinates are in."""
    findings: list[_WordFinding] = [("malformed", part.word, part.found, part.expected) for part in image.problems]
    stored = header.stored_size
    upright = upright_size(header.orientation, stored)
    size, other = (stored, upright) if frame == "stored" else (upright, stored)
    frame_finding = _check_frame(image, size, other, frame)
    if frame_finding is not None:
        return [*findings, frame_finding]
    return findings + _check_words(image.words, size)


def _check_frame(
    image: AnnotatedImage, size: tuple[int, int], other: tuple[int, int], frame: Frame
) -> _WordFinding | None:
    """Whether declared size and polygons belong to the frame they should be in."""
    other_name = "upright (EXIF applied)" if frame == "stored" else "stored (EXIF not applied)"
    described = f"the {frame} frame, {size[1]} x {size[0]}"
    declared = image.declared_size
    if not _agrees(declared, size):
        text = f"img_w x img_h = {_number(declared[1])} x {_number(declared[0])}"
        if _agrees(declared, other):
            return "other_frame", None, f"{text}: the {other_name} size", described
        return "wrong_size", None, text, described
    if size != other:
        points = [word.points for word in image.words if len(word.points) and np.isfinite(word.points).all()]
        if not all(_fits(part, size) for part in points) and all(_fits(part, other) for part in points):
            return (
                "other_frame",
                None,
                f"polygons that fit only the {other_name} frame, {other[1]} x {other[0]}",
                described,
            )
    return None


def _agrees(declared: tuple[float | None, float | None], size: tuple[int, int]) -> bool:
    return all(claim is None or claim == actual for claim, actual in zip(declared, size, strict=True))


def _fits(points: npt.NDArray[np.float64], size: tuple[int, int]) -> bool:
    slack = _FRAME_SLACK * max(size)
    return bool((points >= -slack).all() and (points <= np.array([size[1], size[0]]) + slack).all())


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:g}"


def _check_words(words: Sequence[AnnotatedWord], size: tuple[int, int]) -> list[_WordFinding]:
    findings: list[_WordFinding] = []
    sound: list[AnnotatedWord] = []
    first_with: dict[bytes, str] = {}
    for word in words:
        points = without_repeats(word.points)
        identity = np.sort(points.view(np.complex128), axis=0).tobytes()  # whatever the first point and the direction
        if not (np.abs(word.points) <= _MAX_COORDINATE).all():  # NaN compares false
            worst = word.points[~(np.abs(word.points) <= _MAX_COORDINATE)][0]
            findings.append(("bad_coordinate", word.key, f"a coordinate {worst:g}", "pixels of the image"))
        elif len(points) < 3:
            findings.append(("too_few_points", word.key, f"{len(points)} distinct points", "at least 3"))
        elif identity in first_with:
            same = f"the same polygon as word {first_with[identity]}"
            findings.append(("duplicate", word.key, same, "each polygon once"))
        else:
            first_with[identity] = word.key
            sound.append(word)
    return findings + _check_shapes(sound, size)


def without_repeats(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The points without those equal to the one before, the first counting as next to the last: (n, 2)."""
    differs = (points != np.roll(points, 1, axis=0)).any(axis=1)
    return points[differs] if differs.any() else points[:1]


def _check_shapes(words: Sequence[AnnotatedWord], size: tuple[int, int]) -> list[_WordFinding]:
    """Findings on polygons that have 3 or more distinct, sensible points."""
    if not words:
        return []
    height, width = size
    rings = [without_repeats(word.points) for word in words]
    owners = np.repeat(np.arange(len(rings)), [len(ring) for ring in rings])
    polygons = shapely.polygons(shapely.linearrings(np.concatenate(rings), indices=owners))
    is_flat = shapely.area(shapely.convex_hull(polygons)) < _MIN_AREA
    is_crossing = ~shapely.is_valid(polygons) & ~is_flat
    left, top, right, bottom = shapely.bounds(polygons).T
    overhang = np.max([-left, -top, right - width, bottom - height], axis=0)
    is_outside = np.zeros(len(words), bool)
    standing_out = np.flatnonzero((overhang > 0) & ~is_flat & ~is_crossing)
    picture = shapely.box(0, 0, width, height)
    is_outside[standing_out] = shapely.area(shapely.intersection(polygons[standing_out], picture)) == 0

    findings: list[_WordFinding] = []
    for i, word in enumerate(words):
        box = f"{_number(left[i])},{_number(top[i])} to {_number(right[i])},{_number(bottom[i])}"
        picture_text = f"within the picture, 0,0 to {width},{height}"
        if is_flat[i]:
            findings.append(("zero_area", word.key, f"a polygon without area, {box}", "an area"))
        elif is_crossing[i]:
            reason = shapely.is_valid_reason(polygons[i])
            findings.append(("self_crossing", word.key, reason, "an outline that does not cross or touch itself"))
        elif is_outside[i]:
            findings.append(("outside", word.key, f"a polygon at {box}", picture_text))
        elif overhang[i] > _OVERHANG:
            findings.append(("partly_outside", word.key, f"a polygon at {box}", picture_text))
    return findings


# ---------------------------------------------------------------------------------------------------------------------
# The whole split


def build_manifest(
    image_dir: Path,
    annotations: Sequence[AnnotatedImage] | None,
    *,
    extensions: Sequence[str],
    annotation_frame: Frame = "stored",
    on_bad_sample: Literal["error", "skip"] | None = None,
    check_pixels: bool = True,
    max_megapixels: float = 100.0,
    num_threads: int | None = None,
    report_path: Path | None = None,
) -> tuple[Manifest, AuditReport]:
    """The usable images of a split with their polygons upright, and the report of what is wrong with the others.

    Args:
        image_dir: folder that the file names are relative to.
        annotations: as read; None: all images of the folder and its subfolders, sorted by name, without polygons.
        extensions: of images, lower case, with their dot.
        annotation_frame: frame of the annotations' coordinates: stored, or upright (EXIF applied).
        on_bad_sample: error: every finding but notes is an error. skip: bad words are left out, unreadable and wholly
            badly annotated images too. None: bad annotations are an error, unreadable images are left out.
        check_pixels: decode every file once. Without it, only headers are read, and damage in a scan stays hidden.
        max_megapixels: larger pictures are refused from their header.
        num_threads: of the decode; None: one a core, 8 at most.
        report_path: JSON file that gets all findings, also before an error is raised.

    Raises:
        FileNotFoundError: there is no such folder, or it holds no image.
        BadDataError: something is wrong that is not to be skipped (all of it is listed), or no image is left.
    """
    image_dir = Path(image_dir).resolve()
    if not image_dir.is_dir():
        raise FileNotFoundError(f"{image_dir}: there is no such image folder")
    in_folder = _images_in(image_dir, extensions)
    if annotations is None:
        annotations = [AnnotatedImage(filename, "") for filename in in_folder]
        if not annotations:
            raise FileNotFoundError(f"{image_dir}: no image with extension {', '.join(extensions)} in this folder")
    paths = [Path(os.path.normpath(image_dir / image.filename)) for image in annotations]
    inspected = _inspect_all(paths, extensions, max_megapixels, check_pixels, num_threads)

    times_listed = Counter(paths)
    findings: list[Finding] = []
    kept: list[_KeptImage] = []
    for index, (image, path, inspection) in enumerate(zip(annotations, paths, inspected, strict=True)):
        of_image = _findings_on(image, inspection, times_listed[path], annotation_frame)
        findings += of_image
        bad = [finding for finding in of_image if finding.severity != "note"]
        if inspection.header is not None and all(finding.word is not None for finding in bad):
            bad_keys = {finding.word for finding in bad}
            words = [word for word in image.words if word.key not in bad_keys]
            kept.append(_KeptImage(index, str(path), image.filename, inspection.header, words, len(bad_keys)))

    report = AuditReport(
        num_listed=len(annotations),
        num_images=len(kept),
        num_words=sum(len(image.words) for image in kept),
        num_ignored=sum(word.ignore for image in kept for word in image.words),
        num_skipped_words=sum(image.num_skipped_words for image in kept),
        num_not_annotated=len({image_dir / filename for filename in in_folder} - set(paths)),
        findings=tuple(findings),
        statistics=_statistics([image.header for image in kept]),
    )
    if report_path is not None:
        report.write(report_path)
    _raise_if_unfit(report, image_dir, on_bad_sample, report_path)
    skipped = report.with_severity("annotation", "image")
    if skipped:
        logger.warning("%s: left out because of bad input:\n%s", image_dir, _listed(skipped))
    return _manifest_of(kept, len(annotations), annotation_frame), report


@dataclass(frozen=True)
class _KeptImage:
    index: int
    path: str
    filename: str
    header: ImageHeader
    words: list[AnnotatedWord]
    num_skipped_words: int


def _images_in(folder: Path, extensions: Sequence[str]) -> list[str]:
    """Names relative to the folder, with /, sorted."""
    paths = (Path(root, name) for root, _, names in os.walk(folder) for name in names)
    return sorted(path.relative_to(folder).as_posix() for path in paths if path.suffix.lower() in extensions)


def _inspect_all(
    paths: Sequence[Path], extensions: Sequence[str], max_megapixels: float, check_pixels: bool, num_threads: int | None
) -> list[_InspectedImage]:
    """One result a path; a path that comes twice is opened once."""
    distinct = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(num_threads or min(os.cpu_count() or 1, 8)) as pool:
        results = pool.map(lambda path: _inspect(path, extensions, max_megapixels, check_pixels), distinct)
        shown = track(
            results,
            "Checking images",
            total=len(distinct),
            console=Console(stderr=True),
            disable=len(distinct) < SHOW_PROGRESS_FROM,
        )
        inspected = dict(zip(distinct, shown, strict=True))
    return [inspected[path] for path in paths]


def _findings_on(image: AnnotatedImage, inspection: _InspectedImage, times_listed: int, frame: Frame) -> list[Finding]:
    findings: list[_WordFinding] = []
    if times_listed > 1:
        findings.append(("listed_twice", None, f"{times_listed} entries for this image", "one"))
    if inspection.problem is not None:
        problem = inspection.problem
        findings.append((problem.kind, None, problem.found, problem.expected))
    if inspection.note is not None:
        kind, found, expected = inspection.note
        findings.append((kind, None, found, expected))
    if inspection.header is not None:
        findings += check_annotation(image, inspection.header, frame)
    return [
        Finding(kind, image.place(word) if image.source else image.filename, image.filename, word, found, expected)
        for kind, word, found, expected in findings
    ]


def _statistics(headers: Sequence[ImageHeader]) -> dict[str, dict[str, int]]:
    counters: dict[str, Counter[str]] = defaultdict(Counter)
    for header in headers:
        for name in ("format", "coding", "color", "sampling", "bits", "orientation"):
            counters[name][str(getattr(header, name))] += 1
    return {name: dict(counter.most_common()) for name, counter in counters.items()}


def _raise_if_unfit(
    report: AuditReport, image_dir: Path, on_bad_sample: Literal["error", "skip"] | None, report_path: Path | None
) -> None:
    fatal: dict[str | None, tuple[Severity, ...]] = {
        "error": ("annotation", "image"),
        None: ("annotation",),
        "skip": (),
    }
    is_unfit = bool(report.with_severity(*fatal[on_bad_sample]))
    if not is_unfit and report.num_images > 0:
        return
    bad = report.with_severity("annotation", "image")
    reason = f"{len(bad)} findings" if is_unfit else f"none of {report.num_listed} listed images is usable"
    where = f"\nAll findings: {report_path}" if report_path is not None else ""
    advice = "\nCorrect them, or leave them out with on_bad_sample=skip." if is_unfit else ""
    raise BadDataError(f"{image_dir}: {reason}\n{_listed(bad)}{where}{advice}", report)


def _manifest_of(kept: Sequence[_KeptImage], num_listed: int, frame: Frame) -> Manifest:
    polygons = PolygonBatch.from_lists(
        [[without_repeats(word.points) for word in image.words] for image in kept],
        [[word.ignore for word in image.words] for image in kept],
    )
    headers = [image.header for image in kept]
    if frame == "stored":
        polygons = polygons.transformed(
            np.stack([original_from_stored(header.orientation, header.stored_size) for header in headers])
        )
    return Manifest(
        image_paths=tuple(image.path for image in kept),
        filenames=tuple(image.filename for image in kept),
        sample_ids=np.array([image.index for image in kept], np.int64),
        stored_sizes=np.array([header.stored_size for header in headers], np.int32).reshape(-1, 2),
        orientations=np.array([header.orientation for header in headers], np.uint8),
        polygons=polygons,
        num_listed=num_listed,
    )
