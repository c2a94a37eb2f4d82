"""Read a CSV file beside pictures, as people and spreadsheets write it: its columns have names, in any order."""

import csv
import io
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from mnist_lib.errors import DataError, IntegrityError
from mnist_lib.objects.protocol import require_size

MAX_CSV_BYTES = 1 << 28  # some millions of pictures
DELIMITERS = ",;\t"  # spreadsheets write semicolons where numbers have decimal commas


def read_csv(
    folder: Path, name: str, required: Sequence[str], without_file: str
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the number of the last line of each row, and its values by column, normalized as Unicode.

    A value that a row lacks is "".

    Args:
        without_file: what to do if there is no such file.

    Raises:
        DataError: there is no such file, it cannot be read, lacks a required column, or is not CSV.
        StoreError: it is too large, or a link.
    """
    where = folder / name
    columns = f"{', '.join(required[:-1])} and {required[-1]}"
    if where.is_symlink():  # in a folder that others supply, it could lead anywhere
        raise IntegrityError(f"{where}: expected a regular file, got a link; replace it with a copy")
    try:
        require_size(str(where), where.stat().st_size, MAX_CSV_BYTES)
        text = where.read_bytes().decode("utf-8-sig", "surrogateescape")
    except FileNotFoundError as error:
        raise DataError(f"{where}: expected a file with the columns {columns}, got none; {without_file}") from error
    except OSError as error:
        raise DataError(f"{where} cannot be read ({error.strerror}); check its permissions") from error
    delimiter = max(DELIMITERS, key=text.partition("\n")[0].count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restval="", strict=True)
    try:
        missing = {*required} - {*(reader.fieldnames or ())}
        if missing:
            raise DataError(f"{where}: expected the columns {columns}, got none named {min(missing)}; add it")
        for row in reader:
            yield reader.line_num, {column: unicodedata.normalize("NFC", row[column]) for column in row if column}
    except csv.Error as error:
        raise DataError(f"{where}: expected CSV, got other text ({error}); correct it") from error
