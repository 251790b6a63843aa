"""curl: every stream format over every version of HTTP."""

import asyncio
import contextlib
import json
import subprocess

from gateway import Orders, agree, main, until

VERSIONS = {
    "HTTP/1.1": ["--http1.1"],
    "HTTP/2": ["--http2-prior-knowledge"],
    "HTTP/1.0": ["--http1.0"],
}


class Curl:
    """A running `curl -sNi`: the response head and the body up to now."""

    def __init__(self, *args):
        self.args = ["curl", "-sNi", "--noproxy", "*", *args]
        self.out = b""

    async def __aenter__(self):
        self.process = await asyncio.create_subprocess_exec(*self.args, stdout=subprocess.PIPE)
        self.task = asyncio.create_task(self._read())
        await until(lambda: b"\r\n\r\n" in self.out, lambda: f"a head: {self.args}")
        head, _, _ = self.out.partition(b"\r\n\r\n")
        self.status, *fields = head.decode().split("\r\n")
        self.headers = {k.lower(): v.strip() for k, _, v in (f.partition(":") for f in fields)}
        return self

    async def __aexit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        await self.process.wait()
        await self.task

    async def _read(self):
        while chunk := await self.process.stdout.read(65536):
            self.out += chunk

    def body(self):
        return self.out.partition(b"\r\n\r\n")[2]

    def blocks(self):
        """Returns the complete SSE blocks as lists of (field, value)."""
        whole, _, _ = self.body().rpartition(b"\n\n")
        return [
            [tuple(line.split(": ", 1)) for line in block.split("\n")]
            for block in whole.decode().split("\n\n")
            if block
        ]

    def lines(self):
        whole, _, _ = self.body().rpartition(b"\n")
        return [json.loads(line) for line in whole.split(b"\n") if line]


def common(curl, version):
    # A server may answer HTTP/1.0 with its own version (RFC 9110 §2.5).
    sent = [version, "HTTP/1.1"] if version == "HTTP/1.0" else [version]
    assert curl.status.split()[0] in sent and curl.status.split()[1] == "200", curl.status
    chunked = curl.headers.get("transfer-encoding") == "chunked"
    assert chunked == (version == "HTTP/1.1"), curl.headers
    assert "content-length" not in curl.headers
    assert "accept" in curl.headers.get("vary", "").lower(), curl.headers


async def sse(base, orders, version, args):
    url = f"{base}/orders/events"
    async with Curl(*args, url) as curl:
        common(curl, version)
        assert curl.headers["content-type"].startswith("text/event-stream")
        keep_alive = curl.headers.get("connection", "").lower() == "keep-alive"
        assert keep_alive == (version == "HTTP/1.1"), curl.headers
        assert "no-cache" in curl.headers["cache-control"]
        assert "no-transform" in curl.headers["cache-control"]
        assert curl.headers["x-accel-buffering"] == "no"
        await until(curl.blocks, lambda: "the first block")
        first = dict(curl.blocks()[0])
        assert set(first) == {"retry", "id", "event", "data"}, first
        assert first["event"] == "stream-open"
        assert json.loads(first["data"])["cursor"] == first["id"]
        order, event = await orders.create()
        expected = [event, *await orders.publish_all(order)]

        def ids():
            blocks = [dict(block) for block in curl.blocks()[1:]]
            events = [block for block in blocks if block["event"] != "heartbeat"]
            for block in events:
                assert list(block) == ["id", "event", "data"], block
            return [block["id"] for block in events]

        await until(lambda: agree(ids(), expected), lambda: f"{expected}, not {ids()}")
        seen = len(ids())

        def heartbeat():
            return any(dict(block)["event"] == "heartbeat" for block in curl.blocks())

        await until(heartbeat, lambda: "a heartbeat")
        beat = dict(next(b for b in curl.blocks() if dict(b)["event"] == "heartbeat"))
        assert "timestamp" in json.loads(beat["data"])
        assert len(ids()) == seen

    # Clients can resume in each of these ways. The header takes precedence.
    for resume in (
        ["-H", f"Last-Event-ID: {expected[1]}", url],
        [f"{url}?lastEventId={expected[1]}"],
        [f"{url}?last_event_id={expected[1]}"],
        [f"{url}?from={expected[1]}"],
        ["-H", f"Last-Event-ID: {expected[1]}", f"{url}?lastEventId={expected[0]}&from=earliest"],
    ):
        async with Curl(*args, *resume) as curl:
            wanted = [expected[1], *expected[2:]]

            def with_opening():
                return [dict(b)["id"] for b in curl.blocks() if dict(b)["event"] != "heartbeat"]

            await until(lambda: agree(with_opening(), wanted), lambda: f"{wanted} of {resume}")


