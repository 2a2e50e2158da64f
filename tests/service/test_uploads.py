"""Bodies as clients send them, good and hostile, without a service around them."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from featurestore.errors import InvalidInput
from featurestore.service.contract import Busy, Limits, TooLarge
from featurestore.service.uploads import UntilGone, Upload, Uploads

LIMITS = Limits(body_bytes=10_000, images=3, body_seconds=5.0)
BOUNDARY = "----xyz"


def request_of(pieces, content_type=None, headers=(), pause_s=0.0):
    """A request whose body comes in these pieces; None: the client leaves."""
    left = list(pieces)

    async def receive():
        await asyncio.sleep(pause_s)
        if not left or left[0] is None:
            return {"type": "http.disconnect"}
        body = left.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(left)}

    raw = [(name.encode(), value.encode()) for name, value in headers]
    if content_type is not None:
        raw.append((b"content-type", content_type.encode("latin-1")))
    return Request({"type": "http", "method": "POST", "headers": raw}, receive)


def read(request, limits=LIMITS, uploads=None):
    async def run():
        async with (uploads or Uploads(limits)).receive(request) as found:
            return found

    return asyncio.run(run())


def part(content, disposition='form-data; name="a"; filename="a.jpg"', more=b""):
    head = b"Content-Disposition: " + disposition.encode() + b"\r\n" + more
    return b"--" + BOUNDARY.encode() + b"\r\n" + head + b"\r\n" + content + b"\r\n"


def form(*parts, end=True):
    return b"".join(parts) + (f"--{BOUNDARY}--\r\n".encode() if end else b"")


def read_form(body, step=None, **options):
    pieces = [body] if step is None else [body[i : i + step] for i in range(0, len(body), step)]
    return read(request_of(pieces, f"multipart/form-data; boundary={BOUNDARY}"), **options)


def refusal(status, request):
    with pytest.raises(HTTPException) as caught:
        read(request)
    assert caught.value.status_code == status
    return caught.value


@pytest.mark.parametrize("content_type", [None, "image/jpeg", "application/json", "text/plain", ""])
def test_any_other_body_is_one_image(content_type):
    assert read(request_of([b"abc", b"", b"def"], content_type)) == [Upload(None, b"abcdef")]


@pytest.mark.parametrize("step", [None, 1, 7, 64])
def test_the_file_parts_of_a_form_are_images_however_the_body_is_cut(step):
    contents = [b"one", b"\r\n--" + BOUNDARY[:-1].encode() + b"\r\n\r\n--", bytes(range(256))]
    body = form(
        part(b"of no interest", 'form-data; name="note"'),
        part(contents[0]),
        part(contents[1], more=b"Content-Type: image/png\r\n"),
        part(contents[2], 'form-data; filename="b.jpg"; name="a"'),
    )
    names = ["a.jpg", "a.jpg", "b.jpg"]
    assert read_form(body, step) == [
        Upload(name, content) for name, content in zip(names, contents, strict=True)
    ]


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        ("../../etc/passwd", "../../etc/passwd"),
        ("Ünïcödé 猫.jpg", "Ünïcödé 猫.jpg"),
        ("<script>", "<script>"),
        ('\\"quoted\\".jpg', '"quoted".jpg'),
        ("C:\\\\photos\\\\a.jpg", "a.jpg"),
        ("a" * 3000, "a" * 1000),
        ("", ""),
    ],
)
def test_a_name_is_only_text(sent, name):
    body = form(part(b"x", f'form-data; name="a"; filename="{sent}"'))
    assert read_form(body) == [Upload(name, b"x")]


def test_a_name_that_is_no_text_is_still_a_name():
    body = form(part(b"x")).replace(b"a.jpg", b"\xff\xfe.jpg")
    assert read_form(body) == [Upload("\ufffd\ufffd.jpg", b"x")]


def test_a_field_in_which_no_file_was_chosen_is_no_image():
    empty = part(b"", 'form-data; name="a"; filename=""')
    assert read_form(form(empty, part(b"x"))) == [Upload("a.jpg", b"x")]
    with pytest.raises(InvalidInput, match="no file part"):
        read_form(form(empty))


def test_an_empty_file_is_an_image_that_cannot_be_read():
    assert read_form(form(part(b""))) == [Upload("a.jpg", b"")]


@pytest.mark.parametrize("body", [form(), form(part(b"text", 'form-data; name="note"'))])
def test_a_form_without_a_file_is_refused(body):
    with pytest.raises(InvalidInput, match="no file part"):
        read_form(body)


def test_an_empty_body_is_refused():
    with pytest.raises(InvalidInput, match="empty"):
        read(request_of([b""]))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no boundary at all",
        form(part(b"x"), end=False),
        form(part(b"x"))[:-10],
        f"--{BOUNDARY}\r\nno colon\r\n\r\nx\r\n--{BOUNDARY}--\r\n".encode(),
        form(part(b"x", more=b"X-Long: " + b"a" * 9000 + b"\r\n")),
    ],
)
def test_a_malformed_form_is_refused(body):
    refusal(400, request_of([body], f"multipart/form-data; boundary={BOUNDARY}"))


@pytest.mark.parametrize("boundary", ["", "; boundary=", "; boundary=" + "b" * 5000])
def test_a_boundary_that_is_none_is_refused(boundary):
    refusal(400, request_of([b"x"], f"multipart/form-data{boundary}"))


def test_other_multipart_bodies_are_refused():
    refusal(415, request_of([form(part(b"x"))], f"multipart/mixed; boundary={BOUNDARY}"))


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip", "nonsense"])
def test_an_encoded_body_is_refused(encoding):
    refusal(415, request_of([b"x"], headers=[("content-encoding", encoding)]))


def test_a_body_beyond_the_limit_is_refused_as_soon_as_it_is():
    pieces = [b"a" * 6000] * 100
    request = request_of(pieces)
    with pytest.raises(TooLarge, match="10,000 bytes"):
        read(request)
    at_limit = read(request_of([b"a" * 5000] * 2))
    assert len(at_limit[0].content) == 10_000


@pytest.mark.parametrize("said", ["10001", "9" * 400])
def test_a_length_beyond_the_limit_is_refused_before_the_body_is_read(said):
    with pytest.raises(TooLarge):
        read(request_of([None], headers=[("content-length", said)]))


@pytest.mark.parametrize("said", ["5", "-5", "²", "x"])
def test_a_length_that_is_a_lie_changes_nothing(said):
    headers = [("content-length", said.encode().decode("latin-1"))]
    with pytest.raises(TooLarge):
        read(request_of([b"a" * 20_000], headers=headers))


def test_more_images_than_the_limit_are_refused():
    assert len(read_form(form(*[part(b"x")] * 3))) == 3
    with pytest.raises(TooLarge, match="3 images"):
        read_form(form(*[part(b"x")] * 4))


@pytest.mark.parametrize("disposition", ['form-data; name="f"', 'form-data; filename=""'])
def test_more_fields_than_anybody_needs_are_refused(disposition):
    with pytest.raises(TooLarge, match="fields"):
        read_form(form(*[part(b"", disposition)] * 101))


def test_a_client_that_leaves_midway_is_told_apart():
    with pytest.raises(ClientDisconnect):
        read(request_of([b"abc", None]))


def test_a_piece_that_does_not_come_is_not_waited_for():
    with pytest.raises(HTTPException) as caught:
        read(request_of([b"a", b"b"], pause_s=1.0), Limits(body_seconds=0.05))
    assert caught.value.status_code == 408
    assert caught.value.headers == {"Connection": "close"}


def test_many_small_pieces_in_time_are_too_slow_together():
    """Each comes well within the limit on one piece; together they would take minutes."""
    with pytest.raises(HTTPException) as caught:
        read(request_of([b"a"] * 1000, pause_s=0.05), Limits(body_seconds=0.3))
    assert caught.value.status_code == 408


def test_all_requests_together_hold_bounded_bytes_which_come_free_again():
    uploads = Uploads(LIMITS)

    async def hold(count):
        entered = []
        try:
            for _ in range(count):
                context = uploads.receive(request_of([b"a" * 10_000]))
                await context.__aenter__()
                entered.append(context)
        finally:
            most = uploads.held_bytes
            for context in entered:
                await context.__aexit__(None, None, None)
        return most

    assert asyncio.run(hold(8)) == 80_000
    assert uploads.held_bytes == 0
    with pytest.raises(Busy):
        asyncio.run(hold(9))
    assert uploads.held_bytes == 0


def test_all_but_the_last_byte_at_once_gives_no_credit():
    limits = Limits(body_bytes=10**6, body_seconds=0.1)
    pieces = [b"a" * 900_000] + [b"a"] * 100
    with pytest.raises(HTTPException) as caught:
        read(request_of(pieces, pause_s=0.02), limits)
    assert caught.value.status_code == 408


def test_where_memory_is_full_the_slowest_makes_room():
    uploads = Uploads(LIMITS)

    async def story():
        async def stalls():
            left = [b"a" * 9_999]

            async def receive():
                if not left:
                    await asyncio.sleep(60)
                return {"type": "http.request", "body": left.pop(), "more_body": True}

            request = Request({"type": "http", "method": "POST", "headers": []}, receive)
            async with uploads.receive(request):
                raise AssertionError

        stalled = [asyncio.create_task(stalls()) for _ in range(8)]
        await asyncio.sleep(0.1)
        assert uploads.held_bytes == 8 * 9_999
        async with uploads.receive(request_of([b"b" * 1000] * 5)) as (upload,):
            assert len(upload.content) == 5000
        await asyncio.sleep(0)
        ended = [task for task in stalled if task.done()]
        assert [type(task.exception()) for task in ended] == [Busy]
        assert uploads.held_bytes == 7 * 9_999
        for task in stalled:
            task.cancel()
        await asyncio.wait(stalled)
        assert uploads.held_bytes == 0

    asyncio.run(story())


def until_gone(leaves_after_s, works_s):
    cancelled = []

    async def run():
        async def receive():
            await asyncio.sleep(leaves_after_s)
            return {"type": "http.disconnect"}

        try:
            async with UntilGone(Request({"type": "http", "headers": []}, receive)):
                await asyncio.sleep(works_s)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise
        await asyncio.sleep(0)
        return "done"

    try:
        return asyncio.run(run())
    finally:
        assert not cancelled


def test_work_ends_when_its_client_leaves():
    with pytest.raises(ClientDisconnect):
        until_gone(0.01, 10.0)


def test_work_whose_client_stays_is_done():
    assert until_gone(10.0, 0.1) == "done"
    assert until_gone(10.0, 0.0) == "done"


def test_a_request_that_is_cancelled_otherwise_stays_cancelled():
    async def run():
        async def receive():
            await asyncio.sleep(10)

        async with UntilGone(Request({"type": "http", "headers": []}, receive)):
            await asyncio.sleep(10)

    async def main():
        task = asyncio.create_task(run())
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


MUTATIONS = st.lists(
    st.tuples(st.integers(0, 10_000), st.sampled_from(["cut", "flip", "repeat", "insert"])),
    max_size=6,
)
ODD = (b"\r\n", b"--", b"\r", b'"', b";", b"\x00", b"\xff", BOUNDARY.encode(), b"filename*=", b":")


@given(mutations=MUTATIONS, odd=st.sampled_from(ODD), step=st.integers(1, 300))
@settings(max_examples=150, deadline=None)
def test_a_mutated_form_is_read_or_refused(mutations, odd, step):
    """Whatever is sent, no other exception: it would be answered as a bug."""
    body = form(part(b"one"), part(b"note", 'form-data; name="n"'), part(bytes(range(256))))
    for place, how in mutations:
        place %= len(body) + 1
        before, after = body[:place], body[place:]
        body = {
            "cut": before,
            "flip": before + bytes([byte ^ 0x20 for byte in after[:1]]) + after[1:],
            "repeat": before + after[:40] + after,
            "insert": before + odd + after,
        }[how]
    try:
        found = read_form(body or b"x", step)
    except HTTPException as error:
        assert error.status_code == 400
    except (InvalidInput, TooLarge):
        pass
    else:
        assert found
