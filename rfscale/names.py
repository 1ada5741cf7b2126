"""Every metric, parameter and tag key, once: its unit, its direction and what it means.

`rfscale` writes under these keys and `analysis` reads them; neither spells a key itself. This file imports nothing of
ours, so that both packages can reach it: the base of all errors and the mask of passwords stand here for that reason.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Literal


class RfscaleError(Exception):
    """The base of every error that rfscale and analysis raise on purpose: its message is one sentence for people.

    What it quotes, such as an address or another error, is shown without passwords.
    """

    failure = "bad configuration"
    """The class of a trial that ends with it (`rfscale.failures`); "" where the error it was raised from says more."""

    def __str__(self) -> str:
        return mask(super().__str__())


_ADDRESS = re.compile(r"(\w[\w+.-]*://)(\S+)")
_VALUE = re.compile(r"=[^&;#\s'\")\]]+")
_NAMED = re.compile(r"(?i)\b([\w-]*(?:password|passwd|passphrase|pwd|secret|token|api_?key|access_?key)=)[^\s&'\")\]]+")
_BEARER = re.compile(r"\b(Bearer |Basic )[^\s'\"\\]+")


def mask(text: str) -> str:
    """The text as it may be printed and stored: logins of addresses and other secrets are ***.

    Of an address with a host, everything before its last @ and every value of its query; elsewhere what follows
    `password=` and its like, and what an Authorization header holds.
    """
    _, found, rest = os.environ.get("MLFLOW_TRACKING_URI", "").partition("://")
    login = rest.rpartition("@")[0]
    if found and login and not login.startswith("/"):  # it may hold a space, where the pattern ends
        text = text.replace(f"://{login}@", "://***@")
    return _BEARER.sub(r"\1***", _NAMED.sub(r"\1***", _ADDRESS.sub(_without_login, text)))


def _without_login(address: re.Match[str]) -> str:
    scheme, rest = address.groups()
    if rest.startswith("/"):  # the path of a file: it has neither a login nor a query
        return scheme + rest
    _, login, rest = rest.rpartition("@")
    where, query, values = rest.partition("?")
    return f"{scheme}{'***@' if login else ''}{where}{query}{_VALUE.sub('=***', values)}"


def one_line(text: object, longest: int | None = None) -> str:
    """The text of an error, say, on one line of at most `longest` characters, as a part of a sentence; no passwords."""
    return mask(" ".join(str(text).split()))[:longest]


Direction = Literal["lower", "higher", "none"]
Kind = Literal["number", "count", "text"]


@dataclass(frozen=True, slots=True)
class Key:
    """A key with its unit, which direction is better, and its meaning in one sentence.

    Of a parameter also: its `kind` (a count is a whole number that stays small; FLOPs and parameters are numbers, as
    laws need them), whether it is `derived` from the others and so no part of what a run is, and whether a run is of
    use without it.
    """

    key: str
    unit: str
    better: Direction
    meaning: str
    kind: Kind = "number"
    derived: bool = False
    needed: bool = False


# --- the levels of the validation loss --------------------------------------------------------------------------------
# The paper averages the velocity MSE over levels equidistant in t (section 5.3); t = i/8 is MLPerf's reading of it. At
# t = 0 the best possible velocity loss is the constant E|eps|^2, so that level adds nothing and is left out.
LOSS_LEVELS: tuple[float, ...] = tuple(i / 8 for i in range(1, 8))

# --- metrics ----------------------------------------------------------------------------------------------------------
VAL_LOSS = "val/loss"
VAL_LOSS_SE = "val/loss_se"
VAL_LOSS_RAW = "val/loss_raw"
VAL_OBJECTIVE = "val/objective"
VAL_BOUND = "val/bits_per_dim"
VAL_BOUND_SE = "val/bits_per_dim_se"
TRAIN_LOSS = "train/loss"
GRAD_NORM = "train/grad_norm"
LEARNING_RATE_NOW = "train/learning_rate"
SAMPLES_PER_SECOND = "train/samples_per_second"
TRAIN_SECONDS = "train/seconds"


def val_level(t: float) -> str:
    """Key of the velocity MSE at one level t, EMA weights."""
    return f"val/velocity_mse/t{t:.3f}"


def denoising_level(logsnr: float) -> str:
    """Key of the mean squared error of x0_hat at one log-SNR, EMA weights, at the last step only."""
    return f"val/denoising_mse/logsnr{logsnr:.2f}"


METRICS: dict[str, Key] = {
    key.key: key
    for key in (
        Key(
            VAL_LOSS,
            "MSE",
            "lower",
            "velocity MSE averaged over t = 1/8 .. 7/8, EMA weights, the same for every formulation",
        ),
        Key(VAL_LOSS_SE, "MSE", "none", "standard error of val/loss over the validation images"),
        Key(VAL_LOSS_RAW, "MSE", "lower", "val/loss with the weights as trained, without EMA"),
        Key(VAL_BOUND, "bit/dim", "lower", "diffusion term of the likelihood bound, log-SNR -10 .. 10, EMA, last step"),
        Key(VAL_BOUND_SE, "bit/dim", "none", "standard error of val/bits_per_dim over the validation images"),
        Key(
            VAL_OBJECTIVE,
            "MSE",
            "none",
            "the trial's own objective on the validation images: not comparable across formulations",
        ),
        Key(TRAIN_LOSS, "MSE", "none", "the trial's own objective, mean over the steps since the last point"),
        Key(GRAD_NORM, "1", "none", "norm of the gradient before clipping, mean over the steps since the last point"),
        Key(LEARNING_RATE_NOW, "1", "none", "learning rate of the step"),
        Key(
            SAMPLES_PER_SECOND, "1/s", "higher", "training samples per second since the last point, validation excluded"
        ),
        Key(TRAIN_SECONDS, "s", "none", "time spent in training steps since step 0, over all attempts"),
        *(Key(val_level(t), "MSE", "lower", f"velocity MSE at t = {t:g}, EMA weights") for t in LOSS_LEVELS),
    )
}

# --- the machine while it trains --------------------------------------------------------------------------------------
# Under the names that MLflow gives its own system metrics, where it has one: its page shows them in a tab of their own.
CPU_USE = "system/cpu_utilization_percentage"
MEMORY_USE = "system/system_memory_usage_percentage"
PROCESS_MEMORY = "system/process_memory_megabytes"
GPU_USE = "system/gpu_utilization_percentage"
GPU_MEMORY = "system/gpu_memory_usage_megabytes"

SYSTEM: dict[str, Key] = {
    key.key: key
    for key in (
        Key(CPU_USE, "%", "none", "use of all cores of the machine since the last reading, whoever used them"),
        Key(MEMORY_USE, "%", "none", "memory of the machine in use, by whomever"),
        Key(PROCESS_MEMORY, "MB", "none", "resident memory of the process that trains the trial"),
        Key(GPU_USE, "%", "none", "use of the trial's GPU, by whomever"),
        Key(GPU_MEMORY, "MB", "none", "most GPU memory that the trial has held so far"),
    )
}

VARYING: frozenset[str] = frozenset({SAMPLES_PER_SECOND, TRAIN_SECONDS, *SYSTEM})
"""The only measurements in which two runs of one trial on one machine may differ."""

# --- attention --------------------------------------------------------------------------------------------------------
# Keys: attention/<metric>/<block>, the block as `attention_block` writes it.
MAX_LOGIT, ENTROPY = "max_logit", "entropy"
ATTENTION: dict[str, Key] = {
    key.key: key
    for key in (
        Key(MAX_LOGIT, "1", "none", "largest q.k / sqrt(head width) of a block, weights without EMA, signed"),
        Key(
            ENTROPY, "nat", "none", "entropy of a block's attention over its keys, mean over heads, queries and images"
        ),
    )
}
_ATTENTION_PREFIX = "attention"


def attention_block(number: int, kind: str = "") -> str:
    """`block_03`; with several attentions in a block, those beside its first with their kind: `block_03_cross`."""
    return f"block_{number:02d}" + (f"_{kind}" if kind else "")


def attention_key(metric: str, block: str) -> str:
    """Key of what was measured of the attention in one block: `attention/max_logit/block_03`."""
    return "/".join((_ATTENTION_PREFIX, metric, block))


def parse_attention(key: str) -> tuple[str, str] | None:
    """(metric, block) of a key that `attention_key` made, or None for any other key."""
    parts = key.split("/")
    return (parts[1], parts[2]) if len(parts) == 3 and parts[0] == _ATTENTION_PREFIX else None


# --- sample quality ---------------------------------------------------------------------------------------------------
# Metrics of generated images. Keys in MLflow: quality/<metric>/<judge label>/<setting>, the standard error under
# <metric>_se and what true images score under <metric>_ceiling (same judge label, setting `true`).
GENEVAL_TASKS: tuple[str, ...] = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
"""GenEval's tags, in the order of its paper."""

