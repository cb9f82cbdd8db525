"""`python -m serving.inference [--model DIR] [--host H] [--port P]`.

Serves until SIGTERM or SIGINT, then ends within seconds. Exit code 2: a setting, the port, a key
file or the model folder is not usable, with a sentence that says which.
"""

import argparse
import logging
import signal
import socket
import sys
from pathlib import Path
from types import FrameType

import uvicorn

from gpu_assets.errors import InUse, PlatformError
from gpu_assets.settings import Settings, load_settings
from resources.keys import inference_keys, key_file
from serving.inference.app import create_app
from serving.inference.loader import inspect_folder

GRACE_S = 3


def main(arguments: list[str] | None = None) -> int:
    """Run the server; returns its exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    signal.signal(signal.SIGTERM, _exit_cleanly)
    try:
        settings = load_settings()
        return _serve(settings, options.model, *_address(settings, options.host, options.port))
    except PlatformError as error:
        print(f"inference server: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0


def _serve(settings: Settings, model: Path | None, host: str, port: int) -> int:
    keys = inference_keys(settings)
    if settings.inference_read_key is None or settings.inference_admin_key is None:
        print(f"keys: {key_file(settings)}", flush=True)
    if model is not None:
        inspect_folder(model, settings.profile)
    listening = _listen(host, port)
    app = create_app(settings, keys, model)
    config = uvicorn.Config(app, access_log=False, timeout_graceful_shutdown=GRACE_S, log_config=None)
    server = uvicorn.Server(config)
    bound_host, bound_port = listening.getsockname()[:2]
    print(f"listening on http://{bound_host}:{bound_port}", flush=True)
    server.run(sockets=[listening])
    return 0 if server.started else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serving.inference", description="OpenAI-compatible server.")
    parser.add_argument("--model", type=Path, help="folder of the first champion; without it none is served yet")
    parser.add_argument("--host", help="address to bind; default: hosts.json")
    parser.add_argument("--port", type=int, help="port to bind, 0 for a free one; default: hosts.json")
    return parser


def _address(settings: Settings, host: str | None, port: int | None) -> tuple[str, int]:
    if host is not None and port is not None:
        return host, port
    configured_host, configured_port = settings.hosts.address("inference", settings.hosts.host_id("inference"))
    return host if host is not None else configured_host, port if port is not None else configured_port


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket, so that a port in use is a sentence and not a traceback."""
    try:
        return socket.create_server((host, port), backlog=2048)
    except (OSError, OverflowError) as error:
        raise InUse(f"cannot listen on {host}:{port}: {error}; stop what uses it, or pass --port") from None


def _exit_cleanly(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(0)


if __name__ == "__main__":
    sys.exit(main())
