"""Whether a loaded model computes what was trained; asked before any request can reach it.

A hash says which weights lie on the disk, not what is computed from them: another dtype, another architecture's code,
weights that were left out or are not tied. The trainer records what its model says to a few prompts, and the engine
is asked the same. It is warm after that.
"""

import asyncio
import logging
import math
from collections.abc import Iterable
from statistics import fmean

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
"""In nats, the mean over all prompts. fp32 beside fp32 differs in the order of summation only, by some 1e-6. In bf16,
twelve trained tiny models differ by 0.007 to 0.033, one of 28 layers whose weights make the most of each rounding by
0.055; the checkpoint after the same one, by 0.7 to 3.5. A single prompt says less: bf16 makes up to 0.16 of one that is
unlike what was trained on, and other weights as little as 0.001 of one whose next token is certain.
"""


class ProbeFailed(PlatformError):
    """A loaded model does not answer, or not as the trained one did."""


async def probe(engine: Engine, folder: ModelFolder, precision: Precision, timeout_s: float) -> None:
    """Ask an engine that was started, and compare.

    Side effects: logs where a folder has no fingerprint to compare with.

    Raises:
        ProbeFailed: if a prompt is not answered in time, with numbers that are finite, or not all as was recorded.
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
            differences = await _ask_all(engine, fitting, folder)
    except TimeoutError:
        raise ProbeFailed(f"{folder.path} is not served: it gave no answer in {timeout_s:g} s") from None
    except (EngineStopped, GenerationFailed, GenerationRefused) as error:
        raise ProbeFailed(f"{folder.path} is not served: it does not answer a smoke prompt: {error}") from error
    if folder.fingerprint is not None:
        _compare(differences, folder, precision)


def _prompts(folder: ModelFolder) -> list[PromptFingerprint]:
    """What is asked; without anything to compare with where nothing is recorded."""
    if folder.fingerprint is not None:
        return folder.fingerprint.prompts
    return [PromptFingerprint(folder.renderer.prompt_ids(asked), []) for asked in smoke_conversations()]


async def _ask_all(engine: Engine, prompts: list[PromptFingerprint], folder: ModelFolder) -> list[float]:
    """What each prompt differs by, asked at once; what is not answered when the first fails is cancelled."""
    asking = [asyncio.create_task(_ask(engine, prompt, folder)) for prompt in prompts]
    try:
        return await asyncio.gather(*asking)
    finally:
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)


async def _ask(engine: Engine, prompt: PromptFingerprint, folder: ModelFolder) -> float:
    """By what the first token's log-probabilities differ from those that are recorded, 0 where none are."""
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
    if not prompt.next_tokens:
        return 0.0
    return difference(prompt.logprobs, [(token.id, token.logprob) for entry in logprobs[:1] for token in entry.top])


def _compare(differences: list[float], folder: ModelFolder, precision: Precision) -> None:
    limit, differs_by = MAX_DIFFERENCE[precision], fmean(differences)
    if not differs_by <= limit:
        raise ProbeFailed(
            f"{folder.path} is not served: its next tokens after the smoke prompts differ by {differs_by:.4g} nats "
            f"from those that the trainer recorded, at most {limit:g} are usual in {precision}: the engine computes "
            "another model. Transfer the checkpoint again; if that does not help, its manifest or the engine is wrong"
        )


def _numbers(logprobs: Iterable[TokenLogprobs]) -> Iterable[float]:
    for entry in logprobs:
        yield entry.chosen.logprob
        yield from (token.logprob for token in entry.top)
