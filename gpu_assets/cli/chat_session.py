"""A conversation with a served model, and a person's side of it in a terminal."""

import sys
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TextIO

from rich.console import Console
from rich.text import Text

from gpu_assets.errors import ServiceAuthError, ServiceError, ServiceHttpError, ServiceUnavailable
from gpu_assets.settings import Settings
from resources.keys import key_file
from resources.services import Message, PredictionClient
from resources.workspace import Workspace

PROMPT = "> "
COMMANDS = "/model ID asks another, /models lists them, /reset forgets the conversation, /exit or Ctrl-D ends"
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}
"""What could move the cursor or change the terminal is shown, not done."""


@dataclass(frozen=True)
class Said:
    """What comes next; `answering` says who, when that is not who answered before."""

    text: str
    answering: str | None


@dataclass
class Session:
    """The conversation so far, and who answered last."""

    client: PredictionClient
    model: str
    system: str | None
    temperature: float
    max_tokens: int | None
    turns: list[Message] = field(default_factory=list)
    answered_by: str | None = None
    was_cut_off: bool = False

    def ask(self, question: str) -> Generator[Said, None, None]:
        """The answer as it comes; closing the iterator stops it, and what was said of it stays in the conversation.

        Raises:
            ServiceError: if there is none; then the question is forgotten, unless some of the answer was said.
        """
        asked: Message = {"role": "user", "content": question}
        said: list[str] = []
        self.was_cut_off = False
        try:
            with self.client.chat_stream(
                [*self._before, *self.turns, asked],
                model=self.model,
                temperature=self.temperature,
                max_tokens=self.max_tokens,
            ) as pieces:
                for piece in pieces:
                    said.append(piece.text)
                    self.was_cut_off = piece.finish_reason == "length"
                    yield Said(piece.text, self._answering(version_label(piece.model, piece.weights_sha256)))
        finally:
            answer = "".join(said)
            if answer:
                self.turns += [asked, {"role": "assistant", "content": answer}]

    def use(self, model: str) -> None:
        """Ask another model from now on; the conversation stays.

        Raises:
            ServiceError: if there is no such model.
        """
        self.client.require_model(model)
        self.model = model

    @property
    def _before(self) -> list[Message]:
        return [] if self.system is None else [{"role": "system", "content": self.system}]

    def _answering(self, label: str) -> str | None:
        before, self.answered_by = self.answered_by, label
        if label == before:
            return None
        return f"{label} answers" if before is None else f"now {label} answers"


class Terminal:
    """Reads questions and commands line by line until the end."""

    def __init__(self, session: Session, settings: Settings) -> None:
        self._session = session
        self._settings = settings
        self._console = Console(highlight=False)

    def talk(self) -> None:
        """Return when the person ends it; Ctrl-C ends an answer, or the line that is being typed."""
        with suppress(ImportError):
            import readline  # noqa: F401  # gives `input` its line editing
        self._note(f"asking {self._session.model}; {COMMANDS}")
        while True:
            try:
                line = input(PROMPT).strip()
                if line == "/exit":
                    return
                if line:
                    self._do(line)
            except EOFError:
                self._console.print()
                return
            except KeyboardInterrupt:
                self._console.print()
            except UnicodeError:
                self._note("that line is not UTF-8; type it again", "red")
            except ServiceError as error:
                self._note(f"{error}{advice(error, self._settings)}", "red")

    def _do(self, line: str) -> None:
        command, _, argument = line.partition(" ")
        if command == "/models":
            for model_id in self._session.client.model_ids():
                self._note(f"{'*' if model_id == self._session.model else ' '} {model_id}")
        elif command == "/reset":
            self._session.turns.clear()
            self._note("the conversation is forgotten")
        elif command == "/model" and argument.strip():
            self._session.use(argument.strip())
            self._note(f"asking {self._session.model}")
        elif command.startswith("/"):
            self._note(f"{command} is not a command: {COMMANDS}", "red")
        else:
            self._answer(line)

    def _answer(self, question: str) -> None:
        answering, has_begun = self._session.ask(question), False
        try:
            for said in answering:
                if said.answering is not None:
                    self._note(said.answering)
                sys.stdout.write(shown_on(sys.stdout, said.text))
                sys.stdout.flush()
                has_begun = True
        finally:
            answering.close()
            if has_begun:
                self._console.print()
        if self._session.was_cut_off:
            self._note("cut off at its length: --max-tokens, or the model's context")

    def _note(self, sentence: str, style: str = "dim") -> None:
        self._console.print(Text(sentence.translate(_CONTROL), style=style), soft_wrap=True)


def shown_on(stream: TextIO, text: str) -> str:
    """A text as it is written to a stream: a terminal is shown control characters, a file or a pipe gets them."""
    return text.translate(_CONTROL) if stream.isatty() else text


def version_label(name: str, weights_sha256: str) -> str:
    """A model's name and the beginning of its hash, which a checkpoint's name ends with."""
    digits = weights_sha256[:8]
    return name if name.endswith(digits) else f"{name}-{digits}"


def advice(error: ServiceError, settings: Settings) -> str:
    """What a person can do about it, to be put behind the error's sentence."""
    match error:
        case ServiceAuthError():
            file = key_file(settings)
            return f": INFERENCE_API_KEY, without it INFERENCE_ADMIN_KEY, without both the admin key in {file}"
        case ServiceUnavailable(status=None):
            log = Workspace(settings.home).logs / "inference.log"
            return f"; `gpu-assets up` starts the server, whose log is {log}"
        case ServiceHttpError() if "context_length_exceeded" in error.body:
            return "; /reset forgets the conversation"
        case ServiceHttpError(status=404):
            return "; ask for one of these, or leave the model out for the champion"
        case _:
            return ""
