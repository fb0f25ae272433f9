"""Whether this member can compute an epoch as its Begin says, and what it says if not.

See also: `domain.group.formats` for how a group agrees on a backend.
"""

from edged.domain.group import formats
from edged.domain.training.learner import Learner
from edged.log import logger
from edged.ports import Health
from edged.services.group.follower import Follower

PART = "kernels"
"""Degraded, for `Health`, from `take_up` on to the epoch's end if this member cannot."""


def take_up(learner: Learner, follower: Follower, health: Health) -> bool:
    """Compute the running epoch by its backend; False if that is not here, and the member is to send no gradients.

    The weights would be the same bits on all members even so; but the log says what its gradients were computed by.
    """
    begin, step, own = follower.begin, follower.group.step, learner.backend
    backend = begin.backend
    if not learner.use(follower.state, backend):
        reason = f"the group's epoch is computed by {backend}, this node has {own}: it takes part again in the next"
        health.degraded(PART, reason, awaited=False)
        logger().error("exchange.left_out", epoch=begin.epoch, step=step, backend=backend, own=own)
        return False
    edges = [] if backend == own else formats.without(own, follower.announced, begin.members)
    if edges:
        logger().info("exchange.held_back", epoch=begin.epoch, step=step, backend=backend, own=own, edges=edges)
    return True
