"""The thread limit of numpy's BLAS."""

import threadpoolctl

from edged.adapters.host.blas import single_threaded_blas


def test_blas_has_one_thread_inside_and_its_previous_number_afterwards():
    def num_threads():
        return [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]

    before = num_threads()
    with single_threaded_blas():
        assert before
        assert set(num_threads()) == {1}
    assert num_threads() == before
