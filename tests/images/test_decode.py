"""Each kind of image comes out as upright RGB by the rule; expected pixels are literal."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from featurestore.errors import InvalidInput
from featurestore.images import DECODER, UnreadableImage, decode_image
from featurestore.testing.images import encode, photograph


def saved(image, image_format, **options):
    stream = io.BytesIO()
    image.save(stream, image_format, **options)
    return stream.getvalue()


def decoded(data, size=(2, 2)):
    return decode_image(data, size=size, interpolation="nearest").tolist()


def grid(values):
    """A grey or RGB(A) image of the literal values."""
    return Image.fromarray(np.array(values, np.uint8))


RED, GREEN, BLUE, WHITE, BLACK = [255, 0, 0], [0, 255, 0], [0, 0, 255], [255] * 3, [0] * 3
FOUR = [[RED, GREEN], [BLUE, WHITE]]


def test_decoder_name_is_frozen():
    # A change of any expected pixel below must come with a new name: recipes carry it.
    assert DECODER == "pillow-upright-rgb-1"


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "TIFF", "GIF"])
def test_rgb_is_kept(image_format):
    assert decoded(saved(grid(FOUR), image_format)) == FOUR


def test_webp_lossless_rgb_and_alpha():
    assert decoded(saved(grid(FOUR), "WEBP", lossless=True)) == FOUR
    faded = grid([[[*RED, 0], [*GREEN, 255]], [[*BLUE, 255], [0, 0, 0, 128]]])
    # Half-transparent black over white: 255 * (255 - 128) / 255.
    assert decoded(saved(faded, "WEBP", lossless=True)) == [[WHITE, GREEN], [BLUE, [127] * 3]]


def test_result_is_rgb_uint8_of_the_asked_size():
    pixels = decode_image(encode(photograph(0)), size=(30, 50), interpolation="bilinear")
    assert (pixels.shape, pixels.dtype) == ((30, 50, 3), np.uint8)


def test_grey_and_one_bit():
    grey = grid([[0, 100], [200, 255]])
    assert decoded(saved(grey, "PNG")) == [[BLACK, [100] * 3], [[200] * 3, WHITE]]
    one_bit = grid([[0, 255], [255, 0]]).convert("1")
    for image_format in ("PNG", "BMP", "TIFF", "GIF"):
        assert decoded(saved(one_bit, image_format)) == [[BLACK, WHITE], [WHITE, BLACK]]


def palette_image():
    image = Image.new("P", (2, 2))
    image.putpalette([*RED, *GREEN, *BLUE, *WHITE])
    image.putdata([0, 1, 2, 3])
    return image


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "GIF", "TIFF"])
def test_palette(image_format):
    assert decoded(saved(palette_image(), image_format)) == FOUR


@pytest.mark.parametrize("image_format", ["PNG", "GIF"])
def test_palette_with_a_transparent_entry(image_format):
    data = saved(palette_image(), image_format, transparency=2)
    assert decoded(data) == [[RED, GREEN], [WHITE, WHITE]]


def test_palette_with_partly_transparent_entries():
    data = saved(palette_image(), "PNG", transparency=bytes([255, 0, 128, 255]))
    assert decoded(data) == [[RED, WHITE], [[127, 127, 255], WHITE]]


def test_alpha_is_composited_over_white():
    rgba = grid([[[*RED, 255], [*RED, 0]], [[*BLACK, 51], [*GREEN, 255]]])
    for image_format in ("PNG", "TIFF"):
        assert decoded(saved(rgba, image_format)) == [[RED, WHITE], [[204] * 3, GREEN]]
    grey_alpha = Image.merge("LA", (grid([[0, 0], [80, 80]]), grid([[255, 0], [255, 51]])))
    assert decoded(saved(grey_alpha, "PNG")) == [[BLACK, WHITE], [[80] * 3, [220] * 3]]


def test_key_colour_is_transparent():
    assert decoded(saved(grid(FOUR), "PNG", transparency=(0, 255, 0))) == [
        [RED, WHITE],
        [BLUE, WHITE],
    ]
    grey = grid([[0, 100], [200, 255]])
    assert decoded(saved(grey, "PNG", transparency=100)) == [[BLACK, WHITE], [[200] * 3, WHITE]]


def png(depth, colour, rows, *chunks):
    """A PNG of two columns by the specification, for kinds that Pillow cannot write."""
    import zlib

    header = struct.pack(">IIBBBBB", 2, len(rows), depth, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\x00" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
        for name, content in ((b"IHDR", header), *chunks, (b"IDAT", body), (b"IEND", b""))
    )


def test_16_bit_grey_loses_its_low_byte():
    data = png(16, 0, [bytes.fromhex("00ff0100"), bytes.fromhex("80ffffff")])
    assert decoded(data) == [[BLACK, [1] * 3], [[128] * 3, WHITE]]


def test_16_bit_grey_key_colour_is_compared_at_16_bits():
    rows = [bytes.fromhex("00ff0100"), bytes.fromhex("80ff80fe")]
    data = png(16, 0, rows, (b"tRNS", bytes.fromhex("80ff")))
    assert decoded(data) == [[BLACK, [1] * 3], [WHITE, [128] * 3]]


def test_16_bit_colour_loses_its_low_bytes_and_its_key_colour():
    row = bytes.fromhex("ff00 0011 0000 0000 80ff 0000")
    data = png(16, 2, [row, row], (b"tRNS", row[:6]))
    assert decoded(data) == [[RED, [0, 128, 0]]] * 2


def test_key_colour_of_two_bit_grey():
    data = png(2, 0, [bytes([0b0110_0000]), bytes([0b0011_0000])], (b"tRNS", b"\x00\x01"))
    assert decoded(data) == [[WHITE, [170] * 3], [BLACK, WHITE]]


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_grey_tiff_of_either_byte_order(order):
    values = np.array([[0x00FF, 0x0100], [0x80FF, 0xFFFF]], f"{order}u2")
    image = Image.frombytes("I;16" if order == "<" else "I;16B", (2, 2), values.tobytes())
    assert decoded(saved(image, "TIFF")) == [[BLACK, [1] * 3], [[128] * 3, WHITE]]


def test_16_bit_grey_tiff_where_white_is_zero():
    values = np.array([[0x0000, 0x0100], [0x80FF, 0xFFFF]], "<u2")
    data = saved(Image.fromarray(values), "TIFF", tiffinfo={262: 0})
    assert decoded(data) == [[WHITE, [254] * 3], [[127] * 3, BLACK]]


@pytest.mark.parametrize(("dtype", "kind"), [(np.float32, "floating-point"), (np.int32, "integer")])
def test_pixels_without_a_range_are_unreadable(dtype, kind):
    data = saved(Image.fromarray(np.zeros((2, 2), dtype)), "TIFF")
    with pytest.raises(UnreadableImage, match=kind):
        decoded(data)


def test_cmyk_jpeg_is_inverted_as_adobe_writes_it():
    # Cyan full, the rest none; Pillow writes CMYK as Adobe does, inverted.
    image = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    pixels = decode_image(saved(image, "JPEG", quality=100), size=(1, 1), interpolation="box")
    assert np.abs(pixels[0, 0].astype(int) - [0, 255, 255]).max() <= 2


def test_cmyk_tiff():
    image = Image.new("CMYK", (2, 2), (0, 255, 255, 0))
    assert decoded(saved(image, "TIFF")) == [[RED, RED], [RED, RED]]


def test_lab_tiff():
    image = Image.new("LAB", (2, 2), (255, 128, 128))
    white = np.array(decoded(saved(image, "TIFF")))
    assert white.min() >= 252


def test_progressive_jpeg_equals_baseline():
    image = Image.fromarray(photograph(1))
    baseline = decoded(saved(image, "JPEG"), (48, 64))
    assert decoded(saved(image, "JPEG", progressive=True), (48, 64)) == baseline


def test_jpeg_known_colours():
    image = Image.new("RGB", (16, 16), (200, 30, 90))
    pixels = decode_image(saved(image, "JPEG", quality=95), size=(1, 1), interpolation="box")
    assert np.abs(pixels[0, 0].astype(int) - [200, 30, 90]).max() <= 2


def test_first_frame_and_first_page():
    first, second = grid(FOUR), grid([[WHITE, WHITE], [BLACK, BLACK]])
    for image_format, options in (
        ("GIF", {}),
        ("TIFF", {}),
        ("PNG", {}),
        ("WEBP", {"lossless": 1}),
    ):
        data = saved(first, image_format, save_all=True, append_images=[second], **options)
        assert decoded(data) == FOUR, image_format


def test_mpo_is_read_as_its_first_jpeg():
    first, second = Image.new("RGB", (16, 16), tuple(RED)), Image.new("RGB", (16, 16), tuple(BLUE))
    data = saved(first, "MPO", save_all=True, append_images=[second])
    assert decoded(data, (1, 1))[0][0][0] > 250


# How each EXIF orientation stores the picture FOUR, by the definition of tag 274: where the
# stored first row and first column are seen.
STORED = {
    1: [[RED, GREEN], [BLUE, WHITE]],
    2: [[GREEN, RED], [WHITE, BLUE]],  # first row top, first column right
    3: [[WHITE, BLUE], [GREEN, RED]],  # bottom, right
    4: [[BLUE, WHITE], [RED, GREEN]],  # bottom, left
    5: [[RED, BLUE], [GREEN, WHITE]],  # left, top
    6: [[GREEN, WHITE], [RED, BLUE]],  # right, top
    7: [[WHITE, GREEN], [BLUE, RED]],  # right, bottom
    8: [[BLUE, RED], [WHITE, GREEN]],  # left, bottom
}


def exif(orientation, order="<", kind=3):
    mark = b"II*\x00" if order == "<" else b"MM\x00*"
    value = struct.pack(f"{order}H2x" if kind == 3 else f"{order}I", orientation)
    entries = struct.pack(f"{order}HHI", 271, 2, 4) + b"abc\x00"
    entries += struct.pack(f"{order}HHI", 274, kind, 1) + value
    return b"Exif\x00\x00" + mark + struct.pack(f"{order}IH", 8, 2) + entries + bytes(4)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_orientation_is_applied(orientation, order):
    stored = grid(STORED[orientation])
    block = exif(orientation, order)
    assert decoded(saved(stored, "PNG", exif=block)) == FOUR
    assert decoded(saved(stored, "WEBP", lossless=True, exif=block)) == FOUR
    assert decoded(saved(stored, "TIFF", tiffinfo={274: orientation})) == FOUR
    large = stored.resize((32, 32), Image.Resampling.NEAREST)
    pixels = decode_image(
        saved(large, "JPEG", exif=block, quality=95), size=(2, 2), interpolation="box"
    )
    assert np.abs(pixels.astype(int) - FOUR).max() < 40


def test_exif_orientation_of_a_picture_that_is_not_square():
    row = grid([[RED, GREEN, BLUE]])
    upright = [[RED], [GREEN], [BLUE]]
    assert decoded(saved(row, "PNG", exif=exif(6)), (3, 1)) == upright
    assert decoded(saved(row, "TIFF", tiffinfo={274: 6}), (3, 1)) == upright


def test_orientation_stored_as_a_long():
    assert decoded(saved(grid(STORED[3]), "PNG", exif=exif(3, kind=4))) == FOUR


def test_orientation_in_the_text_that_imagemagick_writes():
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    block = exif(3)
    text.add_text("Raw profile type exif", f"\nexif\n{len(block):8d}\n{block.hex()}\n")
    assert decoded(saved(grid(STORED[3]), "PNG", pnginfo=text)) == FOUR


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"Exif\x00\x00",
        b"Exif\x00\x00II*\x00",
        exif(9),
        exif(0),
        exif(3)[:-9],
        b"Exif\x00\x00" + b"\xff" * 40,
    ],
    ids=["none", "empty", "short", "nine", "zero", "cut", "noise"],
)
def test_broken_exif_counts_as_upright(block, recwarn):
    image = Image.fromarray(photograph(0))
    plain = saved(image, "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block
    broken = plain[:2] + segment + plain[2:]
    assert decoded(broken, (48, 64)) == decoded(plain, (48, 64))
    assert not recwarn.list


def test_icc_profile_is_ignored():
    image = Image.fromarray(photograph(0))
    assert decoded(saved(image, "PNG", icc_profile=b"not a profile")) == decoded(
        saved(image, "PNG")
    )


def test_box_resize_averages_and_squashes():
    image = grid([[[0] * 3, [100] * 3, [10] * 3, [30] * 3]])  # 1 x 4: not the shape asked for
    pixels = decode_image(saved(image, "PNG"), size=(2, 2), interpolation="box")
    assert pixels[:, :, 0].tolist() == [[50, 20], [50, 20]]


def test_bilinear_is_antialiased():
    # One white column of eight: a filter of the size of a pixel would see either all or nothing.
    image = grid([[[255] * 3 if column == 3 else [0] * 3 for column in range(8)]])
    pixels = decode_image(saved(image, "PNG"), size=(1, 2), interpolation="bilinear")
    assert 20 < pixels[0, 0, 0] < 80
    assert pixels[0, 0, 0] > pixels[0, 1, 0] > 0


@pytest.mark.parametrize(
    "interpolation", ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
)
def test_every_filter_of_a_recipe_is_known(interpolation):
    pixels = decode_image(encode(photograph(0)), size=(5, 5), interpolation=interpolation)
    assert pixels.std() > 0


def test_unreadable_image_is_bad_input_and_survives_pickling():
    import pickle

    error = pickle.loads(pickle.dumps(UnreadableImage("empty file")))
    assert isinstance(error, InvalidInput)
    assert (error.reason, str(error)) == ("empty file", "empty file")
