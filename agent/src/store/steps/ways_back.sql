-- How later steps are undone, by a program that does not know them: the statements of each step behind `-- BACK`.
CREATE TABLE ways_back (
    version INTEGER PRIMARY KEY,
    statements TEXT NOT NULL
) STRICT;
