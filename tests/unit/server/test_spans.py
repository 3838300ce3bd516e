"""Stages of traced requests, and that they are nothing where a request is not traced."""

import threading
from contextvars import copy_context

import pytest

from clip_search_server.spans import CURRENT_SPAN, Span, Stage, untold, within
from tests.recorded_spans import RecordedSpan


def test_stages_lie_within_each_other() -> None:
    """What begins inside a block is a part of it, what begins behind it is not; notes are those given."""
    call = RecordedSpan()
    with within(call):
        with Stage("search", collection="default"), Stage("rank"):
            assert not any(span.ended for span in call.children)
        with Stage("read") as read:
            assert read is call.children[1]
    assert call.tree() == ["search", "search/rank", "read"]
    assert call.children[0].notes == {"collection": "default"}
    assert all(span.ended and span.error is None for span in call.every() if span is not call)
    assert CURRENT_SPAN.get() is None


def test_a_stage_that_fails_has_its_error() -> None:
    """And the error goes on."""
    call = RecordedSpan()
    with within(call), pytest.raises(ValueError, match="13"), Stage("read"):
        raise ValueError("13")
    assert isinstance(call.children[0].error, ValueError)


def test_a_stage_of_a_request_that_is_not_traced_is_nothing() -> None:
    """Whether nobody asked for traces, or this request is left out of them."""
    with Stage("read") as nothing, within(None), Stage("read") as still_nothing:
        assert (nothing, still_nothing, CURRENT_SPAN.get()) == (None, None, None)
    call = RecordedSpan()
    with within(call), within(None), Stage("read") as left_out:
        assert left_out is None
    assert call.children == []


def test_work_can_be_left_out_of_a_trace_that_its_log_lines_are_in() -> None:
    """No stage of it is a span, and where nothing is traced that is so anyway."""
    assert untold() is None
    call = RecordedSpan()
    with within(call), within(untold()), Stage("read") as read:
        assert read is None
        current = CURRENT_SPAN.get()
        assert current is not None
        assert current.trace_id == call.trace_id
    assert call.children == []


def test_stages_of_a_request_with_too_many_go_to_none() -> None:
    """Where a span takes no more children, what is inside belongs to it and not to a span that is not there."""
    full = Span()
    with within(full), Stage("read") as read:
        assert read is None
        assert CURRENT_SPAN.get() is full


def test_a_thread_that_is_given_the_context_goes_on_with_the_trace() -> None:
    """As those of reads and writes are."""
    call = RecordedSpan()

    def work() -> None:
        with Stage("rank"):
            pass

    with within(call), Stage("search"):
        thread = threading.Thread(target=copy_context().run, args=(work,), name="reader")
        thread.start()
        thread.join()
    assert call.tree() == ["search", "search/rank"]
    assert call.children[0].children[0].thread == "reader"
