"""Our training step against diffusers' SD3Transformer2DModel at the same shapes, in one run.

    python benchmarks/step.py [--device cpu|cuda] [--depths 2 4] [--width-per-depth 64] [--batch 64]
                              [--precision fp32|bf16] [--compile] [--json FILE]

One step is forward, MSE loss, backward, gradient clipping and fused AdamW, on fixed inputs. The contestants take turns,
one step each per round, so that whatever else the machine does meets all of them; the ratio is the median over rounds
of (time of the other / time of ours) with a distribution-free 95 % interval of that median. Above 1, ours is faster.
The other precision of our own model runs in the same rounds. Without diffusers its column is left out, and said so.

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
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from rfscale.backbones.mmdit.cost import MMDiTShape
from rfscale.backbones.mmdit.network import MMDiT
from rfscale.data.batch import Condition

Step = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Ratio:
    """Median over rounds of other / ours, with the order statistics that hold its 95 % interval."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True, slots=True)
class Row:
    depth: int
    width: int
    parameters: int
    train_flops_per_sample: int
    rounds: int
    ours_ms: float
    diffusers_ms: float | None
    diffusers_over_ours: Ratio | None
    other_precision: str
    other_precision_ms: float
    other_precision_over_ours: Ratio
    flops_per_second: float
    utilisation: float
    """Model FLOPs per second over those of a large matrix product at the same precision, measured in this run."""


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    has_diffusers = importlib.util.find_spec("diffusers") is not None
    if not has_diffusers:
        print("diffusers is not installed: its column is left out.")
    peak = matmul_flops_per_second(device, args.precision)
    rows = []
    for depth in args.depths:
        rows.append(compare(depth, args, device, peak, has_diffusers))
        print_row(rows[-1], args.precision, header=len(rows) == 1)
    settings = {k: v for k, v in vars(args).items() if k != "json"}
    record = {"settings": settings, "machine": machine(device), "matmul_flops_per_second": peak}
    print(f"\nmatrix product, {args.precision}: {peak / 1e9:.0f} GFLOP/s; {record['machine']}")
    if args.json is not None:
        args.json.write_text(json.dumps(record | {"rows": [asdict(row) for row in rows]}, indent=2) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Our training step against diffusers' SD3Transformer2DModel.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--depths", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--width-per-depth", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--resolution", type=int, default=16)
    parser.add_argument("--patch", type=int, default=4)
    parser.add_argument("--context-length", type=int, default=16)
    parser.add_argument("--context-width", type=int, default=64)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="bf16 is autocast")
    parser.add_argument("--compile", action="store_true", help="torch.compile for all contestants, block by block")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def compare(depth: int, args: argparse.Namespace, device: torch.device, peak: float, has_diffusers: bool) -> Row:
    """All contestants at one size."""
    shape = MMDiTShape(
        depth=depth,
        width=depth * args.width_per_depth,
        heads=depth,
        patch=args.patch,
        resolution=args.resolution,
        channels=3,
        context_length=args.context_length,
        context_width=args.context_width,
        pooled_width=args.context_width,
    )
    other = "bf16" if args.precision == "fp32" else "fp32"
    contestants = {
        "ours": our_step(shape, args.batch, device, args.precision, args.compile),
        other: our_step(shape, args.batch, device, other, args.compile),
    }
    if has_diffusers:
        contestants["diffusers"] = diffusers_step(shape, args.batch, device, args.precision, args.compile)
    times = race(contestants, args.rounds, device)
    ours = median(times["ours"])
    speed = shape.flops().train * args.batch / ours
    return Row(
        depth=depth,
        width=shape.width,
        parameters=shape.parameter_count(),
        train_flops_per_sample=shape.flops().train,
        rounds=args.rounds,
        ours_ms=1e3 * ours,
        diffusers_ms=1e3 * median(times["diffusers"]) if has_diffusers else None,
        diffusers_over_ours=ratio(times["diffusers"], times["ours"]) if has_diffusers else None,
        other_precision=other,
        other_precision_ms=1e3 * median(times[other]),
        other_precision_over_ours=ratio(times[other], times["ours"]),
        flops_per_second=speed,
        utilisation=speed / peak,
    )


def our_step(shape: MMDiTShape, batch: int, device: torch.device, precision: str, compiled: bool) -> Step:
    model = MMDiT(shape).to(device)
    z, noise_level, context, pooled = inputs(shape, batch, device)
    told = Condition(context, pooled)
    return training_step(model, lambda: model(z, noise_level, told), z, model.blocks, precision, compiled)


def diffusers_step(shape: MMDiTShape, batch: int, device: torch.device, precision: str, compiled: bool) -> Step:
    model: nn.Module = importlib.import_module("diffusers").SD3Transformer2DModel(
        sample_size=shape.resolution,
        patch_size=shape.patch,
        in_channels=shape.channels,
        out_channels=shape.channels,
        num_layers=shape.depth,
        attention_head_dim=shape.head_width,
        num_attention_heads=shape.heads,
        joint_attention_dim=shape.context_width,
        caption_projection_dim=shape.width,
        pooled_projection_dim=shape.pooled_width,
        pos_embed_max_size=shape.resolution // shape.patch,
        qk_norm="rms_norm",
    )
    model.to(device)
    z, noise_level, context, pooled = inputs(shape, batch, device)

    def forward() -> Tensor:
        output: Tensor = model(z, context, pooled, 1000 * noise_level, return_dict=False)[0]
        return output

    return training_step(model, forward, z, model.get_submodule("transformer_blocks"), precision, compiled)


def inputs(shape: MMDiTShape, batch: int, device: torch.device) -> tuple[Tensor, ...]:
    normal = partial(torch.randn, device=device)
    side = shape.resolution
    return (
        normal(batch, shape.channels, side, side),
        torch.rand(batch, device=device),
        normal(batch, shape.context_length, shape.context_width),
        normal(batch, shape.pooled_width),
    )


def training_step(
    model: nn.Module, forward: Callable[[], Tensor], target: Tensor, blocks: nn.Module, precision: str, compiled: bool
) -> Step:
    """One optimiser step on fixed inputs. Weights are all random: zero gates would be no easier, but less alike."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.02)
    if compiled:
        for block in blocks.children():
            block.compile()
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


def ratio(other: list[float], ours: list[float]) -> Ratio:
    """Median of the paired ratios; its interval is the order statistics n/2 -+ 0.98 sqrt(n), from the binomial law of
    how many ratios fall below the true median.
    """
    ratios = sorted(a / b for a, b in zip(other, ours, strict=True))
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


def print_row(row: Row, precision: str, header: bool) -> None:
    if header:
        print(f"{'':28} {precision + ', ms per step':>18} {'diffusers / ours':>20} {'':>14} {row.other_precision:>22}")
        print(
            f"{'depth':>5} {'width':>6} {'parameters':>12} {'ours':>10} {'diffusers':>10} "
            f"{'median [95 %]':>20} {'utilisation':>12} {'ms':>9} {'/ ' + precision + ' [95 %]':>20}"
        )
    other = "-" if row.diffusers_ms is None else f"{row.diffusers_ms:.1f}"
    against = "-" if row.diffusers_over_ours is None else str(row.diffusers_over_ours)
    print(
        f"{row.depth:5d} {row.width:6d} {row.parameters:12,d} {row.ours_ms:10.1f} {other:>10} {against:>20} "
        f"{row.utilisation:12.0%} {row.other_precision_ms:9.1f} {row.other_precision_over_ours!s:>20}",
        flush=True,
    )


if __name__ == "__main__":
    main()
