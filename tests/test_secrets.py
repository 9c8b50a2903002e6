"""Secrets in URLs: found wherever users put them, and left out of messages, options and texts."""

import pytest
from pydantic import BaseModel, ValidationError

from pipeline import faults, storage
from pipeline.errors import one_line
from pipeline.secrets import has_credentials, is_signed, redact_all, redact_signed, without_secrets
from pipeline.storage import Url


class Options(BaseModel):
    place: Url


@pytest.mark.parametrize(
    "url", ["s3://AKIA:w/ord@bucket/x", "s3://AKIA@bucket/x", "https://user:word@host/x", "ftp://user:word@host/x"]
)
def test_an_option_holds_no_credentials(url):
    with pytest.raises(ValidationError, match="a URL must not hold a key or password; give them in the environment"):
        Options(place=url)


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/who@where",
        "sftp://user@host/x",
        "abfs://container@account/x",
        "http://host:80/a@b",
        "/a:b@c",
        "a:b@c",
    ],
)
def test_an_option_may_hold_an_at_sign(url):
    assert Options(place=url).place.endswith(url)
    assert not has_credentials(url)


def test_an_option_is_utf_8():
    with pytest.raises(ValidationError, match="the path is not UTF-8; rename the file or folder"):
        Options(place="/data/caf\udce9")


def test_the_key_of_an_object_store_is_kept_and_a_signature_beside_it_is_not():
    assert storage.redact("s3://b/a?key=1.jpg") == redact_signed("s3://b/a?key=1.jpg") == "s3://b/a?key=1.jpg"
    assert redact_signed("s3://b/a.jpg?X-Amz-Signature=5ec2e7") == "s3://b/a.jpg"


@pytest.mark.parametrize(
    "url", ["https://h/a.jpg?w=1", "s3://b/a?x.jpg", "s3://b/a?key=1.jpg", "/a?sig=1", "https://h/sig=1/a.jpg"]
)
def test_an_ordinary_url_is_not_signed(url):
    assert not is_signed(url)


def test_options_are_redacted_at_any_depth():
    options = {"a": "https://h/x?sig=5ec2e7", "b": {"c": ["s3://K:5ec2e7@b/x", 1, None]}, "d": "plain?sig=1", "e": 0.5}
    expected = {"a": "https://h/x", "b": {"c": ["s3://b/x", 1, None]}, "d": "plain?sig=1", "e": 0.5}
    assert redact_all(options) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('Invalid bucket name "AKIA:5ec/2e7@bucket": names must', 'Invalid bucket name "bucket": names must'),
        ("no answer from https://u:p@h/x?sig=1 (s3://K:S@b)", "no answer from https://h/x (s3://b)"),
        ("at 12:30 by who@where, see http://h:80/a@b", "at 12:30 by who@where, see http://h:80/a@b"),
    ],
)
def test_texts_of_libraries_are_redacted(text, expected):
    assert without_secrets(text) == expected
    assert faults.explain(OSError(text)) == f"OSError: {expected}"
    assert one_line(RuntimeError(text)) == expected
