"""What runs the server elsewhere agrees with the server: options, ports, routes, times, metrics."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import promql_parser
import pytest
import typer
import yaml
from promql_parser import Expr, VectorSelector
from tests.server.fakes import FakeEngine, ask, ask_all, live_server
from tests.server.test_canary import fill

from beicli.cli.app import app
from beicli.errors import EngineLostError, UsageError
from beicli.model.spec import Task
from beicli.pipeline.loaded_engine import PipelineLimits
from beicli.server.authentication import PUBLIC_PATHS
from beicli.server.errors import WORDS
from beicli.server.loading import CLOSE_TIMEOUT_S
from beicli.server.options import ServerOptions
from beicli.server.signals import RELOAD_SIGNAL

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "examples" / "deploy"
HOW_TO = REPOSITORY / "docs" / "how-to" / "deploy.md"
DOCKERFILES = ["Dockerfile", "Dockerfile.gpu"]
MANIFESTS = ["kubernetes.yaml", "kubernetes-gpu.yaml"]
RULES_TEST = Path(__file__).parent / "prometheus-rules-test.yaml"
# What Prometheus itself says of each server that it asks.
SCRAPED = {"up"}
SCRAPED_LABELS = {"job", "instance"}


@dataclass(frozen=True, slots=True)
class Deployment:
    """One way to run the server: what it is started with, and how long a stop may take."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    ports: frozenset[int]
    stop_timeout_s: float


def read(name: str) -> str:
    return (DEPLOY / name).read_text(encoding="utf-8")


def dockerfile(name: str) -> list[tuple[str, str]]:
    """List a Dockerfile's instructions, each with what follows its first word."""
    lines = [line for line in read(name).splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.split("\n"))]


def of_image(name: str, instruction: str) -> list[str]:
    """What the last stage says with an instruction."""
    instructions = dockerfile(name)
    start = max(i for i, (word, _) in enumerate(instructions) if word == "FROM")
    return [rest for word, rest in instructions[start:] if word == instruction]


def image_environment(name: str) -> dict[str, str]:
    (values,) = of_image(name, "ENV")
    return dict(pair.split("=", 1) for pair in shlex.split(values))


def entry_point(name: str) -> list[str]:
    (words,) = of_image(name, "ENTRYPOINT")
    command: list[str] = json.loads(words)
    return command


def unit() -> list[tuple[str, str]]:
    """List the unit's settings, those that are commented out as examples among them."""
    return re.findall(r"^#?([A-Z]\w+)=(.*)$", read("bei.service"), flags=re.MULTILINE)


def unit_value(key: str) -> str:
    (value,) = [value for name, value in unit() if name == key]
    return value


def objects(name: str) -> dict[str, dict[str, Any]]:
    """Return the Kubernetes objects of a file by their kind."""
    return {one["kind"]: one for one in yaml.safe_load_all(read(name))}


