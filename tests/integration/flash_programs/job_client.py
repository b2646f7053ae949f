# SPDX-License-Identifier: Apache-2.0
"""The client of an endpoint that exists, known by its id: jobs, states, waiting, cancelling."""

import asyncio
import os

from runpod_flash import Endpoint, EndpointJob


async def main() -> None:
    endpoint = Endpoint(id=os.environ["P10_ENDPOINT_ID"])

    job = await endpoint.run({"text": "hello"})
    print(isinstance(job, EndpointJob), bool(job.id), job.done)
    await job.wait(timeout=60)
    print(job.output["echo"], job.error, job.done, await job.status())

    now = await endpoint.runsync({"text": "at once"}, timeout=60)
    print(now.output["echo"], repr(now).endswith("status='COMPLETED')"))

    failed = await endpoint.run({"do": "raise"})
    await failed.wait(timeout=60)
    print(await failed.status(), "no such luck" in str(failed.error))

    slow = await endpoint.run({"do": "sleep", "seconds": 60})
    await slow.cancel()
    print(slow.done, await slow.status())
    slow = await endpoint.run({"do": "sleep", "seconds": 60})
    try:
        await slow.wait(timeout=0.6)
    except TimeoutError as error:
        print("timeout:", "0.6" in str(error), slow.id in str(error))
    print(repr(await endpoint.cancel(slow.id)).endswith("status='CANCELLED')"))

    jobs = await asyncio.gather(*(endpoint.run({"number": number}) for number in range(5)))
    await asyncio.gather(*(job.wait() for job in jobs))
    print([job.output["echo"]["number"] for job in jobs])


if __name__ == "__main__":
    asyncio.run(main())
