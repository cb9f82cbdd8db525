"""`gpu-assets chat`: ask the served model from a terminal, or with a text from a pipe.

The client is imported inside the command, which keeps `gpu-assets --help` quick. Exit code 1: the server did not
answer; 2: what was asked for is no request.
"""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from gpu_assets.cli.failures import or_exit
from gpu_assets.errors import ServiceError, SettingsError
from gpu_assets.settings import load_settings

if TYPE_CHECKING:
    from gpu_assets.cli.chat_session import Session


@or_exit
def chat(
    model: Annotated[
        str, typer.Option(metavar="ID", help="champion, a checkpoint's name, checkpoint-N, or a weights hash.")
    ] = "champion",
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="Said to the model before all else.")] = None,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="0 always takes the likeliest token.")] = 0.1,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Length of one answer; without it, what the model's context leaves.")
    ] = None,
) -> None:
    """Talk to the served model; a piped text is one question, and only its answer goes to standard output."""
    from gpu_assets.cli.chat_session import Session, Terminal, advice, shown_on
    from resources.services import PredictionClient

    settings = load_settings()
    is_terminal = sys.stdin.isatty()
    question = None if is_terminal else _piped_question()
    # A person waits for no retries: they see the failure and ask again.
    with PredictionClient.of_service("inference", settings, max_retries=0 if is_terminal else None) as client:
        session = Session(client, model, system, temperature, max_tokens)
        try:
            if question is None:
                client.require_model(model)
                Terminal(session, settings).talk()
            else:
                _answer_once(session, question)
        except ServiceError as error:
            sentence = shown_on(sys.stderr, f"gpu-assets: {error}{advice(error, settings)}")
            typer.secho(sentence, err=True, fg="red")
            raise typer.Exit(1) from None


def _piped_question() -> str:
    try:
        question = sys.stdin.buffer.read().decode().strip()
    except UnicodeDecodeError as error:
        raise SettingsError(f"standard input is not UTF-8: {error}; convert it, as with iconv") from None
    if not question:
        raise SettingsError("standard input is empty; pipe a question, or start `gpu-assets chat` in a terminal")
    return question


def _answer_once(session: "Session", question: str) -> None:
    """The answer on standard output, who gave it on standard error."""
    from gpu_assets.cli.chat_session import shown_on

    for piece in session.ask(question):
        if piece.answering is not None:
            typer.echo(shown_on(sys.stderr, piece.answering), err=True)
        sys.stdout.write(shown_on(sys.stdout, piece.text))
        sys.stdout.flush()
    typer.echo()
    if session.was_cut_off:
        typer.echo("cut off at its length: --max-tokens, or the model's context", err=True)
