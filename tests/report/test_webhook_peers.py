"""Peers that do not speak HTTP as one would like: each is a line within the deadline, never a traceback."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from n2q_edge.quality.policy import Verdict, Webhook
from n2q_edge.report.webhook import MAX_REASON, post

Speak = Callable[[socket.socket], None]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@contextmanager
def peer(speak: Speak, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """A server on loopback that reads a request and then does as it likes; its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    done = threading.Event()

    def serve() -> None:
        while not done.is_set():
            with suppress(OSError):
                connection, _ = listener.accept()
                connection.settimeout(5)
                with suppress(OSError):
                    if context:
                        connection = context.wrap_socket(connection, server_side=True)
                    connection.recv(65536)
                    speak(connection)
                connection.close()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        done.set()
        listener.close()


def says(data: bytes) -> Speak:
    return lambda connection: connection.sendall(data)


def drips(data: bytes) -> Speak:
    """A byte every tenth of a second: each arrives long before a timeout of one read would be over."""

    def speak(connection: socket.socket) -> None:
        for _ in range(100):
            connection.sendall(data)
            time.sleep(0.1)

    return speak


def answer(port: int, scheme: str = "http", timeout_s: float = 0.5, host: str = "127.0.0.1") -> str | None:
    began = time.monotonic()
    said = post(Webhook(f"{scheme}://{host}:{port}/x", frozenset(Verdict), timeout_s), {"series": []})
    assert time.monotonic() - began < timeout_s + 2  # the deadline is for the whole exchange
    return said


ILL = {
    "nothing": says(b""),
    "no_http": says(b"220 smtp.example ESMTP\r\n"),
    "zeros": says(b"\0" * 1000),
    "no_status": says(b"HTTP/1.1\r\n\r\n"),
    "status_is_a_word": says(b"HTTP/1.1 abc OK\r\n\r\n"),
    "status_is_negative": says(b"HTTP/1.1 -200 OK\r\n\r\n"),
    "status_is_huge": says(b"HTTP/1.1 99999999999999999999 OK\r\n\r\n"),
    "status_line_without_end": says(b"HTTP/1.1 " + b"2" * 200_000),
    "header_without_end": says(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000),
    "thousands_of_headers": says(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000 + b"\r\n"),
    "continue_for_ever": drips(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "drips_status": drips(b"H"),
    "drips_headers": lambda connection: (
        says(b"HTTP/1.1 200 OK\r\nX: ")(connection),
        drips(b"y")(connection),
    ),
    "silent": lambda connection: time.sleep(3),
    "teapot": says(b"HTTP/1.1 418 \x1b[31mteapot\r\n\r\n"),
    "redirect_to_itself": says(b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n"),
    "redirect_to_a_file": says(b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n"),
    "asks_for_a_password": says(b'HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm="x"\r\n\r\n'),
    "escapes": says(b"\x1b]0;owned\x07\x1b[2J\r\n\r\n"),
    "not_utf_8": says(b"\xff\xfe\xfd\r\n\r\n"),
}


@pytest.mark.parametrize("name", ILL)
def test_an_ill_peer_is_one_printable_line_in_time(name: str) -> None:
    with peer(ILL[name]) as port:
        said = answer(port)
    assert said
    assert said.isprintable()
    assert len(said) <= MAX_REASON


def test_a_good_answer_is_taken_whatever_its_body_does() -> None:
    """The body is nobody's business: it is not read."""
    with peer(lambda connection: (says(b"HTTP/1.1 204 No Content\r\n\r\n")(connection), None)[1]) as port:
        assert answer(port) is None
    with peer(says(OK)) as port:
        assert answer(port) is None


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """A server's certificate that nobody has signed."""
    folder: Path = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "cert.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/CN=localhost",
    ]
    try:
        subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


def test_a_certificate_that_nobody_signed_is_refused(tls: ssl.SSLContext) -> None:
    with peer(says(OK), tls) as port:
        assert "certificate verify failed" in str(answer(port, "https", host="localhost"))


@pytest.mark.parametrize("name", ["nothing", "no_http", "zeros", "silent", "escapes", "drips_status"])
def test_https_to_a_peer_without_tls(name: str) -> None:
    with peer(ILL[name]) as port:
        said = answer(port, "https")
    assert said
    assert said.isprintable()


def test_http_to_a_peer_with_tls(tls: ssl.SSLContext) -> None:
    with peer(says(OK), tls) as port:
        assert answer(port, "http")
