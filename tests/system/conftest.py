import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import harness  # noqa: E402
from worlds import world  # noqa: E402,F401


@pytest.fixture
def pair(world):
    """A broker and two connected daemons, alice (owner) and bob."""
    broker = harness.Broker(world)
    alice, bob = harness.Node(world, "alice"), harness.Node(world, "bob")
    harness.create_mesh(broker, alice)
    harness.join(alice, bob)
    alice.up()
    bob.up()
    alice.wait_connected()
    bob.wait_connected()
    return broker, alice, bob


def needs_shared():
    if not harness.SHARED.exists():
        pytest.skip("../shared is not there")
