"""Limits numpy's BLAS to one thread, so that our own threads share the cores without contention."""

from contextlib import AbstractContextManager
from typing import Any

from threadpoolctl import threadpool_limits


def single_threaded_blas() -> AbstractContextManager[Any]:
    """Within it, matrix products of this process use one thread each; call it after numpy is imported."""
    limits: AbstractContextManager[Any] = threadpool_limits(1, user_api="blas")
    return limits
