"""Secrets in URLs: telling whether there are any, and keeping them out of rows, plans, logs and messages."""

import re
from typing import Any

_ANY_USER = ("s3", "s3a", "http", "https")  # protocols with which a user name alone may be a key or a token
# User info. A password may contain "@", and an AWS secret pasted in its place "/"; digits after ":" are a port.
_USER_INFO = re.compile(r"^(\w[\w+.-]*)://((?:[^/?]*|[^/:@?]*:(?!\d+/)[^@]*)@)")
# Parameters of signed URLs (AWS, Google, Azure, CloudFront and other stores), and the usual names of tokens and keys.
_SIGNATURE = re.compile(
    r"[?&](?:x-\w+-(?:signature|credential|security-token|algorithm)|sig|signature|awsaccesskeyid|googleaccessid|"
    r"ossaccesskeyid|key-pair-id)=",
    re.IGNORECASE,
)
_TOKEN = re.compile(r"[?&](?:token|access_?token|auth|key|api_?key|password|secret|policy)=", re.IGNORECASE)
_URL = re.compile(r"\w[\w+.-]*://[^\s'\"<>)]+")
_PAIR = re.compile(r"(?<![\w/])[^\s'\"<>()/:@]+:(?!//)[^\s'\"<>()@]+@(?=[\w.-])")  # KEY:SECRET@ without a protocol


def has_credentials(url: str) -> bool:
    """Tell whether a URL holds a password, or a user name that may be a key."""
    match = _USER_INFO.match(url)
    return match is not None and not _names_container(url) and (":" in match[2] or match[1].lower() in _ANY_USER)


def is_signed(url: str) -> bool:
    """Tell whether a URL has a query with a signature, a token or a key."""
    return "://" in url and bool(_SIGNATURE.search(url) or (has_query(url) and _TOKEN.search(url)))


def has_query(url: str) -> bool:
    """Tell whether a URL has a query; in the keys of object stores, `?` is an ordinary character."""
    return "?" in url and url.lower().startswith(("http://", "https://"))


def redact(url: str) -> str:
    """Return the URL without user info and query, fit for a row, a log or a message.

    The keys of object stores are kept as they are, since `?` is an ordinary character there.
    """
    if not _names_container(url):
        url = _USER_INFO.sub(r"\1://", url)
    return url.split("?", 1)[0] if has_query(url) else url


def redact_signed(url: str) -> str:
    """Return the URL as `redact` does, and without a signature that was added to the key of an object store."""
    return redact(url).split("?", 1)[0] if is_signed(url) else redact(url)


def redact_all(value: Any) -> Any:
    """Return options as JSON with every URL in them redacted."""
    if isinstance(value, dict):
        return {name: redact_all(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [redact_all(inner) for inner in value]
    return redact_signed(value) if isinstance(value, str) else value


def without_secrets(text: str) -> str:
    """Redact the URLs in a text: HTTP libraries quote them whole, signature included."""
    return _PAIR.sub("", _URL.sub(lambda match: redact_signed(match[0]), text))


def _names_container(url: str) -> bool:
    """Tell whether a URL has the form `abfs://container@account/…`, which is no secret."""
    return url.startswith(("abfs://", "abfss://"))
