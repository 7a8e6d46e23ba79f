"""The alert rules are such as Prometheus reads, as far as that can be told without promtool."""

import re
from typing import Any

import promql_parser
import pytest
import yaml
from tests.examples.test_deploy import RULES_TEST, SCRAPED_LABELS, read, rules, selectors

# https://prometheus.io/docs/prometheus/latest/configuration/recording_rules/#rule
GROUP_KEYS = {"name", "interval", "limit", "query_offset", "labels", "rules"}
RULE_KEYS = {"alert", "expr", "for", "keep_firing_for", "labels", "annotations"}
DURATION = re.compile(r"(\d+(ms|[smhdwy]))+")
# Functions of templates that take a number and give a text.
FORMATS = {
    "humanize",
    "humanize1024",
    "humanizeDuration",
    "humanizePercentage",
    "humanizeTimestamp",
}
SEVERITIES = {"critical", "warning", "info"}
ALERTS = [pytest.param(rule, id=rule["alert"]) for rule in rules()]


def templates(rule: dict[str, Any]) -> list[str]:
    """List what is between the braces of a rule's texts."""
    text = " ".join([*rule["annotations"].values(), *rule["labels"].values()])
    found = re.findall(r"\{\{(.*?)\}\}", text)
    assert text.count("{{") == text.count("}}") == len(found)
    return [each.strip() for each in found]


def kept_labels(expression: str) -> set[str]:
    """Return the labels that an alert has: those that its outermost aggregations keep."""
    kept = [set(re.findall(r"\w+", names)) for names in re.findall(r"by \(([^)]*)\)", expression)]
    return set.intersection(*kept) if kept else SCRAPED_LABELS


def test_groups_hold_rules_that_are_alerts() -> None:
    parsed = yaml.safe_load(read("prometheus-rules.yaml"))

    assert set(parsed) == {"groups"}
    names = [group["name"] for group in parsed["groups"]]
    assert len(names) == len(set(names))
    for group in parsed["groups"]:
        assert set(group) <= GROUP_KEYS
        assert group["rules"] != []
    alerts = [rule["alert"] for rule in rules()]
    assert len(alerts) == len(set(alerts))


@pytest.mark.parametrize("rule", ALERTS)
def test_an_alert_has_what_prometheus_and_people_want_of_it(rule: dict[str, Any]) -> None:
    assert set(rule) <= RULE_KEYS
    assert re.fullmatch(r"Bei[A-Za-z]+", rule["alert"])
    assert DURATION.fullmatch(rule["for"])
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in SEVERITIES
    assert rule["annotations"].keys() == {"summary", "description"}
    assert all(isinstance(text, str) and text for text in rule["annotations"].values())


@pytest.mark.parametrize("rule", ALERTS)
def test_an_alert_compares_what_the_job_says(rule: dict[str, Any]) -> None:
    parsed = promql_parser.parse(rule["expr"])

    # Anything else fires whenever there is a series.
    assert isinstance(parsed, promql_parser.BinaryExpr)
    assert re.search(r"(==|!=|<=|>=|<|>)", rule["expr"])
    asked = [{m.name: m.value for m in one.matchers.matchers} for one in selectors(rule["expr"])]
    assert all(matchers.get("job") == "bei" for matchers in asked)


@pytest.mark.parametrize("rule", ALERTS)
def test_texts_of_an_alert_use_labels_that_it_has(rule: dict[str, Any]) -> None:
    for template in templates(rule):
        source, _, function = (part.strip() for part in template.partition("|"))
        if source.startswith("$labels."):
            assert source.removeprefix("$labels.") in kept_labels(rule["expr"]), rule["alert"]
        else:
            assert source == "$value"
        assert function in FORMATS | {""}


def test_trials_of_the_alerts_say_what_promtool_reads() -> None:
    tests = yaml.safe_load(RULES_TEST.read_text(encoding="utf-8"))["tests"]
    alerts = {rule["alert"] for rule in rules()}

    for test in tests:
        for series in test["input_series"]:
            assert len(selectors(series["series"])) == 1
            assert re.fullmatch(r"\d+(\.\d+)?(\+\d+)?x\d+", series["values"])
        assert {each["alertname"] for each in test.get("alert_rule_test", [])} <= alerts
    fired = re.findall(r'alertname="(\w+)"', RULES_TEST.read_text(encoding="utf-8"))
    assert sorted(fired) == sorted(alerts)
    silent = [test["alert_rule_test"] for test in tests if "alert_rule_test" in test]
    assert all({each["alertname"] for each in one} == alerts for one in silent)
