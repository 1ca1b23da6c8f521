"""A side that fails does not end the program that measures it."""

import os

import pytest

from benchmarks.guarded import Failure, Guarded


def begin(wanted):
    def run(what):
        if what == "die":
            os._exit(3)
        return {"works": wanted}[what]

    return run


def test_failures_are_told_and_later_measurements_go_on():
    side = Guarded(begin, 5)
    try:
        assert side.measure("works") == 5
        with pytest.raises(Failure, match="KeyError: 'fails'"):
            side.measure("fails")
        assert side.measure("works") == 5
        with pytest.raises(Failure, match="the process ended with code 3"):
            side.measure("die")
    finally:
        side.close()


def test_a_side_that_cannot_begin_says_so():
    side = Guarded(begin)
    try:
        with pytest.raises(Failure, match="TypeError: begin\\(\\) missing 1 required"):
            side.measure("works")
    finally:
        side.close()
