"""Options of S3 file systems, from the places where every AWS tool takes its settings."""

import os
from functools import lru_cache
from typing import Any

from pipeline.errors import UserError

# Several S3-compatible servers refuse the checksums that AWS clients add by default since 2025.
CHECKSUM_VARIABLES = ("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION")


def s3_options() -> dict[str, Any]:
    """Return the options of S3 file systems; they are pickled with the file system, so every node has them."""
    # Patience is `retry`'s: attempts of botocore's own would multiply it.
    client: dict[str, Any] = {"max_pool_connections": 64, "retries": {"max_attempts": 1}}
    if _custom_endpoint():
        for name in CHECKSUM_VARIABLES:
            os.environ.setdefault(name, "when_required")
            client[name.removeprefix("AWS_").lower()] = os.environ[name]
    return {
        "config_kwargs": client,
        "max_concurrency": 1,  # reading an image is one GET, not HEAD + GET
        "use_listings_cache": False,  # a nightly run must see the files of today
    }


def _custom_endpoint() -> str | None:
    """Return the S3 endpoint of the environment or the AWS profile; None where it is AWS's own."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return endpoint or _profile_endpoint(os.environ.get("AWS_PROFILE"), os.environ.get("AWS_CONFIG_FILE"))


@lru_cache(maxsize=8)
def _profile_endpoint(profile_name: str | None, config_file: str | None) -> str | None:
    """Return the endpoint in the AWS configuration files; the arguments, which botocore reads too, key the cache."""
    from botocore.exceptions import BotoCoreError
    from botocore.session import Session

    try:
        session = Session()
        profile = session.get_scoped_config()
        services = session.full_config.get("services", {}).get(profile.get("services"), {})
        return services.get("s3", {}).get("endpoint_url") or profile.get("endpoint_url")
    except BotoCoreError as error:  # for example an AWS_PROFILE that does not exist
        raise UserError(f"AWS configuration: {error}") from None
