"""One member's own state: its weights, its pending contribution, and its part of the epoch's test.

All of it synchronous, one action of the group's log after the other. See also: `domain.group.step` for what an action
does to the weights, `services.group.follower`, which reads the actions from the log.
"""

from collections.abc import Sequence
from dataclasses import replace

from edged.domain.group import step as group_step
from edged.domain.group.records import Contribution
from edged.domain.group.state import Abandoned, Action, Begun, Closed, Diverged, HeldOutSums, Rejected, State
from edged.domain.nn import param_vector
from edged.domain.topology import Training
from edged.domain.training.state import Tally, TrainState
from edged.log import logger
from edged.services.group.checkpoints.recovery import Reason, RecoveryNeeded
from edged.services.group.contribution import ContributionMaker, PendingGradient
from edged.services.group.report import GroupEpoch, Traffic
from edged.services.training.evaluation import NOTHING, end_epoch


class Member:
    """The state of `edge` as a member. `apply` runs in a worker thread; nothing else is called meanwhile."""

    def __init__(self, training: Training, edge: str, contributions: ContributionMaker, state: TrainState) -> None:
        self._training = training
        self._edge = edge
        self._contributions = contributions
        self.state = state
        """The state after the last step."""
        self.pending: PendingGradient | None = None
        """This member's contribution to the present step, until the step is closed."""
        self.tested = NOTHING
        """This member's part of the running epoch's test."""
        self.last: Closed | None = None
        """The last step, without its mean."""

    def apply(self, group: State, action: Action) -> None:
        """Apply an action of the log to the weights. `group`: the state of the fold after it."""
        match action:
            case Closed():
                self._close_step(group, action)
            case Abandoned():
                logger().warning(
                    "exchange.abandoned", epoch=action.epoch, step=group.step, steps_left=action.steps_left
                )
            case Diverged():
                self._roll_back(action)
            case Begun():
                self._begin_epoch(action)
            case Rejected(edge) if edge == self._edge:
                self._contributions.reset()  # it would be refused again as part of the next gradient
                self.pending = None
            case _:
                pass

    def check_weights(self, expected: str, edge: str) -> None:
        """Raises RecoveryNeeded, and logs it, if the weights' digest is not `expected`, the group's and `edge`'s."""
        weights, position = param_vector.digest(self.state.params), self.state.position
        if weights != expected:
            logger().error(
                "exchange.diverged",
                epoch=position.epoch,
                step=position.step,
                weights=weights,
                expected_weights=expected,
                edge=edge,
            )
            raise RecoveryNeeded(Reason.WRONG_WEIGHTS, min_step=position.step)

    def end_epoch(self, group: State, sums: HeldOutSums, traffic: Traffic, *, counts: bool) -> GroupEpoch:
        """End the epoch with the group's test `sums`. `traffic`: the sums of its exchange."""
        members = tuple(each.edge for each in self.last.contributions) if self.last is not None else ()
        learnt = end_epoch(
            self._training,
            self.state,
            self.tested,
            num_samples=sums.num_samples,
            num_correct=sums.num_correct,
            loss=sums.loss,
            counts=counts,
        )
        announcer = next(iter(group.in_sync or members), "")
        return GroupEpoch(learnt, members, param_vector.digest(self.state.params), announcer, traffic, counts)

    def take_over(self, state: TrainState) -> None:
        """Continue from another member's state, divided into lanes as before."""
        state.division = self.state.division
        self.state, self.pending, self.last = state, None, None
        self._contributions.reset()

    def log_diverged(self, *, continues: bool) -> None:
        """Log that the group went back to older weights."""
        state = self.state
        logger().error(
            "train.diverged",
            epoch=state.position.epoch,
            step=state.position.step,
            restored_step=0 if state.fallback is None else state.fallback.step,
            slowdowns=state.slowdowns,
            goes_on=continues,
        )

    def _close_step(self, group: State, closed: Closed) -> None:
        state, pending = self.state, self.pending
        if pending is not None and pending.step == closed.step:
            if pending.slots is not None:
                state.slots |= pending.slots
            is_counted = _has_contributed(self._edge, closed.contributions)
            self._contributions.acknowledge(pending, is_counted=is_counted)
            self.pending = None
        group_step.apply_step(self._training, state, group, closed)
        for each in closed.contributions:
            state.tally = _added(state.tally, each.count, each.num_correct, each.loss)
        self.last = replace(closed, mean=None)

    def _roll_back(self, diverged: Diverged) -> None:
        group_step.roll_back(self.state, diverged)
        self._contributions.reset()
        self.pending = None
        if diverged.continues:
            self.log_diverged(continues=True)

    def _begin_epoch(self, begun: Begun) -> None:
        begin = begun.begin
        group_step.apply_begin(self.state, begin)
        logger().info(
            "exchange.begun",
            epoch=begin.epoch,
            step=self.state.position.step,
            steps=begin.num_steps,
            shares=dict(begin.members),
            edge=begin.edge,
            weights=begin.weights,
            backend=begin.backend,
        )


def _has_contributed(edge: str, contributions: Sequence[Contribution]) -> bool:
    return any(each.edge == edge for each in contributions)


def _added(tally: Tally, count: int, num_correct: int, loss: float) -> Tally:
    return Tally(
        tally.num_samples + count,
        tally.num_correct + num_correct,
        tally.loss + loss,
        tally.seconds,
        tally.wait_s,
        tally.decode_s,
    )
