"""The least that a prediction could take: a loop that reads records by plain aiokafka and writes one for each.

Run by `latency`: python -m tests.bench.latency_bare BOOTSTRAP OUT TOPIC …, until SIGTERM. It predicts nothing, commits
nothing and loses records where it crashes. The last line is JSON: of each record when it arrived and how long after
that its answer was handed to the producer, in milliseconds.
"""

# ruff: noqa: T201 - a script prints

import asyncio
import gc
import json
import signal
import sys
import time

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

ANSWER = b"{}" * 150
"""As large as a prediction."""


async def answer(consumer: AIOKafkaConsumer, producer: AIOKafkaProducer, out: str, seen: list[list[float]]) -> None:
    """Answer record after record until cancelled."""
    while True:
        batches = await consumer.getmany(timeout_ms=1000)
        sent = []
        for records in batches.values():
            for record in records:
                seen.append([record.timestamp, time.time_ns() / 1e6 - record.timestamp])
                sent.append(await producer.send(out, ANSWER, key=record.topic.encode()))
        for each in sent:
            await each


async def main(bootstrap: str, out: str, *topics: str) -> None:
    seen: list[list[float]] = []
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    consumer = AIOKafkaConsumer(*topics, bootstrap_servers=bootstrap, enable_auto_commit=False)
    async with consumer, AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all") as producer:
        await consumer.seek_to_end()
        gc.freeze()
        answering = asyncio.create_task(answer(consumer, producer, out, seen))
        print("ready", flush=True)
        await stop.wait()
        answering.cancel()
        await asyncio.wait([answering])
    print(json.dumps(seen))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
