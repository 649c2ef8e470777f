import io
import math
import random
from collections import Counter, defaultdict
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from src.data.alphabet import ASCII_ALPHABET, Alphabet
from src.data.dataset import NamesDataset
from src.data.normalize import ASCII_SYMBOLS
from src.ngrams.gram_table import GramTable
from src.ngrams.letter_ngrams import LetterNgrams

N_CATEGORIES = 5
Examples = list[tuple[str, int]]
"""Names with the indices of their categories."""


def random_name(generator: random.Random) -> str:
    return "".join(generator.choices("abceABO' ", k=generator.randint(1, 9)))


def random_examples(seed: int, n_examples: int = 60) -> Examples:
    """Distinct examples. Some names have several categories, and category 4 has no names."""
    generator = random.Random(seed)
    examples = set()
    for _ in range(n_examples):
        name = random_name(generator)
        examples.add((name, generator.randrange(N_CATEGORIES - 1)))
    return sorted(examples)


def to_tensors(examples: Examples) -> tuple[Tensor, Tensor, Tensor]:
    """Return the letters, lengths and categories of examples."""
    letters, lengths = ASCII_ALPHABET.encode([name for name, _ in examples])
    return letters, lengths, torch.tensor([category for _, category in examples])


def one_category(categories: Tensor) -> Tensor:
    """Return `counted_in` with a single category for each name."""
    return F.one_hot(categories, N_CATEGORIES).bool()


def make_ngrams(
    examples: Examples, order: int = 4, seed: int = 0, case_sensitive: bool = False
) -> LetterNgrams:
    """Return a model that has counted examples, with random parameters."""
    ngrams = LetterNgrams(ASCII_SYMBOLS, N_CATEGORIES, order, case_sensitive)
    ngrams.count_all_names(*to_tensors(examples))
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in ngrams.parameters():
            parameter.add_(torch.randn_like(parameter) / 2)
    return ngrams


