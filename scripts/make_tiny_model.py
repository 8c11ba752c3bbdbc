"""Trains a tiny Llama on the documentation that ships with Python, for tests and the quick start.

Run with the engine environment's Python (it has torch and transformers). The text is CPython's own help topics
(`pydoc_data.topics`) under the PSF licence, which the model card names. Weights are never committed: they are made
here, from a seed, in about a minute, and kept as long as this recipe stays the same.

The model speaks, in a fashion, the language of the Python manual. Its use is that it is a real model: every path of a
large one runs over it.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

VOCABULARY_SIZE = 2048
CONTEXT_LENGTH = 2048
HIDDEN_SIZE = 128
LAYERS = 4
HEADS = 2
TRAINING_STEPS = 300
BATCH_SEQUENCES = 16
SEQUENCE_TOKENS = 192
LEARNING_RATE = 3e-3
WARMUP_STEPS = 20
SEED = 20_261_121
THREADS = 2
ANSWER_CHARACTERS = 1200
BEGIN, END, USER, ASSISTANT = "<|begin|>", "<|end|>", "<|user|>", "<|assistant|>"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|assistant|>' if message['role'] == 'assistant' else '<|user|>' }}{{ message['content'] }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
RECIPE_FILE = "quern_recipe.txt"
MODEL_CARD = """---
license: psf-2.0
---
# Quern's tiny model

A Llama of about a million parameters, trained for a minute by scripts/make_tiny_model.py on the help topics of CPython
(`pydoc_data.topics`, Python Software Foundation License). It is good for tests and for nothing else.
"""


def recipe() -> str:
    """Return what decides the result: this program and the Python whose text it reads."""
    return hashlib.sha256(Path(__file__).read_bytes() + sys.version.encode()).hexdigest()


def conversations() -> list[str]:
    """Return the training text: a question and an answer for every part of a help topic."""
    from pydoc_data.topics import topics  # noqa: PLC0415 - only needed when there is no cached model

    texts = []
    for name, text in sorted(topics.items()):
        for start in range(0, len(text), ANSWER_CHARACTERS):
            answer = text[start : start + ANSWER_CHARACTERS]
            question = f"What does Python say about {name}?" if start == 0 else f"Tell me more about {name}."
            texts.append(f"{BEGIN}{USER}{question}{END}{ASSISTANT}{answer}{END}")
    return texts


def train_tokenizer(texts: list[str], directory: Path) -> object:
    """Train a byte-level BPE tokenizer and write its files."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: PLC0415
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[BEGIN, END, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        model_max_length=CONTEXT_LENGTH,
    )
    fast.chat_template = CHAT_TEMPLATE
    # One file for everything: older readers look for the template in tokenizer_config.json only.
    fast.save_pretrained(directory, save_jinja_files=False)
    return fast


def train_model(token_ids: list[int], directory: Path) -> float:
    """Train and write the model; return the last loss (nats per token)."""
    import torch  # noqa: PLC0415
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM  # noqa: PLC0415

    torch.manual_seed(SEED)
    torch.set_num_threads(THREADS)
    config = LlamaConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=HIDDEN_SIZE,
        intermediate_size=3 * HIDDEN_SIZE,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=CONTEXT_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / WARMUP_STEPS) * (1.0 - 0.9 * step / TRAINING_STEPS)
    )
    data = torch.tensor(token_ids)
    picker = random.Random(SEED)  # noqa: S311 - reproducible, not secret
    started, loss_value = time.monotonic(), 0.0
    model.train()
    for step in range(TRAINING_STEPS):
        starts = [picker.randrange(len(token_ids) - SEQUENCE_TOKENS) for _ in range(BATCH_SEQUENCES)]
        batch = torch.stack([data[start : start + SEQUENCE_TOKENS] for start in starts])
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        loss_value = float(loss)
        if (step + 1) % (TRAINING_STEPS // 10) == 0:
            seconds = time.monotonic() - started
            print(
                f"  training: {100 * (step + 1) // TRAINING_STEPS} %, loss {loss_value:.2f}, {seconds:.0f} s",
                flush=True,
            )
    model.to(torch.bfloat16).save_pretrained(directory, safe_serialization=True)
    GenerationConfig(bos_token_id=0, eos_token_id=1, pad_token_id=1).save_pretrained(directory)
    return loss_value


def make(output: Path) -> None:
    """Make the model at `output`, unless it is there already."""
    if (output / RECIPE_FILE).is_file() and (output / RECIPE_FILE).read_text().strip() == recipe():
        print(f"The tiny model is at {output} already.")
        return
    print(f"Training the tiny model ({TRAINING_STEPS} steps)", flush=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".tiny-", dir=output.parent))
    try:
        texts = conversations()
        tokenizer = train_tokenizer(texts, staging)
        random.Random(SEED).shuffle(texts)  # noqa: S311 - reproducible, not secret
        token_ids = tokenizer("".join(texts), add_special_tokens=False)["input_ids"]  # type: ignore[operator]
        loss = train_model(token_ids, staging)
        (staging / "README.md").write_text(MODEL_CARD)
        (staging / RECIPE_FILE).write_text(recipe() + "\n")
        shutil.rmtree(output, ignore_errors=True)
        staging.rename(output)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    size = sum(path.stat().st_size for path in output.iterdir())
    print(f"The tiny model is at {output}: {json.dumps({'loss': round(loss, 3), 'bytes': size})}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Trains the tiny model, or says that it is there already.")
    parser.add_argument("--output", type=Path, required=True, help="directory to make, e.g. .cache/tiny-model")
    arguments = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        make(arguments.output)
    except ImportError as error:
        sys.exit(f"make_tiny_model: {error}; run it with the Python of the engine environment (.engine/cpu/bin/python)")


if __name__ == "__main__":
    main()
