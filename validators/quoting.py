"""Bounded quotes of what a file holds, for sentences: hostile values stay short and printable."""

from collections.abc import Iterable

MAX_QUOTED = 60
MAX_NAMES = 20


def quote(value: str, limit: int = MAX_QUOTED) -> str:
    """The value in quotes, its first `limit` characters; a cut is shown by dots."""
    return f"'{printable(value[:limit])}'" + ("..." if len(value) > limit else "")


def quote_bytes(data: bytes, limit: int = MAX_QUOTED) -> str:
    """The same for bytes; what is not UTF-8 is shown as `\\xNN`."""
    text = data[:limit].decode("utf-8", "backslashreplace")
    return f"'{printable(text)}'" + ("..." if len(data) > limit else "")


def name_list(names: Iterable[str]) -> str:
    """Sorted names, the first 20 of them; `nothing` if there are none."""
    ordered = sorted(set(names))
    shown = ", ".join(printable(name[:MAX_QUOTED]) for name in ordered[:MAX_NAMES])
    more = f" and {len(ordered) - MAX_NAMES} more" if len(ordered) > MAX_NAMES else ""
    return (shown or "nothing") + more


def printable(text: str) -> str:
    """Letters of all scripts stay; line ends, controls and invisible characters are escaped."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
