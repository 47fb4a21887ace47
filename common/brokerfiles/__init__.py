"""Identities at a broker, as files: authority, certificates, passwords and ACL (reliability R4).

Here belongs what ``fieldpost broker`` makes for Mosquitto and EMQX and for the clients, and what checks it. It knows
topics and names and the file system, no settings and no connection. Only ``authority`` imports cryptography, which is
in the extra ``broker``: agents and controllers need none of this.
"""
