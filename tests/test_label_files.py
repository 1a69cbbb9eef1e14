"""One table, whatever wrote it: the same labels, or one error that says all that is wrong."""

import itertools
import zipfile
from xml.sax.saxutils import escape

import pytest
from lookalike import write_book

from mbert import ConfigError, ManifestError
from mbert.manifests.labels.inputs import Inputs
from mbert.manifests.labels.label_file import find_label_file, has_label_file, read_labels
from mbert.manifests.labels.prediction_files import read_predictions

HEADER = ("path", "subject", "onset", "apex", "offset", "emotion", "action_units")
ROWS = (
    ("p1/été.mp4", "p1", "46", "59", "86", "Happiness", "6+12"),
    ("p2/b c.mp4", "p2", "12", "", "40", "disgust", ""),
    ("p2/b c.mp4", "p2", "50", "55", "61", "none", "4+L10"),
)
CHINESE = (("张三/视频.mp4", "张三", "1", "2", "3", "高兴", ""),)


def told(path, **more):
    """What a file says: the cells of each label in the order of the table."""
    names = ("path", "subject", "onset", "apex", "offset", "emotion", "action_units")
    labels = read_labels(path, "d", **more).labels
    return [tuple(getattr(label, name) for name in names) for label in labels]


def meant(rows=ROWS):
    return [
        (path, f"d/{subject}", *(int(frame) if frame else None for frame in frames), emotion, units or None)
        for path, subject, *frames, emotion, units in rows
    ]


def table(rows, delimiter=",", header=HEADER):
    return "".join(delimiter.join(row) + "\r\n" for row in (header, *rows))


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def write_ods(path, rows):
    """An OpenDocument spreadsheet with one sheet: numbers as numbers, the rest as text."""

    def cell(value):
        if value.isdigit():
            return f'<table:table-cell office:value-type="float" office:value="{value}"/>'
        return f'<table:table-cell office:value-type="string"><text:p>{escape(value)}</text:p></table:table-cell>'

    names = "".join(
        f' xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"' for name in ("office", "table", "text")
    )
    lines = "".join(f"<table:table-row>{''.join(map(cell, row))}</table:table-row>" for row in rows)
    body = f'<office:spreadsheet><table:table table:name="labels">{lines}</table:table></office:spreadsheet>'
    kind = "application/vnd.oasis.opendocument.spreadsheet"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", kind)
        archive.writestr(
            "content.xml",
            f'<?xml version="1.0"?><office:document-content{names}><office:body>{body}</office:body>'
            "</office:document-content>",
        )
        archive.writestr(
            "META-INF/manifest.xml",
            '<?xml version="1.0"?>'
            '<manifest:manifest xmlns:manifest="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0">'
            f'<manifest:file-entry manifest:full-path="/" manifest:media-type="{kind}"/></manifest:manifest>',
        )
    return path


def test_one_table_says_the_same_in_every_encoding_with_every_delimiter_and_header(tmp_path):
    encodings = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252")
    headers = (
        HEADER,
        tuple(name.upper() for name in HEADER),
        tuple(f"  {name.replace('_', ' ').title()} " for name in HEADER),
        ("File Path", "Subject-ID", "OnsetFrame", "Apex Frame", "offset_frame", "Estimated Emotion", "AUs"),
    )
    found = {
        (encoding, delimiter, header[0]): told(write(tmp_path / "labels.csv", table(ROWS, delimiter, header), encoding))
        for encoding, delimiter, header in itertools.product(encodings, ",;\t|", headers)
    }
    assert len(found) == 7 * 4 * 4
    assert {key: value for key, value in found.items() if value != meant()} == {}


