"""The sources of documents, one file each; the file's name is the source's name in a recipe."""
