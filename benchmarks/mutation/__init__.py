"""Mutation testing of the certificate: operators on syntax trees, a server that forks a process per mutant, and the report."""
