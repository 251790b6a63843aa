"""websockets: its reconnecting `async for`, and commands."""

import asyncio
import itertools
import json
from importlib.metadata import version

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from gateway import Cut, Orders, agree, main, until

CUT_BYTES = [0, 2, 60, 300, 700]


class Socket:
    """Sends commands with ids. Each command waits for its response."""

    def __init__(self, socket):
        self.socket = socket
        self.numbers = itertools.count()
        self.events = []

    async def command(self, **data):
        number = f"n{next(self.numbers)}"
        await self.socket.send(json.dumps({"id": number, "type": "command", "data": data}))
        while True:
            message = json.loads(await self.socket.recv())
            if message["type"] == "event":
                self.events.append(message["id"])
            elif message.get("id") == number:
                return message


async def follow(base, orders):
    """Opens `/ws` and subscribes on each connection from the last received event."""
    order, first = await orders.create()
    seen, expected, starts = [], [], []

    async def run(url):
        async for socket in connect(url, proxy=None):
            try:
                last = seen[-1] if seen else first
                subscribe = {
                    "command": "subscribe",
                    "collection": "orders",
                    "resource": order,
                    "from": last,
                }
                await socket.send(json.dumps({"id": "s", "type": "command", "data": subscribe}))
                async for text in socket:
                    message = json.loads(text)
                    if message["type"] == "response":
                        assert message["id"] == "s"
                        starts.append(last)
                    elif message["type"] == "event":
                        seen.append(message["id"])
                    else:
                        assert message["type"] == "control", message
            except ConnectionClosed:
                continue

    async with Cut(base) as cut:
        task = asyncio.create_task(run(cut.url.replace("http", "ws") + "/ws"))
        await until(lambda: starts or task.done(), lambda: "the first subscription")
        for count, cut_bytes in enumerate(CUT_BYTES, start=1):
            cut.after_bytes(cut_bytes)
            expected += await orders.publish(order, 7)
            await until(lambda: len(starts) > count, lambda: f"a reconnect after {cut_bytes}")
            expected += await orders.publish(order, 1)
            await until(
                lambda: agree(seen, expected) or task.done(),
                lambda: f"{len(expected)} events, {len(seen)} received",
            )
        if task.done():
            await task
        task.cancel()
    return f"{len(expected)} events over {len(CUT_BYTES)} cuts"


async def commands(base, orders):
    order, event = await orders.create(status="NEW")
    url = base.replace("http", "ws")
    async with connect(f"{url}/ws", proxy=None) as raw:
        socket = Socket(raw)
        for bad in ("{", '"text"', '{"type":"command"}'):
            await raw.send(bad)
            assert json.loads(await raw.recv())["type"] == "error", bad
        assert (await socket.command(command="no-such"))["type"] == "error"
        assert (await socket.command(command="ping"))["type"] == "response"
        status = await socket.command(command="get-status", collection="orders", resource=order)
        assert status["type"] == "response", status
        await (await raw.ping())

    async with connect(f"{url}/orders/{order}/ws", proxy=None) as raw:
        await raw.send('{"command":"get-status"}')
        status = json.loads(await raw.recv())
        assert (status["type"], status["data"]["status"]) == ("status", "NEW"), status
        await orders.patch(order, status="SHIPPED")
        update = json.loads(await raw.recv())
        assert (update["type"], update["data"]["status"]) == ("update", "SHIPPED"), update

    # Text in fragments is one message.
    async with connect(f"{url}/orders/{order}/ws", proxy=None) as raw:
        await raw.send(['{"comm', 'and":"get-', "", 'status"}'])
        assert json.loads(await raw.recv())["data"]["orderId"] == order


async def scenario(base):
    orders = Orders(base)
    await commands(base, orders)
    what = await follow(base, orders)
    return (
        f"websockets {version('websockets')}  resumed with subscribe from, {what}; "
        "commands, bare mode, fragments"
    )


main(scenario)
