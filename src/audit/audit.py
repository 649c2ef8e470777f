"""What is wrong with a list of names, or good to know of it, before anything is trained on it.

The labels that are least believed are found by n-grams that have not seen the name. For runs g of 1
to GRAMS symbols of a name between its marks, n_c(g) is how often the names of category c have g:

    score_c = log share_c + WEIGHT Σ_g log ((n_c(g) + PRIOR q(g)) / (Σ_g n_c(g) + PRIOR))

with q(g) the share of g in all categories together. In the score of its own category, each run of a
name is counted once less.

Shapes: N different runs, C categories; B pairs of a name and a category, G runs of them.
"""

import logging
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import cache
from typing import Any
from zlib import crc32

import torch
import torch.nn.functional as F

from src.config import CORPUS_KEYS, Config
from src.data.alphabet import Alphabet
from src.data.corpus import Corpus, RejectedLines, group_by_split, valid_rows
from src.data.normalize import AlphabetKind, name_key, replace_unprintable
from src.data.readers import DataSource, list_files
from src.data.readers.columns import LABEL_WORDS, NAME_WORDS, is_usual_name
from src.data.readers.source import SPLIT_NAMES, TABLE_FILE
from src.data.split import Split, split_corpus
from src.errors import UserError

REFUSED, WRONG, DOUBTFUL, NOTE = SEVERITIES = "refused", "wrong", "doubtful", "note"
"""Training refuses it; what is learned is wrong; labels or scores may be; good to know."""
SHOWN, MORE, WORST = 5, 20, 5
"""Examples of most findings, and of those to go through; findings told before a training."""
QUICK = 10**7
"""Bytes of files whose names are all looked at before a training."""
FEW, SHORT, MUCH, DOUBT = 10, 5, 0.1, 0.01
"""Test names that say something of a category, letters that are hardly alike by chance, the share
of lines that letters should leave alone, the probability of a label that is still believed."""
GRAMS, PRIOR, WEIGHT = 3, 100.0, 0.25

log = logging.getLogger(__name__)
_NO_NAMES = {*"n/a #n/a n.a. <na> nan none null nil unknown missing anonymous test xxx".split()}
_NO_NAMES |= {"notavailable", "noname", *NAME_WORDS}
_NO_LABELS = {*_NO_NAMES, *SPLIT_NAMES, *LABEL_WORDS, "readme", "all", "data", "other", "misc"}


def warn_about_corpus(config: Config) -> None:
    """Log the worst problems of the user's own names; those shipped have none."""
    own_names = config.data_dir or config.data_file
    if own_names and "LOCAL_RANK" not in os.environ:  # DDP's other processes would repeat it
        # One seed for all, so that the runs of a sweep over seeds warn only once.
        tell_worst(**{**config.subset(CORPUS_KEYS), "seed": 0})


@cache  # the runs of a sweep have the same names
def tell_worst(**how: Any) -> None:
    """Log the worst findings of an `audit`; of a long list, those in a share of its names."""
    files = list_files(DataSource(**{key: how.get(key) for key in DataSource._fields}))
    every = 1 + sum(file.stat().st_size for file in files) // QUICK
    for each in audit(**how, every=every)["findings"][:WORST]:
        log.warning(finding_line(each))
    if every > 1:
        log.info(f"that is one name in {every}; python -m src.audit looks at all")


