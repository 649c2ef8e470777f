"""The checks of an audit.

A check is a function that looks at a corpus and yields findings. A finding without examples does
not apply and is dropped by `run_checks`.
"""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator

from src.audit.corpus import MISSING_NAMES, AuditedCorpus
from src.audit.report import Finding, Severity, make_finding
from src.audit.similar_names import find_names_one_letter_apart
from src.data.readers import list_files
from src.data.readers.columns import LABEL_WORDS, is_usual_name
from src.data.readers.source import SPLIT_NAMES, TABLE_FILE

MAX_REJECTED_EXAMPLES = 20
"""Maximum number of examples of rejected lines, each of which has to be corrected."""
MIN_TEST_NAMES = 10
"""With fewer test names, the scores of a category are unreliable."""
MIN_SIMILAR_NAME_LENGTH = 5
"""Shorter names are often similar by chance."""
MAX_CHANGED_SHARE = 0.1
"""If a larger share of the lines is changed, the alphabet may not suit the names."""

USUAL_FILE_NAMES = {"readme", "all", "data", "other", "misc"}
NOT_CATEGORIES = USUAL_FILE_NAMES.union(MISSING_NAMES, SPLIT_NAMES, LABEL_WORDS)
"""Names that usually do not stand for a category, but for a file, a column or a missing value."""


def run_checks(corpus: AuditedCorpus) -> list[Finding]:
    """Run all checks, and return the findings that apply, in the order of the checks."""
    findings = []
    for check in CHECKS:
        for finding in check(corpus):
            if finding.count:
                findings.append(finding)
    return findings


def check_split(corpus: AuditedCorpus) -> Iterator[Finding]:
    """Check that the names can be split into training, validation and test names."""
    # A category may be too small to be split in the sample but not in the whole list.
    if corpus.split_error and not corpus.is_sample:
        text = "reason why training would fail"
        yield make_finding(
            Severity.ERROR, singular=text, plural=text, examples=[corpus.split_error]
        )


def check_category_count(corpus: AuditedCorpus) -> Iterator[Finding]:
    """Check that there is more than one category."""
    # Without any category, reading the names has failed already.
    if len(corpus.categories) == 1:
        text = "category, but at least two are required"
        yield make_finding(Severity.ERROR, singular=text, plural=text, examples=corpus.categories)


def check_rejected_lines(corpus: AuditedCorpus) -> Iterator[Finding]:
    """Report the lines that are not names or have no valid category, one finding per reason."""
    # Training stops at the first reason. The audit reports all of them, so that the user can
    # correct the file in one go. A reason is a text such as `without a category …`.
    for reason, locations in corpus.rows.rejected.items():
        yield make_finding(
            Severity.ERROR,
            singular=f"line {reason}",
            plural=f"lines {reason}",
            examples=locations,
            max_examples=MAX_REJECTED_EXAMPLES,
        )


def check_missing_names(corpus: AuditedCorpus) -> Iterator[Finding]:
    """Report names such as `N/A` and `Surname`."""
    # Some are names of people, such as Nan. This is why training does not refuse them.
    yield make_finding(
        Severity.WARNING,
        singular="name looks like a placeholder or a header",
        plural="names look like placeholders or headers",
        examples=corpus.rows.missing_names,
    )


def check_category_names(corpus: AuditedCorpus) -> Iterator[Finding]:
    """Report categories such as `README` and `train`."""
    # In a folder of names, every text file becomes a category.
    suspicious = []
    for category in corpus.categories:
        if is_usual_name(category, NOT_CATEGORIES):
            suspicious.append(category)
    yield make_finding(
        Severity.WARNING,
        singular="category looks like a file or column name",
        plural="categories look like file or column names",
        examples=suspicious,
    )


def check_category_spellings(corpus: AuditedCorpus) -> Iterator[Finding]:
    """Report categories such as `Male` and `male`, which are probably the same."""
    spellings = defaultdict(list)
    for category in corpus.categories:
        # NFKC replaces special forms of letters, such as full-width ones, by the usual letters.
        compatible = unicodedata.normalize("NFKC", category)
        key = "".join(compatible.casefold().split())
        spellings[key].append(category)
    duplicates = []
    for group in spellings.values():
        if len(group) > 1:
            duplicates.append(" = ".join(repr(category) for category in group))
    yield make_finding(
        Severity.WARNING,
        singular="category is written in several ways",
        plural="categories are written in several ways",
        examples=duplicates,
    )


