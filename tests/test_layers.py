"""Layer kinds and patterns."""

import numpy as np
import pytest

from rnope_jax.errors import ConfigError
from rnope_jax.layers import LayerKind, LogScaling, kinds, nope, qk_norm, rnope, rnope_swa, rope, with_theta

WINDOWS = [None, 1, 2, 3, 7, 16, 100]


def mask(window, length):
    """Causal mask with a window, entry by entry."""
    return np.array([[j <= i and (window is None or i - j < window) for j in range(length)] for i in range(length)])


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 33])
def test_counts_equal_those_of_the_mask(window, length):
    kind, seen = LayerKind(None, window), mask(window, length)
    assert [kind.visible_keys(i) for i in range(length)] == list(seen.sum(1))
    assert kind.attention_pairs(length) == seen.sum()
    # A cache must hold every key that the last query or any later one sees.
    assert kind.cache_length(length) == seen[-1].sum()


def test_an_empty_document_has_no_pairs():
    assert LayerKind(None, None).attention_pairs(0) == LayerKind(None, 4).attention_pairs(0) == 0


LOCAL, GLOBAL, FULL_ROPE = LayerKind(50_000.0, 4096), LayerKind(None, None), LayerKind(10_000.0, None)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (rnope_swa(), (LOCAL, LOCAL, LOCAL, GLOBAL)),
        (rnope_swa(ratio=1), (LOCAL, GLOBAL)),
        (rnope_swa(ratio=2, order="global_first"), (GLOBAL, LOCAL, LOCAL)),
        (rnope_swa(window=8, theta=5.0), (LayerKind(5.0, 8),) * 3 + (GLOBAL,)),
        (rope(), (FULL_ROPE,)),
        (nope(), (GLOBAL,)),
        (qk_norm(), (LayerKind(10_000.0, None, qk_norm=True),)),
        (rnope(), (FULL_ROPE, GLOBAL)),
        (rnope(theta=5.0, ratio=2), (LayerKind(5.0, None),) * 2 + (GLOBAL,)),
    ],
)
def test_named_patterns(pattern, expected):
    assert pattern == expected


def test_a_pattern_is_cycled_over_any_number_of_layers():
    a, b, c = LayerKind(1.0, None), LayerKind(2.0, None), LayerKind(3.0, None)
    assert kinds((a, b, c), 7) == (a, b, c, a, b, c, a)
    assert kinds((a, b, c), 2) == (a, b)


def test_theta_changes_in_rope_layers_only_and_nothing_else_does():
    scaling = LogScaling(4.0)
    pattern = (LayerKind(10.0, 5, qk_norm=True, log_scaling=scaling), LayerKind(None, None, log_scaling=scaling))
    assert with_theta(pattern, 99.0) == (LayerKind(99.0, 5, qk_norm=True, log_scaling=scaling), pattern[1])
    assert with_theta(pattern, None) == pattern


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LayerKind(None, 0), r"LayerKind\.window = 0: must be at least 1 .*None for full attention"),
        (lambda: LayerKind(None, -3), r"LayerKind\.window = -3"),
        (lambda: LayerKind(-1.0, None), r"LayerKind\.rope_theta = -1\.0: must be positive .*None"),
        (lambda: LayerKind(0, None), r"LayerKind\.rope_theta = 0\.0"),
        (lambda: LayerKind(float("nan"), None), r"LayerKind\.rope_theta = nan: must be finite"),
        (lambda: LayerKind(None, 2.5), r"LayerKind\.window = 2\.5: expected a whole number"),
        (lambda: LogScaling(1.0), r"LogScaling\.base = 1\.0: must be above 1"),
        (lambda: rnope_swa(ratio=0), r"ratio = 0: .*at least one RoPE layer"),
        (lambda: rnope(ratio=-1), r"ratio = -1"),
        (lambda: rnope_swa(order="middle"), r"order = 'middle': must be 'local_first' or 'global_first'"),
        (lambda: rnope_swa(window=0), r"window = 0"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_kind_reads_as_text():
    assert str(LOCAL) == "window 4096 + RoPE 50000"
    kind = LayerKind(None, None, qk_norm=True, log_scaling=LogScaling(8.0))
    assert str(kind) == "full + NoPE + QK-norm + log scaling 8"
