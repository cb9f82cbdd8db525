"""Comparing checkpoints: one question, many, and which of them answer."""

from collections.abc import Iterator
from typing import Any

import pytest

from resources.services import OracleClient
from tests.resources.services.support import ERROR, Reply, Scripted, completion

MODEL = {"checkpoint_step": 7, "path": "/m", "renderer_digest": "d", "in_flight": 0, "owner": None}


@pytest.fixture
def oracle(scripted: Scripted, slept: list[float]) -> Iterator[OracleClient]:
    with OracleClient("inference server", scripted.url, "the-key", timeout_s=2, sleep=slept.append) as client:
        yield client


def test_a_checkpoint_is_asked_greedily(scripted: Scripted, oracle: OracleClient) -> None:
    scripted.replies = [Reply(200, completion("yes"))]
    assert oracle.ask("why", "checkpoint-7", system="be brief").text == "yes"
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "why"}]
    assert scripted.seen[0].body == {"model": "checkpoint-7", "messages": messages, "temperature": 0.0}


def test_a_batch_is_answered_in_the_order_of_its_questions(scripted: Scripted, oracle: OracleClient) -> None:
    def echo(path: str, body: Any) -> Reply:
        return Reply(200, completion(body["messages"][-1]["content"]))

    scripted.answer = echo
    questions = [f"question {i}" for i in range(30)]
    assert [answer.text for answer in oracle.batch(questions, "champion", max_tokens=1)] == questions


def test_the_pulse_says_of_each_held_model_whether_it_answers(scripted: Scripted, oracle: OracleClient) -> None:
    def answer(path: str, body: Any) -> Reply:
        if path == "/models/pool":
            models = [
                {
                    "id": name,
                    "name": name,
                    "weights_sha256": weights,
                    "is_champion": name == "good",
                    "is_previous": False,
                    **MODEL,
                }
                for name, weights in (("good", "a" * 64), ("bad", "b" * 64))
            ]
            return Reply(200, {"loaded_count": 2, "models": models})
        return Reply(200, completion("y")) if body["model"] == "a" * 64 else Reply(400, ERROR)

    scripted.answer = answer
    good, bad = oracle.pulse()
    assert (good.model, good.answers, good.is_champion) == ("good", True, True)
    assert (bad.model, bad.answers, bad.is_champion) == ("bad", False, False)
    assert bad.error is not None and "it is not so" in bad.error
