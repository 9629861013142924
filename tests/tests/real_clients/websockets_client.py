"""Talks without pause over WebSockets until standard input ends and the process answers that it names; then says as JSON what came of it."""

import asyncio
import json
import sys

import websockets

CLIENTS = 8


async def main(url):
    answered = 0
    failed = []
    last = set()
    over = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

    async def talk(socket):
        nonlocal answered
        try:
            async with socket:
                count, pid = 0, None
                while not over.done() or pid != over.result():
                    count += 1
                    # Of several frames, so that it is caught amid a message, too.
                    await socket.send(["message ", str(count)])
                    pid, number, _moves, text = (await socket.recv()).split(" ", 3)
                    if (number, text) != (str(count), f"message {count}"):
                        raise ValueError(f"message {count} came back as {number}: {text}")
                    answered += 1
                last.add(int(pid))
        except Exception as error:
            failed.append(repr(error))

    # All are there before anything is said: what was said is what the restarts begin after.
    connections = (websockets.connect(url, ping_interval=0.05, compression=None) for _ in range(CLIENTS))
    sockets = await asyncio.gather(*connections)
    await asyncio.gather(*map(talk, sockets))
    print(json.dumps({"answered": answered, "failed": failed, "last": sorted(last)}))


asyncio.run(main(sys.argv[1]))