QUALITY: dict[str, Key] = {
    key.key: key
    for key in (
        Key("fid", "1", "lower", "Frechet distance of features; biased by the number of images, so same n only"),
        Key("kid", "1", "lower", "kernel distance of features (cubic polynomial), unbiased"),
        Key("fid_infinity", "1", "lower", "FID extrapolated to infinitely many images"),
        Key("clip_score", "1", "higher", "mean cosine of image and caption embeddings"),
        Key("read_exactly", "share", "higher", "images in which every object of the caption, and no other, is read"),
        Key("geneval", "share", "higher", "mean over GenEval's tasks of the share of correct images"),
        *(Key(f"geneval_{task}", "share", "higher", f"GenEval, {task}") for task in GENEVAL_TASKS),
        Key("spelling", "share", "higher", "images whose word is read exactly as the caption spells it"),
        Key("letters", "share", "higher", "letters of the caption's word that are read in their place"),
        Key("path_length", "1", "none", "sum over the solver's steps of |v dt|, per image (paper, Table 6)"),
    )
}

TRUE_IMAGES = "true"  # in the place of the setting: a ceiling is of true images, not of drawn ones
_QUALITY_PREFIX = "quality"


def setting_label(steps: int, guidance: float, weights: str) -> str:
    """How images were drawn: Euler steps, guidance, `ema` or `raw` weights. `s50-g2.5-ema`."""
    return f"s{steps}-g{guidance:g}-{weights}"


