"""A load of chat completions, in a process of its own and on bare sockets, so that the client costs little.

    python -m benchmarks.load < SPEC

Reads a `Load` as JSON from the first line of its standard input and writes a `Measured` as JSON. Any server that
speaks OpenAI's chat completions is asked in the same way; what is timed is the first text and the last byte.
"""

import asyncio
import json
import re
import resource
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import msgspec

from gpu_assets.settings import PROJECT_ROOT

FIRST_TEXT = re.compile(rb'"content": ?"[^"]')
COMPLETION_TOKENS = re.compile(rb'"completion_tokens": ?(\d+)')
STATUS_AT = slice(9, 12)
LAST_CHUNK = b"0\r\n\r\n"


class Load(msgspec.Struct):
    """What to send where; bodies are taken in turn.

    Every body once, over so many connections at once; or for so many seconds; or so many a second, each on a
    connection of its own, until the standard input closes. `probe` is a path that is asked all the while.
    """

    port: int
    key: str
    bodies: list[dict[str, Any]]
    connections: int = 1
    seconds: float | None = None
    rate: float | None = None
    probe: str | None = None
    keep_answers: bool = False
    host: str = "localhost"
    path: str = "/v1/chat/completions"


class Answer(msgspec.Struct):
    """One request; `first_s` is nought if no text came, `text` and `model` are those of a stream that is kept."""

    body: int
    status: int
    begun_s: float
    first_s: float
    total_s: float
    tokens: int
    text: str = ""
    model: str = ""
    problem: str = ""


class Measured(msgspec.Struct):
    """All answers, the seconds of each probe, and what the client took of a processor."""

    answers: list[Answer]
    probes_s: list[float]
    seconds: float
    client_cpu_s: float


def measure(load: Load) -> Measured:
    """Run a load in a process of its own."""
    with started(load) as process:
        return finished(process)


def started(load: Load) -> "subprocess.Popen[bytes]":
    """A load that runs until its standard input closes, or is done."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.load"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=PROJECT_ROOT
    )
    assert process.stdin is not None
    process.stdin.write(msgspec.json.encode(load) + b"\n")
    process.stdin.flush()
    return process


def finished(process: "subprocess.Popen[bytes]") -> Measured:
    """End a load and take what it measured."""
    output, _ = process.communicate()
    return msgspec.json.decode(output, type=Measured)


async def run(load: Load) -> Measured:
    begun = time.perf_counter()
    answers: list[Answer] = []
    probes: list[float] = []
    probing = asyncio.create_task(_probe(load, probes)) if load.probe is not None else None
    if load.rate is not None:
        await _open_loop(load, load.rate, begun, answers)
    else:
        bodies = _numbers(load, begun)
        await asyncio.gather(*(_connection(load, bodies, begun, answers) for _ in range(load.connections)))
    seconds = time.perf_counter() - begun
    if probing is not None:
        probing.cancel()
        await asyncio.gather(probing, return_exceptions=True)
    used = resource.getrusage(resource.RUSAGE_SELF)
    return Measured(answers, probes, seconds, used.ru_utime + used.ru_stime)


def _numbers(load: Load, begun: float) -> Iterator[int]:
    if load.seconds is None:
        yield from range(len(load.bodies))
        return
    for number in count():
        if time.perf_counter() > begun + load.seconds:
            return
        yield number


async def _connection(load: Load, bodies: Iterator[int], begun: float, answers: list[Answer]) -> None:
    async with _connected(load) as (reader, writer):
        for number in bodies:
            answers.append(await _ask(load, number % len(load.bodies), begun, reader, writer))


async def _open_loop(load: Load, rate: float, begun: float, answers: list[Answer]) -> None:
    """Requests begin on time, whether or not those before them are answered."""

    async def one(number: int) -> None:
        body = number % len(load.bodies)
        at = time.perf_counter()
        try:
            async with _connected(load) as (reader, writer):
                answers.append(await _ask(load, body, begun, reader, writer))
        except (OSError, asyncio.IncompleteReadError) as error:
            answers.append(Answer(body, 0, at - begun, 0, time.perf_counter() - at, 0, problem=repr(error)))

    ended = asyncio.create_task(asyncio.to_thread(sys.stdin.buffer.read))
    asked: list[asyncio.Task[None]] = []
    while not ended.done():
        asked.append(asyncio.create_task(one(len(asked))))
        await asyncio.sleep(max(0.0, begun + len(asked) / rate - time.perf_counter()))
    await asyncio.gather(*asked)


async def _probe(load: Load, seconds: list[float]) -> None:
    request = _request(load, "GET", load.probe or "", b"")
    async with _connected(load) as (reader, writer):
        while True:
            at = time.perf_counter()
            writer.write(request)
            await _read_answer(reader)
            seconds.append(time.perf_counter() - at)
            await asyncio.sleep(0.01)


async def _ask(
    load: Load, body: int, begun: float, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> Answer:
    at = time.perf_counter()
    writer.write(_request(load, "POST", load.path, json.dumps(load.bodies[body]).encode()))
    first, answer = await _read_answer(reader)
    took = time.perf_counter() - at
    tokens = COMPLETION_TOKENS.findall(answer)
    parsed = Answer(
        body=body,
        status=int(answer[STATUS_AT]),
        begun_s=at - begun,
        first_s=first - at if first else 0.0,
        total_s=took,
        tokens=int(tokens[-1]) if tokens else 0,
    )
    if load.keep_answers:
        parsed.model, parsed.text, parsed.problem = _stream_of(answer)
    return parsed


async def _read_answer(reader: asyncio.StreamReader) -> tuple[float, bytes]:
    """When the first text came, or 0, and all bytes of the answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    if length is not None:
        return 0.0, head + await reader.readexactly(int(length[1]))
    parts, first = [head], 0.0
    while not parts[-1].endswith(LAST_CHUNK):
        part = await reader.read(65536)
        if not part:
            raise asyncio.IncompleteReadError(b"".join(parts), None)
        if not first and FIRST_TEXT.search(part):
            first = time.perf_counter()
        parts.append(part)
    return first, b"".join(parts)


def _stream_of(answer: bytes) -> tuple[str, str, str]:
    """Model, text and error of a stream; an answer that names two models has both, joined."""
    texts, models, problem = [], set(), ""
    for line in answer.replace(b"\r\n", b"\n").split(b"\n"):
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line.removeprefix(b"data: "))
        if "error" in event:
            problem = str(event["error"])
            continue
        models.add(event["model"])
        texts += [choice["delta"].get("content") or "" for choice in event["choices"]]
    return "+".join(sorted(models)), "".join(texts), problem


def _request(load: Load, method: str, path: str, body: bytes) -> bytes:
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: {load.host}\r\nAuthorization: Bearer {load.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@asynccontextmanager
async def _connected(load: Load) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(load.host, load.port)
    try:
        yield reader, writer
    finally:
        writer.close()


if __name__ == "__main__":
    given = msgspec.json.decode(sys.stdin.buffer.readline(), type=Load)
    sys.stdout.buffer.write(msgspec.json.encode(asyncio.run(run(given))))
