"""Several controllers, and PostgreSQL under faults: what only a shared store and real servers can show (P5.7, P7.2)."""
