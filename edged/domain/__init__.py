"""Pure decisions on values: numpy and the standard library. No I/O, no clock, no logging, no event loop.

Randomness comes only from a seed that is given.
"""
