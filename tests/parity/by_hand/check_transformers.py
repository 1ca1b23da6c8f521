"""Checks the exports with whichever transformers can be imported: logits, greedy tokens, tokenizers.

    python -m tests.parity.by_hand.check_transformers DIR [MODEL ...]

Other versions are put in front of the path: PYTHONPATH=WHERE, after
`pip install --target WHERE --no-deps transformers==4.57.6 'huggingface-hub<1' 'tokenizers<0.23'`.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers

from tests.parity.by_hand.report import Reference, Table, references

VERSION = tuple(int(part) for part in transformers.__version__.split(".")[:2])
DTYPE = "dtype" if VERSION >= (5, 0) else "torch_dtype"
PROGRAM = f"transformers {transformers.__version__}"
LIMIT = 1e-4


def check(reference: Reference, table: Table) -> None:
    path = reference.path / "transformers"
    config = json.loads((path / "config.json").read_text())
    tokens = torch.tensor(reference.tokens)[None]
    for attention in ("eager", "sdpa"):
        options = {"attn_implementation": attention, DTYPE: torch.float32}
        try:
            with torch.no_grad():
                model = transformers.AutoModelForCausalLM.from_pretrained(path, **options).eval()
                logits = model(input_ids=tokens, use_cache=False).logits[0].numpy()
        except TypeError as error:
            # Before layer_types there was only a period: other orders must not be read as something else.
            old = VERSION < (4, 53) and config["sliding_window_pattern"] is None
            table.note(reference.name, PROGRAM, attention, f"refused: {error}"[:40], old)
            continue
        error = float(np.abs(logits - reference.logits).max())
        table.add(reference.name, PROGRAM, f"logits {attention}", error, LIMIT)
        if VERSION >= (4, 53):
            prompt = torch.tensor(reference.prompt)[None]
            made = model.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=len(reference.made),
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )[0, prompt.shape[1] :]
            table.equal(reference.name, PROGRAM, f"greedy {attention}", made.tolist(), reference.made)
    encode = transformers.AutoTokenizer.from_pretrained(path)
    wrong = [
        text for text, ids in reference.encoded.items() if encode(text, split_special_tokens=True).input_ids != ids
    ]
    table.equal(reference.name, PROGRAM, "tokenizer", wrong, [])


def main() -> None:
    transformers.utils.logging.set_verbosity_error()
    table = Table()
    for reference in references(Path(sys.argv[1]), "transformers", sys.argv[2:]):
        check(reference, table)
    table.close()


if __name__ == "__main__":
    main()