def check_ignored_files(corpus: AuditedCorpus) -> Iterator[Finding]:
    """Report files in the folder of names that are not read."""
    source = corpus.settings.source
    if not source.data_dir:
        return
    read_files = set(list_files(source))
    ignored = []
    # The second pattern is for a folder per category or split.
    for pattern in ("*", "*/*"):
        # Sorted, because the order of a folder's files depends on the file system.
        for path in sorted(source.path.glob(pattern)):
            if path.is_file() and path not in read_files:
                ignored.append(path.name)
    has_table = any(TABLE_FILE.search(name) for name in ignored)
    hint = " (to read a table, use data_file=)" if has_table else ""
    yield make_finding(
        Severity.INFO,
        singular=f"file is ignored{hint}",
        plural=f"files are ignored{hint}",
        examples=ignored,
    )


def check_changed_names(corpus: AuditedCorpus) -> Iterator[Finding]:
    """Report names whose letters the normalization changes."""
    alphabet_kind = corpus.settings.letters
    n_lines = sum(corpus.n_lines.values())
    n_changed = sum(corpus.n_changed_lines.values())
    # A few lost accents are normal. If many names lose letters, another alphabet may be better.
    severity = Severity.INFO
    hint = ""
    if n_changed > MAX_CHANGED_SHARE * n_lines:
        severity = Severity.SUSPECT
        if alphabet_kind != "corpus":
            hint = " (letters=corpus keeps all writing systems)"
    examples = []
    for name in sorted(corpus.names_with_changed_letters):
        examples.append(f"{name} → {corpus.rows.normalized[name]}")
    yield make_finding(
        severity,
        singular=f"name is changed by letters={alphabet_kind}{hint}",
        plural=f"names are changed by letters={alphabet_kind}{hint}",
        examples=examples,
    )


def check_merged_spellings(corpus: AuditedCorpus) -> Iterator[Finding]:
    """Report spellings that become the same name when a network reads them."""
    # The first spelling of each name is not counted, as the others are merged into it.
    first_spelling: dict[str, str] = {}
    merged = []
    for written, normalized in corpus.rows.normalized.items():
        name = corpus.alphabet.apply_training_case(normalized)  # as a network reads it
        if name in first_spelling:
            merged.append(f"{first_spelling[name]} = {written}")
        else:
            first_spelling[name] = written
    yield make_finding(
        Severity.INFO,
        singular="spelling is normalized to the same name as another one",
        plural="spellings are normalized to the same name as another one",
        examples=merged,
    )


def check_ambiguous_names(corpus: AuditedCorpus) -> Iterator[Finding]:
    """Report names with several categories, and the accuracy that no model can exceed."""
    ambiguous = []
    for name, indices in corpus.categories_by_name.items():
        if len(indices) > 1:
            categories = [corpus.categories[index] for index in indices]
            ambiguous.append(f"{name}: {', '.join(categories)}")
    limit = f"so the accuracy cannot exceed {corpus.accuracy_ceiling:.3f}"
    yield make_finding(
        Severity.SUSPECT,
        singular=f"name has several categories, {limit}",
        plural=f"names have several categories, {limit}",
        examples=ambiguous,
    )


def check_most_frequent_name(corpus: AuditedCorpus) -> Iterator[Finding]:
    """Report the name with the most lines in a category, unless each name has one line."""
    # With sampling=balanced, such a name is drawn more often: in proportion to its number of lines
    # in the category.
    candidates = []
    for counts in corpus.rows.line_counts.values():
        # In a sample, a category may have no names.
        if counts:
            name, count = counts.most_common(1)[0]
            candidates.append((count, name))
    examples = []
    if candidates:
        count, name = max(candidates)
        if count > 1:
            n_lines = sum(corpus.n_lines.values())
            examples.append(f"{name}: {count:,} of {n_lines:,} lines")
    text = "most frequent name"
    yield make_finding(Severity.INFO, singular=text, plural=text, examples=examples)


