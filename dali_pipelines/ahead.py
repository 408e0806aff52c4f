"""Makes items in a thread before they are needed, so that the thread that launches GPU work only takes them."""

import atexit
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

log = logging.getLogger(__name__)

Item = TypeVar("Item")

PATIENCE = 10.0
"""Seconds to wait for the thread to finish its current item. It ends after that item in any case."""


class Ahead(Iterator[Item]):
    """Iterates over items that a thread takes from an iterator in advance. An error of the iterator is raised in its turn.

    The first item is made by the caller, and only then does the thread start: compiled functions are compiled before, not in the
    thread, so that worker processes can be forked at any time. The thread ends with the items, with `close`, when the object is
    garbage, and at the interpreter's exit.

    Args:
        items: must not refer to this object, nor to anything that does: it could never become garbage.
        depth: largest number of items that are ready and not taken.
    """

    def __init__(self, items: Iterator[Item], depth: int) -> None:
        self._producer = _Producer(items, depth)
        weakref.finalize(self, self._producer.stop).atexit = False

    def __next__(self) -> Item:
        return self._producer.take()

    def close(self) -> None:
        """Ends the iteration and the thread. An item in the making is finished before."""
        self._producer.stop()
        self._producer.join()


class _Producer(Generic[Item]):
    """The part of `Ahead` that the thread refers to."""

    def __init__(self, items: Iterator[Item], depth: int) -> None:
        self._items, self._depth = items, depth
        self._ready: deque[Item] = deque()
        self._changed = threading.Condition()  # re-entrant: garbage collection may call `stop` at any time
        self._end: BaseException | None = None
        """StopIteration, or the error that ended the items."""
        self._is_stopped = False
        self._thread: threading.Thread | None = None
        self._process = os.getpid()

    def take(self) -> Item:
        if self._is_stopped:
            raise StopIteration
        if self._thread is None:
            item = next(self._items)
            self._thread = threading.Thread(target=self._run, name="ahead", daemon=True)
            self._thread.start()
            _running.add(self)
            return item
        with self._changed:
            while not self._ready and self._end is None and not self._is_stopped:
                self._changed.wait()
            if self._ready:
                self._changed.notify()
                return self._ready.popleft()
            end, self._end = self._end or StopIteration(), StopIteration()
        raise end

    def stop(self) -> None:
        """Ends the thread after its current item, and drops the items that are ready."""
        if self._process != os.getpid():
            return  # a forked process has no such thread, and the lock may be held for ever
        with self._changed:
            self._is_stopped = True
            self._ready.clear()
            self._changed.notify_all()

    def join(self) -> None:
        """Waits for the thread to end, but not for ever: a file system that its item needs may not answer."""
        if self._thread is None or self._thread is threading.current_thread():
            return
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            log.warning(
                "the thread that prepares batches ahead still works on one after %g s; going on without it. It ends after that "
                "batch. If this is seen again, check that the data's file system answers",
                PATIENCE,
            )

    def _run(self) -> None:
        try:
            while self._wait_for_room():
                item = next(self._items)
                with self._changed:
                    if not self._is_stopped:
                        self._ready.append(item)
                        self._changed.notify()
                del item
        except BaseException as error:  # raised again by `take`
            with self._changed:
                self._end = error
                self._changed.notify()
        finally:
            self._items = iter(())
            _running.discard(self)

    def _wait_for_room(self) -> bool:
        """Returns whether another item is wanted."""
        with self._changed:
            while len(self._ready) >= self._depth and not self._is_stopped:
                self._changed.wait()
            return not self._is_stopped


_running: "weakref.WeakSet[_Producer[Any]]" = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    """Ends all threads before the interpreter does: a thread in compiled code could not be ended safely later."""
    for producer in list(_running):
        producer.stop()
        producer.join()
