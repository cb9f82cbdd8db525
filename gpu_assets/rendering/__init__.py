"""The one renderer: conversations to tokens, for training, evaluation and serving alike.

Needs `jinja2` and `tokenizers` only. Common ground: imports nothing else of the project but errors.
"""

from gpu_assets.rendering.profiles.base import Bias, LogitsProcessor, Message, RowProcessor
from gpu_assets.rendering.renderer import Renderer, Sample, read_tokenizer

__all__ = ["Bias", "LogitsProcessor", "Message", "Renderer", "RowProcessor", "Sample", "read_tokenizer"]
