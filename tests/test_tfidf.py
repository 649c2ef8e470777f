import io
import math
import random
from collections import Counter
from itertools import chain

import pytest
import torch
import torch.nn.functional as F

from src.data.alphabet import ASCII_ALPHABET
from src.data.dataset import NamesDataset
from src.data.normalize import ASCII_SYMBOLS
from src.ngrams.letter_ngrams import LetterNgrams
from src.ngrams.tfidf import (
    TfidfClassifier,
    choose_schedule,
    pack_term_keys,
    shift_name_index,
    unpack_name_index,
    unpack_term_ids,
)

MAX_LENGTHS = (3, 2)
PRIOR = torch.tensor([0.5, 0.3, 0.2])
CATEGORY_LETTERS = ["aeioAE", "bcdfaB", "xyzeXY"]
Names = dict[str, list[str]]
Term = tuple[int, str]
"""The index of an n-gram model and a gram."""


def random_names(seed: int, n_names: int = 40) -> Names:
    generator = random.Random(seed)
    names: Names = {}
    for category, letters in enumerate(CATEGORY_LETTERS):
        drawn_names = set()
        for _ in range(n_names):
            length = generator.randint(2, 7)
            drawn_names.add("".join(generator.choices(letters, k=length)))
        names[str(category)] = sorted(drawn_names)
    return names


def make_classifier(names: Names, seed: int = 0) -> tuple[TfidfClassifier, list[LetterNgrams]]:
    """Return a classifier that is fitted to names, and the n-gram models that find their grams.

    The first n-gram model ignores case, the second does not.
    """
    dataset = NamesDataset(names)
    models = []
    for case_sensitive in (False, True):
        model = LetterNgrams(ASCII_SYMBOLS, 3, 2, case_sensitive)
        model.count_all_names(*dataset.as_one_batch())
        models.append(model)
    classifier = TfidfClassifier(3, MAX_LENGTHS)
    matches = []
    # Several batches show that the terms of all of them are counted.
    for start in range(0, len(dataset), 50):
        end = min(start + 50, len(dataset))
        batch = dataset.batch(range(start, end))
        matches.append([model.match_grams(batch.letters, batch.lengths) for model in models])
    classifier.fit(iter(matches), dataset.targets, PRIOR, seed)
    return classifier, models


def compute_logits(
    classifier: TfidfClassifier, models: list[LetterNgrams], names: list[str]
) -> torch.Tensor:
    letters, lengths = ASCII_ALPHABET.encode(names)
    logits: torch.Tensor = classifier([model.match_grams(letters, lengths) for model in models])
    return logits


def count_terms(name: str) -> Counter[Term]:
    """Return how often `^name$` contains each term, by the definition of terms."""
    counts: Counter[Term] = Counter()
    texts = (f"^{name.lower()}$", f"^{name}$")  # The first model ignores case.
    for model, text in enumerate(texts):
        for length in range(1, MAX_LENGTHS[model] + 1):
            for start in range(len(text) - length + 1):
                gram = text[start : start + length]
                # Every name has both marks, so they say nothing about its category.
                if gram not in ("^", "$"):
                    counts[model, gram] += 1
    return counts


def test_logits_are_linear_in_the_tf_idf_of_the_terms() -> None:
    names = random_names(seed=0)
    classifier, models = make_classifier(names)
    all_names = list(chain.from_iterable(names.values()))
    document_frequency: Counter[Term] = Counter()
    for name in all_names:
        document_frequency.update(set(count_terms(name)))
    # Terms of a single name are not in the vocabulary.
    vocabulary = {term for term, n_names in document_frequency.items() if n_names > 1}
    assert len(classifier.term_ids) == len(vocabulary) + 1  # and END_OF_VOCABULARY

    def tf_idf(name: str) -> dict[Term, float]:
        values = {}
        for term, count in count_terms(name).items():
            if term in vocabulary:
                # The formulas are those of scikit-learn with `smooth_idf` and `sublinear_tf`.
                idf = 1 + math.log((1 + len(all_names)) / (1 + document_frequency[term]))
                values[term] = (1 + math.log(count)) * idf
        norm = math.sqrt(sum(value**2 for value in values.values()))
        return {term: value / norm for term, value in values.items()}

    # If the logits are linear in the features, the weights solve these linear equations exactly.
    columns = {term: i for i, term in enumerate(sorted(vocabulary))}
    matrix = torch.zeros(len(all_names), len(columns), dtype=torch.double)
    for i, name in enumerate(all_names):
        for term, value in tf_idf(name).items():
            matrix[i, columns[term]] = value
    logits = (compute_logits(classifier, models, all_names) - classifier.bias).double()
    weights = torch.linalg.lstsq(matrix, logits, driver="gelsd").solution
    torch.testing.assert_close(matrix @ weights, logits, atol=1e-5, rtol=0)
    # No name has the letter q, so only the bias is left.
    without_terms = compute_logits(classifier, models, ["qq"])
    torch.testing.assert_close(without_terms, classifier.bias.unsqueeze(0))


def test_a_fitted_classifier_classifies_new_names() -> None:
    names = random_names(seed=1)
    other_names = random_names(seed=2)
    state = torch.get_rng_state()
    classifier, models = make_classifier(names)
    repeated, _ = make_classifier(names)
    # The fit has a random generator of its own, so that it does not change the network's weights.
    assert torch.equal(torch.get_rng_state(), state)
    new_names = []
    categories = []
    for category, category_names in other_names.items():
        for name in category_names:
            if name not in names[category]:
                new_names.append(name)
                categories.append(int(category))
    logits = compute_logits(classifier, models, new_names)
    targets = torch.tensor(categories)
    assert (logits.argmax(1) == targets).float().mean() > 0.9
    assert torch.equal(logits, compute_logits(repeated, models, new_names))
    assert F.cross_entropy(logits + PRIOR.log(), targets) < 0.5


