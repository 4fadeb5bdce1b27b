"""Telling clients what has changed: those that listen on a stream, and older ones on a connection that stays open.

A source turns what a client asks for into topics; a topic is followed while anybody listens, and its news go into the
client's outbox. Imported when the first client asks, since most never do.
"""
