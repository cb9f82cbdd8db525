"""Tokens to text to server-sent events. Pure: knows nothing of HTTP, engines or models.

Text is passed on only when it can no longer change: a character whose bytes are spread over several
tokens is held until it is whole, and so is the beginning of a stop string until it is one or not.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Decode = Callable[[list[int]], str]
REPLACEMENT = "\ufffd"
DONE = b"data: [DONE]\n\n"
MAX_HELD = 64
"""Replacement characters at the end that may still become text; decoders with byte tokens give one for each byte of a
run that is not whole. More of them is no text, and looking at all of it with each token would take ever longer."""
INCOMPLETE = 3
"""The bytes at the end that may be the beginning of a character."""


class TokenDecoder:
    """Token ids to text, incrementally; the pieces joined are the text of all ids at once."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._ids: list[int] = []
        """From where the last piece that was passed on begins: decoders look at what stands before."""
        self._given = ""
        self._num_given = 0

    def push(self, ids: Sequence[int]) -> str:
        """Text that is certain after these ids too."""
        self._ids.extend(ids)
        text = self._decode(self._ids)
        held = len(text) - len(text.rstrip(REPLACEMENT))
        if held > MAX_HELD:
            return self._cut(text)
        return "" if held else self._pass_on(text)

    def finish(self) -> str:
        """The rest; bytes that never became a character are replaced."""
        return self._pass_on(self._decode(self._ids))

    def _pass_on(self, text: str) -> str:
        piece = text[len(self._given) :]
        if piece:
            self._ids = self._ids[self._num_given :]
            self._num_given = len(self._ids)
            self._given = self._decode(self._ids)
        return piece

    def _cut(self, text: str) -> str:
        """Let go of ids that are no text, up to a place that no character spans and no later byte changes."""
        latest = len(self._ids) - INCOMPLETE
        for at in range(latest, latest - INCOMPLETE - 1, -1):
            before = self._decode(self._ids[:at])
            if before + self._decode(self._ids[at:]) == text:
                piece = before[len(self._given) :]
                self._ids, self._num_given, self._given = self._ids[at:], 0, ""
                return piece
        return ""


class StopStrings:
    """Cuts a text at the first occurrence of any stop string; `found` once there was one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """What of the text so far cannot be part of a stop string."""
        if self.found:
            return ""
        self._held += text
        ends = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if ends:
            self.found = True
            return self._held[: min(ends)]
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        passed, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return passed

    def finish(self) -> str:
        """What was held in case a stop string followed."""
        return "" if self.found else self._held


class TextStream:
    """Token ids to the text of an answer, ended by stop strings.

    `num_decoded` and `num_passed` count characters: of the text so far, and of what of it was passed on.
    """

    def __init__(self, decode: Decode, stops: Sequence[str] = ()) -> None:
        self._decoder = TokenDecoder(decode)
        self._stops = StopStrings(stops)
        self.num_decoded = 0
        self.num_passed = 0

    @property
    def stopped(self) -> bool:
        return self._stops.found

    def push(self, ids: Sequence[int]) -> str:
        return self._pass_on(self._decoder.push(ids))

    def finish(self) -> str:
        piece = self._pass_on(self._decoder.finish())
        rest = self._stops.finish()
        self.num_passed += len(rest)
        return piece + rest

    def _pass_on(self, text: str) -> str:
        self.num_decoded += len(text)
        piece = self._stops.push(text)
        self.num_passed += len(piece)
        return piece


class Beside(Generic[Item]):
    """What goes beside a text, an item a token: each is held until the text of its token was passed on.

    Items come back with the place where their token's text begins. Tokens that make one character together have one
    place.
    """

    def __init__(self) -> None:
        self._textless: list[Item] = []
        """Of tokens since the last that made the text longer."""
        self._held: deque[tuple[Item, int, int]] = deque()

    def push(self, item: Item, begin: int, end: int) -> None:
        """The next token's, which made the text grow from `begin` to `end` characters."""
        self._textless.append(item)
        if end > begin:
            self.finish(begin, end)

    def finish(self, begin: int, end: int) -> None:
        """No token follows that belongs to the same text."""
        self._held.extend((item, begin, end) for item in self._textless)
        self._textless = []

    def passed(self, num_passed: int) -> list[tuple[Item, int]]:
        """Items of the text that was passed on by now, each once."""
        items = []
        while self._held and self._held[0][2] <= num_passed:
            item, begin, _ = self._held.popleft()
            items.append((item, begin))
        return items

    def begun(self, num_passed: int) -> list[tuple[Item, int]]:
        """Items of a text that was cut there: what remains of it, to the token that was cut in two."""
        return [(item, begin) for item, begin, _ in self._held if begin < num_passed]


def event(json_text: str) -> bytes:
    """One server-sent event."""
    return f"data: {json_text}\n\n".encode()


def _overlap(text: str, stop: str) -> int:
    """Length of the longest beginning of `stop` that ends `text`."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
