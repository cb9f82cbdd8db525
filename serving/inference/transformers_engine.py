"""The default engine: transformers' continuous batching, one manager for one version, CPU or CUDA.

Its key-value cache is sized from the settings and never by free memory. Requests share the pages of a common prefix;
no manager ever sees a second version's weights, so no version sees another's. A request that fails in its own part
fails alone; what fails in the model's stops the engine, and all who wait are told at once. Imports torch and
transformers: loaded lazily, when the first model is.
"""

import asyncio
import os
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig, PreTrainedModel
from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessorList
from transformers.generation.continuous_batching.requests import GenerationOutput
from transformers.generation.logits_process import LogitsProcessorList

from gpu_assets.errors import ArtifactInvalid, PlatformError
from gpu_assets.rendering import LogitsProcessor
from gpu_assets.settings import Serving
from serving.inference.engine import (
    EngineStats,
    EngineStopped,
    Generation,
    GenerationFailed,
    GenerationRefused,
    Tokens,
)
from serving.inference.grammar import Grammars
from serving.inference.loader import ModelFolder
from serving.inference.request_outputs import Inbox, RequestOutputs, ThreadStatus
from serving.inference.row import Row
from serving.inference.row_attention import use_row_attention
from serving.inference.row_steps import ROW, RowSteps

PAGE_TOKENS = 32
"""Prompts share whole pages."""
CPU_BATCH_TOKENS, CPU_BATCH_REQUESTS = 256, 64
"""Prompt tokens of one step hold up those who decode. A step of the tiny model costs little more for 64 requests than
for 32; for 128 it is no faster.
"""
CUDA_BATCH_TOKENS, CUDA_BATCH_REQUESTS = 1024, 256
STOP_TIMEOUT_S = 5.0


