"""Which failures of storage are waited for, and how long."""

import errno

import aiohttp
import pyarrow as pa
import pytest
from botocore.exceptions import EndpointConnectionError, NoCredentialsError, ParamValidationError
from multidict import CIMultiDict, CIMultiDictProxy
from s3fs.errors import translate_boto_error
from yarl import URL

from pipeline import retry
from pipeline.errors import ImageFault, UserError
from pipeline.faults import Fault, StoreFault, fault_of, store_faults
from pipeline.retry import be_patient, patiently


class Clock:
    """A clock that only waiting moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(retry, "time", clock)
    monkeypatch.setattr(retry, "_failing_since", {})
    return clock


class Flaky:
    """A call that fails some times."""

    def __init__(self, error: Exception, times: int):
        self.error, self.times, self.calls = error, times, 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.times:
            raise self.error
        return "data"


def client_error(code: str, status: int = 400) -> Exception:
    """What s3fs makes of an answer of S3."""
    from botocore.exceptions import ClientError

    response = {"Error": {"Code": code, "Message": "a message"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return translate_boto_error(ClientError(response, "GetObject"))


def http_error(status: int) -> Exception:
    request = aiohttp.RequestInfo(URL("http://x"), "GET", CIMultiDictProxy(CIMultiDict()), URL("http://x"))
    return aiohttp.ClientResponseError(request, (), status=status)


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (FileNotFoundError("x.jpg"), Fault.FILE),
        (IsADirectoryError("x"), Fault.FILE),
        (PermissionError(errno.EACCES, "denied", "/data/x.jpg"), Fault.FILE),
        (OSError(errno.ENAMETOOLONG, "too long"), Fault.FILE),
        (ImageFault("no member"), Fault.FILE),
        (UserError("unknown protocol"), Fault.FILE),
        (ParamValidationError(report="Invalid bucket name"), Fault.FILE),
        (pa.ArrowInvalid("no Parquet"), Fault.FILE),
        (client_error("NoSuchKey"), Fault.FILE),
        (http_error(404), Fault.FILE),
        (http_error(410), Fault.FILE),
        (FileNotFoundError("The specified bucket does not exist"), Fault.REFUSAL),
        (client_error("AccessDenied"), Fault.REFUSAL),
        (client_error("ExpiredToken"), Fault.REFUSAL),
        (client_error("InvalidAccessKeyId"), Fault.REFUSAL),
        (NoCredentialsError(), Fault.REFUSAL),
        (OSError(errno.ENOSPC, "no space left"), Fault.REFUSAL),
        (OSError(errno.EROFS, "read-only"), Fault.REFUSAL),
        (http_error(403), Fault.REFUSAL),
        (client_error("SlowDown"), Fault.STORE),
        (client_error("ServiceUnavailable"), Fault.STORE),
        (client_error("InternalError"), Fault.STORE),
        (client_error("RequestTimeout"), Fault.STORE),
        (http_error(429), Fault.STORE),
        (http_error(502), Fault.STORE),
        (TimeoutError(), Fault.STORE),
        (ConnectionResetError("reset by peer"), Fault.STORE),
        (EndpointConnectionError(endpoint_url="http://x"), Fault.STORE),
        (aiohttp.ClientPayloadError("not enough data"), Fault.STORE),
        (OSError(errno.EIO, "input/output error"), Fault.STORE),
        (OSError("the store sent 10 of 20 bytes"), Fault.STORE),
    ],
)
def test_whose_fault_a_failure_is(error, fault):
    assert fault_of(error) is fault


def test_a_failing_store_is_asked_again():
    call = Flaky(ConnectionResetError("reset"), times=4)
    assert patiently(call, "s3://bucket/x") == "data"
    assert call.calls == 5


def test_a_missing_file_is_not_asked_for_again():
    call = Flaky(FileNotFoundError("x"), times=1)
    with pytest.raises(FileNotFoundError):
        patiently(call, "s3://bucket/x")
    assert call.calls == 1


def test_a_refusal_ends_a_job_that_begins_and_is_waited_for_by_one_at_work():
    call = Flaky(PermissionError("denied"), times=3)
    with pytest.raises(PermissionError):
        patiently(call, "s3://bucket/x")
    assert call.calls == 1
    be_patient(60)
    assert patiently(call, "s3://bucket/x") == "data"


def test_patience_ends(clock):
    call = Flaky(TimeoutError("no answer"), times=10**6)
    be_patient(60)
    started = clock.now
    with pytest.raises(TimeoutError):
        patiently(call, "s3://bucket/x")
    assert 60 - retry.LONGEST_WAIT <= clock.now - started <= 60
    assert 6 < call.calls < 40  # waits grow


def test_once_a_store_has_failed_for_long_others_do_not_wait_for_it(clock):
    be_patient(60)
    with pytest.raises(TimeoutError):
        patiently(Flaky(TimeoutError(), times=10**6), "s3://bucket/x")
    clock.now += retry.LONGEST_WAIT
    again, elsewhere = Flaky(TimeoutError(), times=10**6), Flaky(TimeoutError(), times=3)
    with pytest.raises(TimeoutError):
        patiently(again, "s3://bucket/y")
    assert again.calls == 1
    assert patiently(elsewhere, "s3://other/y") == "data"
    assert patiently(Flaky(TimeoutError(), times=0), "s3://bucket/z") == "data"
    recovered = Flaky(TimeoutError(), times=3)
    assert patiently(recovered, "s3://bucket/z") == "data"


def test_a_fault_of_the_store_names_the_file_without_secrets():
    message = r"^s3://bucket/x\.jpg: access denied \(denied\)$"
    with pytest.raises(StoreFault, match=message) as error, store_faults("s3://key:secret@bucket/x.jpg"):
        raise PermissionError("denied")
    assert error.value.exit_code == 3
    with pytest.raises(FileNotFoundError), store_faults("s3://bucket/x.jpg"):
        raise FileNotFoundError("x.jpg")
