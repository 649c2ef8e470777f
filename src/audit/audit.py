"""Audits a list of names: finds problems before anything is trained on it."""

import logging
import os
from functools import cache

from src.audit.checks import run_checks
from src.audit.corpus import AuditedCorpus, AuditSettings, read_audited_corpus
from src.audit.labels import find_improbable_labels, make_doubted_labels_finding
from src.audit.report import AuditReport, CategorySummary, sort_by_severity_and_count
from src.config import Config
from src.data.readers import list_files

MAX_LOGGED_FINDINGS = 5
"""Maximum number of findings that are logged before training."""
MAX_FULLY_AUDITED_BYTES = 10**6
"""If the files are larger in total, only a sample of the names is audited before training."""

log = logging.getLogger(__name__)


def audit(settings: AuditSettings, sample_every: int = 1) -> AuditReport:
    """Find problems in a list of names, and in the split that a run would make of it.

    Args:
        settings: where the names are, and how a run would read and split them.
        sample_every: 1 to audit all names, or n to audit a sample of one in n names, with all lines
            of each. In a sample, small categories are not reported.

    Raises:
        UserError: if the names cannot be read.
        OSError: if a file cannot be opened.
    """
    corpus = read_audited_corpus(settings, sample_every)
    doubted = find_improbable_labels(corpus)
    findings = run_checks(corpus)
    if doubted:
        findings.append(make_doubted_labels_finding(doubted))
    return AuditReport(
        guessed=corpus.rows.guesses,
        lines=sum(corpus.n_lines.values()),
        names=len(corpus.categories_by_name),
        pairs=corpus.n_pairs,
        ceiling=corpus.accuracy_ceiling,
        symbols=len(corpus.alphabet.symbols),
        letters=sum(map(len, corpus.categories_by_name)),
        findings=sort_by_severity_and_count(findings),
        categories=summarize_categories(corpus),
        doubted=doubted,
    )


def summarize_categories(corpus: AuditedCorpus) -> list[CategorySummary]:
    """Return the numbers about each category, in the order of the categories."""
    summaries = []
    for category in corpus.categories:
        n_lines = corpus.n_lines[category]
        # In a sample, a category may have no lines.
        changed_share = corpus.n_changed_lines[category] / max(1, n_lines)
        summary = CategorySummary(
            category=category,
            lines=n_lines,
            changed=changed_share,
            distinct=len(corpus.names[category]),
            train=len(corpus.train_names[category]),
            val=len(corpus.val_names[category]),
            test=len(corpus.test_names[category]),
        )
        summaries.append(summary)
    return summaries


def warn_about_user_names(config: Config) -> None:
    """Log the worst findings about the user's own names before training.

    Nothing is logged about the included corpus, which has no such problems.
    """
    has_own_names = config.data_dir or config.data_file
    # Lightning sets this variable in the processes that it starts for DDP, which would repeat the
    # messages.
    is_first_process = "LOCAL_RANK" not in os.environ
    if has_own_names and is_first_process:
        settings = AuditSettings.from_config(config)
        # The next function is cached, and logs the findings once for the same settings. They hardly
        # depend on the seed, so a fixed seed makes the cache work in a sweep over seeds.
        audit_and_log_worst_findings(settings._replace(seed=0))


@cache  # once for all runs of a sweep, which have the same names
def audit_and_log_worst_findings(settings: AuditSettings) -> None:
    """Audit the names, or a sample if there are many, and log the worst findings."""
    # The audit must not delay training much. The size of the files is an estimate of its duration.
    files = list_files(settings.source)
    n_bytes = sum(file.stat().st_size for file in files)
    sample_every = 1 + n_bytes // MAX_FULLY_AUDITED_BYTES
    report = audit(settings, sample_every)
    # The most serious findings come first.
    for finding in report.findings[:MAX_LOGGED_FINDINGS]:
        log.warning(finding.summary())
    if sample_every > 1:
        log.info(f"These findings are from a sample of one in {sample_every} names.")
        log.info("To check all names, run python -m src.audit.")
