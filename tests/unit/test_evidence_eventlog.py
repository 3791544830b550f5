"""Event logs: parsed within bounds, replayed as registers are extended, and never believed for their words."""

from __future__ import annotations

import contextlib
import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eaa.errors import MalformedInput, Reason
from eaa.evidence import eventlog
from eaa.evidence.eventlog import EventLog, is_event_log
from eaa.evidence.quote import Quote
from eaa.evidence.tdx import TDReport
from support.ccel import BOOT, NO_ACTION, REGISTERS, SHA256, SHA384, event, header
from support.vectors import vector


def refused(raw: bytes) -> Reason:
    with pytest.raises(MalformedInput) as caught:
        EventLog.parse(raw)
    return caught.value.reason


def test_replaying_gives_the_registers() -> None:
    """RTMR = SHA-384(RTMR || digest), from zero; register 1 of the log is RTMR0."""
    assert EventLog.parse(BOOT).replay() == REGISTERS


def test_a_log_of_nothing_leaves_every_register_at_zero() -> None:
    assert EventLog.parse(header()).replay() == (bytes(48),) * 4


@pytest.mark.parametrize("fill", [b"\0", b"\xff"])
@pytest.mark.parametrize("size", [1, 3, 4, 4096])
def test_what_fills_the_rest_of_the_memory_is_no_event(fill: bytes, size: int) -> None:
    assert EventLog.parse(BOOT + fill * size) == EventLog.parse(BOOT)


@pytest.mark.parametrize("fill", [b"\0", b"\xff"])
def test_an_event_may_end_in_what_memory_is_filled_with(fill: bytes) -> None:
    log = EventLog.parse(header() + event(1, b"x" + fill * 9) + fill * 100)
    assert [one.data for one in log.events] == [b"x" + fill * 9]


def test_what_is_only_said_is_measured_into_nothing() -> None:
    log = EventLog.parse(header() + event(1, b"said", kind=NO_ACTION) + event(0, b"into MRTD"))
    assert [one.rtmr for one in log.events] == [None, None]
    assert log.replay() == (bytes(48),) * 4
    assert not any(one.covers_data for one in log.events)


def test_the_words_of_an_event_count_where_their_hash_is_its_digest() -> None:
    covered, other = EventLog.parse(
        header() + event(2, b"words") + event(2, b"words", digests=[(SHA384, bytes(48))])
    ).events
    assert (covered.covers_data, other.covers_data) == (True, False)


def test_a_register_is_made_of_the_digests_of_its_own_algorithm() -> None:
    both = ((SHA256, 32), (SHA384, 48))
    digest = hashlib.sha384(b"x").digest()
    log = EventLog.parse(header(both) + event(1, b"x", digests=[(SHA256, bytes(32)), (SHA384, digest)]))
    assert log.replay()[0] == hashlib.sha384(bytes(48) + digest).digest()


def test_an_event_has_the_name_of_its_type() -> None:
    log = EventLog.parse(header() + event(1, b"x", kind=0x80000002) + event(1, b"x", kind=0x1234))
    assert [one.type_name for one in log.events] == ["EV_EFI_VARIABLE_BOOT", "0x1234"]


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(header()[:-1], id="a header cut short"),
        pytest.param(header() + event(1, b"x")[:-1], id="an event cut short"),
        pytest.param(struct.pack("<II20sI", 0, 4, bytes(20), 0), id="another first event"),
        pytest.param(struct.pack("<II20sI", 0, 3, bytes(20), 16) + b"Spec ID Event00\0", id="a log of TCG 1.2"),
        pytest.param(header(()), id="no algorithm"),
        pytest.param(header([(SHA256, 32)]), id="without SHA-384"),
        pytest.param(header([(SHA384, 32)]), id="SHA-384 of another size"),
        pytest.param(header([(SHA384, 48), (SHA384, 48)]), id="an algorithm twice"),
        pytest.param(header([(number, 48) for number in range(17)]), id="too many algorithms"),
        pytest.param(header()[:28] + struct.pack("<I", 1 << 31) + header()[32:], id="a header of gigabytes"),
        pytest.param(header() + event(5, b"x"), id="a register that no domain has"),
        pytest.param(header() + event(1, b"x", digests=[]), id="an event without digest"),
        pytest.param(header() + event(1, b"x", digests=[(SHA256, bytes(32))]), id="a digest of another algorithm"),
        pytest.param(header() + event(1, b"x", digests=[(SHA384, bytes(48))] * 2), id="a digest twice"),
        pytest.param(header() + event(1, b"")[:-4] + struct.pack("<I", 1 << 31), id="an event of gigabytes"),
        pytest.param(header() + struct.pack("<III", 1, 4, 1 << 31), id="digests without end"),
        pytest.param(BOOT + b"\0\xff" * 10, id="something else behind"),
    ],
)
def test_what_is_no_event_log_is_refused(raw: bytes) -> None:
    assert refused(raw) is Reason.EVENT_LOG_MALFORMED


def test_lengths_are_bounded_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(bytes(eventlog.MAX_EVENT_LOG_SIZE + 1)) is Reason.EVENT_LOG_MALFORMED
    monkeypatch.setattr(eventlog, "MAX_EVENTS", 3)
    assert refused(header() + event(1, b"x") * 4) is Reason.EVENT_LOG_MALFORMED
    assert len(EventLog.parse(header() + event(1, b"x") * 3).events) == 3


def test_a_log_is_known_by_its_first_event() -> None:
    assert is_event_log(header())
    assert not is_event_log(header()[:40])
    assert not is_event_log(bytes(100))


@given(st.binary(max_size=600))
def test_any_bytes_behind_a_header_are_events_or_malformed(tail: bytes) -> None:
    with contextlib.suppress(MalformedInput):
        assert [len(register) for register in EventLog.parse(header() + tail).replay()] == [48] * 4


@given(st.lists(st.tuples(st.integers(1, 4), st.binary(max_size=80)), max_size=30))
def test_any_boot_replays(events: list[tuple[int, bytes]]) -> None:
    log = EventLog.parse(header() + b"".join(event(register, data) for register, data in events))
    registers = [bytes(48)] * 4
    for register, data in events:
        registers[register - 1] = hashlib.sha384(registers[register - 1] + hashlib.sha384(data).digest()).digest()
    assert log.replay() == tuple(registers)
    assert [(one.register, one.data) for one in log.events] == events


def test_a_real_boot_replays_to_its_real_quote() -> None:
    """A log of Google's cloud, and the quote of the same boot."""
    path = vector("go-tdx-guest/ccel_data.dat")
    if not path.is_file():
        pytest.skip("no event log among the vectors")
    report = Quote.parse_prefix(vector("go-tdx-guest/cos-113-tdx-quote.dat").read_bytes())[0].body
    assert isinstance(report, TDReport)
    log = EventLog.parse(path.read_bytes())
    assert log.replay() == (report.rtmr0, report.rtmr1, report.rtmr2, report.rtmr3)
