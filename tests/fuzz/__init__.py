"""The fuzz room: broken and crafted files for every reader, odd inputs for every operator.

`python -m tests.fuzz --minutes 10` runs it and counts; `pytest tests/fuzz` runs a short, fixed part. A case holds if it
returns or raises one of the errors that its reader documents, within seconds, and no other file is written.
"""
