"""The jobs of a run: what follows each kind of failure, and who is next."""

import pytest

from dcmpool.engines import ORDER
from dcmpool.jobs import MAX_ATTEMPTS, Job, Jobs
from dcmpool.model import RETRY, FailureKind, Outcome, Stage, Then
from dcmpool.protocol import Attempt, Ending, Item, Left
from tests.world import items


def attempt(kind: FailureKind, engine: str = "gdcm", stage: str = Stage.DECODE) -> Attempt:
    """Return an attempt that ended like this."""
    return Attempt(engine, kind, "why", stage, 1.0)


def begun(count: int = 1, *, walked: bool = True) -> tuple[Jobs, Job]:
    """Return jobs of which the first is under way."""
    jobs = Jobs()
    for item in items(count):
        jobs.add(item)
    jobs.walked = walked
    return jobs, take(jobs)


def take(jobs: Jobs, *, fresh_child: bool = True, others_busy: bool = False) -> Job:
    """Take the next job, which there must be."""
    job = jobs.next(fresh_child=fresh_child, others_busy=others_busy)
    assert job is not None
    return job


def kinds_of(then: Then) -> list[FailureKind]:
    """Return the kinds with this rule."""
    return [kind for kind, rule in RETRY.items() if rule.then is then]


def test_every_kind_of_failure_has_a_rule() -> None:
    """What a file did to a child always has a consequence."""
    assert set(RETRY) == set(FailureKind)
    assert {rule.then for rule in RETRY.values()} == set(Then)


@pytest.mark.parametrize("kind", kinds_of(Then.NEXT_ENGINE))
def test_the_next_engine_is_tried_without_the_one_that_failed(kind: FailureKind) -> None:
    """In a fresh child where foreign code ran on the content."""
    jobs, job = begun()
    assert jobs.failed(job, attempt(kind)) is None
    same_codecs = kind in (FailureKind.CORRUPT, FailureKind.TIMEOUT)
    assert job.tried == (("gdcm", "gdcmconv") if same_codecs else ("gdcm",))
    if RETRY[kind].retire:
        assert jobs.wants_fresh_child
        assert jobs.next(fresh_child=False, others_busy=False) is None
    assert take(jobs) is job
    assert job.dispatched == 2


@pytest.mark.parametrize("engine", ["turbo", "gdcm"])
@pytest.mark.parametrize("kind", kinds_of(Then.NEXT_ENGINE))
@pytest.mark.parametrize("number", [50, 70, 80, 81, 90, 91, 201])
def test_nobody_is_asked_whom_nobody_would_believe(number: int, kind: FailureKind, engine: str) -> None:
    """After the strict decoder of JPEG-LS and JPEG 2000 called a file damaged; any other end says nothing of it."""
    jobs, job = begun()
    job.transfer_syntax_uid = f"1.2.840.10008.1.2.4.{number}"
    assert jobs.failed(job, attempt(kind, engine)) is None
    final = engine == "turbo" and kind is FailureKind.CORRUPT and number >= 80
    assert (set(job.tried) == set(ORDER[job.transfer_syntax_uid])) == final


@pytest.mark.parametrize("kind", kinds_of(Then.AGAIN))
def test_once_more_means_once(kind: FailureKind) -> None:
    """With the same engine, and the second time the job ends."""
    jobs, job = begun()
    assert jobs.failed(job, attempt(kind)) is None
    assert job.tried == ()
    assert take(jobs) is job
    ending = jobs.failed(job, attempt(kind))
    assert ending is not None
    assert ending.kind is kind
    assert len(ending.attempts) == 2


@pytest.mark.parametrize("kind", kinds_of(Then.LATER))
def test_later_is_after_all_others_and_once(kind: FailureKind) -> None:
    """A source that someone is writing to needs time, not haste."""
    jobs, job = begun(3, walked=False)
    assert jobs.failed(job, attempt(kind)) is None
    others = [take(jobs), take(jobs)]
    assert job not in others
    assert jobs.next(fresh_child=True, others_busy=False) is None
    jobs.walked = True
    assert take(jobs, others_busy=True) is job
    assert jobs.failed(job, attempt(kind)) is not None


@pytest.mark.parametrize("kind", kinds_of(Then.NEVER))
def test_never_ends_the_job_at_once(kind: FailureKind) -> None:
    """Nothing that this run could do would change it."""
    jobs, job = begun()
    ending = jobs.failed(job, attempt(kind))
    assert ending == Ending(1, b"CT0001", 100, 1, Outcome.FAILED, "", kind, "why", (attempt(kind),))
    assert jobs.next(fresh_child=True, others_busy=False) is None


@pytest.mark.parametrize("kind", kinds_of(Then.STOP))
def test_what_stops_the_run_leaves_the_job_undone(kind: FailureKind) -> None:
    """It is neither failed nor done, for another run to do."""
    assert kind is FailureKind.NO_SPACE
    jobs, job = begun()
    jobs.over(job.path)
    assert len(jobs) == 0
    assert jobs.is_over


def test_with_no_engine_left_the_job_ends_with_every_engines_reason() -> None:
    """The message that says so is not an attempt of its own."""
    jobs, job = begun()
    jobs.failed(job, attempt(FailureKind.CORRUPT, "gdcm"))
    jobs.failed(job, attempt(FailureKind.TIMEOUT, "pylibjpeg"))
    ending = jobs.failed(job, attempt(FailureKind.UNSUPPORTED, ""), exhausted=True)
    assert ending is not None
    assert ending.kind is FailureKind.TIMEOUT
    assert [a.engine for a in ending.attempts] == ["gdcm", "pylibjpeg"]
    assert ending.reason == "gdcm: CORRUPT: why; pylibjpeg: TIMEOUT: why"


