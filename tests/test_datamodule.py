from pathlib import Path

import torch

from src.data.alphabet import decode
from src.data.datamodule import NamesDataModule, NamesDataset
from src.data.sampler import RandomExamples
from src.data.tensors import Batch, name_to_tensor

CORPUS = {"English": ["Jones", "Lee"], "Korean": ["Lee"]}


def names_of(batch: Batch) -> list[str]:
    runs = torch.split(batch.letters, batch.lengths.tolist())
    return [decode(bytes(run.tolist())) for run in runs]


def test_items_are_the_tutorials() -> None:
    dataset = NamesDataset(CORPUS)
    assert len(dataset) == 3
    name, category = dataset[0]
    assert torch.equal(name, name_to_tensor("Jones"))
    assert name.shape == (5, 1, 57)
    assert category.dtype == torch.int64
    assert category.tolist() == [0]
    assert dataset[2][0].shape == (3, 1, 57)
    assert dataset[2][1].tolist() == [1]


def test_storage_is_a_byte_a_letter() -> None:
    assert NamesDataset(CORPUS).letters.dtype == torch.uint8
    assert NamesDataset(CORPUS).letters.shape == (11,)


def test_many_at_once_are_the_items() -> None:
    batch = NamesDataset(CORPUS).__getitems__([2, 0, 0, 1])
    assert names_of(batch) == ["Lee", "Jones", "Jones", "Lee"]
    assert batch.categories.tolist() == [1, 0, 0, 0]
    assert names_of(NamesDataset(CORPUS).__getitems__([])) == []


def test_loaders(corpus_dir: Path) -> None:
    data = NamesDataModule(corpus_dir, 0.1, 0.1, 3, iterations=25, log_every=10, epoch_size=100)
    assert data.categories == ["Alpha", "Beta", "Gamma"]
    batches = list(data.train_dataloader())
    assert [len(batch.lengths) for batch in batches] == [10, 10, 5]

    counts = data.train.categories.bincount().tolist()
    drawn = RandomExamples(counts, seed=3).take(0, 25)
    expected = names_of(data.train.__getitems__(drawn))
    assert [name for batch in batches for name in names_of(batch)] == expected

    for dataset, loader in ((data.val, data.val_dataloader()), (data.test, data.test_dataloader())):
        (batch,) = loader
        pairs = list(zip(names_of(batch), batch.categories.tolist(), strict=True))
        assert len(pairs) == len(set(pairs)) == len(dataset) > 0


def test_names_of_an_iteration(corpus_dir: Path) -> None:
    def data(size: int | None, sampling: str) -> NamesDataModule:
        return NamesDataModule(corpus_dir, 0, 0, 3, 25, 10, 100, batch_size=size, sampling=sampling)

    assert data(None, "balanced").names_per_iteration == 1
    assert data(7, "balanced").names_per_iteration == 7
    whole = data(7, "natural")
    n_batches = len({id(whole._passes.batch(i)) for i in range(6)})
    assert whole.names_per_iteration * n_batches == len(whole.distinct) == 38
    assert data(100, "natural").names_per_iteration == 38


def test_nothing_held_out(corpus_dir: Path) -> None:
    data = NamesDataModule(corpus_dir, 0, 0, 3, iterations=25, log_every=10, epoch_size=100)
    assert data.val_dataloader() == []
    assert data.test_dataloader() == []
    assert data.pictured() == ("training", data.train)
    assert len(data.train) == 20 + 13 + 6


def test_a_category_of_one_name_is_trained_on_and_said_to_be(corpus_dir: Path) -> None:
    (corpus_dir / "Single.txt").write_text("alone\n")
    data = NamesDataModule(corpus_dir, 0.1, 0.1, 3, iterations=25, log_every=10, epoch_size=100)
    assert data.train.categories.bincount()[3] == 1
    assert data.summary().splitlines()[1] == "Too few names to hold any out, all trained on: Single"
