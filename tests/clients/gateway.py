"""Code for all Python scripts: REST writes, and a proxy that resets connections."""

import asyncio
import socket
import struct
import sys
import time
import traceback
from urllib.parse import urlsplit

import httpx

TYPES = {"order-created", "order-updated", "order-shipped"}


async def until(condition, what, limit_seconds=15):
    """Waits until `condition()` is true. If the gateway fails, the limit ends the wait."""
    deadline = time.monotonic() + limit_seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"timed out waiting for: {what()}")
        await asyncio.sleep(0.01)


def agree(seen, expected):
    """Whether `seen` equals `expected`. Raises if it is not a prefix of `expected`."""
    for n, event in enumerate(seen):
        wanted = expected[n] if n < len(expected) else "at its end"
        assert event == wanted, f"event {n} is {event}, not {wanted}"
    return len(seen) == len(expected)


class Orders:
    """Writes to the collection `orders`. Each method returns the event id."""

    def __init__(self, base):
        self.http = httpx.AsyncClient(base_url=base, trust_env=False)

    async def create(self, **fields):
        """Creates an order. Returns its id and its event id."""
        answer = await self.http.post("/orders", json={"status": "PROCESSING", **fields})
        assert answer.status_code == 201, answer.text
        return answer.json()["id"], answer.headers["etag"].strip('"')

    async def patch(self, order, **fields):
        answer = await self.http.patch(f"/orders/{order}", json=fields)
        assert answer.status_code == 200, answer.text
        return answer.headers["etag"].strip('"')

    async def ship(self, order, **data):
        body = {"type": "order-shipped", "data": data}
        answer = await self.http.post(f"/orders/{order}/events", json=body)
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    async def publish(self, order, count):
        """Writes `count` events of one order, with events of other orders between them."""
        events = []
        for n in range(count):
            if n % 2:
                await self.create(note="of no interest")
                events.append(await self.ship(order, tracking="x" * 40 * n))
            else:
                events.append(await self.patch(order, note=f"zażółć gęślą\r\njaźń 🎏 {n}"))
        return events

    async def page(self, path, after):
        """Returns the event ids of a JSON page of past events."""
        answer = await self.http.get(
            path, params={"after": after, "limit": 1000}, headers={"accept": "application/json"}
        )
        assert answer.status_code == 200, answer.text
        return [event["id"] for event in answer.json()["data"]]


class Cut:
    """A TCP proxy to the gateway that resets connections in the middle."""

    def __init__(self, base):
        self.gateway = urlsplit(base)
        # (request line, headers) of the first request of each connection.
        self.requests = []
        self.left = None

    async def __aenter__(self):
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self.server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_):
        self.server.close()

    def after_bytes(self, count):
        """Passes `count` more bytes of the newest connection, then resets it."""
        self.left = count

    async def _serve(self, reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").split("\r\n")[:-2]
        headers = {name.lower(): value.strip() for name, _, value in (f.partition(":") for f in fields)}
        self.requests.append((line, headers))
        up_reader, up_writer = await asyncio.open_connection(self.gateway.hostname, self.gateway.port)
        up_writer.write(head)
        upstream = asyncio.create_task(self._pump(reader, up_writer))
        while chunk := await up_reader.read(65536):
            if self.left is not None and len(chunk) > self.left:
                writer.write(chunk[: self.left])
                self.left = None
                await writer.drain()
                linger_none = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, linger_none
                )
                break
            if self.left is not None:
                self.left -= len(chunk)
            writer.write(chunk)
        upstream.cancel()
        writer.close()
        up_writer.close()

    async def _pump(self, reader, writer):
        try:
            while chunk := await reader.read(65536):
                writer.write(chunk)
                await writer.drain()
        except ConnectionError:
            pass
        writer.close()


def main(scenario):
    """Runs a scenario with the base URL of the command line. Prints its result,
    which is the line that the runner shows."""
    try:
        print(asyncio.run(scenario(sys.argv[1])))
    except Exception:
        traceback.print_exc()
        sys.exit(1)
