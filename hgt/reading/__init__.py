"""In: a file or folder in PrimeKG's columns, as users have them: CSV in any dialect, packed or not,
Parquet, parts. Out: an `EdgeTable`, its rows as integer codes, and how many lines and rows there
were. What cannot be read without guessing is refused by name. It knows no graph: whether two rows
are one fact is decided in `hgt.graph`.
"""
