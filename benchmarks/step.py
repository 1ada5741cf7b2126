"""A training step of every backbone at the same depth and width, and of diffusers' SD3Transformer2DModel, in one run.

    python benchmarks/step.py [--device cpu|cuda] [--depths 2 4] [--width-per-depth 64] [--batch 64]
                              [--backbones mmdit dit ...] [--precision fp32|bf16] [--compile] [--json FILE]

One step is forward, MSE loss, backward, gradient clipping and fused AdamW, on fixed inputs. The contestants take turns,
one step each per round, so that whatever else the machine does meets all of them. A ratio is the median over rounds of
(time of the one / time of `mmdit`) with a distribution-free 95 % interval of that median; above 1, `mmdit` is faster.
diffusers, which has the function of our `mmdit`, and `mmdit` in the other precision run in the same rounds. Without
diffusers its line is left out, and said so.

Utilisation is the exact model FLOPs per second over those of a large matrix product at the same precision in this run.

On one CPU thread the clock is the CPU time of this process, which neighbours on the machine disturb less; with more
threads, and on a GPU, it is the wall clock.
"""

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from rfscale.backbones.base import BACKBONES, BackboneSpec
from rfscale.backbones.cost import TransformerShape
from rfscale.backbones.mmdit.cost import MMDiTShape
from rfscale.backbones.mmdit.diffusers import CLASS, config
from rfscale.data.batch import Condition
from rfscale.data.spec import ShapesData
from rfscale.data.text import TextSpec

Step = Callable[[], None]
OURS, DIFFUSERS = "mmdit", "diffusers"


