"""Exports a matrix of models, beside the logits and tokens that our model computes.

    python -m tests.parity.by_hand.exports DIR [--trained RUN ...] [--vocabulary ggml-vocab-gpt-2.gguf]

--trained adds runs to the random models. --vocabulary is the file of that name in llama.cpp's
`models/`: with it there are models whose tokenizer llama.cpp's own converter knows.
"""

import argparse
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np
import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from rnope_jax import inference, interop
from rnope_jax import model as transformer
from rnope_jax.config import ModelConfig
from rnope_jax.data import Tokenizer, tokenizer
from rnope_jax.interop.compare import _Rounded
from rnope_jax.interop.gguf import _WORDS
from rnope_jax.layers import LayerKind, nope, qk_norm, rnope, rnope_swa, rope
from rnope_jax.weights import DTYPES, place
from tests.interop.models import make_run, model, small_tokenizer

WINDOW = 16
MADE = 24

ALL = ("transformers", "vllm", "llama.cpp", "gguf")
TEXTS = (
    "def main(argument):\n    return 12345 + 6.75\n",
    "I've said: don't, we'LL see! 'tis  so   \n\n\n x\t\ty",
    "naïve — 東京 \N{ROCKET}‍ кот 1234567 <|eos|> <|endoftext|>",
    "  leading and trailing  ",
)


@dataclass(frozen=True)
class Entry:
    """A model and the forms in which it is exported."""

    model: ModelConfig
    forms: tuple[str, ...] = ("transformers",)
    dtype: str = "float32"
    tokenizer: Callable[[], Tokenizer] = small_tokenizer


def tiny(pattern: tuple[LayerKind, ...], layers: int = 3, **changes) -> ModelConfig:
    """A model for transformers, which takes any sizes."""
    return model(**{"pattern": pattern, "num_layers": layers, **changes})


def small(pattern: tuple[LayerKind, ...], layers: int = 4, **changes) -> ModelConfig:
    """A model for every program; vLLM was seen to take heads of 32 and of 64."""
    sizes = {"d_model": 256, "d_ff": 256, "num_heads": 4, "num_kv_heads": 2, "head_dim": 64, "logit_scale": 0.0625}
    return model(**{"pattern": pattern, "num_layers": layers, **sizes, **changes})


def normed(pattern: tuple[LayerKind, ...]) -> tuple[LayerKind, ...]:
    """The pattern with QK-norm in every layer."""
    return tuple(replace(kind, qk_norm=True) for kind in pattern)


