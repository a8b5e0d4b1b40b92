"""Reading: rows in PrimeKG's columns, from the files that users have.

In: a file or folder: CSV in any dialect, packed or not, Parquet, or parts. Out: an `EdgeTable` of
integer codes, and the numbers of lines and rows. Files that cannot be read without guessing are
refused by name. This room knows no graph: `hgt.graph` decides whether two rows are one fact.
"""
