"""Secrets in URLs: telling whether there are any, and keeping them out of rows, plans, logs and messages."""

import re
from typing import Any

_ANY_USER = ("s3", "s3a", "http", "https")  # protocols with which a user name alone may be a key or a token
# User info. A password may contain "@", and an AWS secret pasted in its place "/"; digits after ":" are a port.
_USER_INFO = re.compile(r"^(\w[\w+.-]*)://((?:[^/?]*|[^/:@?]*:(?!\d+/)[^@]*)@)")
# Parameters of signed URLs (AWS, Google, Azure, CloudFront and other stores), and the usual names of tokens and keys.
_SIGNATURE = re.compile(
    r"[?&](?:x-\w+-(?:signature|credential|security-token|algorithm)|sig|signature|token|access_?token|auth|key|"
    r"api_?key|password|secret|awsaccesskeyid|googleaccessid|ossaccesskeyid|key-pair-id|policy)=",
    re.IGNORECASE,
)
_URL = re.compile(r"\w[\w+.-]*://[^\s'\"<>)]+")
_PAIR = re.compile(r"(?<![\w/])[^\s'\"<>()/:@]+:(?!//)[^\s'\"<>()@]+@(?=[\w.-])")  # KEY:SECRET@ without a protocol


def has_credentials(url: str) -> bool:
    """Tell whether a URL holds a password, or a user name that may be a key."""
    match = _USER_INFO.match(url)
    return match is not None and not _names_container(url) and (":" in match[2] or match[1].lower() in _ANY_USER)


def is_signed(url: str) -> bool:
    """Tell whether a URL has a query with a signature, a token or a key."""
    return "://" in url and _SIGNATURE.search(url) is not None


def has_query(url: str) -> bool:
    """Tell whether a URL has a query; in the keys of object stores, `?` is an ordinary character."""
    return "?" in url and url.lower().startswith(("http://", "https://"))


def redact(url: str) -> str:
    """Return the URL without user info, query and signature, fit for a message, a log or a row."""
    if not _names_container(url):
        url = _USER_INFO.sub(r"\1://", url)
    return url.split("?", 1)[0] if has_query(url) or is_signed(url) else url


def redact_all(value: Any) -> Any:
    """Return options as JSON with every URL in them redacted."""
    if isinstance(value, dict):
        return {name: redact_all(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [redact_all(inner) for inner in value]
    return redact(value) if isinstance(value, str) else value


def without_secrets(text: str) -> str:
    """Redact the URLs in a text: HTTP libraries quote them whole, signature included."""
    return _PAIR.sub("", _URL.sub(lambda match: redact(match[0]), text))


def _names_container(url: str) -> bool:
    """Tell whether a URL has the form `abfs://container@account/…`, which is no secret."""
    return url.startswith(("abfs://", "abfss://"))
