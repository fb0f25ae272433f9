"""The parts of the soak, `tests/faults/soak.py`: a site under faults, its numbered samples, and what they came to."""
