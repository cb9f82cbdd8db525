"""What single tokens say. Pure: knows nothing of requests, engines or models.

A token may be a part of a character, so it has bytes rather than a text; byte-level vocabularies write each byte as
a character of an alphabet of their own, others write what has no character as `<0xE2>`.
"""

import re
from functools import lru_cache

from tokenizers import Tokenizer

TOKEN_ID = "token_id:"
"""What stands before an id where a token has no text, as vLLM has it."""
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_WORD_MARK = "\u2581"


class TokenTexts:
    """Bytes and texts of a tokenizer's ids.

    Args:
        as_ids: write every token as `token_id:N`.
    """

    def __init__(self, tokenizer: Tokenizer, as_ids: bool = False) -> None:
        self._tokenizer = tokenizer
        self._as_ids = as_ids
        self._added = tokenizer.get_added_tokens_decoder()
        self._byte_level = b"ByteLevel" in tokenizer.decoder.__getstate__() if tokenizer.decoder else False

    def of(self, token_id: int) -> tuple[str, bytes | None]:
        """The token as it is shown, and its bytes; None for a control token and for an id that is no token."""
        data = self._bytes(token_id)
        if self._as_ids:
            return f"{TOKEN_ID}{token_id}", data
        if data is None:
            return self._tokenizer.id_to_token(token_id) or f"{TOKEN_ID}{token_id}", None
        try:
            return data.decode(), data
        except UnicodeDecodeError:
            return "".join(f"\\x{byte:02x}" for byte in data), data

    def _bytes(self, token_id: int) -> bytes | None:
        if (added := self._added.get(token_id)) is not None:
            return None if added.special else added.content.encode()
        token = self._tokenizer.id_to_token(token_id)
        if token is None:
            return None
        if self._byte_level:
            return bytes(byte_alphabet()[character] for character in token)
        if (byte := _BYTE.fullmatch(token)) is not None:
            return bytes.fromhex(byte[1])
        return token.replace(_WORD_MARK, " ").encode()


@lru_cache(maxsize=1)
def byte_alphabet() -> dict[str, int]:
    """The byte of each character of byte-level vocabularies: printable bytes are themselves, the rest follow on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + at): byte for at, byte in enumerate(rest)}
