"""Messages between two processes of one machine, whose arrays travel in shared memory.

A message is any picklable value. Its arrays are written once into an anonymous file in memory, and only the file's
descriptor crosses the socket: the receiver maps the file and its arrays lie there. Nothing has a name, so nothing is
left behind by a process that dies.
"""

import mmap
import os
import pickle
import socket
import struct
import tempfile
from typing import Any

_HEADER = struct.Struct("<QI")  # bytes of the pickle, number of buffers
_SIZE = struct.Struct("<Q")
_POPULATE = getattr(mmap, "MAP_POPULATE", 0)  # maps all pages at once, where the system can


class Closed(Exception):
    """The other process has closed the connection, as it does when it ends."""


def send(connection: socket.socket, value: Any) -> None:
    """Send a value.

    Args:
        connection: Stream socket of the family AF_UNIX; one thread at a time may send.
        value: Any picklable value; contiguous NumPy arrays within it are sent in shared memory.

    Raises:
        Closed: The receiver has ended.
    """
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    views = [buffer.raw() for buffer in buffers]
    sizes = b"".join(_SIZE.pack(view.nbytes) for view in views)
    header = _HEADER.pack(len(data), len(views))
    try:
        if any(view.nbytes for view in views):
            descriptor = _in_memory(views)
            try:
                socket.send_fds(connection, [header], [descriptor])
            finally:
                os.close(descriptor)
        else:
            connection.sendall(header)
        connection.sendall(sizes + data)
    except (BrokenPipeError, ConnectionResetError):
        raise Closed from None


def receive(connection: socket.socket) -> Any:
    """Receive a value; its arrays are mapped from shared memory and are writable.

    Raises:
        Closed: The sender has ended.
    """
    try:
        header, descriptors, _, _ = socket.recv_fds(connection, _HEADER.size, 1)
    except ConnectionResetError:
        raise Closed from None
    if not header:
        raise Closed
    header += _exactly(connection, _HEADER.size - len(header))
    length, count = _HEADER.unpack(header)
    rest = _exactly(connection, count * _SIZE.size + length)
    sizes = [_SIZE.unpack_from(rest, i * _SIZE.size)[0] for i in range(count)]
    return pickle.loads(rest[count * _SIZE.size :], buffers=_views(sizes, descriptors))


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


def _views(sizes: list[int], descriptors: list[int]) -> list[memoryview]:
    """Map the buffers of a message; the mapping lives as long as one of them is used."""
    if not descriptors:
        return [memoryview(bytearray()) for _ in sizes]
    (descriptor,) = descriptors
    try:
        whole = memoryview(mmap.mmap(descriptor, sum(sizes), flags=mmap.MAP_SHARED | _POPULATE))
    finally:
        os.close(descriptor)
    views = []
    start = 0
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
