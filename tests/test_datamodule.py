import math
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import tutorial_loop
from src.data.alphabet import ASCII_ALPHABET, name_to_tensor
from src.data.batch import Batch
from src.data.datamodule import NamesDataModule, Sampling
from src.data.dataset import NamesDataset
from src.data.sampler import RandomExamples
from src.errors import UserError
from src.models.online_sgd import train_on_each_name
from src.models.rnn import RNN

CORPUS = {"English": ["Jones", "Lee"], "Korean": ["Lee"]}


def decode_names(batch: Batch) -> list[str]:
    encoded_names = torch.split(batch.letters, batch.lengths.tolist())
    return [ASCII_ALPHABET.decode(letters) for letters in encoded_names]


def test_items_are_the_tensors_of_the_tutorial() -> None:
    dataset = NamesDataset(CORPUS)
    assert len(dataset) == 3
    name, category = dataset[0]
    # A name is a tensor of one-hot vectors, as the tutorial creates it.
    assert torch.equal(name, name_to_tensor("Jones"))
    assert name.shape == (5, 1, 57)
    assert category.dtype == torch.int64
    assert category.tolist() == [0]
    assert dataset[2][0].shape == (3, 1, 57)
    assert dataset[2][1].tolist() == [1]


def test_storage_is_one_byte_per_letter() -> None:
    assert NamesDataset(CORPUS).letters.dtype == torch.uint8
    assert NamesDataset(CORPUS).letters.shape == (11,)


def test_batch_of_many_indices_equals_the_items() -> None:
    batch = NamesDataset(CORPUS).batch([2, 0, 0, 1])
    assert decode_names(batch) == ["Lee", "Jones", "Jones", "Lee"]
    assert batch.targets.tolist() == [1, 0, 0, 0]
    assert decode_names(NamesDataset(CORPUS).batch([])) == []


def test_examples_of_a_batch_equal_the_items() -> None:
    dataset = NamesDataset(CORPUS)
    lines = [2, 0, 1]
    examples = dataset.batch(lines).one_hot_examples(57)
    for line, (name, category) in zip(lines, examples, strict=True):
        assert torch.equal(name, dataset[line][0])
        assert torch.equal(category, dataset[line][1])


def test_batches_contain_all_lines_in_order(corpus_dir: Path) -> None:
    data = NamesDataModule(corpus_dir, 0, 0)
    whole = data.train_dataset.batch(range(39))
    one_batch = list(data.train_dataset.loader())
    assert len(one_batch) == 1
    small_batches = list(data.train_dataset.loader(max_batch_size=7))
    assert [len(batch.lengths) for batch in small_batches] == [7] * 5 + [4]
    for batches in (one_batch, small_batches):
        assert torch.equal(torch.cat([batch.letters for batch in batches]), whole.letters)
        assert torch.equal(torch.cat([batch.lengths for batch in batches]), whole.lengths)
        assert torch.equal(torch.cat([batch.targets for batch in batches]), whole.targets)


def test_loaders(corpus_dir: Path) -> None:
    data = NamesDataModule(corpus_dir, 0.1, 0.1, 3, iterations=25, log_every=10, chunk_size=1000)
    assert data.categories == ["Alpha", "Beta", "Gamma"]
    batches = list(data.train_dataloader())
    # A batch ends at each multiple of log_every and with the last iteration.
    assert [len(batch.lengths) for batch in batches] == [10, 10, 5]

    counts = data.train_dataset.targets.bincount().tolist()
    indices = RandomExamples(counts, 1, seed=3).take(0, 25)
    expected = decode_names(data.train_dataset.batch(indices))
    names = []
    for batch in batches:
        names += decode_names(batch)
    assert names == expected

    for dataset, loader in (
        (data.val_dataset, data.val_dataloader()),
        (data.test_dataset, data.test_dataloader()),
    ):
        (batch,) = loader
        pairs = list(zip(decode_names(batch), batch.targets.tolist(), strict=True))
        assert len(pairs) == len(set(pairs)) == len(dataset) > 0


def test_natural_sampling_passes_over_the_distinct_spellings(corpus_dir: Path) -> None:
    data = NamesDataModule(corpus_dir, 0, 0, 3, 25, 25, 25, 7, chunk_size=1, sampling="natural")
    batches = list(data.train_dataloader())
    assert len(batches) == 25
    first_pass: list[tuple[str, int]] = []
    for batch in batches[:6]:
        first_pass += zip(decode_names(batch), batch.targets.tolist(), strict=True)
    # Two of the 39 lines are equal.
    assert len(first_pass) == len(set(first_pass)) == 38
    assert len(data.distinct_spellings) == 38
    counts = data.distinct_spellings.targets.bincount()
    assert data.train_prior == data.corpus_prior == pytest.approx((counts / 38).tolist())
    balanced = NamesDataModule(corpus_dir, 0, 0)
    # All categories are drawn equally often, but the corpus remains the same.
    assert balanced.train_prior == [1 / 3] * 3
    assert balanced.corpus_prior == data.corpus_prior


