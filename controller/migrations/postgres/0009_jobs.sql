-- Which controller does a job that only one may do at a time, and until when nobody else may.
CREATE TABLE jobs (
    name TEXT COLLATE "C" PRIMARY KEY,
    holder TEXT NOT NULL,
    expires_at BIGINT NOT NULL
);
