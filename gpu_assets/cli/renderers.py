"""What a command counts tokens with: a named tokenizer, the configured model's, or the tiny preset's."""

from pathlib import Path

from tokenizers import Tokenizer

from gpu_assets.base_model.tiny import CHAT_TEMPLATE, SPECIAL_TOKENS, build_tokenizer
from gpu_assets.errors import RenderingError
from gpu_assets.rendering import Renderer, read_tokenizer
from gpu_assets.rendering.profiles import get_profile
from gpu_assets.rendering.renderer import template_in_force
from gpu_assets.settings import Settings
from resources.workspace import Workspace
from validators import Level

TOKENIZER_FILE = "tokenizer.json"


def named_renderer(path: Path, settings: Settings, level: Level) -> Renderer | Tokenizer:
    """The renderer of a model folder; at level QUICK a tokenizer alone, as a file or in a folder, is enough.

    Raises:
        RenderingError: if there is no tokenizer, or the level needs more than it.
    """
    if path.is_dir():
        try:
            return _load(path, settings)
        except RenderingError as error:
            if level is not Level.QUICK or not (path / TOKENIZER_FILE).is_file():
                raise RenderingError(f"{error}. Level quick needs no more than {TOKENIZER_FILE}") from None
            return _load_tokenizer(path / TOKENIZER_FILE)
    if level is not Level.QUICK:
        raise RenderingError(
            f"--tokenizer {path} is no folder: level {level} counts tokens as training does, which takes a model "
            f"folder with its template. Name the folder, or use --level quick"
        )
    return _load_tokenizer(path)


def configured_renderer(settings: Settings) -> tuple[Renderer, str | None]:
    """The renderer of the configured model; where that is not there the tiny preset's, with a note that says so.

    Raises:
        RenderingError: if the model's folder is there and has no tokenizer or template.
    """
    if settings.uses_preset:
        return _tiny(settings), None
    folder = (Workspace(settings.home).models / settings.model_path).resolve()
    if folder.is_dir():
        return _load(folder, settings), None
    return _tiny(settings), (
        f"the configured model {folder} is not there: tokens are counted with preset:tiny, whose tokens are shorter; "
        "name a model folder with --tokenizer"
    )


def _load(folder: Path, settings: Settings) -> Renderer:
    return Renderer.load(folder, settings.profile.name, settings.profile.system_prompt)


def _load_tokenizer(path: Path) -> Tokenizer:
    try:
        return read_tokenizer(path)
    except RenderingError as error:
        raise RenderingError(f"--tokenizer {error}") from None


def _tiny(settings: Settings) -> Renderer:
    profile = get_profile(settings.profile.name)
    return Renderer(
        tokenizer=build_tokenizer(),
        template=template_in_force(profile, CHAT_TEMPLATE),
        profile=profile,
        end_token=SPECIAL_TOKENS[-1],
        system_prompt=settings.profile.system_prompt,
    )