def check_split_overlap(corpus: AuditedCorpus) -> Iterator[Finding]:
    """Report names that are in several splits.

    This is possible only if the source has a column or folders for the split.
    """
    n_splits: Counter[str] = Counter()
    for split in (corpus.train_names, corpus.val_names, corpus.test_names):
        # A name counts once per split, even if it has several categories there. The keys of a
        # dictionary keep the order of the names, which a set would not.
        split_keys: dict[str, None] = {}
        for category_names in split.values():
            split_keys.update(dict.fromkeys(category_names))
        for key in split_keys:
            n_splits[key] += 1
    # A `name_key` is readable enough as an example: it is the name in lower case, without accents.
    shared = [key for key, count in n_splits.items() if count > 1]
    effect = "so the scores are too optimistic"
    yield make_finding(
        Severity.SUSPECT,
        singular=f"name is in more than one split, {effect}",
        plural=f"names are in more than one split, {effect}",
        examples=shared,
    )


def check_small_categories(corpus: AuditedCorpus) -> Iterator[Finding]:
    """Report categories without held-out names, and those with few test names.

    If no names are held out for a test at all, nothing is reported.
    """
    has_test_names = any(corpus.test_names.values())
    # In a sample, every category has fewer names than in training.
    if corpus.is_sample or not has_test_names:
        return
    not_held_out = []
    few_test_names = []

    def size_and_name(category: str) -> tuple[int, str]:
        return len(corpus.test_names[category]), category

    # The smallest categories are the most important examples, so they come first.
    for category in sorted(corpus.categories, key=size_and_name):
        n_test = len(corpus.test_names[category])
        n_val = len(corpus.val_names[category])
        if n_test + n_val == 0:
            not_held_out.append(category)
        if 0 < n_test < MIN_TEST_NAMES:
            few_test_names.append(f"{category} ({n_test})")
    yield make_finding(
        Severity.SUSPECT,
        singular="category is too small to hold out names",
        plural="categories are too small to hold out names",
        examples=not_held_out,
    )
    condition = f"fewer than {MIN_TEST_NAMES} test names"
    yield make_finding(
        Severity.SUSPECT,
        singular=f"category has {condition}, so its scores are unreliable",
        plural=f"categories have {condition}, so their scores are unreliable",
        examples=few_test_names,
    )


def check_similar_test_names(corpus: AuditedCorpus) -> Iterator[Finding]:
    """Report test names that are one letter apart from a training name of the same category."""
    # Such names are not a mistake, but they make the test easier than unrelated names would. Short
    # names are left out, because most of them are similar to another name.
    n_long = 0
    similar = []
    for category in corpus.categories:
        test_names = corpus.test_names[category]
        train_names = corpus.train_names[category]
        long_keys = [key for key in test_names if len(key) >= MIN_SIMILAR_NAME_LENGTH]
        n_long += len(long_keys)
        pairs = find_names_one_letter_apart(long_keys, train_names)
        for test_key, train_key in pairs.items():
            similar.append(f"{test_names[test_key]}, {train_names[train_key]} ({category})")
    # The whole text is, for example: `3 of 40 test names with at least 5 letters differ in one
    # letter from a training name of the same category`.
    total = f"of {n_long:,} test names with at least {MIN_SIMILAR_NAME_LENGTH} letters"
    difference = "in one letter from a training name of the same category"
    yield make_finding(
        Severity.INFO,
        singular=f"{total} differs {difference}",
        plural=f"{total} differ {difference}",
        examples=similar,
    )


CHECKS = (
    check_split,
    check_category_count,
    check_rejected_lines,
    check_missing_names,
    check_category_names,
    check_category_spellings,
    check_ignored_files,
    check_changed_names,
    check_merged_spellings,
    check_ambiguous_names,
    check_most_frequent_name,
    check_split_overlap,
    check_small_categories,
    check_similar_test_names,
)
"""All checks, in the order in which findings of the same severity and count are reported."""
