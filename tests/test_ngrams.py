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


def random_name(rng: random.Random) -> str:
    return "".join(rng.choices("abceABO' ", k=rng.randint(1, 9)))


def random_examples(seed: int, n: int = 60) -> Examples:
    """Distinct examples. Some names have several categories, and category 4 has no names."""
    rng = random.Random(seed)
    return sorted({(random_name(rng), rng.randrange(N_CATEGORIES - 1)) for _ in range(n)})


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
    ngrams.count(*to_tensors(examples))
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in ngrams.parameters():
            parameter.add_(torch.randn_like(parameter) / 2)
    return ngrams


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
        return ["^", *normalize(text)[:: 1 - 2 * reading], "$"]

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
                    pooled_counts = sum(
                        (category_followers[context] for category_followers in followers),
                        Counter[str](),
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
    examples = random_examples(seed=order, n=25)
    examples[1] = (examples[0][0], (examples[0][1] + 1) % 4)
    examples[2] = (examples[0][0].lower(), (examples[0][1] + 1) % 4)
    normalize = str if case_sensitive else str.lower
    # A model that ignores case must not count a name twice.
    examples = list({(normalize(name), c): (name, c) for name, c in examples}.values())
    ngrams = make_ngrams(examples, order, case_sensitive=case_sensitive)
    unseen = [("q", 0), ("Zz.,;z", 0), ("aBBa", 0), ("abceABO' abce", 0)]
    letters, lengths, _ = to_tensors(examples[:8] + unseen)
    expected = [
        compute_logits_with_loops(ngrams, examples, name, False, case_sensitive)
        for name, _ in examples[:8] + unseen
    ]
    assert_equal_up_to_rounding(ngrams(letters, lengths), torch.tensor(expected))

    # A name with several categories is left out of all of them.
    name_categories = ngrams.find_all_categories_of_names(*to_tensors(examples))
    expected_categories = [
        {c for other, c in examples if normalize(other) == normalize(name)} for name, _ in examples
    ]
    assert [set(row.nonzero().flatten().tolist()) for row in name_categories] == expected_categories
    assert max(map(len, expected_categories)) == 2
    expected = [
        compute_logits_with_loops(ngrams, examples, name, True, case_sensitive)
        for name, _ in examples[:8]
    ]
    left_out = ngrams(letters[: sum(lengths[:8])], lengths[:8], name_categories[:8])
    assert_equal_up_to_rounding(left_out, torch.tensor(expected))


def test_leaving_a_name_out_equals_not_counting_it() -> None:
    examples = random_examples(seed=1)
    ngrams = make_ngrams(examples)
    ngrams_of_others = make_ngrams(examples)
    letters, lengths, categories = to_tensors(examples)
    left_out = ngrams(letters, lengths, one_category(categories))
    for i, example in enumerate(examples):
        ngrams_of_others.count(*to_tensors([other for other in examples if other != example]))
        expected = ngrams_of_others(*to_tensors([example])[:2])
        assert_equal_up_to_rounding(left_out[i : i + 1], expected)


def test_leaving_out_names_that_were_not_counted_makes_no_count_negative() -> None:
    ngrams = make_ngrams(random_examples(seed=2))
    letters, lengths, _ = to_tensors([("Qqq", 0), ("abba", 0)])
    empty_category = torch.full((2,), N_CATEGORIES - 1)
    left_out = ngrams(letters, lengths, one_category(empty_category))
    assert torch.equal(left_out, ngrams(letters, lengths))


def test_a_batch_has_the_same_logits_as_single_names() -> None:
    examples = [*random_examples(seed=3), ("b", 0), ("ab" * 100, 1), ("Q", 2)]
    ngrams = make_ngrams(examples)
    for leave_one_out in (False, True):

        def logits_of(examples: Examples, leave_one_out: bool = leave_one_out) -> Tensor:
            letters, lengths, categories = to_tensors(examples)
            left_out = one_category(categories) if leave_one_out else None
            logits: Tensor = ngrams(letters, lengths, left_out)
            return logits

        single = torch.cat([logits_of([example]) for example in examples])
        torch.testing.assert_close(logits_of(examples), single, atol=1e-4, rtol=1e-5)
    letters, lengths, categories = to_tensors([])
    logits = ngrams(letters, lengths, one_category(categories.long()))
    assert logits.shape == (0, N_CATEGORIES)


def test_case_is_ignored_unless_the_model_is_case_sensitive() -> None:
    examples = random_examples(seed=4)
    ngrams = make_ngrams(examples)
    lower = make_ngrams([(name.lower(), c) for name, c in examples])
    assert torch.equal(ngrams.table.counts, lower.table.counts)
    upper = to_tensors([(name.upper(), c) for name, c in examples])
    assert torch.equal(ngrams(*upper[:2]), lower(*to_tensors(examples)[:2]))
    case_sensitive = make_ngrams(examples, case_sensitive=True)
    logits = case_sensitive(*to_tensors(examples)[:2])
    assert not torch.allclose(case_sensitive(*upper[:2]), logits)


def test_without_counts_all_categories_have_the_same_logit() -> None:
    ngrams = LetterNgrams(ASCII_SYMBOLS, N_CATEGORIES, 4)
    logits = ngrams(*to_tensors([("Jones", 0), ("a", 0)])[:2])
    n_symbols = torch.tensor([[6.0], [2.0]])  # the letters and one mark, in each reading
    expected = -n_symbols * 2 * 0.4 * math.log(32)
    torch.testing.assert_close(logits, expected.expand(2, N_CATEGORIES))


def test_counting_again_replaces_the_counts() -> None:
    examples = random_examples(seed=5)
    counted_twice = make_ngrams(random_examples(seed=6))
    counted_once = make_ngrams(examples)
    counted_twice.count(*to_tensors(examples))
    names = to_tensors(examples)[:2]
    assert torch.equal(counted_twice(*names), counted_once(*names))


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
    names = to_tensors(examples)[:2]
    assert torch.equal(loaded(*names), ngrams(*names))
    extra_state = loaded.state_dict()["_extra_state"]
    assert all(torch.equal(extra_state[key], part) for key, part in state["_extra_state"].items())


def test_the_keys_of_the_state_dict() -> None:
    """They are the names in checkpoints: if one is renamed, older checkpoints need a conversion."""
    state = make_ngrams(random_examples(seed=7)).state_dict()
    assert list(state) == [
        *("log_beta", "log_delta", "logit_mu", "weight", "bias", "_extra_state"),
    ]
    assert list(state["_extra_state"]) == ["grams", "starts", "categories", "counts"]


def test_a_change_of_dtype_keeps_the_counts() -> None:
    examples = random_examples(seed=8)
    ngrams = make_ngrams(examples)
    expected = make_ngrams(examples).get_extra_state()
    extra_state = ngrams.half().get_extra_state()
    assert all(torch.equal(extra_state[key], part) for key, part in expected.items())


def test_the_state_of_a_large_corpus_is_small() -> None:
    rng = random.Random(0)
    ngrams = LetterNgrams(ASCII_SYMBOLS, 18, 4)
    # Random names have more different grams than real ones.
    alphabet = ASCII_SYMBOLS[:26]
    names = ["".join(rng.choices(alphabet, range(26, 0, -1), k=8)) for _ in range(14_000)]
    letters, lengths = ASCII_ALPHABET.encode(names)
    ngrams.count(letters, lengths, torch.arange(14_000) % 18)
    file = io.BytesIO()
    torch.save(ngrams.state_dict(), file)
    total = ngrams.get_extra_state()["counts"].sum().item()
    assert total == 14_000 * (9 + 10 + 9 + 8 + 7 + 6)  # grams of 0 … 5 of 10 symbols
    assert len(file.getvalue()) < 6 * 2**20


REFUSALS = (ValueError, LookupError, TypeError, AttributeError)
"""Errors that a malformed state may raise. The code that reads checkpoints expects them."""


def replace_parts(state: dict[str, Tensor], **parts: Any) -> dict[str, Any]:
    return {**state, **parts}


def test_a_malformed_state_is_refused() -> None:
    ngrams = make_ngrams(random_examples(seed=9))
    state = ngrams.get_extra_state()
    grams, starts, categories, counts = state.values()
    for malformed in (
        *(None, {}, 3, [grams, starts, categories, counts]),
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
            ngrams.load_state_dict({**ngrams.state_dict(), "_extra_state": malformed})
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
    ngrams.set_extra_state(state)


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
    rng = random.Random(0)
    examples = [
        ("".join(rng.choices(characters, k=4)), rng.randrange(N_CATEGORIES)) for _ in range(50)
    ]
    alphabet = Alphabet("corpus", characters)
    ngrams = LetterNgrams(characters, N_CATEGORIES, 6)
    letters, lengths = alphabet.encode([name for name, _ in examples])
    categories = torch.tensor([category for _, category in examples])
    ngrams.count(letters, lengths, categories)
    assert ngrams(letters, lengths).argmax(1).equal(categories)
    total = ngrams.get_extra_state()["counts"].sum().item()
    # A name with its marks has 5 empty grams and 6 … 1 grams of 1 … 6 symbols.
    assert total == 50 * (5 + 6 + 5 + 4 + 3 + 2 + 1)


def test_a_full_table_keeps_short_and_frequent_grams(monkeypatch: pytest.MonkeyPatch) -> None:
    examples = random_examples(seed=11, n=200)
    ngrams = make_ngrams(examples, order=2)
    full_state = make_ngrams(examples, order=2).get_extra_state()
    short_state = make_ngrams(examples, order=1).get_extra_state()
    n_short_counts = len(short_state["counts"])
    monkeypatch.setattr("src.ngrams.gram_table.MAX_COUNTS", n_short_counts + 50)
    ngrams.count(*to_tensors(examples))
    state = ngrams.get_extra_state()
    assert 0 < len(state["counts"]) - n_short_counts <= 50
    for key, part in short_state.items():
        n = len(part) - (key in ("grams", "starts"))  # without the row of unknown grams
        assert torch.equal(state[key][:n], part[:n])
    n_rows = len(full_state["grams"])
    rows = torch.arange(n_rows).repeat_interleave(full_state["starts"].diff())
    frequencies = torch.zeros(n_rows).index_add(0, rows, full_state["counts"].float())[:-1]
    is_longest = torch.arange(len(frequencies)) >= len(short_state["grams"]) - 1
    is_kept = torch.isin(full_state["grams"][:-1], state["grams"])
    assert frequencies[is_longest & is_kept].min() >= frequencies[is_longest & ~is_kept].max()
    ngrams.set_extra_state(state)
    assert ngrams(*to_tensors(examples)[:2]).isfinite().all()


def test_a_sparse_table_has_the_same_logits_as_a_dense_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    examples = random_examples(seed=12)
    letters, lengths, categories = to_tensors([*examples, ("Zz", 0)])
    left_out = one_category(categories)
    dense = make_ngrams(examples)
    monkeypatch.setattr("src.ngrams.gram_table.MAX_DENSE_CELLS", 0)
    sparse = make_ngrams(examples)
    assert len(dense.table.dense) == len(dense.table.keys)
    assert len(sparse.table.dense) == 0
    assert torch.equal(sparse(letters, lengths), dense(letters, lengths))
    assert torch.equal(sparse(letters, lengths, left_out), dense(letters, lengths, left_out))


def test_gradients_match_finite_differences() -> None:
    examples = random_examples(seed=10, n=20)
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
    rng = random.Random(0)
    category_letters = ["aeio", "bcdf", "ae' "]
    examples = sorted(
        {("".join(rng.choices(category_letters[c], k=5)), c) for c in range(3) for _ in range(60)}
    )
    train_names = {str(c): [name for name, own in examples[::2] if own == c] for c in range(3)}
    train_dataset = NamesDataset(train_names)
    letters, lengths, categories = to_tensors(examples[1::2])
    ngrams = LetterNgrams(ASCII_SYMBOLS, 3, 4)
    repeated = LetterNgrams(ASCII_SYMBOLS, 3, 4)
    for model in (ngrams, repeated):
        model.count(*train_dataset.as_one_batch())
    untrained = F.cross_entropy(ngrams(letters, lengths), categories)
    state = torch.get_rng_state()
    for model in (ngrams, repeated):
        model.fit_parameters(train_dataset, [1 / 3] * 3, seed=0)
    assert torch.equal(torch.get_rng_state(), state)  # the fit has a random generator of its own
    logits = ngrams(letters, lengths)
    assert F.cross_entropy(logits, categories) < untrained
    assert (logits.argmax(dim=1) == categories).float().mean() > 0.9
    assert torch.equal(logits, repeated(letters, lengths))
    assert not any(parameter.requires_grad for parameter in ngrams.parameters())
