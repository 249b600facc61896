"""Measure tile sizes on the GPU at hand, six or eight for each kernel; the fastest are kept.

    python benchmarks/triton_tune.py dcmha --heads 16 --width 64

They lie in softmap's cache folder, and later calls on such a GPU with this shape use them.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence

from triton_aot import call_of

from softmap.errors import SoftmapError
from softmap.ops.call import Call
from softmap.ops.triton.configs import Config, cache_file, key, override, tuned
from softmap.ops.triton.launch import padded
from softmap.ops.triton.low_rank_launch import takes
from softmap.ops.triton.operator import implementation
from softmap.ops.triton.plan import FIXED, named, spec_of, tensors_of_call

KERNELS = ("forward", "rows", "keys")
LOW_RANK = (
    Config(128, 64, 8, 2), Config(64, 64, 8, 2), Config(64, 64, 8, 3), Config(64, 64, 4, 2),
    Config(64, 32, 4, 1), Config(64, 32, 4, 2), Config(32, 64, 4, 1), Config(32, 64, 4, 2),
)  # fmt: skip
ONE_HEAD = (
    Config(128, 64, 4, 3), Config(128, 64, 8, 3), Config(64, 64, 4, 3), Config(64, 128, 8, 2),
    Config(64, 64, 8, 2), Config(64, 32, 4, 2),
)  # fmt: skip
ALL_HEADS = (
    Config(16, 16, 4, 1), Config(16, 16, 8, 1), Config(16, 32, 8, 1), Config(32, 16, 8, 1),
    Config(32, 32, 8, 1), Config(16, 16, 8, 2),
)  # fmt: skip


Timer = Callable[[Callable[[], object]], float]


def tune(call: Call, timer: Timer | None = None) -> dict[str, Config]:
    """Measure the sizes for the shapes and edits of ``call``, keep and return the fastest by key.

    Args:
        timer: milliseconds of a function; by default ``triton.testing.do_bench``, the median. Sizes
            that do not fit the GPU are passed over.
    """
    spec = spec_of(call)
    flat = [t.detach() for t in tensors_of_call(call, spec)]
    needs = [n < 3 or n >= len(FIXED) for n in range(len(flat))]
    (forward, backward), low_rank = implementation(spec, flat), takes(spec, flat)
    sizes = LOW_RANK if low_rank else ALL_HEADS if spec.mixes else ONE_HEAD
    o, lse = forward(flat, spec)

    def both() -> None:
        backward(o, o, lse, flat, spec, needs)

    t, found = named(flat), dict[str, Config]()
    width = max(padded(t))
    heads = 0 if low_rank else spec.tile_heads()[0]
    for kernel in (*KERNELS, "sums") if low_rank else KERNELS:
        run = (lambda: forward(flat, spec)) if kernel == "forward" else both
        name = key(kernel, heads, width, t["q"].element_size(), low_rank)
        found[name] = _fastest(kernel, run, timer or _median, sizes)
    _keep(found)
    return found


def _fastest(
    kernel: str, run: Callable[[], object], timer: Timer, choices: Sequence[Config]
) -> Config:
    times: dict[Config, float] = {}
    for sizes in choices:
        with override(*sizes, kernel=kernel):
            try:
                times[sizes] = timer(run)
            except SoftmapError:  # it does not fit
                continue
    if not times:
        raise SoftmapError(f"none of the sizes for the Triton kernel {kernel} fits this GPU")
    return min(times, key=times.__getitem__)


def _median(run: Callable[[], object]) -> float:
    from triton.testing import do_bench

    return float(do_bench(run, warmup=20, rep=100, return_mode="median"))


def _keep(found: dict[str, Config]) -> None:
    """Beside what is there already, whole or not at all."""
    path = cache_file()
    rows = {name: list(sizes) for name, sizes in (tuned() | found).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    os.replace(part, path)
    tuned.cache_clear()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variant")
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=2048)
    given = parser.parse_args()
    call = call_of(given.variant, given.heads, given.width, given.tokens, "cuda")
    for name, sizes in tune(call).items():
        print(name, *(f"{field} {n}" for field, n in sizes._asdict().items()))


if __name__ == "__main__":
    main()
