"""One of three ranks on two nodes, for test_rank_watch.py: python watched_rank.py FOLDER RANK DEED [SECONDS LIMIT]"""

import logging
import os
import signal
import sys
import time
from pathlib import Path

from ocr.training.rank_watch import Member, RankWatch, meet


class Folder:
    """A store whose values are files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def set(self, key: str, value: str) -> None:
        (self.path / "new").write_text(value)
        (self.path / "new").rename(self.path / key)

    def get(self, key: str) -> bytes:
        return (self.path / key).read_bytes()

    def check(self, keys: list[str]) -> bool:
        return all((self.path / key).is_file() for key in keys)


def join(folder: Path, rank: int, world_size: int, seconds: float) -> RankWatch:
    member = Member(rank, rank % 2, node=str(rank // 2))
    return meet(Folder(folder), member, world_size, seconds, "127.0.0.1", lambda: None)


def act(folder: Path, rank: int, deed: str, seconds: float = 60, limit: float = 60) -> None:
    """Joins three ranks on two nodes and does a deed; all others wait for the end."""
    logging.basicConfig(filename=folder / f"log{rank}", level=logging.INFO)
    watch = join(folder, rank, 3, seconds)
    watch.watch_progress(limit)
    (folder / f"here{rank}").touch()
    while not all((folder / f"here{number}").is_file() for number in range(3)):
        time.sleep(0.01)
    if deed == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if deed == "fail":
        watch.claim(7)
        (folder / f"spoke{rank}").touch()
        sys.exit(7)
    if deed == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if deed == "go on":
        for number in range(1, 61):
            watch.note_progress(f"batch {number}")
            time.sleep(0.05)
    if deed == "begin two":
        watch.note_progress("batch 1")
        watch.note_progress("batch 2")
    if deed == "finish":
        watch.finish()
        return
    time.sleep(60)


if __name__ == "__main__":
    act(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], *map(float, sys.argv[4:]))
