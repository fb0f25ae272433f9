"""CSV files as loggers and spreadsheets write them: read as they are meant, or refused in words."""

import numpy as np
import pytest

from edged.adapters.datasets.csv_table import open_csv_table
from edged.errors import FormatError, StorageError


def table(tmp_path, content, **options):
    path = tmp_path / "climate.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return open_csv_table(path, **options)


def rows(dataset):
    """(label, numbers) of each row."""
    items = [dataset.sample("all", i) for i in range(dataset.count("all"))]
    return [(item.label, np.frombuffer(item.payload, "<f4").tolist()) for item in items]


def left_out(dataset):
    return {each.reason: (each.count, *each.first) for each in dataset.left_out}


WANTED = [("warm", [1.5, 40.0]), ("cold", [-2.0, 55.25])]
PLAIN = "t,rh,label\n1.5,40,warm\n-2,55.25,cold\n"


def test_a_row_is_a_sample_of_float32(tmp_path):
    dataset = table(tmp_path, "t,label,rh\n1.5,warm,40\n-2,cold,55.25\n")
    assert (dataset.name, dataset.labels, dataset.shape, dataset.dtype) == (
        "climate",
        ("cold", "warm"),
        (2,),
        "float32",
    )
    assert rows(dataset) == WANTED
    assert dataset.item_name("all", 1) == "line 3"
    assert dataset.left_out == ()


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        PLAIN.rstrip(),
        PLAIN + "\n\n \n,,\n\x1a",
        "\n\n" + PLAIN.replace("\n", "\n\n"),
        "\ufeff" + PLAIN,
        PLAIN.encode("utf-16"),
        PLAIN.encode("utf-16-le"),
        PLAIN.encode("utf-16-be"),
        "°C,rh,label\n1.5,40,warm\n-2,55.25,cold\n".encode("cp1252"),
        "sep=,\n" + PLAIN,
        PLAIN.replace(",", "\t"),
        PLAIN.replace(",", " | "),
        PLAIN.replace(",", ";"),
        PLAIN.replace(",", ";").replace(".", ","),
        PLAIN.replace(",", "\t").replace(".", ","),
        PLAIN.replace("\n", ",\n"),
        PLAIN.replace("warm\n", "warm,\n").replace("cold\n", "cold,\n"),
        '"t", "rh", "label"\n"1.5", "40", "warm"\n"-2", "55.25", "cold"\n',
        '"t";"rh";"Label"\n"1,5";"40";"warm"\n"-2";"55,25";"cold"\n',
        "t,rh,LABEL \n+1.50,4e1,warm\n-2.,5525E-2,cold\n",
        "1.5,40,warm\n-2,55.25,cold\n",
        "1.5,warm,40\n-2,cold,55.25\n",
        "1,5;40;warm\n-2;55,25;cold\n",
        '"t","rh","label"\n"1,5","40","warm"\n"-2","55,25","cold"\n',
        't,rh,label\n"1,5",40,warm\n-2,"55,25",cold\n',
        PLAIN.replace("-2", "\u22122"),
        "t\trh\tlabel\n1,5\t4e+1\twarm\n\u22122,0\t5525E\u22122\tcold\n",
    ],
    ids=range(29),
)
def test_the_same_table_in_many_ways(tmp_path, content):
    dataset = table(tmp_path, content, header=None if "h" in str(content) else False)
    assert rows(dataset) == WANTED
    assert dataset.left_out == ()


def test_rows_that_are_none_are_left_out_and_named(tmp_path):
    content = (
        "t,rh,label\n1,2,a\n1_0,2,a\nnan,2,a\n1,inf,a\n1,,a\n1,0x10,a\n1,0 000,a\n1,٣,a\n"  # lines 2 to 9
        '1,2\n1,2,a,b\n1,2,\n1e39,2,a\n1,"2,a\n\0\0\0\n3,4,b\n'  # 10 to 16
        f"1,{'9' * 70_000},a\n" + "5,6,c\n" * 20
    )
    dataset = table(tmp_path, content)
    assert rows(dataset) == [("a", [1, 2]), ("b", [3, 4]), *[("c", [5, 6])] * 20]
    assert left_out(dataset) == {
        "not_a_number": (
            7, 'line 3: t is "1_0"', 'line 4: t is "nan"', 'line 5: rh is "inf"', 'line 6: rh is ""',
            'line 7: rh is "0x10"',
        ),
        "num_fields": (2, "line 10: 2 instead of 3", "line 11: 4 instead of 3"),
        "no_label": (1, "line 12"),
        "not_finite": (1, "line 13"),
        "bad_quotes": (1, "line 14"),
        "nul_bytes": (1, "line 15"),
        "too_long": (1, "line 17"),
    }  # fmt: skip
    assert dataset.item_name("all", 2) == "line 18"


