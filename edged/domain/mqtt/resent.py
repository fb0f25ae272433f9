"""Recognises packets that a broker sends again although Kafka holds them: by packet ids, within one process.

A packet whose acknowledgement did not reach the broker comes again with its packet id, marked as resent, at the next
connection of the same session. Where the acknowledgement was never sent, that is certain. Where it was sent and the
connection broke, it may have arrived, and the id may name another packet by now, unless the broker counts its ids up,
as Mosquitto does, so that each comes round only after 65,535 others: whether it does is watched.
"""

from collections import OrderedDict
from typing import Literal

Origin = Literal["new", "written", "unknown"]
"""`written`: Kafka holds it. `unknown`: Kafka may hold it."""

_MAX_KNOWN = 4096
_IDS = 0xFFFF
_HALF = 1 << 15


class Resent:
    """For one client id; forgets everything when the broker has lost the session."""

    def __init__(self) -> None:
        self._session = 0
        self._sent: OrderedDict[int, bool] = OrderedDict()
        """By packet id of those in Kafka: whether the acknowledgement was sent."""
        self._first = 0
        self._last = 0
        self._counts_up = True

    def arrived(self, session: int, packet_id: int, *, is_resent: bool) -> Origin:
        """What is known of the packet. To be called once for each, in the order received."""
        if session != self._session:
            self._session, self._first, self._last, self._counts_up = session, 0, 0, True
            self._sent.clear()
        if is_resent:
            return self._origin(packet_id)
        self._sent.pop(packet_id, None)
        if self._last and not _is_after(self._last, packet_id):
            self._counts_up = False
        self._first = self._first or packet_id
        self._last = packet_id
        return "new"

    def written(self, session: int, packet_id: int, *, is_acknowledged: bool) -> None:
        """Kafka holds the packet. `is_acknowledged`: whether its acknowledgement was sent."""
        if session != self._session:
            return
        self._sent[packet_id] = is_acknowledged
        self._sent.move_to_end(packet_id)
        if len(self._sent) > _MAX_KNOWN:
            self._sent.popitem(last=False)

    def had_company(self) -> None:
        """Another client has had the session: what the broker sends again may have come to that one."""
        self._first = 0

    def _origin(self, packet_id: int) -> Origin:
        was_sent = self._sent.get(packet_id)
        if was_sent is None:  # the broker sent it before, to this client or another
            is_ours = self._counts_up and self._first and _is_after(self._first, packet_id)
            return "new" if is_ours else "unknown"
        return "unknown" if was_sent and not self._counts_up else "written"


def _is_after(earlier: int, later: int) -> bool:
    return 0 < (later - earlier) % _IDS < _HALF
