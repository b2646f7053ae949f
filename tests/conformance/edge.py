# SPDX-License-Identifier: Apache-2.0
"""What stands before load-balanced endpoints on Runpod: a host name for each, under TLS. Passes bytes on unread.

The official clients build `https://{id}.{domain}` and take no other scheme. Here the domain is `edge.test`, of which
drivers know that it is this machine, with a certificate of its own that only they trust.
"""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest

__all__ = ["DOMAIN", "Edge", "edge_to"]

DOMAIN: Final = "edge.test"


@dataclass(frozen=True, slots=True)
class Edge:
    """Where it listens, and the certificate to trust."""

    port: int
    certificate: Path

    @property
    def environment(self) -> dict[str, str]:
        """Variables that send the official clients here."""
        return {
            "RUNPOD_ENDPOINT_BASE_URL": f"https://{DOMAIN}:{self.port}/v2",
            "SSL_CERT_FILE": str(self.certificate),
        }


@contextmanager
def edge_to(url: str, folder: Path) -> Iterator[Edge]:
    """Serve TLS for `DOMAIN` and everything below it, in front of the platform at `url`."""
    certificate, key = _make_certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    place = urlsplit(url)
    ports: list[int] = []
    is_up = threading.Event()
    loop = asyncio.new_event_loop()
    ending = asyncio.Event()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection(place.hostname, place.port)
        await asyncio.gather(_pump(reader, upstream_writer), _pump(upstream_reader, writer))

    async def serve() -> None:
        server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context)
        ports.append(server.sockets[0].getsockname()[1])
        is_up.set()
        await ending.wait()
        server.close()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert is_up.wait(30)
    try:
        yield Edge(ports[0], certificate)
    finally:
        loop.call_soon_threadsafe(ending.set)
        thread.join()
        for task in asyncio.all_tasks(loop):
            task.cancel()
            with suppress(asyncio.CancelledError):
                loop.run_until_complete(task)
        loop.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
    writer.close()


def _make_certificate(folder: Path) -> tuple[Path, Path]:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl here to make a certificate with")
    certificate, key = folder / "edge.pem", folder / "edge.key"
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={DOMAIN}"),
            *("-addext", f"subjectAltName=DNS:{DOMAIN},DNS:*.{DOMAIN}"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key
