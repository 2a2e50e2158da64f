"""Images with something wrong: what a hostile client, or a broken disk, sends to a service.

Everything is a function of a seed and a number, so a file that did harm can be made again (under
one version of Pillow and its codecs).
"""

from __future__ import annotations

import dataclasses
import functools
import io
import random
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from PIL import Image

from featurestore.testing.images import photograph

_LARGEST_LIE = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_OTHERS = (
    b"PK\x03\x04" + bytes(26),
    b"%PDF-1.7\n1 0 obj\n",
    b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    b"<?php system($_GET['c']); ?>",
    b"\x7fELF\x02\x01\x01",
    b"\x00\x00\x00\x20ftypavif",
)


@dataclasses.dataclass(frozen=True)
class MutatedImage:
    """A file, and in a few words how it was made."""

    content: bytes
    made: str


def mutated_image(number: int, *, seed: int = 0) -> MutatedImage:
    """Return one of endlessly many files, most of them damaged images.

    Every format that `images.decode_image` reads is met, and every kind of damage: flipped bits,
    other bytes, an end too early, pieces of other files within or behind, pieces left out or
    repeated, lies about sizes, and headers of images far too large. Now and then nothing is wrong.
    """
    draw = random.Random(f"{seed}:{number}")  # noqa: S311 -- repeatable, for no secret
    name = draw.choice(sorted(whole_images()))
    kinds = list(_DAMAGES)
    made = [name]
    content = whole_images()[name]
    for _ in range(draw.choice((0, 1, 1, 1, 1, 1, 2, 3))):
        kind = draw.choice(kinds)
        content = _DAMAGES[kind](draw, content)
        made.append(kind)
    return MutatedImage(content, ", ".join(made))


@functools.cache
def whole_images() -> Mapping[str, bytes]:
    """Return good files of every format and of many of its variants, by name."""
    colour = Image.fromarray(photograph(0, index=20_000))
    clear = colour.convert("RGBA")
    clear.putalpha(colour.convert("L"))
    grey, indexed = colour.convert("L"), colour.convert("P")
    other = Image.fromarray(photograph(1, index=20_000))
    frames: dict[str, Any] = {"save_all": True, "append_images": [other, colour]}
    exif = Image.Exif()
    exif[274] = 6
    made: list[tuple[str, Image.Image, str, dict[str, Any]]] = [
        ("JPEG", colour, "JPEG", {}),
        ("JPEG progressive", colour, "JPEG", {"progressive": True, "exif": exif.tobytes()}),
        ("JPEG grey", grey, "JPEG", {"restart_marker_blocks": 2}),
        ("JPEG CMYK", colour.convert("CMYK"), "JPEG", {}),
        ("PNG", colour, "PNG", {"exif": exif.tobytes()}),
        ("PNG transparent", clear, "PNG", {}),
        ("PNG palette", indexed, "PNG", {"transparency": 3}),
        ("PNG 16 bits", grey.convert("I;16"), "PNG", {}),
        ("PNG animated", colour, "PNG", frames),
        ("WebP", colour, "WEBP", {"exif": exif.tobytes()}),
        ("WebP lossless", clear, "WEBP", {"lossless": True}),
        ("WebP animated", colour, "WEBP", frames),
        ("GIF", indexed, "GIF", {"transparency": 5}),
        ("GIF animated", colour, "GIF", frames),
        ("BMP", colour, "BMP", {}),
        ("BMP palette", indexed, "BMP", {}),
        ("BMP two colours", colour.convert("1"), "BMP", {}),
        ("TIFF", colour, "TIFF", {}),
        ("TIFF LZW", colour, "TIFF", {"compression": "tiff_lzw"}),
        ("TIFF deflate", clear, "TIFF", {"compression": "tiff_adobe_deflate"}),
        ("TIFF JPEG", colour, "TIFF", {"compression": "jpeg"}),
        ("TIFF packbits", indexed, "TIFF", {"compression": "packbits"}),
        ("TIFF group 4", colour.convert("1"), "TIFF", {"compression": "group4"}),
        ("TIFF 16 bits", grey.convert("I;16"), "TIFF", {}),
        ("TIFF pages", colour, "TIFF", frames),
    ]
    return {name: _encoded(image, kind, options) for name, image, kind, options in made}


