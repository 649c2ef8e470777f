"""The typed contract of train.yaml: every key, what it means and what it may be.

Imports neither torch nor Lightning, so that a wrong value is answered at once.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from secrets import token_hex
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.errors import UserError

TUTORIAL_CELL = {
    **{"layers": 1, "bidirectional": False, "embedding": 0, "pooling": "last"},
    **{"dropout": 0, "recurrent_dropout": 0},
}
"""What the hand-written cell goes with."""
ONLINE = {
    **{"cell": "tutorial", "batch_size": 1, "sampling": "balanced", "optimizer": "sgd"},
    **{"schedule": "constant", "weight_decay": 0, "clip": 0, "label_smoothing": 0, "ngrams": 0},
}
"""The tutorial's training."""
TRAINER_KEYS = ("accelerator", "devices", "strategy", "deterministic", "benchmark")
MOST_DEVICES = 1024
LOGGERS = "lightning.pytorch.loggers"
WORK = 2 * 10**8
"""Weights times names trained on at once."""


def _key(explained: str, allowed: str, ok: Callable[[Any], bool]) -> Any:
    metadata = {"explained": explained, "allowed": allowed, "ok": ok}
    return field(default=MISSING, metadata=metadata)


def _whole(explained: str, least: int, most: int) -> Any:
    return _key(explained, f"{least} to {most:,}", lambda value: least <= value <= most)


def _fraction(explained: str) -> Any:
    return _key(explained, "at least 0, below 1", lambda value: 0 <= value < 1)


def _choice(explained: str, *choices: str) -> Any:
    allowed = f"{', '.join(choices[:-1])} or {choices[-1]}"
    return _key(explained, allowed, lambda value: value in choices)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_finite(value: float) -> bool:
    return 0 <= value < float("inf")


