"""Runs the tests of this folder in a process of their own, since the pretended GPU stays once it is installed."""

import sys

import pytest

from tests.pretended_gpu.device import install

install()
sys.exit(pytest.main(["tests/pretended_gpu", "-p", "no:cacheprovider", "-p", "no:anyio"]))