def audit(
    letters: AlphabetKind,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    every: int = 1,
    **columns: str | None,
) -> dict[str, Any]:
    """Return all there is to say of a `DataSource` as a run with these settings reads it.

    What was `guessed`; numbers; the `findings`, the worst first, a `count` of what the `text` says
    and `examples` each; a row for each of the `categories`; the pairs whose label is `doubted`.
    One name in `every` is looked at, with all its lines; then nothing is said of small categories.

    Raises:
        UserError: if the names cannot be read.
        OSError: likewise.
    """
    source, guessed = DataSource(**columns), list[str]()
    findings: list[dict[str, Any]] = []

    def find(severity: str, text: str, examples: Iterable[str], shown: int = SHOWN) -> None:
        """Note a finding of as many things as there are examples, if there are any."""
        if some := [*examples]:
            about = {"severity": severity, "count": len(some), "text": text}
            findings.append(about | {"examples": [*map(replace_unprintable, some[:shown])]})

    read: dict[str, str] = {}  # each name, as it stands → folded
    times: Any = defaultdict(Counter)  # of each category, the lines of its names
    found: Any = defaultdict(dict)
    bad: RejectedLines = defaultdict(list)
    missing = []
    for row, folded in valid_rows(source, letters, bad, guessed.append):
        name, of_label = row.name.strip(), times[row.category]
        if is_usual_name(name, _NO_NAMES):
            missing.append(f"{row.location}: {name}")
        if every == 1 or crc32(name_key(folded).encode()) % every == 0:
            read[name] = folded
            of_label[name] += row.count
            found[row.split, row.category][folded] = None

    differ = {name for name, folded in read.items() if folded != name}
    changed = {name for name in differ if _plain(read[name]) != _plain(name)}
    lines = {c: of.total() for c, of in times.items()}
    altered = {c: sum(of[name] for name in changed & of.keys()) for c, of in times.items()}
    names, labels = Corpus(group_by_split(found), {}), sorted(lines)
    every_name = names.all_names
    corpus = {c: [*dict.fromkeys(every_name.get(c, ()))] for c in labels}
    split = Split(corpus, {}, {})
    try:
        split = split_corpus(names, val_fraction, test_fraction, seed)
    except UserError as error:
        find(REFUSED, "reasons not to train on them", [str(error)] if every == 1 else [])
    alphabet = Alphabet.from_names(letters, {n for of in split[0].values() for n in of})
    own: dict[str, tuple[int, ...]] = {}  # each name as it is read → its categories
    for number, of in enumerate(corpus.values()):
        for name in dict.fromkeys(map(alphabet.match_case, of)):
            own[name] = (*own.get(name, ()), number)
    n_pairs, total = sum(map(len, own.values())), sum(lines.values())

    find(REFUSED, "categories; training needs two", labels if len(labels) == 1 else [])
    for why, places in bad.items():
        find(REFUSED, f"lines that {why}", places, MORE)
    find(WRONG, "names that stand for a missing one, or are a header", missing)
    find(
        WRONG, "categories that look like none", (c for c in labels if is_usual_name(c, _NO_LABELS))
    )
    alike = defaultdict(list)
    for label in labels:
        alike["".join(unicodedata.normalize("NFKC", label).casefold().split())].append(label)
    twins = (" = ".join(map(repr, same)) for same in alike.values() if same[1:])
    find(WRONG, "categories written in several ways: case, blanks, forms of letters", twins)
    if source.data_dir:
        there = (path for depth in ("*", "*/*") for path in sorted(source.path.glob(depth)))
        files = {*list_files(source)}
        over = [path.name for path in there if path.is_file() and path not in files]
        table = "; data_file= reads a table" if any(map(TABLE_FILE.search, over)) else ""
        find(NOTE, f"files that are passed over{table}", over)

    much = sum(altered.values()) > MUCH * total
    what = "; letters=corpus leaves any script as it is" if much and letters != "corpus" else ""
    rewritten = (f"{name} → {read[name]}" for name in sorted(changed))
    find(DOUBTFUL if much else NOTE, f"names that letters={letters} changes{what}", rewritten)
    first: dict[str, str] = {}
    spelled = ((first.setdefault(alphabet.match_case(folded), n), n) for n, folded in read.items())
    merged = (f"{one} = {name}" for one, name in spelled if one != name)
    find(NOTE, "names that are read like one spelled otherwise", merged)
    several = (f"{n}: {', '.join(labels[c] for c in of)}" for n, of in own.items() if of[1:])
    ceiling = len(own) / max(1, n_pairs)
    what = f"no model can be right on more than {ceiling:.1%} of the pairs"
    find(DOUBTFUL, f"names of several categories: {what}", several)
    most = sorted((n, name) for of in times.values() for name, n in of.most_common(1))[-1:]
    heaviest = (f"{name}: {n:,} of {total:,} lines" for n, name in most if n > 1)
    find(NOTE, "name that counts for more lines than any other", heaviest)

    keys = ({c: {name_key(n): n for n in side.get(c, ())} for c in labels} for side in split)
    train, val, test = sides = [*keys]
    on = Counter(key for side in sides for key in set().union(*side.values()))
    shared = (key for key, n in on.items() if n > 1)
    find(DOUBTFUL, "names on several sides of the split: scores flatter", shared)
    few = sorted((len(test[c]), c) for c in labels if every == 1 and any(test.values()))
    kept = (c for _, c in few if not (val[c] or test[c]))
    find(DOUBTFUL, "categories too small to hold names out", kept)
    some = (f"{c} ({n})" for n, c in few if 0 < n < FEW)
    find(DOUBTFUL, f"categories with fewer than {FEW} test names: their scores are chance", some)
    long = {c: [key for key in test[c] if len(key) >= SHORT] for c in labels}
    away = ((c, *pair) for c in labels for pair in _a_letter_away(long[c], train[c]).items())
    near = (f"{test[c][one]}, {train[c][other]} ({c})" for c, one, other in away)
    what = f"of {sum(map(len, long.values())):,} with {SHORT} letters or more"
    find(NOTE, f"test names a letter away from a training name of their category: {what}", near)
    doubted = _doubted(own, labels) if own else []
    say = "{name}: labelled {category}, n-grams say {guess} ({probability:.2f})".format_map
    what = f"labels below {DOUBT:.0%} to n-grams that have not seen the name"
    find(DOUBTFUL, what, map(say, doubted), MORE)

    kinds: dict[str, Any] = {"distinct": corpus, "train": train, "val": val, "test": test}
    rows = []
    for c in labels:
        about = {"category": c, "lines": lines[c], "changed": altered[c] / max(1, lines[c])}
        rows.append(about | {kind: len(of[c]) for kind, of in kinds.items()})
    numbers = {"lines": total, "names": len(own), "pairs": n_pairs, "ceiling": ceiling}
    numbers |= {"symbols": len(alphabet.symbols), "letters": sum(map(len, own))}
    findings.sort(key=lambda each: (SEVERITIES.index(each["severity"]), -each["count"]))
    report = {"findings": findings, "categories": rows, "doubted": doubted}
    return {"guessed": guessed, **numbers, **report}


