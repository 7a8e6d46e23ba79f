"""How long one short text takes on an idle server, and how much of that is the forward pass."""

import argparse
import json
import statistics
from contextlib import closing
from pathlib import Path

from measuring import connect, median_ms, serving

from beicli.artifact.directory import EngineArtifact
from beicli.engine.batch import Batch
from beicli.engine.load import load_engine
from beicli.engine.options import EngineOptions
from beicli.pipeline.loaded_engine import open_tokenizer

SHORT_TEXT = "How do I reset my password?"
NUM_BLOCKS = 9


def main() -> None:
    """Measure each engine and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", type=Path, action="append", required=True)
    engines = parser.parse_args().engine
    print(json.dumps({str(path): measure_idle(EngineArtifact.open(path)) for path in engines}))


def measure_idle(artifact: EngineArtifact) -> dict[str, float]:
    """Median times of one short text, in milliseconds: forward pass, and HTTP with an idle server.

    Blocks of both alternate, so that a change of the machine's speed meets both. The client is
    `http.client`, the lightest there is here; a pause before each call lets caches and cores go to
    rest alike for both, as they do between requests.
    """
    engine = load_engine(artifact, EngineOptions())
    tokenizer = open_tokenizer(artifact.path, artifact.manifest)
    batch = Batch.from_sequences([tokenizer.encode([SHORT_TEXT])[0].sequence])
    body = json.dumps({"input": SHORT_TEXT, "encoding_format": "base64"})
    forwards: list[float] = []
    https: list[float] = []
    with serving(artifact.path) as (url, _), closing(connect(url)) as connection:

        def ask() -> None:
            connection.request("POST", "/v1/embeddings", body, {"content-type": "application/json"})
            connection.getresponse().read()

        for _ in range(NUM_BLOCKS):
            forwards.append(median_ms(lambda: engine.forward(batch)))
            https.append(median_ms(ask))
    engine.close()
    return {
        "forward_p50_ms": round(statistics.median(forwards), 2),
        "http_p50_ms": round(statistics.median(https), 2),
        "overhead_p50_ms": round(
            statistics.median(h - f for h, f in zip(https, forwards, strict=True)), 2
        ),
    }


if __name__ == "__main__":
    main()
