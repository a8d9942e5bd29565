"""Random programs, compiled and read: the ledger, the roles and the replay must close on each of them."""
