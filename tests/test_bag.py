import io
import math
import random
from collections import Counter

import pytest
import torch
import torch.nn.functional as F

from src.data.alphabet import ASCII_ALPHABET
from src.data.dataset import NamesDataset
from src.data.normalize import ASCII_SYMBOLS
from src.ngrams.letter_ngrams import LetterNgrams
from src.ngrams.tfidf import BagOfGrams

LONGEST = (3, 2)
SHARES = torch.tensor([0.5, 0.3, 0.2])
KINDS = ["aeioAE", "bcdfaB", "xyzeXY"]


def some_names(seed: int, n: int = 40) -> dict[str, list[str]]:
    rng = random.Random(seed)

    def name(kind: str) -> str:
        return "".join(rng.choices(kind, k=rng.randint(2, 7)))

    return {str(c): sorted({name(kind) for _ in range(n)}) for c, kind in enumerate(KINDS)}


def make(names: dict[str, list[str]], seed: int = 0) -> tuple[BagOfGrams, list[LetterNgrams]]:
    """A bag fitted to names, and the models that find their grams: in lower case, and as it is."""
    known = NamesDataset(names)
    models = [LetterNgrams(ASCII_SYMBOLS, 3, 2, cased) for cased in (False, True)]
    for model in models:
        model.count(*known.batch(range(len(known))))
    bag = BagOfGrams(3, LONGEST)
    parts = [range(i, min(i + 50, len(known))) for i in range(0, len(known), 50)]
    blocks = map(known.batch, parts)
    found = ([m.find(batch.letters, batch.lengths) for m in models] for batch in blocks)
    bag.fit(found, known.targets, SHARES, seed)
    return bag, models


def ask(bag: BagOfGrams, models: list[LetterNgrams], names: list[str]) -> torch.Tensor:
    letters, lengths = ASCII_ALPHABET.encode(names)
    logits: torch.Tensor = bag([model.find(letters, lengths) for model in models], len(names))
    return logits


def grams_of(name: str) -> Counter[tuple[int, str]]:
    """The runs of letters of `^name$`, by their definition."""
    grams: Counter[tuple[int, str]] = Counter()
    for model, (text, longest) in enumerate(zip((name.lower(), name), LONGEST, strict=True)):
        marked = f"^{text}$"
        for k in range(1, longest + 1):
            runs = (marked[i : i + k] for i in range(len(marked) - k + 1))
            grams.update((model, run) for run in runs if run not in ("^", "$"))
    return grams


def test_a_bag_by_its_definition() -> None:
    names = some_names(seed=0)
    bag, models = make(names)
    everything = [name for each in names.values() for name in each]
    n_with = Counter(gram for name in everything for gram in set(grams_of(name)))
    known = {gram for gram, n in n_with.items() if n > 1}
    assert len(bag.grams) == len(known) + 1  # and nothing, at the end

    def x(name: str) -> dict[tuple[int, str], float]:
        grams = {gram: n for gram, n in grams_of(name).items() if gram in known}
        raw = {
            gram: (1 + math.log(n)) * (1 + math.log((1 + len(everything)) / (1 + n_with[gram])))
            for gram, n in grams.items()
        }
        norm = math.sqrt(sum(value**2 for value in raw.values()))
        return {gram: value / norm for gram, value in raw.items()}

    # A name alone tells its own grams' weights: solve for them, then predict other names.
    rows: dict[tuple[int, str], int] = {gram: i for i, gram in enumerate(sorted(known))}
    matrix = torch.zeros(len(everything), len(rows), dtype=torch.double)
    for i, name in enumerate(everything):
        for gram, value in x(name).items():
            matrix[i, rows[gram]] = value
    logits = (ask(bag, models, everything) - bag.bias).double()
    weights = torch.linalg.lstsq(matrix, logits, driver="gelsd").solution
    torch.testing.assert_close(matrix @ weights, logits, atol=1e-5, rtol=0)
    nothing = ask(bag, models, ["qq"])
    torch.testing.assert_close(nothing, bag.bias.unsqueeze(0))


