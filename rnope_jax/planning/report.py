"""A plan on the terminal."""

from rich.console import Console
from rich.table import Column, Table

from rnope_jax.planning.memory import Memory
from rnope_jax.planning.plan import Plan
from rnope_jax.planning.roofline import Roofline

_GIB = 2**30


def show(plan: Plan, console: Console) -> None:
    """Prints a plan as tables."""
    console.print(_heading(plan))
    console.print(_verdict(plan))
    console.print(_memory(plan.memory))
    if plan.talks:
        console.print(_talks(plan))
    if plan.context is not None:
        console.print(_context(plan))
    if plan.roofline is not None:
        console.print(_roofline(plan.roofline))
        console.print(_summary(plan.roofline))
    console.print(_largest(plan))
    for remark in plan.remarks:
        console.print(f"note: {remark}")


def _heading(plan: Plan) -> str:
    mesh = ", ".join(f"{name} {size}" for name, size in plan.mesh.items() if size > 1) or "one device"
    parts = "" if plan.accumulation == 1 else f" in {plan.accumulation} micro-batches"
    backends = "; ".join(f"{kind}: {backend}" for kind, backend in plan.backends.items())
    return (
        f"{plan.name}, stage {plan.stage}: {plan.parameters:,} parameters on {plan.topology} "
        f"({plan.topology.chips:,} chips)\n"
        f"mesh: {mesh}\n"
        f"batch: {plan.batch_size} rows of {plan.sequence_length:,} tokens{parts}\n"
        f"attention: {backends}\n"
        f"compiled in {plan.compiled.seconds:.0f} s"
    )


def _verdict(plan: Plan) -> str:
    memory = plan.memory
    if plan.fits:
        return f"fits: {_gib(memory.total)} of {_gib(memory.limit)} per device, {_gib(memory.spare)} to spare"
    if memory.spare >= 0:  # on-chip memory, for example
        return f"does not fit; the compiler: {plan.compiled.refusal}"
    said = f"\nthe compiler: {plan.compiled.refusal}" if plan.compiled.refusal else ""
    largest = max(_categories(memory), key=lambda row: row[1])
    return (
        f"does not fit: needs {_gib(memory.total)} per device, {_gib(-memory.spare)} more than the "
        f"{_gib(memory.limit)} that there are; the most goes to {largest[0]}, {_gib(largest[1])}{said}"
    )


def _categories(memory: Memory) -> list[tuple[str, int]]:
    return [
        ("parameters", memory.parameters),
        ("optimizer", memory.optimizer),
        ("batch", memory.batch),
        ("padding, counters", memory.padding),
        ("activations kept for the backward pass", memory.activations),
        ("temporaries", memory.temporaries),
        ("program", memory.code),
    ]


def _memory(memory: Memory) -> Table:
    table = Table("memory of one device", *_right("GiB", "share"))
    for name, size in _categories(memory):
        table.add_row(name, f"{size / _GIB:,.2f}", f"{size / memory.limit:.1%}")
    table.add_section()
    table.add_row("total", f"{memory.total / _GIB:,.2f}", f"{memory.total / memory.limit:.1%}")
    if memory.host:
        table.add_section()
        table.add_row("in the memory of the host", f"{memory.host / _GIB:,.2f}", "")
    return table


def _talks(plan: Plan) -> Table:
    table = Table("collective", "over", *_right("operations", "runs", "sent per device", "ms"), "largest at")
    for talk in plan.talks:
        axes = " + ".join(talk.axes) + (" (between slices)" if talk.between_slices else "")
        sent = f"{talk.sent / 2**20:,.1f} MiB"
        numbers = (str(talk.operations), f"{talk.runs:,}", sent, f"{talk.seconds * 1e3:,.2f}")
        table.add_row(talk.kind, axes, *numbers, "\n".join(talk.largest))
    return table


def _context(plan: Plan) -> str:
    context = plan.context
    assert context is not None
    halos, gathers, everywhere = (
        f"{size / 2**20:,.0f} MiB" for size in (context.halos, context.gathers, context.gathered_everywhere)
    )
    return (
        f"context parallelism sends {halos} of halos for window layers and {gathers} for full layers per device and "
        f"step; gathering keys and values in every layer would send {everywhere}: {context.ratio:.2f}x"
    )


def _roofline(times: Roofline) -> Table:
    table = Table("what a step keeps busy", *_right("ms", "share of the longest"))
    longest = max(times.parts.values())
    for name, seconds in times.parts.items():
        shown = name if name in ("compute", "memory") else f"links: {name}"
        table.add_row(shown, f"{seconds * 1e3:,.1f}", f"{seconds / longest:.0%}")
    return table


def _summary(times: Roofline) -> str:
    again = times.recomputed_flops / times.model_flops
    return (
        f"{times.model_flops:.3g} model FLOPs per step, {again:.0%} more for what is computed again; "
        f"{times.traffic / _GIB:,.0f} GiB of memory traffic per device\n"
        f"a step takes at least {times.seconds:.3f} s ({times.bound} binds) and {times.sequential:.3f} s if transfers "
        f"never run beside computation\n"
        f"at most {times.tokens_per_second_per_chip:,.0f} tokens/s per chip, {times.utilisation:.0%} of peak in "
        f"model FLOPs"
    )


def _largest(plan: Plan) -> str:
    largest = plan.largest
    if largest.rows == 0:
        return "largest batch: none was found that fits; split the model, or the sequence, over more devices"
    how = "an estimate on the safe side; --largest-batch compiles to find the largest"
    if largest.confirmed:
        how = f"found by {largest.compiles + 1} compiles"
    return f"largest batch: {largest.rows} rows ({how})"


def _gib(size: int) -> str:
    return f"{size / _GIB:,.2f} GiB"


def _right(*names: str) -> list[Column]:
    return [Column(name, justify="right") for name in names]
