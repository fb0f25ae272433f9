"""Splits a pack that is too large for its topic.

See also: `services.ingest.uplink`, which sends the halves in its place.
"""

from dataclasses import replace

from edged.domain.place import Place
from edged.domain.samples.cursors import cursor_key
from edged.domain.samples.pack import Pack


def halves(pack: Pack) -> tuple[Pack, Pack]:
    """The pack's samples in two packs, in order. It has at least two.

    The first one's cursors are before the second one's samples: who resumes after the first reads those again, and
    loses none. A record that was skipped before them is skipped again.
    """
    middle = len(pack.samples) // 2
    cursors = dict(pack.cursors)
    for sample in reversed(pack.samples[middle:]):
        key = cursor_key(sample.device, sample.partition)
        after = pack.cursors.get(key, Place(0))
        topic_id = after.topic_id if after.incarnation == sample.incarnation else ""
        cursors[key] = Place(sample.offset, sample.incarnation, topic_id)  # what was before it is not known here
    return replace(pack, samples=pack.samples[:middle], cursors=cursors), replace(pack, samples=pack.samples[middle:])
