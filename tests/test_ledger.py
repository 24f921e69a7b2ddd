"""The clerk's side of the policy: what it was told is kept until it has done it."""

from dcmpool.actions import Action, Tell
from dcmpool.jobs import Job, Jobs
from dcmpool.ledger import Ledger
from dcmpool.model import FailureKind, Outcome, Side
from dcmpool.protocol import Commit, CommitFailure, Committed, Left, Message, More, Result, Settle, Totals
from dcmpool.report import Tally
from dcmpool.stall import Wait
from tests.world import items, written


class Book:
    """A ledger with jobs of which the first is under way, and what the clerk was told."""

    def __init__(self, count: int = 1) -> None:
        self.jobs = Jobs()
        self._actions: list[Action] = []
        self.tally = Tally(self._actions.append)
        self.ledger = Ledger(self.jobs, self.tally, 4, self._actions.append)
        for item in items(count):
            self.jobs.add(item)
        self.jobs.walked = True
        self.job = self.take()

    def take(self) -> Job:
        job = self.jobs.next(fresh_child=True, others_busy=False)
        assert job is not None
        return job

    def told(self) -> list[Message]:
        """Return what the clerk was told since the last call, and of what nothing else was to come with."""
        self.ledger.send_held(1.0, at_once=False)
        told = [action.message for action in self._actions if isinstance(action, Tell)]
        self._actions.clear()
        return told


def test_a_result_is_kept_until_it_is_acknowledged() -> None:
    """Its commit is told again to another clerk; it counts when it is durable, and once."""
    book = Book()
    result = Result(1, b"CT0001", b"temp", written(1))
    book.ledger.commit(book.job, b"temp", result.written, 1.0)
    assert book.told() == [Commit((result,))]
    book.ledger.welcome(2.0)
    assert book.told() == [More(3), Commit((result,))]
    assert len(book.jobs) == 1
    assert book.tally.ended == 0
    for _ in range(2):
        assert book.ledger.committed(Committed((1,)), 3.0) == []
        assert len(book.jobs) == 0
        assert book.tally.counts[Outcome.DECOMPRESSED] == 1
    assert book.ledger.is_settled


def test_an_ending_is_kept_until_it_is_acknowledged() -> None:
    """The same for a job without a result."""
    book = Book()
    ending = book.jobs.left(book.job, Left(1, Outcome.SKIPPED, "1.2", 7, 8, "not a DICOM file"))
    book.ledger.end(ending, 1.0)
    assert book.told() == [Settle((ending,))]
    assert not book.jobs.is_over
    book.ledger.committed(Committed((1,)), 2.0)
    assert book.jobs.is_over
    assert book.ledger.is_settled


def test_a_result_that_cannot_get_its_name_is_tried_again() -> None:
    """The job is taken back, and is not over; the second answer to the same commit means nothing."""
    book = Book()
    for _ in range(2):
        book.ledger.commit(book.job, b"temp", written(1), 1.0)
        book.ledger.committed(Committed((), (CommitFailure(1, FailureKind.WRITE, "no"),)), 2.0)
        if not book.ledger.settling:
            assert book.take() is book.job
    assert [attempt.kind for attempt in book.job.attempts] == [FailureKind.WRITE] * 2
    assert book.ledger.settling.keys() == {1}
    assert book.tally.counts[Outcome.FAILED] == 1


def test_full_storage_is_a_reason_to_stop_and_leaves_the_job_undone() -> None:
    """No attempt is counted for it."""
    book = Book()
    book.ledger.commit(book.job, b"temp", written(1), 1.0)
    answer = Committed((), (CommitFailure(1, FailureKind.NO_SPACE, "full"),))
    assert book.ledger.committed(answer, 2.0) == ["full"]
    assert book.jobs.is_over
    assert (book.job.attempts, book.tally.ended) == ([], 0)


def test_the_clerk_owes_an_answer_from_the_first_thing_it_was_told() -> None:
    """Each answer gives it time anew, until nothing is left to answer."""
    book = Book(2)
    book.ledger.commit(book.job, b"temp", written(1), 1.0)
    book.ledger.send_held(1.0, at_once=True)
    book.ledger.end(book.jobs.left(book.take(), Left(2, Outcome.SKIPPED, "", 1, 1, "why")), 5.0)
    assert book.ledger.waits(is_open=True) == [Wait(1.0, Side.TARGET, 1)]
    book.ledger.committed(Committed(()), 7.0)
    assert book.ledger.waits(is_open=True) == [Wait(7.0, Side.TARGET, 1)]
    book.ledger.committed(Committed((1, 2)), 8.0)
    assert book.ledger.waits(is_open=True) == []


def test_results_are_told_of_together_and_not_late() -> None:
    """A result waits 0.1 s for others; a full batch, the last of all, and a run that ends wait for nothing."""
    book = Book(70)
    for number in range(1, 3):
        book.ledger.commit(book.job if number == 1 else book.take(), b"temp", written(number), 1.0)
    book.ledger.send_held(1.099, at_once=False)
    assert book.told() == []
    assert book.ledger.next_deadline() == 1.1
    book.ledger.send_held(1.1, at_once=False)
    assert [len(message.results) for message in book.told() if isinstance(message, Commit)] == [2]
    assert book.ledger.next_deadline() is None
    for number in range(3, 67):
        book.ledger.commit(book.take(), b"temp", written(number), 2.0)
    book.ledger.send_held(2.0, at_once=False)
    assert [len(message.results) for message in book.told() if isinstance(message, Commit)] == [64]
    for number in range(67, 71):
        book.ledger.commit(book.take(), b"temp", written(number), 3.0)
    book.ledger.send_held(3.0, at_once=False)
    assert [len(message.results) for message in book.told() if isinstance(message, Commit)] == [4]


def test_a_clerk_that_is_at_its_end_and_gets_on_is_not_one_that_stalls() -> None:
    book = Book()
    book.ledger.finish(0, 10.0, complete=True, totals=Totals())
    assert book.ledger.waits(is_open=True) == [Wait(10.0, Side.TARGET, 0)]
    book.ledger.gets_on(50.0)
    assert book.ledger.waits(is_open=True) == [Wait(50.0, Side.TARGET, 0)]
