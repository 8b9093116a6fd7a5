"""A notebook that stays open for a week: memory and latency stay as they are. The long form is `make life`."""

import pytest

from benchmarks.long_life import measure


@pytest.mark.slow
def test_a_kernel_that_lives_long_takes_no_more_memory():
    facts = measure(moves=60, changes=6, exports=3, parts=3, encoder="pixels", frames=8, compare=[])
    assert facts["end_mb"] - facts["warm_mb"] < 50 and facts["end_mb"] - facts["open_mb"] < 120
    assert facts["end_widgets"] == facts["warm_widgets"] and facts["closed_widgets"] == 0
    assert facts["last_ms"] < 3 * facts["first_ms"]
