# SPDX-License-Identifier: Apache-2.0
"""One S3 library against a server: what it costs to load, how fast objects go in and out, and whether it survives fork.

    s3_libraries.py LIBRARY ENDPOINT BUCKET ACCESS_KEY SECRET_KEY REPEATS SMALL_COUNT BIG_BYTES

Prints JSON. Runs in the contestant's own environment, so it imports nothing of the benchmarks.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

MB = 1_000_000
THREADS = 8
#: Seconds after which a forked child counts as hung.
PATIENCE_S = 10.0

#: Put an object; get an object.
Operations = tuple[Callable[[str, bytes], object], Callable[[str], Any]]


def botocore(endpoint: str, bucket: str, access_key: str, secret_key: str) -> Operations:
    from botocore.config import Config
    from botocore.session import Session

    session = Session()
    session.set_credentials(access_key, secret_key)
    client = session.create_client(
        "s3", endpoint_url=endpoint, region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}, max_pool_connections=THREADS,
                      request_checksum_calculation="when_required", response_checksum_validation="when_required"),
    )  # fmt: skip
    return (
        lambda key, content: client.put_object(Bucket=bucket, Key=key, Body=content),
        lambda key: client.get_object(Bucket=bucket, Key=key)["Body"].read(),
    )


def obstore(endpoint: str, bucket: str, access_key: str, secret_key: str) -> Operations:
    from obstore.store import S3Store  # type: ignore[import-not-found, unused-ignore]

    store = S3Store(
        bucket, endpoint=endpoint, region="us-east-1", access_key_id=access_key, secret_access_key=secret_key,
        virtual_hosted_style_request=False, client_options={"allow_http": True},
    )  # fmt: skip
    return lambda key, content: store.put(key, content, use_multipart=False), lambda key: store.get(key).bytes()


def s3fs(endpoint: str, bucket: str, access_key: str, secret_key: str) -> Operations:
    from s3fs import S3FileSystem  # type: ignore[import-not-found, unused-ignore]

    files = S3FileSystem(
        key=access_key, secret=secret_key, endpoint_url=endpoint, client_kwargs={"region_name": "us-east-1"},
        config_kwargs={"s3": {"addressing_style": "path"}, "max_pool_connections": THREADS,
                       "request_checksum_calculation": "when_required"},
    )  # fmt: skip
    return (
        lambda key, content: files.pipe_file(f"{bucket}/{key}", content),
        lambda key: files.cat_file(f"{bucket}/{key}"),
    )


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def resident_mb() -> float:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MB


def forked_s(work: Callable[[], object]) -> float | None:
    """Seconds that `work` takes in a forked child, None for one that hangs or breaks."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, str(seconds(work)).encode())
        os._exit(0)
    ready, _, _ = select.select([reader], [], [], PATIENCE_S)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return float(os.read(reader, 100)) if ready else None


def main() -> None:
    library, *place = sys.argv[1:6]
    repeats, count, big_bytes = map(int, sys.argv[6:9])
    before_mb = resident_mb()
    made: list[Operations] = []
    load_s = seconds(lambda: made.append(globals()[library](*place)))
    put, get = made[0]
    put("first", b"x")
    taken: dict[str, Any] = {"load_s": load_s, "loaded_mb": resident_mb() - before_mb}
    small, big = os.urandom(MB), os.urandom(big_bytes)
    keys = [f"small-{number}" for number in range(count)]
    with ThreadPoolExecutor(THREADS) as pool:
        work: dict[str, Callable[[], object]] = {
            "put_small_s": lambda: [put(key, small) for key in keys],
            "get_small_s": lambda: [get(key) for key in keys],
            "put_small_threads_s": lambda: list(pool.map(lambda key: put(key, small), keys)),
            "get_small_threads_s": lambda: list(pool.map(get, keys)),
            "put_big_s": lambda: put("big", big),
            "get_big_s": lambda: get("big"),
        }
        for name, piece in work.items():
            taken[name] = [seconds(piece) for _ in range(repeats)]
    assert bytes(get(keys[-1])) == small
    taken["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MB - before_mb
    taken["forked_s"] = forked_s(lambda: globals()[library](*place)[1]("first"))
    print(json.dumps(taken), flush=True)
    os._exit(0)  # a library that cannot bear fork cannot be trusted to end either


if __name__ == "__main__":
    main()
