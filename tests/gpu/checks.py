"""What is found out on a GPU: builds, numbers, recordings, memory, serving and speed.

Everything goes through the commands that users type, or through a process of its own.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import yaml
from tests.gpu.cases import MIN_COSINE, Case
from tests.gpu.running import Check, CheckFailedError, run_command

_BEI = Path(sys.executable).parent / "bei"
_REPOSITORY = Path(__file__).parents[2]
# A plan of a large profile takes minutes to compile.
_BUILD_TIMEOUT_S = 1800.0
_RUN_TIMEOUT_S = 600.0
_START_TIMEOUT_S = 300.0
_MAX_NUM_TOKENS = 16384
# Recordings launch the same kernels, so nothing but the padding may differ.
_MAX_GRAPH_DIFFERENCE = 2e-3
_CONCURRENCIES = "1,8,64"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """Where checks find models and leave engines.

    sm: of the GPU. benches: whether speed is measured, and for how many seconds each time.
    """

    models: Path
    engines: Path
    sm: int
    bench_s: float | None

    def engine(self, name: str) -> Path:
        return self.engines / name.replace(" ", "-")


def list_checks(workplace: Workplace, cases: tuple[Case, ...]) -> Iterator[Check]:
    """Yield all checks, each after those that it needs."""
    yield Check(name="doctor", run=_doctor)
    for model in dict.fromkeys(case.model for case in cases):
        yield Check(name=f"reference {model}", run=partial(_reference, workplace, model))
    for case in cases:
        yield from _checks_of(workplace, case)
    for case in cases:
        if case.precision == "f16":
            yield from _checks_of_hybrid(workplace, case)


def _checks_of(workplace: Workplace, case: Case) -> Iterator[Check]:
    build, numbers = f"build {case.name}", f"numbers {case.name}"
    yield Check(name=build, run=partial(_build, workplace, case, "padded"))
    needs = (build, f"reference {case.model}")
    yield Check(
        name=numbers,
        run=partial(_numbers, workplace, case, workplace.engine(case.name)),
        needs=needs,
    )
    for what, run in (("graphs", _graphs), ("memory", _memory), ("serve", _serve)):
        yield Check(name=f"{what} {case.name}", run=partial(run, workplace, case), needs=(numbers,))
    if workplace.bench_s is not None:
        run_bench = partial(_bench, workplace, case.name)
        yield Check(name=f"bench {case.name}", run=run_bench, needs=(numbers,))


def _checks_of_hybrid(workplace: Workplace, case: Case) -> Iterator[Check]:
    build = f"build {case.name} hybrid"
    yield Check(name=build, run=partial(_build, workplace, case, "hybrid"))
    yield Check(
        name=f"numbers {case.name} hybrid",
        run=partial(_numbers, workplace, case, workplace.engine(f"{case.name} hybrid")),
        needs=(build, f"reference {case.model}"),
    )
    if workplace.bench_s is not None:
        yield Check(
            name=f"bench {case.name} hybrid",
            run=partial(_bench, workplace, f"{case.name} hybrid"),
            needs=(f"numbers {case.name} hybrid",),
        )


def _doctor() -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(
        run_command([_BEI, "doctor", "--json"], timeout_s=_RUN_TIMEOUT_S)
    )
    return found


def _reference(workplace: Workplace, model: str) -> Mapping[str, Any]:
    """Build the model for this CPU in float32, and compute the vectors to compare with."""
    engine = workplace.engine(f"reference {model}")
    config = write_config(workplace, model, "no_quant")
    run_command(
        [_BEI, "build", config, "-o", engine, "--backend", "openvino", "--precision", "f32"],
        timeout_s=_BUILD_TIMEOUT_S,
    )
    return _inside("outputs", engine)


def _build(workplace: Workplace, case: Case, layout: str) -> Mapping[str, Any]:
    name = case.name if layout == "padded" else f"{case.name} {layout}"
    config = write_config(workplace, case.model, case.quantization_type)
    command = [_BEI, "build", config, "-o", workplace.engine(name), "--json"]
    command += ["--backend", case.flavor, "--target", f"sm{workplace.sm}", "--layout", layout]
    if case.quantization_type == "no_quant":
        command += ["--precision", case.precision]
    result = json.loads(run_command(command, timeout_s=_BUILD_TIMEOUT_S))
    if result["precision"] != case.precision:
        raise CheckFailedError(f"built in {result['precision']}, wanted {case.precision}")
    plans = [path.stat().st_size for path in workplace.engine(name).rglob("*.plan")]
    return {"report": result["report"], "gpu": result["gpu"], "plan_bytes": plans}


def _numbers(workplace: Workplace, case: Case, engine: Path) -> Mapping[str, Any]:
    """Compare the vectors that this GPU computes with those of the CPU in float32."""
    found = _inside("outputs", engine)
    reference = workplace.engine(f"reference {case.model}")
    values = compare(np.load(_output(engine)), np.load(_output(reference)))
    if not values["mean_cosine"] >= MIN_COSINE[case.precision]:
        raise CheckFailedError(
            f"the mean cosine is {values['mean_cosine']:.6f}, wanted at least "
            f"{MIN_COSINE[case.precision]}; {values}"
        )
    return {**found, **values}


def compare(candidate: Any, reference: Any) -> dict[str, float]:
    """Return how near vectors are, [num_texts, dimension]; not a number where one has none."""
    if candidate.shape != reference.shape:
        raise CheckFailedError(f"vectors of shape {candidate.shape}, wanted {reference.shape}")
    norms = np.linalg.norm(candidate, axis=1) * np.linalg.norm(reference, axis=1)
    cosines = np.sum(candidate * reference, axis=1) / norms
    return {
        "mean_cosine": float(cosines.mean()),
        "min_cosine": float(cosines.min()),
        "max_difference": float(np.abs(candidate - reference).max()),
    }


def _graphs(workplace: Workplace, case: Case) -> Mapping[str, Any]:
    found = _inside("graphs", workplace.engine(case.name))
    if found["warnings"]:
        raise CheckFailedError(f"nothing was recorded: {found['warnings']}")
    if not found["max_difference"] <= _MAX_GRAPH_DIFFERENCE:
        raise CheckFailedError(f"recorded launches give other numbers: {found}")
    return found


def _memory(workplace: Workplace, case: Case) -> Mapping[str, Any]:
    found = _inside("memory", workplace.engine(case.name))
    # A batch that is split is padded otherwise.
    for when in ("during", "after"):
        if not found[f"max_difference_{when}"] <= _MAX_GRAPH_DIFFERENCE:
            raise CheckFailedError(f"other numbers {when} a shortage of memory: {found}")
    return found


def _serve(workplace: Workplace, case: Case) -> Mapping[str, Any]:
    """Start the server, ask it, and end it as an orchestrator would."""
    command = [str(_BEI), "serve", str(workplace.engine(case.name)), "--port", "0"]
    started_at = time.monotonic()
    log = workplace.engines / f"serve-{case.name.replace(' ', '-')}.log"
    with log.open("w+", encoding="utf-8") as stderr:
        process = subprocess.Popen(command, stderr=stderr, text=True)
        try:
            url = _wait_for_url(process, log)
            start_s = time.monotonic() - started_at
            body = {"input": ["a text", "another text"], "model": "any"}
            answer = httpx2.post(f"{url}/v1/embeddings", json=body, timeout=60)
            if answer.status_code != 200:
                raise CheckFailedError(f"the server answers {answer.status_code}: {answer.text}")
            num_vectors = len(answer.json()["data"])
        finally:
            process.terminate()
            code = process.wait(60)
    if code != 0:
        raise CheckFailedError(f"the server ended with {code}: {log.read_text()[-2000:]}")
    return {"start_s": start_s, "num_vectors": num_vectors}


def _wait_for_url(process: "subprocess.Popen[str]", log: Path) -> str:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        said = log.read_text(encoding="utf-8")
        found = re.search(r"http://\S+", said)
        if found:
            return found.group()
        if process.poll() is not None:
            raise CheckFailedError(f"the server ended with {process.returncode}: {said[-2000:]}")
        time.sleep(0.2)
    raise CheckFailedError(f"the server did not start in {_START_TIMEOUT_S:g} s")


def _bench(workplace: Workplace, name: str) -> Mapping[str, Any]:
    engine = workplace.engine(name)
    command = [_BEI, "bench", "--engine", engine, "--json", "--batch-size", "8"]
    command += ["--concurrency", _CONCURRENCIES, "--duration", str(workplace.bench_s)]
    return {"bench": json.loads(run_command(command, timeout_s=_RUN_TIMEOUT_S))}


def write_config(workplace: Workplace, model: str, quantization_type: str) -> Path:
    """Write a configuration of a model; return its path."""
    repository = {"source": "LOCAL", "repo": str(workplace.models.absolute() / model)}
    build = {
        "base_model": "encoder",
        "checkpoint_repository": repository,
        "max_num_tokens": _MAX_NUM_TOKENS,
        "quantization_type": quantization_type,
    }
    path = workplace.engines / f"{model}-{quantization_type}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"model_name": model, "trt_llm": {"build": build}}))
    return path


def _inside(what: str, engine: Path) -> dict[str, Any]:
    output = run_command(
        [sys.executable, "-m", "tests.gpu.inside", what, engine, _output(engine)],
        timeout_s=_RUN_TIMEOUT_S,
        environment={**os.environ, "PYTHONPATH": str(_REPOSITORY)},
    )
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def _output(engine: Path) -> Path:
    return engine.with_name(f"{engine.name}.npy")
