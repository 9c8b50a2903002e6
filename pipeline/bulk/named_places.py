"""What a list or table of URLs may name: nothing that holds a secret, and no file of the workers unless it is trusted.

The plan of a run stores the place of every image, so that any worker can fetch it. A secret in a URL would be stored
with it.
"""

from typing import NamedTuple

from pipeline import storage
from pipeline.errors import UserError
from pipeline.secrets import has_credentials, has_query, is_signed, redact_signed

# Protocols of stores that are the same from every machine. All others are local, lead to local files (`git`, `dir`), or
# open one URL within another (`zip`, `simplecache`).
REMOTE = frozenset(
    [
        *("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "http", "https", "hf", "oss", "oci", "tos"),
        *("ftp", "sftp", "ssh", "smb", "hdfs", "webhdfs", "webdav"),
    ]
)


class Rules(NamedTuple):
    """What the run accepts from the lists and tables of its input; see `BulkConfig`.

    Attributes:
        local_files: Lists and tables on a remote store may name local files.
        queries: URLs may have queries.
    """

    local_files: bool = False
    queries: bool = False

    def of(self, source: str) -> "Rules":
        """Return the rules for a list or table: one on a local disk may name local files."""
        return self._replace(local_files=self.local_files or storage.is_local(source))


STRICT = Rules()


def check_place(place: str, *, source: str, where: str, rules: Rules) -> None:
    """Check a place that a list or table names.

    Args:
        place: Path or URL.
        source: URL of the list or table.
        where: Its line or row, for the message.
        rules: `Rules.of` the list or table.

    Raises:
        UserError: The place is refused.
    """
    problem = secret_of(place, rules=rules) if "://" in place else None
    if problem is None and not rules.local_files and protocol_of(place) not in REMOTE:
        problem = (
            "is not on a remote store, and a list or table from elsewhere could read any file of the workers; pass "
            "--allow-local-files if you trust it"
        )
    if problem:
        shown = storage.printable(redact_signed(place))
        raise UserError(f"{storage.redact(source)}, {where}: {shown} {problem}")


def secret_of(url: str, *, rules: Rules) -> str | None:
    """Return what is wrong with a URL that holds a secret or may hold one; None if it may be stored."""
    if has_credentials(url):
        return (
            "holds a key or password, which the plan of the run would store; give them in the environment (for S3, "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE) and leave them out of the URL"
        )
    if is_signed(url):
        return (
            "is signed, and the plan of the run would store the signature; name the file by the URL of its store "
            "(s3://, gs://, az://), and give the credentials in the environment"
        )
    if has_query(url) and not rules.queries:
        return (
            "has a query (`?…`), which could be a secret, and the plan of the run would store it; pass --allow-queries "
            "if the queries hold none"
        )
    return None


def protocol_of(place: str) -> str:
    """Return the protocol of a URL in lower case; `file` for a plain path."""
    return place.partition("://")[0].lower() if "://" in place else "file"
