"""The typed contract of train.yaml: every key, what it means and what it may be.

Imports neither torch nor Lightning, so that a wrong value is answered at once.
"""

import inspect
import re
import shlex
from ast import Expr, literal_eval, parse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from itertools import pairwise
from math import inf
from pathlib import Path
from secrets import token_hex
from textwrap import fill
from typing import Any, ClassVar

import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.utils import to_absolute_path
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.data.readers import DataSource
from src.errors import UserError

CONFIGS = Path(__file__).parents[1] / "configs"
SETTINGS = "config.yaml"
"""In a run's folder: its settings, plain values."""
WORK = 2 * 10**8
"""Weights times names trained on at once."""

PASSED_ON = (
    "accelerator strategy devices num_nodes precision fast_dev_run max_time limit_train_batches "
    "limit_val_batches limit_test_batches limit_predict_batches log_every_n_steps "
    "enable_progress_bar enable_model_summary deterministic benchmark inference_mode profiler "
    "detect_anomaly sync_batchnorm enable_autolog_hparams"
).split()
"""Arguments of lightning.Trainer that `trainer.` sets."""
INSTEAD = {
    "iterations": "max_epochs min_epochs max_steps min_steps",
    "val_every": "val_check_interval check_val_every_n_epoch",
    "clip": "gradient_clip_val gradient_clip_algorithm",
    "batch_size": "accumulate_grad_batches",
    "data_dir": "overfit_batches",
    "logger": "logger barebones",
    "hydra.run.dir": "default_root_dir",
    "nothing: the program sets it": "callbacks plugins enable_checkpointing num_sanity_val_steps "
    "reload_dataloaders_every_n_epochs use_distributed_sampler model_registry",
}
"""What to use instead of those that would break what the program promises."""
REFUSED = {name: use for use, names in INSTEAD.items() for name in names.split()}
ARGUMENTS = [*PASSED_ON, *REFUSED]
TrainerArguments: Any = make_dataclass("Arguments", [(name, Any, None) for name in ARGUMENTS])


def _key(allowed: str, ok: Callable[[Any], bool], **needed: Any) -> Any:
    """Describe a key; `needed` says what `cell=tutorial` or `backend=compiled` need it to be."""
    return field(default=MISSING, metadata={"allowed": allowed, "ok": ok, "needed": needed})


def _whole(least: int, most: int, **needed: Any) -> Any:
    return _key(f"{least} to {most:,}", lambda n: least <= n <= most, **needed)


def _fraction(**needed: Any) -> Any:
    return _key("at least 0, below 1", lambda share: 0 <= share < 1, **needed)


def _choice(choices: str, **needed: Any) -> Any:
    words = choices.split()
    allowed = f"{', '.join(words[:-1])} or {words[-1]}"
    return _key(allowed, lambda value: value in words, **needed)


def _path(allowed: str, ok: Callable[[Path], bool]) -> Any:
    return _key(allowed, lambda path: path is None or (path != "" and ok(Path(path))))


def _column(otherwise: str) -> Any:
    allowed = f"a column's name or number; null: {otherwise}"
    return _key(allowed, lambda column: column is None or column.isprintable())


