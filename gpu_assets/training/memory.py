"""What training will hold in a device's memory at its peak, by part, before anything is loaded. Knows nothing of torch.

An upper estimate: all parts are taken to be held at once, as they are from the second micro-batch of a step on, and
every token as supervised. Activations are what autograd saves for one layer of the Qwen3 family, a token: measured for
each precision and fitted to the layer's widths (docs/memory.md has the figures and how near they come).
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations, islice
from typing import Literal, NamedTuple

from pydantic import ValidationError

from gpu_assets.errors import OutOfMemory
from gpu_assets.settings import Hyperparams
from gpu_assets.training.shapes import ModelShape

GB = 10**9
Precision = Literal["fp32", "bf16"]

MAX_LOGITS = 2**27
"""Of cross_entropy.py: more elements are computed in chunks."""
BYTES_A_LOGIT = {"whole": {"fp32": 12, "bf16": 12}, "chunks": {"fp32": 8, "bf16": 10}}
"""Held at once: logits and their gradient in the head's precision, softmax and its gradient in fp32."""
BYTES_A_PAIR = 3.5
BYTES_A_PAIR_AND_HEAD = 0.25
"""Of positions of a pack, where attention takes a mask of them all: what each layer saves, fitted to fp32 on a CPU."""
CONTEXT = {"cuda": 600_000_000, "cpu": 600_000_000}
"""CUDA's context with its libraries' kernels; on a CPU, Python with torch and transformers."""
FRAGMENTATION = 0.05
"""Of what comes and goes: what an allocator holds and cannot use."""
STATE_BYTES = {
    "adamw": None,
    "muon": None,
    "adamw_8bit": 2.06,
    "paged_adamw": 8.0,
    "paged_adamw_8bit": 2.06,
}
"""A trained parameter's optimizer state; None is two of the weights' precision. 8-bit: a scale a block of 256."""
PAGED = ("paged_adamw", "paged_adamw_8bit")
"""Their states are in the host's memory, and a page at a time on the device."""
PAGES = 100_000_000
SUGGESTED_RANK = 16


@dataclass(frozen=True)
class SavedBytes:
    """Bytes that a layer saves a token: so many for each unit of hidden, attention, key-value and MLP width."""

    hidden: int
    attention: int
    kv: int
    mlp: int
    stream: int
    """Of the residual stream, for each unit of hidden width: what checkpointing keeps."""

    def layer(self, shape: ModelShape) -> int:
        return (
            self.hidden * shape.hidden
            + self.attention * shape.attention_width
            + self.kv * shape.kv_width
            + self.mlp * shape.intermediate
            + 8 * shape.heads
        )


SAVED = {
    ("fp32", "fp32"): SavedBytes(hidden=24, attention=16, kv=16, mlp=16, stream=4),
    ("fp32", "bf16"): SavedBytes(hidden=26, attention=10, kv=10, mlp=8, stream=4),
    ("bf16", "bf16"): SavedBytes(hidden=16, attention=10, kv=10, mlp=8, stream=2),
    ("bf16", "fp32"): SavedBytes(hidden=16, attention=10, kv=10, mlp=8, stream=2),
}
"""By the precision of the weights, then that of the computation."""


@dataclass(frozen=True)
class Part:
    """Bytes of one kind, and the setting that changes them."""

    name: str
    bytes: int
    setting: str


@dataclass(frozen=True)
class MemoryPlan:
    """The parts of the peak with micro-batches of so many tokens; `host_bytes` are in the host's memory instead."""

    parts: tuple[Part, ...]
    tokens: int
    host_bytes: int = 0

    @property
    def total(self) -> int:
        return sum(part.bytes for part in self.parts)


@dataclass(frozen=True)
class Setup:
    """What is trained how and where; `shards` are the devices among which weights and states are cut up."""

    shape: ModelShape
    hyperparams: Hyperparams
    precision: Precision
    device: Literal["cuda", "cpu"]
    shards: int = 1

    def changed(self, **changes: object) -> "Setup":
        """The same with other hyperparameters."""
        hyperparams = Hyperparams.model_validate(self.hyperparams.model_dump() | changes)
        return Setup(self.shape, hyperparams, self.precision, self.device, self.shards)

    @property
    def takes_any_optimizer(self) -> bool:
        """8-bit and paged states are on a GPU, and cannot be cut up."""
        return self.device == "cuda" and self.shards == 1

    @property
    def is_packed(self) -> bool:
        layout = self.hyperparams.layout
        return layout == "packed" or (layout == "auto" and self.device == "cuda")

    @property
    def most_tokens(self) -> int:
        """Of a micro-batch: a pack, or padded rows."""
        hyperparams = self.hyperparams
        if self.is_packed:
            return hyperparams.max_batch_tokens
        return min(hyperparams.max_batch_tokens, hyperparams.batch_size * hyperparams.max_length)