def add_counters(counters: list[Counter[str]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for counter in counters:
        total += counter
    return total


def compute_logits_with_loops(
    ngrams: LetterNgrams,
    examples: Examples,
    name: str,
    leave_one_out: bool,
    case_sensitive: bool = False,
) -> list[float]:
    """Return the logits of one name by their definition, with dictionaries and loops."""

    def normalize(text: str) -> str:
        return text if case_sensitive else text.lower()

    def add_marks(text: str, reading: int) -> list[str]:
        step = 1 - 2 * reading  # The second model reads names backwards.
        return list("^" + normalize(text)[::step] + "$")

    def value(parameter: Tensor, *index: int) -> float:
        return parameter.double()[index].item()

    logits = []
    for c in range(N_CATEGORIES):
        logit = value(ngrams.bias, c)
        for reading in range(2):
            # For each category and context, the counts of the symbols that follow it.
            followers: list[dict[str, Counter[str]]] = [
                defaultdict(Counter) for _ in range(N_CATEGORIES)
            ]
            for text, category in examples:
                if leave_one_out and normalize(text) == normalize(name):
                    continue
                symbols = add_marks(text, reading)
                for t in range(1, len(symbols)):
                    for k in range(min(ngrams.order, t) + 1):
                        context = "".join(symbols[t - k : t])
                        followers[category][context][symbols[t]] += 1
            symbols = add_marks(name, reading)
            for t in range(1, len(symbols)):
                p = q = 1 / (len(set(map(normalize, ASCII_SYMBOLS))) + 1)
                for k in range(min(ngrams.order, t) + 1):
                    context = "".join(symbols[t - k : t])
                    counts = followers[c][context]
                    pooled_counts = add_counters(
                        [category_followers[context] for category_followers in followers]
                    )
                    beta = math.exp(value(ngrams.log_beta, reading, k, 0, c))
                    delta = math.exp(value(ngrams.log_delta, reading, k, 0, 0))
                    mu = 1 / (1 + math.exp(-value(ngrams.logit_mu, reading, k, 0, c)))
                    q = (pooled_counts[symbols[t]] + delta * q) / (pooled_counts.total() + delta)
                    mean = mu * p + (1 - mu) * q
                    p = (counts[symbols[t]] + beta * mean) / (counts.total() + beta)
                logit += value(ngrams.weight, reading, 0, c) * math.log(p)
        logits.append(logit)
    return logits


def assert_equal_up_to_rounding(logits: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(logits, expected.to(logits), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case_sensitive", [False, True])
@pytest.mark.parametrize("order", [0, 1, 4, 6])
def test_logits_match_a_reference_implementation(order: int, case_sensitive: bool) -> None:
    examples = random_examples(seed=order, n_examples=25)
    # The first name has two categories, and the same name in lower case has one of them.
    first_name, first_category = examples[0]
    second_category = (first_category + 1) % 4
    examples[1] = (first_name, second_category)
    examples[2] = (first_name.lower(), second_category)
    normalize = str if case_sensitive else str.lower
    # A model that ignores case must not count a name twice.
    unique_examples = {}
    for name, category in examples:
        unique_examples[normalize(name), category] = (name, category)
    examples = list(unique_examples.values())
    ngrams = make_ngrams(examples, order, case_sensitive=case_sensitive)
    unseen = [("q", 0), ("Zz.,;z", 0), ("aBBa", 0), ("abceABO' abce", 0)]
    letters, lengths, _ = to_tensors(examples[:8] + unseen)
    expected = []
    for name, _ in examples[:8] + unseen:
        expected.append(compute_logits_with_loops(ngrams, examples, name, False, case_sensitive))
    assert_equal_up_to_rounding(ngrams(letters, lengths), torch.tensor(expected))

    # A name with several categories is left out of all of them.
    name_categories = ngrams.find_all_categories_of_names(*to_tensors(examples))
    categories_by_name: dict[str, set[int]] = defaultdict(set)
    for name, category in examples:
        categories_by_name[normalize(name)].add(category)
    for (name, _), row in zip(examples, name_categories, strict=True):
        assert set(row.nonzero().flatten().tolist()) == categories_by_name[normalize(name)]
    assert max(len(categories) for categories in categories_by_name.values()) == 2
    expected = []
    for name, _ in examples[:8]:
        expected.append(compute_logits_with_loops(ngrams, examples, name, True, case_sensitive))
    left_out = ngrams(letters[: sum(lengths[:8])], lengths[:8], name_categories[:8])
    assert_equal_up_to_rounding(left_out, torch.tensor(expected))


def test_leaving_a_name_out_equals_not_counting_it() -> None:
    examples = random_examples(seed=1)
    ngrams = make_ngrams(examples)
    remaining_ngrams = make_ngrams(examples)
    letters, lengths, categories = to_tensors(examples)
    left_out = ngrams(letters, lengths, one_category(categories))
    for i, example in enumerate(examples):
        remaining_examples = examples[:i] + examples[i + 1 :]
        remaining_ngrams.count_all_names(*to_tensors(remaining_examples))
        letters, lengths, _ = to_tensors([example])
        expected = remaining_ngrams(letters, lengths)
        assert_equal_up_to_rounding(left_out[i : i + 1], expected)


def test_leaving_out_names_that_were_not_counted_makes_no_count_negative() -> None:
    ngrams = make_ngrams(random_examples(seed=2))
    letters, lengths, _ = to_tensors([("Qqq", 0), ("abba", 0)])
    empty_category = torch.full((2,), N_CATEGORIES - 1)
    left_out = ngrams(letters, lengths, one_category(empty_category))
    assert torch.equal(left_out, ngrams(letters, lengths))


def test_a_batch_has_the_same_logits_as_single_names() -> None:
    examples = random_examples(seed=3) + [("b", 0), ("ab" * 100, 1), ("Q", 2)]
    ngrams = make_ngrams(examples)

    def compute_logits(examples: Examples, leave_one_out: bool) -> Tensor:
        letters, lengths, categories = to_tensors(examples)
        left_out = one_category(categories) if leave_one_out else None
        logits: Tensor = ngrams(letters, lengths, left_out)
        return logits

    for leave_one_out in (False, True):
        single_logits = [compute_logits([example], leave_one_out) for example in examples]
        batch_logits = compute_logits(examples, leave_one_out)
        torch.testing.assert_close(batch_logits, torch.cat(single_logits), atol=1e-4, rtol=1e-5)
    # A process of DDP may have no names in a batch.
    letters, lengths, categories = to_tensors([])
    logits = ngrams(letters, lengths, one_category(categories.long()))
    assert logits.shape == (0, N_CATEGORIES)


def test_case_is_ignored_unless_the_model_is_case_sensitive() -> None:
    examples = random_examples(seed=4)
    ngrams = make_ngrams(examples)
    lower_case_ngrams = make_ngrams([(name.lower(), category) for name, category in examples])
    assert torch.equal(ngrams.table.counts, lower_case_ngrams.table.counts)
    letters, lengths, _ = to_tensors(examples)
    upper_letters, _, _ = to_tensors([(name.upper(), category) for name, category in examples])
    assert torch.equal(ngrams(upper_letters, lengths), lower_case_ngrams(letters, lengths))
    case_sensitive_ngrams = make_ngrams(examples, case_sensitive=True)
    logits = case_sensitive_ngrams(letters, lengths)
    assert not torch.allclose(case_sensitive_ngrams(upper_letters, lengths), logits)


def test_without_counts_all_categories_have_the_same_logit() -> None:
    ngrams = LetterNgrams(ASCII_SYMBOLS, N_CATEGORIES, 4)
    letters, lengths, _ = to_tensors([("Jones", 0), ("a", 0)])
    logits = ngrams(letters, lengths)
    # In each reading, the letters and the final mark are predicted. All 32 symbols are equally
    # probable, and the weight of a reading is 0.4.
    n_symbols = torch.tensor([[6.0], [2.0]])
    expected = -n_symbols * 2 * 0.4 * math.log(32)
    torch.testing.assert_close(logits, expected.expand(2, N_CATEGORIES))


def test_counting_again_replaces_the_counts() -> None:
    examples = random_examples(seed=5)
    counted_twice = make_ngrams(random_examples(seed=6))
    counted_once = make_ngrams(examples)
    counted_twice.count_all_names(*to_tensors(examples))
    letters, lengths, _ = to_tensors(examples)
    assert torch.equal(counted_twice(letters, lengths), counted_once(letters, lengths))


@pytest.mark.parametrize("on_meta", [False, True])
def test_a_loaded_model_is_equal_bit_for_bit(on_meta: bool) -> None:
    examples = random_examples(seed=7)
    ngrams = make_ngrams(examples)
    file = io.BytesIO()
    torch.save(ngrams.state_dict(), file)
    state = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    with torch.device("meta" if on_meta else "cpu"):
        loaded = LetterNgrams(ASCII_SYMBOLS, N_CATEGORIES, 4)
    loaded.load_state_dict(state, strict=True, assign=on_meta)
    for expected, parameter in zip(ngrams.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(parameter, expected)
    letters, lengths, _ = to_tensors(examples)
    assert torch.equal(loaded(letters, lengths), ngrams(letters, lengths))
    extra_state = loaded.state_dict()["_extra_state"]
    for key, expected_part in state["_extra_state"].items():
        assert torch.equal(extra_state[key], expected_part)


def test_the_keys_of_the_state_dict() -> None:
    """They are the names in checkpoints: if one is renamed, older checkpoints need a conversion."""
    state = make_ngrams(random_examples(seed=7)).state_dict()
    assert list(state) == ["log_beta", "log_delta", "logit_mu", "weight", "bias", "_extra_state"]
    assert list(state["_extra_state"]) == ["grams", "starts", "categories", "counts"]


def test_a_change_of_dtype_keeps_the_counts() -> None:
    examples = random_examples(seed=8)
    ngrams = make_ngrams(examples)
    expected = make_ngrams(examples).get_extra_state()
    extra_state = ngrams.half().get_extra_state()
    for key, expected_part in expected.items():
        assert torch.equal(extra_state[key], expected_part)


def test_the_state_of_a_large_corpus_is_small() -> None:
    generator = random.Random(0)
    ngrams = LetterNgrams(ASCII_SYMBOLS, 18, 4)
    # Random names have more different grams than real ones.
    alphabet = ASCII_SYMBOLS[:26]
    frequencies = range(26, 0, -1)
    names = ["".join(generator.choices(alphabet, frequencies, k=8)) for _ in range(14_000)]
    letters, lengths = ASCII_ALPHABET.encode(names)
    ngrams.count_all_names(letters, lengths, torch.arange(14_000) % 18)
    file = io.BytesIO()
    torch.save(ngrams.state_dict(), file)
    total = ngrams.get_extra_state()["counts"].sum().item()
    # A name with its marks has 10 symbols, and thus these numbers of grams of 0 to 5 symbols.
    assert total == 14_000 * (9 + 10 + 9 + 8 + 7 + 6)
    assert len(file.getvalue()) < 6 * 2**20


REFUSALS = (ValueError, LookupError, TypeError, AttributeError)
"""Errors that a malformed state may raise. The code that reads checkpoints expects them."""


def replace_parts(state: dict[str, Tensor], **parts: Any) -> dict[str, Any]:
    return state | parts


def test_a_malformed_state_is_refused() -> None:
    ngrams = make_ngrams(random_examples(seed=9))
    state = ngrams.get_extra_state()
    grams, starts, categories, counts = state.values()
    for malformed in (
        None,
        {},
        3,
        [grams, starts, categories, counts],
        {key: part for key, part in state.items() if key != "counts"},
        replace_parts(state, grams=grams.tolist()),
        replace_parts(state, grams=grams.double()),
        replace_parts(state, grams=grams.unsqueeze(1)),
        replace_parts(state, grams=grams[0]),
        replace_parts(state, starts=starts[:0]),
        replace_parts(state, counts=counts.float()),
        replace_parts(state, counts=counts.unsqueeze(1)),
    ):
        with pytest.raises(REFUSALS):
            ngrams.set_extra_state(malformed)
        with pytest.raises(REFUSALS):
            ngrams.load_state_dict(ngrams.state_dict() | {"_extra_state": malformed})
    # These have the right types and shapes, but wrong values.
    for malformed in (
        replace_parts(state, grams=grams[:-1]),
        replace_parts(state, grams=grams - 1),
        replace_parts(state, starts=starts[:-1]),
        replace_parts(state, starts=starts + 1),
        replace_parts(state, starts=starts.flip(0)),
        replace_parts(state, starts=torch.cat((starts[:2], starts[1:].roll(1)))),
        replace_parts(state, counts=counts[1:]),
        replace_parts(state, categories=categories[:1]),
        replace_parts(state, categories=categories - 1),
        replace_parts(state, categories=categories + N_CATEGORIES - 1),
        replace_parts(state, counts=-counts),
        replace_parts(state, counts=counts + 2**31),
    ):
        with pytest.raises(ValueError, match="letter counts: out of range"):
            ngrams.set_extra_state(malformed)
    ngrams.set_extra_state(state)  # The unchanged state is accepted.


def test_a_row_with_more_counts_than_categories_is_refused() -> None:
    """Each look-up of such a row would take as much memory as all counts together."""
    ngrams = make_ngrams(random_examples(seed=9))
    state = ngrams.get_extra_state()
    starts = state["starts"].clone()
    starts[1:] = starts[-1]  # all counts are in the row of the empty gram
    with pytest.raises(ValueError, match="letter counts: out of range"):
        ngrams.set_extra_state(replace_parts(state, starts=starts))


def test_starts_that_overflow_are_refused() -> None:
    """Computed as int32, no row would be longer than the number of categories."""
    table = GramTable(n_symbols=3, n_categories=2**31 - 1)
    tensors = table.get_tensors()
    starts = torch.tensor([0, 2**31 - 1, -2, 0], dtype=torch.int32)
    assert starts.diff().tolist() == [2**31 - 1, 2**31 - 1, 2]
    grams = torch.cat((torch.tensor([0, 1]), tensors["grams"]))
    with pytest.raises(ValueError, match="letter counts: out of range"):
        table.load_tensors(replace_parts(tensors, starts=starts, grams=grams))


def test_alphabet_of_thousands_of_symbols() -> None:
    """With so many, the symbols of a gram do not fit into an integer of 64 bits."""
    characters = "".join(map(chr, range(0x4E00, 0x4E00 + 20_000)))
    generator = random.Random(0)
    examples = []
    for _ in range(50):
        name = "".join(generator.choices(characters, k=4))
        examples.append((name, generator.randrange(N_CATEGORIES)))
    alphabet = Alphabet("corpus", characters)
    ngrams = LetterNgrams(characters, N_CATEGORIES, 6)
    letters, lengths = alphabet.encode([name for name, _ in examples])
    categories = torch.tensor([category for _, category in examples])
    ngrams.count_all_names(letters, lengths, categories)
    assert ngrams(letters, lengths).argmax(1).equal(categories)
    total = ngrams.get_extra_state()["counts"].sum().item()
    # A name with its marks has 5 empty grams and 6 … 1 grams of 1 … 6 symbols.
    assert total == 50 * (5 + 6 + 5 + 4 + 3 + 2 + 1)


def test_a_full_table_keeps_short_and_frequent_grams(monkeypatch: pytest.MonkeyPatch) -> None:
    examples = random_examples(seed=11, n_examples=200)
    ngrams = make_ngrams(examples, order=2)
    full_state = make_ngrams(examples, order=2).get_extra_state()
    short_state = make_ngrams(examples, order=1).get_extra_state()
    n_short_counts = len(short_state["counts"])
    monkeypatch.setattr("src.ngrams.gram_table.MAX_COUNTS", n_short_counts + 50)
    ngrams.count_all_names(*to_tensors(examples))
    state = ngrams.get_extra_state()
    assert 0 < len(state["counts"]) - n_short_counts <= 50
    for key, part in short_state.items():
        n_entries = len(part)
        if key in ("grams", "starts"):
            n_entries -= 1  # The last row is that of unknown grams.
        assert torch.equal(state[key][:n_entries], part[:n_entries])
    n_rows = len(full_state["grams"])
    rows = torch.arange(n_rows).repeat_interleave(full_state["starts"].diff())
    frequencies = torch.zeros(n_rows).index_add(0, rows, full_state["counts"].float())[:-1]
    is_longest = torch.arange(len(frequencies)) >= len(short_state["grams"]) - 1
    is_kept = torch.isin(full_state["grams"][:-1], state["grams"])
    assert frequencies[is_longest & is_kept].min() >= frequencies[is_longest & ~is_kept].max()
    ngrams.set_extra_state(state)
    letters, lengths, _ = to_tensors(examples)
    assert ngrams(letters, lengths).isfinite().all()


def test_a_sparse_table_has_the_same_logits_as_a_dense_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    examples = random_examples(seed=12)
    letters, lengths, categories = to_tensors(examples + [("Zz", 0)])
    left_out = one_category(categories)
    dense = make_ngrams(examples)
    monkeypatch.setattr("src.ngrams.gram_table.MAX_DENSE_CELLS", 0)
    sparse = make_ngrams(examples)
    assert len(dense.table.dense) == len(dense.table.keys)
    assert len(sparse.table.dense) == 0
    assert torch.equal(sparse(letters, lengths), dense(letters, lengths))
    assert torch.equal(sparse(letters, lengths, left_out), dense(letters, lengths, left_out))


def test_gradients_match_finite_differences() -> None:
    examples = random_examples(seed=10, n_examples=20)
    ngrams = make_ngrams(examples).double().requires_grad_()
    letters, lengths, categories = to_tensors(examples)
    name_categories = ngrams.find_all_categories_of_names(letters, lengths, categories)

    def loss(*parameters: Tensor) -> Tensor:
        named = dict(zip(dict(ngrams.named_parameters()), parameters, strict=True))
        arguments = (letters, lengths, name_categories)
        logits = torch.func.functional_call(ngrams, named, arguments)
        return F.cross_entropy(logits, categories)

    assert torch.autograd.gradcheck(loss, tuple(ngrams.parameters()))
    loss(*ngrams.parameters()).backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
    for name, parameter in ngrams.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0, name


def test_a_fitted_model_classifies_new_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.ngrams.letter_ngrams.MAX_BATCH_SIZE", 64)
    monkeypatch.setattr("src.ngrams.letter_ngrams.N_STEPS", 50)
    generator = random.Random(0)
    unique_examples = set()
    for category, category_letters in enumerate(["aeio", "bcdf", "ae' "]):
        for _ in range(60):
            name = "".join(generator.choices(category_letters, k=5))
            unique_examples.add((name, category))
    examples = sorted(unique_examples)
    # Half of the names are trained on, and the rest is classified.
    train_names: dict[str, list[str]] = {"0": [], "1": [], "2": []}
    for name, category in examples[::2]:
        train_names[str(category)].append(name)
    train_dataset = NamesDataset(train_names)
    letters, lengths, categories = to_tensors(examples[1::2])
    ngrams = LetterNgrams(ASCII_SYMBOLS, 3, 4)
    repeated = LetterNgrams(ASCII_SYMBOLS, 3, 4)
    for model in (ngrams, repeated):
        model.count_all_names(*train_dataset.as_one_batch())
    untrained = F.cross_entropy(ngrams(letters, lengths), categories)
    state = torch.get_rng_state()
    for model in (ngrams, repeated):
        model.fit_parameters(train_dataset, [1 / 3] * 3, seed=0)
    # The fit has a random generator of its own, so that it does not change the network's weights.
    assert torch.equal(torch.get_rng_state(), state)
    logits = ngrams(letters, lengths)
    assert F.cross_entropy(logits, categories) < untrained
    assert (logits.argmax(dim=1) == categories).float().mean() > 0.9
    assert torch.equal(logits, repeated(letters, lengths))
    assert not any(parameter.requires_grad for parameter in ngrams.parameters())
