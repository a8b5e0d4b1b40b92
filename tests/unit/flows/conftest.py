"""What the tests of the command line share."""

import sys

import pytest

from flows.cli import main


@pytest.fixture
def refusal(monkeypatch, capfd):
    """`refusal(["plan", "--kg", "x"])`: what `hgt` says on stderr when it ends with code 2. In this
    process.
    """

    def of(arguments):
        monkeypatch.setattr(sys, "argv", ["hgt", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capfd.readouterr()
        assert ended.value.code == 2, said
        return said.err

    return of
