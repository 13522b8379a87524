"""`n2q-edge bench`: how fast a model is on this machine, and how sure that figure is.

Every candidate (a model in a runtime) lives in a fresh process of its own (`child`), and all of them take
turns in rounds (`measure`), so that a drift of the machine falls on all alike. `document` holds what was
found.
"""
