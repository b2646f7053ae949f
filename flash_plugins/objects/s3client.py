# SPDX-License-Identifier: Apache-2.0
"""botocore's client for one bucket, and what its errors mean. Keys are in no message and in no error."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from ..errors import MissingDependencyError, StoreError
from ..platforms import api
from .location import S3Access, S3Location

__all__ = ["broken_read", "client_error", "code_of", "make_client", "translated"]

#: Connections of a process to one server.
CONNECTIONS: Final = 32
#: Tries of one request; botocore waits a random time below 1, 2, 4 and 8 s between them.
ATTEMPTS: Final = 5
CONNECT_TIMEOUT_S: Final = 10.0
#: Seconds without a byte.
READ_TIMEOUT_S: Final = 60.0
#: Region that requests are signed for when nobody names one: servers other than AWS mostly take any.
REGION_DEFAULT: Final = "us-east-1"

#: By what S3 servers call an error, what it means and what to do.
_ADVICE: Final = {
    "InvalidAccessKeyId": "the access key is not known there",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key",
    "AccessDenied": "the keys may not do this",
    "403": "the keys are wrong or may not do this",
    "NoSuchBucket": "there is no such bucket; is the endpoint the one of its data center?",
    "PermanentRedirect": "the bucket is in another region: name it in the URL, ?region=…",
    "AuthorizationHeaderMalformed": "the bucket is in another region: name it in the URL, ?region=…",
    "IllegalLocationConstraintException": "the bucket is in another region: name it in the URL, ?region=…",
    "RequestTimeTooSkewed": "the clock of this machine is wrong",
    "QuotaExceeded": "it is full: remove objects with `flash-plugins objects --clean`, or make the volume larger",
    "InsufficientStorage": "it is full: remove objects with `flash-plugins objects --clean`, or make the volume larger",
    "EntityTooLarge": "the object is larger than the server takes",
}

#: What to do about keys.
_KEYS_ADVICE: Final = (
    f"set {api.S3_ACCESS_KEY_ENV} and {api.S3_SECRET_KEY_ENV} (on Runpod an S3 API key from the console's settings, "
    "not the API key of the account), or the usual AWS_* variables; for workers in the endpoint's env=, best as "
    "{{ RUNPOD_SECRET_name }}"
)
#: What is about keys.
_KEYS_CODES: Final = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "403", "401"})

#: Options of botocore 1.36 and later: otherwise bodies get checksums behind them, which few servers but AWS understand.
_CHECKSUMS: Final = ("request_checksum_calculation", "response_checksum_validation")

#: What servers answer a wrong signature with besides its code: the access key, and what was signed.
_KEPT: Final = ("Code", "Message")


def make_client(location: S3Location, access: S3Access | None) -> Any:  # Any: botocore has no types
    """Return a client, thread-safe. It takes 0.4 s and 40 MB, most of it for loading botocore.

    Args:
        location: Whose endpoint and region count.
        access: Keys; None for those that botocore finds: AWS_* variables, profiles, roles.

    Raises:
        MissingDependencyError: botocore is not installed.
        StoreError: It cannot be made, such as for a profile that does not exist.
    """
    with translated(location.url, "reached"):
        from botocore.config import Config
        from botocore.session import Session

        session = Session()
        if access is not None:
            session.set_credentials(access.access_key, access.secret_key)
        region = location.region or session.get_config_variable("region") or REGION_DEFAULT
        return session.create_client(
            "s3",
            region_name=region,
            endpoint_url=location.endpoint,
            config=Config(
                # Path-style addresses are the only ones that Runpod has; AWS takes them too.
                s3={"addressing_style": "path"},
                signature_version="s3v4",
                connect_timeout=CONNECT_TIMEOUT_S,
                read_timeout=READ_TIMEOUT_S,
                retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
                max_pool_connections=CONNECTIONS,
                **{name: "when_required" for name in _CHECKSUMS if name in Config.OPTION_DEFAULTS},
            ),
        )


@contextmanager
def translated(url: str, what: str) -> Iterator[None]:
    """Say once, at the border, what botocore means.

    Args:
        url: Of the store, without keys.
        what: What the store cannot be, as the sentence goes on.

    Raises:
        MissingDependencyError: botocore is not installed.
        StoreError: Whatever botocore raised.
    """
    try:
        import botocore.exceptions as broken
    except ImportError as error:
        raise MissingDependencyError(
            f"object store {url} needs botocore, which is not installed: pip install 'flash-plugins[s3]'"
        ) from error
    try:
        yield
    except broken.ClientError as error:
        told = error.response.get("Error", {})
        error.response["Error"] = {name: told[name] for name in _KEPT if name in told}
        code = code_of(error)
        advice = _ADVICE.get(code) or told.get("Message") or "it does not say why"
        more = f"; {_KEYS_ADVICE}" if code in _KEYS_CODES else ""
        raise StoreError(f"object store {url} cannot be {what}: {advice} ({code}){more}") from error
    except (broken.NoCredentialsError, broken.PartialCredentialsError, broken.CredentialRetrievalError) as error:
        raise StoreError(f"object store {url} needs keys and there are none: {_KEYS_ADVICE}") from error
    except broken_read() as error:
        raise StoreError(
            f"object store {url} cannot be reached, {ATTEMPTS} times: {error}; check its endpoint and the network"
        ) from error


def client_error() -> type[Exception]:
    """Return the class of what a server answers that is no success."""
    import botocore.exceptions

    found: type[Exception] = botocore.exceptions.ClientError
    return found


def broken_read() -> tuple[type[Exception], ...]:
    """Return the classes of what goes wrong on the way, also amid a content, where botocore does not look."""
    import botocore.exceptions
    import urllib3.exceptions

    return (botocore.exceptions.BotoCoreError, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError)


def code_of(error: Any) -> str:  # Any: botocore's ClientError
    """Return what the server calls an error; its status where there was no room for a name, as with HEAD."""
    return str(error.response.get("Error", {}).get("Code", ""))
