"""vLLM's process and its protocol: what it is given, how it ends, and what its engine refuses."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from gpu_assets.errors import ArtifactInvalid, SettingsError
from gpu_assets.settings import PROJECT_ROOT, Profile, Serving, Settings, Vllm, load_settings
from resources.keys import InferenceKeys
from serving.inference.app import create_app
from serving.inference.engine import (
    EngineStopped,
    Generation,
    GenerationRefused,
    GrammarError,
    JsonGrammar,
    Sampling,
    TokenLogprob,
)
from serving.inference.loader import inspect_folder
from serving.inference.vllm_engine import (
    VllmEngine,
    _Logprobs,
    load_engine,
    request_body,
    token_logprobs,
    vllm_arguments,
)
from serving.inference.vllm_process import VllmProcess
from tests.serving.inference.support import Inspect, Models, generate, run, write_manifest, write_talkative_model
from tests.serving.inference.vllm_stand_in import stand_in_command, started_stand_in

PROMPT = list(range(10, 40))
IMPRECISE = """
import sys
from http.server import BaseHTTPRequestHandler
from socketserver import UnixStreamServer

class Handler(BaseHTTPRequestHandler):
    asked = 0

    def do_GET(self):
        Handler.asked += 1
        figures = b"vllm:num_requests_running GAUGE\\n"
        self.send_response(200 if Handler.asked < 6 else 500)
        self.send_header("Content-Length", str(len(figures)))
        self.end_headers()
        self.wfile.write(figures)

    def log_message(self, *_):
        pass

UnixStreamServer(sys.argv[1], Handler).serve_forever()
"""
"""Healthy for a few polls, with a figure that is none."""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings().model_copy(update={"home": tmp_path})


@pytest.fixture(scope="module")
def engine(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmEngine]:
    """One for the tests that leave it as they found it, of a server that has keys."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INFERENCE_ADMIN_KEY", "the-admin-key")
        patch.setenv("INFERENCE_READ_KEY", "the-read-key")
        folder = inspect_folder(models.first, Profile())
        with started_stand_in(folder, tmp_path_factory.mktemp("home")) as running:
            yield running


@pytest.fixture
def own_engine(models: Models, inspect: Inspect, tmp_path: Path) -> Iterator[VllmEngine]:
    with started_stand_in(inspect(models.first), tmp_path) as running:
        yield running


