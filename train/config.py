"""What one training run is: steps, optimizer, mesh, and how often to log and to save."""

import dataclasses
from typing import Literal

from mmtok.errors import MmtokError

SLOWEST_BFLOAT16 = 0.99


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with a learning rate schedule.

    Attributes:
      learning_rate: Peak of the schedule.
      warmup_steps: Steps of linear rise to the peak.
      schedule: `cosine`: half a cosine from the peak to the end. `wsd`: warmup, stable, decay; the peak is held, then
        falls linearly. `constant`: the peak is held to the end.
      final_fraction: Share of the peak that `cosine` and `wsd` end at.
      decay_fraction: Share of all steps that `wsd` spends falling.
      b1: Decay of the mean of the gradients.
      b2: Decay of the mean of the squared gradients.
      eps: Added to the root of the latter.
      weight_decay: Decoupled, times the learning rate; norms, biases and other vectors are spared.
      clip_norm: Largest global norm of the gradients; 0 for no limit.
      moments: How both means are stored between steps. bfloat16 saves a third of a training state's memory; the
        arithmetic stays float32.
    """

    learning_rate: float = 1e-3
    warmup_steps: int = 0
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    final_fraction: float = 0.0
    decay_fraction: float = 0.2
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    moments: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        if self.moments == "bfloat16" and max(self.b1, self.b2) > SLOWEST_BFLOAT16:
            raise MmtokError(
                f"training config: bfloat16 moments stand still at decays above {SLOWEST_BFLOAT16} (b1 {self.b1}, b2"
                f" {self.b2}): a step changes them by less than their last digit; lower the decay or keep float32"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How the devices are laid out and what is split over them.

    Attributes:
      slices: Groups of devices joined by a slower network: they split the batch only. -1 takes what the devices say,
        slices of TPU pods or hosts of GPUs; other numbers group GPUs anew (1: parameters split across hosts).
      data: Devices of a slice that only split the batch; -1 takes all that remain (one of these three may).
      fsdp: Devices that split the batch and, under all rules but `dp`, the parameters.
      tensor: Devices that split heads, hidden widths and the width of token tables under `fsdp_tp`.
      rules: Row of the sharding table (`mmtok.train.sharding.RULES`); `hybrid` is `fsdp` on several slices.
    """

    slices: int = -1
    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    rules: Literal["dp", "fsdp", "hybrid", "fsdp_tp"] = "dp"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitConfig:
    """One training run; the batch is the task's business.

    Attributes:
      steps: Optimizer steps of the whole run.
      optimizer: Optimizer and schedule.
      accumulate: Microbatches that one step averages its gradients over; must divide the batch. Their losses weigh the
        same, as those of the devices of a data-parallel run commonly do.
      ema: Decay of the moving average of the parameters (0: none). It rises to this as (1 + step) / (10 + step), so
        that short runs profit too.
      log_every: Steps between two log entries.
      non_finite: What to do with a step whose loss or gradients are not finite: `stop` the run, or `skip` the step,
        so that it changes nothing, with an entry in the log. After `log_every` of them in a row, and ten at least, a
        run stops all the same.
      checkpoint_every: Steps between two checkpoints; the last step always has one.
      keep: Newest checkpoints that are kept.
      keep_every: Checkpoints at multiples of so many steps are kept too, for good; 0: none.
      seed: Of initial parameters and of every random choice inside the step.
      mesh: Devices.
      watchdog_seconds: When a step, compiling, or reading or writing a checkpoint takes so long, the stack of every
        thread is reported; 0: never.
      threads: Threads that prepare batches ahead of time.
      peak_flops: Peak of one device in FLOP/s, which utilisation is measured against; 0: measured with a matmul.
      trackers: Where log entries go beside `log.jsonl`.
    """

    steps: int
    optimizer: OptimizerConfig = OptimizerConfig()
    accumulate: int = 1
    ema: float = 0.0
    log_every: int = 50
    non_finite: Literal["stop", "skip"] = "stop"
    checkpoint_every: int = 1000
    keep: int = 3
    keep_every: int = 0
    seed: int = 0
    mesh: MeshConfig = MeshConfig()
    watchdog_seconds: float = 600.0
    threads: int = 2
    peak_flops: float = 0.0
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ("tensorboard",)

    def __post_init__(self) -> None:
        least = dict.fromkeys(("steps", "accumulate", "log_every", "checkpoint_every", "keep", "threads"), 1)
        for name, smallest in (least | {"watchdog_seconds": 0, "peak_flops": 0}).items():
            if getattr(self, name) < smallest:
                raise MmtokError(f"training config: {name} is {getattr(self, name)}, it must be at least {smallest}")
        if self.keep_every < 0 or self.keep_every % self.checkpoint_every:
            raise MmtokError(
                f"training config: keep_every is {self.keep_every}, it must be 0 or a multiple of checkpoint_every"
                f" {self.checkpoint_every}"
            )
        if not 0 <= self.ema < 1:
            raise MmtokError(f"training config: ema is {self.ema}, a decay lies in [0, 1)")
