"""From published weights to a run that trains, stops, moves, goes on and is exported again."""

import json
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest

from rnope_jax import data, interop, model
from rnope_jax.checkpoint import Checkpoints, saved_weights
from rnope_jax.cli.config_file import load
from rnope_jax.config import CheckpointConfig, Config, InitConfig
from rnope_jax.errors import UserError
from rnope_jax.inference import Sampling
from rnope_jax.inference import load as load_text
from rnope_jax.interop import open_source, verify
from rnope_jax.interop.directory import open_directory
from rnope_jax.run import Run, open_run
from rnope_jax.training import start
from rnope_jax.training.start import check_source, restore_or_init
from rnope_jax.training.state import begin, state_shardings
from tests.helpers import random_params
from tests.interop.models import make_run
from tests.training.conftest import corpus
from tests.training.runs import run_config, train, tree_hash
from tests.training.steps import mesh_of

__all__ = ["corpus"]  # a fixture


@pytest.fixture(scope="session")
def params(corpus):
    return random_params(run_config(corpus, "").model, gain=0.5)


@pytest.fixture(scope="session")
def published(corpus, params, tmp_path_factory):
    """Hugging Face files of a model with known parameters."""
    directory = tmp_path_factory.mktemp("published")
    run = make_run(directory / "run", run_config(corpus, "").model, params=params)
    interop.export(run.path, directory / "files", dtype="float32", check=False, report=lambda line: None)
    return directory / "files"


@pytest.fixture(scope="session")
def imported(published, tmp_path_factory):
    """A run of them that was not trained yet. Only to be read."""
    run = tmp_path_factory.mktemp("imported") / "run"
    interop.import_directory(published, run, report=lambda line: None)
    return run


def plan(run, corpus, **changes) -> Config:
    """What the run would train: as on the command line, by fields that are given anew."""
    own, wanted = load(str(run)), run_config(corpus, "")
    return replace(
        own,
        model=replace(own.model, compute_dtype="float32", remat="none"),
        stages=wanted.stages,
        data=replace(own.data, corpus=wanted.data.corpus, held_out_fraction=0.2),
        evaluation=wanted.evaluation,
        checkpoint=CheckpointConfig(every=3, keep=9),
        logging=wanted.logging,
        **changes,
    )


def go(config, **how):
    """As train.py does."""
    data.check(config)
    check_source(config)
    return train(config, **how)


@pytest.fixture(scope="session")
def trained(imported, corpus, tmp_path_factory):
    """The imported run, trained without an interruption. Only to be read."""
    run = shutil.copytree(imported, tmp_path_factory.mktemp("trained") / "run")
    return go(plan(run, corpus))


def assert_same_state(actual, expected) -> None:
    pairs = zip(*(jax.tree_util.tree_leaves_with_path(state) for state in (actual, expected)), strict=True)
    for (path, a), (_, b) in pairs:
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=jax.tree_util.keystr(path))


def assert_same_tensors(actual, expected) -> None:
    mine, theirs = open_directory(actual), open_directory(expected)
    assert mine.model == theirs.model
    for name in model.describe(theirs.model):
        np.testing.assert_array_equal(mine.weights.read(name), theirs.weights.read(name), err_msg=name)


def quiet(line: str) -> None:
    pass


def losses(run) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_an_imported_run_says_what_it_is(imported):
    config = Run(imported).config
    assert config.init == InitConfig(source=str(imported), window_convention="transformers")
    assert config.data.tokenizer == str(imported / "tokenizer")
    assert load(f"{imported}/") == replace(config, run_dir=str(imported))


def test_the_window_convention_is_recorded_and_used(published, tmp_path):
    interop.import_directory(published, tmp_path / "run", convention="vllm", report=quiet)
    config = Run(tmp_path / "run").config
    assert config.init.window_convention == "vllm"
    assert config.model.pattern[0].window == 6
    assert open_source(tmp_path / "run").model.pattern[0].window == 6
    interop.export(tmp_path / "run", tmp_path / "out", target="vllm", check=False, report=quiet)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["sliding_window"] == 5


def test_it_generates_and_exports_before_it_is_trained(imported, published, tmp_path):
    text = load_text(imported)
    assert text.step == 0
    greedy = Sampling(temperature=0.0)
    assert text.complete(["the river"], 12, greedy) == load_text(published).complete(["the river"], 12, greedy)
    interop.export(imported, tmp_path / "out", check=False, report=quiet)
    assert_same_tensors(tmp_path / "out", published)