def wait_until(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def stand_in_of(engine: VllmEngine) -> psutil.Process:
    run(generate(engine, Generation(PROMPT, 1)))
    return psutil.Process(int((engine._process.socket.parent / "pid").read_text()))


def program(settings: Settings, script: str, start_timeout_s: float = 2.0) -> VllmProcess:
    """A process that runs a script in vLLM's place."""
    log = settings.home / "logs" / "vllm.log"
    return VllmProcess("checkpoint-1", lambda socket: [sys.executable, "-c", script, str(socket)], log, start_timeout_s)


async def dies_midway(engine: VllmEngine, kill: Callable[[], object]) -> str:
    tokens = engine.generate(Generation(PROMPT, 1500, incremental=True))
    await anext(tokens)
    kill()
    with pytest.raises(EngineStopped) as stopped:
        async for _ in tokens:
            pass
    return str(stopped.value)


def test_a_process_that_dies_fails_its_requests_and_takes_no_more(own_engine: VllmEngine) -> None:
    process = stand_in_of(own_engine)
    run(dies_midway(own_engine, process.kill))
    wait_until(lambda: not own_engine.alive)
    with pytest.raises(EngineStopped, match="SIGKILL|signal 9"):
        run(generate(own_engine, Generation(PROMPT, 1)))


def test_a_process_that_hangs_is_killed_and_its_requests_are_told(
    models: Models, inspect: Inspect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit, value in (("MISSED_POLLS", 1), ("POLL_TIMEOUT_S", 1.0), ("KILL_AFTER_S", 1.0)):
        monkeypatch.setattr(f"serving.inference.vllm_process.{limit}", value)
    with started_stand_in(inspect(models.first), tmp_path) as engine:
        process = stand_in_of(engine)
        message = run(dies_midway(engine, process.suspend))
        assert "has not answered /health" in message
        assert not engine.alive
        engine.stop()
        assert not process.is_running()


@pytest.mark.parametrize("gauge", ["1e", "1e999"])
def test_after_a_gauge_that_is_no_number_a_failing_server_is_still_noticed(
    gauge: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.inference.vllm_process.MISSED_POLLS", 1)
    monkeypatch.setattr("serving.inference.vllm_process.POLL_S", 0.05)
    process = program(settings, IMPRECISE.replace("GAUGE", gauge), start_timeout_s=60)
    process.start()
    try:
        wait_until(lambda: process.problem is not None, 30)
        assert "has not answered /health 1 times" in (process.problem or "")
        assert process.stats.running == 0
    finally:
        process.stop()


def test_a_lost_log_keeps_no_process_from_being_ended(settings: Settings) -> None:
    process = program(settings, "import time; time.sleep(600)")
    process.start()
    try:
        (settings.home / "logs" / "vllm.log").unlink()
        wait_until(lambda: process.problem is not None, 30)
        assert re.search("did not answer within 2 s; .*vllm.log cannot be read", process.problem or "")
    finally:
        process.stop()


def test_a_process_that_can_no_longer_be_watched_is_ended(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.inference.vllm_process.BASE_URL", "http://vllm:port")
    process = program(settings, "import time; time.sleep(600)", start_timeout_s=60)
    process.start()
    try:
        with pytest.raises(EngineStopped, match=r"is no longer watched.*InvalidURL"):
            run(process.until_ready())
        keeper = psutil.Process(process.pid)
        wait_until(lambda: not keeper.is_running() or keeper.status() == psutil.STATUS_ZOMBIE)
    finally:
        process.stop()


def test_stopping_leaves_no_process_and_no_socket(own_engine: VllmEngine) -> None:
    process = stand_in_of(own_engine)
    own_engine.stop()
    assert not process.is_running()
    assert not own_engine._process.socket.parent.exists()


def test_a_server_that_is_killed_leaves_no_process(models: Models, tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from tests.serving.inference.test_vllm_engine import started;"
        "started(Path(sys.argv[1]), Path(sys.argv[2])).start(); time.sleep(600)"
    )
    owner = subprocess.Popen([sys.executable, "-c", script, str(models.first), str(tmp_path)], cwd=PROJECT_ROOT)
    try:
        pid_file = tmp_path / "pid"
        wait_until(lambda: pid_file.exists() and bool(pid_file.read_text()))
        process = psutil.Process(int(pid_file.read_text()))
        owner.kill()
        owner.wait()
        wait_until(lambda: not process.is_running())
    finally:
        with suppress(ProcessLookupError):
            owner.kill()
        owner.wait()


def started(folder: Path, home: Path) -> VllmProcess:
    """Run in a process of its own by the test above."""
    command = stand_in_command(folder, home / "socket")
    return VllmProcess("checkpoint-1", lambda _: command, home / "vllm.log", 60)


def test_a_process_that_fails_to_start_is_told_with_the_end_of_its_log(settings: Settings) -> None:
    process = program(settings, "import sys; sys.exit('no kernel image is available')")
    process.start()
    try:
        with pytest.raises(EngineStopped, match=r"exit code 1; .*vllm.log ends: no kernel image is available"):
            run(process.until_ready())
    finally:
        process.stop()


def test_a_process_that_does_not_answer_in_time_is_ended(settings: Settings) -> None:
    process = program(settings, "import time; time.sleep(600)")
    process.start()
    try:
        with pytest.raises(EngineStopped, match="did not answer within 2 s"):
            run(process.until_ready())
        keeper = psutil.Process(process.pid)
        wait_until(lambda: not keeper.is_running() or keeper.status() == psutil.STATUS_ZOMBIE)
    finally:
        process.stop()


def test_an_engine_that_was_never_started_takes_no_requests(
    models: Models, inspect: Inspect, settings: Settings
) -> None:
    engine = load_engine(inspect(models.first), settings, lambda socket: ["true"])
    with pytest.raises(EngineStopped, match="not running"):
        run(generate(engine, Generation(PROMPT, 1)))
    assert not engine.alive
    engine.stop()


def test_its_key_is_in_no_command_line_and_ours_are_not_in_its_environment(engine: VllmEngine) -> None:
    process = stand_in_of(engine)
    key, environment = engine._process.key, process.environ()
    assert environment["VLLM_API_KEY"] == key
    assert not {"the-admin-key", "the-read-key"} & set(environment.values())
    keeper = process.parent()
    assert keeper is not None
    assert all(key not in word for each in (process, keeper) for word in each.cmdline())


def test_the_socket_is_in_a_folder_that_only_its_user_enters_and_there_is_no_port(engine: VllmEngine) -> None:
    process = stand_in_of(engine)
    assert engine._process.socket.parent.stat().st_mode & 0o077 == 0
    assert [each for each in process.net_connections("inet") if each.status == psutil.CONN_LISTEN] == []


def test_figures_come_from_its_metrics(engine: VllmEngine) -> None:
    stand_in_of(engine)
    wait_until(lambda: engine.stats().cache_use == 0.25)


def test_an_answer_that_is_none_is_told_in_vllms_words(engine: VllmEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in_of(engine)
    monkeypatch.setattr(engine._process, "key", "another")
    with pytest.raises(EngineStopped, match="401: .*Unauthorized"):
        run(generate(engine, Generation(PROMPT, 1)))


def test_what_vllm_refuses_is_the_requests_fault(engine: VllmEngine) -> None:
    stand_in_of(engine)
    with pytest.raises(GrammarError, match="vllm refused this request: .*no such schema"):
        run(generate(engine, Generation(PROMPT, 1, grammar=JsonGrammar({"refuse": "no such schema"}))))
    with pytest.raises(GenerationRefused, match="prompt is empty"):
        run(generate(engine, Generation([], 1)))
    assert engine.alive


def test_a_profile_that_steers_is_refused_by_name(tmp_path: Path, inspect: Inspect, settings: Settings) -> None:
    folder = tmp_path / "steered"
    write_talkative_model(folder, 1)
    write_manifest(folder, "emoji_think")
    with pytest.raises(ArtifactInvalid, match="emoji_think.*set serving.engine to hf"):
        load_engine(inspect(folder), settings)


def test_a_server_without_vllm_does_not_start(settings: Settings) -> None:
    chosen = settings.model_copy(update={"serving": Serving(engine="vllm")})
    with pytest.raises(SettingsError, match="gpu-assets engine install vllm"):
        create_app(chosen, InferenceKeys.of("r", "a"))


def test_vllm_is_given_its_size_its_name_and_what_the_settings_add(models: Models, inspect: Inspect) -> None:
    folder = inspect(models.first)
    serving = Serving(vllm=Vllm(arguments=("--enforce-eager",), max_sequences=7))
    arguments = vllm_arguments(folder, serving, 2048, 12345)
    assert arguments[:2] == ["serve", str(folder.path)]
    pairs = dict(zip(arguments, arguments[1:], strict=False))
    assert pairs["--served-model-name"] == folder.weights_sha256
    assert pairs["--kv-cache-memory-bytes"] == "12345"
    assert pairs["--max-num-seqs"] == "7"
    assert arguments[-1] == "--enforce-eager"


def test_the_cache_is_sized_by_its_tokens(models: Models, inspect: Inspect, settings: Settings) -> None:
    config = json.loads((models.first / "config.json").read_text())
    per_token = 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * config["head_dim"] * 2
    engine = load_engine(inspect(models.first), settings, lambda socket: ["true"])
    engine.stop()
    assert engine.memory_bytes is not None
    weights = engine.memory_bytes - settings.serving.cache_tokens * per_token
    stored = (models.first / "model.safetensors").stat().st_size / 2  # in fp32
    assert 0.95 * stored < weights <= stored


def test_every_parameter_is_sent_under_vllms_name() -> None:
    sampling = Sampling(0.7, 0.9, -1, 0.1, -5, {3: -100.0}, 0.5, 0.6, 1.1)
    body = request_body(Generation([1, 2], 9, sampling, False, 5, JsonGrammar({"type": "object"})), "m", [2])
    assert body == {
        "model": "m",
        "prompt": [1, 2],
        "max_tokens": 9,
        "stop_token_ids": [2],
        "stream": True,
        "stream_interval": 9,
        "return_token_ids": True,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 0,
        "min_p": 0.1,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.6,
        "repetition_penalty": 1.1,
        "seed": 2**63 - 5,
        "logit_bias": {"3": -100.0},
        "logprobs": 5,
        "return_tokens_as_token_ids": True,
        "structured_outputs": {"json": {"type": "object"}},
    }
    plain = request_body(Generation([1], 1, incremental=True, grammar=JsonGrammar()), "m", [2])
    assert plain["structured_outputs"] == {"json_object": True}
    assert not {"seed", "logit_bias", "logprobs", "stream_interval"} & set(plain)


def test_a_chosen_token_outside_the_likeliest_is_not_among_them() -> None:
    top = {"token_id:9": -7.0, "token_id:1": -0.5, "token_id:2": -1.0}
    (entry,) = token_logprobs(_Logprobs(["token_id:9"], [-7.0], [top]), 2)
    assert entry.chosen == TokenLogprob(9, -7.0)
    assert entry.top == (TokenLogprob(1, -0.5), TokenLogprob(2, -1.0))
