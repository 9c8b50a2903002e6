"""A real object store for tests and benchmarks: OpenStack Swift with its S3 API, on the loopback interface.

`python -m benchmarks.swift FOLDER` runs a server until it is interrupted or terminated. Swift runs in separate
processes and is never imported here, because it puts eventlet's locks into `logging`.
"""

import argparse
import http.client
import os
import pwd
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.ports import free_ports

HOST = "127.0.0.1"
ACCESS_KEY = "test:tester"
SECRET_KEY = "only-for-tests"
START_SECONDS = 60
STOP_SECONDS = 5
# S3 lists 1,000 keys on a page. With a smaller page, tests of the next pages need fewer objects.
SMALL_PAGE = 20

STORAGE = """
pipeline = healthcheck KIND-server

[app:KIND-server]
use = egg:swift#KIND
"""

PROXY = f"""
pipeline = catch_errors gatekeeper healthcheck listing_formats bulk s3api tempauth copy slo dlo proxy-server

[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
node_timeout = 60
conn_timeout = 5

[filter:tempauth]
use = egg:swift#tempauth
user_{ACCESS_KEY.replace(":", "_")} = {SECRET_KEY} .admin .reseller_admin

[filter:s3api]
use = egg:swift#s3api
s3_acl = false
check_bucket_owner = false
max_bucket_listing = PAGE
min_segment_size = 5242880
""" + "".join(
    f"\n[filter:{name}]\nuse = egg:swift#{name}\n"
    for name in ("catch_errors", "gatekeeper", "listing_formats", "bulk", "copy", "slo", "dlo")
)

# Builds a ring with one device for each kind of server. argv: the folder, and the ports of the account, container and
# object servers.
RINGS = """
import sys
from swift.common.ring import RingBuilder
for kind, port in zip(("account", "container", "object"), sys.argv[2:]):
    builder = RingBuilder(part_power=4, replicas=1, min_part_hours=0)
    builder.add_dev({"region": 1, "zone": 1, "ip": "127.0.0.1", "port": int(port), "device": "sda1", "weight": 1})
    builder.rebalance()
    builder.get_ring().save(f"{sys.argv[1]}/{kind}.ring.gz")
"""

# Runs a server that ends with its parent process, even if that is killed. argv: the server's script and its arguments.
SERVE = """
import ctypes, runpy, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@dataclass(frozen=True)
class SwiftServer:
    """The address and the credentials of a running server."""

    endpoint: str
    access_key: str
    secret_key: str

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that lead S3 clients to the server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def make_bucket(self, name: str) -> str:
        """Create an empty bucket and return its URL."""
        import boto3  # type: ignore[import-untyped]

        session = boto3.Session(self.access_key, self.secret_key, region_name="us-east-1")
        session.client("s3", endpoint_url=self.endpoint).create_bucket(Bucket=name)
        return f"s3://{name}"


@contextmanager
def swift_server(folder: Path, *, page: int = SMALL_PAGE) -> Iterator[SwiftServer]:
    """Run a server in a `with` block.

    Args:
        folder: Folder for its data, settings and logs.
        page: Keys on a page of a listing.

    Raises:
        RuntimeError: The server does not start; the message contains the end of its log.
    """
    folder = folder.resolve()  # Swift changes its working directory
    folder.mkdir(parents=True, exist_ok=True)
    _require_attributes(folder)
    kinds = ("account", "container", "object", "proxy")
    ports = dict(zip(kinds, free_ports(len(kinds)), strict=True))
    _write_settings(folder, ports, page)
    _build_rings(folder, ports)
    with ExitStack() as stack:
        processes = {kind: stack.enter_context(_process(folder, kind)) for kind in ports}
        deadline = time.monotonic() + START_SECONDS
        for kind, process in processes.items():
            _wait_until_healthy(kind, process, ports[kind], deadline, _log(folder, kind))
        yield SwiftServer(f"http://{HOST}:{ports['proxy']}", ACCESS_KEY, SECRET_KEY)


def _require_attributes(folder: Path) -> None:
    """Check that a folder supports extended attributes, which older kernels lack on tmpfs.

    Swift stores the metadata of objects in them. Its `mem_object` server does not, but all readers of an object share
    one file position there.
    """
    try:
        os.setxattr(folder, "user.swift", b"")
    except OSError as error:
        raise RuntimeError(f"{folder} has no extended attributes for Swift ({error}): use another folder") from None


def _write_settings(folder: Path, ports: dict[str, int], page: int) -> None:
    (folder / "devices" / "sda1").mkdir(parents=True, exist_ok=True)
    (folder / "swift.conf").write_text(
        "[swift-hash]\nswift_hash_path_prefix = tests\nswift_hash_path_suffix = tests\n"
        "[storage-policy:0]\nname = default\ndefault = yes\n"
    )
    for kind, port in ports.items():
        (folder / f"{kind}.conf").write_text(_settings(folder, kind, port, page))


def _settings(folder: Path, kind: str, port: int, page: int) -> str:
    """Return the settings of a server. With workers = 0 it does not fork, so ending its process is enough."""
    pipeline = PROXY.replace("PAGE", str(page)) if kind == "proxy" else STORAGE.replace("KIND", kind)
    return f"""[DEFAULT]
bind_ip = {HOST}
bind_port = {port}
workers = 0
user = {pwd.getpwuid(os.getuid()).pw_name}
swift_dir = {folder}
devices = {folder / "devices"}
mount_check = false
disable_fallocate = true
log_level = ERROR

[filter:healthcheck]
use = egg:swift#healthcheck

[pipeline:main]
{pipeline.strip()}
"""


def _build_rings(folder: Path, ports: dict[str, int]) -> None:
    """Build the rings in one process, because nine runs of swift-ring-builder would double the starting time."""
    arguments = [str(folder), *(str(ports[kind]) for kind in ("account", "container", "object"))]
    done = subprocess.run([sys.executable, "-c", RINGS, *arguments], capture_output=True, text=True, cwd=folder)
    if done.returncode:
        raise RuntimeError(f"Swift's rings cannot be built:\n{done.stderr}")


@contextmanager
def _process(folder: Path, kind: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server process in a `with` block, in a new session so that the terminal's Ctrl-C does not reach it."""
    script = Path(sys.executable).parent / f"swift-{kind}-server"
    with _log(folder, kind).open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(script), str(folder / f"{kind}.conf"), "-v"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _log(folder: Path, kind: str) -> Path:
    return folder / f"{kind}.log"


def _wait_until_healthy(kind: str, process: subprocess.Popen[bytes], port: int, deadline: float, log: Path) -> None:
    while not _is_healthy(port):
        ended = process.poll() is not None
        if ended or time.monotonic() > deadline:
            problem = f"ended with status {process.returncode}" if ended else f"did not answer in {START_SECONDS} s"
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
            raise RuntimeError(f"Swift's {kind} server {problem}; the end of its log:\n{tail}")
        time.sleep(0.1)


def _is_healthy(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/healthcheck")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def main() -> None:
    """Run a server until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.swift", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder for data, settings and logs")
    folder: Path = parser.parse_args().folder
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    with swift_server(folder) as server:
        for name, value in server.environment.items():
            print(f"export {name}={shlex.quote(value)}", flush=True)
        while True:
            signal.pause()


def _stop(*_: object) -> None:
    """Exit through the context managers, and ignore further signals, which would interrupt them."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    sys.exit(0)


if __name__ == "__main__":
    main()
