"""Read tables: bytes of a .csv or .parquet file, or of Arrow → columns to choose from, and records per row.

The standard library reads CSV, not pandas: it turns no cell into a number or a missing value, and a ragged row costs
only itself.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import islice
from typing import Any

from kvlab.errors import PromptError
from kvlab.language import Message, phrase
from kvlab.request.formats import ANSWERS, CHAT, DATA_SETS, KNOWN, LABELS, REASONINGS, Form, telling, used_beside
from kvlab.request.uploads import Encoding, Number, Record, decode, empty, lines, shown, wrong_encoding

TABLES = (".csv", ".parquet")
SIGNS = (",", ";", "\t")  # between cells, the usual first
_LOOKED_AT = 50  # lines of a CSV file, to tell the sign between its cells
COLUMNS = 1000  # and characters of a name, since all of them are offered to choose from
UNPACKED = 256 * 2**20  # bytes of a Parquet file's cells that are read: 3 KB on disk may hold terabytes
_BATCH = 64 * 2**20  # bytes of a Parquet file to read at a time
_NESTED = 64  # rows of a Parquet file to read at a time, if cells are lists: a text that repeats is small on disk only
_RECORD = 4 * 2**20  # bytes of a record of a CSV file; more is a quote that nobody closed
_JUDGED = 10_000  # rows that tell whether a column holds text
# Messages of Python's CSV reader.
_CSV_PROBLEMS = (phrase("unexpected end of data"), phrase("',' expected after '\"'"))


@dataclass(frozen=True)
class Table:
    """A .csv or .parquet file: its header, and functions that read its rows."""

    columns: list[str]
    text_columns: Callable[[], list[str]]
    rows: Callable[[list[str]], Iterator[Record]]  # the columns to read → records


def open_table(suffix: str, data: bytes) -> Table:
    """Read the header of a table. ``suffix`` is ".csv" or ".parquet".

    Raises ``prompts-wrong-encoding``, ``prompts-empty`` or ``prompts-broken-csv`` for the header of a CSV,
    ``prompts-broken-parquet`` for a file that is not Parquet, ``prompts-too-many-columns``.
    """
    table = _open_csv(data) if suffix == ".csv" else _open_parquet(data)
    longest = max(map(len, table.columns), default=0)
    if max(len(table.columns), longest) > COLUMNS:
        found = Message("{n:,} columns, the longest name of {most:,} characters", n=len(table.columns), most=longest)
        raise PromptError(
            "prompts-too-many-columns",
            expected=Message("at most {n:,} columns, and {n:,} characters in the name of each", n=COLUMNS),
            found=found,
            remedy=Message("keep the columns with the prompts; a separator inside a text makes columns too"),
        )
    return table


def named_columns(table: Table) -> list[str]:
    """Return the columns that a user can choose from, without the unnamed one that pandas writes for its index."""
    return [name for name in table.columns if name]


# Parts of names of columns that hold prompts, the most likely first.
LIKELY = ("prompt", "question", "query", "instruction", "problem", "提示", "问题", "題目", "题目")
LIKELY += ("message", "content", "text", "body", "input", "内容", "文本", "输入")


def choose_column(table: Table, form: Form) -> str | None:
    """Return the column that the form names, else ``prompt``, else ``text``, else the only column that holds text.

    None: the columns tell another format, such as ``messages``, so no single column holds the prompts.
    Raises ``prompts-no-column``, or ``prompts-no-header`` if the first row is no header.
    """
    names, column = named_columns(table), form.column
    renamed = [dict(form.names).get(name, name) for name in names]
    told = form.names or form.format in DATA_SETS or (form.format == "auto" and telling(renamed))
    if column is None and form.answer is None and told:
        return None
    chosen = column or next(
        (name for name in ("prompt", "text") if name in names and form.format in ("auto", name)), None
    )
    if chosen is None:
        if _is_data(names):
            raise PromptError(
                "prompts-no-header",
                expected=Message("a first row with the names of the columns"),
                found=Message("what looks like data: {cells}", cells=[shown(name) for name in names[:5]]),
                remedy=Message("put a row such as prompt,reasoning,answer on top, or choose the column by its name"),
            )
        beside = ("id", *ANSWERS, *REASONINGS, form.answer)
        texts = [name for name in table.text_columns() if name]
        candidates = [name for name in texts if name not in beside] or [name for name in texts if name != "id"]
        chosen = candidates[0] if len(candidates) == 1 else None
    if chosen is None or names.count(chosen) != 1:
        raise _no_column(names, column)
    if form.answer is not None and names.count(form.answer) != 1:
        raise _no_column(names, form.answer)
    return chosen


def likely_column(names: list[str]) -> str:
    """Return the column that most likely holds the prompts, by its name; else the first."""
    for likely in LIKELY:
        for name in names:
            if likely in name.casefold():
                return name
    return names[0]


def _no_column(names: list[str], column: str | None) -> PromptError:
    listed = [shown(name) for name in names[:20]] + (["..."] if len(names) > 20 else [])
    return PromptError(
        "prompts-no-column",
        expected=Message("a column named 'prompt' or 'text', or exactly one column of text")
        if column is None
        else Message("one column named {column}", column=shown(column)),
        found=Message("the columns {names}", names=listed) if names else Message("no named column"),
        remedy=Message("choose the column to read, or rename it to prompt"),
    )


def _is_data(header: list[str]) -> bool:
    """Return whether a header looks like a row of data: sentences, numbers or long texts instead of names."""
    sentence_or_number = re.compile(r"[.?!。？！]$|^[-+]?[\d.]+$|\n")
    return any(len(cell) > 60 or cell.count(" ") > 6 or sentence_or_number.search(cell) for cell in header)


def wanted_columns(table: Table, chosen: str | None, form: Form) -> list[str]:
    """Return the columns to read: ``chosen`` and those read beside it, or all that a format may use."""
    once = [name for name in table.columns if table.columns.count(name) == 1]
    if chosen is None:
        return [name for name in once if name in (*KNOWN, *LABELS) or name in dict(form.names)]
    beside = [name for name in used_beside(chosen, once, form.answer) if name in once]
    others = (*LABELS, *CHAT) if chosen == "prompt" else LABELS
    return [chosen, *beside, *(name for name in others if name in once and name != chosen)]


def table_records(table: Table, chosen: str | None, wanted: list[str]) -> Iterator[Record]:
    """Yield rows as records of the wanted columns; a missing prompt is an empty one."""
    for record in table.rows(wanted):
        if chosen is not None and isinstance(record.content, dict) and record.content[chosen] is None:
            record = replace(record, content=record.content | {chosen: ""})
        yield record


def _csv_records(data: bytes) -> Iterator[tuple[int, list[str] | PromptError]]:
    """Yield the line number where a record ends, and its cells. Skips records without any cell."""
    # csv refuses cells over 128 KiB. The limit is global, so only raise it.
    csv.field_size_limit(max(csv.field_size_limit(), len(data)))
    unreadable: PromptError | None = None  # the first such line of the current record
    begin: int | None = None  # byte offset of the current record
    endless = False
    encoding = Encoding(data)

    def text() -> Iterator[str]:
        nonlocal begin, endless, unreadable
        for number, offset, line in lines(data):
            begin = offset if begin is None else begin
            if offset - begin > _RECORD:
                endless = True
                return
            try:
                yield decode(line, number, offset, encoding) + "\n"
            except PromptError as error:
                unreadable = unreadable or error
                yield line.decode(errors="surrogateescape") + "\n"

    delimiter, skipped = _delimiter(data)
    # strict: otherwise an unclosed quote silently swallows the rest of the file.
    reader = csv.reader(islice(text(), skipped, None), delimiter=delimiter, strict=True)
    while not endless:
        first = skipped + reader.line_num + 1
        try:
            cells: list[str] | PromptError = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problem = Message(str(error)) if str(error) in _CSV_PROBLEMS else str(error)
            places = {"first": first, "last": skipped + reader.line_num}
            found = Message("{problem} (from line {first} to line {last})", problem=problem, **places)
            if endless:
                found = Message("none within {size:g} MiB, from line {first} on", size=_RECORD / 2**20, first=first)
            cells = PromptError(
                "prompts-broken-csv",
                expected=Message('a cell in quotes to end with one, and quotes inside it doubled ("")'),
                found=found,
                remedy=Message("close or double the quote; the lines it has swallowed are left out"),
            )
        begin = None
        if unreadable:
            cells, unreadable = unreadable, None
        if cells:
            yield skipped + reader.line_num, cells


def _delimiter(data: bytes) -> tuple[str, int]:
    """Return the sign between cells, and how many lines stand before the header.

    Excel's first line ``sep=;`` says it. Else it is the sign that cuts the first rows into as many cells as the header:
    spreadsheets of many countries write a semicolon or a tab, and a header in quotes may hold a comma.
    """
    begun = lines(data[:_RECORD], blank=False)
    beginning = [line.decode(errors="replace") for _, _, line in islice(begun, _LOOKED_AT)]
    said = re.fullmatch(r'"?sep=(.)"?', beginning[0].strip(" ")) if beginning else None
    if said:
        return said[1], 1

    def even(sign: str) -> tuple[float, int]:
        rows = [cells for cells in csv.reader(_ended(beginning), delimiter=sign) if cells]
        width = len(rows[0]) if rows else 1
        return sum(len(cells) == width for cells in rows) / len(rows) if width > 1 else 0.0, width

    try:
        return max(SIGNS, key=even), 0
    except csv.Error:
        return ",", 0


def _ended(beginning: list[str]) -> Iterator[str]:
    return (line + "\n" for line in beginning)


def _open_csv(data: bytes) -> Table:
    records = _csv_records(data)
    _, header = next(records, (0, None))
    if header is None:
        raise empty(Message("only blank lines"))
    if isinstance(header, PromptError):
        raise header
    columns = [cell.strip() for cell in header]

    def rows(wanted: list[str]) -> Iterator[Record]:
        places = [(name, columns.index(name)) for name in wanted]
        records = _csv_records(data)
        next(records)
        for row, (line, cells) in enumerate(records, 1):
            if isinstance(cells, PromptError):
                content: dict[str, Any] | PromptError = cells
            elif len(cells) != len(columns):
                content = PromptError(
                    "prompts-ragged-row",
                    expected=Message("{n} cells, as in the header", n=len(columns)),
                    found=Message("{n} cells in row {row} (line {line})", n=len(cells), row=row, line=line),
                    remedy=Message("put cells that hold a comma in double quotes, and give each row all its cells"),
                )
            else:
                content = {name: cells[place] for name, place in places}
            yield Record("row", row, content)

    def text_columns() -> list[str]:
        pending = set(range(len(columns)))
        for _, cells in islice(_csv_records(data), 1, _JUDGED):
            if not pending:
                break
            if not isinstance(cells, PromptError) and len(cells) == len(columns):
                pending = {place for place in pending if not cells[place].strip() or is_number(cells[place])}
        return [name for place, name in enumerate(columns) if place not in pending]

    return Table(columns, text_columns, rows)


def is_number(text: str) -> bool:
    """Return whether a cell reads as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _open_parquet(data: bytes) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(pa.BufferReader(data))
        # As dictionaries, texts that repeat are held once, however many rows they fill.
        texts = [field.name for field in schema if _is_text(_plain(field.type))]
        source = pq.ParquetFile(pa.BufferReader(data), read_dictionary=texts)
    except MemoryError:  # Arrow's is also an ArrowException
        raise
    except (pa.ArrowException, OSError) as error:
        raise _broken_parquet(error) from None

    def batches(wanted: list[str]) -> Iterator[Any]:
        nested = any(pa.types.is_nested(schema.field(name).type) for name in wanted)  # texts there are no dictionaries
        size = min(_batch(source.metadata), _NESTED) if nested else _batch(source.metadata)
        return source.iter_batches(batch_size=size, columns=wanted, use_threads=False)

    return arrow_table(schema, batches)


