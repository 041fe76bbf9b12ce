"""What becomes of a container: a pure decision, and the answer to the runtime that says it.

`decide` meets a pod, a container and what is known on the node; it reads no disk, waits for nothing and changes
nothing, so that the service, `explain` and the table tests all get the same answer to the same question.
"""