def test_with_no_engine_at_all_the_message_is_the_attempt() -> None:
    """Otherwise nothing would say why."""
    jobs, job = begun()
    ending = jobs.failed(job, attempt(FailureKind.UNSUPPORTED, ""), exhausted=True)
    assert ending is not None
    assert ending.reason == "why"
    assert len(ending.attempts) == 1


@pytest.mark.parametrize("kind", [FailureKind.CORRUPT, FailureKind.UNSUPPORTED])
def test_what_our_own_reading_refused_is_not_read_again(kind: FailureKind) -> None:
    """The same code on the same bytes says the same."""
    jobs, job = begun()
    assert jobs.failed(job, attempt(kind, "", Stage.INSPECT)) is not None


@pytest.mark.parametrize("kind", [FailureKind.CRASHED, FailureKind.TIMEOUT, FailureKind.MEMORY])
def test_a_child_that_ends_before_it_chose_an_engine_gets_one_more_try(kind: FailureKind) -> None:
    """Twice the same is a verdict."""
    jobs, job = begun()
    assert jobs.failed(job, attempt(kind, "", Stage.INSPECT)) is None
    assert jobs.failed(job, attempt(kind, "", Stage.INSPECT)) is not None


def test_no_job_has_more_attempts_than_allowed() -> None:
    """Even where engines never run out."""
    jobs, job = begun()
    for number in range(MAX_ATTEMPTS - 1):
        assert jobs.failed(job, attempt(FailureKind.CRASHED, f"engine {number}")) is None
        take(jobs)
    ending = jobs.failed(job, attempt(FailureKind.CRASHED, "one more"))
    assert ending is not None
    assert len(ending.attempts) == MAX_ATTEMPTS


def test_two_interruptions_put_a_job_last_and_alone() -> None:
    """No blame before that, and blame after it."""
    jobs, job = begun(2)
    crashed = attempt(FailureKind.CRASHED, "")
    assert jobs.interrupted(job, crashed) is None
    assert take(jobs) is job
    assert jobs.interrupted(job, crashed) is None
    other = take(jobs)
    assert other is not job
    assert jobs.next(fresh_child=True, others_busy=True) is None
    assert take(jobs, others_busy=False) is job
    assert job.alone
    assert not job.attempts
    assert jobs.interrupted(job, crashed) is None
    assert job.attempts == [crashed]
    assert jobs.interrupted(job, crashed) is not None


def test_interruptions_of_earlier_runs_count() -> None:
    """A file with which two runs died is done alone from the start."""
    jobs = Jobs()
    jobs.add(Item(b"bad", 1, 1, interrupted=2))
    jobs.add(Item(b"good", 1, 1, interrupted=1))
    jobs.walked = True
    assert take(jobs).path == b"good"
    assert jobs.next(fresh_child=True, others_busy=True) is None
    assert take(jobs).path == b"bad"


def test_nothing_that_waits_for_the_end_of_the_walk_keeps_the_walk_waiting() -> None:
    """A job that is put off gives its credit back, once."""
    jobs, job = begun(2, walked=False)
    assert (jobs.holding_credit, jobs.credit_owed) == (2, 0)
    jobs.failed(job, attempt(FailureKind.CHANGED))
    assert (jobs.holding_credit, jobs.credit_owed) == (1, 1)
    jobs.walked = True
    take(jobs)
    assert take(jobs) is job
    jobs.failed(job, attempt(FailureKind.CHANGED))
    jobs.over(job.path)
    assert (jobs.holding_credit, jobs.credit_owed) == (1, 1)


def test_a_path_is_here_once() -> None:
    """What a restarted clerk finds again is dropped, and its credit comes back."""
    jobs, _ = begun()
    assert jobs.add(items(1)[0]) is None
    assert len(jobs) == 1
    assert jobs.credit_owed == 1
    assert jobs.next(fresh_child=True, others_busy=False) is None


def test_a_file_that_must_not_be_replaced_ends_without_an_attempt_at_it() -> None:
    """The clerk said why."""
    jobs = Jobs()
    ending = jobs.add(Item(b"CT", 1, 1, exists="there is a file"))
    assert ending is not None
    assert (ending.kind, ending.reason) == (FailureKind.EXISTS, "there is a file")
    assert jobs.next(fresh_child=True, others_busy=False) is None


def test_a_job_with_nothing_to_write_ends_as_its_child_saw_the_source() -> None:
    """Its size and time are those of the file that was opened."""
    jobs, job = begun()
    ending = jobs.left(job, Left(job.id, Outcome.SKIPPED, "1.2", 7, 8, "not a DICOM file"))
    assert ending == Ending(1, b"CT0001", 7, 8, Outcome.SKIPPED, "1.2", None, "not a DICOM file", ())
    assert not jobs.is_over
    jobs.over(job.path)
    assert jobs.is_over


def test_a_run_is_not_over_before_the_walk_is() -> None:
    """There may be more files."""
    jobs = Jobs()
    assert not jobs.is_over
    jobs.walked = True
    assert jobs.is_over


def test_after_a_restart_what_has_ended_since_is_not_taken_again() -> None:
    """What ended before it, the journal has told the clerk."""
    jobs, job = begun()
    jobs.walk_again()
    assert not jobs.walked
    jobs.over(job.path)
    assert jobs.add(items(1)[0]) is None
    assert len(jobs) == 0
