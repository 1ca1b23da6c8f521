"""Signals ask a run to stop, in every phase of it."""

import contextlib
import os
import signal
import threading
import time

import jax
import numpy as np
import pytest

from rnope_jax.checkpoint import integrity
from rnope_jax.data import Mixture
from rnope_jax.errors import Stopped
from rnope_jax.training import loop, signals
from rnope_jax.training.signals import stop_on_signals
from tests.training.runs import SharingTrainer, run_config, train

#: Seconds after which what should have been left alone has been waited for.
LIMIT = 120

BOTH = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


@BOTH
def test_the_first_signal_asks_and_the_handlers_are_given_back(number):
    before = signal.getsignal(number)
    with stop_on_signals() as stop:
        assert not stop
        os.kill(os.getpid(), number)
        assert stop
        assert stop.signal == number
    assert signal.getsignal(number) == before


@BOTH
def test_the_second_signal_ends_the_process(monkeypatch, number):
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    with stop_on_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        assert codes == []
        os.kill(os.getpid(), number)
    assert codes == [128 + number]


@BOTH
def test_where_there_is_nothing_to_save_a_signal_ends_the_block_on_the_spot(number):
    ended = []

    def wait(stop):
        with stop.at_once():
            signal_soon(number)
            try:
                time.sleep(LIMIT)
                ended.append("the block")
            except Exception:  # as a library might
                ended.append("what was taken for an error")

    with stop_on_signals() as stop, pytest.raises(Stopped):
        wait(stop)
    assert not ended


def test_an_earlier_or_a_lost_request_ends_the_block_too():
    begun = []

    def lose(stop):
        with stop.at_once():
            begun.append(True)
            with contextlib.suppress(Stopped):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(1)

    with stop_on_signals() as stop:
        stop.signal = signal.SIGTERM
        with pytest.raises(Stopped):
            lose(stop)
        assert not begun
    with stop_on_signals() as stop, pytest.raises(Stopped):
        lose(stop)
    assert begun


def test_after_the_block_a_signal_asks_again():
    with stop_on_signals() as stop:
        with stop.at_once():
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop


def signal_soon(number=signal.SIGTERM, delay: float = 0.2) -> None:
    threading.Timer(delay, lambda: os.kill(os.getpid(), number)).start()


def test_work_that_cannot_be_interrupted_is_abandoned():
    release = threading.Event()
    with stop_on_signals() as stop:
        assert stop.unless(lambda: 3) == 3
        with pytest.raises(KeyError):
            stop.unless(lambda: {}["absent"])
        assert not signals.abandoned()
        signal_soon()
        assert stop.unless(release.wait) is None
        assert signals.abandoned()
        release.set()
        deadline = time.monotonic() + 240
        while signals.abandoned() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not signals.abandoned()


@pytest.fixture
def others(monkeypatch):
    """This is one of two processes; what the other one says in turn: whether it was asked, and whether it is done."""
    says: list[tuple[bool, bool]] = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)

    def gathered(mine):
        return np.stack([mine, np.array(says.pop(0))])

    monkeypatch.setattr(signals.multihost_utils, "process_allgather", gathered)
    return says


def test_several_processes_wait_for_the_last(others):
    others += [(False, False), (False, False), (False, True)]
    with stop_on_signals() as stop:
        assert stop.unless(lambda: 3) == 3
    assert not others


def test_a_stop_of_another_process_ends_the_work_of_this_one(others):
    release = threading.Event()
    others += [(False, True), (True, True)]
    with stop_on_signals() as stop:
        assert stop.unless(release.wait) is None
        assert signals.abandoned()
        assert stop  # without a word to anybody: all have come to know it together
        assert stop.unless(lambda: pytest.fail("begun after the stop")) is None
        with pytest.raises(Stopped):
            stop.or_end(lambda: 3)
    release.set()


def test_a_stop_that_comes_when_all_are_done_is_a_stop_of_all(others):
    others += [(True, True)]
    with stop_on_signals() as stop:
        assert stop.unless(lambda: 3) is None


