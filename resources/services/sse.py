"""Server-sent events from the bytes of a body. Pure.

Lines end where the standard says: at CR, LF or both. A text that splits at more, as `str.splitlines` does, would cut
events in two whose JSON holds a line separator of Unicode.
"""

from collections.abc import Iterable, Iterator


def event_data(pieces: Iterable[bytes]) -> Iterator[str]:
    """The data of each event, its lines joined; comments and other fields are passed over.

    An event that no empty line ends is not whole, and is dropped.
    """
    data: list[str] = []
    for line in _lines(pieces):
        if not line and data:
            yield "\n".join(data)
            data = []
        name, _, value = line.partition(":")
        if name == "data":
            data.append(value.removeprefix(" "))


def _lines(pieces: Iterable[bytes]) -> Iterator[str]:
    """Lines that are ended; a CR at the end of a piece waits for the next, which may begin with its LF."""
    held = b""
    for piece in pieces:
        held += piece
        waits = held.endswith(b"\r")
        body, tail = (held[:-1], b"\r") if waits else (held, b"")
        *lines, rest = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        held = rest + tail
        for line in lines:
            yield line.decode(errors="replace")
    if held.endswith(b"\r"):
        yield held[:-1].decode(errors="replace")
