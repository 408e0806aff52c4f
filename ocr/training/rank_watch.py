"""Connections by which each rank learns that another one has failed, died, or is stuck.

    rank 0 -+- rank 1        a dead process: its system closes the connection
            +- rank 2        a dead node or network: the kernel's keep-alive probes stay unanswered
                             a stopped process: its system still answers, but its messages stay out
                             a process that hangs, in its data loading for instance: the batches it counts stay behind

Collective operations alone do not suffice: one that waits for a dead node ends after half an hour, and a rank that reads data is
in none.
"""

import contextlib
import hmac
import json
import logging
import math
import os
import secrets
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn, Protocol
from weakref import WeakSet

import psutil

from ocr.errors import InputError
from ocr.training.children import kill_children

log = logging.getLogger(__name__)

SILENCE = 25
"""Seconds without an answer from a node after which it is gone."""
GRACE = 20.0
"""Seconds that a failed rank has to say why, before all end."""
_PROBE = 5
"""Seconds between two probes of a silent connection."""
_BEAT = 5.0
"""Seconds between two messages that say that a rank is there and how far it has come, at most."""
_UNHEARD = 60.0
"""Seconds without a message from a rank after which it is sent none: sending blocks once a stopped process's buffer is full."""
_LONGEST_LOOK = 1.0
"""Seconds that count at most between two looks: this process may have been stopped itself, or its machine asleep."""
_KEY = "rank-watch"
"""Key of the store under which rank 0 says where it listens."""
_HOW_TO_START = (
    "torchrun starts them, on each node with the same --nnodes and --master-addr, or srun before the command"
)


class Store(Protocol):
    """Shares small values between the ranks; torch.distributed's TCPStore."""

    def set(self, key: str, value: str) -> None: ...

    def get(self, key: str) -> bytes: ...

    def check(self, keys: list[str]) -> bool: ...


@dataclass(frozen=True)
class Member:
    """One rank, as the others know it."""

    rank: int
    local_rank: int
    node: str
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)

    def __str__(self) -> str:
        return f"rank {self.rank} (process {self.pid} on {self.host})"


