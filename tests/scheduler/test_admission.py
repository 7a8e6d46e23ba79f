import pytest
from hypothesis import given
from hypothesis import strategies as st

from beicli.errors import (
    DeadlineExceededError,
    DeadlineTooSoonError,
    OverloadedError,
    QueueFullError,
)
from beicli.scheduler.admission import (
    MAX_RETRY_AFTER_S,
    AdmissionLimits,
    QueueState,
    check_deadline,
    check_limits,
    too_many_requests,
    whole_seconds,
)
from beicli.scheduler.terms import Priority

LIMITS = AdmissionLimits(max_wait_s=2, max_waiting_tokens=1000)
EMPTY = QueueState(num_sequences=0, num_tokens=0, priority=Priority.BULK, wait_s=0.0)


def waiting(
    num_tokens: int, wait_s: float | None, priority: Priority = Priority.BULK
) -> QueueState:
    return QueueState(num_sequences=3, num_tokens=num_tokens, priority=priority, wait_s=wait_s)


def test_who_would_wait_too_long_hears_when_that_is_over() -> None:
    with pytest.raises(QueueFullError) as caught:
        check_limits(waiting(500, 5.5), 10, LIMITS)

    assert caught.value.message == "Model is overloaded"
    assert caught.value.hint == "it would wait about 5.5 s, and 2 s are allowed"
    assert caught.value.retry_after_s == 4
    assert caught.value.queue == {
        "waiting_inputs": 3,
        "waiting_tokens": 500,
        "estimated_wait_ms": 5500,
    }


def test_a_query_may_be_given_less_time_to_wait_than_documents() -> None:
    limits = AdmissionLimits(max_wait_s=100, max_interactive_wait_s=0.5)
    check_limits(waiting(500, 0.4, Priority.INTERACTIVE), 10, limits)
    check_limits(waiting(500, 90.0, Priority.BULK), 10, limits)

    with pytest.raises(QueueFullError, match="Model is overloaded"):
        check_limits(waiting(500, 0.6, Priority.INTERACTIVE), 10, limits)


def test_more_tokens_than_may_wait_are_refused_whatever_is_known_of_time() -> None:
    check_limits(waiting(500, None), 500, LIMITS)

    with pytest.raises(QueueFullError) as caught:
        check_limits(waiting(500, None), 501, LIMITS)

    assert caught.value.hint == (
        "500 tokens wait, and with this request's 501 there would be more than the 1000 that may"
    )
    assert "estimated_wait_ms" not in caught.value.queue


def test_a_large_request_is_not_refused_where_nothing_waits() -> None:
    check_limits(EMPTY, 1_000_000, LIMITS)


def test_a_deadline_before_the_answer_is_refused_at_once() -> None:
    check_deadline(waiting(500, 1.0), 0.5, 1.5)

    with pytest.raises(DeadlineTooSoonError) as caught:
        check_deadline(waiting(500, 1.0), 0.5, 0.2)

    assert caught.value.hint == (
        "it would take about 1.500 s, and its deadline is in 0.200 s; give it more time, or send "
        "it again later"
    )
    assert caught.value.retry_after_s == 2


def test_a_deadline_that_is_over_is_said_to_be() -> None:
    with pytest.raises(DeadlineExceededError) as caught:
        check_deadline(waiting(500, None), 0.0, -1.5)

    assert caught.value.message == "the deadline of this request passed 1.500 s ago"


def test_a_deadline_is_not_judged_by_a_wait_that_nobody_knows() -> None:
    check_deadline(waiting(500, None), 10.0, 0.001)


def test_a_request_too_many_hears_how_long_the_queue_is() -> None:
    error = too_many_requests(7, waiting(500, 3.2))

    assert type(error) is OverloadedError
    assert error.hint == "7 requests are being served; retry after 4 seconds"
    assert error.queue["waiting_tokens"] == 500


@given(st.floats(min_value=-10, max_value=1e6))
def test_a_wait_is_rounded_up_to_seconds_that_a_client_can_wait(duration_s: float) -> None:
    seconds = whole_seconds(duration_s)

    assert 1 <= seconds <= MAX_RETRY_AFTER_S
    assert seconds >= min(duration_s, MAX_RETRY_AFTER_S)
    assert seconds - 1 < max(duration_s, 1)