def arrow_table(schema: Any, batches: Callable[[list[str]], Iterable[Any]]) -> Table:
    """Return a table of Arrow batches; ``batches`` reads the columns of these names."""
    import pyarrow as pa

    def rows(wanted: list[str]) -> Iterator[Record]:
        row = unpacked = 0
        try:
            for batch in batches(wanted):
                columns = [_parquet_column(batch.column(name)) for name in wanted]
                for place in range(len(batch)):
                    row += 1
                    unpacked += sum(sizes[place] for sizes, _ in columns)
                    if unpacked > UNPACKED:
                        yield Record("row", row, _unpacks_to_more(row - 1))
                        return
                    values = [cell(place) for _, cell in columns]
                    failed = next((value for value in values if isinstance(value, PromptError)), None)
                    yield Record("row", row, failed or dict(zip(wanted, values)))
        except MemoryError:
            raise
        except (pa.ArrowException, OSError) as error:
            yield Record("row", row + 1, _broken_parquet(error))

    def text_columns() -> list[str]:
        return [field.name for field in schema if _is_text(_plain(field.type))]

    return Table(list(schema.names), text_columns, rows)


def _broken_parquet(error: Exception) -> PromptError:
    return PromptError(
        "prompts-broken-parquet",
        expected=Message("a Parquet file"),
        found=Message("data that cannot be read as one ({reason})", reason=str(error).splitlines()[0][:120]),
        remedy=Message("write it again, for example with pandas: frame.to_parquet('prompts.parquet')"),
    )


