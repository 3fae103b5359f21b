"""The Slurm job of this process, from a fake scontrol with the output of real ones."""

import pytest

from jepa_pipeline.cluster import allocation
from jepa_pipeline.cluster.allocation import Allocation, ScontrolError, read_allocation, requeue

SEEN = (
    "JobId={id} {array}JobName=a job UserId=root(0) GroupId=root(0) MCS_label=N/A Priority=1 Nice=0 Account=(null) QOS=normal "
    "JobState={state} Reason={reason} Dependency=(null) Requeue=1 Restarts={restarts} BatchFlag=1 Reboot=0 ExitCode=0:0 "
    "RunTime=00:00:05 TimeLimit=01:00:00 NodeList=node1 Command=x JobState=SUSPENDED"
)


def job(number=77, state="RUNNING", reason="None", restarts=0, array=""):
    return SEEN.format(id=number, array=array, state=state, reason=reason, restarts=restarts)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A function that puts a scontrol on PATH that prints these lines, writes to stderr and returns a code."""
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(allocation, "PAUSE_S", 0.0)

    def answer(*lines, says="", code=0):
        script = tmp_path / "scontrol"
        body = "\n".join(lines)
        script.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\ncat <<"END"\n{body}\nEND\necho "{says}" >&2\nexit {code}\n')
        script.chmod(0o755)
        return lambda: (tmp_path / "asked").read_text().splitlines()

    return answer


def test_outside_slurm_there_is_none(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert read_allocation(pytest.fail) is None


MOMENTS = {
    "a signal that was asked for": (job(), "RUNNING"),
    "the grace time before a preemption begins": (job(state="SIGNALING"), "RUNNING"),
    "scancel": (job(state="COMPLETING"), "CANCELLED"),
    "the time limit": (job(state="COMPLETING", reason="TimeLimit"), "TIMEOUT"),
    "scontrol requeue, or the end of the grace time": (job(state="COMPLETING", restarts=1), "REQUEUED"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_the_state_distinguishes_the_moments(slurm, moment):
    line, state = MOMENTS[moment]
    asked = slurm(line)
    assert read_allocation(pytest.fail) == Allocation("77", state, batch=True, may_requeue=True, restarts=0)
    assert asked() == ["show job -o 77"]


def test_a_job_that_came_back_counts_its_restarts(slurm, monkeypatch):
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    slurm(job(restarts=2))
    assert read_allocation(pytest.fail).restarts == 2
    slurm(job(restarts=2, state="COMPLETING"))
    assert read_allocation(pytest.fail).state == "CANCELLED"


def test_the_last_element_of_an_array_is_not_taken_for_the_whole(slurm):
    elements = [job(number, array=f"ArrayJobId=77 ArrayTaskId={task} ") for number, task in ((79, 0), (78, 1), (77, 2))]
    slurm(*elements)
    assert read_allocation(pytest.fail).job == "77_2"


def test_a_scontrol_that_fails_is_named(slurm):
    said = []
    asked = slurm(says="slurm_load_jobs error: Unable to contact slurm controller (connect failure)", code=1)
    assert read_allocation(said.append) is None
    assert said == ["job 77: its state is unknown (slurm_load_jobs error: Unable to contact slurm controller (connect failure))"]
    assert len(asked()) == allocation.TRIES


def test_a_scontrol_that_hangs_is_not_waited_for(slurm, tmp_path, monkeypatch):
    monkeypatch.setattr(allocation, "TIMEOUT_S", 0.2)
    slurm()
    (tmp_path / "scontrol").write_text("#!/bin/sh\nexec sleep 60\n")
    said = []
    assert read_allocation(said.append) is None
    assert "did not answer within 0.2 s" in said[0]


def test_without_scontrol_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("PATH", str(tmp_path))
    said = []
    assert read_allocation(said.append) is None
    assert "no scontrol on PATH" in said[0]


def test_a_refusal_is_in_slurms_own_words(slurm):
    asked = slurm(says="Requested operation is presently disabled for job 77", code=1)
    with pytest.raises(ScontrolError, match=r"^Requested operation is presently disabled for job 77$"):
        requeue("77")
    assert asked() == ["requeue 77"]


def test_the_second_of_two_requeues_is_no_mistake(slurm):
    slurm(says="Job is pending execution for job 77", code=1)
    requeue("77")
