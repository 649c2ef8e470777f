"""Train a model: `python -m src.train key=value …`; `--help` lists the keys.

`train` is one run, from top to bottom. Everything around it (sweeps, repeated seeds, signals and
the exit status) is in `src/launch.py`, whose docstring shows how a command runs and stops.
"""

import logging
import signal
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    # Until a handler is installed, Ctrl-C ends the program without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import hydra
from omegaconf import DictConfig

from src import launch
from src.config import CONFIG_FOLDER, DATA_MODULE_ARGUMENTS, TRAINING_KEYS, Config
from src.console import announce_if_slow
from src.models.registry import NETWORK_KEYS, SCORE
from src.run.environment import is_rank_zero_outside_sweep_workers, training_environment
from src.run.run_folder import LAST_CHECKPOINT, find_checkpoint

if TYPE_CHECKING:  # torch and Lightning take seconds to import
    from src.data.datamodule import NamesDataModule
    from src.models.calibration import Calibration
    from src.models.classifier import NameClassifier

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path=str(CONFIG_FOLDER), config_name="train")
def main(cfg: DictConfig) -> float | None:
    """Run one Hydra job, which trains by calling `train`, and return its score."""
    return launch.run_hydra_job(train, cfg)


def train(config: Config, folder: Path) -> float | None:
    """Train, calibrate and test one model, and write all files of the run to a folder.

    If the folder already contains a checkpoint of this run, training resumes from it.

    Args:
        config: the settings of the run.
        folder: the folder of the run.

    Returns:
        The validation balanced accuracy, or None if no names were held out for validation.

    Raises:
        UserError: if a setting or the corpus is invalid, or training fails.
        KeyboardInterrupt: if a signal ended the run.
    """
    # Imported late: loading torch takes seconds, and a mistyped key should be reported at once.
    import torch

    from src.audit.audit import warn_about_user_names
    from src.data.datamodule import NamesDataModule
    from src.run.report import Report
    from src.run.trainer import build_trainer_and_progress

    checkpoint = folder / LAST_CHECKPOINT
    is_resumed = checkpoint.exists()

    with training_environment():
        # A resumed run has already been warned about these names.
        if not is_resumed:
            with announce_if_slow("Checking the names for problems …"):
                warn_about_user_names(config)
        with announce_if_slow("Splitting and encoding the names …"):
            data = NamesDataModule(**config.subset(DATA_MODULE_ARGUMENTS))
        # This seeds the initial weights. The sampling of names has a random generator of its own.
        torch.manual_seed(config.seed)
        model = build_model(config, data)
        log.info(data.summary())
        # A resumed run reads all weights from its checkpoint, so it skips the next two steps.
        if config.init_from and not is_resumed:
            message = initialize_weights_from_run(Path(config.init_from), model)
            log.info(message)
        if model.network.ngrams is not None and not is_resumed:
            # The n-gram models are fitted before the trainer trains the recurrent network. They see
            # each distinct name once, so they get the prior of the distinct names (`corpus_prior`)
            # and not the prior of the sampler (`train_prior`).
            log.info("Fitting the n-gram models …")
            model.network.ngrams.fit(
                data.distinct_names,
                data.corpus_prior,
                config.seed,
                show_progress=is_rank_zero_outside_sweep_workers(),
            )
        trainer, progress = build_trainer_and_progress(config, folder, data)

        with Report(config, folder, model, trainer, progress, is_resumed) as report:
            resume_from = checkpoint if is_resumed else None
            # Despite its name, `weights_only=True` restores the whole state. It only makes torch
            # refuse to unpickle anything but tensors and plain values, which cannot execute code.
            trainer.fit(model, data, ckpt_path=resume_from, weights_only=True)
            # `log_probabilities` below runs outside of the Trainer, which would set the mode.
            model.eval()
            if len(data.val_dataset):
                model.calibration = fit_validation_calibration(model, data)
            # Save again, because the checkpoint also contains the calibration.
            if not trainer.fast_dev_run:  # type: ignore[attr-defined] # undeclared by Lightning
                trainer.save_checkpoint(checkpoint)
            if len(data.test_dataset):
                trainer.test(model, data, verbose=False)
            # The confusion matrix and the scores under other priors need the probabilities of
            # single names, which `trainer.test` does not return.
            split, dataset = data.choose_report_split()  # the test names, if there are any
            log_probs = model.log_probabilities(dataset.loader())
            prior_scores = {}
            # Only the test names are scored under each prior. The calibration was fitted to the
            # validation names, so scores on these would be too high.
            if split == "test" and model.calibration:
                prior_scores = model.score_under_each_prior("test", log_probs, dataset.targets)
            metrics = report.report_result(log_probs, dataset.targets, split, prior_scores)
    return metrics.get(SCORE)


def build_model(config: Config, data: "NamesDataModule") -> "NameClassifier":
    """Return a new model for the alphabet and the categories of the data."""
    from src.models.classifier import NameClassifier
    from src.models.online_classifier import OnlineClassifier

    settings = config.subset(NETWORK_KEYS + TRAINING_KEYS)
    if config.is_online:
        # `OnlineClassifier` clips the gradients itself. For `NameClassifier`, the Trainer does.
        return OnlineClassifier.for_data(data, backend=config.backend, clip=config.clip, **settings)
    return NameClassifier.for_data(data, **settings)


def initialize_weights_from_run(path: Path, model: "NameClassifier") -> str:
    """Copy the weights of another run's model, for the letters and categories in common.

    Args:
        path: a checkpoint, or the folder of a run or sweep; see `find_checkpoint`.
        model: the new model, whose weights are changed in place.

    Returns:
        A line for the output of the run that says what was copied.
    """
    from src.models.checkpoint import load_checkpoint
    from src.models.transfer import transfer_and_describe_weights

    checkpoint = find_checkpoint(path)
    source = load_checkpoint(checkpoint).network
    return transfer_and_describe_weights(
        source, model.network, source_name=f"init_from={checkpoint}"
    )


def fit_validation_calibration(model: "NameClassifier", data: "NamesDataModule") -> "Calibration":
    """Return a calibration of the model that is fitted to the validation names."""
    from src.models.calibration import fit_calibration

    log_probs = model.log_probabilities(data.val_dataset.loader())
    targets = data.val_dataset.targets
    return fit_calibration(log_probs, targets, data.train_prior, data.corpus_prior)


if __name__ == "__main__":
    launch.run_cli_and_exit(main)
