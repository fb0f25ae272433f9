"""A packet that comes again is recognised by its id, as long as that cannot name another one."""

from hypothesis import given
from hypothesis import strategies as st

from edged.domain.mqtt.resent import Resent


def written(resent, *ids, session=1, is_acknowledged):
    for each in ids:
        resent.arrived(session, each, is_resent=False)
        resent.written(session, each, is_acknowledged=is_acknowledged)


def test_what_was_written_and_not_acknowledged_is_recognised():
    resent = Resent()
    written(resent, 1, 2, is_acknowledged=False)
    assert resent.arrived(1, 1, is_resent=True) == "written"
    assert resent.arrived(1, 3, is_resent=False) == "new"


def test_an_acknowledgement_that_may_be_lost_is_recognised_while_ids_only_rise():
    resent = Resent()
    written(resent, 7, 8, 9, is_acknowledged=True)
    assert resent.arrived(1, 9, is_resent=True) == "written"


def test_where_a_broker_gives_an_id_again_at_once_it_may_be_another_packet():
    resent = Resent()
    written(resent, 1, 2, 1, is_acknowledged=True)
    assert resent.arrived(1, 1, is_resent=True) == "unknown"
    resent.written(1, 2, is_acknowledged=False)
    assert resent.arrived(1, 2, is_resent=True) == "written"


def test_ids_come_round_after_65535():
    resent = Resent()
    written(resent, 65_534, 65_535, 1, 2, is_acknowledged=True)
    assert resent.arrived(1, 2, is_resent=True) == "written"


def test_the_same_id_without_the_mark_is_another_packet():
    resent = Resent()
    written(resent, 5, is_acknowledged=True)
    assert resent.arrived(1, 5, is_resent=False) == "new"


def test_another_session_knows_nothing_of_the_one_before():
    resent = Resent()
    written(resent, 1, is_acknowledged=False)
    assert resent.arrived(2, 1, is_resent=True) == "unknown"
    resent.written(1, 1, is_acknowledged=False)
    assert resent.arrived(2, 1, is_resent=True) == "unknown"


def test_what_a_process_before_may_have_written_is_unknown_and_what_it_never_was_sent_is_new():
    resent = Resent()
    assert resent.arrived(1, 40, is_resent=True) == "unknown"
    written(resent, 50, is_acknowledged=True)
    assert resent.arrived(1, 51, is_resent=True) == "new", "lost on its way to this process"
    assert resent.arrived(1, 41, is_resent=True) == "unknown"


def test_what_another_client_may_have_had_is_unknown_until_the_next_new_packet():
    resent = Resent()
    written(resent, 50, is_acknowledged=False)
    resent.had_company()
    assert resent.arrived(1, 50, is_resent=True) == "written"
    assert resent.arrived(1, 51, is_resent=True) == "unknown"
    assert resent.arrived(1, 60, is_resent=False) == "new"
    assert resent.arrived(1, 61, is_resent=True) == "new"
    assert resent.arrived(1, 52, is_resent=True) == "unknown"


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 65_535), st.booleans(), st.booleans()), max_size=200))
def test_nothing_is_taken_for_written_that_was_not(events):
    resent = Resent()
    known: set[int] = set()
    current = 0
    for session, packet_id, is_resent, is_acknowledged in events:
        if session != current:
            known, current = set(), session
        origin = resent.arrived(session, packet_id, is_resent=is_resent)
        if origin == "written":
            assert packet_id in known
        resent.written(session, packet_id, is_acknowledged=is_acknowledged)
        known.add(packet_id)
