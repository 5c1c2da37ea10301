"""`shards`: what a rank needs at most while a model that is cut over several ranks is compressed, against one that has it alone."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

from benchmarks.commands import run_quietly
from benchmarks.measure import median_interval, order
from benchmarks.options import Options
from benchmarks.report import Row, Table
from benchmarks.work import COMMON, environment, save, torchrun
from trainer.checkpoint.directory import list_whole

CHAINS = {
    "prune, int8": ["compress=[prune,quantize]", "compress.prune.importance=magnitude"],
    "low rank": ["compress=[low_rank]", "compress.low_rank.calibration_samples=16"],
}
LIMITS = {2: 0.65, 4: 0.45}
"""By the number of ranks: its part, and some for the layer or block that is whole for a moment."""
MODELS = {False: ("26 M parameters", 32, 256), True: ("4 M parameters", 8, 192)}
"""By `Options.quick`: what it is, layers, width."""
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""What is freed goes back to the system at once. By default glibc keeps much of it, now more and now less, and at this size that hides the rest."""
SMALL = (1, 64)
"""Layers and width of a model that each rank compresses first, so that what is imported and set up is not counted."""


def run(options: Options, directory: Path) -> Table:
    """Every chain on every number of ranks."""
    told, layers, dim = MODELS[options.quick]
    models = [_make(SMALL[0], SMALL[1], directory / "small"), _make(layers, dim, directory / "model")]
    rows = [row for chain in CHAINS for row in measure(chain, told, models, options, directory)]
    notes = (
        "How much more resident memory the rank that needs most takes at its peak than for a model of next to nothing, from reading the checkpoint to",
        "writing the compressed one. trainer: each rank has its part of every layer, and one layer (low rank: its SVD) or block (a forward pass) whole at",
        "a time. other: the same on one rank. Embeddings are small here, as they are in large models. Both with MALLOC_MMAP_THRESHOLD_=65536.",
    )
    return Table("shards", "memory of a rank while a model is compressed, against one rank", notes, tuple(rows))


def measure(chain: str, told: str, models: list[list[str]], options: Options, directory: Path) -> list[Row]:
    several = [2] if options.quick else list(LIMITS)
    peaks: dict[int, list[int]] = {ranks: [] for ranks in (1, *several)}
    for number in range(options.pairs or 6):
        for ranks in map(int, order(number, [str(ranks) for ranks in peaks])):
            peaks[ranks].append(peak(chain, ranks, models, directory / f"{chain.replace(', ', '-').replace(' ', '-')}-{ranks}"))
    rows = []
    for ranks in several:
        ratio = median_interval([ours / other for ours, other in zip(peaks[ranks], peaks[1], strict=True)])
        rows.append(Row(f"{chain}, {told}, {ranks} ranks", _megabytes(peaks[ranks]), _megabytes(peaks[1]), ratio, LIMITS[ranks]))
    return rows


def peak(chain: str, ranks: int, models: list[list[str]], place: Path) -> int:
    """Bytes more for the last of `models` (overrides) than for the first, of the rank that needs most, while `chain` compresses them."""
    given = []
    for number, model in enumerate(models):
        overrides = [*model, *CHAINS[chain], f"launcher.nproc_per_node={ranks}", f"run_dir={place / str(number)}"]
        given.append(str(save(overrides, place / f"{number}.yaml")))
    run_quietly([*torchrun(ranks), "benchmarks.shards_ranks", "compress", *given, str(place)], environment(**ALLOCATOR), place / "log.txt")
    return max(json.loads((place / f"rank-{rank}.json").read_text(encoding="utf-8")) for rank in range(ranks))


def _make(layers: int, dim: int, place: Path) -> list[str]:
    """Overrides of a model that is saved in `place` with its initial values, and that begin with these."""
    data = ["data=synthetic", "data.vocab_size=512", "data.seq_len=32", "eval.batch_size=4"]
    overrides = [*COMMON, *data, f"model.layers={layers}", f"model.dim={dim}", "model.heads=4"]
    config = save([*overrides, f"run_dir={place}"], place / "given.yaml")
    run_quietly([*torchrun(1), "benchmarks.shards_ranks", "make", str(config)], environment(), place / "log.txt")
    (start,) = list_whole(place)
    return [*overrides, f"checkpoint.resume={start}"]


def _megabytes(peaks: list[int]) -> str:
    return f"{statistics.median(peaks) / 1e6:.0f} MB"
