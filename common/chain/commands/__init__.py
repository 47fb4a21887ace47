"""The commands of the language: one spec each, with its documentation, its examples and the function that does it.

What belongs here: everything that L8 lists and that needs no jump. Controls and special forms (L6, capture, first-ok,
map, delete) have specs here, for arity and documentation, and are compiled by the compiler. A command knows values,
its run and nothing else.
"""