def parse_setting(label: str) -> tuple[int, float, str]:
    """(steps, guidance, weights) of a label that `setting_label` made. Raises ValueError."""
    drawn, _, weights = label.rpartition("-")
    steps, found, guidance = drawn.partition("-g")
    if not (found and steps.startswith("s")):
        raise ValueError(f"{label!r} is no setting of sample quality, such as s50-g2.5-ema")
    return int(steps[1:]), float(guidance), weights


def quality_key(metric: str, judge: str, setting: str) -> str:
    """MLflow key of a score: `quality/fid/shapes-512-240/s50-g2.5-ema`."""
    return "/".join((_QUALITY_PREFIX, metric, judge, setting))


def parse_quality(key: str) -> tuple[str, str, str] | None:
    """(metric, judge label, setting) of a key that `quality_key` made, or None for any other key."""
    parts = key.split("/")
    return (parts[1], parts[2], parts[3]) if len(parts) == 4 and parts[0] == _QUALITY_PREFIX else None


# --- votes between two images -----------------------------------------------------------------------------------------
CHOICES: tuple[str, ...] = ("left", "right", "none")
"""What a person may answer: which image, or no preference."""

# --- which points of a curve are ends of trainings --------------------------------------------------------------------
ALL_POINTS, LAST_POINT = "all", "last"

# --- parameters of a run (written once) -------------------------------------------------------------------------------
TRIAL_ID = "trial_id"
PARAMS: dict[str, Key] = {
    key.key: key
    for key in (
        Key(
            "formulation",
            "",
            "none",
            "noise path, target and noise sampler, in the paper's notation",
            kind="text",
            needed=True,
        ),
        Key("data", "", "none", "data set", kind="text"),
        Key(
            "resolution",
            "pixels",
            "none",
            "side of the square images; with buckets, the root of their area",
            kind="count",
        ),
        Key("depth", "blocks", "none", "MM-DiT blocks", kind="count"),
        Key("width", "channels", "none", "hidden width", kind="count"),
        Key("heads", "", "none", "attention heads", kind="count"),
        Key("patch", "pixels", "none", "side of a patch", kind="count"),
        Key("parameters", "", "none", "all trainable parameters", derived=True, needed=True),
        Key(
            "parameters_core",
            "",
            "none",
            "parameters of attention and MLP: without embeddings, modulation and head",
            derived=True,
        ),
        Key(
            "forward_flops",
            "FLOP/sample",
            "none",
            "exact forward FLOPs of one sample (a multiply-add is 2); with buckets, the mean over the steps",
            derived=True,
        ),
        Key(
            "train_flops_per_step",
            "FLOP",
            "none",
            "exact forward and backward FLOPs of one step of the global batch; with buckets, the mean of all",
            derived=True,
            needed=True,
        ),
        Key(
            "train_flops",
            "FLOP",
            "none",
            "exact FLOPs of all steps, each with its bucket",
            derived=True,
            needed=True,
        ),
        Key("steps", "steps", "none", "training steps", kind="count", needed=True),
        Key("batch", "samples", "none", "global batch", kind="count", needed=True),
        Key("samples", "samples", "none", "steps x batch", kind="count", derived=True),
        Key(
            "image_tokens",
            "tokens",
            "none",
            "image tokens of one sample, a mean as forward_flops",
            derived=True,
        ),
        Key(
            "tokens",
            "tokens",
            "none",
            "image and context tokens, a mean as forward_flops",
            derived=True,
        ),
        Key("learning_rate", "1", "none", "peak learning rate after the rule across widths"),
        Key("lr_rule", "", "none", "how the learning rate follows the width", kind="text"),
        Key("warmup_steps", "steps", "none", "linear warm-up"),
        Key("ema_decay", "1", "none", "EMA decay per update"),
        Key("ema_every", "steps", "none", "steps between EMA updates"),
        Key("precision", "", "none", "fp32, or bf16 autocast", kind="text"),
        Key("text_dropout", "1", "none", "probability that a sample's text is replaced by zeros"),
        Key("timestep_shift", "1", "none", "resolution-dependent shift alpha: log-SNR falls by 2 ln(alpha)"),
        Key(
            "curve_ends",
            "",
            "none",
            "which points of its curve are ends of trainings: all of them with a constant rate, else the last",
            kind="text",
            derived=True,
        ),
        Key(
            "seed", "", "none", "seed of initial weights, data order, noise and text dropout", kind="count", needed=True
        ),
    )
}

