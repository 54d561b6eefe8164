"""The ingester: from the journal into the database, each line exactly once and in order.

    journal ──read──▶ lines ──decode──▶ events and dead letters ──one transaction──▶ rows + position
                                                                 └── then: delete what was read of the journal

- The position in the journal is stored in the rows' transaction: after any crash both are there or neither is.
- What a line says never stops the ingester: one that is no event becomes a dead letter, with the reason and its bytes.
- `worker` comes from the certificate that the line was received under; everything else in a row is that worker's word.
- A segment of the journal is deleted only after the commit that read it to its end, and the last ones are kept.
- One ingester runs for one journal (a lock file), and one gets on for one database (the expected position).
"""