@dataclass
class Config:
    """The settings of one run; train.yaml holds their values. `--help` shows these lines.

    Raises:
        UserError: if a value is out of its range, or two values do not go together.
    """

    lr: float = _key("above 0, at most 1,000", lambda lr: 0 < lr <= 1000)
    """learning rate"""
    hidden: int = _whole(1, 4096)
    """size of the hidden state"""
    iterations: int = _whole(1, 10**9)
    """training steps, batch_size names each"""
    passes: float | None = _key("above 0, or null", lambda n: n is None or 0 < n < 10**6)
    """in place of iterations: passes over the names"""
    batch_size: int = _whole(1, 100_000, compiled=1)
    """names per training step"""
    seed: int = _whole(0, 2**32 - 1)
    """moves initial weights, random examples and split"""
    seeds: int = _whole(1, 10_000)
    """repetitions, from seed on; the score is their mean"""
    log_every: int = _whole(0, 10**6)
    """iterations per point of the loss curve; 0: a 50th of all"""
    print_every: int = _whole(0, 10**9)
    """iterations between printed examples; 0: a 10th of all"""
    val_every: int = _whole(0, 10**9)
    """iterations between validations and checkpoints, in whole log_every; 0: a 10th of all"""
    val_fraction: float = _fraction()
    """share of the names held out for validation"""
    test_fraction: float = _fraction()
    """share of the names held out for the test"""
    data_dir: str | None = _path("a folder, or null; a file is data_file's", Path.is_dir)
    """<Category>.txt files, one name a line; null: the names shipped"""
    data_file: str | None = _path("a file, or null; a folder is data_dir's", Path.is_file)
    """table of names and categories: .csv .tsv .jsonl (.gz) .parquet"""
    name_column: str | None = _column("found if called so, or one of two")
    """of data_file: the names"""
    label_column: str | None = _column("found likewise")
    """of data_file: the categories"""
    count_column: str | None = _column("each counts once")
    """of data_file: the lines that a row counts for"""
    split_column: str | None = _column("held out by the fractions")
    """of data_file: the side of a row, train, val or test"""
    letters: str = _choice("ascii tutorial corpus")
    """symbols that are read: 57, with names spelled in them; corpus: those of the names"""
    init_from: str | None = _path("a run's or sweep's folder, a .ckpt, or null", lambda _: True)
    """model to start from, with the letters and categories that it shares"""
    resume: str | None = _path("a run's folder, or null", Path.is_dir)
    """run to go on with, settings and all"""
    cell: str = _choice("tutorial rnn gru lstm", compiled="tutorial")
    """the network: the tutorial's hand-written cell, or PyTorch's own"""
    layers: int = _whole(1, 16, tutorial=1)
    """recurrent layers, one on the other"""
    bidirectional: bool = _key("true or false", lambda _: True, tutorial=False)
    """whether it reads backwards, too"""
    embedding: int = _whole(0, 4096, tutorial=0)
    """size of a letter's learned vector; 0: its one-hot row"""
    pooling: str = _choice("last all", tutorial="last")
    """what is judged: the last state, or all of them"""
    dropout: float = _fraction(tutorial=0)
    """of what is judged; a fifth of it of learned letter vectors"""
    recurrent_dropout: float = _fraction(tutorial=0)
    """of the weights from state to state"""
    ngrams: int = _whole(0, 6, compiled=0)
    """letters of context in the n-grams beside the network; 0: none"""
    sampling: str = _choice("balanced natural", compiled="balanced")
    """how names are drawn: balanced, a category first; natural, passes over distinct names"""
    optimizer: str = _choice("sgd adamw", compiled="sgd")
    """what takes the steps"""
    schedule: str = _choice("constant cosine", compiled="constant")
    """of the learning rate; cosine: up to it, then down to 0"""
    weight_decay: float = _fraction(compiled=0)
    """of the optimizer"""
    clip: float = _key("at least 0", lambda norm: 0 <= norm < inf)
    """largest norm of a gradient; 0: any"""
    label_smoothing: float = _fraction(compiled=0)
    """share of a label spread over all categories"""
    backend: str = _choice("compiled autograd")
    """compiled: fast, for the tutorial's training alone; autograd: for anything"""
    trainer: Any = field(default_factory=TrainerArguments)
    logger: dict[str, Any] = field(default_factory=dict)
    given: ClassVar[Sequence[str]] = ()  # the command line's words
    part: ClassVar[bool] = False  # whether other seeds are done, too

    def __post_init__(self) -> None:
        for each in fields(self):
            key, value, about = each.name, getattr(self, each.name), each.metadata
            if about and not about["ok"](value):
                raise UserError(f"{key}={value}: must be {about['allowed']}")
            for option, needed in about.get("needed", {}).items():
                if option in (self.cell, self.backend) and value != needed:
                    others = {"tutorial": "cell=rnn, gru or lstm", "compiled": "backend=autograd"}
                    raise UserError(f"{key}={value}: must be {needed} unless {others[option]}")
        if self.init_from and not (self.resume or Path(self.init_from).exists()):
            raise UserError(f"init_from={self.init_from}: no such file or folder")
        DataSource(**self.subset(DataSource._fields)).check_settings()
        if (held_out := self.val_fraction + self.test_fraction) >= 1:
            raise UserError(f"val_fraction + test_fraction = {held_out:g}: must be below 1")
        self._check_trainer()

    def _check_trainer(self) -> None:
        given = self.trainer_arguments
        for key in given.keys() & REFUSED.keys():
            raise UserError(f"trainer.{key}: use {REFUSED[key]}")
        one: Any = {"strategy": [None, "auto"], "devices": [1], "num_nodes": [None, 1]}
        many: Any = {"strategy": [None, "auto", "ddp"]}  # others have other checkpoints
        needed = one if self.online or self.seeds > 1 else many  # name, or run, after the other
        if self.backend == "compiled":
            needed |= {"accelerator": ["cpu"], "precision": [None, 32, "32", "32-true"]}
        for key, allowed in needed.items():
            if given.get(key) not in allowed:
                why = f"backend={self.backend} batch_size={self.batch_size} seeds={self.seeds}"
                raise UserError(f"trainer.{key}={given.get(key)}: must be {allowed[-1]} with {why}")

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """What lightning.Trainer is given."""
        return {key: value for key, value in vars(self.trainer).items() if value is not None}

    @property
    def online(self) -> bool:
        """Whether this is the tutorial's training: plain SGD on one random name at a time."""
        return all(getattr(self, key) == value for key, value in _needed("compiled").items())

    @property
    def chunk_size(self) -> int:
        """Iterations per batch: well below a second of work, so that signals are noticed soon."""
        most = {"compiled": 10_000, "autograd": 250}[self.backend]
        work = WORK // (self.hidden * (57 + self.hidden))
        return max(1, min(most, work)) if self.online else 1

    @property
    def told(self) -> dict[str, Any]:
        """What the command line has set that can change a result, then what is always asked."""
        words = [word.lstrip("+").partition("=") for word in self.given]
        typed = {key: value for key, _, value in words if key in (*HYPERPARAMETERS, "experiment")}
        asked = ("lr", "hidden", "seed", "iterations")
        return typed | self.subset(key for key in asked if key not in typed)

    def subset(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return some keys and their values."""
        return {key: getattr(self, key) for key in keys}


def _needed(what: str) -> dict[str, Any]:
    about = {each.name: each.metadata.get("needed", {}) for each in fields(Config)}
    return {name: needed[what] for name, needed in about.items() if what in needed}


KEYS = [each.name for each in fields(Config)]
SUBJECTS = {
    "lr": "The experiment",
    "log_every": "What is seen of it",
    "val_fraction": "Names, and going on",
    "cell": "The network",
    "sampling": "Its training",
}
"""Headings of `--help`, each above its first key."""
RUN_KEYS = [each.name for each in fields(Config) if each.metadata and each.name != "resume"]
"""All that makes a run."""
HYPERPARAMETERS = [key for key in RUN_KEYS if not key.endswith("_every")]
"""What can change a result."""
CORPUS_KEYS = [*DataSource._fields, "letters", "val_fraction", "test_fraction", "seed"]
DATA_KEYS = [
    *CORPUS_KEYS,
    *"iterations passes log_every val_every batch_size chunk_size sampling".split(),
]
NETWORK_KEYS = ["cell", "hidden", "ngrams", *_needed("tutorial")]
TRAINING_KEYS = "lr seed optimizer schedule weight_decay label_smoothing".split()


def no_such_key(key: str) -> str:
    """Return the answer to a key that does not exist, with the nearest that does."""
    group, dot, name = key.rpartition(".")
    near = get_close_matches(name, ARGUMENTS if group == "trainer" else KEYS, 1)
    meant = f"; did you mean {group}{dot}{near[0]}?" if near else "."
    return f"{key}: no such key{meant} --help lists them"


def error_message(error: Exception) -> str:
    """Return an error in a line or two; the one place where others' are put into our words."""
    text, cause = str(error), error.__cause__
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'outputs'}: {error.strerror}"
    if unknown := re.match(r"Could not override '(.+?)'", text):
        return no_such_key(unknown[1])
    if text.startswith("Config group override must be"):
        no = "no logger: logger=[]; cluster=cores, ray or slurm, or one run after the other"
        return f"{text}: trainer=cpu, logger=[tensorboard,csv], {no}: hydra/launcher=basic"
    text += f"\n{cause}" if isinstance(cause, OmegaConfBaseException) else ""
    text = re.sub(", set env var .*", "", text)  # HYDRA_FULL_ERROR
    return "\n".join(line for line in text.splitlines() if "_type=" not in line)


