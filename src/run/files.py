"""A run's files: whole or not there, read from anywhere with care; and a lock on its folder."""

import codecs
import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from secrets import token_hex
from typing import IO, Any, NamedTuple, TypeVar
from zipfile import ZipFile

from filelock import FileLock, Timeout

from src.errors import UserError

log = logging.getLogger(__name__)
T = TypeVar("T")


def open_streams() -> None:
    """Open the standard streams that whoever started the program has closed, onto nothing."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            nowhere = Path(os.devnull).open("r+", encoding="utf-8")  # noqa: SIM115 # for good
            os.set_inheritable(nowhere.fileno(), True)  # to a sweep's workers
            setattr(sys, name, nowhere)


def drop_output() -> None:
    """Let what is still to be printed vanish, so that Python does not complain at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def without_mark(encoding: str) -> str:
    """Return the encoding to read with, so that UTF-8's byte-order mark is not taken for text."""
    return "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding


def refuse_targets(*files: Path | None, force: bool) -> None:
    """Refuse to write what should not be overwritten.

    Raises:
        UserError: if a file exists and `force` is not given, or is no plain file.
    """
    for file in filter(None, files):
        if file.exists() and not file.is_file():
            raise UserError(f"{file}: is no plain file")
        if file.exists() and not force:
            raise UserError(f"{file}: exists; --force replaces it")


FILE = "metrics.json"
SCORE = "val/balanced_accuracy"
"""What runs are ranked by."""
FINISHED, STOPPED, INTERRUPTED = "finished", "stopped", "interrupted"
DIVERGED, FAILED = "diverged", "failed"
OUTPUTS = Path("outputs")

PARTS = "seed_*"
"""In the folder of a run of several seeds: the folders of each."""

Metrics = dict[str, float]
"""Tags such as `test/accuracy`, and `iterations`, `seconds`, `names_per_second`."""

VERSION = 4
"""Of what a checkpoint holds."""
PART = ".part"
"""How the name of a file ends that is not complete yet."""


def remove_parts(folder: Path) -> None:
    """Delete what a program that was killed had not finished to write."""
    for path in folder.glob(f"**/.*{PART}"):
        path.unlink()


@contextmanager
def written_whole(file: Path, mode: str, **how: Any) -> Iterator[IO[Any]]:
    """Open a file to write that appears under its name only when it is complete."""
    file = file.resolve()  # what a link leads to is replaced, not the link
    beside = file.with_name(f".{token_hex(8)}{PART}")
    try:
        with beside.open(mode, **how) as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        beside.replace(file)
    except UnicodeEncodeError as error:
        letter = error.object[error.start]
        raise UserError(f"{file}: {letter!r} does not exist in {error.encoding}") from None
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from None
    finally:
        beside.unlink(missing_ok=True)


def write_bytes(file: Path, content: bytes) -> None:
    """Write a file that appears under its name only when it is complete."""
    with written_whole(file, "wb") as out:
        out.write(content)


def lock(folder: Path) -> FileLock:
    """Make a folder, if need be, and take it for this process, until it ends or releases it.

    Raises:
        UserError: if it is another's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held = FileLock(folder / ".lock")
    try:
        held.acquire(blocking=False)
    except Timeout:
        raise UserError(f"{folder}: is in use by another process") from None
    except (NotImplementedError, OSError) as error:
        if not os.access(folder, os.W_OK):
            raise
        log.warning(f"{folder}: cannot be locked here ({error}); start nothing else in it")
    return held


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; nothing but tensors and plain values is ever unpickled.

    Raises:
        UserError: if it is damaged or not one of this program's.
        OSError: if it cannot be read.
    """
    import torch  # takes seconds

    content = path.read_bytes()
    try:
        with ZipFile(io.BytesIO(content)) as archive:  # as torch writes it, not compressed
            grows = sum(each.file_size for each in archive.infolist()) > len(content)
            if grows or archive.testzip():  # torch does not look at checksums
                raise ValueError
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on how to load it all the same
            loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        ours, new = "NamesDataModule" in loaded, bool(loaded.get("version") == VERSION)
    except Exception:  # torch raises whatever the bytes provoke
        raise UserError(f"{path}: not a checkpoint, or a damaged or unsafe one") from None
    if not (ours and new):
        older = "is of an older version of this program; train anew"
        raise UserError(f"{path}: {older if ours else 'not a checkpoint of this program'}")
    return dict(loaded)


def from_checkpoint(path: Path, make: Callable[[dict[str, Any]], T]) -> T:
    """Return what `make` makes of a checkpoint; whatever the values provoke in it is refused.

    Raises:
        UserError: if it is damaged or not one of this program's.
        OSError: if it cannot be read.
    """
    checkpoint = read_checkpoint(path)
    try:
        return make(checkpoint)
    except Exception as error:
        reason = " ".join(str(error).partition("Exception raised from")[0].split())
        raise UserError(f"{path}: not a checkpoint of this program ({reason})") from None


def write_metrics(folder: Path, status: str, metrics: Metrics, reason: str = "") -> None:
    """Write a run's metrics.json: the status, why if it failed, and the numbers."""
    content = {"status": status, **({"reason": reason} if reason else {}), **metrics}
    write_bytes(folder / FILE, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def write_failure(folder: Path, reason: str) -> None:
    """Note in a run's metrics.json why it failed."""
    status, numbers, _ = read_metrics(folder)
    write_metrics(folder, DIVERGED if status == DIVERGED else FAILED, numbers, reason)


class RunResult(NamedTuple):
    """The content of a run's metrics.json; empty values if the run has none so far."""

    status: str
    metrics: Metrics
    reason: str
    """Why the run failed."""


def read_metrics(folder: Path) -> RunResult:
    """Return the result of a run. A damaged or foreign metrics.json is ignored."""
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        status, reason = str(content.pop("status")), str(content.pop("reason", ""))
        metrics = {name: value for name, value in content.items() if isfinite(value)}
        return RunResult(status, metrics, reason)
    except Exception:  # whatever its content provokes
        return RunResult("", {}, "")


def find_checkpoint(path: Path | None) -> Path:
    """Return the checkpoint at `path`, a file or a run's folder; by default the newest run's.

    Of a folder with runs below it, such as a sweep's, it is that of the highest validation score.

    Raises:
        UserError: if there is no run that has finished, with a score if one is looked for.
    """
    if path is None or (path.is_dir() and not (path / "checkpoints").exists()):
        runs: dict[Path, float] = {}
        for file in sorted((path or OUTPUTS).glob(f"**/{FILE}")):
            status, numbers, _ = read_metrics(file.parent)
            # A run of several seeds has no checkpoints: one of its parts is taken.
            ended = status in (FINISHED, STOPPED) and (file.parent / "checkpoints").exists()
            if ended and (path is None or SCORE in numbers):
                runs[file.parent] = numbers[SCORE] if path else file.stat().st_mtime
        if not runs:
            scored = f"with a {SCORE} in {path}/; name a run or a checkpoint"
            newest = f"under {OUTPUTS}/; train one, or name a --checkpoint"
            raise UserError(f"no finished run {scored if path else newest}")
        path = max(runs, key=lambda run: runs[run])
    # Of a run, the weights that its metrics are of.
    return path / "checkpoints" / "last.ckpt" if path.is_dir() else path
