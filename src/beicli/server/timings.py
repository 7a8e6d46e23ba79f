"""How long the parts of a request took, for whoever reads the header `Server-Timing`.

Browsers and proxies know this header (W3C, Server Timing), and it has fractions of a millisecond;
text-embeddings-inference's own, which stay, have none.
"""

from beicli.pipeline.results import Timing

SERVER_TIMING = "server-timing"


def server_timing(timing: Timing, total_s: float) -> str:
    """Write the header's value, in milliseconds; the total has more in it than the parts."""
    return (
        f"tokenize;dur={timing.tokenization_s * 1000:.3f}, "
        f"queue;dur={timing.queue_s * 1000:.3f}, "
        f"inference;dur={timing.inference_s * 1000:.3f}, "
        f"total;dur={total_s * 1000:.3f}"
    )
