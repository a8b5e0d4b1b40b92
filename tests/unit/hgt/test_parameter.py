"""Numbers without sense are refused with their range, and no value breaks a message."""

import math
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hgt.config import RunConfig, parameters
from hgt.errors import HgtError, InputError, printable, quoted
from hgt.parameter import Range, check_values, parameter, require

NUMBERS = [p for p in parameters() if p.type in (int, float)]
SENSELESS = (-1, 2**63, 10**30, 10**5000, 1e308, -1e308, math.nan, math.inf, -math.inf)


@pytest.mark.parametrize("p", NUMBERS, ids=[p.name for p in NUMBERS])
def test_every_number_has_a_range_and_is_refused_outside_of_it(p):
    assert p.range is not None
    assert p.default is None or p.default in p.range
    for value in SENSELESS:
        with pytest.raises(InputError) as refused:
            RunConfig.from_flat({p.name: value})
        assert str(refused.value).startswith(f"Parameter {p.name} ")
        if type(value) is p.type:
            assert f"must be {p.range}, not " in str(refused.value)
    for value in (0, 2**31):
        try:
            taken = RunConfig.from_flat({p.name: value}).to_flat()[p.name] == value
        except InputError:
            taken = False
        assert taken == (value in p.range) or p.name.endswith("_disease_cosine")


def test_ranges_say_which_ends_belong_to_them():
    assert str(Range(1, 65_536)) == "between 1 and 65,536"
    assert str(Range(0, 0.4, open_low=True)) == "above 0 and at most 0.4"
    assert str(Range(0, 1, open_high=True)) == "at least 0 and below 1"
    assert str(Range(0.5, 1, True, True)) == "above 0.5 and below 1"
    assert [x in Range(0, 1) for x in (0, 1, -1e-9, math.nan)] == [True, True, False, False]
    assert [x in Range(0, 1, True, True) for x in (0, 1, 0.5)] == [False, False, True]


@pytest.mark.parametrize("size", ["9" * 400 + "GB", "1e400GB", "10000TB", "0.0001KB", "inf"])
def test_sizes_without_sense(size):
    for name in ("memory", "docker_memory"):
        with pytest.raises(InputError) as refused:
            RunConfig.from_flat({name: size})
        assert "\n" not in str(refused.value)
        assert len(str(refused.value)) < 300


def test_a_misspelt_parameter_is_answered_with_the_nearest():
    with pytest.raises(InputError) as refused:
        RunConfig.from_flat({"num_epoch": 3})
    assert str(refused.value) == "Unknown parameter 'num_epoch' (did you mean num_epochs?)."
    with pytest.raises(InputError) as refused:
        RunConfig.from_flat({"lerning_rate": 3, "zzz\n": 1})
    assert (
        "Unknown parameters 'lerning_rate' (did you mean learning_rate?), 'zzz\\n'. Known are"
        in str(refused.value)
    )


TEXTS = [p.name for p in parameters() if p.type is str]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(name=st.sampled_from(TEXTS), value=st.text(min_size=1))
def test_any_text_is_taken_or_refused_on_one_line(name, value):
    p = next(p for p in parameters() if p.name == name)
    said = ""
    try:
        RunConfig.from_flat({name: [value] if p.is_list else value})
    except InputError as error:
        said = str(error)
    assert said.isprintable()


def test_messages_show_what_no_reader_would_see():
    assert str(InputError("a\nb\r\u2028c\x1b[31m\udc80")) == r"a\nb\r\u2028c\x1b[31m\udc80"
    assert str(HgtError("last words:\nof a program\x07")) == "last words:\nof a program\\x07"
    assert printable("Gödel, 漢字") == "Gödel, 漢字"
    assert quoted("x" * 1_000) == "'" + "x" * 99 + "... (1,002 characters)"
    assert quoted(10**5000) == "a number of thousands of digits"


def only_even(name, value):
    require(value % 2 == 0, name, "even", value)


@dataclass(frozen=True)
class Section:
    count: int | None = parameter(None, "a count", range=Range(1, 9), check=only_even)
    names: tuple[str, ...] = parameter(("a",), "names")

    def __post_init__(self):
        check_values(self)


def test_a_section_checks_what_its_declarations_say():
    assert Section().count is None  # nothing is checked of a value that is not given
    assert Section(count=2).count == 2
    for value, need in ((3, "even"), (11, "between 1 and 9"), (10, "between 1 and 9")):
        with pytest.raises(InputError) as refused:
            Section(count=value)
        assert str(refused.value) == f"Parameter count must be {need}, not {value}."
    with pytest.raises(InputError, match=r"^Parameter names must be fewer, not \['a', 'b'\]\.$"):
        require(False, "names", "fewer", ("a", "b"))
