"""The swarm controller: knows the workers, makes join tokens, sends each worker what it shall run.

    app           puts the process together: the controller, and the enrolment endpoint beside it
    routes        the controller's HTTP application, and what stands before it at each door
    operator_door mutual TLS for operators elsewhere: one role, asked of the database at every request
    operators     let operators in, list, renew and revoke them
    messages      what the operator's CLI and the controller say to each other (JSON)
    hosts         workers: enrol, list, check
    fleet         deploy, teardown, deckies
    dispatch      send shards to workers, a bounded number at once, one result each
    agent_client  the one place that speaks HTTP to agents

It listens on loopback and wants the secret of `<data-directory>/controller.secret` with every request. Where
operator-address is set it listens there too, and wants an operator's certificate.
"""
