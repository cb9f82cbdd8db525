"""TensorBoard event files of a training run. Torch code: import inside the function that needs it."""

from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from gpu_assets.training.metrics import Figures

FLUSH_S = 10
"""What a kill can cost; the run that goes on writes those steps again."""


class EventFiles:
    """Writes an interval's figures at its last step of the line.

    A killed or rolled-back run begins a further file that declares the later steps of the earlier ones void, so
    TensorBoard shows every step once.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer: SummaryWriter | None = None

    def write(self, figures: Figures) -> None:
        writer = self._writer or self._open(figures.step)
        for tag, value in scalars(figures).items():
            writer.add_scalar(tag, value, figures.step)

    def rewind(self, step: int) -> None:
        self.close()
        self._open(step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open(self, step: int) -> SummaryWriter:
        self._writer = SummaryWriter(self.folder, purge_step=step, flush_secs=FLUSH_S)
        return self._writer


def scalars(figures: Figures) -> dict[str, float]:
    """By TensorBoard's tags, which group by what stands before the slash."""
    values = {
        "train/loss": figures.loss,
        "train/gradient_norm": figures.gradient_norm,
        "train/learning_rate": figures.learning_rate,
        "speed/tokens_per_s": figures.tokens_per_s,
        "speed/supervised_tokens_per_s": figures.supervised_tokens_per_s,
        "machine/peak_memory_gb": figures.peak_memory_bytes / 1e9,
        "data/padding_share": figures.padding_share,
    }
    return values if figures.mfu is None else values | {"speed/mfu": figures.mfu}