def test_what_stands_above_the_header_is_left_out(tmp_path):
    dataset = table(tmp_path, "Plot Title: shed 4\nserial,20551\n" + PLAIN)
    assert rows(dataset) == WANTED
    assert left_out(dataset) == {"above_header": (2, "line 1", "line 2")}


def test_a_decimal_comma_is_found_also_below_many_whole_numbers(tmp_path):
    dataset = table(tmp_path, "t;rh\n" + "0;0\n" * 1000 + "0,5;1\n" + "1.5;2\n")
    assert rows(dataset)[-1] == (None, [0.5, 1.0])
    assert left_out(dataset) == {"not_a_number": (1, 'line 1003: t is "1.5", with another decimal mark')}


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ("a\tb\n1,234\t5\n0,5\t6\n", [[1.234, 5], [0.5, 6]]),  # a later number tells it
        ('a,b\n"1,234",5\n"0,5",6\n', [[1.234, 5], [0.5, 6]]),
        ("a;b\n1.234;5\n2.345;6\n", [[1.234, 5], [2.345, 6]]),  # a logger with three decimals
        ("a;b\n1,234;5\n2,345;6\n", [[1.234, 5], [2.345, 6]]),
    ],
    ids=["tabs", "quoted", "points", "semicolons"],
)
def test_the_decimal_mark_is_told_by_the_whole_file(tmp_path, content, wanted):
    assert rows(table(tmp_path, content)) == [(None, [pytest.approx(each) for each in row]) for row in wanted]


@pytest.mark.parametrize(
    ("content", "line", "field", "written"),
    [
        ("a;b\n1;2\n1.000,5;3\n", 3, "1.000,5", "1000,5"),
        ('a,b\n0.5,"1,000.5"\n', 2, "1,000.5", "1000.5"),
        ('a,b\n0.5,"-1,234,567"\n', 2, "-1,234,567", "-1234567"),
        ('a,b\n0.5,"1,234"\n', 2, "1,234", "1234"),
        ("a;b\n0,5;1.234\n", 2, "1.234", "1234"),
        ("a;b\n5;12 345\n", 2, "12 345", "12345"),
        ("a;b\n5;12'345,5\n", 2, "12'345,5", "12345,5"),
        ("a\n1.000,5\n2.000,5\n", 2, "1.000,5", "1000,5"),
    ],
    ids=["comma", "point", "millions", "in a file of points", "in a file of commas", "blank", "Swiss", "one column"],
)
def test_marks_of_thousands_are_refused_with_what_to_write(tmp_path, content, line, field, written):
    with pytest.raises(FormatError) as caught:
        table(tmp_path, content)
    assert f'climate.csv:{line}: "{field}" has a mark between thousands' in str(caught.value)
    assert f"such as {written}" in str(caught.value)


def test_a_table_without_labels_is_unlabelled(tmp_path):
    assert rows(table(tmp_path, "t\n1\n")) == [(None, [1])]


@pytest.mark.parametrize(
    ("content", "header", "wanted"),
    [
        ("400,410,ok\n1,2,ok\n", None, [("ok", [400, 410]), ("ok", [1, 2])]),  # its label is a later line's
        ("400,410,label\n1,2,ok\n", None, [("ok", [1, 2])]),
        ("a,b\n1,2\n", None, [(None, [1, 2])]),
        ("5,2\n1,2\n", None, [(None, [5, 2]), (None, [1, 2])]),  # no channels are called so
        ("-1,2,x\n1,2,y\n", None, [("x", [-1, 2]), ("y", [1, 2])]),
        ("21.5\n21.6\n", None, [(None, [21.5]), (None, [pytest.approx(21.6)])]),
        ("400,410\n1,2\n", True, [(None, [1, 2])]),
        ("400,410\n1,2\n", False, [(None, [400, 410]), (None, [1, 2])]),
        ("400,410,label\n1,2,3\n1,2,3\n4,5,6\n", False, None),
    ],
)
def test_whether_the_first_line_names_the_columns(tmp_path, content, header, wanted):
    if wanted is None:
        assert left_out(table(tmp_path, content, header=header)) == {"not_a_number": (1, 'line 1: field 3 is "label"')}
    else:
        assert rows(table(tmp_path, content, header=header)) == wanted


