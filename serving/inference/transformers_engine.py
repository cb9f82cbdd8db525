"""The default engine: transformers' continuous batching, one manager for one version, CPU or CUDA.

Its key-value cache is sized from the settings and never by free memory; prefix blocks are not shared
and no manager ever sees a second version's weights. Imports torch and transformers: loaded lazily,
when the first model is.
"""

import asyncio
import os
import uuid
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig, PreTrainedModel
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessorList
from transformers.generation.continuous_batching.requests import GenerationOutput
from transformers.generation.logits_process import LogitsProcessorList

from gpu_assets.errors import ArtifactInvalid
from gpu_assets.rendering import LogitsProcessor
from gpu_assets.settings import Serving
from serving.inference.engine import EngineStats, EngineStopped, Generation, Tokens
from serving.inference.loader import ModelFolder
from serving.inference.row_biases import ROW, Row, RowBiases
from serving.inference.sampler import SAMPLING, RequestSampler

PAGE_TOKENS = 256
CPU_BATCH_TOKENS, CPU_BATCH_REQUESTS = 256, 24
"""Every request of a batch attends over all of their keys behind a mask, so work grows with the square of
the batch: 120 answers of 60 tokens of the tiny model took 1.6 s in batches of 16 to 32, 3.8 s at once.
"""
CUDA_BATCH_TOKENS, CUDA_BATCH_REQUESTS = 1024, 256
LIVENESS_CHECK_S = 1.0
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
    return TransformersEngine(model, _end_ids(folder, model), serving, folder.renderer.logits_processors())


class TransformersEngine:
    """An `Engine`; the manager's thread runs between `start` and `stop`. `steering` is the profile's."""

    def __init__(
        self,
        model: PreTrainedModel,
        end_ids: list[int],
        serving: Serving,
        steering: Sequence[LogitsProcessor] = (),
    ) -> None:
        positions = int(model.config.max_position_embeddings)
        self._end_ids = end_ids
        cache_tokens = serving.cache_tokens // PAGE_TOKENS * PAGE_TOKENS
        self._max_context_tokens = min(serving.max_context_tokens, cache_tokens, positions)
        self._steering = steering
        self._manager = _manager(model, end_ids, serving, steered=bool(steering))

    @property
    def max_context_tokens(self) -> int:
        return self._max_context_tokens

    @property
    def memory_bytes(self) -> int | None:
        return None

    @property
    def alive(self) -> bool:
        status = self._manager.background_thread_status
        return bool(self._manager.is_running()) and status.can_accept_new_requests() is None

    def start(self) -> None:
        self._manager.start()

    async def generate(self, generation: Generation) -> AsyncGenerator[Tokens, None]:
        outputs: asyncio.Queue[GenerationOutput] = asyncio.Queue()
        request_id = uuid.uuid4().hex
        self._manager.register_result_handler(request_id, outputs.put_nowait)
        finished, seen = False, 0
        try:
            self._submit(request_id, generation)
            while not finished:
                output = await self._latest(outputs)
                finished = output.is_finished()
                if output.error is not None:
                    raise EngineStopped(f"the engine stopped while it generated: {output.error}")
                new, seen = output.generated_tokens[seen:], len(output.generated_tokens)
                yield Tokens(new, self._ended(output) if finished else None, _first_token_s(output))
        finally:
            if not finished:
                self._manager.cancel_request(request_id)
                self._manager.output_router.result_handlers.pop(request_id, None)

    def stats(self) -> EngineStats:
        processor = self._manager.batch_processor
        if processor is None:
            return EngineStats(running=0, waiting=self._manager.input_queue.qsize())
        scheduler = processor.scheduler
        waiting = self._manager.input_queue.qsize() + len(scheduler.waiting_requests)
        return EngineStats(running=len(scheduler.active_requests), waiting=waiting)

    def stop(self) -> None:
        self._manager.stop(block=True, timeout=STOP_TIMEOUT_S, hard_stop=True)

    def _submit(self, request_id: str, generation: Generation) -> None:
        accepted = self._manager.add_request(
            generation.prompt_ids,
            request_id=request_id,
            max_new_tokens=generation.max_tokens,
            streaming=generation.incremental,
            record_timestamps=True,
            eos_token_id=self._end_ids,
            **{SAMPLING: generation.sampling},
            **({ROW: Row(self._steering, generation.prompt_ids)} if self._steering else {}),
        )
        if accepted is None:
            raise EngineStopped("the engine of this model has stopped; it takes no requests")

    async def _latest(self, outputs: "asyncio.Queue[GenerationOutput]") -> GenerationOutput:
        """The newest output, which holds all tokens before it."""
        while True:
            try:
                async with asyncio.timeout(LIVENESS_CHECK_S):
                    output = await outputs.get()
                break
            except TimeoutError:
                if not self.alive:
                    raise EngineStopped("the engine of this model died while it generated") from None
        while not outputs.empty():
            output = outputs.get_nowait()
        return output

    def _ended(self, output: GenerationOutput) -> bool:
        return bool(output.generated_tokens) and output.generated_tokens[-1] in self._end_ids


def _load_model(folder: ModelFolder, dtype: torch.dtype) -> PreTrainedModel:
    """Weights that are missing or too many are refused: transformers would make them up or drop them."""
    try:
        loaded: tuple[PreTrainedModel, dict[str, Any]] = AutoModelForCausalLM.from_pretrained(  # type: ignore[assignment]
            folder.path,
            dtype=dtype,
            attn_implementation="sdpa",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ArtifactInvalid(f"{folder.path} does not load: {error}") from error
    model, report = loaded
    problems = {what: sorted(map(str, names)) for what, names in report.items() if names}
    if problems:
        raise ArtifactInvalid(f"{folder.path} does not hold the weights of its config.json: {problems}")
    if type(model).__name__ != folder.architecture:
        raise ArtifactInvalid(f"{folder.path} loads as {type(model).__name__}, wanted {folder.architecture}")
    return model


def _end_ids(folder: ModelFolder, model: PreTrainedModel) -> list[int]:
    """The renderer's end token, and what the model's own generation config ends with."""
    configured = model.generation_config.eos_token_id if model.generation_config is not None else None
    own = configured if isinstance(configured, list) else [configured]
    return sorted({folder.renderer.end_token_id, *(token for token in own if token is not None)})


def _manager(model: PreTrainedModel, end_ids: list[int], serving: Serving, *, steered: bool) -> Any:
    on_cpu = model.device.type == "cpu"
    generation_config = GenerationConfig(do_sample=False, eos_token_id=end_ids, max_new_tokens=1)
    manager: Any = model.init_continuous_batching(  # type: ignore[operator]
        generation_config=generation_config,
        continuous_batching_config=ContinuousBatchingConfig(
            page_size=PAGE_TOKENS,
            num_blocks=serving.cache_tokens // PAGE_TOKENS,
            max_batch_tokens=CPU_BATCH_TOKENS if on_cpu else CUDA_BATCH_TOKENS,
            max_requests_per_batch=CPU_BATCH_REQUESTS if on_cpu else CUDA_BATCH_REQUESTS,
            allow_block_sharing=False,
            auto_switch_to_flash=False,
            use_cuda_graph=False,
            use_async_batching=False,
        ),
    )
    steps = [RowBiases(), RequestSampler()] if steered else [RequestSampler()]
    processors = ContinuousBatchingLogitsProcessorList(LogitsProcessorList(steps))
    processors.tensors_required = len(steps)
    manager.logit_processor = processors
    return manager


def _first_token_s(output: GenerationOutput) -> float:
    return output.timestamps[0] - output.created_time if output.timestamps else 0.0
