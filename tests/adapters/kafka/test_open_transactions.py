"""When an open transaction is told of, and its end."""

from edged.adapters.kafka.open_transactions import OpenTransactions
from edged.ports import TopicPartition

GARDEN = TopicPartition("garden")


def seen(transactions: OpenTransactions, *now_s: float, position: int = 5, stable: int = 5, high: int = 9) -> None:
    for each in now_s:
        transactions.update(GARDEN, position=position, stable=stable, high=high, now_s=each)


def test_one_that_holds_a_reader_up_is_told_after_a_while_again_now_and_then_and_when_it_is_over(log_lines):
    transactions = OpenTransactions()
    seen(transactions, *range(29))
    assert not log_lines()
    seen(transactions, *range(29, 700))
    held = log_lines("kafka.held_up")
    assert [(line["held_s"], line["offset"], line["records"]) for line in held] == [(30, 5, 4), (630, 5, 4)]
    seen(transactions, 701, stable=9)
    [line] = log_lines("kafka.let_go")
    assert (line["topic"], line["offset"], line["held_s"]) == ("garden", 5, 701)


def test_transactions_that_come_and_go_are_nothing_to_tell(log_lines):
    transactions = OpenTransactions()
    for turn in range(20):
        seen(transactions, 10.0 * turn, position=turn, stable=turn, high=turn + 9)
    assert not log_lines()


def test_a_reader_that_has_not_come_to_it_is_not_held_up(log_lines):
    seen(OpenTransactions(), *range(100), position=4)
    assert not log_lines()
