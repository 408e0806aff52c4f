"""Where shards are: a local folder, or s3://bucket/prefix at any S3-compatible endpoint (AWS_ENDPOINT_URL)."""

import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

from ocr.datasets.shards.index import Shard
from ocr.errors import InputError, StorageError

log = logging.getLogger(__name__)

S3_SCHEME = "s3://"
NUM_CONNECTIONS = 16
"""Requests to S3 under way at a time, a process."""
ATTEMPTS_AT_BODY = 3
CONNECT_SECONDS = 10
READ_SECONDS = 15
"""Without a byte of an answer. Requests are of one image, or of an index."""
_ADVICE = (
    "write the shards with scripts/prepare_data.py shards=true output=FOLDER, and give that folder as dataset_base_path"
)


class Storage(Protocol):
    """A folder of files that are read by byte ranges. May be used in threads, and in processes forked later."""

    num_threads: int
    """As of `ImageSource`."""

    def place(self, name: str) -> str:
        """How messages call a file."""

    def read_all(self, name: str) -> bytes:
        """A whole small file. Raises StorageError."""

    def open_shards(self, shards: Sequence[Shard]) -> None:
        """Looks at all shards. Raises StorageError where one is missing or has another size."""

    def read(self, name: str, start: int, num_bytes: int) -> bytes:
        """A part of a shard; less where the shard ends within it. Whether the bytes are the right ones, the caller checks.

        Raises:
            OSError: this part cannot be read.
            StorageError: the shard is not the one that was opened, or cannot be reached.
        """


def open_storage(url: str) -> Storage:
    """The folder of that path or s3:// URL."""
    return S3Folder(url) if url.startswith(S3_SCHEME) else LocalFolder(Path(url).resolve())


class LocalFolder:
    """Files on a disk."""

    num_threads = 4

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def place(self, name: str) -> str:
        return str(self._folder / name)

    def read_all(self, name: str) -> bytes:
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            raise StorageError(
                f"{self.place(name)}: there is no such file; {_ADVICE}, or take loader=dali for loose files"
            ) from None
        except OSError as error:
            raise StorageError(f"{self.place(name)}: cannot be read: {error.strerror}") from error

    def open_shards(self, shards: Sequence[Shard]) -> None:
        for shard in shards:
            try:
                num_bytes = os.stat(self._folder / shard.name).st_size
            except OSError as error:
                raise _missing(self.place(shard.name), error.strerror or str(error)) from error
            _check_size(self.place(shard.name), num_bytes, shard)

    def read(self, name: str, start: int, num_bytes: int) -> bytes:
        with open(self._folder / name, "rb", buffering=0) as file:
            return os.pread(file.fileno(), num_bytes, start)


