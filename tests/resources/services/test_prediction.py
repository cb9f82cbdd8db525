"""Asking the inference server: at once, as a stream, and for its figures."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpu_assets.errors import ServiceAuthError, ServiceDecodeError, ServiceHttpError, ServiceUnavailable
from resources.services import PredictionClient
from tests.resources.services.support import DONE, ERROR, NO_MODEL, Reply, Scripted, chunk, completion

QUESTION = [{"role": "user", "content": "x"}]


@pytest.fixture
def client(scripted: Scripted, slept: list[float]) -> Iterator[PredictionClient]:
    with PredictionClient("inference server", scripted.url, "the-key", timeout_s=2, sleep=slept.append) as client:
        yield client


def test_the_champion_is_asked_and_may_fill_its_context(scripted: Scripted, client: PredictionClient) -> None:
    scripted.replies = [Reply(503, ERROR), Reply(200, completion("yes"))]
    assert client.chat(QUESTION).text == "yes"
    assert scripted.requests[1:] == [
        ("POST", "/v1/chat/completions", {"model": "champion", "messages": QUESTION, "temperature": 0.1})
    ]


def test_another_model_is_asked_by_its_id(scripted: Scripted, client: PredictionClient) -> None:
    scripted.replies = [Reply(200, completion("yes"))]
    client.chat(QUESTION, model="checkpoint-7", temperature=1, max_tokens=5)
    body = {"model": "checkpoint-7", "messages": QUESTION, "temperature": 1, "max_tokens": 5}
    assert scripted.seen[0].body == body


def test_a_stream_comes_piece_by_piece_and_is_tried_again_until_it_begins(
    scripted: Scripted, client: PredictionClient, slept: list[float]
) -> None:
    content = chunk("") + chunk("ye") + chunk("s①") + chunk("", "stop") + DONE
    scripted.replies = [Reply(503, ERROR, {"Retry-After": "2"}), Reply(0), Reply(200, pieces=[content])]
    with client.chat_stream(QUESTION) as pieces:
        found = list(pieces)
    assert "".join(piece.text for piece in found) == "yes①"
    assert [piece.finish_reason for piece in found] == [None, None, None, "stop"]
    assert {(piece.model, piece.weights_sha256) for piece in found} == {("tiny", "f" * 64)}
    assert slept[0] == 2
    assert scripted.seen[-1].body["stream"] is True


@pytest.mark.parametrize("tail", [b"", b'data: {"error": {"message": "it died"}}\n\n'], ids=["closed", "an error"])
def test_a_stream_that_ends_midway_is_a_failure_and_is_not_begun_again(
    tail: bytes, scripted: Scripted, client: PredictionClient
) -> None:
    scripted.replies = [Reply(200, pieces=[chunk("half"), tail])]
    with client.chat_stream(QUESTION) as pieces:
        assert next(pieces).text == "half"
        with pytest.raises(ServiceUnavailable, match="the answer ended midway"):
            list(pieces)
    assert len(scripted.seen) == 1


def test_a_stream_that_stops_coming_is_a_failure(scripted: Scripted, slept: list[float]) -> None:
    def stuck() -> Iterator[bytes]:
        yield chunk("half")
        scripted.ended.wait(60)

    scripted.replies = [Reply(200, pieces=stuck())]
    with (
        PredictionClient("inference server", scripted.url, timeout_s=0.3) as client,
        client.chat_stream(QUESTION) as pieces,
    ):
        assert next(pieces).text == "half"
        with pytest.raises(ServiceUnavailable, match="no answer in time"):
            next(pieces)


def test_an_event_that_is_no_chunk_is_a_decode_error(scripted: Scripted, client: PredictionClient) -> None:
    scripted.replies = [Reply(200, pieces=[b"data: {]\n\n"])]
    with client.chat_stream(QUESTION) as pieces, pytest.raises(ServiceDecodeError):
        next(pieces)


@pytest.mark.parametrize(("status", "error"), [(401, ServiceAuthError), (404, ServiceHttpError)])
def test_a_refused_stream_is_the_refusal(
    status: int, error: type[Exception], scripted: Scripted, client: PredictionClient
) -> None:
    scripted.replies = [Reply(status, ERROR)]
    with pytest.raises(error, match="it is not so"), client.chat_stream(QUESTION):
        pass


def test_leaving_a_stream_closes_its_connection(scripted: Scripted, client: PredictionClient) -> None:
    def endless() -> Iterator[bytes]:
        while not scripted.ended.is_set():
            yield chunk("more ")
            time.sleep(0.005)

    scripted.replies = [Reply(200, pieces=endless())]
    with client.chat_stream(QUESTION) as pieces:
        assert next(pieces).text == "more "
    assert scripted.client_left.wait(10)


def test_an_id_is_sent_as_one_part_of_the_path(scripted: Scripted, client: PredictionClient) -> None:
    scripted.replies = [Reply(200, {"id": "a/b?c"})]
    client.require_model("a/b?c")
    assert scripted.requests == [("GET", "/v1/models/a%2Fb%3Fc", None)]


def test_what_may_be_asked_for_is_listed(scripted: Scripted, client: PredictionClient) -> None:
    scripted.replies = [Reply(200, {"object": "list", "data": [{"id": "champion"}, {"id": "tiny"}]})]
    assert client.model_ids() == ("champion", "tiny")


def test_the_champion_is_described_and_replaced(scripted: Scripted, client: PredictionClient) -> None:
    scripted.replies = [Reply(200, NO_MODEL), Reply(200, NO_MODEL | {"status": "reloaded", "seconds": 0.5})]
    assert client.get_model_info().loaded is False
    assert client.reload_model(Path("/models/x")).seconds == 0.5
    assert scripted.requests[1] == ("POST", "/models/reload", {"model_path": "/models/x"})


def test_figures_are_found_by_the_names_of_their_families(scripted: Scripted, client: PredictionClient) -> None:
    text = b'# TYPE a:tokens_total counter\na:tokens_total{model_name="tiny"} 3\n# TYPE a:running gauge\na:running 1\n'
    scripted.replies = [Reply(200, text)]
    metrics = client.get_metrics()
    (sample,) = metrics["a:tokens"].samples
    assert (sample.labels, sample.value) == ({"model_name": "tiny"}, 3)
    assert metrics["a:running"].samples[0].value == 1


@pytest.mark.parametrize("text", [b"<html>no</html>", b'a{b="c 3'])
def test_figures_in_another_format_are_a_decode_error(
    text: bytes, scripted: Scripted, client: PredictionClient
) -> None:
    scripted.replies = [Reply(200, text)]
    with pytest.raises(ServiceDecodeError, match="not Prometheus' text format"):
        client.get_metrics()
