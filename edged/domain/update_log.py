"""What members of a parameter server read instead of gradients: epochs and updates, with the same meaning.

Covers the fold of the server's log into the same State and actions as `gradient_log`, and the records that the server
makes of a closed step. The server itself folds the gradients with `gradient_log.fold`. Its log holds, in this order: a
Begin for each Begun, the Updates for each Closed, a Tested for each TestTaken.
"""

from collections.abc import Iterator, Sequence

from edged.domain.exchange_records import Record, Update
from edged.domain.gradient_log import Closed, Folded, Rules, State


def fold(rules: Rules, state: State, record: Record, offset: int) -> Folded:
    """As `gradient_log.fold`, over the server's log; `state.next_offset` is of that log.

    Behind an Update's last part the rest of the state is what the server's was there.
    """
    raise NotImplementedError


def updates(closed: Closed, state: State, chunks: Sequence[bytes]) -> Iterator[Update]:
    """What a server writes of a closed step: `state` is its own behind it, `chunks` the payload of `closed.mean`.

    Without a mean there are no chunks.
    """
    raise NotImplementedError
