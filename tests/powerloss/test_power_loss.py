"""Power loss, the short form: points of the workload in one mode each. `make powerloss` takes every point in every mode. And the proof that it can fail."""

import random

import pytest

import harness
import workload

POINTS = 6


@pytest.fixture(autouse=True)
def built():
    try:
        workload.find_vfs()
    except FileNotFoundError:
        pytest.skip("the VFS is not built (a sanitizer's build has none)")


@pytest.mark.parametrize("process", workload.PROCESSES)
def test_what_was_answered_survives_the_power_of_one_process_going_at_a_sync(process):
    modes = list(workload.MODES)
    random.Random(process).shuffle(modes)
    findings = workload.run_power_loss(harness.BINARY, process, POINTS, modes, jobs=2, one_mode=True)
    assert not findings, "\n".join(map(str, findings))


@pytest.mark.parametrize("process, section", [("sender", "outbox"), ("broker", "store")])
def test_a_database_that_does_not_sync_its_commits_is_caught(process, section):
    settings = {process: f'[{section}]\nfsync = "batched"\n'}
    count = len(workload.count_points(harness.BINARY, process, settings=settings))
    # The later half: what comes before the first checkpoint takes the mesh along, and then nobody gets far enough to miss a message.
    findings = workload.run_power_loss(harness.BINARY, process, range(count // 2, count + 1), ("drop", "tear-4096", "reorder"), jobs=2, stop_at_first=True,
                                       settings=settings)
    assert {finding.kind for finding in findings} - {"stuck", "crash"}, findings
