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
from src.ngrams.letter_ngrams import LetterNgrams

C = 5
Pairs = list[tuple[str, int]]


def random_name(rng: random.Random) -> str:
    return "".join(rng.choices("abceABO' ", k=rng.randint(1, 9)))


def random_pairs(seed: int, n: int = 60) -> Pairs:
    """Distinct names and categories; some names in several, category 4 without names."""
    rng = random.Random(seed)
    return sorted({(random_name(rng), rng.randrange(C - 1)) for _ in range(n)})


def tensors(pairs: Pairs) -> tuple[Tensor, Tensor, Tensor]:
    letters, lengths = ASCII_ALPHABET.encode([name for name, _ in pairs])
    return letters, lengths, torch.tensor([category for _, category in pairs])


def only(categories: Tensor) -> Tensor:
    """One category of each name, as `leave_out` has it."""
    return F.one_hot(categories, C).bool()


def make_ngrams(pairs: Pairs, order: int = 4, seed: int = 0, cased: bool = False) -> LetterNgrams:
    """A model that counted `pairs`, every parameter somewhere around where it starts."""
    ngrams = LetterNgrams(ASCII_SYMBOLS, C, order, cased)
    ngrams.count(*tensors(pairs))
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in ngrams.parameters():
            parameter.add_(torch.randn_like(parameter) / 2)
    return ngrams


def by_loops(
    ngrams: LetterNgrams, pairs: Pairs, name: str, leave_out: bool, cased: bool = False
) -> list[float]:
    """The logits of one name by the definition: a dictionary of what follows what, and loops."""

    def read(text: str) -> str:
        return text if cased else text.lower()

    def spell(text: str, reading: int) -> list[str]:
        return ["^", *read(text)[:: 1 - 2 * reading], "$"]

    def value(parameter: Tensor, *index: int) -> float:
        return parameter.double()[index].item()

    logits = []
    for c in range(C):
        logit = value(ngrams.bias, c)
        for reading in range(2):
            followers: list[dict[str, Counter[str]]] = [defaultdict(Counter) for _ in range(C)]
            for text, category in pairs:
                if leave_out and read(text) == read(name):
                    continue
                symbols = spell(text, reading)
                for t in range(1, len(symbols)):
                    for k in range(min(ngrams.order, t) + 1):
                        context = "".join(symbols[t - k : t])
                        followers[category][context][symbols[t]] += 1
            symbols = spell(name, reading)
            for t in range(1, len(symbols)):
                p = q = 1 / (len(set(map(read, ASCII_SYMBOLS))) + 1)
                for k in range(min(ngrams.order, t) + 1):
                    context = "".join(symbols[t - k : t])
                    here = followers[c][context]
                    everywhere = sum((each[context] for each in followers), Counter[str]())
                    own = math.exp(value(ngrams.log_strength, reading, k, 0, c))
                    pooled = math.exp(value(ngrams.log_pooled_strength, reading, k, 0, 0))
                    share = 1 / (1 + math.exp(-value(ngrams.own_share, reading, k, 0, c)))
                    q = (everywhere[symbols[t]] + pooled * q) / (everywhere.total() + pooled)
                    leaned_on = share * p + (1 - share) * q
                    p = (here[symbols[t]] + own * leaned_on) / (here.total() + own)
                logit += value(ngrams.weight, reading, 0, c) * math.log(p)
        logits.append(logit)
    return logits


