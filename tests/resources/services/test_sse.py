"""Events are found in bytes however these are cut."""

from hypothesis import given
from hypothesis import strategies as st

from resources.services.sse import event_data


def cut(body: bytes, size: int) -> list[bytes]:
    return [body[at : at + size] for at in range(0, len(body), size)]


@given(
    st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=1)),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.integers(1, 50),
)
def test_what_was_sent_is_what_is_found(sent: list[str], end: str, size: int) -> None:
    body = "".join(f"data: {data}{end}{end}" for data in sent).encode()
    assert list(event_data(cut(body, size))) == sent


def test_separators_of_unicode_do_not_end_a_line() -> None:
    data = '{"content": "one\u2028two\u0085three\x0bfour"}'
    assert list(event_data([f"data: {data}\n\n".encode()])) == [data]


def test_lines_of_one_event_are_joined_and_other_fields_passed_over() -> None:
    assert list(event_data([b": a comment\nevent: x\nid: 1\ndata: a\ndata:b\n\n"])) == ["a\nb"]


def test_an_event_that_is_not_ended_is_dropped() -> None:
    assert list(event_data([b"data: a\n\ndata: b\n"])) == ["a"]
    assert list(event_data([])) == []
