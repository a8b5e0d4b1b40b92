"""The exit codes of `hgt`.

0: done; for `hgt train`, trained and accepted.
1: failed.
2: wrong input.
3: trained, and rejected by validation.
130: interrupted.
141: interrupted, because the reader of its output closed the pipe.
"""

ACCEPTED, FAILED, BAD_INPUT, REJECTED, INTERRUPTED, OUTPUT_CLOSED = 0, 1, 2, 3, 130, 141