@pytest.mark.parametrize("style", ["floats", "padded", "holes", "trailing", "quoted", "mac", "sep", "title", "unix"])
def test_what_programs_make_of_a_table_does_not_matter(tmp_path, style):
    rows, text = ROWS, table(ROWS)
    if style == "floats":
        text = table([[f"{cell}.0" if cell.isdigit() else cell for cell in row] for row in rows])
    elif style == "padded":
        text = text.replace(",", " ,  ")
    elif style == "holes":
        text = text.replace("\r\n", "\r\n,,,,,,\r\n\r\n  \r\n")
    elif style == "trailing":
        text = text.replace("\r\n", ",,,\r\n")
    elif style == "quoted":
        text = table([[f'"{cell}"' for cell in row] for row in rows], header=[f'"{name}"' for name in HEADER])
    elif style == "mac":
        text = text.replace("\r\n", "\r")
    elif style == "sep":
        text = "sep=;\r\n" + table(rows, ";")
    elif style == "title":
        text = "Annotation of the second lab\r\n\r\n" + text
    else:
        text = text.replace("\r\n", "\n").rstrip("\n")
    assert told(write(tmp_path / "labels.csv", text)) == meant()


def test_spreadsheets_say_the_same_whatever_they_are_called(tmp_path):
    numbers = [[int(cell) if cell.isdigit() else cell or None for cell in row] for row in ROWS]
    assert told(write_book(tmp_path / "labels.xlsx", {"Sheet1": [HEADER, *numbers]})) == meant()
    (tmp_path / "labels.xlsx").rename(tmp_path / "labels.csv")
    assert told(tmp_path / "labels.csv") == meant()
    assert told(write_ods(tmp_path / "labels.ods", [HEADER, *ROWS])) == meant()
    notes = [["remarks", "by"], ["none", "me"]]
    book = write_book(tmp_path / "b.xlsx", {"about": notes, "data": [[None], ["our lab"], [None], HEADER, *numbers]})
    file = read_labels(book, "d")
    assert (told(book), [label.line for label in file.labels]) == (meant(), [5, 6, 7])
    assert file.notes == ("b.xlsx: sheet 'about' is not read",)
    (tmp_path / "torn.xlsx").write_bytes(book.read_bytes()[:900])
    with pytest.raises(ManifestError, match=r"torn\.xlsx cannot be read as a spreadsheet"):
        read_labels(tmp_path / "torn.xlsx", "d")


@pytest.mark.parametrize("absent", ["", " ", "#N/A", "NA", "N/A", "nan", "NaN", "-", "/", "null", "None", "#NV"])
def test_cells_that_say_nothing_are_nothing(tmp_path, absent):
    text = table([("a.mp4", absent, "7", absent, "9", absent, absent)])
    (row,) = told(write(tmp_path / "labels.csv", text))
    assert row[:5] == ("a.mp4", None, 7, None, 9)
    assert row[5] in (None, "None")  # a class may have this name
    assert row[6] is None


def test_a_code_page_is_assumed_in_words_and_known_names_decide(tmp_path):
    def read(rows, encoding, *paths):
        inputs = Inputs(tmp_path, paths, is_whole=True) if paths else None
        file = read_labels(write(tmp_path / "labels.csv", table(rows), encoding), "d", inputs=inputs)
        return [label.path for label in file.labels], " ".join(file.notes)

    assert read(CHINESE, "utf-8") == (["张三/视频.mp4"], "")
    for rows, encoding, page in (
        (CHINESE, "gbk", "GB18030"),
        ([("张/a.mp4", "s1", "1", "2", "3", "x", "")], "gbk", "GB18030"),
        ([("Größe/Müller.mp4", "Zoë", "1", "2", "3", "déçu", "")], "cp1252", "code page 1252, which is a guess"),
        (ROWS, "cp1252", "code page 1252"),
    ):
        paths, note = read(rows, encoding)
        assert (paths, page in note) == ([row[0] for row in rows], True)
    for name, encoding in (
        ("Łódź", "cp1250"),
        ("видео", "cp1251"),
        ("動画", "cp932"),
        ("影片資料", "big5"),
        ("学", "gbk"),
        ("영상", "euc_kr"),
    ):
        path = f"{name}/a.mp4"
        paths, note = read([(path, "s1", "1", "2", "3", "x", "")], encoding, path, "other/b.mp4")
        assert (paths, "by the names of the inputs" in note) == ([path], True)


