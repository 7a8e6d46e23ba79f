"""The verdict on a `config.yaml`: the file, Truss's rules, and the checkpoint if it can be seen."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from beicli.config import architecture_rules, problems, truss_rules
from beicli.config.architecture_rules import architecture_problems
from beicli.config.load import CheckedConfig, check_config
from beicli.config.problems import ConfigProblem
from beicli.config.source import ConfigSource
from beicli.errors import BeiError, CheckpointError, CheckpointUnavailableError, UsageError
from beicli.sources.checkpoint import look_into_checkpoint
from beicli.validation import checkpoint, lints
from beicli.validation.checkpoint import CheckpointListing, check_checkpoint
from beicli.validation.findings import Finding, Level, Rule, TargetKind, TargetReport

CHECKPOINT_NOT_SEEN = Rule(
    name="checkpoint-not-seen",
    level=Level.INFO,
    why="whether it fits the configuration is known only when it is built",
)
CHECKPOINT_NOT_THERE = Rule(
    name="checkpoint-not-there",
    level=Level.ERROR,
    why="there is nothing to build",
)
RULES = (CHECKPOINT_NOT_SEEN, CHECKPOINT_NOT_THERE)

# Every rule that a configuration is checked against.
CONFIG_RULES = (
    *problems.RULES,
    *truss_rules.RULES,
    *architecture_rules.RULES,
    *lints.RULES,
    *RULES,
    *checkpoint.RULES,
)
_REPOSITORY = "trt_llm.build.checkpoint_repository"


def validate_config_target(
    path: Path, *, overrides: Sequence[str] = (), strict: bool = False, offline: bool = False
) -> TargetReport:
    """Check the configuration in `path`, a file or a Truss directory.

    overrides: `key.path=value`, in place of what the file says. strict: an unknown key is an
    error. offline: look for the checkpoint on this disk only.
    Raises UsageError for an override that cannot be read; nothing that the file could cause.
    """
    checked = check_config(path, overrides=overrides, strict=strict)
    findings = [_finding(problem) for problem in checked.problems]
    facts: dict[str, Any] = {}
    rules = [*problems.RULES, *truss_rules.RULES]
    if checked.config is not None and checked.source is not None:
        rules += [*lints.RULES, *RULES]
        seen, facts = _check_checkpoint(checked, offline=offline)
        odd = _with_revision(lints.lint(checked.config, checked.source), facts.get("revision"))
        findings += _with_lines([*odd, *seen], checked.source)
        rules += [*architecture_rules.RULES, *checkpoint.RULES] if facts else []
    return TargetReport(
        target=str(path),
        kind=TargetKind.CONFIG,
        findings=tuple(findings),
        num_checks=len(rules),
        facts=facts,
    )


def _check_checkpoint(
    checked: CheckedConfig, *, offline: bool
) -> tuple[list[Finding], dict[str, Any]]:
    """Look at the small files of the checkpoint, if it can be found."""
    config, source = checked.config, checked.source
    assert config is not None
    assert source is not None
    try:
        files = look_into_checkpoint(
            config.trt_llm.build.checkpoint_repository,
            config_directory=checked.path.parent,
            offline=offline,
        )
    # A usage error: a package or a file of secrets is missing here, of which nothing follows.
    except (CheckpointUnavailableError, UsageError) as error:
        return [_unseen(CHECKPOINT_NOT_SEEN, error)], {}
    except CheckpointError as error:
        return [_unseen(CHECKPOINT_NOT_THERE, error)], {}
    listing = CheckpointListing(path=files.path, sizes=files.sizes, headers=files.headers)
    verdict = check_checkpoint(config, listing)
    findings = list(verdict.findings)
    if verdict.architecture is not None:
        found = architecture_problems(source, config, verdict.architecture)
        findings = [*(_finding(problem) for problem in found), *findings]
    return findings, {"revision": files.resolved_revision, **verdict.facts}


def _with_revision(findings: Iterable[Finding], revision: str | None) -> list[Finding]:
    """Tell the revision that was seen where none is pinned."""
    pins = {lints.REVISION_NOT_PINNED.name, lints.CONTENT_NOT_PINNED.name}
    return [
        replace(finding, fix=f"write `revision: {revision}`, which it is now")
        if revision is not None and finding.rule in pins
        else finding
        for finding in findings
    ]


def _unseen(rule: Rule, error: BeiError) -> Finding:
    return rule.broken(error.message, fix=error.hint, place=_REPOSITORY)


def _finding(problem: ConfigProblem) -> Finding:
    finding = problem.rule.broken(problem.message, fix=problem.hint, place=problem.key_path)
    return replace(finding, line=problem.line, is_override=problem.is_override)


def _with_lines(findings: Iterable[Finding], source: ConfigSource) -> list[Finding]:
    """Place each finding at the line of its key, or of the nearest one that was written."""
    placed = []
    for finding in findings:
        line, is_override = source.locate(tuple(finding.place.split(".")))
        placed.append(replace(finding, line=line, is_override=is_override))
    return placed