def _plain(kind: Any) -> Any:
    """Return the type of an Arrow column's values, also if the column is dictionary-encoded."""
    return getattr(kind, "value_type", kind) if str(kind).startswith("dictionary") else kind


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _parquet_column(column: Any) -> tuple[list[int], Callable[[int], Any]]:
    """Return the bytes of each cell of an Arrow array once it is unpacked, and a function that unpacks one cell.

    Text becomes str, numbers ``Number``, null and NaN None.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if not _is_text(_plain(column.type)):
        values = column.dictionary_decode() if _plain(column.type) is not column.type else column
        return [values.nbytes // max(1, len(values))] * len(values), lambda place: as_number(values[place].as_py())
    if _plain(column.type) is column.type:
        column = column.dictionary_encode()
    # A string column of Parquet may hold bytes that are not UTF-8.
    cells, places = column.dictionary.cast(pa.large_binary()), column.indices
    sizes = pc.fill_null(pc.take(pc.binary_length(cells), places), 0).to_pylist()
    places = places.to_pylist()
    return sizes, lambda place: None if places[place] is None else _utf8(cells[places[place]].as_py())


def _batch(about: Any) -> int:
    """Return the rows of a Parquet file to read at a time: few of long ones, as each batch repeats its dictionary."""
    sizes = [
        about.row_group(n).total_byte_size // max(1, about.row_group(n).num_rows) for n in range(about.num_row_groups)
    ]
    return min(10_000, max(1, _BATCH // max([1, *sizes])))


def _unpacks_to_more(rows: int) -> PromptError:
    return PromptError(
        "prompts-unpacks-to-more",
        expected=Message("at most {size:g} MiB of text once the file is unpacked", size=UNPACKED / 2**20),
        found=Message("more: the first {n:,} rows are read, the others are not", n=rows),
        remedy=Message("split the file, or keep a sample of its rows"),
    )


def _utf8(value: bytes | None) -> str | PromptError | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError as error:
        return wrong_encoding(value[error.start], Message("at byte {place} of the cell", place=error.start))


def as_number(value: Any) -> Any:
    """Return a number as text with its spelling, NaN as None, and anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return value
    return Number(value) if value == value else None
