"""The contenders: the same jobs, each as a user of that library would write them.

A module a library, imported only in the process that measures it. Each has a function that gives,
as an async context manager, a client whose methods are the jobs that it can do; the jobs that it
cannot do are left out.
"""
