"""One run: data → model → trainer → fit → test → report → score."""

import logging
import shlex
import threading
import time
import warnings
from contextlib import suppress
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any, cast

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer, loggers
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_only

from src.checkpoints import LastCheckpoint, WholeCheckpointIO, read_last
from src.config import LOGGERS, Config
from src.data.alphabet import ALPHABET
from src.data.datamodule import NamesDataModule, NamesDataset
from src.data.tensors import Batch
from src.errors import UserError
from src.files import remove_parts
from src.interruption import Interrupted, Interruption
from src.metrics import DIVERGED, FILE, INTERRUPTED, SCORE, Metrics, read_metrics, write_metrics
from src.models.batched import BatchedClassifier
from src.models.classifier import DivergenceError, NameClassifier
from src.models.online import OnlineClassifier
from src.pictures import as_png, confusion_png, loss_figure
from src.progress import Progress
from src.report import summary, write_report

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
    leads = leads_run(config)
    if leads:
        remove_parts(folder)
        (folder / FILE).unlink(missing_ok=True)  # of an interrupted run, or of one before it grew
    else:
        logging.getLogger("src").setLevel(logging.ERROR)
    start = time.perf_counter()
    be_quiet()
    torch.set_num_threads(1)  # matrices this small lose more to a second thread than they gain
    data = make_data(config)
    log.info(data.summary())
    torch.manual_seed(config.seed)
    model = make_model(config, data)
    file = folder / "checkpoints/last.ckpt"
    best = ModelCheckpoint(
        file.parent,
        "best",
        monitor=SCORE,
        mode="max",
        save_on_train_epoch_end=False,  # but after the validation, so that last.ckpt knows of it
        enable_version_counter=False,
    )
    if file.exists():
        checkpoint = read_last(file, dict(model.hparams), data.state_dict())
        take_up(checkpoint, model, data, best)
        log.info(f"Going on from iteration {model.iteration:,}")
    progress = Progress(
        model, data.categories, config.iterations, config.print_every, config.batch_size
    )

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
        trainer = make_trainer(folder, callbacks, data.epochs, config.trainer)
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
        finally:
            end_followers(trainer)
        final = metrics()
        loss, confusion = pictures(model, data)
        write_report(folder, logger, config.hyperparameters(), final, loss, confusion)
    log.info(summary(final, folder, logger))
    return final.get(SCORE)


def leads_run(config: Config) -> bool:
    """Return whether this process is the one of its run that writes and speaks."""
    rank: int = rank_zero_only.rank  # type: ignore[attr-defined] # Lightning sets it
    return rank == 0 or not config.distributed


def make_data(config: Config) -> NamesDataModule:
    """Return the names of a run."""
    return NamesDataModule(
        data_dir=config.data_dir,
        val_fraction=config.val_fraction,
        test_fraction=config.test_fraction,
        seed=config.seed,
        iterations=config.iterations,
        log_every=config.log_every,
        epoch_size=config.epoch_size,
        chunk=config.chunk,
        batch_size=None if config.online else config.batch_size,
        sampling=config.sampling,
    )


def make_model(config: Config, data: NamesDataModule) -> NameClassifier:
    """Return the untrained model of a run."""
    if config.online:
        return OnlineClassifier(
            data.categories, ALPHABET, config.hidden, config.lr, config.backend, config.log_every
        )
    names = {"alphabet": ALPHABET, "categories": data.categories, "shares": data.shares()}
    model = BatchedClassifier({**names, **config.network()}, **config.optimization())
    if model.network.ngrams is not None:
        every = whole(data.distinct)
        model.network.ngrams.count(every.letters, every.lengths, every.categories)
    return model


def whole(names: NamesDataset) -> Batch:
    """Return all of some names as one batch."""
    return names.__getitems__(range(len(names)))


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
        model.decide(whole(data.val), data.shares(), data.corpus_shares())
        trainer.save_checkpoint(last.file)
    if len(data.test):
        trainer.test(model, data, verbose=False)
    if len(data.val) and len(data.test):
        model.score_priors("test", whole(data.test))


def end_followers(trainer: Trainer) -> None:
    """Wait until other processes of the run have ended; after five seconds, end them."""
    for process in getattr(trainer.strategy.launcher, "procs", ()):
        try:
            process.wait(5)
        except TimeoutExpired:
            process.kill()


def pictures(model: NameClassifier, data: NamesDataModule) -> tuple[bytes, bytes]:
    """Return the loss curve and the confusion matrix, PNG files."""
    side, names = data.pictured()
    matrix = model.confusion_matrix(whole(names))
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


def be_quiet() -> None:
    """Silence what others say while they work: tips, hardware lists, advice for larger models."""
    for name in ("lightning.pytorch", "lightning.fabric", "matplotlib"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.raiseExceptions = False  # nobody reads the output any more: `… | head`
    warnings.filterwarnings("ignore", module="lightning")
    # TensorBoard writes in a thread. When the disk is full, the next write in ours says so, too.
    threading.excepthook = lambda failed: None


def make_trainer(
    folder: Path, callbacks: list[Callback], epochs: int, arguments: dict[str, Any]
) -> Trainer:
    """Return a Trainer, with `arguments`, that validates after each epoch."""
    if arguments.get("strategy") == "ddp":
        # Letter n-grams are not trained in each iteration; no buffer ever changes.
        ddp = DDPStrategy(find_unused_parameters=True, broadcast_buffers=False)
        arguments = {**arguments, "strategy": ddp}
    try:
        return Trainer(
            max_epochs=epochs,
            reload_dataloaders_every_n_epochs=1,  # each epoch has examples of its own
            use_distributed_sampler=False,  # ours shares them out
            callbacks=callbacks,
            plugins=[WholeCheckpointIO()],
            enable_checkpointing=any(isinstance(each, ModelCheckpoint) for each in callbacks),
            logger=False,  # made later, as it writes
            default_root_dir=folder,
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
            **arguments,
        )
    except (TypeError, ValueError, MisconfigurationException) as error:
        raise UserError(f"trainer: {error}") from None


def make_logger(folder: Path, description: dict[str, Any]) -> Logger:
    """Return the logger that `description` names; only Lightning's own classes are allowed.

    What an earlier part of the run has logged is deleted: it is to be logged again.
    """
    arguments = dict(description)
    target = arguments.pop("_target_")
    name = target.removeprefix(f"{LOGGERS}.")
    if name not in loggers.__all__:
        raise UserError(f"logger._target_={target}: {LOGGERS} has {', '.join(loggers.__all__)}")
    for pattern in ("events.out.tfevents.*", "metrics.csv"):
        for path in folder.glob(pattern):
            path.unlink()
    try:
        logger: Any = getattr(loggers, name)(save_dir=folder, **arguments)
        _ = logger.experiment  # some of the arguments are only looked at now
    except (TypeError, ValueError, ModuleNotFoundError) as error:
        raise UserError(f"logger: {error}") from None
    return cast("Logger", logger)
