"""Asks without pause over kept connections until standard input ends, then says as JSON what came of it."""

import asyncio
import json
import sys

import aiohttp

CLIENTS = 8


async def main(url):
    opened = answered = 0
    failed = []

    async def count(*_):
        nonlocal opened
        opened += 1

    trace = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(count)
    over = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    async with aiohttp.ClientSession(trace_configs=[trace]) as session:

        async def ask():
            nonlocal answered
            while not over.done():
                try:
                    async with session.post(url) as response:
                        body = await response.text()
                        if response.status != 200:
                            raise ValueError(f"{response.status} {body}")
                        answered += 1
                except Exception as error:
                    failed.append(repr(error))

        await asyncio.gather(*(ask() for _ in range(CLIENTS)))
    print(json.dumps({"answered": answered, "failed": failed, "opened": opened}))


asyncio.run(main(sys.argv[1]))
