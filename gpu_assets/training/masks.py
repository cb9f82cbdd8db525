"""What is about to be trained on, looked at in the batches themselves before the first step.

A mask that is wrong does not show in the loss: whoever trains on prompts sees it fall faster. So each document is
taken out of its batch again, and its supervised regions must be the answers of its row, which are read as text.
Torch code: import inside the function that needs it.
"""

from collections.abc import Iterable, Sequence, Set
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from tokenizers import Tokenizer

from gpu_assets.errors import MaskInvalid
from gpu_assets.rendering import Renderer, Sample
from gpu_assets.training.batches import Batch, Layout
from gpu_assets.training.loss import Tensors, collate
from gpu_assets.training.samples import Samples

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class MaskCheck:
    """What was found in one pass over all rows; shares are of a document's tokens."""

    documents: int
    regions: int
    tokens: int
    supervised_share: float
    lowest_share: float
    highest_share: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Document:
    """A document as a batch holds it: its ids, and which of them are targets."""

    ids: list[int]
    targets: list[int]

    def regions(self) -> list[list[int]]:
        """The ids of each unbroken run of targets."""
        regions: list[list[int]] = []
        for place, (before, here) in enumerate(pairwise([-2, *self.targets])):
            if here != before + 1:
                regions.append([])
            regions[-1].append(self.ids[self.targets[place]])
        return regions


def check_masks(batches: Iterable[Batch], samples: Samples, renderer: Renderer, layout: Layout) -> MaskCheck:
    """Look at every batch, made as it will be trained on.

    Raises:
        MaskInvalid: naming the row and what is wrong with its document.
    """
    control = {renderer.tokenizer.token_to_id(text) for text in renderer.special_tokens()}
    control.discard(renderer.end_token_id)
    regions, shares, tokens, supervised = 0, [], 0, 0
    for batch in batches:
        tensors = collate([samples.sequences[index] for index in batch], layout, renderer.end_token_id)
        documents = documents_of(tensors, [len(samples.sequences[index].ids) for index in batch])
        for index, document in zip(batch, documents, strict=True):
            fault = document_fault(document, samples.sequences[index], control)
            if fault is not None:
                raise _invalid(samples, index, fault)
            shares.append(len(document.targets) / len(document.ids))
            tokens, supervised = tokens + len(document.ids), supervised + len(document.targets)
        regions += _compare_answers(batch, documents, samples, renderer.tokenizer)
    rounded = (round(share, 4) for share in (supervised / tokens, min(shares), max(shares)))
    return MaskCheck(len(shares), regions, tokens, *rounded)


def documents_of(tensors: Tensors, lengths: Sequence[int]) -> list[Document]:
    """A micro-batch's documents; a place that predicts a token of another document is a target at -1.

    Raises:
        MaskInvalid: if the positions or bounds are not those of documents of these lengths.
    """
    width = tensors.ids_BT.shape[1]
    if tensors.bounds is None:
        starts = [row * width for row in range(len(lengths))]
    else:
        starts = tensors.bounds.tolist()[:-1]
        positions = torch.cat([torch.arange(length) for length in lengths])
        if tensors.positions_BT is None or not torch.equal(tensors.positions_BT.flatten(), positions):
            raise MaskInvalid(
                "the positions of a pack do not restart where its documents do, which would see each other"
            )
        if tensors.bounds.diff().tolist() != list(lengths):
            raise MaskInvalid(
                f"a pack of documents of {list(lengths)} tokens has its bounds at {tensors.bounds.tolist()}"
            )
    flat = tensors.ids_BT.flatten().tolist()
    places = tensors.places_S.tolist()
    targets: list[list[int]] = [[] for _ in lengths]
    document = 0
    for place, target in zip(places, tensors.targets_S.tolist(), strict=True):
        while document + 1 < len(starts) and place >= starts[document + 1]:
            document += 1
        inside = place + 1 - starts[document]
        targets[document].append(inside if inside < lengths[document] and flat[place + 1] == target else -1)
    return [
        Document(flat[start : start + length], found)
        for start, length, found in zip(starts, lengths, targets, strict=True)
    ]


def document_fault(document: Document, sample: Sample, control: Set[int | None]) -> str | None:
    """What is wrong with a document in its batch, or None."""
    if document.ids != list(sample.ids):
        return "its tokens in the batch are not those of the row"
    if not document.targets:
        return "nothing of it is supervised"
    if min(document.targets) < 1:
        return "its first token, or one of another document, is a target"
    marked = [document.ids[place] for place in document.targets if document.ids[place] in control]
    if marked:
        return f"the control token {marked[0]}, which no answer may hold, is a target"
    return None


def _compare_answers(batch: Batch, documents: Sequence[Document], samples: Samples, tokenizer: Tokenizer) -> int:
    """How many regions the documents have, all of which are answers of their rows."""
    regions = [document.regions() for document in documents]
    texts = iter(tokenizer.decode_batch([ids for found in regions for ids in found], skip_special_tokens=False))
    for index, document, found in zip(batch, documents, regions, strict=True):
        said, wanted = [next(texts) for _ in found], samples.answers[index]
        if wanted is None:
            if document.targets != list(range(1, len(document.ids))):
                raise _invalid(samples, index, "of a plain text every token but the first is supervised, here not")
            continue
        is_cut = samples.is_cut[index]
        if len(said) != len(wanted) and not (is_cut and len(said) < len(wanted)):
            raise _invalid(samples, index, f"it has {len(said)} supervised regions and {len(wanted)} assistant turns")
        for place, (text, answer) in enumerate(zip(said, wanted, strict=False)):
            if not _is_answer(text, answer, tokenizer, is_cut=is_cut and place == len(said) - 1):
                raise _invalid(samples, index, f"the supervised text {text!r} is not the answer {answer!r}")
    return sum(map(len, regions))


def _is_answer(text: str, answer: str, tokenizer: Tokenizer, *, is_cut: bool) -> bool:
    """Whether the text is the answer as the tokenizer gives it back, or its beginning."""
    begun = text.rstrip(REPLACEMENT)  # a cut may fall inside a character
    if text == answer or (is_cut and answer.startswith(begun)):
        return True
    ids = tokenizer.encode(answer, add_special_tokens=False).ids
    given_back = tokenizer.decode(ids, skip_special_tokens=False)
    return text == given_back or (is_cut and given_back.startswith(begun))


def _invalid(samples: Samples, index: int, fault: str) -> MaskInvalid:
    return MaskInvalid(
        f"row {samples.row_of[index] + 1} of this training, as its batch holds it: {fault}. Nothing was trained; "
        "look at the row, and at the chat template and profile that rendered it"
    )
