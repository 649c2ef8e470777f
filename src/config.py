"""The keys of train.yaml: the type, the range and the meaning of each.

Imports neither torch nor Hydra, so that an invalid value produces an error at once. `train.yaml`
holds the values, and `src/run/compose.py` builds a `Config` from them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, make_dataclass
from math import inf
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from src.data.readers import DataSource
from src.errors import UserError
from src.models.registry import CELL_OPTIONS, CELLS

CONFIG_FOLDER = Path(__file__).parents[1] / "configs"

MAX_CHUNK_ITERATIONS = {"compiled": 10_000, "autograd": 250}
"""Maximum number of names in a chunk of online training, for each backend."""
MAX_CHUNK_WORK = 2 * 10**8
"""Maximum number of weights times names in a chunk of online training: well below a second of work,
so that signals are noticed soon."""

TRAINER_ARGUMENTS = (
    "accelerator",
    "strategy",
    "devices",
    "num_nodes",
    "precision",
    "fast_dev_run",
    "max_time",
    "limit_train_batches",
    "limit_val_batches",
    "limit_test_batches",
    "limit_predict_batches",
    "log_every_n_steps",
    "enable_progress_bar",
    "enable_model_summary",
    "deterministic",
    "benchmark",
    "inference_mode",
    "profiler",
    "detect_anomaly",
    "sync_batchnorm",
    "enable_autolog_hparams",
)
"""Arguments of `lightning.Trainer` that can be set as `trainer.<argument>`."""

SET_BY_PROGRAM = "nothing: the program sets it"
USE_INSTEAD = {
    "max_epochs": "iterations",
    "min_epochs": "iterations",
    "max_steps": "iterations",
    "min_steps": "iterations",
    "val_check_interval": "val_every",
    "check_val_every_n_epoch": "val_every",
    "gradient_clip_val": "clip",
    "gradient_clip_algorithm": "clip",
    "accumulate_grad_batches": "batch_size",
    "overfit_batches": "data_dir",
    "logger": "logger",
    "barebones": "logger",
    "default_root_dir": "hydra.run.dir",
    "callbacks": "callbacks",
    "plugins": SET_BY_PROGRAM,
    "enable_checkpointing": SET_BY_PROGRAM,
    "num_sanity_val_steps": SET_BY_PROGRAM,
    "reload_dataloaders_every_n_epochs": SET_BY_PROGRAM,
    "use_distributed_sampler": SET_BY_PROGRAM,
    "model_registry": SET_BY_PROGRAM,
}
"""For each argument of `lightning.Trainer` that is refused, the key to use instead."""

# Refused arguments are fields as well, so that an error can say what to use instead.
TrainerArguments: Any = make_dataclass(
    "TrainerArguments",
    [(name, Any, None) for name in (*TRAINER_ARGUMENTS, *USE_INSTEAD)],
)
"""The arguments of `lightning.Trainer`. None means that the argument is not passed."""

ONLINE_SETTINGS = {
    "batch_size": 1,
    "ngrams": 0,
    "sampling": "balanced",
    "optimizer": "sgd",
    "schedule": "constant",
    "weight_decay": 0,
    "label_smoothing": 0,
}
"""Settings of the tutorial's training, which is plain SGD on one random name at a time.
`backend=compiled` requires them."""


def key(allowed: str, is_valid: Callable[[Any], bool]) -> Any:
    """Return the dataclass field of a key.

    Args:
        allowed: description of the allowed values, for `--help` and error messages.
        is_valid: returns whether a value is allowed.
    """
    # Fields have no defaults: train.yaml has a value for each key.
    return field(default=MISSING, metadata={"allowed": allowed, "is_valid": is_valid})


def integer_key(minimum: int, maximum: int) -> Any:
    """Return the field of a key whose value is an integer from `minimum` to `maximum`."""
    return key(f"{minimum} to {maximum:,}", lambda value: minimum <= value <= maximum)


def fraction_key() -> Any:
    """Return the field of a key whose value is at least 0 and below 1."""
    return key("at least 0, below 1", lambda value: 0 <= value < 1)


def choice_key(*choices: str) -> Any:
    """Return the field of a key whose value is one of `choices`."""
    allowed = f"{', '.join(choices[:-1])} or {choices[-1]}"
    return key(allowed, lambda value: value in choices)


def path_key(allowed: str, is_valid_path: Callable[[Path], bool]) -> Any:
    """Return the field of a key whose value is a path or null."""

    def is_valid(path: str | None) -> bool:
        if path is None:
            return True
        return path != "" and is_valid_path(Path(path))

    return key(allowed, is_valid)


def column_key(default: str) -> Any:
    """Return the field of a key whose value is null or a column of the table."""
    allowed = f"a column's name or number; null: {default}"
    return key(allowed, lambda column: column is None or column.isprintable())


@dataclass
class Config:
    """The settings of one run.

    train.yaml holds the values. `--help` shows the docstrings of the fields.

    Attributes:
        overrides: the overrides of the command line, `key=value`.
        is_seed_run: whether the run is one of several that differ in their seeds only.

    Raises:
        UserError: if a value is out of its range, or two values do not go together.
    """

    lr: float = key("above 0, at most 1,000", lambda lr: 0 < lr <= 1000)
    """learning rate"""
    hidden: int = integer_key(1, 4096)
    """size of the hidden state"""
    iterations: int = integer_key(1, 10**9)
    """number of training steps with batch_size names each"""
    passes: float | None = key("above 0, or null", lambda n: n is None or 0 < n < 10**6)
    """length of the run in passes over the training names, instead of iterations"""
    batch_size: int = integer_key(1, 100_000)
    """names per training step"""
    seed: int = integer_key(0, 2**32 - 1)
    """seeds the initial weights, the random examples and the split"""
    seeds: int = integer_key(1, 10_000)
    """number of repetitions with consecutive seeds; the score is their mean"""
    log_every: int = integer_key(0, 10**6)
    """iterations per point of the loss curve; 0: 50 points per run"""
    print_every: int = integer_key(0, 10**9)
    """iterations between printed examples; 0: 10 examples per run"""
    val_every: int = integer_key(0, 10**9)
    """iterations between validations and checkpoints, rounded up to a multiple of log_every;
    0: 10 validations per run"""
    val_fraction: float = fraction_key()
    """share of the names held out for validation"""
    test_fraction: float = fraction_key()
    """share of the names held out for the test"""
    data_dir: str | None = path_key("a folder, or null; a file is data_file's", Path.is_dir)
    """folder of <Category>.txt files with one name per line; null: the included names"""
    data_file: str | None = path_key("a file, or null; a folder is data_dir's", Path.is_file)
    """table of names and categories: .csv .tsv .jsonl (.gz) .parquet"""
    name_column: str | None = column_key("detected by its name or content")
    """column of data_file with the names"""
    label_column: str | None = column_key("detected by its name or content")
    """column of data_file with the categories"""
    count_column: str | None = column_key("each row counts once")
    """column of data_file with the number of lines that a row stands for"""
    split_column: str | None = column_key("names are held out by the fractions")
    """column of data_file with the split of a row: train, val or test"""
    letters: str = choice_key("ascii", "tutorial", "corpus")
    """alphabet. ascii: 57 symbols, to which all names are transliterated; tutorial: the same
    symbols, normalized as in the tutorial; corpus: the symbols of the training names"""
    init_from: str | None = path_key("a run's or sweep's folder, a .ckpt, or null", lambda _: True)
    """model whose weights are copied at the start, for the letters and categories in common"""
    resume: str | None = path_key("a run's folder, or null", Path.is_dir)
    """run to resume, with its settings"""
    cell: str = choice_key(*CELLS)
    """recurrent cell: the tutorial's, written by hand, or one of PyTorch's"""
    layers: int = integer_key(1, 16)
    """number of stacked recurrent layers"""
    bidirectional: bool = key("true or false", lambda _: True)
    """whether the layers also read names backwards"""
    embedding: int = integer_key(0, 4096)
    """size of learned letter vectors; 0: one-hot letters"""
    pooling: str = choice_key("last", "all")
    """how hidden states are pooled: the last state, or max and mean over all states"""
    dropout: float = fraction_key()
    """dropout on the pooled state; letter vectors get a fifth of it"""
    recurrent_dropout: float = fraction_key()
    """dropout on the hidden-to-hidden weights"""
    ngrams: int = integer_key(0, 6)
    """letters of context of the n-gram models that complement the network; 0: no such models"""
    sampling: str = choice_key("balanced", "natural")
    """how names are sampled. balanced: first a category, then one of its lines; natural: passes
    over the distinct names"""
    optimizer: str = choice_key("sgd", "adamw")
    """optimizer"""
    schedule: str = choice_key("constant", "cosine")
    """learning-rate schedule; cosine warms up over 5 % of the steps, then decays to 0"""
    weight_decay: float = fraction_key()
    """weight decay of the optimizer"""
    clip: float = key("at least 0", lambda norm: 0 <= norm < inf)
    """maximum norm of a gradient; 0: no clipping"""
    label_smoothing: float = fraction_key()
    """share of each label that is spread over all categories"""
    backend: str = choice_key("compiled", "autograd")
    """compiled: fast, but only for the tutorial's training; autograd: for all settings"""
    trainer: Any = field(default_factory=TrainerArguments)
    logger: dict[str, Any] = field(default_factory=dict)
    callbacks: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # These are not fields, because fields are keys of train.yaml.
        self.overrides: tuple[str, ...] = ()
        self.is_seed_run = False
        self._check_each_value()
        self._check_cell_options()
        if self.backend == "compiled":
            self._check_compiled_backend()
        self._check_init_from()
        self._check_names()
        self._check_trainer_conflicts()

    def _check_each_value(self) -> None:
        """Check each value on its own."""
        for key_field in fields(self):
            value = getattr(self, key_field.name)
            # `trainer`, `logger` and `callbacks` have no metadata.
            if key_field.metadata and not key_field.metadata["is_valid"](value):
                allowed = key_field.metadata["allowed"]
                raise UserError(f"{key_field.name}={value}: must be {allowed}")

    def _check_cell_options(self) -> None:
        """Check that the network takes the options that are set."""
        for option, neutral_value in CELL_OPTIONS.items():
            value = getattr(self, option)
            if option not in CELLS[self.cell].options and value != neutral_value:
                cells = [name for name, cell in CELLS.items() if option in cell.options]
                suggestion = f"cell={', '.join(cells[:-1])} or {cells[-1]}"
                raise UserError(f"{option}={value}: must be {neutral_value} unless {suggestion}")

    def _check_compiled_backend(self) -> None:
        """Check that the compiled backend can train with these settings."""
        if not CELLS[self.cell].is_compilable:
            cells = [name for name, cell in CELLS.items() if cell.is_compilable]
            allowed = " or ".join(cells)
            raise UserError(f"cell={self.cell}: must be {allowed} unless backend=autograd")
        for name, required in ONLINE_SETTINGS.items():
            value = getattr(self, name)
            if value != required:
                raise UserError(f"{name}={value}: must be {required} unless backend=autograd")

    def _check_init_from(self) -> None:
        """Check that the model whose weights are copied exists."""
        # A run that is resumed no longer needs the model that it started from.
        is_needed = self.init_from is not None and not self.resume
        if is_needed and not Path(str(self.init_from)).exists():
            raise UserError(f"init_from={self.init_from}: no such file or folder")

    def _check_names(self) -> None:
        """Check the settings of the names and their split."""
        DataSource(**self.subset(DataSource._fields)).check_settings()
        held_out = self.val_fraction + self.test_fraction
        if held_out >= 1:
            raise UserError(f"val_fraction + test_fraction = {held_out:g}: must be below 1")

    def _check_trainer_conflicts(self) -> None:
        """Check the arguments of the Trainer that conflict with other settings."""
        arguments = self.non_null_trainer_arguments
        for name in arguments:
            if name in USE_INSTEAD:
                raise UserError(f"trainer.{name}: use {USE_INSTEAD[name]}")
        # Other strategies than DDP write other checkpoints.
        allowed_values: dict[str, list[Any]] = {"strategy": [None, "auto", "ddp"]}
        if self.is_online or self.seeds > 1:
            # Online training takes one name after the other, and seeds one run after the other.
            allowed_values = {"strategy": [None, "auto"], "devices": [1], "num_nodes": [None, 1]}
        if self.backend == "compiled":
            allowed_values["accelerator"] = ["cpu"]
            allowed_values["precision"] = [None, 32, "32", "32-true"]
        for name, allowed in allowed_values.items():
            value = arguments.get(name)
            if value not in allowed:
                reason = f"backend={self.backend} batch_size={self.batch_size} seeds={self.seeds}"
                raise UserError(f"trainer.{name}={value}: must be {allowed[-1]} with {reason}")

    @property
    def non_null_trainer_arguments(self) -> dict[str, Any]:
        """The arguments that are passed to `lightning.Trainer`."""
        return {name: value for name, value in vars(self.trainer).items() if value is not None}

    @property
    def is_online(self) -> bool:
        """Whether this is the tutorial's training: plain SGD on one random name at a time."""
        for name, value in ONLINE_SETTINGS.items():
            if getattr(self, name) != value:
                return False
        return CELLS[self.cell].is_compilable

    @property
    def chunk_size(self) -> int:
        """Maximum number of iterations that the data loader delivers as one batch."""
        if not self.is_online:
            return 1
        n_weights = self.hidden * (57 + self.hidden)  # an estimate, for the default alphabet
        return max(1, min(MAX_CHUNK_ITERATIONS[self.backend], MAX_CHUNK_WORK // n_weights))

    @property
    def displayed_settings(self) -> dict[str, Any]:
        """The settings that identify the run: those of the command line, then some others."""
        displayed = {}
        for override in self.overrides:
            name, _, value = override.lstrip("+").partition("=")
            if name in (*RESULT_KEYS, "experiment"):
                displayed[name] = value
        for name in ALWAYS_DISPLAYED:
            displayed.setdefault(name, getattr(self, name))
        return displayed

    def subset(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the values of some keys."""
        return {name: getattr(self, name) for name in keys}


KEYS = [key_field.name for key_field in fields(Config)]
"""All keys of train.yaml."""
RUN_KEYS = [key for key in KEYS if key not in ("resume", "trainer", "logger", "callbacks")]
"""The keys that define a run; a run writes them to its config.yaml."""
RESULT_KEYS = [name for name in RUN_KEYS if not name.endswith("_every")]
"""The keys that can change the result of a run."""
ALWAYS_DISPLAYED = ("lr", "hidden", "seed", "iterations")
"""The keys that are displayed even if the command line does not set them."""
CORPUS_KEYS = [*DataSource._fields, "letters", "val_fraction", "test_fraction", "seed"]
"""The keys that determine the names and their split."""
DATA_KEYS = [
    *CORPUS_KEYS,
    "iterations",
    "passes",
    "log_every",
    "val_every",
    "batch_size",
    "chunk_size",
    "sampling",
]
"""The arguments of `NamesDataModule`."""
NETWORK_KEYS = ["cell", "hidden", "ngrams", *CELL_OPTIONS]
"""The arguments of `Network` that are settings."""
TRAINING_KEYS = ["lr", "seed", "optimizer", "schedule", "weight_decay", "label_smoothing"]
"""The arguments of `NameClassifier`, except for the network and the run length."""
