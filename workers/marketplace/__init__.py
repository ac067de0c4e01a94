"""The marketplace's business rules: functions of a session and a time, and nothing else.

They never commit, never read the clock, and know nothing of brokers. Each works on all rows that
are due at once, in a fixed number of statements for a batch, and leaves rows alone that somebody
else has locked: the web app is just changing those, and the next run looks at them again.
"""
