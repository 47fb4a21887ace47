"""The edge agent: runs rules on local messages, and gets the result of every execution to the cloud, whatever breaks.

Belongs here: endpoints, rules, the spool and the uplink, presence. Works alone and syncs when it can: nothing here
waits for the cloud to do its work. Imports ``common`` and never ``cloud``; layers: agent -> rules -> endpoints ->
(status | uplink | presence) -> spool.
"""
