"""The keys of train.yaml: the type, the range and the meaning of each.

Imports neither torch nor Hydra, so that an invalid value produces an error at once. `train.yaml`
holds the values, and `src/run/compose.py` builds a `Config` from them.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from math import inf
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from src.data.normalize import ASCII_SYMBOLS
from src.data.readers import DataSource
from src.errors import UserError
from src.models.registry import CELL_OPTIONS, CELLS

CONFIG_FOLDER = Path(__file__).parents[1] / "configs"

# Online training takes one SGD step per name. To reduce the overhead, a batch of the data loader is
# a chunk of many names, which are still processed one by one.
MAX_CHUNK_ITERATIONS = {"compiled": 10_000, "autograd": 250}
"""Maximum number of names in a chunk of online training, for each backend."""
MAX_CHUNK_WORK = 2 * 10**8
"""Maximum of (number of weights × number of names) in a chunk. This much work takes well below a
second, so that training, which checks for signals between chunks, stops soon after Ctrl-C."""

# A test compares the arguments in the next three constants with the signature of
# `lightning.Trainer`, so that arguments of new versions are not forgotten.
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
    "overfit_batches": "data_dir",  # to overfit, train on a folder with only a few names
    "barebones": "logger",  # logger=[] for no logger; the other features are off by default
    # The Trainer writes to the folder of the run.
    "default_root_dir": "hydra.run.dir",
    # The keys of train.yaml have the same names: `logger=` instead of `trainer.logger=`.
    "logger": "logger",
    "callbacks": "callbacks",
}
"""Arguments of `lightning.Trainer` that a key of train.yaml replaces, and this key for each."""

SET_BY_PROGRAM = (
    "plugins",
    "enable_checkpointing",
    "num_sanity_val_steps",
    "reload_dataloaders_every_n_epochs",
    "use_distributed_sampler",
    "model_registry",
)
"""Arguments of `lightning.Trainer` that cannot be set, because the program depends on their
values."""

ALL_TRAINER_ARGUMENTS = (*TRAINER_ARGUMENTS, *USE_INSTEAD, *SET_BY_PROGRAM)
"""All arguments of `lightning.Trainer`, including those that are refused."""

TrainerArguments: Any = make_dataclass(
    "TrainerArguments",
    [(name, Any, None) for name in ALL_TRAINER_ARGUMENTS],  # name, type and default of each field
)
"""The arguments of `lightning.Trainer`. None means that the argument is not passed. The class also
has a field for each refused argument, so that an error can say what to use instead."""

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


def key_field(allowed: str, is_valid: Callable[[Any], bool]) -> Any:
    """Return the dataclass field of a key of train.yaml.

    Args:
        allowed: description of the allowed values, for `--help` and error messages.
        is_valid: returns whether a value is allowed.
    """
    # Fields have no defaults: train.yaml has a value for each key.
    return field(default=MISSING, metadata={"allowed": allowed, "is_valid": is_valid})


def integer_field(minimum: int, maximum: int) -> Any:
    """Return the field of a key whose value is an integer from `minimum` to `maximum`."""
    allowed = f"an integer from {minimum} to {maximum:,}"
    return key_field(allowed, lambda value: minimum <= value <= maximum)


def fraction_field() -> Any:
    """Return the field of a key whose value is at least 0 and below 1."""
    return key_field("at least 0 and below 1", lambda value: 0 <= value < 1)


def bool_field() -> Any:
    """Return the field of a key whose value is true or false."""
    # OmegaConf checks the type, so every value that arrives here is allowed.
    return key_field("true or false", lambda _: True)


def choice_field(*choices: str) -> Any:
    """Return the field of a key whose value is one of `choices`."""
    return key_field(join_with_or(choices), lambda value: value in choices)


def path_field(allowed: str, is_valid_path: Callable[[Path], bool]) -> Any:
    """Return the field of a key whose value is a path or null.

    Args:
        allowed: description of the allowed values, for `--help` and error messages.
        is_valid_path: returns whether a path is allowed. It is called neither for null, which is
            always allowed, nor for an empty path, which is never allowed.
    """

    def is_valid(path: str | None) -> bool:
        if path is None:
            return True
        return path != "" and is_valid_path(Path(path))

    return key_field(allowed, is_valid)


def column_field(default: str) -> Any:
    """Return the field of a key whose value is a column of `data_file`, or null.

    Args:
        default: description of what null means, for `--help` and error messages.
    """
    allowed = f"the name or number of a column; null: {default}"
    # Control characters would garble error messages.
    return key_field(allowed, lambda column: column is None or column.isprintable())


def join_with_or(options: Sequence[str]) -> str:
    """Return one or more options as an enumeration: `a, b or c`."""
    if len(options) == 1:
        return options[0]
    return f"{', '.join(options[:-1])} or {options[-1]}"


@dataclass
class Config:
    """The settings of one run.

    train.yaml holds the values. `--help` shows the docstrings of the fields.

    Attributes:
        overrides: the overrides of the command line, `key=value`.
        is_seed_run: whether the run is one of several that differ in their seeds only.
        start_time: start time of the run, as returned by `time.perf_counter`.

    Raises:
        UserError: if a value is out of its range, or two values are incompatible.
    """

    # Data.
    data_dir: str | None = path_field("an existing folder, or null", Path.is_dir)
    """folder with a file <Category>.txt for each category, one name per line; null: the included
    names"""
    data_file: str | None = path_field("an existing file, or null", Path.is_file)
    """table of names and categories, instead of data_dir: .csv, .tsv, .jsonl or .parquet"""
    name_column: str | None = column_field("the column is detected")
    """column of data_file with the names"""
    label_column: str | None = column_field("the column is detected")
    """column of data_file with the categories"""
    count_column: str | None = column_field("each row counts once")
    """column of data_file with the count of each row: how many equal rows it stands for"""
    split_column: str | None = column_field("the split is random")
    """column of data_file with the split of each row: train, val or test"""
    letters: str = choice_field("ascii", "tutorial", "corpus")
    """alphabet. ascii: 57 symbols, to which all names are transliterated; tutorial: the same
    symbols, normalized exactly as in the tutorial; corpus: the symbols of the training names"""
    val_fraction: float = fraction_field()
    """fraction of the distinct names that is held out for validation"""
    test_fraction: float = fraction_field()
    """fraction of the distinct names that is held out for testing"""

    # Model.
    cell: str = choice_field(*CELLS)
    """recurrent cell: the tutorial's, written by hand, or one of PyTorch's"""
    hidden: int = integer_field(1, 4096)
    """size of the hidden state"""
    layers: int = integer_field(1, 16)
    """number of stacked recurrent layers"""
    bidirectional: bool = bool_field()
    """whether the names are also read backwards"""
    embedding: int = integer_field(0, 4096)
    """size of the letter embeddings; 0: one-hot letters"""
    pooling: str = choice_field("last", "all")
    """how hidden states are pooled. last: the last state; all: max and mean over all states"""
    dropout: float = fraction_field()
    """dropout on the pooled state; letter embeddings get a fifth of it"""
    recurrent_dropout: float = fraction_field()
    """dropout on the hidden-to-hidden weights"""
    ngrams: int = integer_field(0, 6)
    """context length of the n-gram models that are combined with the network; 0: no n-gram
    models"""

    # Optimization.
    lr: float = key_field("above 0 and at most 1,000", lambda lr: 0 < lr <= 1000)
    """learning rate"""
    iterations: int = integer_field(1, 10**9)
    """number of optimizer steps"""
    passes: float | None = key_field("above 0, or null", lambda n: n is None or 0 < n < 10**6)
    """number of passes over the training names, instead of iterations"""
    batch_size: int = integer_field(1, 100_000)
    """number of names per optimizer step"""
    sampling: str = choice_field("balanced", "natural")
    """how training names are sampled. balanced: a random category, then one of its names; natural:
    passes over the distinct names"""
    optimizer: str = choice_field("sgd", "adamw")
    """optimizer"""
    schedule: str = choice_field("constant", "cosine")
    """learning-rate schedule; cosine warms up over 5 % of the steps, then decays to 0"""
    weight_decay: float = fraction_field()
    """weight decay of the optimizer"""
    clip: float = key_field("finite and at least 0", lambda norm: 0 <= norm < inf)
    """maximum gradient norm; 0: no clipping"""
    label_smoothing: float = fraction_field()
    """share of each label's probability that is spread over all categories"""
    backend: str = choice_field("compiled", "autograd")
    """how the steps are computed. compiled: fast, but only for the tutorial's cell and settings;
    autograd: for all settings"""
    seed: int = integer_field(0, 2**32 - 1)
    """seed of the initial weights, the sampling and the split"""
    seeds: int = integer_field(1, 10_000)
    """number of runs with consecutive seeds; the score is their mean"""

    # Logging.
    log_every: int = integer_field(0, 10**6)
    """number of iterations per point of the loss curve; 0: a fiftieth of the run"""
    print_every: int = integer_field(0, 10**9)
    """number of iterations between printed examples; 0: a tenth of the run"""
    val_every: int = integer_field(0, 10**9)
    """number of iterations between validations, each with a checkpoint, rounded up to a multiple of
    log_every; 0: a tenth of the run"""

    # Resuming and fine-tuning.
    resume: str | None = path_field("the folder of a run, or null", Path.is_dir)
    """run to resume, with its settings"""
    # Whether the path exists is checked later, because it may be gone when the run is resumed.
    init_from: str | None = path_field(
        "a .ckpt file, the folder of a run or sweep, or null", lambda _: True
    )
    """trained model to start from; its weights are copied for all letters and categories that both
    models have"""

    trainer: Any = field(default_factory=TrainerArguments)
    logger: dict[str, Any] = field(default_factory=dict)
    callbacks: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # These are not fields, because fields are keys of train.yaml.
        self.overrides: tuple[str, ...] = ()
        self.is_seed_run = False
        self.start_time = time.perf_counter()
        # The checks that compare several settings rely on each value being valid.
        self._check_each_value()
        self._check_cell_options()
        self._check_compiled_backend()
        self._check_init_from_exists()
        self._check_data_source_and_fractions()
        self._check_no_trainer_argument_is_refused()
        self._check_trainer_arguments_fit_other_settings()

    def _check_each_value(self) -> None:
        """Check each value on its own."""
        for config_field in fields(self):
            value = getattr(self, config_field.name)
            # `trainer`, `logger` and `callbacks` have no metadata.
            if config_field.metadata and not config_field.metadata["is_valid"](value):
                allowed = config_field.metadata["allowed"]
                raise UserError(f"{config_field.name}={value}: must be {allowed}")

    def _check_cell_options(self) -> None:
        """Check that options which the chosen cell does not have are left at neutral values."""
        for option, neutral_value in CELL_OPTIONS.items():
            value = getattr(self, option)
            # The neutral value of an option has no effect, so it is allowed with every cell.
            if option not in CELLS[self.cell].options and value != neutral_value:
                cells = [name for name, cell in CELLS.items() if option in cell.options]
                condition = f"cell={join_with_or(cells)}"
                raise UserError(f"{option}={value}: must be {neutral_value} unless {condition}")

    def _check_compiled_backend(self) -> None:
        """If the backend is the compiled one, check that it can train with these settings."""
        if self.backend != "compiled":
            return
        if not CELLS[self.cell].is_compilable:
            cells = [name for name, cell in CELLS.items() if cell.is_compilable]
            allowed = join_with_or(cells)
            # The autograd backend can train every cell.
            raise UserError(f"cell={self.cell}: must be {allowed} unless backend=autograd")
        for name, required in ONLINE_SETTINGS.items():
            value = getattr(self, name)
            if value != required:
                raise UserError(f"{name}={value}: must be {required} unless backend=autograd")

    def _check_init_from_exists(self) -> None:
        """Check that the model whose weights are copied at the start exists."""
        # A run that is resumed no longer needs the model that it started from.
        if self.init_from is None or self.resume:
            return
        if not Path(self.init_from).exists():
            raise UserError(f"init_from={self.init_from}: no such file or folder")

    def _check_data_source_and_fractions(self) -> None:
        """Check the settings of the data source, and that names are left for training."""
        self.data_source.check_settings()
        held_out = self.val_fraction + self.test_fraction
        if held_out >= 1:
            raise UserError(f"val_fraction + test_fraction = {held_out:g}: must be below 1")

    def _check_no_trainer_argument_is_refused(self) -> None:
        """Check that no argument is set that another key replaces or the program fixes."""
        for name in self.non_null_trainer_arguments:
            if name in USE_INSTEAD:
                raise UserError(f"trainer.{name}: cannot be set; use {USE_INSTEAD[name]} instead")
            if name in SET_BY_PROGRAM:
                raise UserError(f"trainer.{name}: cannot be set, because the program sets it")

    def _check_trainer_arguments_fit_other_settings(self) -> None:
        """Check the Trainer's arguments that are restricted by the backend or by `seeds`."""
        if self.is_online or self.seeds > 1:
            # Online training takes one name after the other, and seeds one run after the other, so
            # neither can use several processes.
            settings = f"backend={self.backend} batch_size={self.batch_size} seeds={self.seeds}"
            self._check_trainer_argument(
                "strategy", allowed=(None, "auto"), requirement=f"auto with {settings}"
            )
            # Null is not allowed, because Lightning would use all devices.
            self._check_trainer_argument("devices", allowed=(1,), requirement=f"1 with {settings}")
            self._check_trainer_argument(
                "num_nodes", allowed=(None, 1), requirement=f"1 with {settings}"
            )
        else:
            self._check_trainer_argument(
                "strategy",
                allowed=(None, "auto", "ddp"),
                requirement="ddp or auto, because other strategies write other checkpoints",
            )
        if self.backend == "compiled":
            # The kernel computes in float32 on the CPU.
            self._check_trainer_argument(
                "accelerator", allowed=("cpu",), requirement="cpu with backend=compiled"
            )
            self._check_trainer_argument(
                "precision",
                allowed=(None, 32, "32", "32-true"),
                requirement="32-true with backend=compiled",
            )

    def _check_trainer_argument(
        self, name: str, *, allowed: tuple[Any, ...], requirement: str
    ) -> None:
        """Check that an argument of the Trainer has one of the allowed values.

        Args:
            name: the name of the argument.
            allowed: the allowed values; None if the argument may be left out.
            requirement: for the error message, the values to use, and under which condition or for
                what reason: `cpu with backend=compiled`.
        """
        value = getattr(self.trainer, name)
        if value not in allowed:
            raise UserError(f"trainer.{name}={value}: must be {requirement}")

    @property
    def non_null_trainer_arguments(self) -> dict[str, Any]:
        """The arguments that are passed to `lightning.Trainer`: those that are not null."""
        return {name: value for name, value in vars(self.trainer).items() if value is not None}

    @property
    def data_source(self) -> DataSource:
        """The folder or table of names."""
        # The fields of a `DataSource` have the names of the keys.
        return DataSource(**self.subset(DataSource._fields))

    @property
    def is_online(self) -> bool:
        """Whether this is the tutorial's training: plain SGD on one random name at a time."""
        # The backend plays no role: both can do this training.
        for name, value in ONLINE_SETTINGS.items():
            if getattr(self, name) != value:
                return False
        return CELLS[self.cell].is_compilable

    @property
    def chunk_size(self) -> int:
        """Maximum number of iterations in a batch of the data loader; 1 unless training is online.

        In batch training, a batch of `batch_size` names is one iteration.
        """
        if not self.is_online:
            return 1
        # This is an estimate for the default alphabet. The names have not been read yet.
        n_weights = self.hidden * (len(ASCII_SYMBOLS) + self.hidden)
        max_names = min(MAX_CHUNK_ITERATIONS[self.backend], MAX_CHUNK_WORK // n_weights)
        # A chunk has at least one name, even if that is more work than the maximum.
        return max(1, max_names)

    @property
    def overridden_keys(self) -> list[str]:
        """The keys that the command line sets, among those that can change the result of a run."""
        keys = []
        for override in self.overrides:
            # Hydra accepts `+key=value` and `++key=value` as well.
            name = override.lstrip("+").partition("=")[0]
            if name in RESULT_KEYS:
                keys.append(name)
        return keys

    @property
    def displayed_settings(self) -> dict[str, Any]:
        """The settings that identify the run: those of the command line, then some others."""
        displayed = {}
        for override in self.overrides:
            # Hydra accepts `+key=value` and `++key=value` as well.
            name, _, value = override.lstrip("+").partition("=")
            if name in RESULT_KEYS or name == "experiment":
                displayed[name] = value
        for name in ALWAYS_DISPLAYED:
            displayed.setdefault(name, getattr(self, name))
        return displayed

    def subset(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the values of some keys."""
        return {name: getattr(self, name) for name in keys}


KEYS = [config_field.name for config_field in fields(Config)]
"""All keys of train.yaml."""
# The excluded keys may differ when a run is resumed, for example on another machine.
RUN_KEYS = [key for key in KEYS if key not in ("resume", "trainer", "logger", "callbacks")]
"""The keys that define a run; a run writes them to its config.yaml."""
# The keys that end with `_every` only change what is logged, printed and saved.
RESULT_KEYS = [name for name in RUN_KEYS if not name.endswith("_every")]
"""The keys that can change the result of a run."""
ALWAYS_DISPLAYED = ("lr", "hidden", "seed", "iterations")
"""The keys that are displayed even if the command line does not set them."""
# `seed` is one of them, because it chooses the held-out names.
CORPUS_KEYS = [*DataSource._fields, "letters", "val_fraction", "test_fraction", "seed"]
"""The keys that determine the names and their split."""
DATA_MODULE_ARGUMENTS = [
    *CORPUS_KEYS,
    "iterations",
    "passes",
    "log_every",
    "val_every",
    "batch_size",
    "chunk_size",
    "sampling",
]
"""The arguments of `NamesDataModule`: keys of train.yaml, and the property `chunk_size`."""
TRAINING_KEYS = ["lr", "seed", "optimizer", "schedule", "weight_decay", "label_smoothing"]
"""The arguments of `NameClassifier`, except for the network and the run length."""
