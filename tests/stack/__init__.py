"""The stack as it is shipped: identities, ACL, TLS, containers, the files of deploy/, with brokers that are real."""