def bombs() -> Mapping[str, bytes]:
    """Return small files of each format whose headers claim more pixels than any limit allows."""
    whole = whole_images()
    png = b"IHDR" + struct.pack(">IIBBBBB", 200_000, 200_000, 8, 2, 0, 0, 0)
    tiff = io.BytesIO()
    Image.new("L", (16, 16)).save(tiff, "TIFF")
    return {
        "JPEG": _with_jpeg_size(whole["JPEG"], 65_500, 65_500),
        "PNG": whole["PNG"][:12] + png + struct.pack(">I", zlib.crc32(png)) + whole["PNG"][33:],
        # libwebp itself refuses a canvas of more than 2^32 - 1 pixels.
        "WebP": _with_webp_canvas(whole["WebP animated"], 0xFFFF, 0xFFFE),
        "GIF": whole["GIF"][:6] + struct.pack("<HH", 65_535, 65_535) + whole["GIF"][10:],
        "BMP": whole["BMP"][:18] + struct.pack("<ii", 100_000, 100_000) + whole["BMP"][26:],
        "TIFF": _with_tiff_sizes(tiff.getvalue(), 200_000),
    }


def large_images(side: int) -> Mapping[str, bytes]:
    """Return small files of each format that really are so wide and high: all of one colour.

    They are no bombs by their headers, so what decoding one may take is what they try.
    """
    image = Image.new("P", (side, side))
    colour = Image.new("RGB", (min(side, 16_383), min(side, 16_383)))
    return {
        "JPEG": _encoded(colour, "JPEG", {"progressive": True}),
        "PNG": _encoded(Image.new("RGBA", (side, side)), "PNG", {}),
        "WebP": _encoded(colour, "WEBP", {"quality": 0, "method": 0}),
        "GIF": _encoded(image, "GIF", {"transparency": 0}),
        "BMP": _encoded(image.convert("1"), "BMP", {}),
        "TIFF": _encoded(image, "TIFF", {"compression": "tiff_adobe_deflate"}),
    }


def _encoded(image: Image.Image, image_format: str, options: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    image.save(stream, image_format, **options)
    return stream.getvalue()


def _with_jpeg_size(content: bytes, width: int, height: int) -> bytes:
    at = next(i for i in range(len(content)) if content[i : i + 2] in (b"\xff\xc0", b"\xff\xc2"))
    return content[: at + 5] + struct.pack(">HH", height, width) + content[at + 9 :]


def _with_webp_canvas(content: bytes, width: int, height: int) -> bytes:
    at = content.index(b"VP8X") + 12
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return content[:at] + size + content[at + 6 :]


def _with_tiff_sizes(content: bytes, side: int) -> bytes:
    (directory,) = struct.unpack_from("<I", content, 4)
    (entries,) = struct.unpack_from("<H", content, directory)
    made = bytearray(content)
    for at in range(directory + 2, directory + 2 + 12 * entries, 12):
        if struct.unpack_from("<H", content, at)[0] in (256, 257):  # ImageWidth, ImageLength
            struct.pack_into("<HII", made, at + 2, 4, 1, side)
    return bytes(made)


def _flip_bits(draw: random.Random, content: bytes) -> bytes:
    made = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8, 64))):
        at = draw.randrange(len(made)) if made else 0
        made[at : at + 1] = bytes(byte ^ 1 << draw.randrange(8) for byte in made[at : at + 1])
    return bytes(made)


def _flip_bits_of_the_head(draw: random.Random, content: bytes) -> bytes:
    head = draw.choice((16, 64, 256))
    return _flip_bits(draw, content[:head]) + content[head:]


