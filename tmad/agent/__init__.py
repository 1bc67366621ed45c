"""The agent: keeps certificates on another machine fresh, over EST, ACME or SCEP.

It imports nothing of the appliance but byte formats, faults and documents: it is a program of its
own, which knows a server by its address alone.
"""
