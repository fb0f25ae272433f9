"""The output of `edged replay`: epoch by epoch, or step by step, as text or JSON."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TextIO

from edged.domain.counted import counted
from edged.domain.group.records import Contribution
from edged.domain.group.replay import (
    EpochAbandoned,
    EpochBegun,
    NotCounted,
    Proof,
    Replay,
    ReplayEvent,
    RolledBack,
    StepApplied,
)
from edged.domain.group.state import HeldOutSums
from edged.domain.text import shown

_SHOWN = 16
"""Hexadecimal digits of a hash in the text."""


@dataclass(slots=True)
class _Sums:
    """One edge's contributions to an epoch."""

    steps: int = 0
    samples: int = 0
    loss: float = 0.0
    correct: int = 0
    missed: int = 0

    def add(self, contribution: Contribution) -> None:
        self.steps += 1
        self.samples += contribution.count
        self.loss += contribution.loss
        self.correct += contribution.num_correct

    def as_json(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "samples": self.samples,
            "loss": _ratio(self.loss, self.samples),
            "accuracy": _ratio(self.correct, self.samples),
            "missed": self.missed,
        }


@dataclass(slots=True)
class _Epoch:
    """An epoch as far as the replay went; `begun` is None if the replay started in the middle of it.

    `steps_left`: of an abandoned epoch.
    """

    number: int
    begun: EpochBegun | None
    steps: int = 0
    steps_left: int = 0
    edges: dict[str, _Sums] = field(default_factory=dict)
    tested: dict[str, Any] | None = None

    def add(self, step: StepApplied) -> None:
        self.steps += 1
        for contribution in step.contributions:
            self.edges.setdefault(contribution.edge, _Sums()).add(contribution)
        for edge in step.missing:
            self.edges.setdefault(edge, _Sums()).missed += 1

    def as_json(self) -> dict[str, Any]:
        begun = self.begun
        return {
            "epoch": self.number,
            "begun_by": begun and begun.edge,
            "first_step": begun and begun.step,
            "num_steps": begun and begun.num_steps,
            "shares": begun and begun.shares,
            "quarantine_end": begun and begun.quarantine_end,
            "backend": begun and begun.backend,
            "steps": self.steps,
            "steps_left": self.steps_left,
            "edges": {edge: self.edges[edge].as_json() for edge in sorted(self.edges)},
            "tested": self.tested,
        }