def cut(*steps: pre_tokenizers.PreTokenizer) -> Tokenizer:
    """A byte-level BPE that cuts text as other programs' tokenizers do."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(list(steps))
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|pad|>", "<|bos|>", "<|eos|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    own = [path.read_text() for path in sorted(Path(__file__).parent.glob("*.py"))]
    backend.train_from_iterator([*own, *TEXTS, "12 123 1234 12345 2024 99 100\n" * 9], trainer)
    return Tokenizer(backend, "<|bos|>", "<|eos|>")


def digits() -> Tokenizer:
    """Cuts as Command R does."""
    return cut(pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False))


def words() -> Tokenizer:
    """Cuts as Llama 3 does."""
    return cut(
        pre_tokenizers.Split(Regex(_WORDS), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    )


def gpt2(file: Path) -> Tokenizer:
    """The tokenizer of GPT-2, from the vocabulary that comes with llama.cpp."""
    import gguf

    fields = gguf.GGUFReader(file).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    backend = tokenizers.Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|endoftext|>"])
    return Tokenizer(backend, "<|endoftext|>", "<|endoftext|>")


SWA = rnope_swa(WINDOW, 50_000.0)
MATRIX = {
    # The paper's variants.
    "rope": Entry(small(rope(), 3), ALL[:2] + ALL[3:]),
    "qk-norm": Entry(small(qk_norm(), 3), ALL[:2]),
    "nope": Entry(small(nope(), 3), ALL[:2]),
    "rnope-10k": Entry(tiny(rnope(10_000.0), 4)),
    "rnope-100k": Entry(tiny(rnope(100_000.0), 5)),
    "rnope-2m": Entry(tiny(rnope(2e6, 3), 8)),
    "rnope-4m": Entry(small(rnope(4e6, 3), 8), ALL[:2] + ALL[3:]),
    "swa": Entry(small(SWA, 8), ALL[:2] + ALL[3:]),
    # Other orders, with remainders.
    "swa-remainder": Entry(small(SWA, 6, vocab_size=301), ALL[:2] + ALL[3:]),
    "swa-1:1": Entry(small(rnope_swa(WINDOW, 50_000.0, 1), 5), ALL[:2] + ALL[3:]),
    "swa-global-first": Entry(small(rnope_swa(WINDOW, 50_000.0, 2, "global_first"), 5), ALL[:2] + ALL[3:]),
    "swa-only": Entry(small(SWA[:1], 3), ALL[:2] + ALL[3:]),
    "rnope-1:1": Entry(small(rnope(500_000.0), 4), ALL[:2] + ALL[3:]),
    "full-last": Entry(small((*rope(), *nope(), *nope()), 5), ALL[:2] + ALL[3:]),
    # Sizes.
    "groups-1": Entry(tiny(SWA, 4, num_heads=4, num_kv_heads=4, vocab_size=271, logit_scale=1.0)),
    "groups-4": Entry(tiny(SWA, 4, num_heads=4, num_kv_heads=1, logit_scale=0.0625)),
    "groups-8": Entry(small(SWA, 4, num_heads=8, num_kv_heads=1, head_dim=32), ("transformers", "gguf")),
    "free-head-dim": Entry(small(SWA, 4, num_heads=2, head_dim=64), ALL[:2]),
    "mup": Entry(small(SWA, 4, mup_base_width=64, logit_scale=0.25), ALL[:2] + ALL[3:]),
    "window-1": Entry(small((LayerKind(50_000.0, 1), *nope()), 4), ("transformers", "gguf")),
    "window-2": Entry(small((LayerKind(50_000.0, 2), *nope()), 4), ALL[:2] + ALL[3:]),
    "bfloat16": Entry(tiny(SWA, 5), dtype="bfloat16"),
    # What only one program has.
    "qk-norm-swa": Entry(small(normed(SWA), 8), ("vllm",)),
    # Tokenizers.
    "cut-command-r": Entry(small(SWA, 4, vocab_size=600), ("transformers", "gguf"), tokenizer=digits),
    "cut-llama": Entry(small(SWA, 4, vocab_size=605), ("transformers", "gguf"), tokenizer=words),
}


def known(vocabulary: Path) -> dict[str, Entry]:
    """Models for llama.cpp's own converter."""
    sizes = {"vocab_size": 50304, "d_model": 64, "num_heads": 4, "head_dim": 16, "d_ff": 96, "logit_scale": 0.125}
    patterns = {"stock-swa": (SWA, 10), "stock-rope": (rope(), 3), "stock-rnope": (rnope(4e6, 3), 8)}
    return {
        name: Entry(model(pattern=pattern, num_layers=layers, **sizes), ALL, tokenizer=lambda: gpt2(vocabulary))
        for name, (pattern, layers) in patterns.items()
    }


def export(run: Path, out: Path, forms: tuple[str, ...], dtype: str) -> None:
    """Writes the forms of a run, and what our model makes of it."""
    for form in forms:
        print(f"{out.name}: {form}", flush=True)
        if form == "gguf":
            interop.export_gguf(run, out / "gguf" / "model.gguf", dtype=dtype, check=False, report=lambda _: None)
        else:
            interop.export(run, out / form, target=form, dtype=dtype, check=False, report=lambda _: None)
    source = interop.open_source(run)
    config = replace(source.model, compute_dtype="float32", attention="blockwise", remat="none")
    weights = _Rounded(source.weights, DTYPES[dtype])
    params = place(weights, config, jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    window = max((kind.window or 0 for kind in config.pattern), default=0) or WINDOW
    own = tokenizer.load(source.tokenizer)
    tokens = np.random.default_rng(1).integers(0, own.vocab_size, 3 * window + 60)
    logits = jax.jit(lambda params: transformer.bind(config, params)(tokens[None]))(params)[0]
    prompt = tokens[: 2 * window + 8]
    made = inference.generate(config, params, [prompt.tolist()], MADE)
    np.savez(
        out / "reference.npz", tokens=tokens, logits=np.asarray(logits), prompt=prompt, made=np.concatenate([*made])
    )
    encoded = {text: [own.bos_id, *own.encode(text)] for text in TEXTS}
    (out / "encoded.json").write_text(json.dumps(encoded))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--trained", nargs="*", type=Path, default=[])
    parser.add_argument("--vocabulary", type=Path)
    asked = parser.parse_args()
    matrix = MATRIX | (known(asked.vocabulary) if asked.vocabulary else {})
    for name, entry in matrix.items():
        if asked.only and name not in asked.only:
            continue
        out = asked.directory / name
        shutil.rmtree(out, ignore_errors=True)
        run = make_run(out / "run", entry.model)
        shutil.rmtree(run.tokenizer)
        entry.tokenizer().save(run.tokenizer)
        export(run.path, out, entry.forms, entry.dtype)
    for run in asked.trained:
        out = asked.directory / f"trained-{run.name}"
        shutil.rmtree(out, ignore_errors=True)
        export(run, out, (*ALL[:2], ALL[3]), "float32")


if __name__ == "__main__":
    main()
