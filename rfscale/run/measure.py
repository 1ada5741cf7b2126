"""`rfscale plan --measure`: a few steps of every size, in as many trials side by side as the machine runs.

Side by side, since trials that run at once share the memory's bandwidth and the caches: two at a time each take longer
than one alone. Every process times the same size at the same moment; what is kept is their mean. A process is told what
to do by a line of JSON on its standard input, and answers with one. Where a trial takes several processes, so many of
them train it together, as under torchrun, and the first one's times count.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import IO, Any

from rfscale import names
from rfscale.registry import allowing_plugins
from rfscale.run.rates import Cost, Measured, one_of_each
from rfscale.run.tasks import free_port
from rfscale.spec.sweep import Resources, Samples, Sweep
from rfscale.spec.trial import Trial

Progress = Callable[[str, int, int], None]  # what is counted, done, of how many

_CHILD = "from rfscale.run.measure import answer; answer()"
_MEMORY_SHARE = 0.7
"""Of the machine's memory, that Ray gives to tasks."""


class MeasureError(names.RfscaleError, RuntimeError):
    """The machine cannot time a size; the message is one sentence."""


def slots_here(resources: Resources) -> int:
    """How many trials a Ray that is started on this machine runs at once."""
    have = {"cpus": float(os.cpu_count() or 1), "gpus": float(_gpus()) if resources.gpus else 0.0}
    need = {"cpus": resources.cpus, "gpus": resources.gpus}
    if resources.memory_gb:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        have["memory_gb"], need["memory_gb"] = _MEMORY_SHARE * whole, resources.memory_gb
    processes = min(int(have[key] / amount + 1e-9) for key, amount in need.items() if amount)
    return processes // resources.processes


def measure(
    sweep: Sweep, *, slots: int | None = None, progress: Progress = lambda what, done, total: None
) -> dict[str, Measured]:
    """Time every size of the sweep on this machine, by size (`rfscale.run.rates.size_of`).

    `slots`: processes side by side at the most; never more than this machine runs at once. Raises MeasureError where it
    has room for none, or where a size cannot be trained here.
    """
    resources = _alike(sweep)
    here = slots_here(resources)
    if not here:
        times = f"{resources.processes} times " if resources.processes > 1 else ""
        asked = f"{times}{resources.cpus:g} CPUs and {resources.gpus:g} GPUs"
        raise MeasureError(
            f"one trial asks for {asked}, which this machine has not; measure on one that has, or lower `resources`"
        )
    sizes = one_of_each(sweep.trials, sweep.resources, sweep.samples)
    what, found = "sizes timed", {}
    progress(what, 0, len(sizes))
    began = time.monotonic()
    with _processes(min(here, slots or here) * resources.processes, resources) as processes:
        _all(processes, next(iter(sizes.values())), sweep)  # what every process does once: imports, first calls
        start = time.monotonic() - began
        for done, (size, trial) in enumerate(sizes.items(), 1):
            found[size] = _mean(_all(processes, trial, sweep), start, here)
            progress(what, done, len(sizes))
    return found


def _alike(sweep: Sweep) -> Resources:
    """What every trial takes: slots are of one size. Raises MeasureError."""
    asked = [sweep.resources.at(trial.model.depth) for trial in sweep.trials]
    if len({(one.cpus, one.gpus, one.memory_gb, one.processes) for one in asked}) > 1:
        raise MeasureError(
            "trials of this sweep differ in the processes, CPUs, GPUs or memory that they take, and a forecast counts "
            "slots of one size; measure a depth at a time with `model.depths=`"
        )
    return asked[0]


def _all(processes: Sequence[subprocess.Popen[str]], trial: Trial, sweep: Sweep) -> list[dict[str, Any]]:
    """What the first process of each trial answers, all timed at the same moment."""
    asked = sweep.resources.at(trial.model.depth)
    job = {
        "trial": trial.model_dump_json(),
        "resources": asked.model_dump(),
        "samples": sweep.samples.model_dump(),
    }
    for first in range(0, len(processes), asked.processes):
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(asked.processes)}
        for rank, process in enumerate(processes[first : first + asked.processes]):
            _tell(process, {**job, "meeting": {**meeting, "RANK": str(rank), "LOCAL_RANK": "0"}})
    answers = [_answer_of(process) for process in processes]
    for answer in answers:
        if "error" in answer:
            raise MeasureError(f"a trial cannot be timed here: {answer['error']}")
    return answers[:: asked.processes]


def _mean(answers: Sequence[Mapping[str, Any]], start: float, slots: int) -> Measured:
    def mean(key: str) -> float:
        return sum(float(answer[key]) for answer in answers) / len(answers)

    return Measured(
        cost=Cost(mean("setup"), mean("step"), mean("validation"), mean("end")),
        steps=round(mean("steps")),
        slots=slots,
        start=start,
        checkpoint=mean("checkpoint"),
        checkpoint_bytes=round(mean("checkpoint_bytes")),
        weights_bytes=round(mean("weights_bytes")),
        memory_bytes=max(answer["memory_bytes"] for answer in answers),
        share=mean("share"),
        device=answers[0]["device"],
        host=socket.gethostname(),
        when=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )


# --- processes --------------------------------------------------------------------------------------------------------


@contextmanager
def _processes(count: int, resources: Resources) -> Iterator[list[subprocess.Popen[str]]]:
    """So many processes, each on its own GPU where trials ask for one; none is left after the block."""
    with ExitStack() as stack:
        found = []
        for number in range(count):
            threads = str(max(1, int(resources.cpus)))  # as Ray sets it
            environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads)}
            if resources.gpus:
                visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
                own = int(number * resources.gpus + 1e-9)
                environment["CUDA_VISIBLE_DEVICES"] = visible[own] if own < len(visible) and visible[own] else str(own)
            process = subprocess.Popen(
                [sys.executable, "-c", _CHILD],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
            stack.callback(_end, process)
            found.append(process)
        yield found


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def _tell(process: subprocess.Popen[str], value: Mapping[str, Any]) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(value) + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        pass  # the answer, which does not come, says so


def _answer_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The next line. Raises MeasureError where the process ended."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        code = process.wait()
        why = "it was killed, perhaps because memory ran out" if code < 0 else f"exit code {code}"
        raise MeasureError(f"a process that timed a trial ended ({why}); lower the batch, or set resources.microbatch")
    return dict(json.loads(line))


def answer() -> None:
    """What such a process does: time one trial per line until there are no more."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what anything else prints is no answer
    import torch

    from rfscale.train.ranks import joined
    from rfscale.train.timing import first_step, time_parts

    warm = False
    for line in sys.stdin:
        job = json.loads(line)
        resources = Resources.model_validate(job["resources"])
        torch.set_num_threads(max(1, int(resources.cpus)))
        os.environ |= job["meeting"]
        try:
            with allowing_plugins():  # whoever made the trial was allowed to
                trial = Trial.model_validate_json(job["trial"])
            with joined(gpu=bool(resources.gpus)) as ranks:
                if not warm:
                    first_step(trial, resources, ranks)
                    found = {}
                else:
                    found = asdict(time_parts(trial, resources, Samples.model_validate(job["samples"]), ranks))
            _say(out, found)
            warm = True
        except Exception as error:
            _say(out, {"error": f"{type(error).__name__}: {names.one_line(error, 300)}"})


def _say(out: IO[str], value: Mapping[str, Any]) -> None:
    out.write(json.dumps(value) + "\n")
    out.flush()


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()