class Report:
    """Collects a replay's events, and writes them as text to `output`, if there is one."""

    def __init__(self, output: TextIO | None, *, with_steps: bool) -> None:
        self._output = output
        self._with_steps = with_steps
        self._epochs: list[_Epoch] = []
        self._steps: list[StepApplied] = []
        self._proofs: list[Proof] = []
        self._not_counted: Counter[tuple[str, str]] = Counter()
        self._end = (0, "")

    @property
    def holds(self) -> bool:
        """Whether all claims about the weights hold."""
        return all(proof.holds for proof in self._proofs)

    def take(self, events: Iterable[ReplayEvent]) -> None:
        """Add the next events."""
        for event in events:
            match event:
                case EpochBegun():
                    self._begin(event)
                case StepApplied():
                    self._step(event)
                case EpochAbandoned():
                    self._epochs[-1].steps_left = event.steps_left
                case RolledBack():
                    self._write(f"  {_rollback_text(event)}")
                case Proof():
                    self._proofs.append(event)
                    self._write(_proof_text(event))
                case NotCounted():
                    self._not_counted[event.edge, event.reason] += 1
                    if self._with_steps:
                        self._write(f"  offset {event.offset}: {_reason_text(event.edge, event.reason)}")

    def end(self, replay: Replay) -> None:
        """The replay has reached the end of the log."""
        self._end = step, weights = replay.step, replay.weights()
        self._write_epoch(replay.tested)
        for (edge, reason), times in sorted(self._not_counted.items()):
            self._write(f"not counted: {times} × {_reason_text(edge, reason)}")
        self._write(f"the log leads to step {step}, weights {weights[:_SHOWN]}")
        differing = sum(not proof.holds for proof in self._proofs)
        self._write(
            f"{differing} of {counted(len(self._proofs), 'proof')} failed" if differing else _all_proven(self._proofs)
        )

    def as_json(self) -> dict[str, Any]:
        """The whole report; steps only if they were asked for."""
        return {
            "holds": self.holds,
            "step": self._end[0],
            "weights": self._end[1],
            "epochs": [epoch.as_json() for epoch in self._epochs],
            **({"steps": [_step_json(step) for step in self._steps]} if self._with_steps else {}),
            "proofs": [
                {**proof.claim._asdict(), "replayed": proof.weights, "holds": proof.holds} for proof in self._proofs
            ],
            "not_counted": [
                {"edge": edge, "reason": reason, "records": times}
                for (edge, reason), times in sorted(self._not_counted.items())
            ],
        }

    def _begin(self, begun: EpochBegun) -> None:
        self._write_epoch(begun.tested)
        self._epochs.append(_Epoch(begun.epoch, begun))
        shares = ", ".join(f"{edge} {share:.0%}" for edge, share in begun.shares.items())
        quarantine = f"; quarantine up to {begun.quarantine_end}" if begun.quarantine_end else ""
        steps = f"{counted(begun.num_steps, 'step')} from step {begun.step} on"
        self._write(f"epoch {begun.epoch}: {steps}; {shares}; gradients by {begun.backend}{quarantine}")

    def _step(self, step: StepApplied) -> None:
        if not self._epochs:
            self._epochs.append(_Epoch(step.epoch, None))
        self._epochs[-1].add(step)
        if self._with_steps:
            self._write(_step_text(step))
            if self._output is None:
                self._steps.append(step)

    def _write_epoch(self, tested: HeldOutSums) -> None:
        """Write the results of the epoch that ends here."""
        if not self._epochs:
            return
        epoch = self._epochs[-1]
        if tested.num_samples:
            epoch.tested = {
                "edges": tested.num_members,
                "samples": tested.num_samples,
                "loss": _ratio(tested.loss, tested.num_samples),
                "accuracy": _ratio(tested.num_correct, tested.num_samples),
            }
        for edge in sorted(epoch.edges):
            sums = epoch.edges[edge].as_json()
            of_steps = f"{sums['steps']} of {counted(epoch.steps, 'step')}"
            self._write(f"  {edge}: {of_steps}, {_result_text(sums)}, {sums['missed']} missed")
        if epoch.steps_left:
            self._write(
                f"  abandoned with {counted(epoch.steps_left, 'step')} left: none of its members sent anything any more"
            )
        if epoch.tested:
            self._write(f"  tested by {epoch.tested['edges']}: {_result_text(epoch.tested)}")

    def _write(self, line: str) -> None:
        if self._output is not None:
            print(line, file=self._output)


def _step_json(step: StepApplied) -> dict[str, Any]:
    return {
        "epoch": step.epoch,
        "step": step.step,
        "offset": step.offset,
        "contributions": {
            each.edge: {
                "samples": each.count,
                "loss": _ratio(each.loss, each.count),
                "accuracy": _ratio(each.num_correct, each.count),
            }
            for each in step.contributions
        },
        "missing": list(step.missing),
    }


def _step_text(step: StepApplied) -> str:
    parts = [
        f"{each.edge} {each.count} (loss {each.loss / each.count:.4f})" if each.count else f"{each.edge} 0"
        for each in step.contributions
    ]
    missing = f"; missing {', '.join(step.missing)}" if step.missing else ""
    return f"  step {step.step}: {', '.join(parts) or 'nobody'}{missing}"


def _rollback_text(event: RolledBack) -> str:
    end = "on with half the learning rate" if event.continues else "training ends"
    return f"step {event.step}: training diverged; back to the weights of step {event.restored_step}, {end}"


def _result_text(sums: dict[str, Any]) -> str:
    if not sums["samples"]:
        return "0 samples"
    return f"{counted(sums['samples'], 'sample')}, loss {sums['loss']:.4f}, accuracy {sums['accuracy']:.3f}"


def _proof_text(proof: Proof) -> str:
    claim = proof.claim
    if not proof.weights:
        return f"NOT PROVEN: {claim.name}: the log does not lead to step {claim.step} from where the replay began"
    if proof.holds:
        return f"proven: {claim.name}, step {claim.step}, weights {proof.weights[:_SHOWN]}"
    return (
        f"DIFFERENT: {claim.name}, step {claim.step}: weights {claim.weights[:_SHOWN]},"
        f" but the log leads to {proof.weights[:_SHOWN]}"
    )


def _all_proven(proofs: list[Proof]) -> str:
    if not proofs:
        return "no claim about the weights was found"
    return f"all {counted(len(proofs), 'hash')} are proven" if len(proofs) > 1 else "the one hash is proven"


def _reason_text(edge: str, reason: str) -> str:
    return shown(f"{edge or 'nobody named'}: {reason}")


def _ratio(total: float, samples: int) -> float | None:
    return total / samples if samples else None