def assert_same_but_for_rounding(logits: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(logits, expected.to(logits), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cased", [False, True])
@pytest.mark.parametrize("order", [0, 1, 4, 6])
def test_the_logits_by_their_definition(order: int, cased: bool) -> None:
    pairs = random_pairs(seed=order, n=25)
    pairs[1] = (pairs[0][0], (pairs[0][1] + 1) % 4)
    pairs[2] = (pairs[0][0].lower(), (pairs[0][1] + 1) % 4)
    read = str if cased else str.lower
    pairs = list({(read(name), c): (name, c) for name, c in pairs}.values())  # none twice
    ngrams = make_ngrams(pairs, order, cased=cased)
    unseen = [("q", 0), ("Zz.,;z", 0), ("aBBa", 0), ("abceABO' abce", 0)]
    letters, lengths, _ = tensors(pairs[:8] + unseen)
    expected = [by_loops(ngrams, pairs, name, False, cased) for name, _ in pairs[:8] + unseen]
    assert_same_but_for_rounding(ngrams(letters, lengths), torch.tensor(expected))

    owners = ngrams._owners(*tensors(pairs))  # a name of several categories is left out of all
    of = [{c for name, c in pairs if read(name) == read(each)} for each, _ in pairs]
    assert [set(row.nonzero().flatten().tolist()) for row in owners] == of
    assert max(map(len, of)) == 2
    expected = [by_loops(ngrams, pairs, name, True, cased) for name, _ in pairs[:8]]
    left_out = ngrams(letters[: sum(lengths[:8])], lengths[:8], owners[:8])
    assert_same_but_for_rounding(left_out, torch.tensor(expected))


def test_leaving_out_is_not_having_counted() -> None:
    pairs = random_pairs(seed=1)
    ngrams, other = make_ngrams(pairs), make_ngrams(pairs)
    letters, lengths, categories = tensors(pairs)
    left_out = ngrams(letters, lengths, only(categories))
    for i, pair in enumerate(pairs):
        other.count(*tensors([each for each in pairs if each != pair]))
        assert_same_but_for_rounding(left_out[i : i + 1], other(*tensors([pair])[:2]))


def test_leaving_out_what_was_never_counted_changes_nothing_below_zero() -> None:
    ngrams = make_ngrams(random_pairs(seed=2))
    letters, lengths, _ = tensors([("Qqq", 0), ("abba", 0)])
    none_there = torch.full((2,), C - 1)  # the category without names
    assert torch.equal(ngrams(letters, lengths, only(none_there)), ngrams(letters, lengths))


def test_a_batch_is_the_names_one_by_one() -> None:
    pairs = [*random_pairs(seed=3), ("b", 0), ("ab" * 100, 1), ("Q", 2)]
    ngrams = make_ngrams(pairs)
    for leave_out in (False, True):

        def ask(pairs: Pairs, leave_out: bool = leave_out) -> Tensor:
            letters, lengths, categories = tensors(pairs)
            logits: Tensor = ngrams(letters, lengths, only(categories) if leave_out else None)
            return logits

        one_by_one = torch.cat([ask([pair]) for pair in pairs])
        torch.testing.assert_close(ask(pairs), one_by_one, atol=1e-4, rtol=1e-5)
    letters, lengths, categories = tensors([])
    assert ngrams(letters, lengths, only(categories.long())).shape == (0, C)


def test_case_is_ignored_unless_it_counts() -> None:
    pairs = random_pairs(seed=4)
    ngrams, lower = make_ngrams(pairs), make_ngrams([(name.lower(), c) for name, c in pairs])
    assert torch.equal(ngrams.counts, lower.counts)
    upper = tensors([(name.upper(), c) for name, c in pairs])
    assert torch.equal(ngrams(*upper[:2]), lower(*tensors(pairs)[:2]))
    cased = make_ngrams(pairs, cased=True)
    assert not torch.allclose(cased(*upper[:2]), cased(*tensors(pairs)[:2]))


def test_without_counts_every_category_is_alike() -> None:
    ngrams = LetterNgrams(ASCII_SYMBOLS, C, 4)
    logits = ngrams(*tensors([("Jones", 0), ("a", 0)])[:2])
    n_symbols = torch.tensor([[6.0], [2.0]])  # each letter and a mark, forward and backward
    expected = -n_symbols * 2 * 0.4 * math.log(32)
    torch.testing.assert_close(logits, expected.expand(2, C))


def test_counting_again_replaces_the_counts() -> None:
    pairs = random_pairs(seed=5)
    again, once = make_ngrams(random_pairs(seed=6)), make_ngrams(pairs)
    again.count(*tensors(pairs))
    assert torch.equal(again(*tensors(pairs)[:2]), once(*tensors(pairs)[:2]))


@pytest.mark.parametrize("on_meta", [False, True])
def test_a_saved_model_is_the_same_bit_for_bit(on_meta: bool) -> None:
    pairs = random_pairs(seed=7)
    ngrams = make_ngrams(pairs)
    file = io.BytesIO()
    torch.save(ngrams.state_dict(), file)
    state = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    with torch.device("meta" if on_meta else "cpu"):
        loaded = LetterNgrams(ASCII_SYMBOLS, C, 4)
    loaded.load_state_dict(state, strict=True, assign=on_meta)
    for one, other in zip(ngrams.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(loaded(*tensors(pairs)[:2]), ngrams(*tensors(pairs)[:2]))
    again = loaded.state_dict()["_extra_state"]
    assert all(torch.equal(again[key], part) for key, part in state["_extra_state"].items())


def test_a_change_of_dtype_keeps_the_counts() -> None:
    pairs = random_pairs(seed=8)
    ngrams, before = make_ngrams(pairs), make_ngrams(pairs).get_extra_state()
    after = ngrams.half().get_extra_state()
    assert all(torch.equal(after[key], part) for key, part in before.items())


def test_the_state_of_a_large_corpus_is_small() -> None:
    rng = random.Random(0)
    ngrams = LetterNgrams(ASCII_SYMBOLS, 18, 4)
    abc = ASCII_SYMBOLS[:26]
    names = ["".join(rng.choices(abc, range(26, 0, -1), k=8)) for _ in range(14_000)]
    letters, lengths = ASCII_ALPHABET.encode(
        names
    )  # random: more distinct grams than in real names
    ngrams.count(letters, lengths, torch.arange(14_000) % 18)
    file = io.BytesIO()
    torch.save(ngrams.state_dict(), file)
    total = ngrams.get_extra_state()["counts"].sum().item()
    assert total == 14_000 * (9 + 10 + 9 + 8 + 7 + 6)  # grams of 0 … 5 of 10 symbols
    assert len(file.getvalue()) < 6 * 2**20


REFUSALS = (ValueError, LookupError, TypeError, AttributeError)
"""What is raised at a state that is none; whoever reads a checkpoint expects them."""


def damaged(state: dict[str, Tensor], **parts: Any) -> dict[str, Any]:
    return {**state, **parts}


def test_a_malformed_state_is_refused() -> None:
    ngrams = make_ngrams(random_pairs(seed=9))
    state = ngrams.get_extra_state()
    grams, starts, categories, counts = state.values()
    for wrong in (
        *(None, {}, 3, [grams, starts, categories, counts]),
        {key: part for key, part in state.items() if key != "counts"},
        damaged(state, grams=grams.tolist()),
        damaged(state, grams=grams.double()),
        damaged(state, grams=grams.unsqueeze(1)),
        damaged(state, grams=grams[0]),
        damaged(state, starts=starts[:0]),
        damaged(state, counts=counts.float()),
        damaged(state, counts=counts.unsqueeze(1)),
    ):
        with pytest.raises(REFUSALS):
            ngrams.set_extra_state(wrong)
        with pytest.raises(REFUSALS):
            ngrams.load_state_dict({**ngrams.state_dict(), "_extra_state": wrong})
    for wrong in (
        damaged(state, grams=grams[:-1]),
        damaged(state, grams=grams - 1),
        damaged(state, starts=starts[:-1]),
        damaged(state, starts=starts + 1),
        damaged(state, starts=starts.flip(0)),
        damaged(state, starts=torch.cat((starts[:2], starts[1:].roll(1)))),
        damaged(state, counts=counts[1:]),
        damaged(state, categories=categories[:1]),
        damaged(state, categories=categories - 1),
        damaged(state, categories=categories + C - 1),
        damaged(state, counts=-counts),
        damaged(state, counts=counts + 2**31),
    ):
        with pytest.raises(ValueError, match="letter counts: out of range"):
            ngrams.set_extra_state(wrong)
    ngrams.set_extra_state(state)


def test_thousands_of_symbols() -> None:
    """As many as make a gram's symbols, read as one number, too large for 64 bits."""
    alphabet = "".join(map(chr, range(0x4E00, 0x4E00 + 20_000)))
    rng = random.Random(0)
    pairs = [("".join(rng.choices(alphabet, k=4)), rng.randrange(C)) for _ in range(50)]
    letters = Alphabet("corpus", alphabet)
    ngrams = LetterNgrams(alphabet, C, 6)
    categories = torch.tensor([category for _, category in pairs])
    ngrams.count(*letters.encode([name for name, _ in pairs]), categories)
    assert ngrams(*letters.encode([name for name, _ in pairs])).argmax(1).equal(categories)
    total = ngrams.get_extra_state()["counts"].sum().item()
    assert total == 50 * (5 + 6 + 5 + 4 + 3 + 2 + 1)  # grams of 0 … 6 of 6 symbols, and none of 7


def test_of_too_many_counts_those_of_short_and_common_grams_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pairs = random_pairs(seed=11, n=200)
    ngrams, everything = make_ngrams(pairs, order=2), make_ngrams(pairs, order=2)
    whole = everything.get_extra_state()
    shorter = make_ngrams(pairs, order=1).get_extra_state()
    monkeypatch.setattr("src.ngrams.letter_ngrams.MOST_COUNTS", len(shorter["counts"]) + 50)
    ngrams.count(*tensors(pairs))
    kept = ngrams.get_extra_state()
    assert 0 < len(kept["counts"]) - len(shorter["counts"]) <= 50
    for key, part in shorter.items():
        n = len(part) - (key in ("grams", "starts"))  # of what is not known, behind all others
        assert torch.equal(kept[key][:n], part[:n])
    rows = torch.arange(len(whole["grams"])).repeat_interleave(whole["starts"].diff())
    often = torch.zeros(len(whole["grams"])).index_add(0, rows, whole["counts"].float())[:-1]
    longest = torch.arange(len(often)) >= len(shorter["grams"]) - 1
    there = torch.isin(whole["grams"][:-1], kept["grams"])
    assert often[longest & there].min() >= often[longest & ~there].max()
    ngrams.set_extra_state(kept)
    assert ngrams(*tensors(pairs)[:2]).isfinite().all()


def test_gradients_are_the_differences_of_the_loss() -> None:
    pairs = random_pairs(seed=10, n=20)
    ngrams = make_ngrams(pairs).double().requires_grad_()
    letters, lengths, categories = tensors(pairs)
    owners = ngrams._owners(letters, lengths, categories)

    def loss(*parameters: Tensor) -> Tensor:
        named = dict(zip(dict(ngrams.named_parameters()), parameters, strict=True))
        logits = torch.func.functional_call(ngrams, named, (letters, lengths, owners))
        return F.cross_entropy(logits, categories)

    assert torch.autograd.gradcheck(loss, tuple(ngrams.parameters()))
    loss(*ngrams.parameters()).backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
    for name, parameter in ngrams.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0, name


def test_fitted_to_names_it_knows_others_of_their_categories(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("src.ngrams.letter_ngrams.NAMES", 64)
    monkeypatch.setattr("src.ngrams.letter_ngrams.STEPS", 50)
    rng = random.Random(0)
    kinds = ["aeio", "bcdf", "ae' "]
    pairs = sorted({("".join(rng.choices(kinds[c], k=5)), c) for c in (0, 1, 2) for _ in range(60)})
    known = NamesDataset({str(c): [name for name, of in pairs[::2] if of == c] for c in range(3)})
    letters, lengths, categories = tensors(pairs[1::2])
    ngrams, again = LetterNgrams(ASCII_SYMBOLS, 3, 4), LetterNgrams(ASCII_SYMBOLS, 3, 4)
    for each in (ngrams, again):
        each.count(*known.batch(range(len(known))))
    untrained = F.cross_entropy(ngrams(letters, lengths), categories)
    state = torch.get_rng_state()
    for each in (ngrams, again):
        each.fit(known, [1 / 3] * 3, seed=0)
    assert torch.equal(torch.get_rng_state(), state)  # its generator is its own
    logits = ngrams(letters, lengths)
    assert F.cross_entropy(logits, categories) < untrained
    assert (logits.argmax(dim=1) == categories).float().mean() > 0.9
    assert torch.equal(logits, again(letters, lengths))
    assert not any(parameter.requires_grad for parameter in ngrams.parameters())
