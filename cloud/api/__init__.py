"""The HTTP API of the controller: the control socket's operations for people and programs elsewhere (experience U5).

Belongs here: what makes HTTP of operations (tokens, bounds, problems, pages, streams, the OpenAPI document, health).
What an operation does is in ``cloud.operations``; which there are, and who may ask, is the table in ``common.api``. It
is imported only when the API is on, so that a controller without it needs no FastAPI.
"""
