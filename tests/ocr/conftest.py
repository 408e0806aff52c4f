"""Real receipts, prepared once as loose files and as shards, and an S3 endpoint that serves them."""

import hashlib
import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ocr.config import PrepareConfig
from ocr.preparation.prepare import prepare_data
from tests.splits import splits

NUM_RECEIPTS = 14


def prepare_shards(root: Path, output: Path, **values) -> None:
    config = {
        "dataset_base_path": str(root),
        "output": str(output),
        "datasets": splits(root),
        "maps": False,
        "shards": True,
    }
    prepare_data(PrepareConfig.model_validate(config | values), output.parent / "run")


def first_images(source: Path, target: Path, num_images: int) -> Path:
    """Writes a data set of the first images of each split and returns its folder."""
    for name in ("train", "val"):
        document = json.loads((source / "jsons" / f"{name}.json").read_text())
        chosen = dict(list(document["images"].items())[:num_images])
        (target / "jsons").mkdir(parents=True, exist_ok=True)
        (target / "jsons" / f"{name}.json").write_text(json.dumps({"images": chosen}))
        (target / "images" / name).mkdir(parents=True)
        for filename in chosen:
            shutil.copyfile(source / "images" / name / filename, target / "images" / name / filename)
    return target


@pytest.fixture(scope="session")
def prepare() -> Callable[..., None]:
    """Prepares a data set of train and val as files and shards: `prepare(root, output, **settings)`."""
    return prepare_shards


@pytest.fixture(scope="session")
def receipts(sroie: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real receipts: images/, jsons/, and shards/{train,val}/ of four or five images each."""
    root = tmp_path_factory.mktemp("receipts")
    prepare_shards(first_images(sroie, root / "source", NUM_RECEIPTS), root / "prepared", shard_size="600KB")
    return root / "prepared"


@pytest.fixture
def copied_receipts(receipts: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return shutil.copytree(receipts, tmp_path / "copied")


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Meaningless S3 credentials, one attempt per request, and no settings of this machine."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    return monkeypatch


@dataclass
class Endpoint:
    """An S3 endpoint and the requests it received."""

    requests: list[str] = field(default_factory=list)
    num_cuts: int = 0
    """Answers to come that break off."""
    num_short: int = 0
    """Answers to come that are whole, but shorter than their range."""
    num_errors: int = 0
    """Answers to come that are server errors."""
    delay: float = 0.0
    """Seconds before each answer."""
    at_once: int = 0
    """Requests under way."""
    most_at_once: int = 0
    refuses: bool = False


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 20

    def __init__(self, root: Path, endpoint: Endpoint, *args) -> None:
        self.root, self.endpoint = root, endpoint
        super().__init__(*args)

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        self.endpoint.requests.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".strip())
        self.endpoint.at_once += 1
        self.endpoint.most_at_once = max(self.endpoint.most_at_once, self.endpoint.at_once)
        time.sleep(self.endpoint.delay)
        self.endpoint.at_once -= 1
        if self.endpoint.num_errors:
            self.endpoint.num_errors -= 1
            self.send(503, b"<Error><Code>InternalError</Code><Message>busy</Message></Error>", {}, with_body)
            return
        if self.endpoint.refuses:
            self.send(403, b"<Error><Code>AccessDenied</Code></Error>", {}, with_body)
            return
        path = self.root / self.path.lstrip("/").partition("?")[0]
        if not path.is_file():
            self.send(404, b"<Error><Code>NoSuchKey</Code><Message>gone</Message></Error>", {}, with_body)
            return
        content = path.read_bytes()
        etag = f'"{hashlib.md5(content).hexdigest()}"'
        if self.headers.get("If-Match", etag) != etag:
            self.send(412, b"<Error><Code>PreconditionFailed</Code></Error>", {}, with_body)
            return
        status = 200
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if wanted:
            start, last = map(int, wanted.groups())
            content, status = content[start : last + 1], 206
            if self.endpoint.num_short:
                self.endpoint.num_short -= 1
                content = content[:-100]
        self.send(status, content, {"ETag": etag}, with_body)

    def send(self, status: int, content: bytes, headers: dict[str, str], with_body: bool) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if with_body and self.endpoint.num_cuts:
            self.endpoint.num_cuts -= 1
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        elif with_body:
            self.wfile.write(content)

    def log_message(self, *args) -> None:
        """Nothing: tests read `Endpoint.requests`."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = (
        128  # the default of 5 drops connections of two workers' threads, and each then waits for seconds
    )


@pytest.fixture
def s3(aws: pytest.MonkeyPatch, copied_receipts: Path) -> Iterator[Endpoint]:
    """An S3 endpoint that has `copied_receipts` as the bucket `copied`; AWS_ENDPOINT_URL points to it."""
    pytest.importorskip("s3fs", reason="needs uv sync --extra s3")
    endpoint = Endpoint()
    root = copied_receipts.parent
    server = _Server(("127.0.0.1", 0), partial(_Handler, root, endpoint))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    aws.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)