def test_the_others_learn_of_a_stop_and_so_does_jax(others, monkeypatch):
    told, codes = [], []
    monkeypatch.setattr(signals, "_tell_jax", told.append)
    monkeypatch.setattr(os, "_exit", codes.append)
    others += [(False, True)]
    with stop_on_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert (told, codes) == ([signal.SIGTERM], [])
        assert stop.unless(lambda: 3) is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert codes == [128 + signal.SIGTERM]


def test_an_error_is_not_kept_until_the_others_are_done(others):
    with stop_on_signals() as stop, pytest.raises(KeyError):
        stop.unless(lambda: {}["absent"])


class Blocked:
    """Something that takes for ever, and has somebody ask for a stop when it begins."""

    def __init__(self):
        self.release = threading.Event()
        self.times = 0
        self.waited_for = False

    def __call__(self, *_args, **_options):
        self.times += 1
        if self.times == 1:
            signal_soon()
        self.waited_for = not self.release.wait(LIMIT)


@pytest.fixture
def blocked():
    made = Blocked()
    yield made
    made.release.set()


def stopped_in(config, blocked=None):
    """A run in which somebody asks for a stop; it must not wait for what is blocked."""
    with stop_on_signals() as stop:
        result = train(config, stop=stop)
    assert stop
    assert blocked is None or (blocked.times and not blocked.waited_for)
    return result


@pytest.fixture
def config(corpus, tmp_path):
    return run_config(corpus, tmp_path / "run")


def finish(config, unbroken) -> None:
    state = train(config).state
    jax.tree.map(np.testing.assert_array_equal, state, unbroken.state)


def test_a_stop_while_a_step_compiles(config, unbroken, blocked, monkeypatch):
    """In the second stage: the end of the first is saved."""

    class Step:
        def lower(self, *_):
            return self

        compile = staticmethod(blocked)

    first = SharingTrainer._compile

    def compiled(self, index, state, batch):
        return (
            first(self, index, state, batch)
            if index == 0
            else super(SharingTrainer, self)._compile(index, state, batch)
        )

    with monkeypatch.context() as patch:
        patch.setattr(SharingTrainer, "_compile", compiled)
        patch.setattr(loop, "make_train_step", lambda *_: Step())
        result = stopped_in(config, blocked)
    assert result.trainer.checkpoints.steps()[-1] == 6
    blocked.release.set()
    finish(config, unbroken)


def test_a_stop_while_a_batch_is_waited_for(config, unbroken, blocked, monkeypatch):
    sound = Mixture.batch

    def batch(self, step, wanted=None):
        if step == 2:
            while '"step": 1, "stage"' not in (config.directory / "metrics.jsonl").read_text():
                time.sleep(0.01)  # reported when the second step is under way, and this one is waited for
            blocked()
        return sound(self, step, wanted)

    with monkeypatch.context() as patch:
        patch.setattr(Mixture, "batch", batch)
        result = stopped_in(config, blocked)
    assert result.trainer.checkpoints.steps()[-1] == 2
    finish(config, unbroken)


def test_a_stop_while_it_is_evaluated(config, unbroken, blocked, monkeypatch):
    """After step 5, which is saved though no checkpoint was due."""
    sound = loop.held_out_loss

    def loss(step, params, batches, store, stopping):
        if len(loop_steps) == 1:
            blocked()
        loop_steps.append(stopping())
        return sound(step, params, batches, store, stopping)

    loop_steps: list[bool] = []
    with monkeypatch.context() as patch:
        patch.setattr(loop, "held_out_loss", loss)
        result = stopped_in(config, blocked)
    assert result.trainer.checkpoints.steps()[-1] == 5
    finish(config, unbroken)


def test_a_stop_while_a_checkpoint_is_written(config, unbroken, monkeypatch):
    seal = integrity.seal
    asked = []

    def slow(path):
        if not asked:
            asked.append(path)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.5)
        seal(path)

    with monkeypatch.context() as patch:
        patch.setattr(integrity, "seal", slow)
        result = stopped_in(config)
    steps = result.trainer.checkpoints.steps()
    assert all(integrity.damage(config.directory / "checkpoints" / str(step)) is None for step in steps)
    assert int(result.state.step) in steps
    finish(config, unbroken)
