"""Image files of every mode, each with the levels that every loader and command must read from it."""

import io
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 48, 64
_Y, _X = np.mgrid[:HEIGHT, :WIDTH]
RGB = np.stack([_X * 4, _Y * 5, (_X + _Y) * 2], axis=-1).astype(np.uint8)
GRAY = (_X * 3 + _Y).astype(np.uint8)
ALPHA = np.where(_X < 16, 0, np.where(_X < 32, 100, 255)).astype(np.uint8)
"""Transparent on the left, where colours are hidden; then weak; then opaque."""


@dataclass(frozen=True)
class Case:
    """One file."""

    name: str
    content: bytes
    upright: np.ndarray
    """(H, W, 3) levels, upright."""
    tolerance: int = 0
    """Largest difference that is allowed: JPEG, lossy WebP and Lab are computed by a library."""


def on_white(levels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Composites by the definition: a * c + (1 - a) * 255, rounded."""
    weight = alpha.astype(float) / 255
    weight = weight if levels.ndim == 2 else weight[..., None]
    return np.floor(weight * levels + (1 - weight) * 255 + 0.5).astype(np.uint8)


def saved(image: Image.Image, image_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def png(bits: int, color_type: int, samples: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    """Writes a PNG to its specification, as Pillow writes few kinds. `samples` is (H, W) or (H, W, n)."""
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in samples]
    elif bits == 8:
        rows = [row.astype(np.uint8).tobytes() for row in samples]
    else:
        planes = np.unpackbits(samples.astype(np.uint8)[..., None], axis=-1)[..., 8 - bits :]
        rows = [np.packbits(row.ravel()).tobytes() for row in planes]
    return _png(bits, color_type, rows, chunks, interlace=0)


def interlaced_png(color_type: int, samples: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    """Writes a PNG of 8 bits in the seven passes of Adam7."""
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    rows = [row.tobytes() for y, x, dy, dx in passes for row in np.ascontiguousarray(samples[y::dy, x::dx])]
    return _png(8, color_type, rows, chunks, interlace=1)


def _png(bits: int, color_type: int, rows: list[bytes], chunks: Iterable[tuple[bytes, bytes]], interlace: int) -> bytes:
    def chunk(kind: bytes, payload: bytes) -> bytes:
        return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))

    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, color_type, 0, 0, interlace)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    middle = b"".join(chunk(kind, payload) for kind, payload in chunks)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + middle + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def _key(*levels: int) -> tuple[bytes, bytes]:
    return b"tRNS", struct.pack(f">{len(levels)}H", *levels)


def _rgb(levels: np.ndarray) -> np.ndarray:
    return levels if levels.ndim == 3 else np.repeat(levels[..., None], 3, axis=2)


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _without_adobe_marker(jpeg: bytes) -> bytes:
    start = jpeg.find(b"\xff\xee")
    (length,) = struct.unpack(">H", jpeg[start + 2 : start + 4])
    return jpeg[:start] + jpeg[start + 2 + length :]


def _naive_rgb_of_cmyk(cmyk: np.ndarray) -> np.ndarray:
    cyan_magenta_yellow, black = cmyk[..., :3].astype(int), cmyk[..., 3:].astype(int)
    return ((255 - cyan_magenta_yellow) * (255 - black) / 255).round().astype(np.uint8)


def _srgb_of_lab(lab: np.ndarray) -> np.ndarray:
    """Converts (..., 3) L*, a*, b* of illuminant D50 by the formulas of CIE, Bradford and IEC 61966-2-1."""
    lightness, a, b = np.moveaxis(lab.astype(float), -1, 0)
    f = np.stack([(lightness + 16) / 116 + a / 500, (lightness + 16) / 116, (lightness + 16) / 116 - b / 200], axis=-1)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * (0.9642, 1.0, 0.8249)
    linear = (
        xyz
        @ np.array(
            [[3.1339, -1.6169, -0.4906], [-0.9788, 1.9161, 0.0335], [0.0719, -0.2290, 1.4052]]  # Lindbloom: D50 to sRGB
        ).T
    )
    linear = linear.clip(0, 1)
    return (255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)).round()


def _lab() -> tuple[bytes, np.ndarray]:
    lab = np.stack([20 + _X, _Y // 2 - 12, 12 - _Y // 2], axis=-1)
    stored = np.stack([lab[..., 0] * 255 / 100, lab[..., 1] % 256, lab[..., 2] % 256], axis=-1).round().astype(np.uint8)
    lab = np.stack([stored[..., 0] / 2.55, lab[..., 1], lab[..., 2]], axis=-1)
    return saved(Image.fromarray(stored, "LAB"), "TIFF"), _srgb_of_lab(lab)


def _sixteen() -> Iterable[Case]:
    deep_gray, deep_rgb = GRAY.astype(int) * 257, RGB.astype(int) * 257 + 100
    rounded = np.floor(deep_rgb.clip(max=65535) * 255 / 65535 + 0.5).astype(np.uint8)
    deep_rgb = deep_rgb.clip(max=65535)
    deep_alpha = ALPHA.astype(int) * 257
    yield Case("gray_16.png", png(16, 0, deep_gray), GRAY)
    yield Case("gray_16_key.png", png(16, 0, deep_gray, _key(30 * 257)), np.where(GRAY == 30, 255, GRAY))
    yield Case("gray_12_in_16.png", png(16, 0, GRAY.astype(int) * 16), (GRAY * (16 * 255 / 4095)).round())
    yield Case("gray_8_in_16.png", png(16, 0, GRAY.astype(int)), GRAY)
    yield Case("rgb_16.png", png(16, 2, deep_rgb), rounded)
    is_key = (deep_rgb == deep_rgb[5, 5]).all(axis=2, keepdims=True)
    yield Case("rgb_16_key.png", png(16, 2, deep_rgb, _key(*deep_rgb[5, 5])), np.where(is_key, 255, rounded))
    with_alpha = np.dstack([deep_gray, deep_alpha])
    yield Case("gray_alpha_16.png", png(16, 4, with_alpha), on_white(GRAY, ALPHA))
    yield Case("rgb_alpha_16.png", png(16, 6, np.dstack([deep_rgb, deep_alpha])), on_white(rounded, ALPHA))
    little = Image.fromarray(deep_gray.astype(np.uint16))
    yield Case("gray_16.tif", saved(little, "TIFF", compression="tiff_lzw"), GRAY)
    yield Case("gray_16_white_is_zero.tif", saved(little, "TIFF", tiffinfo={262: 0}), 255 - GRAY)
    big = Image.frombytes("I;16B", (WIDTH, HEIGHT), deep_gray.astype(">u2").tobytes())
    yield Case("gray_16_big_endian.tif", saved(big, "TIFF"), GRAY)


def _pngs() -> Iterable[Case]:
    yield Case("gray.png", png(8, 0, GRAY), GRAY)
    yield Case("gray_key.png", png(8, 0, GRAY, _key(30)), np.where(GRAY == 30, 255, GRAY))
    yield Case("gray_alpha.png", png(8, 4, np.dstack([GRAY, ALPHA])), on_white(GRAY, ALPHA))
    yield Case("rgb.png", png(8, 2, RGB), RGB)
    is_key = (RGB[5, 5] == RGB).all(axis=2, keepdims=True)
    yield Case("rgb_key.png", png(8, 2, RGB, _key(*RGB[5, 5])), np.where(is_key, 255, RGB))
    yield Case("rgb_alpha.png", png(8, 6, np.dstack([RGB, ALPHA])), on_white(RGB, ALPHA))
    yield Case("all_clear.png", png(8, 6, np.dstack([RGB, 0 * ALPHA])), np.full_like(RGB, 255))
    yield Case("rgb_gamma_1.png", png(8, 2, RGB, (b"gAMA", struct.pack(">I", 100000))), RGB)
    yield Case("interlaced.png", interlaced_png(2, RGB), RGB)
    yield Case("interlaced_alpha.png", interlaced_png(6, np.dstack([RGB, ALPHA])), on_white(RGB, ALPHA))
    for bits in (1, 2, 4):
        top = 2**bits - 1
        samples = GRAY.astype(int) * top // 255
        levels = samples * 255 // top
        yield Case(f"gray_{bits}_bit.png", png(bits, 0, samples), levels)
        yield Case(f"gray_{bits}_bit_key.png", png(bits, 0, samples, _key(1)), np.where(samples == 1, 255, levels))
    palette = np.stack([np.arange(256)[::-1], np.arange(256), np.arange(256) // 2], axis=-1).astype(np.uint8)
    entries = np.arange(256).astype(np.uint8)  # alpha by palette entry
    plte = b"PLTE", palette.tobytes()
    yield Case("palette.png", png(8, 3, GRAY, plte), palette[GRAY])
    alpha = b"tRNS", entries.tobytes()
    yield Case("palette_alpha.png", png(8, 3, GRAY, plte, alpha), on_white(palette[GRAY], entries[GRAY]))
    one = b"tRNS", bytes([255] * 30 + [0])  # one entry is clear; those after it are opaque
    yield Case("palette_one_clear.png", png(8, 3, GRAY, plte, one), on_white(palette[GRAY], 255 - 255 * (GRAY == 30)))
    yield Case("palette_4_bit.png", png(4, 3, GRAY // 16, (b"PLTE", palette[:16].tobytes())), palette[GRAY // 16])


def _jpegs() -> Iterable[Case]:
    options = {"quality": 100, "subsampling": 0}
    yield Case("gray.jpg", saved(Image.fromarray(GRAY), "JPEG", quality=100), GRAY, tolerance=2)
    yield Case("rgb.jpg", saved(Image.fromarray(RGB), "JPEG", **options), RGB, tolerance=3)
    cmyk = np.dstack([255 - RGB, GRAY // 4])
    expected = _naive_rgb_of_cmyk(cmyk)
    adobe = saved(Image.fromarray(cmyk, "CMYK"), "JPEG", **options)
    yield Case("cmyk.jpg", adobe, expected, tolerance=4)
    # Inks are taken as inverted without the marker too, as Pillow, OpenCV and browsers do.
    yield Case("cmyk_without_adobe.jpg", _without_adobe_marker(adobe), expected, tolerance=4)
    yield Case("ycck.jpg", *_ycck(options), tolerance=6)


def _ycck(options: dict[str, Any]) -> tuple[bytes, np.ndarray]:
    """A CMYK JPEG whose inks are stored as Y, Cb, Cr and inverted black: Adobe's transform 2."""
    cmyk = np.dstack([255 - RGB, GRAY // 4])
    ycc = np.asarray(Image.fromarray(cmyk[..., :3]).convert("YCbCr"))
    stored = 255 - np.dstack([ycc, 255 - cmyk[..., 3]])  # Pillow inverts what it writes
    jpeg = bytearray(saved(Image.fromarray(stored, "CMYK"), "JPEG", **options))
    jpeg[jpeg.find(b"Adobe") + 11] = 2
    return bytes(jpeg), _naive_rgb_of_cmyk(cmyk)


def _others() -> Iterable[Case]:
    rgb, rgba = Image.fromarray(RGB), Image.fromarray(np.dstack([RGB, ALPHA]))
    gray_alpha = Image.fromarray(np.dstack([GRAY, ALPHA]))
    cmyk = np.dstack([255 - RGB, GRAY // 4])
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"):
        yield Case(f"rgb_{compression}.tif", saved(rgb, "TIFF", compression=compression), RGB)
    yield Case("rgb_alpha.tif", saved(rgba, "TIFF"), on_white(RGB, ALPHA))
    yield Case("gray_alpha.tif", saved(gray_alpha, "TIFF"), on_white(GRAY, ALPHA))
    yield Case("cmyk.tif", saved(Image.fromarray(cmyk, "CMYK"), "TIFF"), _naive_rgb_of_cmyk(cmyk), tolerance=1)
    is_white = GRAY > 90
    fax = saved(Image.fromarray(is_white), "TIFF", compression="group4")
    yield Case("fax.tif", fax, np.where(is_white, 255, 0))
    yield Case("palette.tif", saved(rgb.quantize(64), "TIFF"), np.asarray(rgb.quantize(64).convert("RGB")))
    yield Case("lab.tif", *_lab(), tolerance=2)
    yield Case("rgb.bmp", saved(rgb, "BMP"), RGB)
    yield Case("gray.bmp", saved(Image.fromarray(GRAY), "BMP"), GRAY)
    yield Case("one_bit.bmp", saved(Image.fromarray(is_white), "BMP"), np.where(is_white, 255, 0))
    yield Case("four_bytes.bmp", saved(rgba, "BMP"), RGB)  # the first version of the format has no alpha
    yield Case("rgb_alpha.bmp", _bmp_with_alpha(ALPHA), on_white(RGB, ALPHA))
    yield Case("unused_alpha.bmp", _bmp_with_alpha(0 * ALPHA), RGB)
    yield Case("lossless.webp", saved(rgb, "WEBP", lossless=True), RGB)
    yield Case("alpha.webp", saved(rgba, "WEBP", lossless=True, exact=True), on_white(RGB, ALPHA))
    yield Case("lossy.webp", saved(Image.fromarray(_rgb(GRAY)), "WEBP", quality=100), GRAY, tolerance=8)
    still = Image.fromarray(GRAY // 4)
    yield Case("still.gif", saved(still, "GIF"), GRAY // 4)
    yield Case("clear.gif", saved(still, "GIF", transparency=7), np.where(GRAY // 4 == 7, 255, GRAY // 4))


def _bmp_with_alpha(alpha: np.ndarray) -> bytes:
    """Writes a BMP of version 4, whose header has a mask for alpha."""
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = (
        struct.pack("<IiiHHIIiiII", 108, WIDTH, -HEIGHT, 1, 32, 3, 0, 2835, 2835, 0, 0) + masks + b"BGRs" + bytes(48)
    )
    pixels = np.dstack([RGB[..., ::-1], alpha]).tobytes()
    return b"BM" + struct.pack("<IHHI", 14 + len(header) + len(pixels), 0, 0, 14 + len(header)) + header + pixels


def _turned() -> Iterable[Case]:
    turns: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        3: lambda levels: levels[::-1, ::-1],
        5: lambda levels: levels.swapaxes(0, 1),
        6: lambda levels: np.rot90(levels, -1),
        8: lambda levels: np.rot90(levels, 1),
    }
    alpha = Image.fromarray(np.dstack([RGB, ALPHA]))
    for orientation, turn in turns.items():
        exif, flat = _exif(orientation), Image.fromarray(RGB)
        yield Case(f"turned_{orientation}.png", saved(flat, "PNG", exif=exif), turn(RGB))
        yield Case(f"turned_{orientation}_alpha.png", saved(alpha, "PNG", exif=exif), turn(on_white(RGB, ALPHA)))
        yield Case(f"turned_{orientation}.tif", saved(flat, "TIFF", tiffinfo={274: orientation}), turn(RGB))
        lzw = saved(flat, "TIFF", tiffinfo={274: orientation}, compression="tiff_lzw")
        yield Case(f"turned_{orientation}_lzw.tif", lzw, turn(RGB))
        gray = saved(Image.fromarray(GRAY), "TIFF", tiffinfo={274: orientation})
        yield Case(f"turned_{orientation}_gray.tif", gray, turn(GRAY))
        yield Case(f"turned_{orientation}.webp", saved(flat, "WEBP", lossless=True, exif=exif), turn(RGB))


CASES = {
    case.name: Case(case.name, case.content, _rgb(np.asarray(case.upright)).astype(int), case.tolerance)
    for group in (_sixteen, _pngs, _jpegs, _others, _turned)
    for case in group()
}


def _animation(image_format: str) -> bytes:
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    return saved(frames[0], image_format, save_all=True, append_images=frames[1:])


REFUSED = {
    "float.tif": (saved(Image.fromarray(GRAY.astype(np.float32)), "TIFF"), "floating-point samples"),
    "integers.tif": (saved(Image.fromarray(GRAY.astype(np.int32)), "TIFF"), "32-bit or signed integer samples"),
    "two_pages.tif": (_animation("TIFF"), "a TIFF of 2 pages"),
    "moving.gif": (_animation("GIF"), "an animated GIF of 2 frames"),
    "moving.webp": (_animation("WEBP"), "an animated WebP of 2 frames"),
    "moving.png": (_animation("PNG"), "an animated PNG of 2 frames"),
    "page.jp2": (saved(Image.fromarray(RGB), "JPEG2000"), "the extension '.jp2'"),
    "half.tif": (saved(Image.fromarray(RGB), "TIFF", compression="tiff_lzw")[:1500], "a header that Pillow calls"),
    "half.webp": (saved(Image.fromarray(RGB), "WEBP", lossless=True)[:60], "a WebP of 60 bytes"),
    "half.bmp": (saved(Image.fromarray(RGB), "BMP")[:2000], "BMP data"),
    "half_16.png": (png(16, 0, GRAY.astype(int) * 257)[:500], "end of the file too early"),
}
"""Files that are refused, with a part of what the audit says was found."""
