"""How pytest-xdist spreads tests over workers, mended for workers that crash."""

from collections.abc import Sequence
from contextlib import suppress

from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController


class ScopeScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Goes on after a worker has crashed: its test has failed, and others do those that it left.

    pytest-xdist 3.8 gives them out with what was done already, one scope at a time. A worker keeps its last test until
    it has another one or is told to end: with a scope of no or one test left it, and so the run, waits for ever.
    """

    def remove_node(self, node: WorkerController) -> str | None:
        """Take back what the worker has not done; return the test that it crashed in, which nobody tries again."""
        scopes = self.assigned_work.pop(node)
        left = {scope: [test for test, is_done in tests.items() if not is_done] for scope, tests in scopes.items()}
        crashed: str | None = next((test for tests in left.values() for test in tests), None)
        for scope, tests in left.items():
            if again := {test: False for test in tests if test != crashed}:
                self.workqueue[scope] = again
        for each in self.nodes:
            self._reschedule(each)
        return crashed

    def add_node_collection(self, node: WorkerController, collection: Sequence[str]) -> None:
        super().add_node_collection(node, collection)
        if node not in self.registered_collections:
            raise RuntimeError(f"{node} has collected other tests than the worker that it replaces: nobody can go on")

    def _assign_work_unit(self, node: WorkerController) -> None:
        with suppress(OSError):  # it has crashed, which nobody has been told yet: `remove_node` takes the tests back
            super()._assign_work_unit(node)

    def _reschedule(self, node: WorkerController) -> None:
        """Give the worker more tests than it keeps, or tell it that no others come."""
        if node.shutting_down or node not in self.registered_collections:
            return
        while self.workqueue and self._pending_of(self.assigned_work[node]) <= 2:
            self._assign_work_unit(node)
        if not self.workqueue:
            node.shutdown()