def from_hydra(cfg: DictConfig, typed: Sequence[str] = ()) -> Config:
    """Return the checked settings of a composed configuration; `resume`'s, if it is given.

    Args:
        cfg: the configuration.
        typed: the command line's words, `key=value`.

    Raises:
        UserError: if there is anything wrong with them.
    """
    for key in map(str, cfg):
        if key not in (*KEYS, "hydra"):
            raise UserError(no_such_key(key))
    try:
        some = OmegaConf.masked_copy(cfg, [*RUN_KEYS, "resume", "trainer"])
        settings: Any = OmegaConf.to_container(some, resolve=True, throw_on_missing=True)
        for key in ("data_dir", "data_file", "init_from", "resume"):
            settings[key] = settings.get(key) and to_absolute_path(settings[key])
        if settings["resume"]:
            settings |= _resumed(settings, {word.lstrip("+").partition("=")[0] for word in typed})
        config: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), settings))
        config.logger = OmegaConf.to_container(cfg.logger) if "logger" in cfg else {}
        config.given = tuple(typed)
    except OmegaConfBaseException as error:
        reason = str(error.msg or error).partition("\n")[0]
        raise UserError(f"{error.full_key}: {reason}" if error.full_key else reason) from None
    checked: Config = config
    return checked


def _resumed(settings: dict[str, Any], typed: set[str]) -> dict[str, Any]:
    folder = Path(settings["resume"])
    saved = read_settings(folder)
    if not saved or not saved.keys() <= {*RUN_KEYS}:
        raise UserError(f"resume={folder}: no run's folder with a whole {SETTINGS} in it")
    for key in RUN_KEYS if "experiment" in typed else typed & {*RUN_KEYS}:
        had, asked = saved.get(key), settings[key]
        grows = key == "iterations" and saved.get("schedule") == "constant" and asked >= had
        if had != asked and not grows:
            why = "only iterations can be raised, if the schedule is constant"
            raise UserError(f"{key}={asked}: the run in {folder} has {key}={had}; {why}")
    return saved | ({"iterations": settings["iterations"]} if "iterations" in typed else {})