def test_fitted_to_names_it_knows_others_of_their_categories() -> None:
    names, others = some_names(seed=1), some_names(seed=2)
    state = torch.get_rng_state()
    (bag, models), (again, _) = make(names), make(names)
    assert torch.equal(torch.get_rng_state(), state)  # its generator is its own
    unseen = [(n, int(c)) for c in others for n in others[c] if n not in names[c]]
    logits = ask(bag, models, [name for name, _ in unseen])
    targets = torch.tensor([c for _, c in unseen])
    assert (logits.argmax(1) == targets).float().mean() > 0.9
    assert torch.equal(logits, ask(again, models, [name for name, _ in unseen]))
    assert F.cross_entropy(logits + SHARES.log(), targets) < 0.5


def test_longer_or_shorter_weights_have_a_higher_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without dropout and in whole passes, training ends near the minimum of the convex loss."""
    monkeypatch.setattr("src.ngrams.tfidf.DROPOUT", 0)
    names = some_names(seed=3)
    bag, models = make(names)
    everything = [name for each in names.values() for name in each]
    targets = NamesDataset(names).targets
    weight = bag.weight.float()
    letters, lengths = ASCII_ALPHABET.encode(everything)
    found = [model.find(letters, lengths) for model in models]
    index, x, begins = bag._weigh(*bag._grams_of(found), len(everything))

    def loss(scale: float) -> float:
        sums = F.embedding_bag(index, weight * scale, begins[:-1], mode="sum", per_sample_weights=x)
        regular = (weight * scale).square().sum() / (2 * 10 * len(everything))
        return float(F.cross_entropy(sums + bag.bias + SHARES.log(), targets) + regular)

    assert loss(1) < min(loss(0.8), loss(1.2)) < loss(0)


def test_of_too_many_weights_those_of_common_grams_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, _ = make(some_names(seed=4))
    monkeypatch.setattr("src.ngrams.tfidf.MOST_WEIGHTS", 3 * 20)
    bag, models = make(some_names(seed=4))
    assert len(bag.grams) == 20 + 1
    assert torch.isin(bag.grams, whole.grams).all()
    kept = torch.isin(whole.grams, bag.grams)
    assert whole.idf[:-1][kept[:-1]].max() <= whole.idf[:-1][~kept[:-1]].min()
    assert ask(bag, models, ["abc"]).isfinite().all()


def test_a_saved_bag_is_the_same_bit_for_bit() -> None:
    bag, models = make(some_names(seed=5))
    file = io.BytesIO()
    torch.save(bag.state_dict(), file)
    with torch.device("meta"):
        loaded = BagOfGrams(3, LONGEST)
    loaded.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True), assign=True)
    names = ["aeb", "Xyz", "q"]
    assert torch.equal(ask(loaded, models, names), ask(bag, models, names))


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("grams", torch.zeros(3), "grams: no such table"),
        ("grams", torch.zeros(3, 3).long(), "grams: no such table"),
        ("idf", torch.zeros(2), "weights of grams: tables of several lengths"),
        ("weight", torch.zeros(3, 2).half(), "weight: no such table"),
        ("weight", torch.zeros(4, 3).half(), "weights of grams: tables of several lengths"),
    ],
)
def test_a_malformed_state_is_refused(key: str, value: torch.Tensor, why: str) -> None:
    bag = BagOfGrams(3, LONGEST)
    state = {"grams": torch.arange(3), "idf": torch.ones(3), "weight": torch.zeros(3, 3).half()}
    bag.set_extra_state(state)
    with pytest.raises(ValueError, match=why):
        bag.set_extra_state({**state, key: value})


def test_a_bag_of_another_precision_is_read() -> None:
    bag, _ = make(some_names(seed=6))
    wide = BagOfGrams(3, LONGEST)
    wide.load_state_dict(bag.double().state_dict())
    assert wide.weight.dtype == torch.float16
    assert torch.equal(wide.weight, bag.half().weight)
