"""No quote takes in rows unseen: what is not read as it was written is refused, with the line."""

import csv
import io

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hgt.errors import InputError
from hgt.reading import csv_text
from hgt.reading.edge_table import read_beginning, read_edge_table

HEADER = "x_type,x_id,relation,y_type,y_id,x_name,y_name\n"
LINES = [
    "drug,1,treats,disease,1,aspirin,pain",
    "drug,2,treats,disease,2,ibuprofen,fever",
    "drug,3,treats,disease,3,codeine,cough",
    "drug,4,treats,disease,4,morphine,dyspnoea",
    "drug,5,treats,disease,5,warfarin,stroke",
    "drug,6,treats,disease,2,heparin,fever",
    "drug,7,treats,disease,7,insulin,diabetes",
]
FUZZ = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)


def text_of(changes=None, end="\n", header=HEADER):
    """The table with the lines of these numbers (the header is line 1) replaced."""
    lines = [*LINES]
    for number, line in (changes or {}).items():
        lines[number - 2] = line
    return header.replace("\n", end) + end.join(lines) + end


@pytest.fixture
def read(tmp_path):
    def reading(text):
        path = tmp_path / "kg.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        read_beginning(path)
        return read_edge_table(path)

    return reading


@pytest.fixture
def refusal(read):
    def message(text):
        with pytest.raises(InputError) as caught:
            read(text)
        return str(caught.value)

    return message


def names(table):
    return dict(
        zip(table.node_id[table.node_type == 1], table.node_name[table.node_type == 1], strict=True)
    )


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_an_unclosed_quote_is_refused_with_its_lines(refusal, end):
    stray = {
        3: 'drug,2,treats,disease,2,ibuprofen,"Stiff man',
        7: 'drug,6,treats,disease,2,heparin,"Stiff man',
    }
    said = refusal(text_of(stray, end))
    assert (
        'line 3, column y_name opens a quote (") that is closed in line 7 only, and the lines'
        " between look like rows" in said
    )


def test_neighbouring_lines_with_one_quote_each(refusal):
    changes = {
        3: 'drug,2,treats,disease,2,ibuprofen,"Stiff man',
        4: 'drug,3,treats,disease,3,codeine,"cough',
    }
    assert (
        'line 3, column y_name opens a quote (") that is closed in line 4 only, before other text'
        in refusal(text_of(changes))
    )
    changes[4] = 'drug,3,treats,disease,3,codeine,cough"'
    assert "closed in line 4 only, and that line looks like a row" in refusal(text_of(changes))
    changes = {
        3: 'drug,2,treats,disease,2,ibuprofen,"fever, high',
        4: 'drug,3,treats,disease,3,codeine,cough"',
    }
    assert "closed in line 4 only, and that line looks like a row" in refusal(text_of(changes))


def test_a_quote_that_nothing_closes(refusal):
    assert 'line 3, column y_name opens a quote (") that nothing closes' in refusal(
        text_of({3: 'drug,2,treats,disease,2,ibuprofen,"Stiff'})
    )
    said = refusal(text_of({8: 'drug,7,treats,disease,7,insulin,"diab'}).rstrip("\n"))
    assert "line 8, column y_name opens a quote" in said
    assert "cut off" in said
    assert "line 2, column x_type" in refusal(text_of({2: '"' + LINES[0]}))
    assert "the header line opens a quote" in refusal('"' + text_of())


def test_a_quote_in_a_column_that_is_not_read_counts_too(refusal, read):
    header = HEADER.replace("\n", ",note\n")
    lines = [line + ",none" for line in LINES]
    lines[2] = LINES[2] + ',"seen in 1990'
    lines[5] = LINES[5] + ',"seen'
    said = refusal(header + "\n".join(lines))
    assert 'line 4, column note opens a quote (") that is closed in line 7 only' in said
    lines[2], lines[5] = LINES[2] + ',"seen in 1990,\nin two,\n\nor more"', LINES[5] + ",4"
    table = read(header + "\n".join(lines))
    assert (table.num_rows, str(table.counts[0]).split(": ")[1]) == (
        7,
        "11 lines = 1 header + 7 rows + 3 line breaks within values",
    )


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_values_with_line_breaks_are_read_and_counted(read, end):
    changes = {
        3: f'drug,2,treats,disease,2,"ibu{end}profen","fever,{end}{end}high"',
        8: f'"drug",7,treats,disease,7,"insulin{end}",x',
    }
    table = read(text_of(changes, end) + end)
    assert names(table)["2"] == f"fever,{end}{end}high"
    assert table.num_rows == 7
    assert str(table.counts[0]).endswith(
        "13 lines = 1 header + 7 rows + 1 blank + 4 line breaks within values"
    )


