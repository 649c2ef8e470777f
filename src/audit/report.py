"""The findings of an audit, and the report as text."""

import re
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

    REFUSED = "refused"  # training refuses the names
    WRONG = "wrong"  # the network would learn something that is wrong
    DOUBTFUL = "doubtful"  # labels or scores may be misleading
    NOTE = "note"  # good to know

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
    examples: list[str]
    """The first of them, safe to print."""

    def summary(self) -> str:
        """Return the finding as one line: `wrong     things that are counted (3): explanation`."""
        # An explanation starts with the first colon or semicolon of the text.
        counted = re.split("[:;]", self.text, maxsplit=1)[0]
        explanation = self.text.removeprefix(counted)
        return f"{self.severity.value:<10}{counted} ({self.count:,}){explanation}"


def make_finding(
    severity: Severity, text: str, examples: Iterable[str], max_examples: int = MAX_EXAMPLES
) -> Finding:
    """Return a finding that counts all examples and keeps the first of them.

    Args:
        severity: how serious the finding is.
        text: what the examples are; a colon or a semicolon can start an explanation.
        examples: all examples. The finding does not apply if there are none; its count is then 0.
        max_examples: maximum number of examples to keep.
    """
    all_examples = list(examples)
    # Names and categories come from files of unknown origin. Control characters in them could
    # change the terminal.
    printable_examples = [replace_unprintable(example) for example in all_examples[:max_examples]]
    return Finding(severity, len(all_examples), text, printable_examples)


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
    """The result of an audit."""

    guessed: list[str]
    """What the reader guessed about the columns of a table."""
    lines: int
    names: int
    """Number of distinct names, in the case in which a network reads them."""
    pairs: int
    """Number of distinct pairs of a name and a category."""
    ceiling: float
    """Highest share of the pairs that a model can classify correctly."""
    symbols: int
    """Size of the alphabet."""
    letters: int
    """Number of letters of the distinct names."""
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
    """Return the report as text. Of the doubted labels, it shows only the examples of a finding."""
    lines = [replace_unprintable(guess) for guess in report.guessed]
    lines.append(
        f"{report.lines:,} lines, {report.names:,} names in {report.pairs:,} pairs with a "
        f"category, {report.symbols} symbols"
    )
    lines.append("")
    lines += format_findings_with_examples(report.findings)
    lines.append("")
    lines += format_category_table(report.categories)
    return "\n".join(lines)


def format_findings_with_examples(findings: list[Finding]) -> list[str]:
    """Return one line for each finding, followed by its examples."""
    if not findings:
        return ["nothing is wrong with them"]
    # The examples are indented further than the severity, which takes ten columns.
    indent = " " * 12
    lines = []
    for finding in findings:
        lines.append(finding.summary())
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
