"""The tests' networks have names of their own in every test, whatever it imports."""

from runs import Plain, Stub

from models import NETWORKS

assert NETWORKS["stub"] is Stub and NETWORKS["plain"] is Plain