def test_a_value_of_the_first_column_may_have_line_breaks(read):
    table = read(
        'y_name,x_type,x_id,relation,y_type,y_id\n"one\nor'
        ' two",drug,1,treats,disease,1\n"x",drug,2,treats,disease,2\n'
    )
    assert names(table) == {"1": "one\nor two", "2": "x"}


def test_a_quote_within_a_field_is_a_character(read):
    table = read(
        text_of(
            {
                3: 'drug,2,treats,disease,2,ibuprofen,5" wound',
                5: 'drug,4,treats,disease,4,"mor""phine",a 5" and 6" wound',
            }
        )
    )
    assert (names(table)["2"], names(table)["4"], table.node_name[3]) == (
        '5" wound',
        'a 5" and 6" wound',
        'mor"phine',
    )


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        ('"D"0', "'\"D\"0'"),
        ('"5\'-"dehydro', "'\"5\\'-\"dehydro'"),
        ('""stiff"" man', '\'""stiff"" man\''),
        ('"stiff"man"', '\'"stiff"man"\''),
        ('"stiff" man', "'\"stiff\" man'"),
        ('"a ""b"" c"d', '\'"a ""b"" c"d\''),
    ],
)
def test_text_after_a_closing_quote_is_refused(refusal, cell, shown, end):
    """Arrow and pandas join the two in silence: another name, or another node."""
    assert refusal(text_of({4: f"drug,3,treats,disease,3,{cell},cough"}, end)).endswith(
        f'line 4, column x_name opens a quote (") that is closed before the value ends ({shown}).'
        ' Put the whole value in quotes; a quote that belongs to the value is doubled ("") within'
        " quotes."
    )
    assert "line 4, column y_name opens" in refusal(
        text_of({4: f"drug,3,treats,disease,3,codeine,{cell}"}, end)
    )
    assert "line 4, column x_id opens" in refusal(
        text_of({4: f"drug,{cell},treats,disease,3,codeine,cough"}, end)
    )
    assert "line 8, column y_name opens" in refusal(
        text_of({8: f"drug,7,treats,disease,7,insulin,{cell}"}, end).removesuffix(end)
    )


def test_text_after_a_closing_quote_in_a_column_that_is_not_read(refusal):
    lines = [line + ',"none"' for line in LINES]
    lines[2] = LINES[2] + ',"seen"in 1990'
    assert "line 4, column note opens a quote" in refusal(
        HEADER.replace("\n", ",note\n") + "\n".join(lines)
    )


def test_blanks_after_a_closing_quote_do_not_count(read):
    table = read(text_of({4: 'drug,"3" ,treats,disease,"3"  ,"codeine" ,"dry cough" '}))
    assert names(table)["3"] == "dry cough"
    assert table.node_name[table.node_type == 0][2] == "codeine"


BACKSLASHES = {
    3: r'drug,2,treats,disease,2,ibuprofen,"so-called \"stiff man\""',
    4: r'drug,3,treats,disease,3,codeine,"wound over 5\""',
}


def test_backslash_quotes_are_read_as_what_they_are(read):
    table = read(
        text_of(
            BACKSLASHES
            | {
                7: r'drug,6,treats,disease,3,heparin,"wound over 5\""',
                6: r'drug,5,treats,disease,5,"C:\\","a\b"',
            }
        )
    )
    assert table.num_rows == 7
    assert (names(table)["2"], names(table)["3"], names(table)["5"]) == (
        'so-called "stiff man"',
        'wound over 5"',
        r"a\b",
    )
    assert table.node_name[table.node_type == 0][4] == "C:\\"


