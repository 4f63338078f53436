"""A pod joins the fifty peer sets of a namespace, in a table of a hundred thousand elements.

From the event as the API's watch tells it to the kernel's answer that all of it is in force: the
model, the compiler, the netlink messages and the commit, in this process and a private network
namespace. The same for the pod's end. What the table takes from nothing is told beside it.
"""

import gc
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import quantiles

from bench.pairs import Of, Outcome, Target
from bench.population import NODE, address, everything_worn, pod, populated
from bench.scale import Scale
from enforcer.compile import Compiler
from enforcer.model import PODS, Model
from enforcer.nft.kernel import Kernel
from enforcer.reflector import Apply
from enforcer.table import Table

JOIN = Target(5.0, most=True, of=Of.OURS)  # ms
SPACE = "space-3"
ADDRESSES = 1 << 20  # where those of the joining pods begin


async def joins(folder: Path, scale: Scale) -> list[Outcome]:
    """Milliseconds; seconds of the first load."""
    compiler = Compiler(node=NODE)
    model, kernel = Model(compiler), Kernel(private=True)
    table = Table(kernel)
    try:
        begun = time.monotonic()
        populated(scale.pods, scale.policies).tell(model)
        told = time.monotonic()
        compiler.take()
        compiled = time.monotonic()
        await table.load(compiler.rules)
        loaded = time.monotonic()
        elements = compiler.rules.size
        gc.freeze()  # as the enforcer does after its first commit
        found = [await _change(model, table, number) for number in range(2 * scale.joins + 2)][2:]
    finally:
        gc.unfreeze()
        kernel.close()
    took, worked, (sets, *_) = zip(*found, strict=True)
    name = f"a pod joins or leaves {sets} peer sets"
    worst = f"{elements:,} elements; greatest {max(took):.1f} ms"
    # A machine that has other things to do adds to the time, and not to this.
    alone = f"of processor time {_p99(worked):.1f} ms"
    stages = {"model": told - begun, "compiler": compiled - told, "kernel": loaded - compiled}
    parts = ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in stages.items())
    return [
        Outcome(name, "ms", took, target=JOIN, note=worst),
        Outcome(f"{name}, p99", "ms", (_p99(took),), target=JOIN, note=alone),
        Outcome(f"{elements:,} elements from nothing", "s", (loaded - begun,), note=parts),
    ]


async def _change(model: Model, table: Table, number: int) -> tuple[float, float, int]:
    """Every second time the pod of the time before leaves. Also how many elements change."""
    turn, leaves = divmod(number, 2)
    obj = pod(SPACE, "joiner", everything_worn(), address(turn, ADDRESSES))
    begun, worked = time.perf_counter(), time.process_time()
    model.tell(PODS, Apply(obj, deleted=bool(leaves)))
    change = model.compiler.take()
    await table.commit(change, model.compiler.rules)
    took, busy = time.perf_counter() - begun, time.process_time() - worked
    return took * 1_000, busy * 1_000, change.elements


def _p99(found: Sequence[float]) -> float:
    return quantiles(found, n=100)[98]