async def ndjson(base, orders, version, args):
    accept = ["-H", "Accept: application/x-ndjson"]
    async with Curl(*args, *accept, f"{base}/orders/events") as curl:
        common(curl, version)
        assert curl.headers["content-type"].startswith("application/x-ndjson")
        await until(curl.lines, lambda: "the first line")
        assert curl.lines()[0]["type"] == "stream-open"
        order, event = await orders.create()
        expected = [event, *await orders.publish_all(order)]

        def ids():
            return [line["id"] for line in curl.lines()[1:] if line["type"] != "heartbeat"]

        await until(lambda: agree(ids(), expected), lambda: f"{expected}, not {ids()}")
        for line in curl.lines()[1:]:
            if line["type"] != "heartbeat":
                assert list(line) == ["id", "type", "subject", "time", "data"], line


async def finite(base, version, args):
    """Reads the whole collection. The stream ends by itself and is complete (exit code 0)."""
    process = await asyncio.create_subprocess_exec(
        "curl", "-sN", "--noproxy", "*", "--max-time", "20", *args,
        "-H", "Accept: application/x-ndjson", f"{base}/orders/stream",
        stdout=subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode == 0, f"{version}: curl ended with {process.returncode}"
    resources = [json.loads(line) for line in out.split(b"\n") if line]
    async with Curl(*args, f"{base}/orders?size=1") as page:
        await until(page.body, lambda: "the page")
        total = json.loads(page.body())["meta"]["pagination"]["totalElements"]
    assert len(resources) == total, f"{len(resources)} streamed, {total} in the collection"
    return resources


async def batch(base, args):
    lines = "".join(json.dumps({"status": "BATCH", "n": n}) + "\n" for n in range(50)) + "{bad\n"
    process = await asyncio.create_subprocess_exec(
        "curl", "-sN", "--noproxy", "*", "--max-time", "20", *args,
        "-H", "Content-Type: application/x-ndjson", "--data-binary", "@-", f"{base}/orders",
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate(lines.encode())
    assert process.returncode == 0, process.returncode
    answers = [json.loads(line) for line in out.split(b"\n") if line]
    assert [answer["status"] for answer in answers] == [201] * 50 + [400], answers[-2:]
    assert "problem" in answers[-1]


async def scenario(base):
    orders = Orders(base)

    async def publish_all(order):
        return [
            await orders.patch(order, note="line one\nline two\r\n\r\nid: 7"),
            await orders.ship(order, text="zażółć 🎏" * 200),
            await orders.patch(order, status="DONE"),
        ]

    orders.publish_all = publish_all
    for version, args in VERSIONS.items():
        try:
            await sse(base, orders, version, args)
            await ndjson(base, orders, version, args)
            await batch(base, args)
            await finite(base, version, args)
        except Exception as error:
            raise AssertionError(f"over {version}") from error
    line = subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True).stdout
    versions = ", ".join(VERSIONS)
    return f"curl {line.split()[1]}  SSE, NDJSON, batches and whole collections over {versions}"


main(scenario)
