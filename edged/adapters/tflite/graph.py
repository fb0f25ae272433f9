"""A TFLite model as plain values: tensors, and the operators in the order of execution.

See also: `lowering` (from layers to a graph), `int8` (quantises a graph), `file` (writes it).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Options = Mapping[str, int | float | bool]
"""The fields of an operator's options table, by their names in the schema."""

Constant = npt.NDArray[Any]
"""float32, int32 or int8."""


@dataclass(frozen=True, slots=True)
class Quantisation:
    """real = scale × (stored - zero point): one scale, or one for each index along `axis` (zero point 0 then)."""

    scales: npt.NDArray[np.float32]
    zero_point: int = 0
    axis: int = 0


@dataclass(frozen=True, slots=True)
class Operator:
    """Compute `output` from `inputs`, both by their names.

    `code`: a tflite.BuiltinOperator. `exact`: float32 also in a quantised model.
    """

    code: int
    inputs: tuple[str, ...]
    output: str
    options: Options = field(default_factory=dict)
    exact: bool = False


@dataclass(slots=True)
class Graph:
    """One input, one output, one chain of operators, their names unique.

    `activations`: the shape of a sample in each computed tensor, without the batch. A tensor with an entry in
    `quantisations` is stored as int8 (a bias as int32), others as float32.
    """

    input: str
    output: str
    activations: dict[str, tuple[int, ...]] = field(default_factory=dict)
    constants: dict[str, Constant] = field(default_factory=dict)
    quantisations: dict[str, Quantisation] = field(default_factory=dict)
    operators: list[Operator] = field(default_factory=list)

    def add(
        self,
        code: int,
        inputs: Sequence[str],
        output: str,
        shape: tuple[int, ...],
        options: Options | None = None,
        *,
        exact: bool = False,
    ) -> str:
        """Append an operator whose output is a new tensor for samples of `shape`; returns the output's name."""
        self.activations[output] = shape
        self.operators.append(Operator(code, tuple(inputs), output, options or {}, exact))
        return output

    def constant(self, name: str, values: Constant) -> str:
        """Add a tensor with content; returns its name."""
        self.constants[name] = values
        return name
