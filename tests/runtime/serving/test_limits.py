"""What a server does when too much, too slow or ambiguous things come: one sentence, and the next request is answered."""

import gzip
import json
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image
from tests.runtime.serving.conftest import SECONDS, until

from dlcv.runtime.errors import InputError
from dlcv.runtime.serving.http_protocol import http_protocol
from dlcv.runtime.serving.options import MIB

Photo = Callable[..., Path]


@pytest.fixture
def photo(new_photo: Photo) -> bytes:
    return new_photo("a.png").read_bytes()


def post(app: Any, data: bytes, *, path: str = "/predict/toy", **headers: str) -> requests.Response:
    return requests.post(f"{app.url}{path}", data=data, headers=headers, timeout=SECONDS)


def is_well(app: Any) -> bool:
    return requests.get(f"{app.url}/v2/health/ready", timeout=SECONDS).status_code == 200


def talk(app: Any, sent: bytes, *, wait: float = SECONDS) -> bytes:
    """Send bytes on a new connection, and return all that comes until it is closed."""
    with closing(socket.create_connection(("127.0.0.1", app.port), timeout=wait)) as connection:
        connection.sendall(sent)
        return received(connection)


def received(connection: socket.socket) -> bytes:
    chunks = []
    try:
        while chunk := connection.recv(65536):
            chunks.append(chunk)
    except (ConnectionResetError, TimeoutError):
        pass
    return b"".join(chunks)


def error_of(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/json" in head, answer
    return int(head.split()[1]), json.loads(body)["error"]


# The queue


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(gated, photo: bytes) -> None:
    with gated(queue=2) as it, ThreadPoolExecutor(2) as pool:
        accepted = [pool.submit(post, it.app, photo) for _ in range(2)]
        until(lambda: it.model.predictor.under_way == 2)
        start = time.monotonic()
        refused = post(it.app, photo)
        assert time.monotonic() - start < SECONDS / 4
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert "all 2 places of model 'toy' are taken" in refused.json()["error"]
        it.gate.open.set()
        assert [f.result().status_code for f in accepted] == [200, 200]
        assert post(it.app, photo).status_code == 200
        assert it.app.metric('dlcv_refused_requests_total{model="toy",reason="queue_full"}') == 1


def test_images_of_one_request_have_places_together_or_not_at_all(gated, photo: bytes) -> None:
    with gated(queue=3) as it, ThreadPoolExecutor(1) as pool:
        one = pool.submit(post, it.app, photo)
        until(lambda: it.model.predictor.under_way == 1)
        form = [("image", (f"{n}.png", photo)) for n in range(3)]
        refused = requests.post(f"{it.app.url}/predict/toy", files=form, timeout=SECONDS)
        assert refused.status_code == 503
        assert it.model.predictor.under_way == 1
        it.gate.open.set()
        assert one.result().status_code == 200
        whole = requests.post(f"{it.app.url}/predict/toy", files=form, timeout=SECONDS)
        assert len(whole.text.splitlines()) == 3
        never = requests.post(f"{it.app.url}/predict/toy", files=[*form, form[0]], timeout=SECONDS)
        assert never.status_code == 400
        assert "the model holds 3 at a time" in never.json()["error"]


def test_an_answer_that_takes_too_long_is_given_up_and_its_place_is_free(gated, photo) -> None:
    with gated(queue=2, timeout_s=0.3) as it:
        first = post(it.app, photo)  # computes, and cannot be stopped
        second = post(it.app, photo)  # waits
        assert [first.status_code, second.status_code] == [504, 504]
        assert "no answer within 0.3 s" in second.json()["error"]
        assert it.app.metric('dlcv_refused_requests_total{model="toy",reason="deadline"}') == 2
        it.gate.open.set()
        until(lambda: it.model.predictor.under_way == 0)
        assert post(it.app, photo).status_code == 200


def test_a_client_that_goes_away_gives_its_place_back(gated, photo: bytes) -> None:
    request = b"POST /predict/toy HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(photo)
    with gated(queue=8) as it, ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, it.app, photo)
        assert it.gate.entered.acquire(timeout=SECONDS)
        # Two images wait in batches and two in front of the decoders; what is there is not decoded yet.
        leaving = [socket.create_connection(("127.0.0.1", it.app.port)) for _ in range(6)]
        for connection in leaving:
            connection.sendall(request + photo)
        until(lambda: it.model.predictor.under_way == 7)
        for connection in leaving:
            connection.close()
        gone = 'dlcv_refused_requests_total{model="toy",reason="client_gone"}'
        until(lambda: it.app.metric(gone) == 6)
        assert it.model.predictor.under_way < 7
        it.gate.open.set()
        assert first.result().status_code == 200
        until(lambda: it.model.predictor.under_way == 0)