@dataclass
class Config:
    """The settings of one run; train.yaml holds their values.

    Raises:
        UserError: if a value is out of its range, or two values do not go together.
    """

    lr: float = _key("learning rate", "above 0, at most 1,000", lambda lr: 0 < lr <= 1000)
    hidden: int = _whole("size of the hidden state", 1, 4096)
    iterations: int = _whole("training steps, batch_size names each", 1, 10**9)
    batch_size: int = _whole("names per training step", 1, 100_000)
    seed: int = _whole("moves initial weights, random examples and split", 0, 2**32 - 1)
    log_every: int = _whole("iterations per point of the loss curve", 1, 10**6)
    print_every: int = _whole("iterations between printed examples", 1, 10**9)
    val_every: int = _whole(
        "iterations between validations and checkpoints, in whole log_every", 1, 10**9
    )
    checkpoint_every: int = _whole(
        "iterations between checkpoints, at least; 0: about a second", 0, 10**9
    )
    val_fraction: float = _fraction("share of the names held out for validation")
    test_fraction: float = _fraction("share of the names held out for the test")
    data_dir: str = _key("folder of <Category>.txt files, one name a line", "a folder", bool)
    cell: str = _choice(
        "the network: the tutorial's hand-written cell, or PyTorch's own",
        *("tutorial", "rnn", "gru", "lstm"),
    )
    layers: int = _whole("recurrent layers, one on the other", 1, 16)
    bidirectional: bool = _key("whether it reads backwards, too", "true or false", _is_flag)
    embedding: int = _whole("size of a letter's learned vector; 0: its one-hot row", 0, 4096)
    pooling: str = _choice("what is judged: the last state, or all of them", "last", "all")
    dropout: float = _fraction("of what is judged; a fifth of it of learned letter vectors")
    recurrent_dropout: float = _fraction("of the weights from state to state")
    ngrams: int = _whole("letters of context in the n-grams beside the network; 0: none", 0, 6)
    sampling: str = _choice(
        "how names are drawn: balanced, a category first; natural, passes over distinct names",
        *("balanced", "natural"),
    )
    optimizer: str = _choice("what takes the steps", "sgd", "adamw")
    schedule: str = _choice(
        "of the learning rate; cosine: up to it, then down to 0", "constant", "cosine"
    )
    weight_decay: float = _fraction("of the optimizer")
    clip: float = _key("largest norm of a gradient; 0: any", "at least 0", _is_finite)
    label_smoothing: float = _fraction("share of a label spread over all categories")
    backend: str = _choice(
        "compiled: fast, for the tutorial's training alone; autograd: for anything",
        *("compiled", "autograd"),
    )
    trainer: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_ranges(vars(self))
        if self.val_fraction + self.test_fraction >= 1:
            raise UserError(
                f"val_fraction={self.val_fraction} test_fraction={self.test_fraction}: "
                "must add up to less than 1, or nothing is left to train on"
            )
        if self.cell == "tutorial":
            self._check_defaults(TUTORIAL_CELL, "cell=tutorial", "use cell=rnn, gru or lstm")
        if self.backend == "compiled":
            self._check_defaults(ONLINE, "backend=compiled", "use backend=autograd")
        if self.backend == "compiled" and self.trainer.get("accelerator") != "cpu":
            raise UserError(
                f"backend=compiled trainer.accelerator={self.trainer.get('accelerator')}: "
                "the compiled backend runs on the CPU; use backend=autograd or trainer=cpu"
            )
        if self.online and self.distributed:
            raise UserError(
                f"backend={self.backend} trainer.strategy=ddp: a step a name cannot be shared out; "
                "use trainer=cpu, or backend=autograd with a batch_size above 1"
            )

    def _check_defaults(self, needed: Mapping[str, Any], why: str, otherwise: str) -> None:
        for key, value in needed.items():
            if getattr(self, key) != value:
                raise UserError(
                    f"{key}={getattr(self, key)} {why}: {why} needs {key}={value}; {otherwise}"
                )

    @property
    def online(self) -> bool:
        """Whether this is the tutorial's training: plain SGD on one random name at a time."""
        return all(getattr(self, key) == value for key, value in ONLINE.items())

    @property
    def distributed(self) -> bool:
        """Whether several processes share each batch."""
        return bool(self.trainer.get("strategy") == "ddp")

    @property
    def epoch_size(self) -> int:
        """Iterations from one validation to the next: `val_every`, in whole points of the curve."""
        return -(-self.val_every // self.log_every) * self.log_every

    @property
    def chunk(self) -> int:
        """Names trained on at once: well below a second's work, so that a wish to end is heard."""
        most = {"compiled": 10_000, "autograd": 250}[self.backend]
        return max(1, min(self.log_every, most, WORK // (self.hidden * (57 + self.hidden))))

    def network(self) -> dict[str, Any]:
        """Return the keys that make the network of a batched training."""
        keys = ("cell", "hidden", "ngrams", *TUTORIAL_CELL)
        return {key: getattr(self, key) for key in keys}

    def optimization(self) -> dict[str, Any]:
        """Return the keys that say how a batched training goes about it."""
        keys = ("iterations", "seed", "lr", "optimizer", "schedule", "weight_decay", "clip")
        return {key: getattr(self, key) for key in (*keys, "label_smoothing", "log_every")}

    def hyperparameters(self) -> dict[str, int | float | str]:
        """Return the flat keys that can change a result, and their values."""
        names = [each.name for each in fields(self) if each.metadata]
        return {name: getattr(self, name) for name in names if not name.endswith("_every")}


def check_ranges(settings: Mapping[str, Any]) -> None:
    """Check each key for itself.

    Raises:
        UserError: naming the key, its value and what is allowed.
    """
    for each in fields(Config):
        value = settings[each.name]
        if each.metadata and not each.metadata["ok"](value):
            raise UserError(f"{each.name}={value}: must be {each.metadata['allowed']}")
    _check_trainer(settings["trainer"])
    if not str(target := settings["logger"].get("_target_")).startswith(LOGGERS):
        raise UserError(f"logger._target_={target}: must be a class of {LOGGERS}")


def _check_trainer(trainer: Mapping[str, Any]) -> None:
    for key in trainer:
        if key not in TRAINER_KEYS:
            raise UserError(f"trainer.{key}: must be one of {', '.join(TRAINER_KEYS)}")
    for key, others in (("benchmark", ""), ("deterministic", " or warn")):
        value = trainer.get(key)
        if not (value is None or isinstance(value, bool) or (others and value == "warn")):
            raise UserError(f"trainer.{key}={value}: must be true or false{others}")
    if (strategy := trainer.get("strategy", "auto")) not in ("auto", "ddp"):
        raise UserError(f"trainer.strategy={strategy}: must be auto or ddp")
    devices = trainer.get("devices")
    if strategy == "auto" and devices != 1:
        raise UserError(f"trainer.devices={devices}: must be 1, or more with trainer=ddp")
    if not (devices == "auto" or (type(devices) is int and 1 <= devices <= MOST_DEVICES)):
        raise UserError(f"trainer.devices={devices}: must be auto or 1 to {MOST_DEVICES}")


def check_keys(cfg: DictConfig) -> None:
    """Check that `+key=value` added nothing: no part of the program would look at it.

    Raises:
        UserError: naming the key.
    """
    known = {each.name for each in fields(Config)} | {"hydra"}
    for key in cfg:
        if key not in known:
            raise UserError(f"{key!s}: no such key; --help lists them")


def checked_settings(cfg: DictConfig) -> dict[str, Any]:
    """Return the settings of a composed configuration as plain values, each checked for itself.

    Raises:
        UserError: if one is missing, cannot be resolved, is out of its range or is no setting.
    """
    settings = {}
    check_keys(cfg)
    for each in fields(Config):
        try:
            value = OmegaConf.select(cfg, each.name, throw_on_missing=True)
            nested = OmegaConf.is_config(value)
            settings[each.name] = OmegaConf.to_container(value, resolve=True) if nested else value
        except OmegaConfBaseException as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"{each.name}: {reason}") from None
        if value is None:
            raise UserError(f"{each.name}: is missing")
    check_ranges(settings)
    return settings


def from_hydra(cfg: DictConfig) -> Config:
    """Return the checked settings of a composed configuration.

    Raises:
        UserError: if there is anything wrong with them.
    """
    return Config(**checked_settings(cfg))


def explain(_root_: DictConfig) -> str:
    """Return a line or two for each key and its present value, for `--help`."""
    lines = []
    for each in fields(Config):
        if each.metadata:
            value = OmegaConf.select(_root_, each.name)
            about = f"{each.metadata['explained']}; {each.metadata['allowed']}"
            lines.append(f"  {f'{each.name}={value}':<22} {about}")
    return "\n".join(lines)


# What train.yaml refers to. Made known on import, as processes that take over some of a sweep's
# runs import this file before they compose.
ConfigStore.instance().store(name="contract", node=Config)
OmegaConf.register_new_resolver("explain", explain, replace=True)
# Two runs never share a folder, were they started in the same millisecond.
OmegaConf.register_new_resolver("unique", lambda: token_hex(4), use_cache=True, replace=True)
