"""The sections of the config: what is set under `train.`, `optim.`, `eval.`, ... Plain values with their meaning."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class Precision(Enum):
    """Arithmetic of forward and backward; parameters and optimizer state are fp32 (fp64 for fp64)."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp64 = "fp64"


class Device(Enum):
    """`auto` takes CUDA where there is a GPU, else the CPU."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class OptimizerName(Enum):
    """Optimizers; `sgd` is plain unless `momentum` is set."""

    adamw = "adamw"
    adam = "adam"
    sgd = "sgd"
    adafactor = "adafactor"


class OnBadSteps(Enum):
    """`rollback` goes back to the last good checkpoint and passes over the samples of the bad steps."""

    stop = "stop"
    rollback = "rollback"


class ScheduleName(Enum):
    """Shapes of the learning rate after warm-up (see trainer/optim.py)."""

    constant = "constant"
    linear = "linear"
    cosine = "cosine"
    wsd = "wsd"


@dataclass
class TrainConfig:
    """What is trained for how long. The batch is global, whatever the number of ranks."""

    max_steps: int = 200
    """Optimizer steps, and the length of the learning rate schedule."""
    stop_at: int | None = None
    """End after this step, resumable, without shortening the schedule; 0: save the initial or pre-trained values as they are."""
    global_batch_size: int = 32
    """Samples in one optimizer step over all ranks."""
    micro_batch_size: int | None = None
    """Samples in one forward pass on one rank; null: all of the rank's share at once."""
    seed: int = 0
    """Fixes initial values, data order and dropout: 0 or more, below 2^63."""
    precision: Precision = Precision.fp32
    device: Device = Device.auto
    activation_checkpointing: bool = False
    """Recompute each block's activations in backward instead of keeping them."""
    compile: bool = False
    """Compile each block with torch.compile."""
    max_bad_steps: int = 0
    """A step whose loss or gradient norm is not finite moves nothing on any rank. Up to this many of them in a row are
    skipped, each logged with its samples; one more, and `on_bad_steps` says what happens."""
    on_bad_steps: OnBadSteps = OnBadSteps.stop
    """After more than `max_bad_steps` in a row. stop: the run saves its last good step and fails. rollback: it goes back to its
    last good checkpoint (or to the start where there is none) and goes on without the samples of those steps."""
    deterministic: bool = True
    """On CUDA, only deterministic kernels. (The CPU's are.)"""


@dataclass
class OptimConfig:
    """The optimizer and its schedule."""

    name: OptimizerName = OptimizerName.adamw
    lr: float = 1e-3
    """Peak learning rate."""
    weight_decay: float = 0.1
    """Applied to matrices only: norms, biases and embeddings do not decay."""
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    momentum: float = 0.0
    """For sgd."""
    max_norm: float = 1.0
    """Clip the global gradient norm to this; 0: do not clip."""
    schedule: ScheduleName = ScheduleName.cosine
    warmup_steps: int = 0
    """Steps of linear warm-up from 0."""
    decay_fraction: float = 0.2
    """For wsd: the share of `train.max_steps` at the end in which the rate falls."""
    final_ratio: float = 0.1
    """The rate after the last step as a share of `optim.lr` (linear, cosine, wsd)."""


@dataclass
class EvalConfig:
    """Exact evaluation over the whole evaluation split."""

    every: int = 0
    """Evaluate after every this many steps; 0: only at the end."""
    batch_size: int = 32
    """Samples in one forward pass on one rank."""
    at_end: bool = True


@dataclass
class CheckpointConfig:
    """Checkpoints, each a directory that is whole once it has a manifest."""

    every: int | str = 0
    """Save after every this many steps, or after a time: 90s, 10m, 2h (by rank 0's clock, one step late); 0: only at the end."""
    overlap: bool = True
    """Write checkpoints while training goes on, from a copy of the state in host memory."""
    keep: int = 2
    """How many of the newest checkpoints to keep."""
    resume: str = "auto"
    """auto: from the newest in `run_dir`; never: from the start; or the path of a checkpoint. After the last two,
    later ones in `run_dir` are removed. Ranks that a launcher starts again go on from the newest that its launch has written."""
    strict: bool = True
    """Refuse a checkpoint of another model, optimizer or data. False: take what fits, and list the rest."""


@dataclass
class LoaderConfig:
    """Reading ahead, so that a step does not wait for data that could have been ready."""

    prefetch: int = 2
    """Steps of batches that are made ready ahead; small ones are made in groups, and then groups of steps."""
    workers: int = 1
    """Threads that make them."""


@dataclass
class RunConfig:
    """How the run is supervised."""

    max_restarts: int = 0
    """How often the workers are started again from the last checkpoint after one has died. Not under torchrun, which has --max-restarts."""
    min_ranks: int | None = None
    """With how few processes a run may go on. A restart is on the same number, or on as many as there are GPUs left, or room in Ray;
    when a process then dies again before there is a new checkpoint, it is on the largest smaller number that `train.global_batch_size`
    and `train.micro_batch_size` can be divided over. Null: always the same number. Under torchrun: fewer are refused."""
    stall_timeout: float = 600.0
    """Seconds after which a run in which no rank has come further is ended, resumable, with the doctor's diagnosis; 0: never."""


@dataclass
class LogConfig:
    """What is shown and recorded."""

    every: int = 10
    """Steps between plain lines where there is no terminal."""
    progress: bool = True
    """A progress bar, or plain lines where there is no terminal."""


@dataclass
class WandbConfig:
    """Weights & Biases (needs the extra `wandb`)."""

    enabled: bool = False
    project: str = "trainer"
    name: str | None = None
    """Null: the name of the run directory."""


@dataclass
class ProfileConfig:
    """torch.profiler."""

    steps: list[int] = field(default_factory=list)
    """[first, last]: write a Chrome trace of these steps, both included, to `run_dir`/profile."""


@dataclass
class PosttrainConfig:
    """What is asked of a compressed model, and how it is measured."""

    quality: str = "loss"
    """The metric of the evaluation that says how good a model is."""
    higher_is_better: bool = False
    """Of `quality`; a loss is better when it is lower."""
    max_quality_loss: float | None = None
    """How much worse than before, as a share of the value before, `quality` may be; more fails the run. Null: whatever comes out."""
    latency_pairs: int = 30
    """Passes of each of the two models whose latency is compared, in turns; 0: it is not measured, and no process holds a model whole."""
    evaluation_samples: int | None = None
    """Of the evaluation split, at even distances, for the figures before and after; null: all."""
    explain_samples: int = 100
    """Of the evaluation split, at even distances, whose decisions are explained; all where there are no more."""
    explain_background: int = 50
    """Of the training split, at even distances: what an absent column takes its value from. The cost of most explainers rises with it."""
    explain_output: int | None = None
    """The class whose log-odds are explained. Null: the second of two; of more, the one that the model predicts for the sample."""
    explain_tokens: int = 64
    """Of a text, before the token that is explained, that the model sees at most."""
    explain_regions: int = 32
    """About how many regions a picture is cut into."""
    evidence_samples: int = 8
    """Of those explained, at even distances, on which each explainer is checked; 0: none is."""
