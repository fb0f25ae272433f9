"""Applies the log's actions to a training state; used by members and by `edged replay`.

See also: `gradient_log` for which gradients make a step and the order of their sum, `training.learner` and
`training.optim` for the optimizer's arithmetic.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from edged.domain.group import compression, gradient_log, update_log
from edged.domain.group.records import Begin
from edged.domain.group.state import Closed, Diverged, Fold, Rules, State
from edged.domain.nn import param_vector
from edged.domain.topology import Job, Sgd, Training
from edged.domain.training import learner, optim
from edged.domain.training.state import Fallback, Params, TrainState


def rules(job: Job, num_parameters: int) -> Rules:
    """What the members agree on before the job's log begins."""
    decompress = partial(compression.decompress, n=num_parameters)
    return Rules(frozenset(job.members), job.digest, num_parameters, decompress, job.server or "")


def fold_of(training: Training) -> Fold:
    """The fold of the job's log, `Topology.train_topic`."""
    return update_log.fold if training.exchange.mode == "parameter_server" else gradient_log.fold


def apply_begin(state: TrainState, begin: Begin) -> None:
    """Move `state` to the first sample of the group's next epoch, over the Begin's snapshot."""
    state.position = replace(state.position, epoch=begin.epoch, sample=0)
    state.ends = dict(begin.ends)


def apply_step(training: Training, state: TrainState, group: State, closed: Closed) -> None:
    """Change weights, optimizer state and step count by a closed step. `group`: the state of the fold after it.

    With `sync_every` 1 the step's mean is a gradient, and the job's optimizer steps along it. Above 1 it is an outer
    gradient: the mean, over the members, of the weights in `state` minus their weights after a round of local steps;
    the outer step goes along it (Douillard et al. 2023, https://arxiv.org/abs/2311.08105, algorithm 1). Without a mean
    only the position changes; its sample is counted in full batches.

    An epoch's first mean proves that training had not diverged at the weights before it: `roll_back` returns to them.
    """
    if closed.mean is not None:
        if state.fallback is None or state.fallback.step < group.epoch_first_step:
            state.fallback = Fallback(closed.step, _copied(state.params), _all_copied(state.slots))
        grads = param_vector.split(closed.mean.copy(), state.params)  # clipping writes into it
        if training.exchange.sync_every == 1:
            learner.apply(training, state, grads, progress(group, closed.step))
        else:
            _outer_step(training, state, grads)
    num_samples = (closed.step + 1 - group.epoch_first_step) * training.exchange.sync_every * training.global_batch
    state.position = replace(state.position, step=closed.step + 1, sample=num_samples)


def is_useless(state: TrainState, group: State) -> bool:
    """Whether the running epoch, up to the present step, had nothing to train on: such a one does not count.

    All members answer alike at its end. One that ended early, or diverged, may have had something.
    """
    return not (state.tally.num_samples or group.is_abandoned or group.diverged_steps)


def roll_back(state: TrainState, diverged: Diverged) -> None:
    """Training has diverged: restore the fallback's weights, and halve the learning rate if training continues.

    Steps and samples are not rolled back: the log continues.
    """
    if state.fallback is not None:
        state.params, state.slots = _copied(state.fallback.params), _all_copied(state.fallback.slots)
    state.slowdowns += diverged.continues


def _copied(params: Params) -> Params:
    return {name: array.copy() for name, array in params.items()}


def _all_copied(slots: Mapping[str, Params]) -> dict[str, Params]:
    return {slot: _copied(values) for slot, values in slots.items()}


def progress(group: State, step: int) -> float:
    """Epochs trained before `step` of the running one, with their fraction: the argument of schedules."""
    assert group.begin is not None, "a step is of an epoch"
    return group.begin.epoch + (step - group.epoch_first_step) / group.begin.num_steps


def _outer_step(training: Training, state: TrainState, grads: param_vector.Params) -> None:
    outer = training.exchange.outer
    sgd = Sgd(outer.learning_rate, outer.momentum, nesterov=True)
    slots = {"velocity": state.slots[learner.OUTER]}
    optim.update(sgd, state.params, slots, grads, learning_rate=sgd.learning_rate, step=state.position.step)
