"""The version of the service: here, so that it is known also where only the files are."""

VERSION = "0.1.0"
