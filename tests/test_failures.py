import errno

import pytest

from lightning_vitc.failures import disk_error


def test_a_full_disk_is_found_among_the_causes():
    full = OSError(errno.ENOSPC, "No space left on device")
    error = RuntimeError("unexpected pos")
    error.__context__ = ValueError("in between")
    error.__context__.__cause__ = full
    assert disk_error(error) is full
    assert disk_error(OSError(errno.ENOENT, "No such file")) is None


@pytest.mark.timeout(5)
def test_causes_that_go_round_in_a_circle_have_an_end():
    error, cause = RuntimeError("one"), ValueError("the other")
    error.__cause__, cause.__context__ = cause, error
    assert disk_error(error) is None
