"""A training step beside transformers' Cohere2: forward, backward, AdamW; one row, same shape, same machine.

    python -m benchmarks.train_step [--lengths 2048 8192] [--dtype float32] [--rounds 5] [--alone 32768]

Each setting runs in a process of its own and waits while another is measured; settings alternate,
round by round. A time is the median over rounds; a ratio is the median of the ratios within a round.
Peak memory is the high-water mark of the process, interpreter and libraries included. What compiles
was started once before, so that it finds its programs in the cache that jax and torch keep; the peak
of that first start is recorded besides. The lengths of `--alone` are measured without a peer.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from benchmarks.record import RESULTS, machine, now, record
from benchmarks.sides import MODEL, Side, peak, ratio, shape, transformers_config
from rnope_jax import flops
from rnope_jax.config import Config, LossConfig, ModelConfig, ScheduleConfig, StageConfig

OURS = "rnope_jax"

#: Our settings of the model and, as `loss_chunk`, of the loss: the fastest, and that of least memory.
SETTINGS = {
    OURS: {"remat": "attention", "mlp_chunk": 512, "loss_chunk": 512},
    f"{OURS}, sequential": {"remat": "sequential", "mlp_chunk": 256, "loss_chunk": 128},
}

#: transformers' settings: attention, compiled, gradient checkpointing.
PEERS = {
    "transformers eager": ("eager", False, False),
    "transformers sdpa": ("sdpa", False, False),
    "transformers sdpa, compiled": ("sdpa", True, False),
    "transformers sdpa, checkpointing": ("sdpa", False, True),
}

#: A setting that needs so many times what the peer's best needs is left out after its first step.
SLOW = 1.15

#: Bytes that a setting may hold, as a share of the machine's memory, so that the machine itself is not at risk.
SHARE = 0.5

#: Where jax and torch look for the directories in which they keep compiled programs.
CACHES = ("JAX_COMPILATION_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")

#: Seconds of a step, loss.
Timed = tuple[float, float]


def main() -> None:
    """Measures every length, and records it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--lengths", nargs="*", type=int, default=[2048, 8192])
    parser.add_argument("--alone", nargs="*", type=int, default=[])
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    found: list[dict[str, Any]] = []
    before = RESULTS / f"train_step_{arguments.dtype}.json"
    if before.exists() and (known := json.loads(before.read_text())["found"])["ours"] == SETTINGS:
        found = known["cases"]  # of other lengths, as each of them says when
    for length in (*arguments.lengths, *arguments.alone):
        peers = PEERS if length in arguments.lengths else {}
        with tempfile.TemporaryDirectory() as programs:
            os.environ |= {name: f"{programs}/{name}" for name in CACHES}  # the sides inherit them
            case = compare(length, arguments.dtype, peers, arguments.rounds)
        found = sorted([*(each for each in found if each["length"] != length), case], key=lambda each: each["length"])
        print(json.dumps(case, indent=2), flush=True)
        # Written as it grows: a later length may be too much for the machine.
        record("train_step", {"model": shape(MODEL), "ours": SETTINGS, "cases": found}, variant=arguments.dtype)


