"""`gpu-assets chat` as it is used: typed in a terminal, and with a text piped in, against real servers."""

import codecs
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gpu_assets.cli.chat_session import version_label
from gpu_assets.settings import PROJECT_ROOT
from resources.artifacts import weights_sha256
from tests.cli.stand_ins import wait_until
from tests.resources.services.support import DONE, ERROR, Reply, Scripted, chunk, running
from tests.serving.inference.support import ADMIN_KEY, READ_KEY, Server, ready_server, write_model

COMMAND = [sys.executable, "-m", "gpu_assets.cli", "chat"]
Aim = Callable[[int], None]


@pytest.fixture
def aim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Aim:
    """Lets hosts.json say that the inference server is at a port, which takes the tests' keys."""

    def point(port: int) -> None:
        hosts = json.loads((PROJECT_ROOT / "hosts.json").read_text())
        hosts["hosts"]["3090"]["services"]["inference"]["port"] = port
        path = tmp_path / "hosts.json"
        path.write_text(json.dumps(hosts))
        monkeypatch.setenv("GPU_ASSETS_HOSTS_FILE", str(path))
        monkeypatch.setenv("INFERENCE_READ_KEY", READ_KEY)
        monkeypatch.setenv("INFERENCE_ADMIN_KEY", ADMIN_KEY)
        monkeypatch.setenv("INFERENCE_MAX_RETRIES", "0")
        monkeypatch.setenv("TERM", "dumb")

    return point


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("models")
    return [write_model(root / "first", seed=1), write_model(root / "second", seed=2, step=20)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, folders: list[Path]) -> Iterator[Server]:
    with ready_server(tmp_path_factory.mktemp("server"), "--model", str(folders[0])) as started:
        yield started


@pytest.fixture
def served(server: Server, folders: list[Path], aim: Aim) -> Server:
    """The real server with the first model as its champion, as the one of hosts.json."""
    server.client.reload(folders[0])
    aim(int(server.url.rpartition(":")[2]))
    return server


@pytest.fixture
def scripted(aim: Aim) -> Iterator[Scripted]:
    """A server that follows a script, as the one of hosts.json; every model's id is known to it."""
    with running() as server:
        server.replies = [Reply(200, {"id": "x"})]
        aim(server.port)
        yield server


