"""train.py in which something takes for ever, as compiling a large model may: stuck.py WHAT MARK ARGUMENTS...

WHAT is "compile" or, of the first process alone, "prepare"; the file MARK is made when all that are to be stuck are.
"""

import sys
import time
from pathlib import Path

import jax

sys.path.insert(0, str(Path(__file__).parents[2]))
import train
from rnope_jax import data
from rnope_jax.cli.errors import exit_code
from rnope_jax.training import loop, processes

what, mark = sys.argv.pop(1), Path(sys.argv.pop(1))


def for_ever(*_arguments: object) -> None:
    Path(f"{mark}{jax.process_index()}").touch()
    time.sleep(600)


class Step:
    def lower(self, *_arguments: object) -> "Step":
        return self

    compile = staticmethod(for_ever)


if what == "compile":
    loop.make_train_step = lambda *_: Step()
else:
    sound = data.prepare
    data.prepare = lambda *given: for_ever() if processes.is_first() else sound(*given)
sys.exit(exit_code(train.main))
