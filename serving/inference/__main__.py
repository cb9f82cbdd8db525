"""`python -m serving.inference [--model DIR] [--host H] [--port P]`.

Serves the model that is recorded as deployed, or waits for the first deployment; what is wrong with the record does
not keep it from starting. `--model` serves another one first. It answers while that is loaded. Ends within seconds on
SIGTERM or SIGINT. Exit code 2: a setting, the port, a key file or the model of `--model` is not usable; 1: the engine
died and only a fresh process can start it again. A sentence says which.
"""

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

import uvicorn

from gpu_assets.errors import InUse, PlatformError
from gpu_assets.settings import Settings, load_settings
from resources.keys import inference_keys, key_file
from serving.inference.app import create_app
from serving.inference.connections import bound_buffers, server_config
from serving.inference.watch import EngineBeyondRepair

logger = logging.getLogger(__name__)

GRACE_S = 3
MAX_PORT = 65_535


def main(arguments: list[str] | None = None) -> int:
    """Run the server; returns its exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        settings = load_settings()
        return _serve(settings, options.model, *_address(settings, options.host, options.port))
    except EngineBeyondRepair as error:
        print(f"inference server: {error}; start it again", file=sys.stderr)
        return 1
    except PlatformError as error:
        print(f"inference server: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0


def _serve(settings: Settings, model: Path | None, host: str, port: int) -> int:
    keys = inference_keys(settings)
    if settings.inference_read_key is None or settings.inference_admin_key is None:
        print(f"keys: {key_file(settings)}", flush=True)
    listening = _listen(host, port)
    failures: list[Exception] = []

    def end(error: Exception) -> None:
        logger.error("the server ends: %s", error)
        failures.append(error)
        server.should_exit = True

    server = uvicorn.Server(server_config(create_app(settings, keys, model, end=end), settings.serving, GRACE_S))
    bound_host, bound_port = listening.getsockname()[:2]
    print(f"listening on http://{bound_host}:{bound_port}", flush=True)
    loop = asyncio.Runner(loop_factory=server.config.get_loop_factory())  # never closed: that waits for threads
    loop.run(server.serve(sockets=[listening]))
    if failures:
        raise failures[0]
    return 0 if server.started else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serving.inference", description="OpenAI-compatible server.")
    parser.add_argument("--model", type=Path, help="folder of the first champion; default: what is deployed")
    parser.add_argument("--host", help="address to bind; default: hosts.json")
    parser.add_argument("--port", type=_port, help="port to bind, 0 for a free one; default: hosts.json")
    return parser


def _port(text: str) -> int:
    with suppress(ValueError):
        if 0 <= int(text) <= MAX_PORT:
            return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no port: 0 to {MAX_PORT}")


def _address(settings: Settings, host: str | None, port: int | None) -> tuple[str, int]:
    if host is not None and port is not None:
        return host, port
    configured_host, configured_port = settings.hosts.address("inference", settings.hosts.host_id("inference"))
    return host if host is not None else configured_host, port if port is not None else configured_port


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket, so that a port in use is a sentence and not a traceback."""
    try:
        return bound_buffers(socket.create_server((host, port), backlog=2048))
    except OSError as error:
        raise InUse(f"cannot listen on {host}:{port}: {error}; stop what uses it, or pass --port") from None


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run() -> NoReturn:
    """Exit with what `main` returns, at once: a thread that loads a model cannot be cancelled."""
    code = 1
    try:
        code = main()
    except Exception:
        traceback.print_exc()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _run()
