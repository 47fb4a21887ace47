"""How a message moves on a node: events between its nodes, and the seven hook points that each meets (flow F1, F2).

What belongs here: hooks, events, the router that moves them, and chains mounted on hook points. It knows rules and
endpoints only as nodes with an id and an input handler.
"""