# Bodies


def test_a_body_that_announces_too_many_bytes_is_refused_before_it_is_read(gated) -> None:
    with gated(body_bytes=1000) as it:
        head = b"POST /predict/toy HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\nConnection: close\r\n\r\n"
        status, error = error_of(talk(it.app, head))
        assert status == 413
        assert "1,001 bytes or more, at most 1,000" in error
        assert is_well(it.app)


def test_a_chunked_body_is_refused_when_it_becomes_too_large(gated) -> None:
    with gated(body_bytes=1000) as it:
        head = b"POST /predict/toy HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        status, _ = error_of(talk(it.app, head + (b"190\r\n" + b"x" * 400 + b"\r\n") * 3))
        assert status == 413
        assert is_well(it.app)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_body_that_inflates_without_end_is_refused(gated, encoding: str) -> None:
    whole = b"0" * (2 * MIB)
    bomb = gzip.compress(whole) if encoding == "gzip" else zlib.compress(whole)
    with gated(body_bytes=MIB) as it:
        answer = post(it.app, bomb, path="/v2/models/toy/infer", **{"Content-Encoding": encoding})
        assert answer.status_code == 413
        assert post(it.app, bomb[:-20], **{"Content-Encoding": encoding}).status_code in (400, 413)
        assert is_well(it.app)


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(gated, photo: bytes) -> None:
    size = struct.pack(">II", 60_000, 60_000)
    bomb = photo[:16] + size + photo[24:29] + struct.pack(">I", zlib.crc32(photo[12:16] + size + photo[24:29])) + photo[33:]  # fmt: skip
    with gated() as it:
        answer = post(it.app, bomb)
        assert answer.status_code == 413
        assert "60000x60000 pixels" in answer.json()["error"]
        assert (
            it.app.metric('dlcv_refused_requests_total{model="toy",reason="image_too_large"}') == 1
        )


def test_the_server_holds_so_many_bytes_of_bodies_and_no_more(gated, photo: bytes) -> None:
    with gated(queue=8, all_bodies_bytes=len(photo) + 10) as it, ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, it.app, photo)
        assert it.gate.entered.acquire(timeout=SECONDS)
        refused = post(it.app, photo)
        assert refused.status_code == 503
        assert "which is all the server takes" in refused.json()["error"]
        it.gate.open.set()
        assert first.result().status_code == 200
        assert post(it.app, photo).status_code == 200


# Slow clients


def test_a_body_that_does_not_come_is_given_up(gated) -> None:
    with gated(client_timeout_s=0.3) as it:
        head = b"POST /predict/toy HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\nConnection: close\r\n\r\nabc"
        status, error = error_of(talk(it.app, head))
        assert status == 408
        assert "did not come within 0.3 s" in error
        assert it.app.metric('dlcv_refused_requests_total{model="toy",reason="slow_client"}') == 1


def test_a_head_that_does_not_end_is_given_up(gated) -> None:
    with gated(client_timeout_s=0.3) as it:
        status, error = error_of(talk(it.app, b"GET / HTTP/1.1\r\nHost: x\r\n"))
        assert (status, "did not come within 0.3 s" in error) == (408, True)
        assert talk(it.app, b"") == b"", "a connection without a word is closed"
        assert is_well(it.app)


def test_the_rest_of_a_body_that_nobody_reads_is_not_waited_for(gated) -> None:
    with gated(client_timeout_s=0.3, body_bytes=1000) as it:
        start = time.monotonic()
        answer = talk(
            it.app, b"POST /predict/toy HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\nabc"
        )
        assert error_of(answer)[0] == 413
        assert time.monotonic() - start < SECONDS / 2


