"""A dashboard that misbehaves where a test wants it to."""


class Fake:
    """A dashboard that does something at one of its calls."""

    def __init__(self, where, does):
        self._where, self._does, self.told = where, does, []
        self._call("start")

    def _call(self, name):
        self.told.append(name)
        if name == self._where:
            self._does()

    def add(self, row):
        self._call("add")

    def finish(self, summary, pictures):
        self._call("finish")


def fails():
    raise SystemExit("no\ndisk")
