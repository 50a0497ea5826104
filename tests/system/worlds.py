"""The fixture that every test against the built binary begins with, for tests/system and the folders beside it."""

import pytest

import harness


@pytest.fixture
def world():
    world = harness.World()
    try:
        yield world
    finally:
        world.close()
