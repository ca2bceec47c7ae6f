"""Where samples come from: the command line, folders of files, tables and token stores; read batch by batch."""