def test_decimal_commas_are_read_where_commas_separate_nothing(tmp_path):
    header = ("path", "subject", "onset_seconds", "apex", "offset seconds", "emotion")
    row = ("a.mp4", "s", "1,25", "46,0", "2", "x")
    (label,) = read_labels(write(tmp_path / "labels.csv", table([row], ";", header)), "d").labels
    assert (label.onset_seconds, label.apex, label.offset_seconds) == (1.25, 46, 2.0)
    for delimiter, apex in (
        (";", "46,000"),
        (";", "46.000"),
        (",", '"46,0"'),
        (",", "1.23E+05"),
        (",", "4_6"),
        (",", "-1"),
    ):
        text = table([("a.mp4", "s", "1", apex, "2", "x")], delimiter, header)
        with pytest.raises(ManifestError, match=r"labels\.csv line 2: apex is '.*'; allowed are a frame number"):
            read_labels(write(tmp_path / "labels.csv", text), "d")
    assert (
        told(write(tmp_path / "labels.csv", table([("a.mp4", "s", "1", "46.000", "2", "x")], ",", header)))[0][3] == 46
    )


def test_all_that_is_wrong_is_said_at_once_by_line_column_and_value(tmp_path):
    rows = [
        ("a.mp4", "s", "1", "two", "3", "x", ""),
        ("", "s", "1", "2", "3", "x", ""),
        ("b.mp4", "s", "1.5", "2", "3f", "x", ""),
        ("a, take 2.mp4", "s", "1", "2", "3", "x", "4"),
        ("fine.mp4", "s", "1", "2", "3", "x", ""),
    ]
    with pytest.raises(ManifestError) as raised:
        read_labels(write(tmp_path / "labels.csv", table(rows)), "d")
    assert str(raised.value).splitlines() == [
        f"{tmp_path}/labels.csv has 5 faults:",
        "  line 2: apex is 'two'; allowed are a frame number as 46, '/' or nothing",
        "  line 3: path is empty; it names a file or folder next to the label file",
        "  line 4: onset is '1.5'; allowed are a frame number as 46, '/' or nothing",
        "  line 4: offset is '3f'; allowed are a frame number as 46, '/' or nothing",
        "  line 5 has 8 cells, but line 1 has 7: ['a', 'take 2.mp4', 's', '1', '2', '3', 'x', '4']; a cell that holds "
        "',' is written in quotes, as \"a, take 2.mp4\" may be",
    ]
    with pytest.raises(ManifestError, match=r"has 50 faults:(?s:.)*line 21: apex is 'no 20'(?s:.)*and 30 more$"):
        many = [("a.mp4", "s", "1", f"no {number}", "", "x", "") for number in range(1, 51)]
        read_labels(write(tmp_path / "labels.csv", table(many)), "d")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lacks the columns path, subject, onset, apex, offset, emotion"),
        ("path,subject,onset,apx,offset,emotion\n", r"lacks the columns apex; .*'apx' may be meant for apex"),
        ("path,subject,onset,onset,apex,offset,emotion\n", "more than one column that may be the onset"),
        ("file,video,subject,onset,apex,offset,emotion\n", "may be the path: file, video; name the one"),
        ('path,subject,onset,apex,offset,emotion\n"a.mp4,s,1,2,3,x\nb.mp4,s,1,2,3,y\n', "line 2 cannot be read as CSV"),
    ],
)
def test_a_header_or_a_quote_that_is_wrong_is_named(tmp_path, text, message):
    with pytest.raises(ManifestError, match=message):
        read_labels(write(tmp_path / "labels.csv", text), "d")


