"""Whether a loaded model computes what was trained; asked before any request can reach it.

A hash says which weights lie on the disk, not what is computed from them: another dtype, another architecture's code,
weights that were left out or are not tied. The trainer records what its model says to a few prompts, and the engine
is asked the same. It is warm after that.
"""

import asyncio
import logging
import math
from collections.abc import Iterable

from gpu_assets.errors import PlatformError
from resources.fingerprint import TOP, PromptFingerprint, difference, smoke_conversations
from serving.inference.engine import (
    Engine,
    EngineStopped,
    Generation,
    GenerationFailed,
    GenerationRefused,
    TokenLogprobs,
)
from serving.inference.loader import ModelFolder
from serving.inference.memory import Precision

logger = logging.getLogger(__name__)

SMOKE_TOKENS = 4
MAX_DIFFERENCE = {"fp32": 1e-3, "bf16": 0.15}
"""In nats. fp32 beside fp32 differs in the order of summation only, by some 1e-6. In bf16 the tiny model differs by up
to 0.006, one of 28 layers whose weights make the most of each rounding by 0.055; other weights differ by 0.4.
"""


class ProbeFailed(PlatformError):
    """A loaded model does not answer, or not as the trained one did."""


async def probe(engine: Engine, folder: ModelFolder, precision: Precision, timeout_s: float) -> None:
    """Ask an engine that was started, and compare.

    Side effects: logs where a folder has no fingerprint to compare with.

    Raises:
        ProbeFailed: if a prompt is not answered in time, with numbers that are finite, and as was recorded.
    """
    prompts = _prompts(folder)
    if folder.fingerprint is None:
        logger.info("%s has no fingerprint: only whether it answers is probed", folder.path)
    fitting = [prompt for prompt in prompts if len(prompt.prompt_ids) + SMOKE_TOKENS <= engine.max_context_tokens]
    if not fitting:
        shortest = min((len(prompt.prompt_ids) for prompt in prompts), default=0)
        raise ProbeFailed(
            f"{folder.path} is not served: the shortest smoke prompt has {shortest} tokens, "
            f"and {engine.max_context_tokens} hold prompt and answer; raise serving.max_context_tokens"
        )
    try:
        async with asyncio.timeout(timeout_s):
            for prompt in fitting:
                await _ask(engine, prompt, folder, precision)
    except TimeoutError:
        raise ProbeFailed(f"{folder.path} is not served: it gave no answer in {timeout_s:g} s") from None
    except (EngineStopped, GenerationFailed, GenerationRefused) as error:
        raise ProbeFailed(f"{folder.path} is not served: it does not answer a smoke prompt: {error}") from error


def _prompts(folder: ModelFolder) -> list[PromptFingerprint]:
    """What is asked; without anything to compare with where nothing is recorded."""
    if folder.fingerprint is not None:
        return folder.fingerprint.prompts
    return [PromptFingerprint(folder.renderer.prompt_ids(asked), []) for asked in smoke_conversations()]


async def _ask(engine: Engine, prompt: PromptFingerprint, folder: ModelFolder, precision: Precision) -> None:
    num_tokens, logprobs = 0, list[TokenLogprobs]()
    generation = Generation(prompt.prompt_ids, max_tokens=SMOKE_TOKENS, top_logprobs=TOP)
    async for tokens in engine.generate(generation):
        num_tokens += len(tokens.ids)
        logprobs.extend(tokens.logprobs)
    if not num_tokens:
        raise ProbeFailed(f"{folder.path} is not served: it answers a smoke prompt with no token")
    if not all(math.isfinite(logprob) for logprob in _numbers(logprobs)):
        raise ProbeFailed(
            f"{folder.path} is not served: it answers with log-probabilities that are not finite, so its weights or "
            "what is computed from them are broken; deploy another checkpoint"
        )
    if prompt.next_tokens:
        seen = [(token.id, token.logprob) for entry in logprobs[:1] for token in entry.top]
        _compare(prompt, seen, folder, precision)


def _compare(
    prompt: PromptFingerprint, seen: list[tuple[int, float]], folder: ModelFolder, precision: Precision
) -> None:
    limit, differs_by = MAX_DIFFERENCE[precision], difference(prompt.logprobs, seen)
    if not differs_by <= limit:
        raise ProbeFailed(
            f"{folder.path} is not served: its next tokens after a smoke prompt differ by {differs_by:.4g} nats from "
            f"those that the trainer recorded, at most {limit:g} are usual in {precision}: the engine computes another "
            "model. Transfer the checkpoint again; if that does not help, its manifest or the engine is wrong"
        )


def _numbers(logprobs: Iterable[TokenLogprobs]) -> Iterable[float]:
    for entry in logprobs:
        yield entry.chosen.logprob
        yield from (token.logprob for token in entry.top)