class Connection:
    """A TCP connection that carries JSON messages, one a line."""

    def __init__(self, opened: socket.socket) -> None:
        self.socket = opened
        self._received = b""
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        options = {"TCP_KEEPIDLE": _PROBE, "TCP_KEEPINTVL": _PROBE, "TCP_KEEPCNT": SILENCE // _PROBE - 1}
        for name, value in (options | {"TCP_USER_TIMEOUT": SILENCE * 1000}).items():
            if hasattr(socket, name):  # Linux has all of them
                opened.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def send(self, kind: str, **values: Any) -> None:
        """Sends a message about the end of the run."""
        self.write({"kind": kind, **values})

    def write(self, message: Any) -> None:
        """Sends anything that JSON can hold. A dead peer is no error here: the thread that reads notices."""
        with contextlib.suppress(OSError):
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[Any] | None:
        """Returns the messages that are complete, after waiting for the next bytes. None: the peer is gone."""
        try:
            data = self.socket.recv(1 << 16)
        except OSError as error:
            is_early = isinstance(error, TimeoutError) and error.errno is None  # settimeout(), not an unanswered probe
            return [] if is_early else None
        if not data:
            return None
        *lines, self._received = (self._received + data).split(b"\n")
        try:
            return [json.loads(line) for line in lines]
        except ValueError:  # a stranger
            return None

    def close(self) -> None:
        self.socket.close()


@dataclass
class _Seen:
    """One rank's knowledge of another."""

    begun: int = 0
    """Number of batches that it has begun."""
    last: str = "the meeting of the ranks"
    """The last of them, in words."""
    silent: float = 0.0
    """Seconds since its last message."""
    stuck: float = 0.0
    """Seconds in which it has begun nothing, while another rank was further."""

    def hear(self, begun: int, last: str) -> None:
        self.silent = 0.0
        if begun != self.begun:
            self.begun, self.last, self.stuck = begun, last, 0.0


_open_connections: WeakSet[Connection] = WeakSet()


class RankWatch:
    """The connections of one rank, and the thread that listens to them and ends the process when the run has ended elsewhere.

    The first rank that fails is granted the right to say why; the others end without a word, after it, with the same exit code. If
    a rank dies, rank 0 says so; if rank 0 dies, one rank of each node does.

    Args:
        members: all ranks of the run.
        connections: by rank; to all others on rank 0, to rank 0 on the others.
        heard: messages of rank 0 that have come already.
    """

    def __init__(
        self,
        own: Member,
        members: Sequence[Member],
        connections: Mapping[int, Connection],
        heard: Sequence[dict[str, Any]] = (),
    ) -> None:
        self.own = own
        self.members = members
        self._connections = connections
        self._lock = threading.Lock()
        self._ending: tuple[int, int] | None = None
        """The rank that failed first, and its exit code. None: all are well."""
        self._deadline = math.inf
        """Time at which this process ends although that rank is still there."""
        self._granted = threading.Event()
        self._done: set[int] = set()
        """Ranks that have reached the end of the run."""
        self._is_finished = False
        self._limit = math.inf
        self._num_begun = 0
        self._last_begun = "the meeting of the ranks"
        self._seen = {rank: _Seen() for rank in connections}
        _open_connections.update(connections.values())
        for message in heard:
            self._hear(0, **message)
        threading.Thread(target=self._watch, name="rank-watch", daemon=True).start()

    def claim(self, code: int) -> None:
        """Returns if this rank is the first that fails. Otherwise this process ends here.

        A process that has claimed ends after `GRACE` at the latest.
        """
        if self.own.rank == 0:
            if self._set_ending(0, code):
                for connection in self._connections.values():
                    connection.send("ending", code=code)
                return
            self._granted.wait(2 * GRACE)  # the thread ends this process
        else:
            self._connections[0].send("ending", code=code)
            if self._granted.wait(SILENCE + 2 * GRACE):
                return
        self._end(code)

    def watch_progress(self, limit: float) -> None:
        """Ends the run from now on if a rank does not answer for this time, or stays behind the others without going on.

        Only time in which this process runs itself counts, so a machine that has slept causes no alarm.

        Args:
            limit: in seconds.
        """
        self._limit = limit

    def note_progress(self, what: str) -> None:
        """Counts a batch that this rank begins. All ranks count the same batches; `what` names it."""
        self._last_begun = what
        self._num_begun += 1

    def finish(self) -> None:
        """Closes the connections, once all ranks have reached the end of the run."""
        for connection in self._connections.values():
            connection.send("done")
        self._is_finished = True
        for connection in self._connections.values():
            connection.close()

    def _watch(self) -> None:
        looked, sent = time.monotonic(), 0.0
        with selectors.DefaultSelector() as selector:
            for rank, connection in self._connections.items():
                selector.register(connection.socket, selectors.EVENT_READ, rank)
            while not self._is_finished:
                for key, _ in selector.select(0.2):
                    messages = self._connections[key.data].receive()
                    if self._is_finished:
                        return
                    for message in messages or ():
                        self._hear(key.data, **message)
                    if messages is None:
                        selector.unregister(key.fileobj)
                        self._lose(key.data)
                now = time.monotonic()
                if now > self._deadline and self._ending is not None:
                    self._end_all(self._ending[1])
                self._look_for_stuck_ranks(min(now - looked, _LONGEST_LOOK))
                looked = now
                if now - sent > min(_BEAT, self._limit / 4):
                    sent = now
                    for rank, connection in self._connections.items():
                        if self._seen[rank].silent < _UNHEARD:
                            connection.send("going", begun=self._num_begun, last=self._last_begun)

    def _hear(self, rank: int, kind: str, code: int = 0, begun: int = 0, last: str = "") -> None:
        if kind == "going":
            self._seen[rank].hear(begun, last)
        elif kind == "done":
            self._done.add(rank)
        elif kind == "granted":
            self._set_ending(self.own.rank, code)
            self._granted.set()
        elif kind == "ending" and self._set_ending(rank, code) and self.own.rank == 0:
            self._connections[rank].send("granted", code=code)
        elif kind == "end":
            self._end(code)

    def _look_for_stuck_ranks(self, seconds: float) -> None:
        """Ends the run if a rank has been silent, or behind without going on, for the limit.

        Args:
            seconds: since the last look.
        """
        if self._ending is not None:
            return
        furthest = max(self._num_begun, *(seen.begun for seen in self._seen.values()))
        for rank, seen in self._seen.items():
            seen.silent += seconds
            seen.stuck = seen.stuck + seconds if seen.begun < furthest else 0.0
            if rank in self._done or max(seen.silent, seen.stuck) < self._limit:
                continue
            if seen.silent >= self._limit:
                what = "does not answer: its process is stopped (SIGSTOP, a paused container, a debugger), or its machine hangs"
            else:
                what = "answers but does not go on, while another rank waits for it: its reading of data or its device hangs"
            limit = f"{self._limit / 60:.3g} minutes (trainer.stuck_rank_minutes)"
            self._end_without(rank, f"{what}. It began nothing after {seen.last}; waited for it for {limit}")

    def _set_ending(self, rank: int, code: int) -> bool:
        """Notes which rank fails, and returns whether it is the first."""
        with self._lock:
            if self._ending is not None:
                return False
            self._ending, self._deadline = (rank, code), time.monotonic() + GRACE
            return True

    def _lose(self, rank: int) -> None:
        """Ends the run if the rank has died, or has said why it fails."""
        if rank not in self._done:
            self._end_without(rank, "is gone: the process was killed, or its machine or network has failed")

    def _end_without(self, rank: int, what: str) -> None:
        """Ends the run because of a rank. One process of each node that can still speak says what has happened to it."""
        if self._set_ending(rank, 1):
            on_this_node = [other.rank for other in self.members if other.node == self.own.node and other.rank != rank]
            if self.own.rank == min(on_this_node):
                log.error(
                    "%s %s. All ranks end. With the same folder (hydra.run.dir), resume=auto continues the run from its last "
                    "checkpoint",
                    self.members[rank],
                    what,
                )
        if self._ending is not None and self._ending[0] == rank:
            self._end_all(self._ending[1])

    def _end_all(self, code: int) -> None:
        if self.own.rank == 0:
            for connection in self._connections.values():
                connection.send("end", code=code)
            time.sleep(0.2)  # the messages leave before the process does
        self._end(code)

    def _end(self, code: int) -> NoReturn:
        """Ends this process and those that it started. Files are whole or not there, so nothing needs to be finished."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        kill_children()
        os._exit(code or 1)


def meet(
    store: Store, own: Member, world_size: int, seconds: float, address: str, check: Callable[[], None]
) -> RankWatch:
    """Returns the watch of this rank, once all ranks have come.

    Args:
        store: shared by the ranks of this run.
        seconds: time until the last rank must have come.
        address: the address of this machine that the other ranks reach.
        check: is called now and then while waiting; it may raise.

    Raises:
        InputError: ranks are missing after that time.
    """
    deadline = time.monotonic() + seconds
    if own.rank != 0:
        return _join(store, own, deadline, check)
    members, connections, token = {0: own}, {}, secrets.token_hex(16)
    told = False
    with _listening_socket() as listener:
        store.set(_KEY, json.dumps([listener.getsockname()[1], token, [address, *_addresses()]]))
        while len(members) < world_size:
            check()
            left = deadline - time.monotonic()
            missing = ", ".join(str(rank) for rank in range(world_size) if rank not in members)
            if left < 0:
                raise InputError(
                    f"ranks {missing} of {world_size} have not come within {seconds:.0f} seconds; {_HOW_TO_START}"
                )
            if not told and left < seconds - 10:
                log.info("waiting for ranks %s of %d; %s", missing, world_size, _HOW_TO_START)
                told = True
            with contextlib.suppress(TimeoutError):
                connection = Connection(listener.accept()[0])
                member = _greeting(connection, token)
                if member is not None:
                    members[member.rank], connections[member.rank] = member, connection
    ordered = [members[rank] for rank in range(world_size)]
    for connection in connections.values():
        connection.write([asdict(member) for member in ordered])
    return RankWatch(own, ordered, connections)


def _join(store: Store, own: Member, deadline: float, check: Callable[[], None]) -> RankWatch:
    """Connects to rank 0 and waits for the list of all ranks."""
    while not store.check([_KEY]):
        _check_time(deadline, check)
        time.sleep(0.1)
    port, token, addresses = json.loads(store.get(_KEY))
    connection = _connected(addresses, port)
    connection.write({"token": token, "member": asdict(own)})
    connection.socket.settimeout(0.5)
    messages: list[Any] | None = []
    while not messages:
        _check_time(deadline + _PROBE, check)  # rank 0 says which ranks are missing
        messages = connection.receive()
        if messages is None:
            raise InputError("rank 0 has ended before all ranks had come; its log says why")
    connection.socket.settimeout(None)
    return RankWatch(own, [Member(**values) for values in messages[0]], {0: connection}, messages[1:])


def _check_time(deadline: float, check: Callable[[], None]) -> None:
    check()
    if time.monotonic() > deadline:
        raise InputError("rank 0 has not come; see whether it has started and whether this machine reaches it by TCP")


def _greeting(connection: Connection, token: str) -> Member | None:
    """Returns the rank that has connected; None: a stranger has."""
    connection.socket.settimeout(_PROBE)
    messages = connection.receive()
    connection.socket.settimeout(None)
    if messages and isinstance(messages[0], dict) and hmac.compare_digest(str(messages[0].get("token")), token):
        return Member(**messages[0]["member"])
    connection.close()
    return None


def _listening_socket() -> socket.socket:
    if socket.has_dualstack_ipv6():
        listener = socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    else:
        listener = socket.create_server(("", 0), backlog=1024)
    listener.settimeout(0.5)
    return listener


def _connected(addresses: Sequence[str], port: int) -> Connection:
    """Returns a connection to the first address that answers."""
    for address in addresses:
        with contextlib.suppress(OSError):
            return Connection(socket.create_connection((address, port), timeout=_PROBE))
    tried = ", ".join(addresses)
    raise InputError(
        f"{socket.gethostname()} cannot reach rank 0: tried port {port} of {tried}; let the nodes reach each other"
    )


def _addresses() -> list[str]:
    """Returns the addresses of this machine, without those that only work with the name of an interface."""
    return [
        entry.address
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family in (socket.AF_INET, socket.AF_INET6) and "%" not in entry.address
    ]


def _close_in_worker() -> None:
    """Closes the connections in a forked worker process. They would stay open when the rank that started it has died."""
    for connection in _open_connections:
        connection.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_worker)
