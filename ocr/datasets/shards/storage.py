"""The folder of a split in shards, read by byte ranges through fsspec: a local folder, or s3://BUCKET/PREFIX."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec

from ocr.datasets.column_file import ColumnFileError, columns_in, map_columns
from ocr.datasets.schemas import DEFAULT_SHARD_CONNECTIONS
from ocr.datasets.shards.index import INDEX_NAME, OLD_INDEX_NAME, Shard, ShardIndex, index_in, not_an_index
from ocr.errors import InputError, StorageError

_NUM_LOCAL_READS = 4
_S3FS_ATTEMPTS = 2
"""Attempts of s3fs at a request whose answer stalls or breaks off. s3fs nests two such loops: a stalled request gets 2 x 2."""
_BOTOCORE_ATTEMPTS = 3
"""Attempts of botocore within each attempt of s3fs, also after a refused connection or a server error, unless AWS_MAX_ATTEMPTS is
set. A storage that accepts connections and never answers is reported after 2 x 2 x 3 x 15 s."""
_READ_ATTEMPTS = 3
"""Attempts at a range whose answer is whole but shorter than the range."""
_ADVICE = (
    "write the shards with scripts/prepare_data.py shards=true output=FOLDER, and give that folder as dataset_base_path"
)


class ShardFolder:
    """A folder of shards. Threads and processes forked later may share it: each process opens its own connections.

    Args:
        url: path of a local folder, or a URL that fsspec reads.
        num_connections: concurrent requests to a remote storage.

    Raises:
        InputError: the URL has no bucket, or the package for its scheme is not installed.
    """

    def __init__(self, url: str, num_connections: int = DEFAULT_SHARD_CONNECTIONS) -> None:
        self.is_local = "://" not in url
        """Whether the shards are files of this machine, or of a file system mounted on it."""
        self._url = str(Path(url).resolve()) if self.is_local else url.rstrip("/")
        self._is_s3 = url.startswith("s3:")
        if self._is_s3:
            _check_s3(url)
        self.num_threads = _NUM_LOCAL_READS if self.is_local else num_connections
        """Number of reads worth running at once."""
        self._connections: dict[int, fsspec.AbstractFileSystem] = {}

    def place(self, name: str) -> str:
        """Returns the path or URL of a file, for messages."""
        return f"{self._url}/{name}"

    def read_index(self) -> ShardIndex:
        """Returns the checked index. A local file is mapped: the processes of a machine share its pages.

        Raises:
            StorageError: the file is missing or cannot be read.
            InputError: the content is not an index that this version reads.
        """
        place = self.place(INDEX_NAME)
        try:
            with self._errors_in_words(INDEX_NAME):
                content = None if self.is_local else self._connected().cat_file(place)
                mapped = map_columns(Path(place)) if content is None else columns_in(content)
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                self._refuse_old_index()
            raise
        except ColumnFileError as error:
            raise not_an_index(place, str(error)) from None
        return index_in(mapped, place)

    def _refuse_old_index(self) -> None:
        """Raises InputError if there is an index of an older version."""
        with self._errors_in_words(OLD_INDEX_NAME):
            if self._connected().exists(self.place(OLD_INDEX_NAME)):
                raise not_an_index(self.place(OLD_INDEX_NAME), f"an older version, and no {INDEX_NAME} beside it")

    def check_shards(self, shards: Sequence[Shard]) -> None:
        """Checks that all shards exist and have the size that the index states.

        Raises:
            StorageError: a shard is missing or has another size.
        """
        with ThreadPoolExecutor(self.num_threads) as pool:
            for shard, num_bytes in zip(shards, pool.map(self._size, shards), strict=True):
                if num_bytes != shard.num_bytes:
                    raise StorageError(
                        f"{self.place(shard.name)}: {num_bytes} bytes; its index says {shard.num_bytes}: the shard is cut short "
                        f"or belongs to another set; copy it again with its index, or {_ADVICE}"
                    )

    def read(self, name: str, start: int, num_bytes: int) -> bytes:
        """Returns a part of a shard. The caller checks that these are the right bytes.

        A local file that ends within the part gives what it has.

        Raises:
            OSError: this part of a local file cannot be read.
            StorageError: the shard cannot be read from its remote storage, or ends within the part.
        """
        if not num_bytes:
            return b""
        if self.is_local:  # one bad sector costs one image, not the run
            return self._connected().cat_file(self.place(name), start=start, end=start + num_bytes)
        part = f"bytes {start}-{start + num_bytes - 1}"
        content = b""
        for _ in range(_READ_ATTEMPTS):
            with self._errors_in_words(name, f" ({part})"):
                content = self._connected().cat_file(self.place(name), start=start, end=start + num_bytes)
            if len(content) == num_bytes:
                return content
            if len(content) > num_bytes:
                break
        problem = "does not serve ranges" if len(content) > num_bytes else "cuts its answers short"
        raise StorageError(f"{self.place(name)}: {len(content)} bytes for the range {part}; this storage {problem}")

    def _size(self, shard: Shard) -> int:
        with self._errors_in_words(shard.name):
            return int(self._connected().info(self.place(shard.name))["size"])

    def _connected(self) -> fsspec.AbstractFileSystem:
        """Returns the file system of this process.

        The connections and event loop of a parent process are unusable after a fork. They are kept: if this process closed them,
        it would close TLS connections that its parent still uses.
        """
        process = os.getpid()
        if process not in self._connections:  # if two threads meet here, one of the two file systems is unused
            options = _s3_options(self.num_threads) if self._is_s3 else {}
            files, _ = fsspec.url_to_fs(self._url, skip_instance_cache=True, use_listings_cache=False, **options)
            if self._is_s3:
                files.retries = _S3FS_ATTEMPTS
            self._connections[process] = files
        return self._connections[process]

    @contextmanager
    def _errors_in_words(self, name: str, part: str = "") -> Iterator[None]:
        """Turns the errors of a file system into a StorageError that says what to do; `part` names the bytes."""
        place = self.place(name)
        try:
            yield
        except (ColumnFileError, InputError):
            raise
        except FileNotFoundError as error:
            raise StorageError(
                f"{place}: there is no such file{self._settings()}; {_ADVICE}, or use loader=dali for loose files"
            ) from error
        except PermissionError as error:
            reason = "check its permissions" if self.is_local else "check the credentials, and that the file exists"
            raise StorageError(f"{place}: access is refused; {reason}{part}{self._settings()}") from error
        except Exception as error:  # botocore, aiohttp and fsspec's other back ends have no common class
            raise StorageError(f"{place}: cannot be read: {error}{part}{self._settings()}") from error

    def _settings(self) -> str:
        """Returns the settings on which an error of S3 may depend, for messages."""
        if not self._is_s3:
            return ""
        endpoint = os.environ.get("AWS_ENDPOINT_URL", "(not set: AWS)")
        return f" [AWS_ENDPOINT_URL={endpoint}, credentials from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE]"


def _check_s3(url: str) -> None:
    if not url.removeprefix("s3:").strip("/"):
        raise InputError(f"{url}: no bucket; expected s3://BUCKET/PREFIX")
    try:
        import s3fs  # noqa: F401  # an extra
    except ModuleNotFoundError as error:
        raise InputError(f"{url}: s3:// needs the extra: uv sync --extra s3") from error


def _s3_options(num_connections: int) -> dict[str, Any]:
    config: dict[str, Any] = {"connect_timeout": 5, "read_timeout": 15, "max_pool_connections": num_connections}
    if "AWS_MAX_ATTEMPTS" not in os.environ:
        config["retries"] = {"total_max_attempts": _BOTOCORE_ATTEMPTS}
    # max_concurrency 1: a whole file takes one GET, without asking for its size first.
    return {"config_kwargs": config, "max_concurrency": 1}
