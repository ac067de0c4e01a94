"""What the tests stand on: real servers and real processes, and waiting without sleeping."""
