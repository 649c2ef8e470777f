"""Finds labels that are improbable according to letter n-gram models.

The models are counted on the names that are audited. When a name is scored, it is left out of the
counts of its own categories, because a model that has seen a name with a wrong label would believe
it.

Shapes: B names in a batch, C categories, M pairs of a name and a category in the batch.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from src.audit.corpus import AuditedCorpus
from src.audit.report import DoubtedLabel, Finding, Severity, make_finding
from src.data.batch import size_limited_batches
from src.ngrams.letter_ngrams import LetterNgrams

MIN_PROBABILITY = 0.03
"""Labels with a lower probability are doubted."""
MAX_DOUBTED_EXAMPLES = 20
"""Maximum number of examples of doubted labels, each of which has to be looked at."""
CONTEXT_LENGTH = 2
"""Number of letters from which the n-gram models predict a letter."""
# Fitting β and μ would take most of the time of an audit. These values were chosen with
# benchmarks/planted.py.
BETA = 24.0
"""Parameter β of the n-gram models: the weight of the estimate from a shorter context, as a number
of observations; see src/ngrams/letter_ngrams.py."""
MU = 0.98
"""Parameter μ of the n-gram models: the share of the category's own prediction in this estimate.
The rest is the prediction for all categories together."""
MAX_SCORES_PER_BATCH = 2**16
"""Maximum number of letters × categories in a batch. The tensors of larger batches would not fit
into the cache of a core. With several threads, the allocator would also return their memory to the
system each time."""


class ScoredLabel(NamedTuple):
    """A doubted label with its margin, by which doubted labels are sorted."""

    margin: float
    """Log-score of the label minus that of the guess."""
    label: DoubtedLabel


def find_improbable_labels(corpus: AuditedCorpus) -> list[DoubtedLabel]:
    """Return the labels with a probability below `MIN_PROBABILITY`, the least probable first.

    If a name has several categories, each of them is compared only with the categories that the
    name does not have.
    """
    names = corpus.categories_by_name
    if not names:  # a sample can be empty
        return []
    model = build_ngram_models(corpus)
    # Each core scores one batch after another.
    max_letters = MAX_SCORES_PER_BATCH // len(corpus.categories)
    batches = size_limited_batches(
        names, length_of=len, max_items=len(names), max_letters=max_letters
    )
    find_in_batch = partial(find_improbable_labels_in_batch, corpus, model)
    scored_labels: list[ScoredLabel] = []
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        for batch_labels in pool.map(find_in_batch, batches):
            scored_labels += batch_labels
    finally:
        pool.shutdown(cancel_futures=True)  # on Ctrl-C, the other batches are not scored
    scored_labels.sort(key=lambda item: item.margin)
    return [item.label for item in scored_labels]


def make_doubted_labels_finding(doubted: list[DoubtedLabel]) -> Finding:
    """Return the finding that reports doubted labels."""
    examples = []
    for label in doubted:
        prediction = f"predicted {label.guess} ({label.probability:.2f})"
        examples.append(f"{label.name}: labeled {label.category}, {prediction}")
    condition = f"(probability below {MIN_PROBABILITY:.0%} according to n-grams of other names)"
    return make_finding(
        Severity.SUSPECT,
        singular=f"label is improbable {condition}",
        plural=f"labels are improbable {condition}",
        examples=examples,
        max_examples=MAX_DOUBTED_EXAMPLES,
    )


def build_ngram_models(corpus: AuditedCorpus) -> LetterNgrams:
    """Return n-gram models of all categories, counted on all pairs of a name and a category."""
    names = []
    targets = []
    for name, indices in corpus.categories_by_name.items():
        for index in indices:
            names.append(name)
            targets.append(index)
    categories = torch.tensor(targets)
    n_categories = len(corpus.categories)
    model = LetterNgrams(corpus.alphabet.symbols, n_categories, order=CONTEXT_LENGTH)
    letters, lengths = corpus.alphabet.encode(names)
    # This fits the models to the names: it counts their letter n-grams.
    model.count_all_names(letters, lengths, categories)
    # The model stores the logarithm of β and the logit of μ.
    model.log_beta.fill_(BETA)
    model.log_beta.log_()
    model.logit_mu.fill_(MU)
    model.logit_mu.logit_()
    # With the log prior as bias, the softmax of the scores is the posterior, by Bayes' rule. The
    # counts are proportional to the prior, and a constant factor does not change the softmax.
    n_names = categories.bincount(minlength=n_categories)
    model.bias.copy_(n_names.log())
    return model


@torch.inference_mode()
def find_improbable_labels_in_batch(
    corpus: AuditedCorpus, model: LetterNgrams, names: list[str]
) -> list[ScoredLabel]:
    """Return the doubted labels of a batch of names; see `find_improbable_labels`."""
    rows = []
    columns = []
    for row, name in enumerate(names):
        for index in corpus.categories_by_name[name]:
            rows.append(row)
            columns.append(index)
    name_indices = torch.tensor(rows)  # [M]
    labels = torch.tensor(columns)  # [M]
    has_category = torch.zeros(len(names), len(corpus.categories), dtype=torch.bool)  # [B, C]
    has_category[name_indices, labels] = True

    letters, lengths = corpus.alphabet.encode(names)
    scores = model(letters, lengths, counted_in=has_category)  # [B, C]

    # Excluding the other categories of a name can only raise the probability of a label. So a label
    # whose probability is high enough here cannot be doubted, and only the others are examined.
    probabilities = scores.softmax(dim=1)[name_indices, labels]  # [M]
    candidates = (probabilities < MIN_PROBABILITY).nonzero().flatten().tolist()
    doubted = []
    for pair_index in candidates:
        name_index = rows[pair_index]
        scored_label = score_label_if_doubted(
            corpus=corpus,
            name=names[name_index],
            label_index=columns[pair_index],
            scores=scores[name_index],
        )
        if scored_label is not None:
            doubted.append(scored_label)
    return doubted


def score_label_if_doubted(
    corpus: AuditedCorpus, name: str, label_index: int, scores: Tensor
) -> ScoredLabel | None:
    """Return a label of a name with its margin if it is doubted, or None.

    Args:
        corpus: the names.
        name: the name.
        label_index: index of the category that is one of the name's labels.
        scores: log-probabilities of all categories, up to a constant [C].
    """
    # The other labels of the name may be correct as well, so they are no evidence against this one.
    other_labels = [index for index in corpus.categories_by_name[name] if index != label_index]
    scores = scores.index_fill(0, torch.tensor(other_labels, dtype=torch.int64), -torch.inf)
    probabilities = scores.softmax(dim=0)  # [C]
    if probabilities[label_index] >= MIN_PROBABILITY:
        return None
    guess_index = int(scores.argmax())
    doubted_label = DoubtedLabel(
        name=name,
        category=corpus.categories[label_index],
        guess=corpus.categories[guess_index],
        probability=float(probabilities[guess_index]),
    )
    # Sorting by probability would put many labels with a probability of 0 in an arbitrary order.
    margin = float(scores[label_index] - scores[guess_index])
    return ScoredLabel(margin, doubted_label)
