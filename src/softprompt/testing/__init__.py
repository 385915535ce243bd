"""For tests and plug-in authors: tiny backbones built on the spot, toy tasks, contract suites."""