def test_equal_rows_are_one_label_with_a_remark_and_different_ones_stay(tmp_path):
    text = table([ROWS[1], ROWS[0], ROWS[1], (*ROWS[0][:5], "sadness", "")])
    labels = read_labels(write(tmp_path / "labels.csv", text), "d").labels
    assert [(label.line, label.emotion, label.fault) for label in labels] == [
        (2, "disgust", None),
        (3, "Happiness", None),
        (5, "sadness", None),
    ]
    assert labels[0].remark == "label line 2: line 4 says the same, it counts once"


def test_rows_with_a_path_alone_say_nothing_and_one_with_a_subject_says_who(tmp_path):
    rows = [
        ("a.mp4", "", "", "", "", "", ""),
        ("b.mp4", "s1", "", "-", "", "#N/A", ""),
        ("c.mp4", "7.0", "", "", "", "x", ""),
    ]
    labels = read_labels(write(tmp_path / "labels.csv", table(rows)), "d").labels
    assert [(label.path, label.subject, label.is_blank) for label in labels] == [
        ("b.mp4", "d/s1", True),
        ("c.mp4", "d/7", False),
    ]


def test_the_label_file_is_found_in_any_case_and_two_are_an_error(tmp_path):
    assert (find_label_file(tmp_path), has_label_file(tmp_path)) == ((None, ()), False)
    (tmp_path / "LABELS.ods").touch()
    assert (find_label_file(tmp_path), has_label_file(tmp_path)) == ((tmp_path / "LABELS.ods", ()), False)
    (tmp_path / "Labels.CSV").touch()
    assert find_label_file(tmp_path) == (tmp_path / "Labels.CSV", ("LABELS.ods is not read, as Labels.CSV is there",))
    assert has_label_file(tmp_path)
    (tmp_path / "labels.csv").touch()
    with pytest.raises(ConfigError, match=r"holds Labels\.CSV and labels\.csv: keep one of them"):
        find_label_file(tmp_path)


def test_the_cases_of_label_files_are_read_as_people_mean_them(cases):
    both = [("s01/a.mp4", "d/s01", 10, 20, 30, "happiness", None), ("s02/b.mp4", "d/s02", 5, None, 25, "disgust", None)]
    found = {file.stem: told(file) for file in (cases / "labels" / "variants").iterdir() if file.stem != "long_row"}
    na = found.pop("na")
    assert len(found) == 8
    assert {name: rows for name, rows in found.items() if rows != both} == {}
    assert na == [("s01/a.mp4", "d/s01", 10, None, 30, "happiness", None)]
    with pytest.raises(ManifestError, match=r"long_row\.csv line 2 has 7 cells, .*as \"s01/a, take 2\.mp4\" may be"):
        read_labels(cases / "labels" / "variants" / "long_row.csv", "d")


def test_predictions_are_read_by_the_same_rules(tmp_path):
    header = ("Subject", "Clip", "Ground Truth", "Prediction")
    rows = (("Zoë", "a, 1", "happy", "sad"), ("s2", "b", "sad", "sad"))
    expected = [("Zoë", "a, 1", "happy", "sad"), ("s2", "b", "sad", "sad")]

    def found(path):
        return [(row.subject, row.clip, row.label, row.prediction) for row in read_predictions(path)]

    for encoding, delimiter in itertools.product(("utf-8-sig", "utf-16", "cp1252"), ";\t|"):
        assert found(write(tmp_path / "p.csv", table(rows, delimiter, header), encoding)) == expected
    assert found(write_book(tmp_path / "p.xlsx", {"p": [header, *rows]})) == expected
    assert found(write_ods(tmp_path / "p.ods", [header, *rows])) == expected
    with pytest.raises(
        ManifestError, match=r"has 2 faults:\n  line 2: label is empty(?s:.)*line 4: prediction is empty"
    ):
        read_predictions(write(tmp_path / "p.csv", "subject,label,prediction\ns,,a\ns,a,a\ns,a,\n"))
