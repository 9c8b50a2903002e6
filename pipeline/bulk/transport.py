"""Messages between two processes of one machine, whose arrays travel in shared memory.

A message is any picklable value. Its arrays are copied once, into memory that both processes have mapped (`arena`), and
the receiver finds them there. Where there is no room, they are written to an anonymous file in memory, whose descriptor
crosses the socket. Nothing has a name, so nothing is left behind by a process that dies.
"""

import mmap
import os
import pickle
import socket
import struct
import tempfile
import threading
from typing import Any

from pipeline.bulk.arena import Inbox, Outbox, Piece

_HEADER = struct.Struct("<QIqI")  # bytes of the pickle, number of buffers, start and number of the piece
_SIZE = struct.Struct("<Q")
_NO_PIECE = Piece(0, -1)
_POPULATE = getattr(mmap, "MAP_POPULATE", 0)  # maps all pages at once, where the system can


class Closed(Exception):
    """The other process has closed the connection, as it does when it ends."""


class Channel:
    """One end of a connection. Several threads may send at a time, and one may receive.

    Args:
        connection: Stream socket of the family AF_UNIX.
        outbox: Memory for the arrays of messages that are sent; None for a file each.
        inbox: Memory in which the other end has its outbox.
    """

    def __init__(self, connection: socket.socket, *, outbox: Outbox | None = None, inbox: Inbox | None = None):
        self.connection = connection
        self._outbox = outbox
        self._inbox = inbox
        self._sending = threading.Lock()

    def send(self, value: Any) -> None:
        """Send a value.

        Args:
            value: Any picklable value; contiguous NumPy arrays within it are sent in shared memory.

        Raises:
            Closed: The receiver has ended, or this end is closed.
        """
        buffers: list[pickle.PickleBuffer] = []
        data = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        views = [buffer.raw() for buffer in buffers]
        sizes = b"".join(_SIZE.pack(view.nbytes) for view in views)
        has_bytes = any(view.nbytes for view in views)
        piece = self._outbox.put(views) if self._outbox and has_bytes else None
        descriptor = _in_memory(views) if has_bytes and piece is None else None
        number, start = piece or _NO_PIECE
        header = _HEADER.pack(len(data), len(views), start, number)
        try:
            with self._sending:
                if self.connection.fileno() < 0:
                    raise Closed
                if descriptor is not None:
                    socket.send_fds(self.connection, [header], [descriptor])
                else:
                    self.connection.sendall(header)
                self.connection.sendall(sizes + data)
        except (BrokenPipeError, ConnectionResetError):
            raise Closed from None
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def close(self) -> None:
        """Close this end, between two messages."""
        with self._sending:
            self.connection.close()

    def receive(self) -> Any:
        """Receive a value; its arrays lie in shared memory, and are writable if the sender's are.

        Raises:
            Closed: The sender has ended.
        """
        try:
            header, descriptors, _, _ = socket.recv_fds(self.connection, _HEADER.size, 1)
        except ConnectionResetError:
            raise Closed from None
        if not header:
            raise Closed
        try:
            header += _exactly(self.connection, _HEADER.size - len(header))
            length, count, start, number = _HEADER.unpack(header)
            rest = _exactly(self.connection, count * _SIZE.size + length)
        except BaseException:
            for descriptor in descriptors:
                os.close(descriptor)
            raise
        sizes = [_SIZE.unpack_from(rest, i * _SIZE.size)[0] for i in range(count)]
        if start >= 0:
            assert self._inbox is not None
            whole = self._inbox.view(Piece(number, start), sum(sizes))
        else:
            whole = _mapped(sum(sizes), descriptors)
        return pickle.loads(rest[count * _SIZE.size :], buffers=_cut(whole, sizes))


def _in_memory(views: list[memoryview]) -> int:
    """Write some buffers one after the other to an anonymous file in memory, and return its descriptor."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("segpipe")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    try:
        for view in views:
            start = 0
            while start < view.nbytes:  # a call writes at most 2 GiB
                start += os.write(descriptor, view[start:])
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _mapped(size: int, descriptors: list[int]) -> memoryview:
    """Map the file of a message; the mapping lives as long as one of its buffers is used."""
    if not descriptors:
        return memoryview(bytearray())
    (descriptor,) = descriptors
    try:
        return memoryview(mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED | _POPULATE))
    finally:
        os.close(descriptor)


def _cut(whole: memoryview, sizes: list[int]) -> list[memoryview]:
    """Return the buffers of a message, which lie one after the other."""
    views, start = [], 0
    for size in sizes:
        views.append(whole[start : start + size])
        start += size
    return views


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = bytearray(count)
    view = memoryview(data)
    while view:
        try:
            received = connection.recv_into(view)
        except ConnectionResetError:
            raise Closed from None
        if not received:
            raise Closed
        view = view[received:]
    return bytes(data)