def test_training_begins_from_the_weights(trained, params, corpus, tmp_path, monkeypatch):
    """As from the same parameters placed by hand in a run of our own, bit for bit."""
    said = [line for line in trained.said if "starting from" in line]
    assert said == [f"starting from the parameters of {trained.run.path}"]

    def by_hand(config, mesh):
        return jax.device_put(begin(config, params), state_shardings(config, mesh))

    config = plan(trained.run.path, corpus, init=InitConfig(), run_dir=str(tmp_path / "run"))
    with monkeypatch.context() as patch:
        patch.setattr("tests.training.runs.init_state", by_hand)
        patch.setattr("tests.training.runs._initial", lambda config, mesh: jax.device_get(by_hand(config, mesh)))
        hand = train(config)
    assert "starting from" not in " ".join(hand.said)
    assert_same_state(trained.state, hand.state)


def test_the_first_loss_is_that_of_pytorch(trained, published):
    """Each document of the first batch by itself through transformers."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(published).eval()
    corpus = trained.trainer.corpus
    batch = corpus.train[0].batch(0)
    total = count = 0.0
    for row in range(batch.tokens.shape[0]):
        for segment in set(batch.segment_ids[row].tolist()) - {0}:
            where = batch.segment_ids[row] == segment
            ids, targets = (torch.tensor(part[row][where], dtype=torch.long) for part in (batch.tokens, batch.targets))
            with torch.no_grad():
                logits = theirs(input_ids=ids[None], use_cache=False).logits[0].double()
            each = torch.nn.functional.cross_entropy(logits, targets, reduction="none").numpy()
            weight = batch.loss_mask[row][where]
            total, count = total + float((each * weight).sum()), count + float(weight.sum())
    first = next(line for line in losses(trained.run.path) if line["step"] == 1 and "loss" in line)
    assert abs(first["loss"] - total / count) < 1e-5 * total / count


def test_an_interrupted_run_ends_as_the_unbroken_one_also_elsewhere(imported, trained, corpus, tmp_path):
    """Stopped before and between checkpoints, moved meanwhile, named with and without a slash."""
    run = shutil.copytree(imported, tmp_path / "run")
    go(plan(run, corpus), stop_at=2)
    shutil.copytree(run, tmp_path / "kept")
    moved = run.rename(tmp_path / "moved")
    assert go(load(f"{moved}/"), stop_at=7).said[0].startswith("resuming after step")
    moved = moved.rename(tmp_path / "again")
    assert_same_state(go(load(str(moved))).state, trained.state)
    assert [line["loss"] for line in losses(moved) if "loss" in line] == [
        line["loss"] for line in losses(trained.run.path) if "loss" in line
    ]
    config = Run(moved).config
    assert (config.init.source, config.data.tokenizer) == (str(moved), str(moved / "tokenizer"))


def test_a_moved_run_generates_and_exports(imported, trained, tmp_path, monkeypatch):
    for number, (run, step) in enumerate(((imported, 0), (trained.run.path, 10))):
        moved = shutil.copytree(run, tmp_path / str(number) / "moved")
        monkeypatch.chdir(moved.parent)
        assert load_text(moved.relative_to(moved.parent)).step == step
        interop.export(moved.relative_to(moved.parent), tmp_path / f"out{number}", check=False, report=quiet)
        interop.export(run, tmp_path / f"expected{number}", check=False, report=quiet)
        assert_same_tensors(tmp_path / f"out{number}", tmp_path / f"expected{number}")


def test_a_run_imported_by_a_relative_path_is_trained_from_elsewhere(published, corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    interop.import_directory(published, tmp_path.relative_to(tmp_path) / "run", report=quiet)
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    for spelled in ("../run", tmp_path / "run"):
        look_into(plan(spelled, corpus))
    # Both spellings at once: taken from one, trained in the other.
    look_into(replace(plan(tmp_path / "run", corpus), run_dir="../run"))


def test_another_run_directory_trains_from_the_same_weights(imported, trained, corpus, tmp_path):
    before = tree_hash(imported)
    elsewhere = go(replace(plan(imported, corpus), run_dir=str(tmp_path / "elsewhere")))
    assert_same_state(elsewhere.state, trained.state)
    assert tree_hash(imported) == before
    assert not (tmp_path / "elsewhere" / "imported").exists()
    interop.export(tmp_path / "elsewhere", tmp_path / "out", check=False, report=quiet)
    assert f"began as those of {imported}" in (tmp_path / "out" / "README.md").read_text()


def test_a_run_goes_on_without_what_it_was_made_of(imported, trained, corpus, tmp_path):
    """Neither the weights nor the tokenizer nor the texts that it began with are there any more."""
    source, texts = shutil.copytree(imported, tmp_path / "source"), shutil.copytree(corpus, tmp_path / "texts")
    config = replace(plan(source, texts), run_dir=str(tmp_path / "run"))
    go(config, stop_at=4)
    shutil.rmtree(source)
    shutil.rmtree(texts)
    assert_same_state(go(load(str(tmp_path / "run"))).state, trained.state)


def test_it_is_trained_on_any_mesh(imported, corpus, params, tmp_path):
    config = replace(plan(imported, corpus), run_dir=str(tmp_path / "run"))
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints", config.checkpoint)
    mesh = mesh_of(2, 2, 2)
    with jax.set_mesh(mesh):
        state = restore_or_init(config, mesh, checkpoints, {}, quiet)
    checkpoints.close()
    for name, expected in params.items():
        np.testing.assert_array_equal(np.asarray(state.params[name]), expected, err_msg=name)
        assert len(state.params[name].sharding.device_set) == 8


def test_without_a_tokenizer_it_says_so(published, corpus, tmp_path):
    files = shutil.copytree(published, tmp_path / "files")
    tokenizer = (files / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    (files / "tokenizer_config.json").rename(tmp_path / "tokenizer_config.json")
    said = []
    interop.import_directory(files, tmp_path / "run", report=said.append)
    assert "  no tokenizer.json: give data.tokenizer when you train" in said
    before = tree_hash(tmp_path / "run")
    config = plan(tmp_path / "run", corpus)
    with pytest.raises(UserError, match=r"data\.tokenizer = None: .* belong to a tokenizer; set data\.tokenizer to it"):
        data.check(config)
    with pytest.raises(UserError, match="there is no tokenizer with this model"):
        load_text(tmp_path / "run")
    assert tree_hash(tmp_path / "run") == before
    config = replace(config, data=replace(config.data, tokenizer=str(tokenizer)))
    data.check(config)
    check_source(config)
    with open_run(config) as run:
        data.prepare(config, run.path, quiet)
        run.record(config)
    assert load_text(tmp_path / "run").step == 0


def look_into(config) -> None:
    """All that train.py does before it writes."""
    data.check(config)
    check_source(config)
    with open_run(config):
        pass


def refused(config, pattern) -> None:
    before = tree_hash(config.directory)
    with pytest.raises(UserError, match=pattern):
        look_into(config)
    assert tree_hash(config.directory) == before


def test_before_its_first_checkpoint_all_but_the_weights_may_change(imported, corpus, tmp_path):
    run = shutil.copytree(imported, tmp_path / "run")
    config = plan(run, corpus)
    (run / "checkpoints" / "1.orbax-checkpoint-tmp").mkdir(parents=True)  # of a save that was cut short
    with open_run(config) as opened:
        opened.record(config)
    changed = replace(config, seed=3, stages=config.stages[:1])
    with open_run(changed) as opened:
        opened.record(changed)
    wider = replace(changed, model=replace(changed.model, d_ff=48))
    refused(wider, r"is \(24, 16\) there and \(48, 16\) in this configuration; set model\.d_ff = 24")
    window = replace(changed.model.pattern[0], window=9)
    refused(
        replace(changed, model=replace(changed.model, pattern=(window, *changed.model.pattern[1:]))),
        r"(?s)another configuration.*model\.pattern\[0\]\.window: 5 there, 9 now",
    )
    refused(replace(changed, init=InitConfig()), r"init\.source: .* there, None now")
    for field in ("tokenizer", "bos_token"):
        other = replace(changed, data=replace(changed.data, **{field: "other"}))
        refused(other, rf"data\.{field}: .* there, 'other' now")
    refused(
        replace(changed, init=replace(changed.init, optimizer=True)), "weights without an optimizer; leave init.optimiz"
    )


def test_after_it_nothing_may(trained, corpus, tmp_path):
    run = shutil.copytree(trained.run.path, tmp_path / "run")
    refused(replace(load(str(run)), seed=3), "seed: 0 there, 3 now")


def test_data_of_an_abandoned_plan_are_not_trained_on(imported, corpus, tmp_path):
    """The tokens are kept by the name of their corpus, which does not tell how it was divided."""
    run = shutil.copytree(imported, tmp_path / "run")
    counts = []
    for fraction in (0.2, 0.2, 0.6):
        config = plan(run, corpus)
        config = replace(config, data=replace(config.data, held_out_fraction=fraction))
        with open_run(config) as opened:
            made = []
            counts.append(data.prepare(config, run, made.append).held_out.index.documents)
            opened.record(config)
        assert bool(made) == (len(counts) != 2)
    assert counts[0] == counts[1] < counts[2]
    assert (run / "tokenizer" / "tokenizer.json").exists()


THETAS = {3: (100.0, 16), 6: (100.0, 16), 9: (10_000.0, 24), 10: (10_000.0, 24)}


def test_a_step_is_exported_with_the_model_of_its_stage(trained, tmp_path):
    for step, (theta, _) in THETAS.items():
        out = tmp_path / str(step)
        interop.export(trained.run.path, out, step=step, check=False, report=quiet)
        config = json.loads((out / "config.json").read_text())
        assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == theta
        assert config["max_position_embeddings"] == 32  # as published: longer than any row since
        weights, expected = open_directory(out).weights, saved_weights(trained.run.checkpoints, step)
        np.testing.assert_array_equal(weights.read("embedding"), expected.read("embedding"))
    interop.export(trained.run.path, tmp_path / "newest", check=False, report=quiet)
    assert_same_tensors(tmp_path / "newest", tmp_path / "10")


def test_the_imported_weights_can_still_be_had_after_training(trained, published, tmp_path, monkeypatch):
    tasks = []
    monkeypatch.setattr(verify, "_missing", lambda *packages: None)
    monkeypatch.setattr(verify, "_run", lambda task: tasks.append(task) or {"error": 0, "version": "", "text": None})
    interop.export(trained.run.path, tmp_path / "out", step=0, report=quiet)
    assert_same_tensors(tmp_path / "out", published)
    assert tasks[0]["step"] == 0  # PyTorch is compared with what was written, not with the newest checkpoint


def test_the_context_of_a_run_of_our_own_is_its_longest_row_so_far(corpus, tmp_path):
    config = run_config(corpus, "")
    for step, (theta, length) in THETAS.items():
        run = make_run(tmp_path / str(step), config.model, step=step, stages=config.stages)
        source = open_source(run.path)
        assert (source.step, source.context, source.model.pattern[0].rope_theta) == (step, length, theta)


def pairs(window, length) -> int:
    """Query-key pairs that a layer looks at, counted one by one."""
    return sum(window is None or query - key < window for query in range(length) for key in range(query + 1))


def test_the_card_tells_how_the_weights_were_made(trained, tmp_path):
    config = trained.trainer.config
    cards = {}
    for step in THETAS:
        interop.export(trained.run.path, tmp_path / str(step), step=step, check=False, report=quiet)
        cards[step] = (tmp_path / str(step) / "README.md").read_text()
    # The run measured after steps 0, 5 and 10; each checkpoint gets what was known then.
    for step, measured in {3: 0, 6: 5, 9: 5, 10: 10}.items():
        line = next(line for line in losses(trained.run.path) if "held_out_loss" in line and line["step"] == measured)
        which = "all" if measured == 10 else "a part"
        assert (
            f"Held-out loss after step {measured}, on {which} of the held-out text: "
            f"{line['held_out_loss']:.4f} nats per token, {line['held_out_bits_per_byte']:.4f} bits per byte."
            in cards[step]
        )
        assert cards[step].count("Held-out loss") == 1
    # Multiplications of matrices with 2 layers, width 16, 4 query and 2 key heads of 8, and of attention; times 6.
    matrices = 2 * (16 * 8 * 4 * 2 + 16 * 8 * 2 * 2 + 3 * 16 * 24) + 300 * 16
    spent = {3: (3, 0), 6: (6, 0), 9: (6, 3), 10: (6, 4)}
    for step, steps in spent.items():
        tokens = flops = 0
        for count, rows, length in zip(steps, (4, 2), (16, 24), strict=True):
            tokens += count * rows * length
            attention = 2 * 4 * 8 * (pairs(5, length) + pairs(None, length))
            flops += 6 * count * rows * (matrices * length + attention)
        assert f"{step} of 10 steps, {tokens:,} tokens, at most {flops:.3e} model FLOPs" in cards[step]
    stored = [json.loads(file.read_text()) for file in trained.run.path.glob("data/*/*/index.json")]
    assert len(stored) == 2
    for index in stored:
        assert f"| {index['documents']:,} | {index['tokens']:,} | `{index['sha256']}` |" in cards[10]
    block = cards[10].split("```json\n")[1].split("```")[0]
    assert Config.from_json(block) == config
    assert "the license of that checkpoint applies" in cards[10]


def test_a_line_that_a_crash_cut_short_does_not_spoil_the_card(trained, tmp_path):
    run = shutil.copytree(trained.run.path, tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 11, "held_out_loss": 1.')
    shutil.copytree(next(run.glob("data/*")) / "train", next(run.glob("data/*")) / ".train.partial")
    interop.export(run, tmp_path / "out", check=False, report=quiet)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Held-out loss after step 10," in card
    assert ".partial" not in card


def test_start_does_not_touch_what_it_takes(trained, imported, published):
    assert start.check_source(load(str(trained.run.path))) is None
    assert not (imported / "checkpoints").exists()
    assert not (published / "checkpoints").exists()
