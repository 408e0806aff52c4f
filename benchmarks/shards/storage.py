"""A storage on this machine that answers as S3 does, after a delay."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class Storage:
    """Serves the folders in `root` as buckets, and counts."""

    root: Path
    delay: float = 0.0
    """Seconds before each answer."""
    port: int = 0
    num_requests: int = 0
    num_bytes: int = 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # header and content leave together
    disable_nagle_algorithm = True

    def __init__(self, storage: Storage, lock: threading.Lock, *args: Any) -> None:
        self.storage, self.lock = storage, lock
        super().__init__(*args)

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def log_message(self, *args: Any) -> None:
        """Says nothing."""

    def _answer(self, *, with_content: bool) -> None:
        time.sleep(self.storage.delay)
        path = self.storage.root / self.path.lstrip("/").partition("?")[0]
        if not path.is_file():
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        start = int(wanted[1]) if wanted else 0
        length = int(wanted[2]) + 1 - start if wanted else path.stat().st_size
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(length))
        self.send_header("ETag", f'"{path.stat().st_mtime_ns:x}"')
        self.end_headers()
        if with_content:
            with path.open("rb") as file:
                file.seek(start)
                self.wfile.write(file.read(length))
        with self.lock:
            self.storage.num_requests += 1
            self.storage.num_bytes += length if with_content else 0


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024  # the default of 5 drops connections of many threads


@contextmanager
def serving(root: Path) -> Iterator[Storage]:
    """Serves a folder while the context lasts."""
    storage = Storage(root)
    server = _Server(("127.0.0.1", 0), partial(_Handler, storage, threading.Lock()))
    storage.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield storage
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)