@pytest.mark.parametrize("content", ["400,410,420\n1,2,3\n", "1,2,class\n1,2,ok\n"])
def test_it_is_asked_for_where_it_cannot_be_told(tmp_path, content):
    with pytest.raises(FormatError, match="say so with --header yes or --header no"):
        table(tmp_path, content)


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ("1,2,class\n1,2,ok\n", [("ok", [1, 2])]),  # no label, while others are some
        ("1,2,ok\n1,2,worn\n", [("ok", [1, 2]), ("worn", [1, 2])]),  # a label
        ("1,2,bad\n1,2,ok\n3,4,bad\n", [("bad", [1, 2]), ("ok", [1, 2]), ("bad", [3, 4])]),  # refused later, by name
        ("1,2,Mo\u0308hre\n1,2,ok\n", [("M\u00f6hre", [1, 2]), ("ok", [1, 2])]),
        ("a,b,state\n1,2,ok\n3,4,worn\n", [("ok", [1, 2]), ("worn", [3, 4])]),  # it holds labels, by whatever name
    ],
    ids=["header", "data", "foreign", "decomposed", "names"],
)
def test_the_labels_of_the_stream_tell_the_header_and_the_column_of_labels(tmp_path, content, wanted):
    assert rows(table(tmp_path, content, labels=("ok", "worn", "M\u00f6hre"))) == wanted


@pytest.mark.parametrize("content", ["1,2,wron\n1,2,worn\n", "1,2,other\n1,2,more\n"], ids=["mistyped", "foreign"])
def test_it_is_asked_for_where_the_labels_do_not_tell_it(tmp_path, content):
    with pytest.raises(FormatError, match="say so with --header yes or --header no"):
        table(tmp_path, content, labels=("ok", "worn"))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "no table"),
        ("\n \n", "no table"),
        ("Readings of a shed, as its logger wrote them.\n", "no table: a line that names the columns"),
        ("label\na\n", "the columns are numbers"),
        ("a,label,Label\n1,x,y\n", "at most one is called"),
        ("a,b\n1\n", r"0 rows\n  left out: 1 row with another number of fields .*line 2: 1 instead of 2"),
        ("a\n1\nx\ny\n", r'1 row\n  left out: 2 rows with a field that is no number .*line 3: a is "x"'),
        ("a\n1e39\n", "0 rows\n  left out: 1 row with a number too large"),
        ('a\n"1\n', "1 row with a quote that is not closed"),
        ("a,b,species\n1,2,oak\n3,4,elm\n", '"species" holds no numbers: call the column "label" if it holds labels'),
        ("a\tb\n1,234\t5\n", "csv:2: 1,234 may be 1.234 or 1234"),
        ('a,b\n"1,234","5"\n', "csv:2: 1,234 may be 1.234 or 1234"),
        ("a;b\n1,234;5\n1.234;6\n", "csv:2: 1,234 may be 1.234 or 1234"),
        (
            "a;b\n0,5;5\n1.5;6\n2.5;6\n",
            r'line 3: a is "1\.5", with another decimal mark, .*"2\.5", with another decimal mark\)$',
        ),
        (b"a,b\n\x81,2\n", "neither UTF-8, UTF-16 nor Windows-1252"),
        (b"\xff\xfea\0\n", "neither UTF-8"),
    ],
)
def test_what_is_no_table_is_refused_in_words(tmp_path, content, why):
    with pytest.raises(FormatError, match=why):
        table(tmp_path, content)


def test_a_file_that_cannot_be_read_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match=r"gone\.csv"):
        open_csv_table(tmp_path / "gone.csv")


def test_a_line_without_end_costs_no_memory(tmp_path):
    path = tmp_path / "zeros.csv"
    path.write_text(PLAIN)
    with path.open("ab") as file:
        file.truncate(50_000_000)  # a power cut leaves a file's end as zeros
    assert rows(open_csv_table(path)) == WANTED
    assert left_out(open_csv_table(path)) == {"too_long": (1, "line 4")}