def test_default_names_are_the_included_corpus() -> None:
    assert len(NamesDataModule().categories) == 18


def test_nothing_held_out(corpus_dir: Path) -> None:
    data = NamesDataModule(corpus_dir, 0, 0, 3)
    assert data.val_dataloader() == []
    assert data.test_dataloader() == []
    assert data.choose_report_split() == ("train", data.train_dataset)
    assert len(data.train_dataset) == 20 + 13 + 6


def test_the_report_split_is_the_first_with_names(corpus_dir: Path) -> None:
    data = NamesDataModule(corpus_dir, 0.2, 0.2)
    assert data.choose_report_split() == ("test", data.test_dataset)
    data = NamesDataModule(corpus_dir, 0.2, 0)
    assert data.choose_report_split() == ("val", data.val_dataset)


def test_category_of_one_name_is_in_the_training_split(own_corpus_dir: Path) -> None:
    (own_corpus_dir / "Single.txt").write_text("alone\n")
    data = NamesDataModule(own_corpus_dir, 0.1, 0.1, 3)
    assert data.train_dataset.targets.bincount()[3] == 1
    assert data.summary() == ("4 categories; 30 training examples, 4 validation and 5 test names")


def test_moved_corpus_has_the_same_split(own_corpus_dir: Path) -> None:
    state = NamesDataModule(own_corpus_dir, 0.1, 0.1).state_dict()
    # The state contains the names, but no path.
    moved = own_corpus_dir.rename(own_corpus_dir.parent / "moved")
    NamesDataModule(moved, 0.1, 0.1).load_state_dict(state)
    for other in (NamesDataModule(moved, 0.1, 0.1, seed=1), NamesDataModule(moved, 0.1, 0.2)):
        with pytest.raises(UserError, match="the names or their split have changed"):
            other.load_state_dict(state)
    with (moved / "Alpha.txt").open("a") as file:
        file.write("alone\n")
    with pytest.raises(UserError, match="the names or their split have changed"):
        NamesDataModule(moved, 0.1, 0.1).load_state_dict(state)


def test_draws_equal_the_tutorial_on_an_unusual_folder(tmp_path: Path) -> None:
    """The losses are equal for letters that the tutorial drops, final blanks and any line end."""
    files = {
        "German": "\n Strauß \nMüller\nGroß\n",
        "Polish": "Wałęsa\r\nŚlusàrski\r\nKról \r\n\r\n",
        "Spanish": "De la  Cruz\nIbáñez\u00a0\nNuñez-Oña",
    }
    for category, text in files.items():
        (tmp_path / f"{category}.txt").write_bytes(text.encode())
    n_names = 400
    expected_losses = torch.tensor(tutorial_loop.train(tmp_path, n_names, 16)["losses"])
    data = NamesDataModule(
        tmp_path,
        val_fraction=0,
        test_fraction=0,
        seed=0,
        iterations=n_names,
        log_every=n_names,
        val_every=n_names,
        chunk_size=n_names,
        letters="tutorial",
    )
    torch.manual_seed(0)
    rnn = RNN(57, 16, 3)
    (batch,) = data.train_dataloader()
    losses, _ = train_on_each_name(rnn, batch, 0.005)
    torch.testing.assert_close(losses, expected_losses, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"val_every": 5000, "log_every": 1000}, (100_000, 1000, 5000)),
        ({"val_every": 5000, "log_every": 3000}, (100_000, 3000, 6000)),  # a multiple of log_every
        ({"val_every": 1, "log_every": 7}, (100_000, 7, 7)),
        ({"val_every": 0, "log_every": 0}, (100_000, 2000, 10_000)),
        ({"val_every": 0, "log_every": 0, "iterations": 3}, (3, 1, 1)),
    ],
)
def test_validation_interval(arguments: dict[str, Any], expected: tuple[int, int, int]) -> None:
    assert astuple(NamesDataModule(**arguments).run_length) == expected


@pytest.mark.parametrize("sampling", ["balanced", "natural"])
def test_passes_over_the_sampled_names(sampling: Sampling) -> None:
    data = NamesDataModule(passes=2.5, batch_size=100, sampling=sampling, letters="tutorial")
    iterations_per_pass = len(data.train_dataset) / 100
    if sampling == "natural":
        iterations_per_pass = math.ceil(len(data.distinct_spellings) / 100)
    assert data.run_length.iterations == math.ceil(2.5 * iterations_per_pass)
