"""Free ports for the servers of the tests and benchmarks."""

import random
import socket
from contextlib import ExitStack, suppress


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface, no two the same.

    They lie below the ephemeral ports, which any outgoing connection may take before our server does, and above the
    ones that Ray chooses for its workers.
    """
    with ExitStack() as stack:
        found: list[int] = []
        for port in random.SystemRandom().sample(range(20_000, 32_768), 1000):
            if len(found) == count:
                break
            one = stack.enter_context(socket.socket())
            with suppress(OSError):
                one.bind(("127.0.0.1", port))
                found.append(port)
        return found
