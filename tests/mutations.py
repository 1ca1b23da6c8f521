"""Deliberate breakages of the model and the trainer, each with a test of the default suite that notices it.

    python -m tests.mutations                  # makes each of them in a copy of the tree, and runs its test
    python -m tests.mutations flops segments   # some of them

It ends with 0 if every test passes on the whole tree and fails on the broken one.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]

#: What a copy of the tree needs not.
_LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "runs", "build", "results", "*.egg-info")


class Mutation(NamedTuple):
    """A piece of a file, what takes its place, and a test that then fails."""

    what: str
    file: str
    old: str
    new: str
    test: str


MUTATIONS = {
    "window": Mutation(
        "a window reaches one key too far",
        "rnope_jax/attention/spec.py",
        "key_index >= query_index - reach(window)",
        "key_index >= query_index - reach(window) - 1",
        "tests/attention/test_reference.py::test_reference_is_softmax_over_the_last_window_keys_of_the_document",
    ),
    "rope": Mutation(
        "RoPE on the NoPE layers as well",
        "rnope_jax/model/block.py",
        "if kind.rope_theta is not None:\n"
        "            q, k = (rotate(heads, rows.rotations[kind.rope_theta]) for heads in (q, k))",
        "if rows.rotations:\n"
        "            q, k = (rotate(heads, next(iter(rows.rotations.values()))) for heads in (q, k))",
        "tests/model/test_block.py::test_block_equals_its_definition",
    ),
    "cache": Mutation(
        "layer 0's cache for all layers",
        "rnope_jax/model/transformer.py",
        "caches.empty(kind, batch, context, config.num_kv_heads, config.head_dim, dtype) for kind in pattern",
        "caches.empty(config.pattern[0], batch, context, config.num_kv_heads, config.head_dim, dtype) for _ in pattern",
        "tests/model/test_cache.py::test_cached_equals_whole_rows_in_every_variant",
    ),
    "segments": Mutation(
        "attention sees the other documents of a row",
        "rnope_jax/model/block.py",
        "segment_ids=rows.segment_ids, backend",
        "segment_ids=None, backend",
        "tests/model/test_packing.py::test_packed_documents_equal_separate_ones",
    ),
    "splash": Mutation(
        "one key too many in the TPU kernels",
        "rnope_jax/attention/splash_masks.py",
        "partial(visible, window=window)",
        "partial(visible, window=window and window + 1)",
        "tests/attention/test_splash.py::test_splash_equals_reference_at_the_edges_of_blocks",
    ),
    "theta": Mutation(
        "an export that forgets the RoPE base",
        "rnope_jax/interop/architecture.py",
        "theta = found.theta or 10_000.0",
        "theta = 10_000.0",
        "tests/interop/test_export_parity.py::test_config_json_says_everything_in_the_words_of_every_generation",
    ),
    "flops": Mutation(
        "FLOPs of window layers counted as those of full ones",
        "rnope_jax/flops.py",
        "pairs = sum(kind.attention_pairs(int(length)) for length in lengths)",
        "pairs = sum(int(length) * (int(length) + 1) // 2 for length in lengths)",
        "tests/test_flops.py::test_forward_flops_equal_a_count_by_hand",
    ),
    "optimizer": Mutation(
        "optimizer state whole on every device",
        "rnope_jax/training/state.py",
        'name = getattr(path[-1], "key", None)',
        'name = getattr(path[-1], "key", None) if path[0].name == "params" else None',
        "tests/training/test_mesh.py::test_optimizer_state_lies_with_its_parameter",
    ),
    "restore": Mutation(
        "a checkpoint is loaded without a look at its checksums",
        "rnope_jax/checkpoint/reading.py",
        "if finding.damage is None:\n            return step",
        "if finding:\n            return step",
        "tests/checkpoint/test_recovery.py::test_the_step_before_comes_back_bit_for_bit_whatever_file_is_hit",
    ),
    "accumulation": Mutation(
        "micro-batches weigh the same, however many tokens they count",
        "rnope_jax/training/step.py",
        "return jax.tree.map(jnp.add, total, jax.grad(objective, has_aux=True)(params, part)), None",
        "gradient, sums = jax.grad(objective, has_aux=True)(params, part)\n"
        "            even = batch.loss_mask.sum() / stage.accumulation / sums.weight\n"
        "            gradient = jax.tree.map(lambda x: x * even, gradient)\n"
        "            return jax.tree.map(jnp.add, total, (gradient, sums)), None",
        "tests/training/test_step.py::test_micro_batches_give_the_update_of_the_whole_batch",
    ),
}


def applied(mutation: Mutation, text: str) -> str:
    """The text of its file, broken.

    Raises:
      ValueError: if there is not exactly one such piece to replace.
    """
    if text.count(mutation.old) != 1:
        raise ValueError(f"{mutation.file} has {text.count(mutation.old)} of {mutation.old!r}, where one was meant")
    return text.replace(mutation.old, mutation.new)


def _fails(tree: Path, test: str) -> str:
    """The first failure of a test in a tree; empty if it passes.

    Raises:
      RuntimeError: if it could not be run.
    """
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--exitfirst", "--tb=no", test]
    ran = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    if ran.returncode not in (0, 1):
        raise RuntimeError(f"{test} cannot be run:\n{ran.stdout}{ran.stderr}")
    return next((line for line in ran.stdout.splitlines() if line.startswith("FAILED")), "")


def main(*names: str) -> int:
    """Tries mutations by name, all of them by default; how many are not noticed."""
    missed = 0
    with tempfile.TemporaryDirectory() as temporary:
        tree = Path(temporary) / "tree"
        shutil.copytree(ROOT, tree, ignore=_LEFT_OUT)
        if (compiled := ROOT / ".pytest_cache").is_dir():
            (tree / ".pytest_cache").symlink_to(compiled)
        for name in names or MUTATIONS:
            mutation = MUTATIONS[name]
            file, test = tree / mutation.file, mutation.test
            text = file.read_text()
            whole = _fails(tree, test)
            file.write_text(applied(mutation, text))
            broken = _fails(tree, test)
            file.write_text(text)
            missed += bool(whole) or not broken
            verdict = f"fails on the whole tree: {whole}" if whole else broken or f"NOT NOTICED by {test}"
            print(f"{name}: {mutation.what}\n  {verdict}", flush=True)
    return missed


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
