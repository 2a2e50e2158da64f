"""Image bytes become upright RGB pixels, by one rule.

The rule, named by `DECODER` in every recipe; a change of it that moves a pixel changes the name:

1. JPEG (also MPO), PNG, WebP, BMP, GIF and TIFF are read, recognised by their first bytes and not
   by file name. Of several frames or pages, the first.
2. 16-bit grey becomes 8-bit by dropping the low byte (12-bit, its low four bits). 32-bit integer
   and floating-point images have no agreed range: they are unreadable.
3. Palettes are looked up; transparency, be it a channel, a palette entry or a key colour, is
   composited over white. A key colour of a 16-bit colour PNG is ignored.
4. Grey, CMYK, YCCK (inverted, as Adobe writes them), YCbCr and LAB become RGB by Pillow's own
   conversion. ICC profiles are ignored.
5. The orientation in EXIF (in TIFF: its tag) is applied; what cannot be parsed counts as upright.
6. The whole picture is squashed to (height, width) by Pillow's filter, antialiased where it
   shrinks. There is no crop.
7. A file above `MAX_FILE_BYTES` is not read: it is unreadable, whatever it holds.

Pillow's plug-ins are opened directly instead of through `Image.open`, which would check against
the process-wide `Image.MAX_IMAGE_PIXELS` and print a warning between it and twice it. Pillow can
still warn (UserWarning) about odd tags in a TIFF; `warnings` has no filter that one thread may
set, so that choice is left to the process.
"""

from __future__ import annotations

import dataclasses
import io
import struct
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from featurestore.errors import InvalidInput

DECODER = "pillow-upright-rgb-1"
MAX_PIXELS = 178_956_970  # where Pillow itself calls an image a decompression bomb
MAX_FILE_BYTES = 1 << 30  # MAX_PIXELS as uncompressed RGB take half of it
HEAD_BYTES = 12  # the longest signature is WebP's

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# Source: EXIF 2.32, tag 274, and what each value needs to stand upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION_TAG = 274
_BITS_TAG, _PHOTOMETRIC_TAG, _WHITE_IS_ZERO = 258, 262, 0
_EXIF_PREFIX = b"Exif\x00\x00"


class UnreadableImage(InvalidInput):
    """The bytes hold no image this rule can read; `reason` says why, in plain words."""

    def __init__(self, reason: str, *, next_step: str | None = None) -> None:
        super().__init__(reason, next_step=next_step)
        self.reason = reason


class TooManyPixels(UnreadableImage):
    """The header claims more pixels than were allowed; nothing was decoded."""


class _Jpeg(JpegImageFile):
    def _read_dpi_from_exif(self) -> None:
        """Leave EXIF alone: the resolution is not needed, and a broken one makes Pillow warn."""


@dataclasses.dataclass(frozen=True)
class _Format:
    name: str
    matches: Callable[[bytes], bool]
    reader: Callable[[io.BytesIO], ImageFile.ImageFile]


