"""Models as the companion and the trainer run them: classifiers and frozen feature extractors."""

from typing import Protocol

import numpy as np
import numpy.typing as npt


class FeatureExtractor(Protocol):
    """The frozen layers of a model."""

    def features(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Features, float32 [n, *feature shape], of normalised samples float32 [n, *sample shape], any n."""


class Classifier(Protocol):
    """A loaded model."""

    def predict(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Class probabilities, float32 [n, classes], of normalised samples float32 [n, *sample shape]."""
