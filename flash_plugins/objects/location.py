# SPDX-License-Identifier: Apache-2.0
"""The URL of a bucket, read and written: `s3://bucket/prefix?endpoint=…&region=…`. It holds no keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from ..errors import ConfigError
from ..platforms import api

__all__ = ["PREFIX_DEFAULT", "S3Access", "S3Location", "runpod_location"]

#: Where keys begin in a bucket whose URL has no path, so that its own contents stay apart.
PREFIX_DEFAULT: Final = "flash-plugins"

#: Where Runpod serves the volumes of a data center, of which it wants the lower-case id.
_RUNPOD_ENDPOINT: Final = "https://s3api-{}.runpod.io"

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}")
_REGION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class S3Access:
    """A pair of keys; neither is ever shown.

    Attributes:
        access_key: The name that the keys go by.
        secret_key: What requests are signed with.
    """

    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)

    @classmethod
    def of(cls, variables: Mapping[str, str]) -> S3Access | None:
        """Return the keys that the variables hold, None if they hold none.

        Raises:
            ConfigError: One of the two is missing.
        """
        found = {name: variables.get(name, "").strip() for name in (api.S3_ACCESS_KEY_ENV, api.S3_SECRET_KEY_ENV)}
        lacking = [name for name, value in found.items() if not value]
        if len(lacking) == 1:
            [other] = found.keys() - set(lacking)
            raise ConfigError(f"{other} is set and {lacking[0]} is not: a key for an object store has two parts")
        return None if lacking else cls(*found.values())


@dataclass(frozen=True, slots=True)
class S3Location:
    """Where in which bucket objects are.

    Attributes:
        bucket: Name of the bucket; the id of a volume on Runpod.
        prefix: What keys begin with, without slashes around it.
        endpoint: URL of the server, None for AWS.
        region: Region that requests are signed for, None for what the AWS settings say (else us-east-1).
    """

    bucket: str
    prefix: str = PREFIX_DEFAULT
    endpoint: str | None = None
    region: str | None = None

    @classmethod
    def parse(cls, url: str) -> S3Location:
        """Read `s3://bucket/prefix?endpoint=https://…&region=…`.

        Raises:
            ConfigError: It is not of that form, or has keys in it, which belong into the environment.
        """
        parts = urlsplit(url)
        if "@" in parts.netloc or parts.password is not None:
            raise ConfigError(
                f"the URL of an object store has keys in it; take them out, and set {api.S3_ACCESS_KEY_ENV} and "
                f"{api.S3_SECRET_KEY_ENV}"
            )
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        if unknown := sorted(options.keys() - {"endpoint", "region"}):
            raise ConfigError(
                f"object store s3://{parts.netloc}: {unknown[0]!r} is no option; there are endpoint, region"
            )
        if parts.scheme != "s3" or not _BUCKET.fullmatch(parts.netloc) or parts.fragment:
            raise ConfigError(
                f"object store {parts.scheme}://{parts.netloc}{parts.path} is no bucket: write it as "
                "s3://bucket/prefix?endpoint=https://host&region=name"
            )
        endpoint, region = options.get("endpoint"), options.get("region")
        if endpoint is not None:
            host = urlsplit(endpoint)
            if host.scheme not in ("http", "https") or not host.hostname or host.username or host.query:
                raise ConfigError(
                    f"object store s3://{parts.netloc}: endpoint {endpoint!r} is no URL such as https://host"
                )
        if region is not None and not _REGION.fullmatch(region):
            raise ConfigError(f"object store s3://{parts.netloc}: region {region!r} is no name such as eu-west-1")
        return cls(
            bucket=parts.netloc,
            prefix=parts.path.strip("/") or PREFIX_DEFAULT,
            endpoint=endpoint and endpoint.rstrip("/"),
            region=region,
        )

    @property
    def url(self) -> str:
        """The URL that `parse` reads."""
        options = {"endpoint": self.endpoint, "region": self.region}
        query = urlencode({name: value for name, value in options.items() if value is not None}, safe=":/")
        return f"s3://{self.bucket}/{quote(self.prefix)}" + (f"?{query}" if query else "")


def runpod_location(volume_id: str, datacenter: str) -> S3Location:
    """Return where the files of a network volume are for callers: Runpod's S3 API of its data center."""
    return S3Location(volume_id, endpoint=_RUNPOD_ENDPOINT.format(datacenter.lower()), region=datacenter)