def plan_memory(setup: Setup, tokens: int | None = None) -> MemoryPlan:
    """The peak with micro-batches of `tokens`; None takes the most that the hyperparameters allow."""
    tokens = setup.most_tokens if tokens is None else tokens
    shape, hyperparams = setup.shape, setup.hyperparams
    width = 2 if hyperparams.weights_precision == "bf16" else 4
    rank = hyperparams.lora.rank
    adapters = shape.lora_parameters(rank) if rank else 0
    trained = adapters or shape.parameters
    device_states, host_states = _states(setup, trained, width)
    fixed = [
        Part("weights", (shape.parameters + adapters) * width // setup.shards, "weights_precision"),
        Part("optimizer states", device_states // setup.shards, "optimizer.type"),
    ]
    passing = [
        Part("gradients", trained * width // setup.shards, "lora.rank" if not rank else "weights_precision"),
        Part("activations", _activations(setup, tokens), "max_batch_tokens"),
        _transient(setup, tokens, width),
    ]
    if setup.is_packed and setup.device == "cpu":
        passing.append(Part("masks of the packs", _masks(setup, tokens), "layout"))
    if setup.precision == "bf16" and width == 4:
        passing.append(Part("bf16 copies of weights", shape.matrix_parameters * 2, "weights_precision"))
    reserve = int(FRAGMENTATION * sum(part.bytes for part in passing))
    overhead = [Part("fragmentation", reserve, ""), Part("context", CONTEXT[setup.device], "")]
    return MemoryPlan((*fixed, *passing, *overhead), tokens, host_states // setup.shards)


def _states(setup: Setup, trained: int, width: int) -> tuple[int, int]:
    """Bytes on the device and on the host."""
    name, shape = setup.hyperparams.optimizer.type, setup.shape
    each = STATE_BYTES[name]
    if name == "muon":  # a momentum for the matrices, AdamW's two for the rest
        return (shape.matrix_parameters + 2 * (trained - shape.matrix_parameters)) * width, 0
    if each is None:
        return 2 * trained * width, 0
    return (PAGES, int(trained * each)) if name in PAGED else (int(trained * each), 0)


def _activations(setup: Setup, tokens: int) -> int:
    shape, hyperparams = setup.shape, setup.hyperparams
    saved = SAVED[hyperparams.weights_precision, setup.precision]
    layer = saved.layer(shape)
    ends = 3 * saved.stream * shape.hidden + 2 * shape.hidden
    if hyperparams.lora.rank:  # each adapter saves its input once more, and what is between its two matrices
        layer += 4 * len(shape.layer_matrices) * hyperparams.lora.rank
    if hyperparams.use_gradient_checkpointing:
        layer = saved.stream * shape.hidden
    return tokens * (shape.layers * layer + ends)


def _masks(setup: Setup, tokens: int) -> int:
    layers = 1 if setup.hyperparams.use_gradient_checkpointing else setup.shape.layers
    return int(layers * (BYTES_A_PAIR + BYTES_A_PAIR_AND_HEAD * setup.shape.heads) * tokens**2)


def _transient(setup: Setup, tokens: int, width: int) -> Part:
    """The larger of what comes and goes one after the other: the loss, and the backward pass of one layer."""
    layer = tokens * SAVED[setup.hyperparams.weights_precision, setup.precision].layer(setup.shape)
    backward = 2 * layer if setup.hyperparams.use_gradient_checkpointing else layer // 2
    loss = _loss(setup, tokens, width)
    name = "head and loss" if loss >= backward else "backward of one layer"
    return Part(name, max(loss, backward), "max_batch_tokens")


def _loss(setup: Setup, tokens: int, width: int) -> int:
    """Logits and their gradients, and where they are taken in chunks, the head's gradient and its cast copy."""
    shape = setup.shape
    if tokens * shape.vocabulary <= MAX_LOGITS:
        return BYTES_A_LOGIT["whole"][setup.precision] * tokens * shape.vocabulary
    head = shape.vocabulary * shape.hidden
    gradient = 0 if setup.hyperparams.lora.rank else head * 4
    copy = head * 2 if width == 4 and setup.precision == "bf16" else 0
    return BYTES_A_LOGIT["chunks"][setup.precision] * MAX_LOGITS + gradient + copy + tokens * shape.hidden * width


@dataclass(frozen=True)
class Advice:
    """A change of settings after which it fits, in words, and the peak then."""

    change: str
    total: int
    adapters: bool = False
    """Whether other weights are trained then."""


def advise(setup: Setup, budget: int) -> list[Advice]:
    """What to change so that it fits `budget` bytes: each setting that is enough alone, else the fewest together.

    LoRA is named where nothing else is enough.
    """
    alone = [advice for advice in _single(setup, budget) if advice.total <= budget]
    together = [] if alone and not all(advice.adapters for advice in alone) else _together(setup, budget)
    enough = [*alone, *together]
    return [advice for advice in enough if not advice.adapters] or alone or together


def refusal(setup: Setup, budget: int, where: str) -> str | None:
    """Why it does not fit and what to change, or None if it fits."""
    plan = plan_memory(setup)
    if plan.total <= budget:
        return None
    needs = f"training needs about {gigabytes(plan.total)} GB at its peak, {where} has {gigabytes(budget)} GB"
    found = advise(setup, budget)
    if not found:
        ways = "".join(f"; or set {way}" for way in _beyond(setup, budget))
        alone = f"no hyperparams are enough at a max_length of {setup.hyperparams.max_length}"
        return f"{needs}: {alone}; take a smaller model or more memory{ways}"
    largest = max(plan.parts, key=lambda part: part.bytes)
    ways = "; or ".join(f"{advice.change} (peak then {gigabytes(advice.total)} GB)" for advice in found)
    return (
        f"{needs}, {gigabytes(plan.total - budget)} GB too little; the largest part is {largest.name}, "
        f"{gigabytes(largest.bytes)} GB. Set {ways}"
    )


def require_fit(setup: Setup, budget: int, where: str, report: Callable[[str], None]) -> None:
    """Refuse what does not fit even with one row a micro-batch; larger ones are halved when they run out of memory.

    Raises:
        OutOfMemory: with the parts of the peak, and the settings to change.
    """
    smallest = plan_memory(setup, setup.hyperparams.max_length)
    if smallest.total > budget:
        raise OutOfMemory(refusal(setup, budget, where) or "")
    planned = plan_memory(setup)
    if planned.total > budget:
        report(
            f"micro-batches of {planned.tokens} tokens need about {gigabytes(planned.total)} GB, {where} has "
            f"{gigabytes(budget)} GB: they will be halved where they do not fit"
        )


def gigabytes(amount: int) -> str:
    """In 10^9 bytes, to two places."""
    return f"{amount / GB:.2f}"


def _beyond(setup: Setup, budget: int) -> Iterator[str]:
    """What is enough where no hyperparameters are at this length: a lower one, more GPUs."""
    for changed in (_shorter(setup), _cut_up(setup)):
        found = (_with_advice(words, other, budget) for words, other in changed)
        yield from islice(filter(None, found), 1)


def _shorter(setup: Setup) -> Iterator[tuple[str, Setup]]:
    lengths = (setup.hyperparams.max_length // 2**halvings for halvings in range(1, 16))
    for length in lengths:
        if _are_accepted(setup.hyperparams, {"max_length": length}):
            yield f"hyperparams.max_length to {length}", setup.changed(max_length=length)


def _cut_up(setup: Setup) -> Iterator[tuple[str, Setup]]:
    """Among more GPUs of this size, each with its own memory; AdamW's states alone can be cut up."""
    optimizer = setup.hyperparams.optimizer.model_dump() | {"type": "adamw"}
    if setup.device != "cuda" or not _are_accepted(setup.hyperparams, {"optimizer": optimizer}):
        return
    change = "" if setup.hyperparams.optimizer.type == "adamw" else " and hyperparams.optimizer.type to adamw"
    for shards in (2, 4, 8, 16, 32, 64):
        if shards > setup.shards:
            words = f"distributed.sharding to full and distributed.processes to {shards} (a GPU each){change}"
            yield words, replace(setup.changed(optimizer=optimizer), shards=shards)


def _with_advice(words: str, setup: Setup, budget: int) -> str | None:
    """What else to change after this so that it fits, and the peak then; None if nothing is enough."""
    total, more = plan_memory(setup).total, ""
    if total > budget:
        found = next(iter(advise(setup, budget)), None)
        if found is None:
            return None
        total, more = found.total, f" and {found.change}"
    return f"{words}{more} (peak then {gigabytes(total)} GB)"


def _single(setup: Setup, budget: int) -> Iterator[Advice]:
    hyperparams = setup.hyperparams
    tokens = _most_tokens_that_fit(setup, budget)
    if tokens is not None:
        change = _smaller_batches(setup, tokens)
        yield Advice(f"hyperparams.{change.words}", plan_memory(setup, tokens).total)
    optimizers = ("adamw_8bit", "paged_adamw_8bit") if setup.takes_any_optimizer and not hyperparams.lora.rank else ()
    for change in (*_checkpointing(hyperparams), *_other_changes(setup, optimizers)):
        if _are_accepted(hyperparams, change.fields):
            total = plan_memory(setup.changed(**change.fields)).total
            yield Advice(f"hyperparams.{change.words}", total, adapters="lora" in change.fields)


def _together(setup: Setup, budget: int) -> list[Advice]:
    """The fewest changes that are enough together, without LoRA if that can be: it trains other weights."""
    changes = _changes(setup)
    sets = [chosen for count in range(2, len(changes) + 1) for chosen in combinations(changes, count)]
    for chosen in sorted(sets, key=lambda chosen: any("lora" in change.fields for change in chosen)):
        fields = {name: value for change in chosen for name, value in change.fields.items()}
        if not _are_accepted(setup.hyperparams, fields):
            continue
        total = plan_memory(setup.changed(**fields)).total
        if total <= budget:
            words = " and ".join(f"hyperparams.{change.words}" for change in chosen)
            return [Advice(words, total, adapters="lora" in fields)]
    return []


class _Change(NamedTuple):
    words: str
    fields: dict[str, object]


def _changes(setup: Setup) -> list[_Change]:
    """What can be changed together; what costs least is first."""
    optimizers = ["adamw"] if setup.hyperparams.optimizer.type == "muon" else []
    optimizers += ["paged_adamw_8bit"] if setup.takes_any_optimizer else []
    return [
        *_checkpointing(setup.hyperparams),
        _smaller_batches(setup, setup.hyperparams.max_length),
        *_other_changes(setup, optimizers),
    ]


def _smaller_batches(setup: Setup, tokens: int) -> _Change:
    hyperparams = setup.hyperparams
    accumulated = hyperparams.gradient_accumulation * -(-setup.most_tokens // tokens)
    steps = "steps become smaller"
    if _are_accepted(hyperparams, {"gradient_accumulation": accumulated}):
        steps = f"gradient_accumulation to {accumulated} for steps of the same size"
    words = f"max_batch_tokens to {tokens} instead of {hyperparams.max_batch_tokens} ({steps})"
    return _Change(words, {"max_batch_tokens": tokens})


def _checkpointing(hyperparams: Hyperparams) -> Iterator[_Change]:
    if not hyperparams.use_gradient_checkpointing:
        yield _Change("use_gradient_checkpointing to true", {"use_gradient_checkpointing": True})


def _other_changes(setup: Setup, optimizers: Iterable[str]) -> Iterator[_Change]:
    """Another one of `optimizers`, bf16 weights, and LoRA, where it is not so yet; settings may not accept it."""
    hyperparams = setup.hyperparams
    optimizer, lora = hyperparams.optimizer.model_dump(), hyperparams.lora.model_dump()
    for name in optimizers:
        if optimizer["type"] != name:
            yield _Change(f"optimizer.type to {name}", {"optimizer": optimizer | {"type": name}})
    if hyperparams.weights_precision == "fp32" and setup.precision == "bf16":
        yield _Change("weights_precision to bf16", {"weights_precision": "bf16"})
    if not hyperparams.lora.rank:
        yield _Change(f"lora.rank to {SUGGESTED_RANK}", {"lora": lora | {"rank": SUGGESTED_RANK}})


def _are_accepted(hyperparams: Hyperparams, changes: dict[str, object]) -> bool:
    """Whether settings take these together."""
    try:
        Hyperparams.model_validate(hyperparams.model_dump() | changes)
    except ValidationError:
        return False
    return True


def _most_tokens_that_fit(setup: Setup, budget: int) -> int | None:
    """The largest micro-batch in steps of 128 tokens, at least of one row; None if that does not fit either."""
    smallest = setup.hyperparams.max_length
    if plan_memory(setup, smallest).total > budget:
        return None
    tokens = setup.most_tokens // 128 * 128
    while tokens > smallest and plan_memory(setup, tokens).total > budget:
        tokens -= 128
    return max(tokens, smallest)
