"""Runs a statement over a file of JSON lines, as the table `logs`, and prints the rows as JSON.

Usage: sql.py FILE STATEMENT
"""

import json
import sys

import duckdb

_, path, statement = sys.argv
database = duckdb.connect()
database.execute("CREATE VIEW logs AS SELECT * FROM read_json($path, format = 'newline_delimited')".replace("$path", repr(path)))
print(json.dumps(database.execute(statement).fetchall(), default=str))