IDENTITY = "id."
"""Before each key of a run's identity, flattened and resolved: `id.training.learning_rate`."""

SPACE = "data.space"
"""Key of the identity: what x0 lives in where that is not pixels, as the autoencoder's hash. Losses of two are not
comparable."""

# --- tags of a run (may change) ---------------------------------------------------------------------------------------
TAG_TRIAL_ID = "rfscale.trial_id"
TAG_STORE = "rfscale.store"  # the id of the store that wrote the run
TAG_SWEEP = "rfscale.sweep"
TAG_QUESTION = "rfscale.question"
TAG_COMMAND = "rfscale.command"  # of an experiment and of a run: the command line that runs the sweep again
TAG_STATUS = "rfscale.status"  # one of STATUSES
TAG_REASON = "rfscale.reason"  # why a trial is not finished, one sentence
TAG_FAILURE = "rfscale.failure"  # the class of it: one of a small closed set, such as `out of GPU memory`
TAG_SHARE = "rfscale.device_share"  # of a GPU that other trials were trained on too, such as 0.25: its timing is theirs
TAG_COMMIT = "rfscale.commit"
TAG_VERSIONS = "rfscale.versions"  # JSON: package -> version
TAG_DEVICE = "rfscale.device"
TAG_NOTES = "rfscale.notes"  # JSON: sentences on what the sweep or its data may hold that was not meant
TAG_ARM = "rfscale.arm"  # the label of the arm that the trial belongs to, such as `rf, shift 3`
TAG_ROLES = "rfscale.roles"  # JSON: role (arm, rung, tuned, seed) -> keys of the identity, the same on a sweep's runs
UNSAID = "unsaid"  # in it: key -> value, as text, of what was added later: on record or not, it is the same kind of run
TAG_PLACES = "rfscale.places"  # of an experiment: hash of the arms, roles and keys of the identity that its runs carry
REPORT_EXPERIMENT = " (report)"  # after the name of a sweep: the MLflow experiment of its report, which has no trials
TAG_SUMMARY = "rfscale.summary"  # of a run that holds the report and is no trial: the id of the store that wrote it
TAG_DESCRIPTION = "mlflow.note.content"  # MLflow's own: what its page says of an experiment
TAG_CURSOR = "rfscale.journal_bytes"  # bytes of the trial's journal that this run holds, and a hash of their last line

FINISHED, RUNNING, PARTIAL, INTERRUPTED, DIVERGED, FAILED, DAMAGED, NEW, DROPPED, INCOMPLETE, LEFT_OUT = (
    "finished",
    "running",
    "partial",
    "interrupted",
    "diverged",
    "failed",
    "damaged",
    "new",
    "dropped",
    "incomplete",
    "left out",
)
OVER: tuple[str, ...] = (FINISHED, DIVERGED, INCOMPLETE)
"""How a trial ends for good: training it again gives the same."""
STATUSES: dict[str, str] = {
    NEW: "nothing of it exists yet",
    RUNNING: "a process is training it now",
    PARTIAL: "it was begun and will resume from its last checkpoint",
    INTERRUPTED: "it was told to stop, wrote a checkpoint and left; the next run goes on from there",
    FINISHED: "last step reached, finite metrics, readable weights",
    DIVERGED: "its loss diverged; training is deterministic, so it is not tried again",
    INCOMPLETE: "its samples or FLOPs are not the planned ones; `rfscale retry` has the next run train it anew",
    FAILED: "it ended with an error; the next run tries it again",
    DAMAGED: "a file of it cannot be read, or its weights have changed; the next run trains it again",
    DROPPED: "it is in no fit, with the reason beside it",
    LEFT_OUT: "a race did not need it, with the reason beside it; a run without --race trains it",
}