_FORMATS = (
    _Format("JPEG", lambda data: data.startswith(b"\xff\xd8\xff"), _Jpeg),
    _Format("PNG", lambda data: data.startswith(b"\x89PNG\r\n\x1a\n"), PngImageFile),
    _Format("WebP", lambda data: data[:4] == b"RIFF" and data[8:12] == b"WEBP", WebPImageFile),
    _Format("GIF", lambda data: data.startswith((b"GIF87a", b"GIF89a")), GifImageFile),
    _Format(
        "TIFF",
        lambda data: data.startswith((b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")),
        TiffImageFile,
    ),
    _Format("BMP", lambda data: data.startswith(b"BM"), BmpImageFile),
)


def check_readable(head: bytes, *, size_bytes: int) -> None:
    """Refuse, before it is read, a file that cannot become pixels.

    `head` is its first `HEAD_BYTES` (fewer where it is shorter). A caller that reads whole files
    asks here first: a stray archive among the images may be larger than memory.

    Raises
    ------
    UnreadableImage
        The file has no known signature (with the reason that `decode_image` would give), or is
        larger than `MAX_FILE_BYTES`.
    """
    image_format = _recognise(head)
    if size_bytes > MAX_FILE_BYTES:
        raise UnreadableImage(
            f"this {image_format.name} of {size_bytes:,} bytes exceeds the limit of "
            f"{MAX_FILE_BYTES:,} bytes"
        )


def decode_image(
    data: bytes, *, size: tuple[int, int], interpolation: str, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """Return `data` as upright RGB of exactly `size`: (height, width, 3) uint8, read-only.

    May be called from many threads at once; the codecs release the interpreter's lock.

    Parameters
    ----------
    size
        (height, width) in pixels.
    interpolation
        nearest, box, bilinear, hamming, bicubic or lanczos.
    max_pixels
        An image whose header claims more is refused before any pixel is decoded.

    Raises
    ------
    UnreadableImage
        Whatever is wrong with the bytes: no other exception comes from them. `TooManyPixels`
        where that is it.
    MemoryError
        There was not enough memory to decode: a state of the process, which says nothing about
        the bytes. As `UnreadableImage` it would keep a good image out for good.
    """
    height, width = size
    resample = _FILTERS[interpolation]
    return _decoded(
        data, max_pixels, lambda upright: np.asarray(upright.resize((width, height), resample))
    )


def decode_thumbnail(
    data: bytes, *, longest: int, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """Return `data` as upright RGB for people to look at: (height, width, 3) uint8, read-only.

    Proportions are kept, and the longer side is at most `longest` pixels; a smaller image is not
    enlarged. `max_pixels` and what is raised are those of `decode_image`.

    Raises
    ------
    UnreadableImage, MemoryError
        As `decode_image`.
    """

    def shrink(upright: Image.Image) -> NDArray[np.uint8]:
        upright.thumbnail((longest, longest), Image.Resampling.LANCZOS)
        return np.asarray(upright)

    return _decoded(data, max_pixels, shrink)


def _decoded(
    data: bytes, max_pixels: int, finish: Callable[[Image.Image], NDArray[np.uint8]]
) -> NDArray[np.uint8]:
    image_format = _recognise(data)
    try:
        image = image_format.reader(io.BytesIO(data))
        columns, rows = image.size
        if columns * rows > max_pixels:
            raise TooManyPixels(
                f"{columns}x{rows} pixels exceed the limit of {max_pixels:,} pixels"
            )
        return finish(_upright_rgb(image, data))
    except (UnreadableImage, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise TooManyPixels(f"too many pixels: {error}") from error
    except Exception as error:
        # Around one sample: codecs raise anything (struct.error, SyntaxError, zlib.error, ...).
        raise UnreadableImage(_reason(image_format.name, error)) from error


def _recognise(data: bytes) -> _Format:
    if not data:
        raise UnreadableImage("empty file")
    for image_format in _FORMATS:
        if image_format.matches(data):
            return image_format
    names = ", ".join(image_format.name for image_format in _FORMATS[:-1])
    raise UnreadableImage(f"not an image (no {names} or {_FORMATS[-1].name} signature)")


def _reason(name: str, error: Exception) -> str:
    detail = str(error) or type(error).__name__
    cause = error.__cause__ or error  # Pillow wraps what a header raises in SyntaxError
    if isinstance(cause, EOFError | struct.error) or "truncated" in detail.lower():
        return f"truncated: this {name} ends too early"
    return f"damaged {name}: {detail}"


def _upright_rgb(image: ImageFile.ImageFile, data: bytes) -> Image.Image:
    image.load()
    pixels: Image.Image = image
    if image.mode != "RGB" or "transparency" in image.info:
        pixels = _to_rgb(image, data)
    # TIFF is not asked: Pillow turns it upright while loading.
    if "exif" in image.info or "Raw profile type exif" in image.info:
        turn = _UPRIGHT.get(_orientation(_exif(image)))
        if turn is not None:
            pixels = pixels.transpose(turn)
    return pixels


def _to_rgb(image: ImageFile.ImageFile, data: bytes) -> Image.Image:
    if image.mode.startswith("I;16"):
        return _grey16_to_rgb(image)
    if image.mode in ("I", "F"):
        kind = "floating-point" if image.mode == "F" else "signed or 32-bit integer"
        raise UnreadableImage(f"{kind} pixels have no agreed range; convert the file to 8 bits")
    if isinstance(image, PngImageFile):
        _fit_key_colour(image, depth=data[24])
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(layer, mask=layer)
    return white


def _grey16_to_rgb(image: ImageFile.ImageFile) -> Image.Image:
    # Not Image.convert: it clips to 255, so that everything but near-black turns white.
    values = np.asarray(image)
    bits, inverted = 16, False
    if isinstance(image, TiffImageFile):
        bits = int(image.tag_v2[_BITS_TAG][0])
        inverted = image.tag_v2.get(_PHOTOMETRIC_TAG) == _WHITE_IS_ZERO
    grey = (values >> (bits - 8)).astype(np.uint8)
    if inverted:
        grey = 255 - grey
    key = image.info.get("transparency")
    if isinstance(key, int):
        grey[values == key] = 255
    return Image.fromarray(grey).convert("RGB")


def _fit_key_colour(image: PngImageFile, *, depth: int) -> None:
    """Bring the key colour of a PNG to the 8-bit scale that Pillow has brought its pixels to."""
    key = image.info.get("transparency")
    if depth == 16:
        image.info.pop("transparency", None)
    elif image.mode == "L" and isinstance(key, int):
        image.info["transparency"] = key * 255 // ((1 << depth) - 1)


def _exif(image: ImageFile.ImageFile) -> bytes:
    """Return the EXIF block: JPEG APP1, PNG eXIf, WebP EXIF, or ImageMagick's text in a PNG."""
    found = image.info.get("exif")
    if isinstance(found, bytes):
        return found
    text = image.info.get("Raw profile type exif")
    if not isinstance(text, str):
        return b""
    try:
        return bytes.fromhex("".join(text.split("\n")[3:]))
    except ValueError:
        return b""


def _orientation(exif: bytes) -> int:
    """Return tag 274 of the first directory, or 1 (upright) where there is none to be read.

    Pillow's own parser is not used: it costs more than the resize and warns about broken blocks.
    """
    while exif.startswith(_EXIF_PREFIX):
        exif = exif[len(_EXIF_PREFIX) :]
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(f"{order}I", exif, 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, directory)
        for entry in range(directory + 2, directory + 2 + 12 * entries, 12):
            tag, kind = struct.unpack_from(f"{order}HH", exif, entry)
            if tag == _ORIENTATION_TAG:
                width = {3: "H", 4: "I"}.get(kind, "B")
                return int(struct.unpack_from(f"{order}{width}", exif, entry + 8)[0])
    except struct.error:
        pass  # the block ends before the tag
    return 1
