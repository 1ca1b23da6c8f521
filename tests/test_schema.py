"""The base of configuration values: types, paths in messages, round trips."""

import json
from dataclasses import dataclass, field
from typing import Literal

import pytest

from rnope_jax.errors import ConfigError, UserError
from rnope_jax.schema import Schema, differences


@dataclass(frozen=True, kw_only=True)
class Inner(Schema):
    rate: float = 1.0
    maybe: int | None = None

    def problems(self):
        if self.rate < 0:
            yield "rate", "must be 0 or more"


@dataclass(frozen=True, kw_only=True)
class Outer(Schema):
    count: int
    text: str = "a"
    flag: bool = False
    colour: Literal["red", "green"] = "red"
    inner: Inner = field(default_factory=Inner)
    items: tuple[Inner, ...] = ()
    words: tuple[str, ...] = ()

    def path(self):
        return "outer"

    def problems(self):
        if self.inner.rate > 9:
            yield "inner.rate", "must be at most 9 here"


FULL = Outer(
    count=3, text="é\n", flag=True, colour="green", inner=Inner(rate=0.1), items=(Inner(maybe=2), Inner()), words=("x",)
)


def test_plain_form_reads_back_equal_through_json():
    data = FULL.to_dict()
    assert Outer.from_dict(json.loads(json.dumps(data))) == FULL
    assert Outer.from_dict({"count": 1}) == Outer(count=1)


def test_values_are_frozen_and_hashable():
    with pytest.raises(AttributeError):
        FULL.count = 4
    assert hash(FULL) == hash(Outer.from_dict(FULL.to_dict()))


def test_ints_serve_as_floats_and_lists_as_tuples():
    value = Outer(count=1, inner=Inner(rate=2), items=[Inner()], words=["a", "b"])
    assert value == Outer(count=1, inner=Inner(rate=2.0), items=(Inner(),), words=("a", "b"))
    assert isinstance(value.inner.rate, float)
    assert value.words == ("a", "b")
    assert Outer(count=1, inner={"rate": 3}).inner == Inner(rate=3.0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"count": 1.0}, r"outer\.count = 1\.0: expected a whole number, got float"),
        ({"count": True}, r"outer\.count = True: expected a whole number, got bool"),
        ({"count": "3"}, r"outer\.count = '3': expected a whole number, got str"),
        ({"count": None}, r"outer\.count = None: expected a whole number"),
        ({"text": 3}, r"outer\.text = 3: expected text, got int"),
        ({"flag": 1}, r"outer\.flag = 1: expected True or False, got int"),
        ({"colour": "gren"}, r"outer\.colour = 'gren': must be one of 'red', 'green'; did you mean 'green'\?"),
        ({"colour": 7}, r"outer\.colour = 7: must be one of"),
        ({"inner": 3}, r"outer\.inner = 3: expected Inner, got int"),
        ({"inner": {"rate": "x"}}, r"outer\.inner\.rate = 'x': expected a number, got str"),
        ({"inner": {"rate": True}}, r"outer\.inner\.rate = True: expected a number"),
        ({"inner": {"rate": float("nan")}}, r"outer\.inner\.rate = nan: must be finite"),
        ({"inner": {"rate": float("inf")}}, r"outer\.inner\.rate = inf: must be finite"),
        ({"inner": {"rate": -float("inf")}}, r"outer\.inner\.rate = -inf: must be finite"),
        ({"inner": {"rate": 10**400}}, r"outer\.inner\.rate = 10+: must be finite"),
        ({"inner": {"rate": -1}}, r"Inner\.rate = -1\.0: must be 0 or more"),
        ({"inner": {"rate": 10}}, r"outer\.inner\.rate = 10\.0: must be at most 9 here"),
        ({"inner": {"mabe": 1}}, r"outer\.inner\.mabe: there is no such field; did you mean 'maybe'\?"),
        ({"items": [{}, {"rate": "x"}]}, r"outer\.items\[1\]\.rate = 'x'"),
        ({"items": 3}, r"outer\.items = 3: expected a sequence"),
        ({"words": "abc"}, r"outer\.words = 'abc': expected a sequence"),
        ({"words": ["a", 1]}, r"outer\.words\[1\] = 1: expected text"),
    ],
)
def test_errors_name_the_field_the_value_and_the_remedy(fields, message):
    for make in (lambda: Outer(**{"count": 1, **fields}), lambda: Outer.from_dict({"count": 1, **fields}, "outer")):
        with pytest.raises(ConfigError, match=message):
            make()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"cuont": 1}, r"here\.cuont: there is no such field; did you mean 'count'\?"),
        ({"zzz": 1}, r"here\.zzz: there is no such field; it has: count, text, flag"),
        ({}, r"here\.count: missing"),
        ([1], r"here = \[1\]: expected an object with the fields of Outer"),
    ],
)
def test_errors_of_reading_name_where(data, message):
    with pytest.raises(ConfigError, match=message):
        Outer.from_dict(data, "here")


def test_config_errors_are_errors_of_the_user():
    assert issubclass(ConfigError, UserError)


def test_differences_are_found_leaf_by_leaf():
    old = {"a": 1, "b": {"c": [1, {"d": 2}], "e": 3}, "gone": 5}
    new = {"a": 1, "b": {"c": [1, {"d": 4}], "e": None}, "new": 6}
    expected = [("b.c[1].d", 2, 4), ("b.e", 3, None), ("gone", 5, None), ("new", None, 6)]
    assert list(differences(old, new)) == expected
    assert list(differences(old, old)) == []
    assert list(differences({"a": [1, 2]}, {"a": [1]})) == [("a", [1, 2], [1])]
    assert list(differences(FULL.to_dict(), Outer(**{**vars(FULL), "count": 4}).to_dict())) == [("count", 3, 4)]
