"""What the group's log makes of one member: its weights, the fate of its contributions, and the sums of an epoch.

All of it synchronous, an action after the other. What an action does to the weights is domain.group_step's subject,
reading the log and what follows from an epoch's end `following`'s.
"""

from dataclasses import replace

from edged.domain.group import step as group_step
from edged.domain.group.state import Abandoned, Action, Begun, Closed, Diverged, HeldOutSums, Rejected, State
from edged.domain.nn import param_vector
from edged.domain.topology import Training
from edged.domain.training.state import Tally, TrainState
from edged.errors import EdgedError
from edged.log import logger
from edged.services.group.contribution import ContributionMaker, PendingGradient
from edged.services.group.log.group_log import Traffic, of_edge
from edged.services.group.report import GroupEpoch
from edged.services.training.evaluation import NOTHING, end_epoch


class OutOfStepError(EdgedError):
    """The weights here are not those that the group's epoch begins with."""

    def __init__(self, step: int) -> None:
        super().__init__("the weights differ from the group's")
        self.step = step


class Member:
    """The state of `edge` as a member. `apply` runs in a worker thread; nothing else is called meanwhile."""

    def __init__(self, training: Training, edge: str, rounds: ContributionMaker, state: TrainState) -> None:
        self._training = training
        self._edge = edge
        self._rounds = rounds
        self.state = state
        """The state after the last step."""
        self.made: PendingGradient | None = None
        """What this member contributes to the present step, until it is known what became of it."""
        self.tested = NOTHING
        """This member's part of the running epoch's test."""
        self.last: Closed | None = None
        """The last step, without its mean."""
        self.ended: list[GroupEpoch] = []
        """Epochs that have ended since somebody looked."""

    def apply(self, group: State, action: Action, traffic: Traffic) -> Traffic:
        """What the log says becomes of the weights. `group`: the state of the fold behind it.

        Counts in `traffic`, the sums of the running epoch; returns those to go on with. Raises OutOfStepError.
        """
        match action:
            case Closed():
                self._close_step(group, action)
                traffic.steps += 1
                traffic.contributions += len(action.contributions)
                traffic.missed += len(action.missing)
            case Abandoned():
                logger().warning(
                    "exchange.abandoned", epoch=action.epoch, step=group.step, steps_left=action.steps_left
                )
            case Diverged():
                self._go_back(action)
            case Begun():
                return self._begin_epoch(group, action, traffic)
            case Rejected(edge) if edge == self._edge:
                self._rounds.reset()  # what was refused would be refused again as part of the next gradient
                self.made = None
            case _:
                pass
        return traffic

    def check_weights(self, expected: str, edge: str) -> None:
        """Raises OutOfStepError, and says so, if the weights are not those that `edge` has, as the group does."""
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
            raise OutOfStepError(position.step)

    def end_epoch(self, group: State, sums: HeldOutSums, traffic: Traffic) -> Traffic:
        """The epoch is over, by the test's `sums` and what the exchange came to; the sums of the next, empty."""
        members = tuple(each.edge for each in self.last.contributions) if self.last is not None else ()
        learnt = end_epoch(
            self._training,
            self.state,
            self.tested,
            num_samples=sums.num_samples,
            num_correct=sums.num_correct,
            loss=sums.loss,
        )
        announcer = next(iter(group.in_sync or members), "")
        self.ended.append(GroupEpoch(learnt, members, param_vector.digest(self.state.params), announcer, traffic))
        return Traffic()

    def take_over(self, found: TrainState) -> None:
        """Go on from another member's state, in lanes as before."""
        found.division = self.state.division
        self.state, self.made, self.last = found, None, None
        self._rounds.reset()

    def _close_step(self, group: State, closed: Closed) -> None:
        state, made = self.state, self.made
        if made is not None and made.step == closed.step:
            if made.slots is not None:
                state.slots |= made.slots
            self._rounds.acknowledge(made, is_counted=of_edge(closed.contributions, self._edge))
            self.made = None
        group_step.apply_step(self._training, state, group, closed)
        for each in closed.contributions:
            state.tally = _added(state.tally, each.count, each.num_correct, each.loss)
        self.last = replace(closed, mean=None)

    def _go_back(self, diverged: Diverged) -> None:
        group_step.roll_back(self.state, diverged)
        self._rounds.reset()
        self.made = None
        if diverged.continues:
            self.say_diverged(goes_on=True)

    def say_diverged(self, *, goes_on: bool) -> None:
        """The line about weights that the group went back from."""
        state = self.state
        logger().error(
            "train.diverged",
            epoch=state.position.epoch,
            step=state.position.step,
            restored_step=0 if state.fallback is None else state.fallback.step,
            slowdowns=state.slowdowns,
            goes_on=goes_on,
        )

    def _begin_epoch(self, group: State, begun: Begun, traffic: Traffic) -> Traffic:
        begin = begun.begin
        self.check_weights(begin.weights, begin.edge)
        if begin.epoch > self.state.position.epoch:
            traffic = self.end_epoch(group, begun.tested, traffic)
        group_step.apply_begin(self.state, begin)
        logger().info(
            "exchange.begun",
            epoch=begin.epoch,
            step=self.state.position.step,
            steps=begin.num_steps,
            shares=dict(begin.members),
            edge=begin.edge,
            weights=begin.weights,
        )
        return traffic


def _added(tally: Tally, count: int, num_correct: int, loss: float) -> Tally:
    return Tally(
        tally.num_samples + count,
        tally.num_correct + num_correct,
        tally.loss + loss,
        tally.seconds,
        tally.wait_s,
        tally.decode_s,
    )