def pod(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = objects(name)["Deployment"]["spec"]["template"]["spec"]
    return spec


def container(name: str) -> dict[str, Any]:
    (only,) = pod(name)["containers"]
    assert isinstance(only, dict)
    return only


def compose_service(name: str) -> dict[str, Any]:
    service: dict[str, Any] = yaml.safe_load(read("compose.yaml"))["services"][name]
    return service


def deployment(name: str) -> Deployment:
    if name == "bei.service":
        environment = dict(v.split("=", 1) for key, v in unit() if key == "Environment")
        return Deployment(
            arguments=tuple(shlex.split(unit_value("ExecStart"))[2:]),
            environment=environment,
            ports=frozenset({int(environment["BEI_PORT"])}),
            stop_timeout_s=float(unit_value("TimeoutStopSec")),
        )
    image = "Dockerfile.gpu" if "gpu" in name else "Dockerfile"
    arguments = tuple(entry_point(image)[entry_point(image).index("serve") + 1 :])
    exposed = {int(port) for port in of_image(image, "EXPOSE")}
    if name in MANIFESTS:
        inside = container(name)
        grace_period_s = pod(name)["terminationGracePeriodSeconds"]
        before_s = inside["lifecycle"]["preStop"]["sleep"]["seconds"]
        return Deployment(
            arguments=(*arguments, *inside["args"]),
            environment=image_environment(image) | {v["name"]: v["value"] for v in inside["env"]},
            ports=frozenset(exposed | {port["containerPort"] for port in inside["ports"]}),
            stop_timeout_s=grace_period_s - before_s,
        )
    service = compose_service(name.removeprefix("compose.yaml "))
    published = {int(port.rpartition(":")[2]) for port in service["ports"]}
    return Deployment(
        arguments=arguments,
        environment=image_environment(image) | service["environment"],
        ports=frozenset(exposed | published),
        stop_timeout_s=float(service["stop_grace_period"].removesuffix("s")),
    )


DEPLOYMENTS = ["bei.service", "compose.yaml cpu", "compose.yaml gpu", *MANIFESTS]


def commands() -> dict[str, Any]:
    group: Any = typer.main.get_command(app)
    found: dict[str, Any] = group.commands
    return found


def settings(chosen: Deployment, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what the command line makes of a deployment's arguments and environment."""
    for name, value in chosen.environment.items():
        monkeypatch.setenv(name, value)
    given: dict[str, Any] = commands()["serve"].make_context("serve", [*chosen.arguments]).params
    return given


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_command_line_takes_what_a_deployment_gives_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = deployment(name)

    given = settings(chosen, monkeypatch)

    assert chosen.ports == {given["port"]}
    assert given["host"] == ("127.0.0.1" if name == "bei.service" else "0.0.0.0")


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_nothing_is_killed_before_the_server_has_ended_by_itself(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = deployment(name)

    drain_timeout_s = settings(chosen, monkeypatch)["drain_timeout_s"]

    assert chosen.stop_timeout_s > drain_timeout_s + 2 * CLOSE_TIMEOUT_S


def test_every_setting_that_is_named_exists() -> None:
    parameters = [one for command in commands().values() for one in command.params]
    known = {one.envvar for one in parameters}
    options = {option for one in parameters for option in (*one.opts, *one.secondary_opts)}

    texts = {path.name: path.read_text(encoding="utf-8") for path in [*DEPLOY.iterdir(), HOW_TO]}
    named = {(n, v) for n, text in texts.items() for v in re.findall(r"\bBEI_[A-Z_]+", text)}
    text = HOW_TO.read_text(encoding="utf-8")
    of_bei = re.findall(r"\bbei(?::[cg]pu| serve)\b[^\n`]*", text)
    used = {option for line in of_bei for option in re.findall(r"--[a-z][a-z-]+", line)}

    assert {(name, value) for name, value in named if value not in known} == set()
    assert used - options == set()
    assert used != set()


def test_service_manager_knows_the_exit_codes() -> None:
    assert int(unit_value("RestartForceExitStatus")) == EngineLostError.exit_code
    assert int(unit_value("RestartPreventExitStatus")) == UsageError.exit_code


def test_service_manager_reloads_with_the_signal_that_the_server_takes() -> None:
    assert unit_value("ExecReload") == "/bin/kill -HUP $MAINPID"
    assert RELOAD_SIGNAL.name == "SIGHUP"


@pytest.mark.parametrize("name", DOCKERFILES)
def test_image_copies_what_the_repository_has_and_runs_as_nobody_special(name: str) -> None:
    copied = [
        source
        for word, rest in dockerfile(name)
        if word == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    ]

    assert [source for source in copied if not (REPOSITORY / source).exists()] == []
    assert {"pyproject.toml", "src"} <= set(copied)
    assert of_image(name, "USER") == ["10001:10001"]
    assert entry_point(name)[-1] == "/engine"


def test_gpu_image_takes_the_flavours_that_are_extras() -> None:
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    flavours = set(re.findall(r"FLAVOR=([a-z-]+)", read("Dockerfile.gpu")))

    assert flavours == {"tensorrt", "tensorrt-rtx"}
    assert flavours <= set(extras["project"]["optional-dependencies"])
    assert compose_service("gpu")["build"]["args"] == {"FLAVOR": "${FLAVOR:-tensorrt-rtx}"}


@pytest.mark.parametrize("service", ["cpu", "gpu"])
def test_compose_mounts_the_engine_where_the_image_serves_it(service: str) -> None:
    described = compose_service(service)
    name = Path(described["build"]["dockerfile"]).name
    places = {volume.removesuffix(":ro").rpartition(":")[2] for volume in described["volumes"]}

    assert described["profiles"] == [service]
    assert (DEPLOY / described["build"]["context"]).resolve() == REPOSITORY
    assert (REPOSITORY / described["build"]["dockerfile"]).is_file()
    assert places == {entry_point(name)[-1], *of_image(name, "VOLUME")}


def test_plans_are_cached_in_the_volume() -> None:
    (volume,) = of_image("Dockerfile.gpu", "VOLUME")
    mounted = {one["mountPath"] for one in container("kubernetes-gpu.yaml")["volumeMounts"]}

    assert image_environment("Dockerfile.gpu")["BEI_PLAN_CACHE"] == volume
    assert volume in mounted


@pytest.mark.parametrize("name", DOCKERFILES)
def test_health_check_of_an_image_follows_the_server(name: str) -> None:
    (check,) = of_image(name, "HEALTHCHECK")
    command = json.loads(check[check.index("[") :])
    command[0] = sys.executable

    def exit_code(port: int) -> int:
        environment = os.environ | {"BEI_PORT": str(port)}
        done = subprocess.run(command, env=environment, check=False, capture_output=True)
        return done.returncode

    with live_server(options=ServerOptions(port=0, api_keys=("secret",))) as server:
        assert exit_code(server.port) == 0
        stopped = server.port
    assert exit_code(stopped) == 1


@pytest.mark.parametrize("name", MANIFESTS)
def test_probes_ask_routes_that_answer_without_a_key(name: str) -> None:
    inside = container(name)
    paths = {
        probe: inside[f"{probe}Probe"]["httpGet"]["path"]
        for probe in ("startup", "liveness", "readiness")
    }

    assert paths == {"startup": "/health", "liveness": "/health", "readiness": "/ready"}
    assert set(paths.values()) | {"/metrics"} <= PUBLIC_PATHS
    for path in paths.values():
        assert ask("GET", path, options=ServerOptions(api_keys=("secret",))).status_code == 200


@pytest.mark.parametrize("name", MANIFESTS)
def test_objects_of_a_manifest_find_each_other(name: str) -> None:
    found = objects(name)
    template = found["Deployment"]["spec"]["template"]
    labels = template["metadata"]["labels"]
    ports = {port["name"]: port["containerPort"] for port in container(name)["ports"]}
    annotations = template["metadata"]["annotations"]
    mounted = {mount["name"] for mount in container(name)["volumeMounts"]}

    assert found["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert found["Service"]["spec"]["selector"] == labels
    assert found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert [port["targetPort"] for port in found["Service"]["spec"]["ports"]] == list(ports)
    assert int(annotations["prometheus.io/port"]) in ports.values()
    assert mounted == {volume["name"] for volume in pod(name)["volumes"]}


@pytest.mark.parametrize("name", MANIFESTS)
def test_pods_give_the_server_no_more_than_it_needs(name: str) -> None:
    inside, image = container(name), "Dockerfile.gpu" if "gpu" in name else "Dockerfile"
    user, group = of_image(image, "USER")[0].split(":")
    security = pod(name)["securityContext"]

    assert (security["runAsUser"], security["runAsGroup"]) == (int(user), int(group))
    assert security["runAsNonRoot"]
    assert inside["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert inside["resources"]["requests"] == inside["resources"]["limits"]


@pytest.mark.parametrize("name", MANIFESTS)
def test_no_service_writes_into_the_environment_of_the_server(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What Kubernetes would say of a service called `bei`.
    monkeypatch.setenv("BEI_PORT", "tcp://10.0.0.1:80")
    with pytest.raises(typer.BadParameter, match="integer"):
        commands()["serve"].make_context("serve", ["/engine"])

    assert pod(name)["enableServiceLinks"] is False


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The names on servers' pages after an answer and an error, each with its labels.

    Of two servers: vectors and scores have canaries of their own measure.
    """
    requests: list[tuple[str, str, dict[str, object]]] = [
        ("POST", "/embed", {"json": {"inputs": "w1 w2"}}),
        ("POST", "/embed", {"json": {}}),
        ("GET", "/metrics", {}),
    ]
    limits = PipelineLimits(result_cache_bytes=1024 * 1024)
    page = ask_all(requests, options=ServerOptions(pipeline=limits))[-1].text
    for task in (Task.EMBEDDING, Task.RERANKING):
        directory = fill(tmp_path_factory.mktemp("engine"), task)
        with live_server(FakeEngine(task), directory=directory) as server:
            page += httpx2.get(f"{server.url}/metrics").text
    found: dict[str, set[str]] = {}
    for name, labels in re.findall(r"^([a-z_]+)(\{.*\})? ", page, flags=re.MULTILINE):
        found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    return found


def dashboard() -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(read("grafana-dashboard.json"))
    return parsed


def dashboard_expressions() -> Iterator[str]:
    """List what the panels ask, with what Grafana puts in for its own variable."""
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            yield target["expr"].replace("$__rate_interval", "5m")


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(read("prometheus-rules.yaml"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def selectors(expression: str) -> list[VectorSelector]:
    """Parse a query, and return what it reads."""
    found = []

    def visit(node: Expr) -> None:
        if isinstance(node, VectorSelector):
            found.append(node)

    promql_parser.walk(promql_parser.parse(expression), visit)
    return found


def asked(expressions: Iterator[str] | list[str]) -> list[VectorSelector]:
    return [selector for expression in expressions for selector in selectors(expression)]


@pytest.mark.parametrize("source", ["rules", "dashboard"])
def test_metrics_that_are_watched_are_on_the_page(source: str, series: dict[str, set[str]]) -> None:
    watched = asked(
        dashboard_expressions() if source == "dashboard" else [rule["expr"] for rule in rules()]
    )

    unknown = {one.name for one in watched} - set(series) - SCRAPED
    foreign = {
        (one.name, matcher.name)
        for one in watched
        for matcher in one.matchers.matchers
        if matcher.name not in series.get(str(one.name), set()) | SCRAPED_LABELS
    }
    assert (unknown, foreign) == (set(), set())
    assert len(watched) >= 10


def test_dashboard_asks_for_labels_that_series_have(series: dict[str, set[str]]) -> None:
    for expression in dashboard_expressions():
        grouped = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", expression))))
        present = set().union(*(series[str(one.name)] for one in selectors(expression)))
        assert grouped <= present | SCRAPED_LABELS, expression


def test_reasons_that_alerts_name_are_those_of_the_server() -> None:
    matchers = [m for one in asked([r["expr"] for r in rules()]) for m in one.matchers.matchers]
    named = {reason for m in matchers if m.name == "err" for reason in m.value.split("|")}

    assert named <= {words.failure for words in WORDS.values()}
    assert named != set()


def test_panels_of_the_dashboard_do_not_overlap() -> None:
    cells = [
        (x, y)
        for at in (panel["gridPos"] for panel in dashboard()["panels"])
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]

    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def test_every_alert_is_tried() -> None:
    text = RULES_TEST.read_text(encoding="utf-8")

    untried = [rule["alert"] for rule in rules() if text.count(rule["alert"]) < 2]

    assert untried == []


@pytest.mark.parametrize(
    "command",
    [
        ["systemd-analyze", "verify"],
        ["hadolint", *(str(DEPLOY / name) for name in DOCKERFILES)],
        ["kubernetes-validate", "--strict", *(str(DEPLOY / name) for name in MANIFESTS)],
        ["kubeconform", "-strict", *(str(DEPLOY / name) for name in MANIFESTS)],
        ["promtool", "check", "rules", str(DEPLOY / "prometheus-rules.yaml")],
        ["promtool", "test", "rules", str(RULES_TEST)],
    ],
    ids=lambda command: " ".join(command[:2]) if command[0] != "hadolint" else "hadolint",
)
def test_linters_have_nothing_to_say(command: list[str], tmp_path: Path) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    if command[0] == "systemd-analyze":
        # It also looks for the command itself, which is not where the unit has it.
        here = read("bei.service").replace("/opt/bei/bin/bei", sys.executable)
        (tmp_path / "bei.service").write_text(here, encoding="utf-8")
        command = [*command, str(tmp_path / "bei.service")]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
