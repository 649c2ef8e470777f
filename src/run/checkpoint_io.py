"""How Lightning writes and reads checkpoint files."""

import io
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins import TorchCheckpointIO

from src.files import write_bytes_atomically
from src.models.checkpoint import VERSION, read_checkpoint


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically, and verifies their checksums when reading them.

    Lightning itself writes to the temporary folder first, which may be on another disk, and ignores
    checksums.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, *_: Any, **__: Any) -> None:
        """Write a new file, then replace the previous checkpoint with it."""
        # The other arguments of Lightning, such as options of the storage, are not used.
        file = Path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        # Serialize to memory first, because an error of `torch.save` does not say why a file could
        # not be written.
        content = io.BytesIO()
        torch.save({**checkpoint, "version": VERSION}, content)
        write_bytes_atomically(file, content.getvalue())

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        """Read a checkpoint onto the CPU."""
        return read_checkpoint(Path(path))
