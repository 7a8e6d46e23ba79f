"""Who waits for which sequence: equal sequences are one piece of work, whoever asked for them.

Owned by the event loop. Of a piece of work a slot's thread reads what is to be computed and writes
`row` or `failure`, before the loop hears that it is finished.
"""

from asyncio import Future
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from beicli.engine.batch import Float32, TokenSequence
from beicli.errors import (
    BeiError,
    DeadlineExceededError,
    EngineError,
    EngineLostError,
    UnhealthyError,
)
from beicli.scheduler.terms import Priority

# Token ids, token types, and whether it is the tokens' outputs that are wanted.
WorkKey = tuple[bytes, bytes | None, bool]


class NotFiniteError(Exception):
    """The model returned infinities, or what is no number."""


@dataclass(slots=True, eq=False)
class Work:
    """One sequence to compute, and the places in requests that its row goes to.

    num_tokens: to which the engine pads it if it is the longest of its batch.
    waiters: of each request that waits, which of its inputs this is.
    cancelled: nobody waits any more, nor will: whoever comes with this sequence gets new work.
    priority: of the queue it waits in. latest_start_at: when the most patient of the waiters gives
        up, less the time it takes.
    is_running: a slot has it.
    """

    key: WorkKey
    sequence: TokenSequence
    needs_tokens: bool
    num_tokens: int = 0
    waiters: "dict[Request, list[int]]" = field(default_factory=dict)
    cancelled: bool = False
    priority: Priority = Priority.INTERACTIVE
    latest_start_at: float = float("inf")
    is_running: bool = False
    row: Float32 | None = None
    failure: Exception | None = None


@dataclass(slots=True, eq=False)
class Request:
    """One caller's sequences and what has come back of them.

    priority: of the work that is done for it. latest_start_at: when the last of it has to start.
    work: the distinct ones; num_missing: how many of them are not finished.
    queue_s, inference_s: sums over the sequences.
    """

    done: Future[None]
    submitted_at: float
    rows: list[Float32 | None]
    priority: Priority = Priority.INTERACTIVE
    latest_start_at: float = float("inf")
    work: list[Work] = field(default_factory=list)
    num_missing: int = 0
    queue_s: float = 0.0
    inference_s: float = 0.0


class Requests:
    """The requests that wait, and the work they wait for.

    padded_length: of the engine.
    """

    def __init__(self, padded_length: Callable[[int], int]) -> None:
        self._padded_length = padded_length
        self._unfinished: dict[WorkKey, Work] = {}

    def join(
        self, request: Request, sequences: Sequence[TokenSequence], *, needs_tokens: bool
    ) -> list[Work]:
        """Let `request` wait for `sequences`; return the work that nobody else had asked for.

        Who joins must `leave`, whatever happens to that work.
        """
        fresh = []
        for row, sequence in enumerate(sequences):
            key = work_key(sequence, needs_tokens=needs_tokens)
            work = self._unfinished.get(key)
            if work is None or _is_less_urgent(work, request):
                work = self._begin(Work(key, sequence, needs_tokens), request, instead_of=work)
                fresh.append(work)
            rows = work.waiters.get(request)
            if rows is None:
                work.waiters[request] = [row]
                work.latest_start_at = max(work.latest_start_at, request.latest_start_at)
                request.work.append(work)
            else:
                rows.append(row)
        request.num_missing = len(request.work)
        return fresh

    def _begin(self, work: Work, request: Request, *, instead_of: Work | None) -> Work:
        """Note new work for `request`, and let who waits for the same less urgently wait for it."""
        work.num_tokens = self._padded_length(len(work.sequence))
        work.priority, work.latest_start_at = request.priority, request.latest_start_at
        if instead_of is not None:
            instead_of.cancelled = True
            work.latest_start_at = max(work.latest_start_at, instead_of.latest_start_at)
            work.waiters = instead_of.waiters
            instead_of.waiters = {}
            for other in work.waiters:
                other.work[other.work.index(instead_of)] = work
        self._unfinished[work.key] = work
        return work

    def expire(self, expired: Iterable[Work], *, now: float) -> list[Work]:
        """Fail whoever's time is over; return the work that others wait for all the same.

        They came while it was taken out of the queue.
        """
        remaining = []
        for work in expired:
            for request in [each for each in work.waiters if each.latest_start_at < now]:
                _fail(
                    request,
                    DeadlineExceededError(
                        "the deadline of this request comes before it could be computed",
                        hint="give it more time, or send fewer texts in a request",
                    ),
                )
                self.leave(request)
            if not work.cancelled:
                work.latest_start_at = max(each.latest_start_at for each in work.waiters)
                remaining.append(work)
        return remaining

    def abandon(self, fresh: Iterable[Work], error: BeiError) -> None:
        """Fail whoever waits for work that cannot be queued: it may have taken others' place."""
        for work in fresh:
            for request in list(work.waiters):
                _fail(request, error)
                self.leave(request)

    def leave(self, request: Request) -> None:
        """Let `request` wait no more; work that nobody else waits for is cancelled."""
        if request.num_missing == 0:
            return
        for work in request.work:
            if work.waiters.pop(request, None) is not None and not work.waiters:
                work.cancelled = True
                self._forget(work)

    def finish(self, finished: Iterable[Work], *, started_at: float, finished_at: float) -> None:
        """Hand out the rows of computed work, and wake whoever has all of them, or an error."""
        for work in finished:
            self._forget(work)
            for request, rows in work.waiters.items():
                # Who joined late waited less, and for a part of the computation or none of it.
                request.queue_s += len(rows) * max(started_at - request.submitted_at, 0.0)
                began_at = max(started_at, request.submitted_at)
                request.inference_s += len(rows) * max(finished_at - began_at, 0.0)
                for row in rows:
                    request.rows[row] = work.row
                request.num_missing -= 1
                _wake(request, work, rows[0])
            work.waiters.clear()

    def _forget(self, work: Work) -> None:
        # Cancelled work was forgotten before, and there may be new work in its place.
        if self._unfinished.get(work.key) is work:
            del self._unfinished[work.key]


def work_key(sequence: TokenSequence, *, needs_tokens: bool) -> WorkKey:
    """Return what two inputs have in common exactly when one computation answers both."""
    types = sequence.token_type_ids
    return sequence.input_ids.tobytes(), None if types is None else types.tobytes(), needs_tokens


def _is_less_urgent(work: Work, request: Request) -> bool:
    """Whether `request` would wait too long for work that waits among what is less urgent."""
    is_more_urgent = request.priority is Priority.INTERACTIVE and work.priority is Priority.BULK
    # What a slot has taken in the meantime is computed once more; nothing is lost by that.
    return is_more_urgent and not work.is_running


def _wake(request: Request, work: Work, row: int) -> None:
    if work.failure is not None:
        _fail(request, _explain(work.failure, row))
    elif request.num_missing == 0 and not request.done.done():
        request.done.set_result(None)


def _fail(request: Request, error: BeiError) -> None:
    if not request.done.done():
        request.done.set_exception(error)


def _explain(failure: Exception, row: int) -> BeiError:
    """Make the error of a request whose input `row` failed."""
    if isinstance(failure, UnhealthyError):
        return failure
    if isinstance(failure, EngineLostError):
        return UnhealthyError("the engine is lost, and the server ends", hint="send it again")
    if isinstance(failure, NotFiniteError):
        return EngineError(f"the model returned numbers that are not finite for input {row}")
    error = EngineError(
        f"the engine could not compute input {row}: {type(failure).__name__}",
        hint="the server's log has the details",
    )
    error.__cause__ = failure
    return error
