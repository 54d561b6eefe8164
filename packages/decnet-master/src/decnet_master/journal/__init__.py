"""The journal: every line that a worker's logship was promised to be safe, on the master's disk until it is ingested.

Layout of `<data-directory>/journal/`

    0000000000000001.seg     segments, numbered from 1 without gaps; only the newest grows
    0000000000000002.seg
    durable                  how far readers may read: segment and offset, see `segments`
    lock                     flock(2)ed by the one writer

A segment is a row of records (`record`). It begins with a snapshot: the table (identity, stream) -> end offset of
what is durable in all segments before it. So a start reads the newest segment alone, and old ones may be deleted.

Invariants
- One writer (`writer`), any number of readers (`reader`), no lock between them.
- A batch is durable (fdatasync) before `append` returns, and only then acknowledged, and only then readable. A power
  cut can therefore never leave the journal shorter than what a reader has taken out of it, nor than what a sender
  was told to forget.
- Batches of one (identity, stream) follow one another without gap or overlap; the writer refuses anything else.
- What an append that failed left behind is cut away before anything is written after it.
- A segment appears whole: written under another name, synced, renamed, and the folder synced.

It does not look into lines, does not decide which sender may write, and does not delete by itself: the ingester calls
`JournalReader.delete_before` once the rows are in the database.
"""
