"""The findings of an audit, and the report as text."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from src.data.normalize import replace_unprintable

MAX_EXAMPLES = 5
"""Maximum number of examples of most findings."""
COUNT_COLUMNS = ("lines", "distinct", "train", "val", "test")
"""Columns of the printed table of categories that contain counts: fields of `CategorySummary`. The
last column of the table is `changed`."""


class Severity(str, Enum):
    """How serious a finding is, from the most to the least serious."""

    # The values are strings, so that JSON can represent them.

    ERROR = "error"  # training would refuse the names
    WARNING = "warning"  # training would use something that is probably wrong
    SUSPECT = "suspect"  # labels or scores may be misleading
    INFO = "info"  # good to know

    @property
    def rank(self) -> int:
        """Position in the order of severities; 0 is the most serious."""
        return list(Severity).index(self)


@dataclass(frozen=True)
class Finding:
    """A problem of a list of names, or something that is good to know about it."""

    severity: Severity
    count: int
    """Number of lines, names or categories that the finding is about."""
    text: str
    """What was found, starting with the count: `2 categories look like file names`."""
    examples: list[str]
    """The first examples, without control characters."""

    def summary(self) -> str:
        """Return the finding as one line with an example: `warning   2 names …: N/A`."""
        return f"{self.severity.value:<10}{self.text}: {self.examples[0]}"


def make_finding(
    severity: Severity,
    singular: str,
    plural: str,
    examples: Iterable[str],
    max_examples: int = MAX_EXAMPLES,
) -> Finding:
    """Return a finding that counts all examples and keeps the first of them.

    Args:
        severity: how serious the finding is.
        singular: what was found, if there is one example. The count is put before it.
        plural: what was found, if there are several examples.
        examples: all examples. The finding does not apply if there are none; its count is then 0.
        max_examples: maximum number of examples to keep.
    """
    all_examples = list(examples)
    n_examples = len(all_examples)
    text = f"{n_examples:,} {singular if n_examples == 1 else plural}"
    # Names and categories come from files of unknown origin. Control characters in them could
    # change the terminal.
    printable_examples = [replace_unprintable(example) for example in all_examples[:max_examples]]
    return Finding(severity, n_examples, text, printable_examples)


@dataclass(frozen=True)
class CategorySummary:
    """Numbers about one category."""

    category: str
    lines: int
    changed: float
    """Share of the lines whose letters the normalization changes."""
    distinct: int
    """Number of distinct normalized names."""
    train: int
    """Number of training names; names that differ only in case or punctuation count once."""
    val: int
    test: int


@dataclass(frozen=True)
class DoubtedLabel:
    """A name whose label is improbable according to n-gram models."""

    name: str
    category: str
    """The label."""
    guess: str
    """The most probable category."""
    probability: float
    """Probability of the guess."""


@dataclass(frozen=True)
class AuditReport:
    """The result of an audit. The names of the fields are the keys of the JSON file."""

    guessed: list[str]
    """What the reader guessed about the columns of a table."""
    lines: int
    names: int
    """Number of distinct names, after conversion to the case that a network reads."""
    pairs: int
    """Number of distinct pairs of a name and a category."""
    ceiling: float
    """Highest share of the pairs that a model can classify correctly."""
    symbols: int
    """Size of the alphabet."""
    letters: int
    """Total number of letters in the distinct names; not part of the printed report."""
    findings: list[Finding]
    """The findings, the most serious first."""
    categories: list[CategorySummary]
    doubted: list[DoubtedLabel]
    """Doubted labels, the least probable first."""

    def to_dict(self) -> dict[str, Any]:
        """Return the report as values that JSON can represent."""
        return asdict(self)


def sort_by_severity_and_count(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings sorted by severity and count, the most serious first."""

    def severity_and_count(finding: Finding) -> tuple[int, int]:
        return finding.severity.rank, -finding.count

    return sorted(findings, key=severity_and_count)


def format_report(report: AuditReport) -> str:
    """Return the report as text.

    Doubted labels are shown only as the examples of their finding.
    """
    lines = [replace_unprintable(guess) for guess in report.guessed]
    lines.append(
        f"{report.lines:,} lines; {report.names:,} distinct names, {report.pairs:,} pairs of a "
        f"name and a category, {report.symbols} symbols"
    )
    lines.append("")
    lines += format_findings_with_examples(report.findings)
    lines.append("")
    lines += format_category_table(report.categories)
    return "\n".join(lines)


def format_findings_with_examples(findings: list[Finding]) -> list[str]:
    """Return one line for each finding, followed by its examples."""
    if not findings:
        return ["No problems found."]
    # The examples are indented further than the severity, which takes ten columns.
    indent = " " * 12
    lines = []
    for finding in findings:
        lines.append(f"{finding.severity.value:<10}{finding.text}:")
        lines += [indent + example for example in finding.examples]
    return lines


def format_category_table(categories: list[CategorySummary]) -> list[str]:
    """Return the lines of the table of categories."""
    header = " " * 20
    for column in (*COUNT_COLUMNS, "changed"):
        header += f"{column:>10}"
    lines = [header]
    for row in categories:
        # The name of a category comes from a file, so it can contain control characters.
        line = f"{replace_unprintable(row.category):<20}"
        for column in COUNT_COLUMNS:
            line += f"{getattr(row, column):>10,}"
        line += f"{row.changed:>10.1%}"
        lines.append(line)
    return lines
