"""`python -m src.train`: one run, top to bottom; with `-m`, each of a sweep's."""

import gc
import logging
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from src.config import CONFIGS, CORPUS, DATA, NETWORK, TRAINING, Config, from_hydra, message
from src.errors import UserError
from src.run import files, process

log = logging.getLogger(__name__)
EVERYTHING = os.environ.get("HYDRA_FULL_ERROR") == "1"
"""Whether whoever started this wants tracebacks."""


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")
def main(cfg: DictConfig) -> float | None:
    """Do one run with the settings of configs/ and the command line; return its score."""
    job = HydraConfig.get()
    folder = Path(job.runtime.output_dir)
    read = partial(from_hydra, cfg, job.overrides.task)
    with process.WISH.listening():
        if job.mode == RunMode.MULTIRUN:
            from src.sweep.runs import run_of_sweep

            return run_of_sweep(train, read, folder, job.job.num, list(job.overrides.task))
        try:
            return train(read(), folder)
        except (UserError, OSError) as error:
            if EVERYTHING:
                raise
            raise SystemExit(message(error)) from None


def train(config: Config, folder: Path) -> float | None:
    """Do one run, all its files into `folder`; return its validation balanced accuracy, if any.

    Of several seeds it is the mean. Where the folder holds a part of the run already, the rest of
    it is done.

    Raises:
        UserError: if the settings, the corpus or the training went wrong.
        KeyboardInterrupt: if a signal ended the run.
    """
    status, numbers, _ = files.read_metrics(folder)
    if status == files.FINISHED and (
        config.passes or numbers.get("iterations", 0) >= config.iterations
    ):
        log.info(f"{folder}: is finished; a larger iterations= trains on")
        return numbers.get(files.SCORE)
    if config.seeds > 1:
        from src.sweep.seeds import repeat

        return repeat(train, config, folder)

    # Imported now, as torch and Lightning take seconds: a wrong key is answered before that.
    import torch
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch import Trainer

    from src.data.datamodule import NamesDataModule
    from src.models.classifier import NameClassifier, OnlineClassifier
    from src.models.decision import fit_decision
    from src.models.transfer import network_of, take_weights
    from src.run.audit import tell_worst
    from src.run.callbacks import Checkpoint, Interruption, Progress, WholeCheckpointIO
    from src.run.report import Report, first_line

    last, best = folder / "checkpoints/last.ckpt", folder / "checkpoints/best.ckpt"
    resumes = last.exists()

    with process.quiet():
        if (config.data_dir or config.data_file) and not resumes and "LOCAL_RANK" not in os.environ:
            tell_worst(**config.pick(CORPUS) | {"seed": 0})  # or each seed of a sweep would say it
        data = NamesDataModule(**config.pick(DATA), together=config.together)
        torch.manual_seed(config.seed)
        shares = None if config.online else data.shares
        names = {"letters": data.letters._asdict(), "categories": data.categories, "shares": shares}
        kind = OnlineClassifier if config.online else NameClassifier
        keys = [*TRAINING, "backend", "clip"] if config.online else TRAINING
        model = kind(network=names | config.pick(NETWORK), **config.pick(keys) | data.every)
        about = data.summary()
        if config.init_from and not resumes:
            file = files.find_checkpoint(Path(config.init_from))
            source = files.from_checkpoint(file, network_of)
            about += "\n" + take_weights(model.network, source, f"init_from={file}")
        if model.network.ngrams is not None and not resumes:
            model.network.ngrams.fit(data.once, data.corpus_shares, config.seed)

        print_every = config.print_every or -(-data.every["iterations"] // 10)
        progress = Progress(print_every, data.order.names_per_iteration)
        checkpoints = [Checkpoint(best, files.SCORE)] if len(data.val) else []
        try:
            trainer: Any = Trainer(
                max_epochs=-1,  # the model ends it
                callbacks=[progress, Interruption(last), *checkpoints, Checkpoint(last)],
                plugins=[WholeCheckpointIO()],
                gradient_clip_val=None if config.online else config.clip or None,
                use_distributed_sampler=False,  # ours shares the names out
                num_sanity_val_steps=0,
                logger=False,  # made by the report
                default_root_dir=folder,
                **config.trainer_arguments,
            )
        except (TypeError, ValueError, ImportError, MisconfigurationException) as error:
            raise UserError(f"trainer: {first_line(error)}") from error

        with Report(config, folder, model, trainer, progress, resumes) as report:
            log.info(about)
            trainer.fit(model, data, ckpt_path=last if resumes else None, weights_only=True)
            model.eval()
            if len(data.val):
                logp, targets = model.log_probabilities(data.val.loader()), data.val.categories
                model.decision = fit_decision(logp, targets, data.shares, data.corpus_shares)
            if not trainer.fast_dev_run:
                trainer.save_checkpoint(last)
            if len(data.test):
                trainer.test(model, data, verbose=False)
            side, shown = data.shown()
            logp = model.log_probabilities(shown.loader())
            if side == "test" and model.decision:
                report.beyond = model.score_priors("test", logp, shown.categories)
            final = report.finish(logp, shown.categories, side)
    return final.get(files.SCORE)


def command() -> int:
    """Run main; write the leaderboard of a sweep, however it ends. Return the exit status."""
    files.open_streams()
    HydraConfig.instance().cfg = None  # an earlier command's of this process
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra would print errors in a way of its own
    logging.raiseExceptions = False  # nobody reads Hydra's lines any more: `-m … | head`
    status = 0
    with process.WISH.listening():
        try:
            main()
        except KeyboardInterrupt:
            status = 128 + (process.WISH.signum or signal.SIGINT)
        except BrokenPipeError:  # `--help | head` has seen enough
            files.drop_output()
        except SystemExit as ended:
            if not isinstance(ended.code, int):  # a message: refused before anything was done
                raise
            status = ended.code
        except Exception as error:
            mendable = isinstance(error, HydraException | UserError | OSError)
            if EVERYTHING or (HydraConfig.initialized() and not mendable):
                finish(1)
                raise  # a bug, or a worker is lost
            print(message(error), file=sys.stderr)
            status = 1
        return finish(status)


def finish(status: int) -> int:
    """Write the leaderboard, if this is a sweep; return the exit status."""
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        from src.sweep.runs import finish_sweep

        return finish_sweep(Path(HydraConfig.get().sweep.dir), status)
    return status


if __name__ == "__main__":
    ended = command()
    gc.freeze()  # or Python looks through all of torch before it ends: a second
    sys.exit(ended)