def test_scaling_the_weights_increases_the_regularized_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without dropout and in full batches, training ends near the minimum of the convex loss."""
    monkeypatch.setattr("src.ngrams.tfidf.DROPOUT", 0)
    names = random_names(seed=3)
    classifier, models = make_classifier(names)
    all_names = list(chain.from_iterable(names.values()))
    targets = NamesDataset(names).targets
    weight = classifier.weight.float()
    letters, lengths = ASCII_ALPHABET.encode(all_names)
    matches = [model.match_grams(letters, lengths) for model in models]
    terms = classifier._count_candidates(matches)
    features = classifier._compute_features(terms, len(all_names))

    def loss(scale: float) -> float:
        logits = F.embedding_bag(
            features.columns,
            weight * scale,
            features.row_starts[:-1],
            mode="sum",
            per_sample_weights=features.values,
        )
        # This is the penalty of scikit-learn's LogisticRegression(C=10), per name.
        penalty = (weight * scale).square().sum() / (2 * 10 * len(all_names))
        cross_entropy = F.cross_entropy(logits + classifier.bias + PRIOR.log(), targets)
        return float(cross_entropy + penalty)

    assert loss(1) < min(loss(0.8), loss(1.2)) < loss(0)


def test_a_limited_vocabulary_keeps_the_most_frequent_terms(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    full, _ = make_classifier(random_names(seed=4))
    monkeypatch.setattr("src.ngrams.tfidf.MAX_WEIGHTS", 3 * 20)
    # Each of the 20 terms has a weight for each of the 3 categories.
    limited, models = make_classifier(random_names(seed=4))
    assert len(limited.term_ids) == 20 + 1  # The additional one is END_OF_VOCABULARY.
    assert torch.isin(limited.term_ids, full.term_ids).all()
    is_kept = torch.isin(full.term_ids, limited.term_ids)[:-1]
    assert full.idf[:-1][is_kept].max() <= full.idf[:-1][~is_kept].min()
    assert compute_logits(limited, models, ["abc"]).isfinite().all()


def test_a_loaded_classifier_is_equal_bit_for_bit() -> None:
    classifier, models = make_classifier(random_names(seed=5))
    file = io.BytesIO()
    torch.save(classifier.state_dict(), file)
    # The tensors of a checkpoint replace those on the meta device, which have no memory.
    with torch.device("meta"):
        loaded = TfidfClassifier(3, MAX_LENGTHS)
    loaded.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True), assign=True)
    names = ["aeb", "Xyz", "q"]
    expected = compute_logits(classifier, models, names)
    assert torch.equal(compute_logits(loaded, models, names), expected)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("grams", torch.zeros(3), "grams: wrong shape or dtype"),
        ("grams", torch.zeros(3, 3).long(), "grams: wrong shape or dtype"),
        ("idf", torch.zeros(2), "grams, idf and weight: different lengths"),
        ("weight", torch.zeros(3, 2).half(), "weight: wrong shape or dtype"),
        ("weight", torch.zeros(4, 3).half(), "grams, idf and weight: different lengths"),
    ],
)
def test_a_malformed_state_is_refused(key: str, value: torch.Tensor, message: str) -> None:
    classifier = TfidfClassifier(3, MAX_LENGTHS)
    state = {"grams": torch.arange(3), "idf": torch.ones(3), "weight": torch.zeros(3, 3).half()}
    classifier.set_extra_state(state)
    with pytest.raises(ValueError, match=message):
        classifier.set_extra_state(state | {key: value})


def test_the_keys_of_the_state_dict() -> None:
    """They are the names in checkpoints: if one is renamed, older checkpoints need a conversion."""
    state = TfidfClassifier(3, MAX_LENGTHS).state_dict()
    assert list(state) == ["bias", "_extra_state"]
    assert list(state["_extra_state"]) == ["grams", "idf", "weight"]


def test_a_state_of_another_precision_is_converted() -> None:
    classifier, _ = make_classifier(random_names(seed=6))
    loaded = TfidfClassifier(3, MAX_LENGTHS)
    loaded.load_state_dict(classifier.double().state_dict())
    assert loaded.weight.dtype == torch.float16
    assert torch.equal(loaded.weight, classifier.half().weight)


def test_packing_and_unpacking_of_keys() -> None:
    # The largest index and row show that the bit fields do not overlap.
    name_index = torch.tensor([0, 1, 2**28])
    rows = torch.tensor([[0, 5, 2**32 - 1], [7, 0, 1]])
    keys = pack_term_keys(name_index, model_index=1, rows=rows)
    assert torch.equal(unpack_name_index(keys), name_index.expand(2, 3))
    assert torch.equal(unpack_term_ids(keys), 2**32 + rows)
    shifted = shift_name_index(keys, 1000)
    assert torch.equal(unpack_name_index(shifted), (name_index + 1000).expand(2, 3))
    assert torch.equal(unpack_term_ids(shifted), 2**32 + rows)


@pytest.mark.parametrize(
    ("n_names", "n_steps", "batch_size"),
    [
        (10, 400, 256),  # more than 12 epochs
        (25_600, 1200, 256),  # 12 epochs
        (128_000, 2000, 768),  # 12 epochs of larger batches
        (10**6, 2000, 1024),  # less than 12 epochs
    ],
)
def test_steps_and_batch_size(n_names: int, n_steps: int, batch_size: int) -> None:
    assert choose_schedule(n_names) == (n_steps, batch_size)