def _truncate(draw: random.Random, content: bytes) -> bytes:
    return content[: draw.randrange(len(content) + 1)]


def _overwrite(draw: random.Random, content: bytes) -> bytes:
    at = draw.randrange(len(content) + 1)
    size = draw.choice((1, 4, 16, 256))
    piece = draw.choice((b"\0" * size, b"\xff" * size, draw.randbytes(size)))
    return content[:at] + piece + content[at + size :]


def _splice(draw: random.Random, content: bytes) -> bytes:
    """Put a piece of another image in; sometimes in the place of a piece as long."""
    other = whole_images()[draw.choice(sorted(whole_images()))]
    start = draw.randrange(len(other))
    piece = other[start : start + draw.choice((4, 12, 100, 5000))]
    at = draw.randrange(len(content) + 1)
    return content[:at] + piece + content[at + draw.choice((0, len(piece))) :]


def _repeat(draw: random.Random, content: bytes) -> bytes:
    start = draw.randrange(len(content) + 1)
    stop = start + draw.choice((1, 20, 500, 5000))
    return content[:stop] + content[start:stop] * draw.choice((1, 10, 40)) + content[stop:]


def _leave_out(draw: random.Random, content: bytes) -> bytes:
    start = draw.randrange(len(content) + 1)
    return content[:start] + content[start + draw.choice((1, 8, 200)) :]


def _lie_in_the_head(draw: random.Random, content: bytes) -> bytes:
    """Write a number that sizes, counts and offsets are not meant to be, where they stand."""
    number, order = draw.choice(_LARGEST_LIE), draw.choice(("<", ">"))
    size = draw.choice(("H", "I"))
    piece = struct.pack(order + size, number & (0xFFFF if size == "H" else 0xFFFFFFFF))
    at = draw.randrange(4, 4 + min(200, max(1, len(content))))
    return content[:at] + piece + content[at + len(piece) :]


def _mend_checksums(draw: random.Random, content: bytes) -> bytes:
    """Damage a chunk of a PNG and write the checksum that hides it; others get flipped bits."""
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        return _flip_bits(draw, content)
    made, at = bytearray(content), 8
    while at + 12 <= len(made):
        (size,) = struct.unpack_from(">I", made, at)
        if at + 12 + size > len(made):
            break
        if size and draw.random() < 0.5:
            made[at + 8 + draw.randrange(size)] ^= 1 << draw.randrange(8)
        struct.pack_into(">I", made, at + 8 + size, zlib.crc32(made[at + 4 : at + 8 + size]))
        at += 12 + size
    return bytes(made)


def _disguise(draw: random.Random, content: bytes) -> bytes:
    """Give it the signature of another format."""
    other = whole_images()[draw.choice(sorted(whole_images()))]
    size = draw.choice((3, 8, 12))
    return other[:size] + content[draw.choice((0, size)) :]


def _other_file(draw: random.Random, content: bytes) -> bytes:
    """Make it a file of two kinds: a program, a page or an archive before or behind it."""
    other = draw.choice(_OTHERS)
    return draw.choice((content + other, other + content, content[:20] + other + content[20:]))


def _claim_too_much(draw: random.Random, content: bytes) -> bytes:
    made = bombs()
    return made[draw.choice(sorted(made))] + content[:100]


_DAMAGES: Mapping[str, Callable[[random.Random, bytes], bytes]] = {
    "bits flipped": _flip_bits,
    "bits of the head flipped": _flip_bits_of_the_head,
    "cut off": _truncate,
    "overwritten": _overwrite,
    "spliced with another": _splice,
    "repeated": _repeat,
    "a piece left out": _leave_out,
    "a lie in the head": _lie_in_the_head,
    "checksums mended": _mend_checksums,
    "under another signature": _disguise,
    "two files in one": _other_file,
    "a bomb by its header": _claim_too_much,
}