@dataclass(frozen=True, slots=True)
class Ratio:
    """Median over rounds of one / `mmdit`, with the order statistics that hold its 95 % interval."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True, slots=True)
class Row:
    contestant: str
    depth: int
    width: int
    parameters: int
    train_flops_per_sample: int
    rounds: int
    ms: float
    over_mmdit: Ratio
    flops_per_second: float
    utilisation: float | None
    """None in the other precision: the matrix product was measured in the asked one."""


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    has_diffusers = importlib.util.find_spec("diffusers") is not None
    if not has_diffusers:
        print("diffusers is not installed: its line is left out.")
    peak = matmul_flops_per_second(device, args.precision)
    rows: list[Row] = []
    for depth in args.depths:
        found = compare(depth, args, device, peak, has_diffusers)
        print_rows(found, args.precision, header=not rows)
        rows += found
    settings = {k: v for k, v in vars(args).items() if k != "json"}
    record = {"settings": settings, "machine": machine(device), "matmul_flops_per_second": peak}
    print(f"\nmatrix product, {args.precision}: {peak / 1e9:.0f} GFLOP/s; {record['machine']}")
    if args.json is not None:
        args.json.write_text(json.dumps(record | {"rows": [asdict(row) for row in rows]}, indent=2) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A training step of every backbone, and of diffusers' SD3.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--depths", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--width-per-depth", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--resolution", type=int, default=16)
    parser.add_argument("--patch", type=int, default=4)
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES.names(), default=BACKBONES.names())
    parser.add_argument("--encoders", type=int, default=2, help="text encoders; mmdit3 needs two")
    parser.add_argument("--context-length", type=int, default=16, help="text tokens, of all encoders")
    parser.add_argument("--context-width", type=int, default=64)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="bf16 is autocast")
    parser.add_argument("--compile", action="store_true", help="torch.compile for all contestants, block by block")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def compare(depth: int, args: argparse.Namespace, device: torch.device, peak: float, has_diffusers: bool) -> list[Row]:
    """All contestants at one size."""
    data = ShapesData(name="shapes", resolution=args.resolution)
    text = TextSpec(length=args.context_length // args.encoders, width=args.context_width, encoders=args.encoders)
    sizes = {"depth": depth, "width": depth * args.width_per_depth, "heads": depth, "patch": args.patch}
    other = "bf16" if args.precision == "fp32" else "fp32"
    shapes: dict[str, TransformerShape] = {}
    contestants: dict[str, Step] = {}
    for name in dict.fromkeys((OURS, *args.backbones)):
        spec = BACKBONES.get(name).model_validate({"backbone": name, **sizes})
        assert isinstance(spec, BackboneSpec)
        shape = spec.shape(data, text)
        assert isinstance(shape, TransformerShape)
        for called, precision in ((name, args.precision), (f"{OURS}, {other}", other)):
            if called not in shapes:
                network = spec.build(data, text).to(device)
                parts = list(spec.parts(network)) if args.compile else []
                shapes[called] = shape
                contestants[called] = our_step(network, parts, shape, args.batch, device, precision)
    if has_diffusers:
        shapes[DIFFUSERS] = shapes[OURS]
        contestants[DIFFUSERS] = diffusers_step(shapes[OURS], args.batch, device, args.precision, args.compile)
    times = race(contestants, args.rounds, device)
    rows = []
    for name, shape in shapes.items():
        seconds = median(times[name])
        speed = shape.flops().train * args.batch / seconds
        rows.append(
            Row(
                contestant=name,
                depth=depth,
                width=shape.width,
                parameters=shape.parameter_count(),
                train_flops_per_sample=shape.flops().train,
                rounds=args.rounds,
                ms=1e3 * seconds,
                over_mmdit=ratio(times[name], times[OURS]),
                flops_per_second=speed,
                utilisation=None if name.endswith(other) else speed / peak,
            )
        )
    return rows


def our_step(
    network: nn.Module, parts: Iterable[nn.Module], shape: TransformerShape, batch: int, device: torch.device, kind: str
) -> Step:
    z, noise_level, context, pooled = inputs(shape, batch, device)
    told = Condition(context, pooled)
    return training_step(network, lambda: network(z, noise_level, told), z, parts, kind)


def diffusers_step(shape: TransformerShape, batch: int, device: torch.device, precision: str, compiled: bool) -> Step:
    assert isinstance(shape, MMDiTShape)
    model: nn.Module = getattr(importlib.import_module("diffusers"), CLASS)(**config(shape))
    model.to(device)
    z, noise_level, context, pooled = inputs(shape, batch, device)

    def forward() -> Tensor:
        output: Tensor = model(z, context, pooled, 1000 * noise_level, return_dict=False)[0]
        return output

    parts = model.get_submodule("transformer_blocks").children() if compiled else ()
    return training_step(model, forward, z, parts, precision)


def inputs(shape: TransformerShape, batch: int, device: torch.device) -> tuple[Tensor, ...]:
    normal = partial(torch.randn, device=device)
    side = shape.resolution
    return (
        normal(batch, shape.channels, side, side),
        torch.rand(batch, device=device),
        normal(batch, shape.context_length, shape.context_width),
        normal(batch, shape.pooled_width),
    )


def training_step(
    model: nn.Module, forward: Callable[[], Tensor], target: Tensor, compiled: Iterable[nn.Module], precision: str
) -> Step:
    """One optimiser step on fixed inputs. Weights are all random: zero gates would be no easier, but less alike."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.02)
    for part in compiled:
        part.compile()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    autocast = torch.autocast(target.device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()

    def step() -> None:
        with autocast:
            output = forward()
        loss = (output.float() - target).square().mean()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


def race(contestants: dict[str, Step], rounds: int, device: torch.device, warm_up: int = 5) -> dict[str, list[float]]:
    """Seconds per step of every contestant in every round; the order turns from round to round."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for number in range(-warm_up, rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            seconds = timed(contestants[name], device)
            if number >= 0:
                times[name].append(seconds)
    return times


def timed(step: Step, device: torch.device) -> float:
    synchronise(device)
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    step()
    synchronise(device)
    return clock() - start


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def ratio(one: list[float], ours: list[float]) -> Ratio:
    """Median of the paired ratios; its interval is the order statistics n/2 -+ 0.98 sqrt(n), from the binomial law of
    how many ratios fall below the true median.
    """
    ratios = sorted(a / b for a, b in zip(one, ours, strict=True))
    n = len(ratios)
    reach = 0.98 * math.sqrt(n)
    low, high = max(math.floor(n / 2 - reach), 0), min(math.ceil(n / 2 + reach), n - 1)
    return Ratio(median(ratios), ratios[low], ratios[high])


def matmul_flops_per_second(device: torch.device, precision: str) -> float:
    """Of a square matrix product large enough to hide its overhead: the yardstick of utilisation."""
    n = 8192 if device.type == "cuda" else 2048
    a = torch.randn(n, n, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)

    def product() -> None:
        a @ a

    timed(product, device)
    return 2.0 * n**3 / min(timed(product, device) for _ in range(5))


def machine(device: torch.device) -> dict[str, str | int | None]:
    versions: dict[str, str | int | None] = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    if importlib.util.find_spec("diffusers") is not None:
        versions["diffusers"] = importlib.metadata.version("diffusers")
    if device.type == "cuda":
        return versions | {"device": torch.cuda.get_device_name(device)}
    return versions | {
        "device": platform.machine(),
        "cores": os.cpu_count(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }


def print_rows(rows: list[Row], precision: str, header: bool) -> None:
    if header:
        print(
            f"{precision:<13}{'depth':>6}{'width':>6}{'parameters':>12}{'MFLOPs':>9}{'ms':>9}"
            f"{'/ mmdit [95 %]':>20}{'GFLOP/s':>9}{'utilisation':>12}"
        )
    for row in rows:
        used = "-" if row.utilisation is None else f"{row.utilisation:.0%}"
        print(
            f"{row.contestant:<13}{row.depth:6d}{row.width:6d}{row.parameters:12,d}"
            f"{row.train_flops_per_sample / 1e6:9.1f}{row.ms:9.1f}{row.over_mmdit!s:>20}"
            f"{row.flops_per_second / 1e9:9.1f}{used:>12}",
            flush=True,
        )


if __name__ == "__main__":
    main()