def compare(length: int, dtype: str, peers: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Times and peak memory of every setting at one length."""
    sides: dict[str, Side] = {}
    first: dict[str, float] = {}
    first_start: dict[str, float] = {}
    for name, settings in SETTINGS.items():
        sides[name], first_start[name] = started_twice(ours, length, settings | {"compute_dtype": dtype})
    result: dict[str, Any] = {"length": length, "dtype": dtype, "rounds": rounds, "date": now(), "left_out": {}}
    for name, setting in peers.items():
        if setting[0] == "eager" and (kept := eager_bytes(length)) > SHARE * machine()["memory_gib"] * 2**30:
            result["left_out"][name] = {"would_keep_gib": round(kept / 2**30)}
        elif setting[1]:
            sides[name], first_start[name] = started_twice(peer, length, dtype, *setting)
        else:
            sides[name] = Side(peer, length, dtype, *setting)
    peers = {name: setting for name, setting in peers.items() if name in sides}
    for name, side in sides.items():
        side.measure("step")  # compiles
        first[name] = side.measure("step")[0]
    best = min((first[name] for name in peers), default=0.0)
    for name in [name for name in peers if first[name] > SLOW * best]:
        result["left_out"][name] = {
            "seconds_of_one_step": round(first[name], 2),
            "peak_gib": sides[name].measure("peak"),
        }
        sides.pop(name).close()
    timed: dict[str, list[Timed]] = {name: [] for name in sides}
    loads = []
    for _ in range(rounds):
        for name, times in timed.items():
            times.append(sides[name].measure("step"))
        loads.append(round(os.getloadavg()[0], 1))
    result["load"] = loads
    own = {name: [seconds for seconds, _ in timed[name]] for name in SETTINGS}
    memory = {name: side.measure("peak") for name, side in sides.items()}
    for name, times in timed.items():
        seconds = [each for each, _ in times]
        median = statistics.median(seconds)
        result[name] = {
            "step_ms": round(1e3 * median, 1),
            "step_ms_least": round(1e3 * min(seconds), 1),
            "tokens_per_second": round(length / median),
            "model_gflops": round(flops.training_flops(MODEL, [length]) / median / 1e9, 1),
            "peak_gib": memory[name],
            "last_loss": round(times[-1][1], 4),
        }
        if name in first_start:
            result[name]["peak_gib_of_first_start"] = first_start[name]
        if name not in SETTINGS:
            result[name]["time_ratio"] = {ours: ratio(seconds, own[ours]) for ours in SETTINGS}
            result[name]["our_memory"] = {ours: round(memory[ours] / memory[name], 2) for ours in SETTINGS}
        sides[name].close()
    return result


def started_twice(begin: Callable[..., Callable[..., Any]], *arguments: Any) -> tuple[Side, float]:
    """A side that finds its programs compiled, and the peak memory in GiB of the first, which compiled them."""
    first = Side(begin, *arguments)
    first.measure("step")
    if begin is peer:
        first.measure("step")  # torch makes the moments at the end of the first step
    memory = first.measure("peak")
    first.close()
    return Side(begin, *arguments), memory


def eager_bytes(length: int) -> int:
    """What attention written out keeps for the backward pass: logits and weights of all pairs, in float32."""
    return 2 * 4 * MODEL.num_layers * MODEL.num_heads * length**2


def ours(
    length: int, settings: dict[str, Any], model: ModelConfig = MODEL, platform: str = "cpu"
) -> Callable[[str], Any]:
    """A step of rnope_jax, as train.py runs it; on the best device that there is if `platform` is empty."""
    os.environ["JAX_PLATFORMS"] = platform

    from rnope_jax.xla_flags import set_environment

    set_environment()
    import jax

    compiled, state, batch = ready(recipe(model, length, settings))
    held = [state]

    def run(what: str) -> Any:
        if what == "peak":
            return peak(jax.devices()[0])
        began = time.perf_counter()
        held[0], metrics = jax.block_until_ready(compiled(held[0], batch))
        return time.perf_counter() - began, float(metrics["loss"])

    return run


def ready(config: Config) -> tuple[Any, Any, Any]:
    """A compiled step on the devices at hand, its first state and a batch of random tokens."""
    import jax
    import numpy as np

    from rnope_jax.data import Batch
    from rnope_jax.sharding import make_mesh
    from rnope_jax.training import host_memory
    from rnope_jax.training.state import init_state
    from rnope_jax.training.step import make_train_step, to_devices

    rows, length = config.stages[0].batch_size, config.stages[0].sequence_length
    tokens = np.random.default_rng(0).integers(3, config.model.vocab_size, (rows, length + 1), np.int32)
    place = np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length))
    given = Batch(tokens[:, :-1], tokens[:, 1:], np.ones((rows, length), np.float32), place, np.ones_like(place))
    mesh = make_mesh(config.mesh)
    with jax.set_mesh(mesh):
        state, batch = init_state(config, mesh), to_devices(given, mesh)
        compiled = make_train_step(config, 0, mesh).lower(state, batch).compile()
    host_memory.release()
    return compiled, state, batch


def recipe(model: ModelConfig, length: int, settings: dict[str, Any], rows: int = 1) -> Config:
    """What is trained: a model with other settings, and with logits for `loss_chunk` positions (512) at a time."""
    settings = dict(settings)
    loss = LossConfig(chunk=settings.pop("loss_chunk", 512))
    model = replace(model, **settings)
    schedule = ScheduleConfig(peak=1e-4, warmup_steps=1)
    stage = StageConfig(name="only", steps=1000, sequence_length=length, batch_size=rows, schedule=schedule)
    return Config(name="train_step", model=model, stages=(stage,), loss=loss)


def peer(
    length: int,
    dtype: str,
    attention: str,
    compiled: bool,
    checkpointing: bool,
    like: ModelConfig = MODEL,
    device: str = "cpu",
) -> Callable[[str], Any]:
    """A step of transformers: under autocast where the type is bfloat16."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers_config(
        like, max_position_embeddings=max(length, 8192), attn_implementation=attention, use_cache=False
    )
    with torch.device(device):
        model = transformers.Cohere2ForCausalLM(config).train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    forward = torch.compile(model) if compiled else model
    ids = torch.randint(3, like.vocab_size, (1, length), device=device)

    def run(what: str) -> Any:
        if what == "peak":
            return peak() if device == "cpu" else round(torch.cuda.max_memory_allocated() / 2**30, 2)
        began = time.perf_counter()
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = forward(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter() - began, float(loss.detach())

    return run


if __name__ == "__main__":
    main()
