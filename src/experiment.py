"""One run: data → model → trainer → fit → test → report → score."""

import logging
import shlex
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from src.config import Config
from src.data.datamodule import NamesDataModule
from src.errors import UserError
from src.files import remove_parts
from src.metrics import (
    DIVERGED,
    FILE,
    INTERRUPTED,
    SCORE,
    Metrics,
    read_metrics,
    write_metrics,
)
from src.models.classifier import DivergenceError, NameClassifier
from src.pictures import as_png, confusion_png, loss_figure
from src.runs.build import be_quiet, make_best, make_data, make_logger, make_model, make_trainer
from src.runs.checkpoints import LastCheckpoint, read_last
from src.runs.interruption import Interrupted, Interruption
from src.runs.processes import end_followers, leads_run
from src.runs.progress import Progress
from src.runs.report import summary, write_report

log = logging.getLogger(__name__)


def run_experiment(config: Config, folder: Path) -> float | None:
    """Do one run, all its files into `folder`; return its validation balanced accuracy, if any.

    Raises:
        UserError: if the settings, the corpus or the training went wrong.
    """
    finished = read_metrics(folder)
    if finished.get("iterations", 0) >= config.iterations:
        log.info(
            f"{folder}: finished after {finished['iterations']:,} iterations; "
            "a larger iterations= trains on"
        )
        return finished.get(SCORE)
    start = time.perf_counter()
    leads = leads_run(config.distributed)
    be_quiet(leads)
    if leads:
        remove_parts(folder)
        (folder / FILE).unlink(missing_ok=True)  # of an interrupted run, or of one before it grew
    torch.set_num_threads(1)  # matrices this small lose more to a second thread than they gain

    data = make_data(config)
    log.info(data.summary())
    model = make_model(config, data)
    file = folder / "checkpoints/last.ckpt"
    best = make_best(file.parent)
    if file.exists():
        checkpoint = read_last(file, dict(model.hparams), data.state_dict())
        take_up(checkpoint, model, data, best)
        log.info(f"Going on from iteration {model.iteration:,}")

    names = data.names_per_iteration
    progress = Progress(model, data.categories, config.iterations, config.print_every, names)

    def metrics() -> Metrics:
        return {
            **model.final_scores(),
            "iterations": model.iteration,
            "seconds": time.perf_counter() - start,
            "names_per_second": progress.names_per_second,
        }

    with Interruption() as interruption:
        last = LastCheckpoint(model, file, config.checkpoint_every, interruption)
        callbacks: list[Callback] = [best, last] if len(data.val) else [last]
        if leads:
            callbacks.insert(0, progress)
        trainer = make_trainer(config, folder, callbacks, data.epochs)
        if not leads:
            with suppress(UserError, Interrupted):  # the leading process has them, too
                train(trainer, model, data, last)
            return None
        trainer.logger = logger = make_logger(folder, config.logger)
        for iteration, values in model.history:  # of the run so far
            logger.log_metrics(values, iteration)
        try:
            train(trainer, model, data, last)
            interruption.check()
        except DivergenceError:
            write_metrics(folder, DIVERGED, metrics())
            raise
        except Interrupted:
            write_metrics(folder, INTERRUPTED, metrics())
            log.info(
                f"Interrupted at iteration {last.iteration:,}. To go on:\n"
                f"python -m src.train resume={shlex.quote(str(folder))}"
            )
            raise
        except RuntimeError as error:
            if not config.distributed:
                raise
            reason = str(error).partition("\n")[0]
            raise UserError(f"a process of this run has failed: {reason}") from error
        finally:
            end_followers(trainer)
        final = metrics()
        loss, confusion = pictures(model, data)
        write_report(folder, logger, config.hyperparameters(), final, loss, confusion)
    log.info(summary(final, folder, logger))
    return final.get(SCORE)


def train(
    trainer: Trainer, model: NameClassifier, data: NamesDataModule, last: LastCheckpoint
) -> None:
    """Train, then score the test names with the final weights, as trained and under each prior.

    The decision that the latter takes is fitted to the validation names, and kept in the
    checkpoint.
    """
    trainer.fit(model, data)
    last.check(trainer)
    model.eval()
    if len(data.val):
        model.decide(data.val.whole(), data.shares(), data.corpus_shares())
        trainer.save_checkpoint(last.file)
    if len(data.test):
        trainer.test(model, data, verbose=False)
    if len(data.val) and len(data.test):
        model.score_priors("test", data.test.whole())


def pictures(model: NameClassifier, data: NamesDataModule) -> tuple[bytes, bytes]:
    """Return the loss curve and the confusion matrix, PNG files."""
    side, names = data.pictured()
    matrix = model.confusion_matrix(names.whole()).numpy()
    title = f"Guesses on the {side} names, % of each true category"
    loss = as_png(loss_figure(model.curve("train/loss")))
    return loss, confusion_png(matrix, data.categories, title)


def take_up(
    checkpoint: dict[str, Any], model: NameClassifier, data: NamesDataModule, best: ModelCheckpoint
) -> None:
    """Put everything where it was when the checkpoint was written."""
    model.load_state_dict(checkpoint["state_dict"])
    model.on_load_checkpoint(checkpoint)
    data.start = model.iteration
    if state := checkpoint["callbacks"].get(best.state_key):
        best.load_state_dict(state)
