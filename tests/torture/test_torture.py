"""The short form of `make torture`: daemons and broker killed at random moments under load; nothing lost, nothing twice, order kept."""

import secrets

import pytest

from torture import Failure, torture

KILLS = 30


@pytest.mark.parametrize("seed", [20260731, "random"])
def test_killed_at_random_moments_nothing_is_lost_nothing_comes_twice_and_order_holds(seed):
    seed = secrets.randbelow(10 ** 9) if seed == "random" else seed
    print(f"torture: seed {seed}")
    try:
        print(torture(seed, KILLS))
    except Failure as failure:
        pytest.fail(str(failure), pytrace=False)
