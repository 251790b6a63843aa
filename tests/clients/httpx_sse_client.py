"""httpx-sse: the events of one order. The library leaves reconnects to its user."""

import asyncio
import contextlib
import json
from importlib.metadata import version

import httpx
from httpx_sse import aconnect_sse

from gateway import TYPES, Cut, Orders, agree, main, until

CUT_BYTES = [0, 3, 77, 250, 480]


class Follower:
    def __init__(self, url):
        self.url = url
        self.last = None
        self.seen = []
        self.openings = []
        self.strange = []

    async def run(self):
        async with httpx.AsyncClient(timeout=None, trust_env=False) as client:
            while True:
                headers = {"Last-Event-ID": self.last} if self.last else {}
                retry = 0.0
                try:
                    async with aconnect_sse(client, "GET", self.url, headers=headers) as source:
                        async for event in source.aiter_sse():
                            retry = (event.retry or 0) / 1000 or retry
                            self.on_event(event)
                except httpx.TransportError:
                    await asyncio.sleep(retry)

    def on_event(self, event):
        if event.event == "stream-open":
            assert event.retry is not None, "the opening has retry"
            self.openings.append(json.loads(event.data))
        elif event.event in TYPES:
            json.loads(event.data)
            self.seen.append(event.id)
        elif event.event != "heartbeat":
            self.strange.append(event)
        self.last = event.id or self.last


async def scenario(base):
    orders = Orders(base)
    order, _ = await orders.create()
    path = f"/orders/{order}/events"
    expected = []
    async with Cut(base) as cut:
        follower = Follower(cut.url + path)
        task = asyncio.create_task(follower.run())
        await until(lambda: follower.openings or task.done(), lambda: "the first stream-open")
        start = follower.openings[0]["cursor"]
        expected += await orders.publish(order, 5)
        for count, cut_bytes in enumerate(CUT_BYTES, start=1):
            cut.after_bytes(cut_bytes)
            expected += await orders.publish(order, 7)
            await until(lambda: len(follower.openings) > count, lambda: f"a reconnect after {cut_bytes}")
            expected += await orders.publish(order, 1)
            await until(
                lambda: agree(follower.seen, expected),
                lambda: f"{len(expected)} events, {len(follower.seen)} received",
            )
            assert cut.requests[-1][1]["last-event-id"], "the id is sent with the reconnect"
        assert len(cut.requests) == 1 + len(CUT_BYTES)
        assert not follower.strange, follower.strange
        assert await orders.page(path, start) == expected
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    return (
        f"httpx-sse {version('httpx-sse')}  resumed with Last-Event-ID header by hand, "
        f"{len(expected)} events over {len(CUT_BYTES)} cuts, of one order"
    )


main(scenario)
