"""How raw rows become sets: sources, files, mapping, cleaning, the ledger of dropped rows."""