def load_engine(folder: ModelFolder, serving: Serving) -> "TransformersEngine":
    """Load the weights of a folder: fp32 on the CPU, bf16 on CUDA.

    Raises:
        ArtifactInvalid: if the weights do not load, or are not those of the architecture.
    """
    transformers.logging.disable_progress_bar()
    cuda = torch.cuda.is_available()
    if not cuda:  # the event loop and the machine's other processes need the other half
        torch.set_num_threads(min(torch.get_num_threads(), max(1, len(os.sched_getaffinity(0)) // 2)))
    model = _load_model(folder, torch.bfloat16 if cuda else torch.float32)
    if cuda:
        model.to("cuda")  # type: ignore[arg-type]
    renderer = folder.renderer
    return TransformersEngine(model, _end_ids(folder, model), serving, renderer.tokenizer, renderer.logits_processors())


class TransformersEngine:
    """An `Engine`; the manager's thread runs between `start` and `stop`. `steering` is the profile's."""

    def __init__(
        self,
        model: PreTrainedModel,
        end_ids: list[int],
        serving: Serving,
        tokenizer: Tokenizer,
        steering: Sequence[LogitsProcessor] = (),
    ) -> None:
        positions = int(model.config.max_position_embeddings)
        self._vocabulary = int(model.config.get_text_config().vocab_size)
        self._end_ids = end_ids
        cache_tokens = serving.cache_tokens // PAGE_TOKENS * PAGE_TOKENS
        self._max_context_tokens = min(serving.max_context_tokens, cache_tokens, positions)
        self._steering = steering
        self._grammars = Grammars(tokenizer, self._vocabulary, end_ids)
        self._outputs = RequestOutputs()
        steps = RowSteps(self._vocabulary, model.device, self._fail)
        self._manager = _manager(model, end_ids, serving, steps)
        self._manager.output_router = self._outputs
        self._manager.background_thread_status = ThreadStatus(self._fail_all)
        self._weights_bytes = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))

    @property
    def max_context_tokens(self) -> int:
        return self._max_context_tokens

    @property
    def memory_bytes(self) -> int | None:
        processor = self._manager.batch_processor
        return self._weights_bytes + (0 if processor is None else processor.cache.cache_tensor.nbytes)

    @property
    def alive(self) -> bool:
        status = self._manager.background_thread_status
        return bool(self._manager.is_running()) and status.can_accept_new_requests() is None

    def start(self) -> None:
        self._manager.start()

    async def generate(self, generation: Generation) -> AsyncGenerator[Tokens, None]:
        began = time.perf_counter()
        row = await self._row(generation)
        request_id = uuid.uuid4().hex
        inbox = self._outputs.open(request_id)
        finished, seen, first_token_s = False, 0, None
        try:
            self._submit(request_id, generation, row)
            while not finished:
                output = await _newest(inbox)
                finished = output.is_finished()
                if first_token_s is None:
                    first_token_s = (row.first_token_at or time.perf_counter()) - began
                ids, logprobs = output.generated_tokens[seen:], row.logprobs[seen : len(output.generated_tokens)]
                seen = len(output.generated_tokens)
                yield Tokens(ids, self._ended(output) if finished else None, first_token_s, tuple(logprobs))
        finally:
            self._outputs.close(request_id)
            if not finished:
                self._manager.cancel_request(request_id)

    def stats(self) -> EngineStats:
        processor = self._manager.batch_processor
        if processor is None:
            return EngineStats(running=0, waiting=self._manager.input_queue.qsize())
        scheduler = processor.scheduler
        waiting = self._manager.input_queue.qsize() + len(scheduler.waiting_requests)
        return EngineStats(len(scheduler.active_requests), waiting, _cache_use(processor.cache))

    def stop(self) -> None:
        self._manager.stop(block=True, timeout=STOP_TIMEOUT_S, hard_stop=True)

    async def _row(self, generation: Generation) -> Row:
        """What the engine's thread needs of a request; a schema is compiled in a thread of its own."""
        self._check(generation)
        grammar = None
        if generation.grammar is not None:
            grammar = await asyncio.to_thread(self._grammars.begin, generation.grammar)
        return Row(generation, self._steering, grammar)

    def _check(self, generation: Generation) -> None:
        """What the manager takes as it is, and would stop for all or wait for ever at."""
        length = len(generation.prompt_ids) + generation.max_tokens
        if not generation.prompt_ids or generation.max_tokens < 1 or length > self._max_context_tokens:
            raise GenerationRefused(
                f"a prompt of {len(generation.prompt_ids)} tokens and an answer of {generation.max_tokens} are no "
                f"request: both have tokens, together at most {self._max_context_tokens}"
            )
        least = min(min(generation.prompt_ids), min(generation.sampling.logit_bias, default=0))
        most = max(max(generation.prompt_ids), max(generation.sampling.logit_bias, default=0))
        if least < 0 or most >= self._vocabulary:
            wrong = least if least < 0 else most
            raise GenerationRefused(f"token {wrong} is not of this model: it has tokens 0 to {self._vocabulary - 1}")

    def _submit(self, request_id: str, generation: Generation, row: Row) -> None:
        accepted = self._manager.add_request(
            generation.prompt_ids,
            request_id=request_id,
            max_new_tokens=generation.max_tokens,
            streaming=generation.incremental,
            eos_token_id=self._end_ids,
            **{ROW: row},
        )
        if accepted is None:
            raise EngineStopped("the engine of this model has stopped; it takes no requests")

    def _fail(self, request_id: str, error: Exception) -> None:
        failed = error if isinstance(error, PlatformError) else GenerationFailed(f"this request failed: {error!r}")
        self._outputs.fail(request_id, failed)

    def _fail_all(self) -> None:
        reason = self._manager.background_thread_status.fatal_error or "it was stopped"
        self._outputs.fail_all(EngineStopped(f"the engine of this model stopped while it generated: {reason}"))

    def _ended(self, output: GenerationOutput) -> bool:
        return bool(output.generated_tokens) and output.generated_tokens[-1] in self._end_ids


async def _newest(inbox: Inbox) -> GenerationOutput:
    """The newest output, which holds all tokens before it.

    Raises:
        PlatformError: why there is none.
    """
    while True:
        item = await inbox.get()
        if isinstance(item, PlatformError):
            raise item
        if item.error is not None:
            raise EngineStopped(f"the engine stopped while it generated: {item.error}")
        if item.is_finished() or inbox.empty():
            return item


def _load_model(folder: ModelFolder, dtype: torch.dtype) -> PreTrainedModel:
    """Weights that are missing, too many or of other shapes are refused: transformers makes them up or drops them."""
    try:
        loaded: tuple[PreTrainedModel, dict[str, Any]] = AutoModelForCausalLM.from_pretrained(  # type: ignore[assignment]
            folder.path,
            dtype=dtype,
            attn_implementation="sdpa",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # else the error does not say which; `_check_weights` refuses them
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ArtifactInvalid(f"{folder.path} does not load: {error}") from error
    model, report = loaded
    _check_weights(folder, report)
    if type(model).__name__ != folder.architecture:
        raise ArtifactInvalid(f"{folder.path} loads as {type(model).__name__}, wanted {folder.architecture}")
    return model


def _check_weights(folder: ModelFolder, report: dict[str, Any]) -> None:
    wrong = [
        f"{name} is {tuple(seen)}, wanted {tuple(wanted)}" for name, seen, wanted in sorted(report["mismatched_keys"])
    ]
    if wrong:
        raise ArtifactInvalid(
            f"{folder.path}: the shapes of {len(wrong)} weights are not those of its config.json: "
            f"{'; '.join(wrong[:2])}; put the config.json there that they were saved with"
        )
    problems = {what: sorted(map(str, names)) for what, names in report.items() if names}
    if problems:
        raise ArtifactInvalid(f"{folder.path} does not hold the weights of its config.json: {problems}")


def _end_ids(folder: ModelFolder, model: PreTrainedModel) -> list[int]:
    """The renderer's end token, and what the model's own generation config ends with."""
    configured = model.generation_config.eos_token_id if model.generation_config is not None else None
    own = configured if isinstance(configured, list) else [configured]
    return sorted({folder.renderer.end_token_id, *(token for token in own if token is not None)})


def _manager(model: PreTrainedModel, end_ids: list[int], serving: Serving, steps: RowSteps) -> Any:
    on_cpu = model.device.type == "cpu"
    generation_config = GenerationConfig(do_sample=False, eos_token_id=end_ids, max_new_tokens=1)
    manager: Any = model.init_continuous_batching(  # type: ignore[operator]
        generation_config=generation_config,
        continuous_batching_config=ContinuousBatchingConfig(
            page_size=PAGE_TOKENS,
            num_blocks=serving.cache_tokens // PAGE_TOKENS,
            max_batch_tokens=CPU_BATCH_TOKENS if on_cpu else CUDA_BATCH_TOKENS,
            max_requests_per_batch=CPU_BATCH_REQUESTS if on_cpu else CUDA_BATCH_REQUESTS,
            allow_block_sharing=serving.prefix_sharing,
            auto_switch_to_flash=False,
            use_cuda_graph=False,
            use_async_batching=False,
        ),
    )
    use_row_attention(model)
    processors = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([steps]))
    processors.tensors_required = 1
    manager.logit_processor = processors
    return manager


def _cache_use(cache: PagedAttentionCache) -> float:
    """The share that requests hold; pages kept for prefixes to come are free for them."""
    kept = sum(len(of.ledger.cached_blocks) * of.bytes_per_block for of in cache.cache_allocators.values())
    free = float(cache.compute_free_capacity()) + kept / (cache.num_sectors * cache.bytes_per_sector)
    return min(1.0, max(0.0, 1.0 - free))
