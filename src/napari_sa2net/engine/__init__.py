"""The process that torch lives in, and the client that talks to it without torch."""
