"""Prefill and decoding beside transformers' Cohere2 on the same weights, float32.

    python -m benchmarks.decode WORK [--cases 1x1024 1x2048 1x4096 8x2048] [--tokens 32] [--rounds 5]

Each side runs in a process of its own and waits while the other is measured; the settings of the
peer alternate with ours, round by round. A time is the median over rounds, beside the least of
them; a ratio is the median of the ratios within a round, so that a busy minute touches both sides.
A first call of everything is not timed, for it compiles; a setting of the peer that is far slower in
it than another is left out of the rounds. The machine's load is recorded with each case: a busy
machine slows programs whose threads wait for each other more than others.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import sides
from benchmarks.record import record
from benchmarks.sides import Side, ratio, shape

MODEL = replace(sides.MODEL, compute_dtype="float32", remat="none")

OURS = "rnope_jax"

#: transformers' settings: attention, cache.
PEERS = {
    "transformers eager": ("eager", None),
    "transformers sdpa": ("sdpa", None),
    "transformers sdpa, static cache": ("sdpa", "static"),
}

#: A setting that needs so many times what the peer's best needs is left out.
SLOW = 1.6

#: Seconds to the first token, seconds for each token after it, the tokens.
Timed = tuple[float, float, list[list[int]]]


def main() -> None:
    """Makes the weights, starts both sides, measures them in turn."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--cases", nargs="+", default=["1x1024", "1x2048", "1x4096", "8x2048"], help="BATCHxPROMPT")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    exported = arguments.work / "exported"
    if not exported.exists():
        make_weights(arguments.work / "run", exported)
    sides = [Side(ours, exported), Side(peer, exported)]
    found = []
    for case in arguments.cases:
        batch, context = map(int, case.split("x"))
        cases = {OURS: sides[0], **dict.fromkeys(PEERS, sides[1])}
        found.append(compare(cases, batch, context, arguments.tokens, arguments.rounds))
        print(json.dumps(found[-1], indent=2), flush=True)
    for side in sides:
        side.close()
    record("decode", {"model": shape(MODEL), "cases": found})


def make_weights(run_path: Path, exported: Path) -> None:
    """A run with one checkpoint of random weights, and its export."""
    import jax.numpy as jnp

    from rnope_jax import interop, model
    from rnope_jax.checkpoint import Checkpoints
    from rnope_jax.config import CheckpointConfig, Config, ScheduleConfig, StageConfig
    from rnope_jax.run import Run

    run = Run(run_path)
    run_path.mkdir(parents=True)
    stage = StageConfig(name="only", steps=1, sequence_length=8192, batch_size=1, schedule=ScheduleConfig(peak=1e-3))
    run.record(Config(name="decode", model=MODEL, stages=(stage,), run_dir=str(run_path)))
    # Larger than training starts with: the tokens made then differ from each other.
    params = {name: 2 * value if value.ndim > 2 else value for name, value in model.init(MODEL, 0).items()}
    checkpoints = Checkpoints(run.checkpoints, CheckpointConfig())
    checkpoints.save(1, {"params": params, "step": jnp.int32(1)}, {"step": 1})
    checkpoints.close()
    interop.export(run_path, exported, dtype="float32", check=False)


def compare(cases: dict[str, Side], batch: int, context: int, tokens: int, rounds: int) -> dict[str, Any]:
    """Times of every setting on the same prompts, and the ratios to ours."""
    prompts = np.random.default_rng(0).integers(3, MODEL.vocab_size, (batch, context))
    begun = {name: side.measure(name, prompts, tokens) for name, side in cases.items()}
    whole = {name: first + each * tokens for name, (first, each, _) in begun.items() if name != OURS}
    slow = [name for name in whole if whole[name] > SLOW * min(whole.values())]
    timed: dict[str, list[Timed]] = {name: [] for name in cases if name not in slow}
    loads = []
    for _ in range(rounds):
        for name, found in timed.items():
            found.append(cases[name].measure(name, prompts, tokens))
        loads.append(round(os.getloadavg()[0], 1))
    result: dict[str, Any] = {"batch": batch, "context": context, "tokens": tokens, "rounds": rounds, "load": loads}
    result["left_out"] = {name: {"seconds_of_one_call": round(whole[name], 1)} for name in slow}
    ours = [times[:2] for times in timed[OURS]]
    for name, found in timed.items():
        result[name] = {"same_tokens": float(np.mean(np.array(begun[name][2]) == np.array(begun[OURS][2])))}
        for index, what in enumerate(("first_token", "token")):
            seconds, own = [times[index] for times in found], [times[index] for times in ours]
            result[name][f"{what}_ms"] = round(1e3 * statistics.median(seconds), 2)
            result[name][f"{what}_ms_least"] = round(1e3 * min(seconds), 2)
            if name != OURS:
                result[name][f"{what}_ratio"] = ratio(seconds, own)
                result[name][f"{what}_ratio_of_least"] = round(min(seconds) / min(own), 2)
    return result


def ours(exported: Path, platform: str = "cpu", load: Callable[[], Any] | None = None) -> Callable[..., Timed]:
    """Measures rnope_jax; with what `load` returns, if it is given, on the best device if `platform` is empty."""
    os.environ["JAX_PLATFORMS"] = platform
    from rnope_jax import interop
    from rnope_jax.inference import generate
    from rnope_jax.inference.layout import read

    if load is None:
        source = interop.open_source(exported)
        config, params = read(source.weights, source.model, "float32")
    else:
        config, params = load()

    def run(name: str, prompts: np.ndarray, tokens: int) -> Timed:
        began, times, columns = time.perf_counter(), [], []
        for column in generate(config, params, prompts.tolist(), tokens):
            times.append(time.perf_counter())
            columns.append(column.tolist())
        return times[0] - began, (times[-1] - times[0]) / (tokens - 1), columns

    return run


def peer(exported: Path, load: Callable[[], Any] | None = None) -> Callable[..., Timed]:
    """Measures transformers; with what `load` returns, if it is given."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    model = load() if load else transformers.AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32).eval()

    def run(name: str, prompts: np.ndarray, tokens: int) -> Timed:
        attention, cache = PEERS[name]
        model.set_attn_implementation(attention)
        ids = torch.tensor(prompts, device=model.device)
        times: list[float] = []

        def stop(ids: Any, scores: Any, **_: Any) -> Any:
            if ids.is_cuda:
                torch.cuda.synchronize()
            times.append(time.perf_counter())
            return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)

        began = time.perf_counter()
        made = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            stopping_criteria=transformers.StoppingCriteriaList([stop]),
            **({"cache_implementation": cache} if cache else {}),
        )
        columns = made[:, prompts.shape[1] :].T.tolist()
        return times[0] - began, (times[-1] - times[0]) / (tokens - 1), columns

    return run


if __name__ == "__main__":
    main()
