"""The version of this program, as ``fieldpost version`` and presence state it."""

VERSION = "0.1.0"