def test_a_client_that_does_not_read_its_answer_is_let_go(gated, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png", compress_level=1)
    photo = (tmp_path / "noise.png").read_bytes()  # its overlay is as large: no buffer holds it
    head = b"POST /predict/toy?overlay=png HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    with gated(client_timeout_s=0.3) as it, closing(socket.socket()) as connection:
        it.gate.open.set()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", it.app.port))
        connection.sendall(head % len(photo) + photo)
        until(lambda: it.app.connections() == 1)
        until(lambda: it.app.connections() == 0)
        assert is_well(it.app)


# Heads that are not what they seem


AMBIGUOUS = {
    "two lengths": (b"Content-Length: 3\r\nContent-Length: 4\r\n", 400),
    "a length and chunks": (b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", 400),
    "chunks that are none": (b"Transfer-Encoding: xchunked\r\n", 400),
    "two codings": (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", 400),
    "a coding behind chunks": (b"Transfer-Encoding: chunked, gzip\r\n", 400),
    "a signed length": (b"Content-Length: +3\r\n", 400),
    "a length with a space before the colon": (b"Content-Length : 3\r\n", 400),
    "a folded header": (b"X: a\r\n  b\r\nContent-Length: 3\r\n", None),
    "two hosts": (b"Host: y\r\nContent-Length: 3\r\n", 400),
    "a null in a value": (b"X: a\0b\r\nContent-Length: 3\r\n", 400),
}


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_a_head_that_servers_read_differently_is_refused(gated, case: str) -> None:
    headers, expected = AMBIGUOUS[case]
    with gated() as it:
        answer = talk(
            it.app,
            b"POST /predict/toy HTTP/1.1\r\nHost: x\r\n"
            + headers
            + b"Connection: close\r\n\r\nabc",
            wait=3,
        )
        status, error = error_of(answer)
        assert status == (expected or 400)
        assert answer.count(b"HTTP/1.1 ") == 1, "there is one request"
        assert error
        assert is_well(it.app)


def test_ten_thousand_headers_and_a_head_without_end_are_refused(gated) -> None:
    with gated() as it:
        many = b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(10_000)) + b"\r\n"
        assert error_of(talk(it.app, many))[0] == 431
        long = b"GET / HTTP/1.1\r\nX: " + b"y" * 200_000
        assert error_of(talk(it.app, long))[0] == 431
        assert error_of(talk(it.app, b"\x16\x03\x01 this is not HTTP\r\n\r\n")) == (
            400,
            "this is not HTTP",
        )
        assert error_of(talk(it.app, b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n"))[0] in (400, 431)
        assert is_well(it.app)


def test_requests_one_behind_the_other_are_answered_in_order(gated, photo: bytes) -> None:
    with gated(queue=4) as it:
        it.gate.open.set()
        request = b"POST /predict/toy?name=%d HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%s\r\n"
        last = b"Connection: close\r\n"
        sent = b"".join(
            request % (n, len(photo), last if n == 2 else b"") + photo for n in range(3)
        )
        answer = talk(it.app, sent)
        assert [line for line in (b'"0"', b'"1"', b'"2"') if line in answer] == [
            b'"0"',
            b'"1"',
            b'"2"',
        ]
        assert answer.index(b'"0"') < answer.index(b'"1"') < answer.index(b'"2"')


def test_more_connections_than_the_server_holds_are_told_so(gated) -> None:
    with gated(connections=3) as it:
        held = [socket.create_connection(("127.0.0.1", it.app.port)) for _ in range(3)]
        time.sleep(0.2)
        assert error_of(talk(it.app, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"))[0] == 503
        for connection in held:
            connection.close()
        until(lambda: is_well(it.app))


def test_the_protocol_class_is_made_for_the_limits() -> None:
    made = http_protocol(client_timeout_s=3, connections=7)
    assert (made.seconds, made.most_connections) == (3, 7)  # type: ignore[attr-defined]


# Two at once


def test_a_bug_of_ours_is_500_with_an_id_and_the_traceback_goes_to_the_log(
    gated, photo: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    with gated() as it:
        it.model.predictor._model._result = None  # nobody can do that from outside
        it.gate.open.set()
        answer = post(it.app, photo, **{"X-Request-Id": "abc-7"})
        assert answer.status_code == 500
        assert answer.json()["error"].endswith("under the id abc-7")
        assert answer.headers["x-request-id"] == "abc-7"
        log = ""

        def is_logged() -> bool:
            nonlocal log
            log += capfd.readouterr().err
            return "TypeError" in log

        until(is_logged)
        assert "request abc-7 failed" in log
        assert is_well(it.app)


def test_eight_threads_and_a_crowd_of_bad_requests_leave_nothing_behind(
    gated, photo: bytes
) -> None:
    with gated(queue=64, batch_size=8) as it:
        it.gate.open.set()
        before = threading.active_count()

        def ask(number: int) -> int:
            data = photo if number % 2 else b"no image"
            return post(it.app, data).status_code

        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(ask, range(100)))
        assert found.count(200) == found.count(400) == 50
        until(lambda: it.model.predictor.under_way == 0)
        assert it.app.serving.budget._held == 0
        assert threading.active_count() <= before + 8  # threads of pictures


def test_a_file_of_keys_is_checked(tmp_path: Path) -> None:
    from dlcv.runtime.serving.options import keys_from_file

    file = tmp_path / "keys"
    with pytest.raises(InputError, match="cannot read the API keys"):
        keys_from_file(file)
    file.write_text("# of the lab\n\n")
    with pytest.raises(InputError, match="holds no API key"):
        keys_from_file(file)
    file.write_text("two words\n")
    with pytest.raises(InputError, match="other characters than ASCII without spaces"):
        keys_from_file(file)
    file.write_text("# of the lab\none\n two \n")
    assert keys_from_file(file) == {"one", "two"}
