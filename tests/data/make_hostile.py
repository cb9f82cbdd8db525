"""Makes the files of `tests/data/hostile/`: what nobody writes by hand and everybody drops one day.

    python -m tests.data.make_hostile

The files are small and kept beside this script; larger ones are made by the functions below at test time.
"""

import gzip
import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
from backports import zstd

FOLDER = Path(__file__).parent / "hostile"
NESTED = 20_000
TYPES: tuple[Any, ...] = (None, True, -1, 1.5, "", "text", [], ["text"], [[]], {}, {"role": "user"}, [{}], [None])
INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\u00ad\u034f\u180e\u3164\ufe0f"
DIRECTIONS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c"
SEPARATORS = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e"


def row(asked: Any = "a", answered: Any = "b", **columns: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}], **columns}


def line(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


GOOD = line(row())


def hostile_files() -> dict[str, bytes]:
    """Every file by its name."""
    texts = {
        "lone_surrogates.jsonl": _lone_surrogates(),
        "not_a_number.jsonl": _numbers(
            b"NaN", b"-NaN", b"Infinity", b"-Infinity", b"1e999", b"-0", b"01", b".5", b"0x1"
        ),
        "huge_integers.jsonl": _numbers(b"9" * 400, b"-" + b"9" * 400, b"1" + b"0" * 5000, b"9" * 400 + b".5e-400"),
        "duplicate_keys.jsonl": _duplicate_keys(),
        "deep_nesting.jsonl": _deep_nesting(),
        "wrong_types.jsonl": [line(value) for value in wrong_types()],
        "directions_and_zero_width.jsonl": _invisible(),
        "unicode_line_separators.jsonl": [line(row(f"a{char}b")) for char in SEPARATORS] + [GOOD],
        "control_characters.jsonl": _control_characters(),
        "escapes.jsonl": _escapes(),
        "nul_bytes.jsonl": [b"\0" * 100, GOOD, GOOD + b"\0", b"\0" + GOOD, GOOD.replace(b'"a"', b'"\0"')],
        "latin_1.jsonl": [GOOD.replace(b'"a"', b'"caf\xe9"'), *[GOOD] * 3, GOOD[:-3] + b"\xc3"],
        "byte_order_marks.jsonl": [
            b"\xef\xbb\xbf" + GOOD,
            b"\xef\xbb\xbf" + GOOD,
            GOOD + b"\xef\xbb\xbf",
            b"\xef\xbb\xbf",
        ],
        "near_json.jsonl": _near_json(),
        "many_turns_and_keys.jsonl": _many(),
        "blank_lines.jsonl": [b"", b" ", b"\t", b"\r", GOOD, b"", b"\r\r", b"\x0b", b"\xc2\xa0", "\u3000".encode()],
    }
    files = {name: b"\n".join(lines) + b"\n" for name, lines in texts.items()}
    return (
        files
        | {
            "crlf.jsonl": (GOOD + b"\r\n") * 3 + b"\r\n" + GOOD + b"\r\n",
            "carriage_returns_alone.jsonl": (GOOD + b"\r") * 3,
            "no_final_newline.jsonl": GOOD + b"\n" + GOOD,
            "cut_in_a_row.jsonl": GOOD + b"\n" + GOOD[:40],
            "cut_in_a_character.jsonl": GOOD + b"\n" + line(row("日"))[:41],
            "empty.jsonl": b"",
            "one_newline.jsonl": b"\n",
            "json_array.jsonl": json.dumps([row(), row("c")], indent=1).encode(),
            "parquet.jsonl": _parquet(),
            "gzip.jsonl": gzip.compress(GOOD + b"\n", mtime=0),
            "utf_16.jsonl": (GOOD.decode() + "\n").encode("utf-16"),
            "all_bytes.jsonl": bytes(range(256)) * 8,
            "whole.jsonl.gz": gzip.compress((GOOD + b"\n") * 3, mtime=0),
            "whole.jsonl.zst": zstd.compress((GOOD + b"\n") * 3),
        }
        | _broken_archives()
    )


def _broken_archives() -> dict[str, bytes]:
    """Files that cannot be read to their end."""
    rows = b"".join(line(row(str(number * 7919), str(number))) + b"\n" for number in range(2_000))
    packed, frame = gzip.compress(rows, mtime=0), zstd.compress(rows)
    return {
        "truncated.jsonl.gz": packed[: len(packed) // 2],
        "truncated_by_a_byte.jsonl.gz": packed[:-1],
        "wrong_checksum.jsonl.gz": packed[:-8] + b"\0" * 4 + packed[-4:],
        "garbage_behind.jsonl.gz": packed + b"garbage",
        "not_packed.jsonl.gz": GOOD + b"\n",
        "truncated.jsonl.zst": frame[: len(frame) // 2],
        "not_packed.jsonl.zst": GOOD + b"\n",
    }


def wrong_types() -> Iterator[Any]:
    """Every type in every place, one place after the other."""
    yield from TYPES
    for value in TYPES:
        yield {"messages": value}
        yield {"messages": [value]}
        yield {"messages": [*row()["messages"], value]}
        yield row(value)
        yield row("a", value)
        yield {"messages": [{"role": value, "content": "a"}, {"role": "assistant", "content": "b"}]}
        for column in ("metadata", "system_prompt", "tags", "difficulty", "text", "other"):
            yield row(**{column: value})
        for key in ("problem_key", "skill", "other"):
            yield row(metadata={key: value})
        yield {"text": value}


def _lone_surrogates() -> list[bytes]:
    places = [line(row("<>")), line(row(metadata={"a": "<>"})), line(row(metadata={"problem_key": "<>"})), b'{"<>": 1}']
    escapes = (b"\\ud800", b"\\udfff", b"\\udc00\\ud800", b"\\ud83d\\ude00", b"\xed\xa0\x80", b"\\uD83D x \\uDE00")
    return [place.replace(b"<>", escape) for place in places for escape in escapes]


def _numbers(*numbers: bytes) -> list[bytes]:
    places = [
        line(row(0)).replace(b" 0", b" <>"),
        line(row(metadata={"n": 0})).replace(b" 0", b" <>"),
        line(row(difficulty=0)).replace(b" 0", b" <>"),
        line(row(metadata={"problem_key": 0})).replace(b" 0", b" <>"),
        b"<>",
    ]
    return [place.replace(b"<>", number) for place in places for number in numbers]


def _duplicate_keys() -> list[bytes]:
    return [
        GOOD[:-1] + b', "messages": []}',
        GOOD[:-1] + b', "messages": null}',
        GOOD[:-1] + b', "mess\\u0061ges": []}',
        GOOD.replace(b'"content"', b'"role": "user", "content"'),
        GOOD.replace(b'"content"', b'"c\\u006fntent": "c", "content"'),
        GOOD[:-1] + b', "metadata": {"a": 1, "a": 2}}',
        GOOD[:-1] + b', "metadata": {"problem_key": "a", "problem_key": "b"}}',
        GOOD[:-1] + b', "metadata": {}, "metadata": {"problem_key": "b"}}',
        b'{"text": "a", "text": "b"}',
    ]


def _deep_nesting() -> list[bytes]:
    opened, closed = b"[" * NESTED, b"]" * NESTED
    objects = b'{"a":' * (NESTED // 5) + b"1" + b"}" * (NESTED // 5)
    return [
        opened,
        opened + closed,
        objects,
        GOOD[:-1] + b', "metadata": {"a": ' + opened + closed + b"}}",
        GOOD[:-1] + b', "metadata": ' + objects + b"}",
        GOOD[:-1] + b', "other": ' + opened + closed + b"}",
        b'{"messages": ' + opened + closed + b"}",
        GOOD.replace(b'"b"', opened + closed),
        line(row("a", "[" * NESTED)),
        line(row("a", f"```json\n{'[' * NESTED}{']' * NESTED}\n```")),
        line(row("a", f"```python\n{'(' * 5000}{')' * 5000}\n```")),
        line(row("a", f"```python\nx = {'-' * 5000}1\n```")),
    ]


def _invisible() -> list[bytes]:
    lines = [line(row(f"a{char}b", f"{char}")) for char in INVISIBLE + DIRECTIONS]
    lines += [line(row("שלום عالم", f"\u202e{'abc' * 5}\u202c {INVISIBLE}{DIRECTIONS}"))]
    return [*lines, line(row("e" + "\u0301" * 500, "👩\u200d👩\u200d👧" * 50)), line({"\u202emessages": []})]


def _control_characters() -> list[bytes]:
    raw = [GOOD.replace(b'"a"', b'"x' + bytes([code]) + b'y"') for code in (*range(1, 10), *range(11, 32), 127)]
    return raw + [GOOD.replace(b'"a"', f'"x\\u{code:04x}y"'.encode()) for code in (*range(32), *range(127, 160))]


def _escapes() -> list[bytes]:
    texts = ("\\" * 4001, '\\"' * 2000, "\\u0000", "\\\\u0000", '"role": "user", "content": "c"', '{"messages": []}')
    made = [line(row(text, text)) for text in texts]
    return [*made, GOOD.replace(b'"a"', b'"' + b"\\" * 4001 + b'"'), GOOD.replace(b"messages", b"\\u006dessages")]


def _near_json() -> list[bytes]:
    variants = [GOOD.replace(b'"', b"'"), GOOD.replace(b"}]", b"},]"), GOOD + b",", GOOD + GOOD, GOOD + b" // done"]
    return [
        *variants,
        b"messages: a",
        b"null",
        b"[]",
        b"{",
        b"}",
        b'"',
        b"<html>",
        b"id,messages",
        GOOD.replace(b":", b"="),
    ]


def _many() -> list[bytes]:
    turns = [{"role": ("user", "assistant")[place % 2], "content": str(place)} for place in range(400)]
    return [
        line({"messages": turns}),
        line({"messages": [{"role": "user", "content": "a"}] * 2_000}),
        line(row(**{f"column{number}": number for number in range(2_000)})),
        line(row(**{"c" * 20_000: 1})),
        line(row(metadata={f"key{number}": number for number in range(2_000)})),
        GOOD,
    ]


def _parquet() -> bytes:
    buffer = io.BytesIO()
    pl.DataFrame({"messages": [GOOD.decode()] * 50}).write_parquet(buffer)
    return buffer.getvalue()


def slow_texts(characters: int) -> dict[str, str]:
    """Texts at which a careless pattern takes for ever."""
    pieces = ("a", "ab", "a ", "1", "1 ", "a@", "a.", "a@a.", "+1 ", "4 ", "-", "`", "```\n", "```json\n", "{", '{"a":')
    more = (
        "eyJ",
        "sk-",
        "=",
        "a\n",
        "a a ",
        "!",
        "\ufffd",
        "Ã",
        "日",
        "日本",
        "password='",
        "AKIA",
        "🤔",
        "A1",
        "\\",
        "'",
    )
    return {piece: (piece * (characters // len(piece) + 1))[:characters] for piece in itertools.chain(pieces, more)}


def write_long_line(path: Path, size: int) -> None:
    """A good row, a line of that many bytes, and a good row; the long line takes no room on disk."""
    with path.open("wb") as file:
        file.write(GOOD + b'\n{"messages": "')
        file.seek(size - 16, 1)
        file.write(b'"}\n' + GOOD + b"\n")


def write_hostile(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in hostile_files().items():
        (folder / name).write_bytes(data)


if __name__ == "__main__":
    write_hostile(FOLDER)
