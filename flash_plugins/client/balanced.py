# SPDX-License-Identifier: Apache-2.0
"""One HTTP request to a load-balanced endpoint: how it is made, sent, and what its answer means.

It is sent once. Only where the platform says that no worker took it, it is sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ..dispatcher.readiness import says_no_worker, start_error, start_failure
from ..errors import ConfigError, PayloadTooLarge, RemoteError
from ..platforms import api
from .jsonable import to_json

if TYPE_CHECKING:
    from ..platforms.answer import Answer
    from ..platforms.runpod import EndpointHandle, RunpodClient

__all__ = ["BalancedRequest", "checked_timeout"]

#: Seconds between two tries while there is no worker (Runpod's documentation suggests 5 to 10).
_NO_WORKER_PAUSE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class BalancedRequest:
    """A request before it is known where the endpoint is.

    Attributes:
        method: In capitals.
        path: Begins with `/`.
        content: The body; None where there is none or `files` make one.
        timeout_s: Seconds without an answer after which it is given up.
        headers: Those that the caller wants.
        params: The query.
        files: Files of a form by field; a list for several of one field. A form without any has `fields` alone.
        fields: Other fields of that form.
    """

    method: str
    path: str
    content: bytes | None = field(repr=False)
    timeout_s: float
    headers: Mapping[str, str] = field(repr=False)  # may hold secrets
    params: Mapping[str, Any] = field(repr=False)  # likewise
    files: Mapping[str, Any] = field(repr=False)
    fields: Mapping[str, Any] = field(repr=False)

    @classmethod
    def make(
        cls,
        method: str,
        path: str,
        data: Any = None,
        *,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        files: Mapping[str, Any] | None = None,
    ) -> BalancedRequest:
        """Return the request; `data` is encoded here and now, so that later changes of it do not travel.

        Raises:
            ConfigError: The path does not begin with `/`, `data` beside `files` is no mapping, or the timeout is none.
            TypeError: JSON cannot express the data.
            PayloadTooLarge: The body is over the platform's limit.
        """
        where = f"{method.lower()}({path!r})"
        if not isinstance(path, str) or not path.startswith("/"):
            raise ConfigError(f"{where}: the path is a text that begins with '/', such as '/predict'")
        is_form = files is not None
        if is_form and data is not None and not isinstance(data, Mapping):
            raise ConfigError(f"{where}: beside files, data is a mapping of form fields, not {type(data).__name__}")
        checked_timeout(timeout_s, where)
        fields = data if is_form and data else {}
        content = None if data is None or is_form else to_json(data, f"the data of {where}")
        _check_size(content, where)
        return cls(
            method.upper(),
            path,
            content,
            timeout_s,
            headers=headers or {},
            params=params or {},
            files=files or {},
            fields={name: _field(value) for name, value in fields.items() if value is not None},
        )

    async def exchange(self, client: RunpodClient, handle: EndpointHandle) -> Any:
        """Send it and return the content of the answer: what its JSON stands for, its text, its bytes, or None.

        Where the platform says that no worker took it, it is sent again until the timeout has passed.

        Raises:
            NoWorkers: Workers end before they take requests.
            DependencyError: They do because something cannot be installed.
            RemoteError: A generator raised after it had yielded something.
            StatusError: The status is no success.
            TransportFailure: No answer came.
        """
        url, content, headers = await self._encoded(str(handle.base_url))
        ends_at = time.monotonic() + self.timeout_s
        while True:
            answer = await client.http.answer(self.method, url, content, headers=headers, read_timeout_s=self.timeout_s)
            if 200 <= answer.status_code < 300:
                return _content(answer)
            if not says_no_worker(answer) or time.monotonic() + _NO_WORKER_PAUSE_S > ends_at:
                raise _refusal(client, handle, answer)
            await asyncio.sleep(_NO_WORKER_PAUSE_S)

    async def _encoded(self, base_url: str) -> tuple[str, bytes | None, list[tuple[str, str]]]:
        """Return URL, body and headers."""
        from .forms import form_of, with_query

        headers, content = dict(self.headers), self.content
        if self.files or self.fields:
            content, headers["Content-Type"] = await form_of(self.fields, self.files)
            _check_size(content, f"{self.method.lower()}({self.path!r})")
        return with_query(base_url + self.path, self.params), content, list(headers.items())


def checked_timeout(timeout_s: object, where: str) -> float:
    """Return a number of seconds.

    Raises:
        ConfigError: It is none above 0.
    """
    is_number = isinstance(timeout_s, int | float) and not isinstance(timeout_s, bool)
    if not is_number or not 0 < timeout_s < float("inf"):  # type: ignore[operator]  # it is a number
        raise ConfigError(f"{where}: timeout={timeout_s!r} is no number of seconds above 0")
    return float(timeout_s)  # type: ignore[arg-type]  # as above


def _refusal(client: RunpodClient, handle: EndpointHandle, answer: Answer) -> Exception:
    """Return the error for an answer that is none, with the remote traceback where a route function raised."""
    error = client.http.refusal(answer)
    if (failure := start_failure(answer)) is not None:
        refusal = start_error(handle, failure)
        refusal.__cause__ = error
        return refusal
    if 300 <= answer.status_code < 400 and "Location" in answer.headers:
        error.add_note(f"it points to {answer.headers['Location']!r}; redirects are not followed")
    if answer.status_code >= 500:
        with contextlib.suppress(ValueError):
            said = answer.json()
            if isinstance(said, dict) and isinstance(said.get("traceback"), str):
                error.add_note(f"raised on the worker:\n{said['traceback'].rstrip()}")
    return error


def _content(response: Answer) -> Any:
    if not response.content:
        return None
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind in ("application/jsonl", "application/x-ndjson"):
        return _yielded(response.text)
    if kind and not (kind.startswith("text/") or "json" in kind or kind == "application/xml"):
        return response.content
    try:
        return response.json()
    except ValueError:  # of another kind, or no JSON though it says so
        return response.text


def _yielded(text: str) -> list[Any]:
    """Return what a generator yielded: one JSON value a line, the last of which may be the exception that ended it."""
    values = [json.loads(line) for line in text.splitlines() if line.strip()]
    last = values[-1] if values else None
    if isinstance(last, dict) and last.keys() == {"error", "error_type", "traceback"}:
        kind = str(last["error_type"])
        error = RemoteError(f"{kind.rpartition('.')[2]}: {last['error']}", type_name=kind)
        error.add_note(f"raised on the worker after {len(values) - 1} values:\n{str(last['traceback']).rstrip()}")
        raise error
    return values


def _field(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_field(entry) for entry in value]  # one field for each
    return value if isinstance(value, str | int | float) else json.dumps(value)


def _check_size(content: bytes | None, where: str) -> None:
    if content is not None and len(content) > api.BALANCED_BODY_MAX_BYTES:
        raise PayloadTooLarge(
            f"the body of {where} has {len(content) / 1e6:.1f} MB, and load-balanced endpoints take "
            f"{api.BALANCED_BODY_MAX_BYTES / 1e6:g} MB: pass a URL or the path of a file on a volume instead",
            size_bytes=len(content),
            limit_bytes=api.BALANCED_BODY_MAX_BYTES,
        )
