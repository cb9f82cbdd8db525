"""What is recorded of a model is what it says, as it was saved."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from gpu_assets.base_model.fingerprint import compute_fingerprint
from gpu_assets.base_model.tiny import write_tiny_model
from gpu_assets.errors import ArtifactInvalid
from gpu_assets.rendering import Renderer
from resources.fingerprint import CONTINUATION, CUTS, SMOKE_PROMPTS, TOP, Fingerprint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tiny_model(tmp_path, 3)
    return tmp_path


def test_it_has_the_likeliest_next_tokens_after_every_prompt_and_every_beginning_of_an_answer(folder: Path) -> None:
    renderer = Renderer.load(folder, "plain")
    fingerprint = compute_fingerprint(folder, renderer)
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    (answer,) = renderer.encode_batch([CONTINUATION])
    asked = [(text, cut) for text in SMOKE_PROMPTS for cut in CUTS]
    assert len(asked) <= 16
    assert len(fingerprint.prompts) == len(asked)
    assert len(json.dumps(fingerprint.to_json())) < 8192
    for prompt, (text, cut) in zip(fingerprint.prompts, asked, strict=True):
        assert prompt.prompt_ids == renderer.prompt_ids([{"role": "user", "content": text}]) + answer[:cut]
        with torch.inference_mode():
            logprobs = model(torch.tensor([prompt.prompt_ids])).logits[0, -1].log_softmax(-1)
        assert [token for token, _ in prompt.next_tokens] == logprobs.topk(TOP).indices.tolist()
        assert [value for _, value in prompt.next_tokens] == pytest.approx(logprobs.topk(TOP).values.tolist(), abs=1e-4)


def test_weights_of_fewer_bits_are_computed_with_in_float32(folder: Path) -> None:
    path = folder / "model.safetensors"
    save_file({name: weight.bfloat16() for name, weight in load_file(path).items()}, path, metadata={"format": "pt"})
    in_bf16 = compute_fingerprint(folder, Renderer.load(folder, "plain"))
    save_file({name: weight.float() for name, weight in load_file(path).items()}, path, metadata={"format": "pt"})
    assert compute_fingerprint(folder, Renderer.load(folder, "plain")) == in_bf16


def test_a_model_whose_numbers_are_not_finite_is_not_published(folder: Path) -> None:
    path = folder / "model.safetensors"
    save_file({name: weight * math.nan for name, weight in load_file(path).items()}, path, metadata={"format": "pt"})
    with pytest.raises(ArtifactInvalid, match="numbers that are not finite; it is not published"):
        compute_fingerprint(folder, Renderer.load(folder, "plain"))


def test_the_preset_has_one_in_its_manifest(tiny_folder: Path) -> None:
    manifest = json.loads((tiny_folder / "manifest.json").read_text())
    fingerprint = compute_fingerprint(tiny_folder, Renderer.load(tiny_folder, "plain"))
    assert manifest["fingerprint"] == json.loads(json.dumps(fingerprint.to_json()))
    assert Fingerprint.__struct_fields__ == tuple(manifest["fingerprint"])
