-- `objects.chunks` has, for each chunk that the content itself is cut into, its length in 4 bytes and its SHA-256 in 32. Lists of before,
-- with 32 bytes for each MiB, say nothing in this form: what has one is verified as a whole until it is uploaded again.
UPDATE objects SET chunks = ''::BYTEA, chunks_sha256 = NULL;
