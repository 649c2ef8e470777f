"""Train a model: `python -m src.train key=value …`; `--help` lists the keys.

`train` is one run, from top to bottom. Everything around it (sweeps, repeated seeds, signals and
the exit status) is in `src/run/launch.py`.
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

from src.config import CONFIG_FOLDER, DATA_KEYS, NETWORK_KEYS, TRAINING_KEYS, Config
from src.models.registry import SCORE
from src.run import launch
from src.run.environment import training_environment
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

    from src.audit.audit import warn_about_corpus
    from src.data.datamodule import NamesDataModule
    from src.run.report import Report
    from src.run.trainer import build_trainer

    checkpoint = folder / LAST_CHECKPOINT
    is_resumed = checkpoint.exists()

    with training_environment():
        # A resumed run has already been warned about these names.
        if not is_resumed:
            warn_about_corpus(config)
        data = NamesDataModule(**config.subset(DATA_KEYS))
        torch.manual_seed(config.seed)  # seeds the initial weights; the data has its own generator
        model = build_model(config, data)
        summary = [data.summary()]
        if not is_resumed:  # otherwise, the checkpoint contains all weights
            if config.init_from:
                summary.append(initialize_from(Path(config.init_from), model))
            # The n-gram models are fitted before the trainer trains the recurrent network.
            if model.network.ngrams is not None:
                model.network.ngrams.fit(data.distinct_names, data.corpus_prior, config.seed)
        trainer, progress = build_trainer(config, folder, data)

        with Report(config, folder, model, trainer, progress, is_resumed) as report:
            log.info("\n".join(summary))
            # With `weights_only`, torch refuses to unpickle code. The whole state is loaded.
            resume_from = checkpoint if is_resumed else None
            trainer.fit(model, data, ckpt_path=resume_from, weights_only=True)
            model.eval()
            # The calibration is part of the checkpoint, which is therefore saved after it.
            if len(data.val_dataset):
                model.calibration = fit_validation_calibration(model, data)
            if not trainer.fast_dev_run:  # type: ignore[attr-defined] # undeclared by Lightning
                trainer.save_checkpoint(checkpoint)
            if len(data.test_dataset):
                trainer.test(model, data, verbose=False)
            # The confusion matrix and the scores by prior need the probabilities of single names,
            # which `trainer.test` does not return.
            split, dataset = data.choose_report_split()
            log_probs = model.log_probabilities(dataset.loader())
            prior_scores = {}
            if split == "test" and model.calibration:
                prior_scores = model.score_under_each_prior("test", log_probs, dataset.targets)
            metrics = report.finish(log_probs, dataset.targets, split, prior_scores)
    return metrics.get(SCORE)


def build_model(config: Config, data: "NamesDataModule") -> "NameClassifier":
    """Return a new model for the alphabet and the categories of the data."""
    from src.models.classifier import NameClassifier
    from src.models.online_classifier import OnlineClassifier

    network = config.subset(NETWORK_KEYS)
    training = config.subset(TRAINING_KEYS)
    if config.is_online:
        training["backend"] = config.backend
        training["clip"] = config.clip
        return OnlineClassifier.for_data(data, network=network, training=training)
    return NameClassifier.for_data(data, network=network, training=training)


def initialize_from(path: Path, model: "NameClassifier") -> str:
    """Initialize a model from the checkpoint of another run, as far as the two models match.

    Args:
        path: a checkpoint, or the folder of a run or sweep; see `find_checkpoint`.
        model: the new model, whose weights are changed in place.

    Returns:
        A line that says what was copied.
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
