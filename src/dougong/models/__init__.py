"""Model families, one file each; the folder is the registry. Knows the blocks of `nn`; knows no task and no data."""