class Typed:
    """A chat in a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self._main_end, terminal = pty.openpty()
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            cwd=PROJECT_ROOT,
            start_new_session=True,
        )
        os.close(terminal)
        self._raw = ""
        self._seen = 0
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def expect(self, text: str) -> str:
        """What is shown up to this text, from where the last one ended."""
        wait_until(lambda: text in self._new or not self._reader.is_alive(), f"shown {text!r}", timeout_s=30)
        assert text in self._new, self._new
        before, _, _ = self._new.partition(text)
        self._seen += len(before) + len(text)
        return before

    def type(self, text: str | bytes) -> None:
        os.write(self._main_end, text.encode() if isinstance(text, str) else text)

    def ask(self, line: str) -> str:
        """Type a line, and what is shown until the next prompt."""
        self.type(line + "\n")
        self.expect(line)
        return self.expect("\n> ")

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(timeout=10)
        os.close(self._main_end)

    @property
    def _new(self) -> str:
        return self._raw.replace("\r\n", "\n")[self._seen :]

    def _read(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        while True:
            try:
                found = os.read(self._main_end, 65536)
            except OSError:  # no writer is left
                return
            self._raw += decoder.decode(found)


@contextmanager
def typed(*arguments: str) -> Iterator[Typed]:
    terminal = Typed(*arguments)
    try:
        terminal.expect("> ")
        yield terminal
    finally:
        terminal.close()


def piped(text: str | bytes, *arguments: str) -> "subprocess.CompletedProcess[str]":
    content = text.encode() if isinstance(text, str) else text
    done = subprocess.run([*COMMAND, *arguments], input=content, capture_output=True, cwd=PROJECT_ROOT, timeout=60)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def shown(question: str) -> str:
    """What a terminal is shown when a question is piped in."""
    main_end, terminal = pty.openpty()
    try:
        subprocess.run(
            COMMAND,
            input=question.encode(),
            stdout=terminal,
            stderr=terminal,
            cwd=PROJECT_ROOT,
            timeout=60,
            check=False,
        )
        return os.read(main_end, 65536).decode()
    finally:
        os.close(terminal)
        os.close(main_end)


def label(folder: Path) -> str:
    return version_label(folder.name, weights_sha256(folder))


def test_a_conversation_says_who_answers_and_when_that_changes(served: Server, folders: list[Path]) -> None:
    first, second = folders
    with typed("--max-tokens", "8", "--temperature", "0") as terminal:
        assert f"{label(first)} answers" in terminal.ask("add ①⓪ and ①")
        assert "answers" not in terminal.ask("and now")
        served.client.reload(second)
        assert f"now {label(second)} answers" in terminal.ask("and now")
        terminal.type("/exit\n")
        assert terminal.process.wait(timeout=30) == 0


def test_the_commands_choose_list_and_forget(served: Server, folders: list[Path]) -> None:
    served.client.load(folders[1])
    with typed("--max-tokens", "4") as terminal:
        assert "first" in terminal.ask("/models")
        assert "'checkpoint-999' is not held" in terminal.ask("/model checkpoint-999")
        assert "asking checkpoint-20" in terminal.ask("/model checkpoint-20")
        assert f"{label(folders[1])} answers" in terminal.ask("hello")
        assert "is forgotten" in terminal.ask("/reset")
        assert "/models lists them" in terminal.ask("/help")
        terminal.type("\x04")
        assert terminal.process.wait(timeout=30) == 0


def test_the_conversation_is_sent_with_each_question_until_it_is_forgotten(scripted: Scripted) -> None:
    with typed("--system", "be brief") as terminal:
        scripted.replies = [Reply(200, pieces=[chunk("yes"), chunk("", "stop"), DONE])]
        terminal.ask("one")
        terminal.ask("two")
        terminal.ask("/reset")
        terminal.ask("three")
    sent = [[turn["content"] for turn in seen.body["messages"]] for seen in scripted.seen[1:]]
    assert sent == [["be brief", "one"], ["be brief", "one", "yes", "two"], ["be brief", "three"]]


def test_an_interrupt_stops_the_answer_and_not_the_chat(scripted: Scripted) -> None:
    def endless() -> Iterator[bytes]:
        while not scripted.ended.is_set():
            yield chunk("more ")
            time.sleep(0.01)

    with typed() as terminal:
        scripted.replies = [Reply(200, pieces=endless()), Reply(200, pieces=[chunk("yes"), chunk("", "stop"), DONE])]
        terminal.type("one\n")
        terminal.expect("more more")
        terminal.interrupt()
        terminal.expect("\n> ")
        assert scripted.client_left.wait(10)
        assert "yes" in terminal.ask("two")
        terminal.interrupt()
        terminal.expect("\n> ")
        terminal.type("/exit\n")
        assert terminal.process.wait(timeout=30) == 0
    turns = [turn["content"] for turn in scripted.seen[-1].body["messages"]]
    assert re.fullmatch("one (more )+ two", " ".join(turns))


def test_a_failed_question_is_a_sentence_and_the_chat_goes_on(scripted: Scripted) -> None:
    too_long = {"error": ERROR["error"] | {"message": "too long", "code": "context_length_exceeded"}}
    with typed() as terminal:
        scripted.replies = [
            Reply(503, ERROR),
            Reply(400, too_long),
            Reply(0),
            Reply(200, pieces=[chunk("yes"), chunk("", "length"), DONE]),
        ]
        assert "503: it is not so" in terminal.ask("one")
        assert "too long; /reset forgets" in terminal.ask("two")
        assert "`gpu-assets up` starts" in terminal.ask("three")
        terminal.type(b"\xff\n")
        terminal.expect("that line is not UTF-8")
        terminal.expect("\n> ")
        assert "cut off at its length" in terminal.ask("four")
    assert [turn["content"] for turn in scripted.seen[-1].body["messages"]] == ["four"]


def test_an_answer_cannot_change_the_terminal(scripted: Scripted) -> None:
    with typed() as terminal:
        scripted.replies = [Reply(200, pieces=[chunk("a\x1b[2Jb\x9b1mc\ttab"), chunk("", "stop"), DONE])]
        shown = terminal.ask("one")
        assert "a\\x1b[2Jb\\x9b1mc" in shown
        assert "\x1b" not in shown and "\x9b" not in shown


def test_the_answer_to_a_piped_question_cannot_change_the_terminal_and_a_pipe_gets_it_as_it_is(
    scripted: Scripted,
) -> None:
    scripted.replies = [Reply(200, pieces=[chunk("a\x1b[2Jb\x9b1mc\ttab"), chunk("", "stop"), DONE])] * 2
    seen = shown("one")
    assert "a\\x1b[2Jb\\x9b1mc" in seen
    assert "\x1b" not in seen and "\x9b" not in seen
    assert piped("one").stdout == "a\x1b[2Jb\x9b1mc\ttab\n"


def test_a_servers_error_cannot_change_the_terminal(scripted: Scripted) -> None:
    scripted.replies = [Reply(400, {"error": ERROR["error"] | {"message": "a\x1b[2Jb"}})]
    seen = shown("one")
    assert "a\\x1b[2Jb" in seen and "\x1b[2J" not in seen


def test_a_piped_text_is_one_question_and_its_answer_is_all_of_the_output(scripted: Scripted) -> None:
    scripted.replies = [Reply(200, pieces=[chunk("y\u2028es①"), chunk("", "stop"), DONE])]
    done = piped("first line\nsecond line\n", "--model", "checkpoint-7", "--max-tokens", "9", "--system", "be brief")
    assert (done.returncode, done.stdout, done.stderr) == (0, "y\u2028es①\n", "tiny-ffffffff answers\n")
    assert scripted.seen[0].body == {
        "model": "checkpoint-7",
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "first line\nsecond line"}],
        "temperature": 0.1,
        "max_tokens": 9,
        "stream": True,
    }


def test_a_piped_question_is_answered_by_the_real_server(served: Server, folders: list[Path]) -> None:
    done = piped("add ①⓪ and ①", "--max-tokens", "8", "--temperature", "0")
    question = [{"role": "user", "content": "add ①⓪ and ①"}]
    assert done.returncode == 0, done.stderr
    assert done.stdout == served.client.chat(question, model="champion", max_tokens=8).text + "\n"
    assert f"{label(folders[0])} answers" in done.stderr


@pytest.mark.parametrize(("text", "sentence"), [(" \n", "standard input is empty"), (b"\xff", "is not UTF-8")])
def test_what_is_no_question_is_a_sentence_and_exit_code_2(text: str | bytes, sentence: str, aim: Aim) -> None:
    aim(1)
    done = piped(text)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr


@pytest.mark.parametrize("arguments", [("--temperature", "3"), ("--max-tokens", "0"), ("--temperature", "warm")])
def test_an_option_out_of_bounds_is_exit_code_2(arguments: tuple[str, str], aim: Aim) -> None:
    aim(1)
    done = piped("hello", *arguments)
    assert done.returncode == 2
    assert arguments[0] in done.stderr


def test_a_server_that_is_not_up_is_a_sentence_and_exit_code_1(aim: Aim, tmp_path: Path) -> None:
    with running() as gone:
        port = gone.port
    aim(port)
    done = piped("hello")
    assert (done.returncode, done.stdout) == (1, "")
    assert "is it running?; `gpu-assets up` starts the server" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_key_is_a_sentence_and_exit_code_1(served: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERENCE_API_KEY", "not-a-key-of-it")
    done = piped("hello")
    assert (done.returncode, done.stdout) == (1, "")
    assert "401: the key given is not valid" in done.stderr and "INFERENCE_API_KEY" in done.stderr
    assert "not-a-key-of-it" not in done.stderr


def test_an_unknown_model_is_a_sentence_and_exit_code_1_before_the_first_question(served: Server) -> None:
    done = piped("hello", "--model", "checkpoint-999")
    assert (done.returncode, done.stdout) == (1, "")
    assert "'checkpoint-999' is not held; held are: champion, first" in done.stderr
    terminal = Typed("--model", "checkpoint-999")
    try:
        terminal.expect("'checkpoint-999' is not held")
        assert terminal.process.wait(timeout=30) == 1
    finally:
        terminal.close()


def test_without_a_deployed_model_the_next_step_is_said(served: Server) -> None:
    served.client.undeploy()
    done = piped("hello")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no model is deployed" in done.stderr and "wait for the next deployment" in done.stderr


def test_a_checkpoints_name_has_its_hash_already() -> None:
    assert version_label("checkpoint-1572-7aac7708", "7aac7708" + "0" * 56) == "checkpoint-1572-7aac7708"
    assert version_label("tiny", "7aac7708" + "0" * 56) == "tiny-7aac7708"