def read_settings(folder: Path) -> dict[str, Any]:
    """Return the settings that a run wrote into its folder; none if they cannot be read."""
    try:
        return dict(yaml.safe_load((folder / SETTINGS).read_text(encoding="utf-8")))
    except Exception:  # whatever its content provokes
        return {}


def meanings() -> dict[str, str]:
    """Return the line under each key of Config."""
    source: Any = parse(inspect.getsource(Config))
    pairs = pairwise(source.body[0].body)
    return {key.target.id: literal_eval(it.value) for key, it in pairs if isinstance(it, Expr)}


def explain(_root_: DictConfig) -> str:
    """Return a line for each key and its present value, by subject."""
    lines = []
    for key, meaning in meanings().items():
        value = yaml.safe_dump(OmegaConf.select(_root_, key)).partition("\n")[0]  # as it is typed
        allowed = Config.__dataclass_fields__[key].metadata["allowed"]
        lines += [f"\n{SUBJECTS[key]}\n"] if key in SUBJECTS else []
        text = f"{f'{key}={value}':<21} {meaning} ({allowed})"
        lines.append(fill(text, 80, initial_indent="  ", subsequent_indent=" " * 24))
    return "\n".join(lines)


def words(overrides: Iterable[str]) -> str:
    """Return what a command line sets, for a folder's name: `-lr_0.01-hidden_64`, or nothing."""
    said = []
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if key not in ("resume", "logger", "cluster"):
            said.append(f"-{key.rpartition('.')[2]}_{value.rstrip('/').rpartition('/')[2]}")
    return re.sub(r"[^A-Za-z0-9._+-]+", "_", "".join(said))[:60].rstrip("._-")


def typed(key: str, folder: Path) -> str:
    """Return `key=folder` as it is typed, whatever letters are in the folder's name."""
    value = str(folder) if "/" in str(folder) else f"./{folder}"  # 007 or null would be no folder
    if not re.fullmatch(r"[\w./+-]+", value, re.ASCII):
        no_reference = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)  # \${ is OmegaConf's word for ${
        value = QuotedString(no_reference, Quote.single).with_quotes()
    return shlex.quote(f"{key}={value}")


def launcher() -> str:
    """Return what shares a sweep's runs out to this machine's cores: an extra, or Hydra's own."""
    found = find_spec("hydra_plugins") and find_spec("hydra_plugins.hydra_joblib_launcher")
    return "joblib" if found else "basic"


# What the configs refer to. Made known on import, as processes that take over some of a sweep's
# runs import this file before they compose.
ConfigStore.instance().store(name="contract", node=Config)
for name, resolver in {
    "explain": explain,
    "words": words,
    "launcher": launcher,
    "name_of": lambda folder: Path(folder).name,
    "either": lambda one, other: one or other,
    "unless": lambda one, other: None if one else other,
}.items():
    OmegaConf.register_new_resolver(name, resolver, replace=True)  # type: ignore[arg-type] # they differ
# Two runs never share a folder, were they started in the same millisecond.
OmegaConf.register_new_resolver("unique", lambda: token_hex(4), use_cache=True, replace=True)
