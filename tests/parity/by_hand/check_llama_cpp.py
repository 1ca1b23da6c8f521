"""Checks GGUF files with llama.cpp: logits, greedy tokens, tokenizers.

    python -m tests.parity.by_hand.check_llama_cpp DIR [MODEL ...] [--converter convert_hf_to_gguf.py]

Needs llama-cpp-python (0.3.36 was used; it compiles for a quarter of an hour). --converter is
llama.cpp's own, in `vendor/llama.cpp` of its source package: with it the exports for llama.cpp are
converted and checked too.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import llama_cpp
import numpy as np

from tests.parity.by_hand.report import Reference, Table, references

PROGRAM = f"llama.cpp ({llama_cpp.__version__})"
#: Its keys and values are kept in half precision.
LIMIT = 0.02


def check(file: Path, writer: str, reference: Reference, table: Table) -> None:
    program = f"{PROGRAM} {writer}"
    length = max(len(reference.tokens), len(reference.prompt) + len(reference.made))
    try:
        theirs = llama_cpp.Llama(
            str(file),
            n_ctx=length,
            logits_all=True,
            verbose=False,
            n_gpu_layers=0,
            # The model card asks for it where the converter has written the file.
            kv_overrides={"tokenizer.ggml.add_bos_token": True} if writer == "stock" else None,
        )
    except ValueError as error:
        table.note(reference.name, program, "load", str(error)[:40], False)
        return
    theirs.eval(reference.tokens.tolist())
    logits = np.array(theirs.scores[: len(reference.tokens)])
    table.add(reference.name, program, "logits", float(np.abs(logits - reference.logits).max()), LIMIT)
    theirs.reset()
    theirs.eval(reference.prompt.tolist())
    made = []
    for _ in reference.made:
        made.append(int(np.argmax(theirs.scores[theirs.n_tokens - 1])))
        theirs.eval(made[-1:])
    table.equal(reference.name, program, "greedy", made, reference.made)
    encoded = {text: theirs.tokenize(text.encode(), add_bos=True, special=False) for text in reference.encoded}
    wrong = [text for text, ids in reference.encoded.items() if encoded[text] != ids]
    table.equal(reference.name, program, "tokenizer", wrong, [])
    theirs.close()


def convert(converter: Path, made: Path, file: Path) -> str | None:
    """Runs llama.cpp's converter; returns the last line of its complaint."""
    command = [sys.executable, str(converter), str(made), "--outfile", str(file), "--outtype", "f32"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stderr.strip().splitlines()[-1][:60] if done.returncode else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--converter", type=Path)
    asked = parser.parse_args()
    table = Table()
    for reference in references(asked.directory, "gguf", asked.models):
        check(reference.path / "gguf" / "model.gguf", "ours", reference, table)
    for reference in references(asked.directory, "llama.cpp", asked.models) if asked.converter else ():
        with tempfile.TemporaryDirectory() as temporary:
            file = Path(temporary) / "model.gguf"
            if complaint := convert(asked.converter, reference.path / "llama.cpp", file):
                table.note(reference.name, f"{PROGRAM} stock", "convert", complaint, False)
            else:
                check(file, "stock", reference, table)
    table.close()


if __name__ == "__main__":
    main()