class S3Folder:
    """Objects below a prefix. Endpoint, credentials and retries are those of boto3's environment variables and files.

    Each read asks for the version of the object that was opened, so bytes of another are never taken for it.
    """

    num_threads = NUM_CONNECTIONS

    def __init__(self, url: str) -> None:
        bucket, _, prefix = url.removeprefix(S3_SCHEME).partition("/")
        if not bucket:
            raise InputError(f"{url}: no bucket; expected s3://BUCKET/PREFIX")
        try:
            import boto3  # noqa: F401  # an extra
        except ModuleNotFoundError as error:
            raise InputError(f"{url}: s3:// needs the extra: uv sync --extra s3") from error
        self._bucket, self._prefix = bucket, prefix.strip("/")
        self._etags: dict[str, str] = {}
        self._client: Any = None
        self._client_process = 0
        self._connecting = Lock()

    def place(self, name: str) -> str:
        return f"{S3_SCHEME}{self._bucket}/{self._key(name)}"

    def read_all(self, name: str) -> bytes:
        return self._content(name)

    def open_shards(self, shards: Sequence[Shard]) -> None:
        with ThreadPoolExecutor(NUM_CONNECTIONS) as pool:
            for shard, answer in zip(shards, pool.map(lambda shard: self._head(shard.name), shards), strict=True):
                _check_size(self.place(shard.name), answer["ContentLength"], shard)
                self._etags[shard.name] = answer["ETag"]

    def read(self, name: str, start: int, num_bytes: int) -> bytes:
        if not num_bytes:
            return b""
        content = self._content(name, Range=f"bytes={start}-{start + num_bytes - 1}", IfMatch=self._etags[name])
        if len(content) != num_bytes:
            raise StorageError(
                f"{self.place(name)}: {len(content)} bytes for a range of {num_bytes}; the endpoint does not serve ranges"
            )
        return content

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name

    def _content(self, name: str, **which: str) -> bytes:
        """The body of one answer. boto3 repeats a request that fails, but not one whose answer breaks off."""
        from botocore.exceptions import BotoCoreError

        with self._errors_of(name):
            for _ in range(ATTEMPTS_AT_BODY - 1):
                body = self._connected().get_object(Bucket=self._bucket, Key=self._key(name), **which)["Body"]
                try:
                    return body.read()
                except BotoCoreError as error:
                    log.warning("%s: an answer broke off and is asked for again: %s", self.place(name), error)
            return self._connected().get_object(Bucket=self._bucket, Key=self._key(name), **which)["Body"].read()

    def _head(self, name: str) -> dict[str, Any]:
        with self._errors_of(name):
            return self._connected().head_object(Bucket=self._bucket, Key=self._key(name))

    def _connected(self) -> Any:
        """The client of this process: connections cannot be shared with a forked one."""
        with self._connecting:
            if self._client is None or self._client_process != os.getpid():
                self._client, self._client_process = self._new_client(), os.getpid()
            return self._client

    def _new_client(self) -> Any:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, PartialCredentialsError

        limits = Config(
            max_pool_connections=NUM_CONNECTIONS, connect_timeout=CONNECT_SECONDS, read_timeout=READ_SECONDS
        )
        try:
            return boto3.session.Session().client("s3", config=limits)
        except PartialCredentialsError:  # as where there are none
            raise
        except (ValueError, BotoCoreError) as error:
            raise StorageError(
                f"{self.place('')}: AWS settings cannot be used: {error}; check AWS_ENDPOINT_URL (http://HOST:PORT or "
                "https://HOST), AWS_PROFILE and the other AWS_ variables and files"
            ) from error

    @contextmanager
    def _errors_of(self, name: str) -> Iterator[None]:
        """Turns boto3's errors into StorageError that says what to do."""
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

        place = self.place(name)
        try:
            yield
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise StorageError(
                f"{place}: {error}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            ) from error
        except ClientError as error:
            raise StorageError(_refusal(place, error.response, self._endpoint())) from error
        except (BotoCoreError, OSError) as error:  # no connection, or one that broke
            raise StorageError(
                f"{place}: {self._endpoint()} cannot be reached: {error}; set AWS_ENDPOINT_URL to the endpoint of your storage "
                "(unset: AWS) and check the network"
            ) from error

    def _endpoint(self) -> str:
        return "AWS" if self._client is None else str(self._client.meta.endpoint_url)


def _missing(place: str, reason: str) -> StorageError:
    return StorageError(f"{place}: a shard that the index lists cannot be read: {reason}; copy it again, or {_ADVICE}")


def _check_size(place: str, num_bytes: int, shard: Shard) -> None:
    if num_bytes != shard.num_bytes:
        raise StorageError(
            f"{place}: {num_bytes} bytes; its index says {shard.num_bytes}: cut short, or of another set; copy it again with "
            f"its index, or {_ADVICE}"
        )


def _refusal(place: str, response: dict[str, Any], endpoint: str) -> str:
    """What an error answer of the endpoint means."""
    code = str(response.get("Error", {}).get("Code", ""))
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if status == 404:
        return f"{place}: {endpoint} has no such object ({code}); {_ADVICE}, as s3://BUCKET/PREFIX"
    if status == 403:
        return (
            f"{place}: {endpoint} refuses access ({code}); check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or there is no such "
            "object"
        )
    if status in (412, 416):
        return f"{place}: was exchanged while it is read ({code}); start the run again"
    return f"{place}: {endpoint} answers {status} {code}: {response.get('Error', {}).get('Message', '')}"
