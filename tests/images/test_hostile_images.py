"""Whatever the bytes are, decoding returns pixels or raises UnreadableImage; nothing is printed."""

import io
import struct
import threading
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from featurestore.images import (
    HEAD_BYTES,
    TooManyPixels,
    UnreadableImage,
    check_readable,
    decode_image,
)
from featurestore.testing.images import broken_images, encode, photograph


def decode(data, **options):
    return decode_image(data, size=(16, 16), interpolation="bilinear", **options)


REASONS = {
    "empty.jpg": "empty file",
    "text.jpg": "not an image (no JPEG, PNG, WebP, GIF, TIFF or BMP signature)",
    "page.png": "not an image (no JPEG, PNG, WebP, GIF, TIFF or BMP signature)",
    "signature.jpg": "truncated: this JPEG ends too early",
    "truncated.jpg": "truncated: this JPEG ends too early",
    "truncated.png": "truncated: this PNG ends too early",
    "checksum.png": "damaged PNG: broken data stream when reading image file",
    "float.tiff": "floating-point pixels have no agreed range; convert the file to 8 bits",
    "bomb.png": "200000x200000 pixels exceed the limit of 178,956,970 pixels",
    "bomb.gif": "65535x65535 pixels exceed the limit of 178,956,970 pixels",
}


@pytest.mark.parametrize("name", broken_images())
def test_each_broken_file_is_unreadable_for_its_own_reason(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UnreadableImage) as caught:
            decode(broken_images()[name])
    assert caught.value.reason == REASONS[name]


def test_limit_is_the_pixels_of_the_header():
    data = encode(photograph(0, size=(10, 20)), "PNG")
    assert decode(data, max_pixels=200).shape == (16, 16, 3)
    with pytest.raises(TooManyPixels, match="20x10 pixels exceed the limit of 199 pixels"):
        decode(data, max_pixels=199)


def test_pillows_own_limit_has_no_say(monkeypatch):
    # Image.open would warn above it and raise above twice as many pixels.
    data = encode(photograph(0, size=(10, 20)), "PNG")
    for limit in (150, 50, None):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert decode(data).shape == (16, 16, 3)


def test_animation_frame_larger_than_its_screen_is_held_to_the_limit():
    screen = struct.pack("<HHBBB", 4, 4, 0x80, 0, 0) + b"\x00\x00\x00\xff\xff\xff"
    frame = b"," + struct.pack("<HHHHB", 0, 0, 60_000, 60_000, 0) + b"\x02\x02\x44\x01\x00"
    with pytest.raises(UnreadableImage, match="pixels"):
        decode(b"GIF89a" + screen + frame + b";")


def seeds():
    picture = Image.fromarray(photograph(0, size=(24, 32)))
    kinds = [
        ("JPEG", picture, {"exif": b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x00\x00"}),
        ("JPEG", picture.convert("CMYK"), {"progressive": True}),
        ("PNG", picture.convert("P"), {"transparency": 3}),
        ("PNG", picture.convert("RGBA"), {}),
        ("PNG", Image.fromarray(np.arange(768, dtype=np.uint16).reshape(24, 32)), {}),
        ("WEBP", picture, {}),
        ("BMP", picture, {}),
        ("GIF", picture, {"save_all": True, "append_images": [picture.rotate(90)]}),
        ("TIFF", picture, {}),
        ("TIFF", picture, {"compression": "tiff_lzw"}),
        ("TIFF", picture, {"compression": "jpeg"}),
    ]
    made = []
    for image_format, image, options in kinds:
        stream = io.BytesIO()
        image.save(stream, image_format, **options)
        made.append(stream.getvalue())
    return made


SEEDS = seeds()


@st.composite
def mutated(draw):
    content = bytearray(draw(st.sampled_from(SEEDS)))
    # Headers decide most; half of the changes fall there.
    place = st.integers(0, 79) | st.integers(0, len(content) - 1)
    for at, value in draw(st.lists(st.tuples(place, st.integers(0, 255)), max_size=6)):
        content[min(at, len(content) - 1)] = value
    start = draw(st.integers(0, len(content)) | st.just(len(content)))
    stop = draw(st.integers(start, min(start + 40, len(content))))
    del content[start:stop]
    return bytes(content[: draw(st.integers(0, len(content)) | st.just(len(content)))])


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow, about what TIFF directories hold
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mutated())
def test_mutated_files_decode_or_are_unreadable(content):
    try:
        pixels = decode(content, max_pixels=4_000_000)
    except UnreadableImage as error:
        assert error.reason
        assert "object at 0x" not in error.reason  # a reason is the same on every run
    else:
        assert (pixels.shape, pixels.dtype) == ((16, 16, 3), np.uint8)


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=100, deadline=None)
@given(st.sampled_from([seed[:12] for seed in SEEDS]), st.binary(max_size=200))
def test_a_signature_and_noise(signature, noise):
    try:
        decode(signature + noise, max_pixels=4_000_000)
    except UnreadableImage as error:
        assert error.reason


def test_a_codec_out_of_memory_says_nothing_about_the_bytes(monkeypatch):
    def exhausted(self):
        raise MemoryError

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", exhausted)
    with pytest.raises(MemoryError):
        decode(encode(photograph(0), "PNG"))


@pytest.mark.parametrize("content", SEEDS)
def test_a_head_is_enough_to_know_a_format(content):
    check_readable(content[:HEAD_BYTES], size_bytes=len(content))


@pytest.mark.parametrize("name", ["empty.jpg", "text.jpg", "page.png"])
def test_a_head_without_a_signature_is_refused_for_the_reason_of_the_whole(name):
    content = broken_images()[name]
    with pytest.raises(UnreadableImage) as caught:
        check_readable(content[:HEAD_BYTES], size_bytes=len(content))
    assert caught.value.reason == REASONS[name]


def test_a_file_is_held_to_the_limit_in_bytes():
    head = SEEDS[0][:HEAD_BYTES]
    check_readable(head, size_bytes=1 << 30)
    with pytest.raises(UnreadableImage, match=r"JPEG of 1,073,741,825 bytes exceeds the limit"):
        check_readable(head, size_bytes=(1 << 30) + 1)


def test_interrupts_are_not_swallowed(monkeypatch):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", interrupted)
    with pytest.raises(KeyboardInterrupt):
        decode(encode(photograph(0), "PNG"))


def test_many_threads_decode_as_one():
    files = [encode(photograph(kind, index=index)) for kind in range(2) for index in range(8)]
    files += list(broken_images().values())
    alone = [outcome(content) for content in files]
    together = [[None] * len(files) for _ in range(4)]

    def decode_all(results):
        for at, content in enumerate(files):
            results[at] = outcome(content)

    threads = [threading.Thread(target=decode_all, args=(results,)) for results in together]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(results == alone for results in together)


def outcome(content):
    try:
        return decode(content).tobytes()
    except UnreadableImage as error:
        return error.reason