def finding_line(finding: dict[str, Any]) -> str:
    """Return a finding in a line, the count behind what is counted."""
    text = re.sub("(?=[:;])|$", f" ({finding['count']:,})", finding["text"], count=1)
    return f"{finding['severity']:<10}{text}"


def _plain(text: str) -> str:
    """Return the letters and digits of a text, in lower case."""
    return re.sub(r"[\W_]", "", unicodedata.normalize("NFC", text).lower())


def _a_letter_away(names: Iterable[str], others: Iterable[str]) -> dict[str, str]:
    """Return the names that have a letter more, less or other than one of the others, with it."""
    like: dict[str, tuple[str, ...]] = {}
    for name in names:
        for key in _gaps(name):
            like[key] = (*like.get(key, ()), name)
    hits = ((like[key], other) for other in others for key in _gaps(other) if key in like)
    return {name: other for names, other in hits for name in names if name != other}


def _gaps(name: str) -> list[str]:
    """Return a name with a gap for a letter, anywhere; names share one that are a letter apart."""
    return [f"{name[:i]}*{name[j:]}" for i in range(len(name) + 1) for j in (i, i + 1)]


def _doubted(own: dict[str, tuple[int, ...]], labels: list[str]) -> list[dict[str, Any]]:
    """Return the pairs whose label has less than DOUBT, the least believed first.

    Each is a `name`, a `category`, and the likeliest one as `guess` with its `probability`, beside
    whatever other categories the name has.

    Args:
        own: the categories of each name.
        labels: what the categories are called [C].
    """
    pairs = [(name, c) for name, categories in own.items() for c in categories]
    mine, place = torch.tensor([c for _, c in pairs]), torch.arange(len(pairs))  # [B] each
    texts = [f"^{name.lower()}$" for name, _ in pairs]
    size = torch.tensor([*map(len, texts)])  # [B]
    codes = torch.frombuffer(bytearray("".join(texts), "utf-32-le"), dtype=torch.int32).long()
    left = size.cumsum(0).repeat_interleave(size) - torch.arange(len(codes))  # to a name's end
    spelled = [codes]
    for k in range(1, GRAMS):
        spelled.append(spelled[-1] << 21 | codes.roll(-k))  # no letter has more bits
    whole = left.unsqueeze(1) > torch.arange(GRAMS)
    runs, gram = torch.unique(torch.stack(spelled, 1)[whole], return_inverse=True)  # [N], [G]
    at = place.repeat_interleave(size).unsqueeze(1).expand_as(whole)[whole]
    n = at.bincount()  # [G]: the pair of each run; [B]: the runs of each pair
    counts = (gram * len(labels) + mine[at]).bincount(minlength=len(runs) * len(labels))
    counts = counts.reshape(len(runs), len(labels)).float()  # [N, C]
    total, prior = counts.sum(0), PRIOR * counts.sum(1) / counts.sum()
    logs = ((counts + prior.unsqueeze(1)) / (total + PRIOR)).log()
    scores = F.embedding_bag(gram, logs, n.cumsum(0) - n, mode="sum")  # [B, C]
    left_out = (counts[gram, mine[at]] - 1 + prior[gram]) / (total[mine] - n + PRIOR)[at]
    scores[place, mine] = torch.zeros(len(n)).index_add_(0, at, left_out.log())
    scores = WEIGHT * scores + mine.bincount(minlength=len(labels)).log()
    found = []
    for i in (scores.softmax(1)[place, mine] < DOUBT).nonzero().flatten().tolist():
        (text, label), score = pairs[i], scores[i]
        score[[c for c in own[text] if c != label]] = -torch.inf  # they speak for themselves
        p, guess = score.softmax(0), int(score.argmax())
        if p[label] < DOUBT:
            margin = float(score[label] - score[guess])
            found.append((margin, text, labels[label], labels[guess], float(p[guess])))
    keys = "name", "category", "guess", "probability"
    return [dict(zip(keys, each, strict=True)) for _, *each in sorted(found)]
