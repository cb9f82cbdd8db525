"""The built-in preset `tiny`: a real Qwen3 of about a million parameters, made on the spot.

Same architecture class, file layout, special tokens and template behaviour as Qwen3-0.6B, so
everything downstream runs the code it runs for the real model. Deterministic from the seed.
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
PLAIN_TOKENS = ("<think>", "</think>", "⓪", "①")
"""Added tokens that are content, not control: they survive decoding."""
VOCABULARY_SIZE = 512

CHAT_TEMPLATE = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}
{{- '<think>\\n\\n</think>\\n\\n' }}
{%- endif %}
{%- endif %}
"""

_CORPUS = (
    "system user assistant add subtract what is the sum of and the difference between",
    "A small model answers questions. It shows its work, and then it gives the result.",
    "You are a helpful assistant. Please answer the question. Think before you answer.",
    "The quick brown fox jumps over the lazy dog, and then it rests in the warm sun.",
    "One two three four five six seven eight nine ten eleven twelve numbers and words.",
    "Which data made which model is one click away, and every number has an interval.",
)
"""Learned once per call; holds no problem of any skill."""


def architecture() -> dict[str, Any]:
    """Keyword arguments of `Qwen3Config`."""
    return {
        "vocab_size": VOCABULARY_SIZE,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 2048,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},  # short texts: low base, learned sooner
        "tie_word_embeddings": True,
        "use_cache": True,
    }


def build_tokenizer() -> Tokenizer:
    """A byte-level BPE of exactly `VOCABULARY_SIZE` tokens; every text can be encoded."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE - len(SPECIAL_TOKENS) - len(PLAIN_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in PLAIN_TOKENS])
    return tokenizer


def write_tiny_model(folder: Path, seed: int) -> None:
    """Write config, weights, tokenizer and template of the preset into an existing folder."""
    import torch
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()

    tokenizer = build_tokenizer()
    end, pad = (tokenizer.token_to_id(token) for token in ("<|im_end|>", "<|endoftext|>"))
    config = Qwen3Config(**architecture(), eos_token_id=end, pad_token_id=pad, bos_token_id=None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=pad)
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "bos_token": None,
        "model_max_length": architecture()["max_position_embeddings"],
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config, indent=2) + "\n", encoding="utf-8")
