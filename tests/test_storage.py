"""`pipeline.storage` with a local folder, memory, and OpenStack Swift as S3 server."""

import hashlib
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from s3fs import S3FileSystem

from benchmarks.swift import SwiftServer
from pipeline import storage
from pipeline.errors import UserError
from pipeline.s3_options import CHECKSUM_VARIABLES
from pipeline.walk import iter_files

UNUSUAL_NAMES = [
    "with space.png",
    "with#hash.png",
    "100%.png",
    "%41%2F.png",
    "plus+and&=.png",
    "Überblick/日本 🛰.png",
    "quote'\"<>.png",
    "brackets[1].png",
]


@pytest.fixture(params=["local", "memory", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty folder on each kind of store."""
    name = uuid4().hex
    if request.param == "local":
        return str(tmp_path / name)
    if request.param == "memory":
        return f"memory://{name}"
    return _s3_folder(request.getfixturevalue("s3"))


def _s3_folder(bucket: str) -> str:
    return f"{bucket}/{uuid4().hex}"


@pytest.fixture
def aws(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Environment variables to change for S3. The cached clients of s3fs are removed before and after the test."""
    for name in CHECKSUM_VARIABLES:
        monkeypatch.setenv(name, "")  # so that the variable is restored, whoever changes it
        monkeypatch.delenv(name)
    S3FileSystem.clear_instance_cache()
    yield monkeypatch
    S3FileSystem.clear_instance_cache()


@pytest.fixture
def no_aws(aws: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An environment without S3 settings, including those of the user."""
    for name in [name for name in os.environ if name.startswith("AWS_") and name != "AWS_CA_BUNDLE"]:
        aws.delenv(name)
    aws.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    aws.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    aws.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return aws


@pytest.fixture
def closed_endpoint() -> Iterator[str]:
    """An endpoint that refuses connections, because its port is bound but not listened to."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def _paths(url: str) -> list[str]:
    """Return the listed files, relative to the folder."""
    root = storage.filesystem(url)[1]
    return [file.path.removeprefix(root).lstrip("/") for file in storage.list_files(url)]


def _message(error: pytest.ExceptionInfo[UserError]) -> str:
    """Return the message, and check that it is one line and hides the original error."""
    text = str(error.value)
    assert "\n" not in text
    assert "Traceback" not in text
    assert error.value.__suppress_context__
    return text


# --- reading and writing


@pytest.mark.parametrize("name", UNUSUAL_NAMES)
def test_files_with_unusual_names_round_trip(folder: str, name: str) -> None:
    url = storage.join(folder, name)
    storage.write_bytes(url, name.encode())
    assert storage.read_bytes(url) == name.encode()
    assert storage.exists(url)
    assert _paths(folder) == [name]
    storage.remove(url)
    assert not storage.exists(url)
    assert _paths(folder) == []


def test_names_are_not_decoded(folder: str) -> None:
    for name in ("a b", "a%20b", "a+b"):
        storage.write_bytes(storage.join(folder, name), name.encode())
    assert {name: storage.read_bytes(storage.join(folder, name)) for name in _paths(folder)} == {
        "a b": b"a b",
        "a%20b": b"a%20b",
        "a+b": b"a+b",
    }


@pytest.mark.parametrize("size", [0, 1, 3 << 20])
def test_contents_of_all_sizes_round_trip(folder: str, size: int) -> None:
    data = os.urandom(size)
    storage.write_bytes(storage.join(folder, "new", "folders", "x.bin"), data)
    assert storage.read_bytes(storage.join(folder, "new", "folders", "x.bin")) == data


def test_writing_again_replaces_the_file(folder: str) -> None:
    url = storage.join(folder, "x.bin")
    storage.write_bytes(url, b"a longer first version")
    storage.write_bytes(url, b"second")
    assert storage.read_bytes(url) == b"second"
    assert [file.size for file in storage.list_files(folder)] == [6]


def test_writing_leaves_no_temporary_file(folder: str) -> None:
    for _ in range(2):
        storage.write_bytes(storage.join(folder, "x.bin"), b"x")
    storage.check_writable(folder)
    assert _paths(folder) == ["x.bin"]


def test_a_failed_local_write_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "taken" / "by a folder").mkdir(parents=True)
    with pytest.raises(OSError, match="taken"):
        storage.write_bytes(str(tmp_path / "taken"), b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_replacing_a_local_file_does_not_affect_its_readers(tmp_path: Path) -> None:
    url = str(tmp_path / "x.bin")
    storage.write_bytes(url, b"first version")
    with open(url, "rb") as file:
        storage.write_bytes(url, b"2nd")
        assert file.read() == b"first version"


def test_a_local_file_has_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    storage.write_bytes(str(tmp_path / "written"), b"")
    assert (tmp_path / "written").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_removing_a_missing_file_is_no_error(folder: str) -> None:
    storage.remove(storage.join(folder, "none"))
    storage.remove(storage.join(folder, "no", "folder", "none"))


def test_reading_a_missing_file_is_refused(folder: str) -> None:
    url = storage.join(folder, "none.yaml")
    with pytest.raises(UserError) as error:
        storage.read_text(url, noun="class file")
    assert _message(error) == f"cannot read the class file {url}: it does not exist"


def test_text_that_is_not_utf8_is_refused(folder: str) -> None:
    url = storage.join(folder, "latin.yaml")
    storage.write_bytes(url, "Gebäude".encode("latin-1"))
    with pytest.raises(UserError, match=r"cannot read the class file .*utf-8") as error:
        storage.read_text(url, noun="class file")
    assert url in _message(error)


def test_upload_copies_a_file(folder: str, tmp_path: Path) -> None:
    local = tmp_path / "local file.bin"
    url = storage.join(folder, "new", "uploaded.bin")
    for data in (b"", os.urandom(100_000)):
        local.write_bytes(data)
        storage.upload(local, url)
        assert storage.read_bytes(url) == data
    assert _paths(folder) == ["new/uploaded.bin"]
    assert local.exists()


def test_a_file_of_several_parts_is_uploaded_completely(s3: str, tmp_path: Path) -> None:
    local = tmp_path / "large.bin"
    block = os.urandom(1 << 20)
    with local.open("wb") as file:
        for number in range(101):  # s3fs uploads files of 100 MiB and more in parts of 50 MiB
            file.write(number.to_bytes(4) + block[4:])
    url = storage.join(_s3_folder(s3), "large.bin")
    storage.upload(local, url)
    with local.open("rb") as written:
        expected = hashlib.file_digest(written, "sha256").hexdigest()
    assert hashlib.sha256(storage.read_bytes(url)).hexdigest() == expected
    assert [file.size for file in storage.list_files(url)] == [101 << 20]


# --- listing


def test_a_listing_has_all_files_below_a_folder_ordered_by_path(folder: str) -> None:
    sizes = {"b.png": 3, "a/2.png": 0, "a/10.png": 1, "a-b.png": 2, "Z.png": 4, "a/deep/er/x.png": 5}
    for name, size in sizes.items():
        storage.write_bytes(storage.join(folder, name), b"x" * size)
    assert _paths(folder) == sorted(sizes)
    assert [file.size for file in storage.list_files(folder)] == [sizes[name] for name in sorted(sizes)]
    assert all(file.mtime for file in storage.list_files(folder))


def test_a_listed_path_can_be_opened_on_its_file_system(folder: str) -> None:
    storage.write_bytes(storage.join(folder, "a b#%.png"), b"content")
    fs, _ = storage.filesystem(folder)
    (file,) = storage.list_files(folder)
    assert fs.cat_file(file.path) == b"content"
    assert storage.read_bytes(storage.url_of(fs, file.path)) == b"content"


def test_a_listing_leaves_out_folders_whose_names_start_with_that_of_the_listed_one(folder: str) -> None:
    storage.write_bytes(storage.join(folder, "images", "1.png"), b"")
    storage.write_bytes(storage.join(folder, "images-old", "1.png"), b"")
    assert _paths(storage.join(folder, "images")) == ["1.png"]


def test_a_listing_is_always_up_to_date(folder: str) -> None:
    assert _paths(folder) == []
    storage.write_bytes(storage.join(folder, "1.png"), b"1")
    assert _paths(folder) == ["1.png"]
    storage.write_bytes(storage.join(folder, "2.png"), b"1")
    storage.write_bytes(storage.join(folder, "1.png"), b"larger")
    assert [file.size for file in storage.list_files(folder)] == [6, 1]
    storage.remove(storage.join(folder, "1.png"))
    assert _paths(folder) == ["2.png"]
    assert not storage.exists(storage.join(folder, "1.png"))


def test_a_listing_has_files_written_by_another_process(s3: str) -> None:
    folder = _s3_folder(s3)
    assert not storage.exists(storage.join(folder, "1.png"))
    assert _paths(folder) == []
    code = "import sys; from pipeline import storage; storage.write_bytes(sys.argv[1], b'x')"
    subprocess.run([sys.executable, "-c", code, storage.join(folder, "1.png")], check=True)
    assert _paths(folder) == ["1.png"]
    assert storage.exists(storage.join(folder, "1.png"))


def test_a_listing_of_a_file_has_that_file(folder: str) -> None:
    url = storage.join(folder, "x[1].png")
    storage.write_bytes(url, b"abc")
    storage.write_bytes(storage.join(folder, "x1.png"), b"a")
    assert [(file.path.rsplit("/")[-1], file.size) for file in storage.list_files(url)] == [("x[1].png", 3)]


def test_s3_lists_etags_that_differ_between_versions(s3: str) -> None:
    folder = _s3_folder(s3)
    for data in (b"first", b"other"):
        storage.write_bytes(storage.join(folder, "x.bin"), data)
        assert [file.etag for file in storage.list_files(folder)] == [hashlib.md5(data).hexdigest()]


def test_a_listing_has_all_pages(s3: str) -> None:
    folder = _s3_folder(s3)
    names = [f"{number:02}.png" for number in range(25)]  # the server lists 20 on a page
    for name in names:
        storage.write_bytes(storage.join(folder, name), b"")
    assert _paths(folder) == names


def test_links_to_files_are_listed_as_these_and_what_cannot_be_read_as_empty_files(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.png").write_bytes(b"12345")
    os.utime(tmp_path / "elsewhere" / "a.png", (1, 1))
    root = tmp_path / "root"
    root.mkdir()
    (root / "good.png").symlink_to("../elsewhere/a.png")
    (root / "dangling.png").symlink_to("nowhere.png")
    (root / "loop.png").symlink_to("loop.png")
    (root / "folder.png").symlink_to("../elsewhere")
    os.mkfifo(root / "pipe.png")
    (root / "to_pipe.png").symlink_to("pipe.png")
    unreadable = ("dangling.png", "loop.png", "pipe.png", "to_pipe.png")
    for files in (storage.list_files(str(root)), iter_files(str(root)), iter_files(str(root / "*.png"))):
        found = {Path(file.path).name: file for file in files}
        assert {name: file.size for name, file in found.items()} == {"good.png": 5} | dict.fromkeys(unreadable, 0)
        assert found["good.png"].mtime == "1.0"  # of the target, so that a changed image is found
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(str(root / "dangling.png"))


# --- parts of files


def test_a_range_has_its_bytes(folder: str) -> None:
    url = storage.join(folder, "x.bin")
    data = bytes(range(256)) * 10
    storage.write_bytes(url, data)
    for start, end in [(0, 1), (5, 300), (0, len(data)), (2000, 9999), (len(data) - 1, len(data))]:
        assert storage.read_range(url, start, end) == data[start:end]
    assert storage.size_of(url) == len(data)


@pytest.mark.parametrize("size", [0, 10])
def test_a_range_beyond_the_end_is_empty(folder: str, size: int) -> None:
    url = storage.join(folder, "x.bin")
    storage.write_bytes(url, bytes(size))
    assert storage.read_range(url, size, size + 100) == b""


def test_a_store_that_ignores_ranges_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As HTTP servers may: the whole file would be taken for a part of it."""
    (tmp_path / "x.bin").write_bytes(bytes(100))
    fs, _ = storage.filesystem(str(tmp_path))
    whole = fs.cat_file
    monkeypatch.setattr(fs, "cat_file", lambda path, start, end: whole(path))
    with pytest.raises(OSError, match="100 bytes for a range of 10"):
        storage.read_range(str(tmp_path / "x.bin"), 5, 15)


@pytest.mark.parametrize(
    "operation", [storage.size_of, lambda url: storage.read_range(url, 0, 5)], ids=["size", "range"]
)
def test_parts_of_a_missing_file_are_no_empty_file(folder: str, operation: Callable[[str], object]) -> None:
    storage.write_bytes(storage.join(folder, "other"), b"x")
    with pytest.raises(FileNotFoundError):
        operation(storage.join(folder, "none"))


# --- failures


@pytest.mark.parametrize("key", ["", "/some/folder"])
def test_a_missing_bucket_is_reported(s3: str, key: str) -> None:
    url = f"s3://no-such-bucket{key}"
    with pytest.raises(UserError) as error, storage.friendly_errors(url, "cannot list"):
        storage.list_files(url)
    assert _message(error) == f"cannot list {url}: it does not exist"


def test_writing_never_creates_a_bucket(s3: str) -> None:
    bucket = f"s3://mistyped-{uuid4().hex}"
    with pytest.raises(UserError, match=f"cannot write to the output {bucket}/out: it does not exist") as error:
        storage.check_writable(f"{bucket}/out")
    _message(error)
    assert not storage.exists(bucket)


@pytest.mark.parametrize(
    "variable", [{"AWS_SECRET_ACCESS_KEY": "wr0ng/s3cret"}, {"AWS_ACCESS_KEY_ID": "test:nobody"}], ids=["secret", "key"]
)
@pytest.mark.parametrize("operation", [storage.list_files, storage.read_bytes, storage.exists, storage.check_writable])
def test_wrong_credentials_are_reported_but_not_shown(
    s3: str, aws: pytest.MonkeyPatch, operation: Callable[[str], object], variable: dict[str, str]
) -> None:
    for name, value in variable.items():
        aws.setenv(name, value)
    url = f"{s3}/some/file"
    with pytest.raises(UserError, match="access denied") as error, storage.friendly_errors(url, "cannot use"):
        operation(url)
    message = _message(error)
    assert url in message
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in message
    assert os.environ["AWS_ACCESS_KEY_ID"] not in message


def test_missing_credentials_are_reported_with_their_variables(swift: SwiftServer, no_aws: pytest.MonkeyPatch) -> None:
    no_aws.setenv("AWS_ENDPOINT_URL", swift.endpoint)
    with pytest.raises(UserError, match=r"no AWS credentials found .*AWS_ACCESS_KEY_ID") as error:
        storage.read_text("s3://test-bucket/x", noun="class file")
    _message(error)


def test_an_unreachable_endpoint_is_reported(s3: str, aws: pytest.MonkeyPatch, closed_endpoint: str) -> None:
    aws.setenv("AWS_MAX_ATTEMPTS", "1")  # botocore would try again for 5 s
    aws.setenv("AWS_ENDPOINT_URL", closed_endpoint)
    with pytest.raises(UserError, match=r"cannot reach the store .*AWS_ENDPOINT_URL") as error:
        storage.read_text(f"{s3}/classes.yaml", noun="class file")
    assert closed_endpoint in _message(error)


def test_a_missing_aws_profile_is_reported(no_aws: pytest.MonkeyPatch) -> None:
    no_aws.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(UserError, match=r"AWS configuration: .*nobody") as error:
        storage.read_bytes("s3://test-bucket/x")
    _message(error)


def test_an_unknown_protocol_is_reported_without_the_password() -> None:
    with pytest.raises(UserError, match="cannot open 'nosuch://' URLs") as error:
        storage.read_bytes("nosuch://user:password@host/x")
    assert "password" not in _message(error)


@pytest.mark.parametrize("name", ["file", "file/deeper/still"])
def test_a_local_folder_that_cannot_be_written_is_reported(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    url = str(tmp_path / name)
    with pytest.raises(UserError, match=f"cannot write to the output {url}: .+") as error:
        storage.check_writable(url)
    _message(error)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_signature_of_a_url_is_removed_from_errors() -> None:
    signed = "https://user:password@host.example/bucket/x.png?X-Amz-Credential=AKIA&X-Amz-Signature=5ec2e7"
    with pytest.raises(UserError) as error, storage.friendly_errors(signed, "cannot read the image"):
        raise ConnectionError(f"no answer from '{signed}'\nafter 3 attempts")
    assert _message(error) == (
        "cannot read the image https://host.example/bucket/x.png: "
        "ConnectionError: no answer from 'https://host.example/bucket/x.png' after 3 attempts"
    )


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://user:password@host/x.png", "https://host/x.png"),
        ("https://user@host/x.png", "https://host/x.png"),
        ("sftp://user:p@ssword@host/x.png", "sftp://host/x.png"),
        ("s3://AKIA:pass/word@bucket/x.png", "s3://bucket/x.png"),
        ("https://host/x.png?X-Amz-Signature=5ec2e7&X-Amz-Credential=AKIA", "https://host/x.png"),
        ("HTTPS://host/x.png?X-Amz-Signature=5ec2e7", "HTTPS://host/x.png"),
        (
            "https://account.blob.core.windows.net/c/x.png?sv=2024&sig=5ec2e7",
            "https://account.blob.core.windows.net/c/x.png",
        ),
        ("http://host:8080/a@b:c@d.png", "http://host:8080/a@b:c@d.png"),
        ("s3://bucket/who@where.png", "s3://bucket/who@where.png"),
        ("s3://bucket/why?.png", "s3://bucket/why?.png"),
        ("/data/who@where?.png", "/data/who@where?.png"),
    ],
)
def test_redact(url: str, expected: str) -> None:
    assert storage.redact(url) == expected


# --- S3 servers other than AWS


def _in_a_worker(code: str, fs: S3FileSystem, path: str) -> str:
    """Run code in a new process with a pickled file system and without checksum variables, and return its output."""
    environment = {k: v for k, v in os.environ.items() if k not in CHECKSUM_VARIABLES}
    code = f"import pickle, sys; fs, path = pickle.load(sys.stdin.buffer); {code}"
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps((fs, path)), env=environment, capture_output=True, check=True
    )
    return done.stdout.decode().strip()


def test_a_custom_endpoint_gets_checksums_only_when_required(s3: str, aws: pytest.MonkeyPatch) -> None:
    fs, _ = storage.filesystem(s3)
    assert [os.environ[name] for name in CHECKSUM_VARIABLES] == ["when_required"] * 2
    config = fs.s3.meta.config
    assert (config.request_checksum_calculation, config.response_checksum_validation) == ("when_required",) * 2


def test_checksum_settings_of_the_user_are_kept(s3: str, aws: pytest.MonkeyPatch) -> None:
    for name in CHECKSUM_VARIABLES:
        aws.setenv(name, "when_supported")
    fs, _ = storage.filesystem(s3)
    assert [os.environ[name] for name in CHECKSUM_VARIABLES] == ["when_supported"] * 2
    assert fs.s3.meta.config.request_checksum_calculation == "when_supported"


def test_checksum_settings_are_not_changed_for_aws(no_aws: pytest.MonkeyPatch) -> None:
    storage.filesystem("s3://some-bucket/x")
    assert not set(CHECKSUM_VARIABLES) & set(os.environ)


def test_a_pickled_file_system_keeps_its_settings(s3: str, aws: pytest.MonkeyPatch) -> None:
    folder = _s3_folder(s3)
    fs, path = storage.filesystem(storage.join(folder, "x.bin"))
    code = (
        "fs.pipe_file(path, b'from a worker'); config = fs.s3.meta.config; "
        "print(config.request_checksum_calculation, config.response_checksum_validation)"
    )
    assert _in_a_worker(code, fs, path) == "when_required when_required"
    assert storage.read_bytes(storage.join(folder, "x.bin")) == b"from a worker"


@pytest.mark.parametrize(
    "place",
    ["endpoint_url = {endpoint}\n", "services = lab\n[services lab]\ns3 =\n  endpoint_url = {endpoint}\n"],
    ids=["profile", "services"],
)
def test_an_aws_profile_may_have_all_settings(
    s3: str, swift: SwiftServer, no_aws: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    (tmp_path / "config").write_text(
        f"[profile lab]\nregion = us-east-1\naws_access_key_id = {swift.access_key}\n"
        f"aws_secret_access_key = {swift.secret_key}\n" + place.format(endpoint=swift.endpoint)
    )
    no_aws.setenv("AWS_PROFILE", "lab")
    url = storage.join(_s3_folder(s3), "x.bin")
    storage.write_bytes(url, b"by profile")
    assert storage.read_bytes(url) == b"by profile"
    assert [os.environ.get(name) for name in CHECKSUM_VARIABLES] == ["when_required"] * 2