def test_a_backslash_before_the_closing_quote_is_no_escape_in_other_files(read):
    table = read(
        text_of(
            {
                3: r'drug,2,treats,disease,2,ibuprofen,"C:\"',
                4: r'drug,3,treats,disease,3,"x\""y","5\"""',
            }
        )
    )
    assert (names(table)["2"], names(table)["3"]) == ("C:\\", '5\\"')


def test_a_file_that_does_both_is_refused_by_name(refusal):
    said = refusal(text_of(BACKSLASHES | {7: r'drug,6,treats,disease,3,heparin,"C:\"'}))
    assert "line 7, column y_name" in said
    assert (
        r"Line 3 writes a quote as \", so a backslash before a quote never closes a value" in said
    )


@pytest.mark.parametrize("block_bytes", [1, 7, 64, 200])
def test_blocks_of_any_size_read_and_refuse_alike(read, refusal, monkeypatch, block_bytes):
    monkeypatch.setattr(csv_text, "_BLOCK_BYTES", block_bytes)
    test_values_with_line_breaks_are_read_and_counted(read, "\r\n")
    test_backslash_quotes_are_read_as_what_they_are(read)
    test_an_unclosed_quote_is_refused_with_its_lines(refusal, "\n")
    test_a_quote_that_nothing_closes(refusal)


VALUE = st.text('ab1, \n\r"\\é;', min_size=1, max_size=6).filter(str.strip)
ROWS = st.lists(st.tuples(*[VALUE] * 7), min_size=1, max_size=6)


def written(rows, how, end="\n"):
    if how == "pandas":
        return pd.DataFrame(rows, columns=HEADER.strip().split(",")).to_csv(
            index=False, lineterminator=end
        )
    text = io.StringIO(newline="")
    csv.writer(text, quoting=how, lineterminator=end).writerows([HEADER.strip().split(","), *rows])
    return text.getvalue()


def told(table):
    def node(n):
        return table.node_types[table.node_type[n]], table.node_id[n]

    return [
        (*node(h), table.relations[r], *node(t))
        for h, r, t in zip(table.head, table.relation, table.tail, strict=True)
    ]


@FUZZ
@given(
    rows=ROWS,
    how=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC, "pandas"]),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_what_writers_wrote_is_read_back_or_refused(tmp_path, rows, how, end):
    path = tmp_path / "kg.csv"
    path.write_bytes(written(rows, how, end).encode())
    try:
        table = read_edge_table(path)
    except InputError as error:
        refused = str(error)
    else:
        assert told(table) == [tuple(v.strip() for v in row[:5]) for row in rows]
        return
    # A random value may well look like a row, or like an escape; and writers of lines that end in
    # LF put no quotes around a value with a carriage return, which ends the line for every reader.
    returns = how != csv.QUOTE_ALL and any("\r" in value for row in rows for value in row)
    what = [
        "opens a quote",
        "differ only in how a number is spelled",
        "has a blank before its quote",
    ] + ["columns, the header 7"] * returns
    assert any(words in refused for words in what)


PLAIN = st.text('ab1, "é', min_size=1, max_size=6).filter(
    lambda v: v.strip() and not v.startswith(" ")
)


@FUZZ
@given(
    data=st.data(),
    rows=st.lists(st.tuples(*[PLAIN] * 7), min_size=2, max_size=6),
    how=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
)
def test_a_lost_quote_never_loses_a_row(tmp_path, data, rows, how):
    text = written(rows, how)
    places = [i for i, c in enumerate(text) if c == '"']
    if not places:
        return
    lost = data.draw(st.sampled_from(places))
    path = tmp_path / "kg.csv"
    path.write_bytes((text[:lost] + text[lost + 1 :]).encode())
    try:
        table = read_edge_table(path)
    except InputError:
        return
    assert table.num_rows == len(rows) == table.counts[0].lines - 1
