"""Bytes of tokens joined are the bytes of the text, whatever vocabulary the model has."""

from functools import partial

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from gpu_assets.base_model.tiny import build_tokenizer
from serving.inference.token_texts import TokenTexts, byte_alphabet
from tests.serving.inference.support import names_no_token

TOKENIZER = build_tokenizer()


@given(st.text(max_size=30).filter(partial(names_no_token, TOKENIZER)))
def test_the_bytes_of_a_texts_tokens_are_the_texts_bytes(text: str) -> None:
    texts = TokenTexts(TOKENIZER)
    joined = b"".join(texts.of(token)[1] or b"" for token in TOKENIZER.encode(text).ids)
    assert joined == text.encode()


def test_the_byte_alphabet_is_the_tokenizers_own() -> None:
    assert set(byte_alphabet()) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(byte_alphabet().values()) == list(range(256))


def test_a_part_of_a_character_is_shown_as_its_bytes() -> None:
    texts = TokenTexts(TOKENIZER)
    assert [texts.of(token) for token in TOKENIZER.encode("漢").ids] == [
        ("\\xe6", b"\xe6"),
        ("\\xbc", b"\xbc"),
        ("\\xa2", b"\xa2"),
    ]


def test_a_control_token_and_an_id_that_is_no_token_have_no_bytes() -> None:
    texts = TokenTexts(TOKENIZER)
    assert texts.of(TOKENIZER.encode("<|im_end|>").ids[0]) == ("<|im_end|>", None)
    assert texts.of(500) == ("token_id:500", None)
    assert texts.of(TOKENIZER.encode("⓪").ids[0]) == ("⓪", "⓪".encode())


def test_tokens_are_named_by_their_ids_where_that_is_asked_for() -> None:
    token = TOKENIZER.encode("a").ids[0]
    assert TokenTexts(TOKENIZER, as_ids=True).of(token) == (f"token_id:{token}", b"a")


def test_a_vocabulary_of_words_and_fallback_bytes_is_read_too() -> None:
    words = {"<unk>": 0, "▁the": 1, "re": 2, "<0xE6>": 3, "<0xBC>": 4, "<0xA2>": 5}
    tokenizer = Tokenizer(models.BPE(words, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken("</s>", special=True)])
    texts = TokenTexts(tokenizer)
    assert b"".join(texts.of(token)[1] or b"" for token in [1, 2, 3, 4, 5]).decode() == " there漢"
    assert texts.of(tokenizer.encode("</s>").ids[0]) == ("</s>", None)
